// Lines of the log, on standard error: for people, with a priority prefix where systemd's journal reads them.

const priority = { info: 6, warning: 4, error: 3 } as const;
const underJournal = process.env.JOURNAL_STREAM !== undefined;

export function logLine(level: keyof typeof priority, message: string): void {
  const text = level === "info" ? message : `${level}: ${message}`;
  process.stderr.write(underJournal ? `<${priority[level]}>${message}\n` : `lunsync: ${text}\n`);
}
