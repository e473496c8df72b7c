// The command line. One file a command; this one puts them together and turns what is thrown into an exit status.
import { Command, CommanderError, InvalidArgumentError } from "commander";
import { AgentError, exitStatus } from "../base/errors.ts";
import { reportFailure } from "./failure.ts";
import { version } from "./version.ts";

// Who reads the output has enough of it (`lunsync compare … | head`): that is an end like SIGPIPE's, and no error.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  process.exit(error.code === "EPIPE" ? 141 : exitStatus.internal);
});

// What `ps` shows from here on, instead of arguments that may hold a secret.
process.title = `lunsync ${process.argv[2] ?? ""}`.trimEnd();

const program = new Command("lunsync")
  .description(
    "Compares and synchronizes volumes over iSCSI: extents are proved by encoded digests, and only those that differ are shipped.",
  )
  .version(version)
  .showHelpAfterError("(lunsync COMMAND --help says more)")
  .addHelpText("after", "\nExit status: 0 equal, 1 different, 2 and more trouble; lunsync(1) lists them.");

/** What each command needs is loaded when it is called for; for help, all of them. */
const commands: Readonly<Record<string, () => Promise<(program: Command) => void>>> = {
  serve: async () => (await import("./serve.ts")).addServe,
  compare: async () => (await import("./synchronize.ts")).addCompare,
  sync: async () => (await import("./synchronize.ts")).addSync,
  undo: async () => (await import("./undo.ts")).addUndo,
  rollback: async () => (await import("./rollback.ts")).addRollback,
  points: async () => (await import("./points.ts")).addPoints,
  scrub: async () => (await import("./scrub.ts")).addScrub,
  set: async () => (await import("./set.ts")).addSet,
  failover: async () => (await import("./failover.ts")).addFailover,
  failback: async () => (await import("./failover.ts")).addFailback,
  inquiry: async () => (await import("./inquiry.ts")).addInquiry,
};
const called = commands[process.argv[2] ?? ""];
for (const load of called ? [called] : Object.values(commands)) (await load())(program);

const withBelow = (command: Command): Command[] => [command, ...command.commands.flatMap(withBelow)];
for (const command of withBelow(program)) command.exitOverride();

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError && !(error instanceof InvalidArgumentError)) {
    // Commander has printed its message, or the help that was asked for.
    process.exitCode = error.exitCode === 0 ? 0 : exitStatus.usage;
    if (error.exitCode !== 0 && process.argv.includes("--json")) {
      const message = error.message.replace(/^error: /, "");
      process.stdout.write(`${JSON.stringify({ error: { code: "usage", message } })}\n`);
    }
  } else {
    const shown = error instanceof InvalidArgumentError ? new AgentError("usage", error.message) : error;
    process.exitCode = reportFailure(shown, process.argv.includes("--json"));
  }
}
