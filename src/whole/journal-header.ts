// The header of a journal of before-images in its file: which state the volume is in, changed in one step.
//
// Guarantees: two copies are written one after the other, each on the medium before the next, so that one is whole at every
// instant and the newer one counts. When writing one fails, nobody knows which one is on the medium: that is remembered until one
// was written. Memory says what the medium says, or that it is not known.
import { Semaphore } from "../base/async.ts";
import { AgentError, messageOf } from "../base/errors.ts";
import { decodeHeader, encodeHeader, type Header, headerBytes, headerStep, journalState } from "./format.ts";
import type { JournalFile } from "./journal-file.ts";

/** What goes wrong with the file, as whoever asked for it has to know it. */
export function journalFailure(doing: string, path: string, cause: unknown, next: string): AgentError {
  if (cause instanceof AgentError) return cause;
  const { code } = cause as { code?: string };
  const full = code === "ENOSPC" || code === "EDQUOT" || code === "EFBIG";
  return new AgentError(
    full ? "no_space" : "io_error",
    `Cannot ${doing}: the before-images in "${path}": ${messageOf(cause)}; ${next}`,
    { cause },
  );
}

/** Of a file that has none yet. */
const blank = (volume: Buffer): Header => ({
  sequence: 0,
  state: journalState.whole,
  closed: false,
  foreign: false,
  epoch: 0,
  sinceMs: 0,
  beatMs: 0,
  volume,
  run: Buffer.alloc(16),
  mark: "",
  label: undefined,
  keeping: false,
  doubtEpoch: 0,
  madeMs: 0,
  madeRun: Buffer.alloc(16),
});

export class JournalHeader {
  readonly #file: JournalFile;
  readonly #path: string;
  readonly #nowMs: () => number;
  readonly #turn = new Semaphore(1);
  #now: Header;
  #unsure: unknown;

  private constructor(file: JournalFile, path: string, nowMs: () => number, now: Header) {
    this.#file = file;
    this.#path = path;
    this.#nowMs = nowMs;
    this.#now = now;
  }

  /** @throws AgentError `state_damaged` */
  static async open(
    file: JournalFile,
    path: string,
    volume: Buffer,
    nowMs: () => number,
  ): Promise<JournalHeader> {
    const copies = [Buffer.alloc(headerBytes), Buffer.alloc(headerBytes)];
    for (const [i, copy] of copies.entries()) await file.read(i * headerStep, copy);
    const [newest] = copies
      .map(decodeHeader)
      .filter((header) => header !== undefined)
      .sort((a, b) => b.sequence - a.sequence);
    if (!newest && copies.some((copy) => copy.some((byte) => byte !== 0))) {
      throw new AgentError(
        "state_damaged",
        `"${path}" is damaged, or was made by another version of lunsync: nobody can tell whether the volume is whole. ` +
          "Compare the volume with its source, and remove the file",
      );
    }
    return new JournalHeader(file, path, nowMs, newest ?? blank(volume));
  }

  get now(): Header {
    return this.#now;
  }

  /** What the medium says is known. */
  get isSure(): boolean {
    return this.#unsure === undefined;
  }

  /** @throws AgentError `io_error`, `no_space` while nobody knows what the medium says */
  checkSure(): void {
    if (this.isSure) return;
    const next = "begin, commit or roll back again once it can be written";
    throw journalFailure("go on", this.#path, this.#unsure, next);
  }

  /** The changes are so; on the medium when this resolves. @throws AgentError `io_error`, `no_space` */
  async change(doing: string, changes: Partial<Header>): Promise<void> {
    const leave = await this.#turn.acquire();
    try {
      const sequence = this.#now.sequence + 1;
      const next = { ...this.#now, beatMs: this.#nowMs(), closed: false, ...changes, sequence };
      const bytes = encodeHeader(next);
      // A later one must be newer, whatever becomes of this one.
      this.#now = { ...this.#now, sequence };
      try {
        for (const at of [0, headerStep]) {
          await this.#file.write(at, [bytes]);
          await this.#file.flush();
        }
      } catch (error) {
        this.#unsure = error;
        throw error;
      }
      this.#now = next;
      this.#unsure = undefined;
    } catch (error) {
      throw journalFailure(doing, this.#path, error, "try again once it can be written");
    } finally {
      leave();
    }
  }
}
