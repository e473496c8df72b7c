// The SQLite file as the rest of the process sees it: requests to the thread that has it open, and their answers; what SQLite
// says as this project's errors.
//
// Guarantees: every request is answered or fails, also when the thread dies. The thread keeps the process alive only while
// somebody waits for an answer.
import { Worker } from "node:worker_threads";
import { AgentError } from "../base/errors.ts";
import type { Row, Value } from "./sql.ts";
import type { Side, Work } from "./sqlite-connections.ts";
import type { Reply, Request } from "./sqlite-worker.ts";

/** What SQLite (or, with code 0, Node) said. */
export class SqliteFailure extends Error {
  override readonly name = "SqliteFailure";
  /** SQLite's extended result code. */
  readonly code: number;

  constructor(code: number, message: string) {
    super(message);
    this.code = code;
  }

  /** Somebody else has the file just now. */
  get busy(): boolean {
    return (this.code & 0xff) === 5 || (this.code & 0xff) === 6;
  }
}

/** Where the file is open. One answer for each call, in order. */
export interface SqliteFile {
  open(side: Side): Promise<unknown>;
  /** `within`: only while a transaction is open on this side. @throws SqliteFailure */
  query(side: Side, text: string, parameters: readonly Value[], within: boolean): Promise<readonly Row[]>;
  /** Statements without parameters or results. */
  script(side: Side, text: string): Promise<unknown>;
  /** Also where no transaction is open. */
  rollback(side: Side): Promise<unknown>;
  close(): Promise<void>;
}

export class SqliteThread implements SqliteFile {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, PromiseWithResolvers<readonly Row[]>>();
  #last = 0;
  #dead: Error | undefined;

  constructor(path: string) {
    // Tests run the sources as they are.
    const file = import.meta.url.endsWith(".ts") ? "./sqlite-worker.ts" : "./sqlite-worker.js";
    this.#worker = new Worker(new URL(file, import.meta.url), { workerData: { path } });
    this.#worker.on("message", (answer: Reply) => this.#answered(answer));
    this.#worker.on("error", (error) => this.#died(error));
    this.#worker.on("exit", () => this.#died(new Error("the thread of the database has ended")));
    this.#worker.unref();
  }

  open(side: Side): Promise<unknown> {
    return this.#ask({ does: "open", side });
  }

  query(side: Side, text: string, parameters: readonly Value[], within: boolean): Promise<readonly Row[]> {
    return this.#ask({ does: "query", side, text, parameters, within });
  }

  script(side: Side, text: string): Promise<unknown> {
    return this.#ask({ does: "script", side, text });
  }

  rollback(side: Side): Promise<unknown> {
    return this.#ask({ does: "rollback", side });
  }

  async close(): Promise<void> {
    try {
      if (!this.#dead) await this.#ask({ does: "close" });
    } finally {
      await this.#worker.terminate();
    }
  }

  #ask(work: Work): Promise<readonly Row[]> {
    if (this.#dead) return Promise.reject(this.#dead);
    const id = ++this.#last;
    const waiting = Promise.withResolvers<readonly Row[]>();
    this.#waiting.set(id, waiting);
    this.#worker.ref();
    this.#worker.postMessage({ ...work, id } satisfies Request);
    return waiting.promise;
  }

  #answered({ id, rows, failed }: Reply): void {
    const waiting = this.#waiting.get(id)!;
    this.#waiting.delete(id);
    if (this.#waiting.size === 0) this.#worker.unref();
    if (failed) waiting.reject(new SqliteFailure(failed.code, failed.message));
    else waiting.resolve(rows);
  }

  #died(error: Error): void {
    this.#dead ??= error;
    for (const { reject } of this.#waiting.values()) reject(this.#dead);
    this.#waiting.clear();
  }
}

const nothingKept = "nothing of this transaction was kept";
const kinds: Readonly<Record<number, readonly [AgentError["code"], string]>> = {
  3: ["io_error", "permission was denied; give the file to the user that lunsync runs as"],
  5: ["timeout", "another process is writing to it; run again when that has ended"],
  6: ["timeout", "another process is writing to it; run again when that has ended"],
  8: [
    "io_error",
    "it may not be written to; see who owns the file, and whether the file system is read-only",
  ],
  10: ["io_error", "the medium failed; see the kernel's log, and run again"],
  11: ["state_damaged", "it is damaged; restore it from a backup, or move it away and make the sets again"],
  13: ["no_space", "there is no room left for it; make room and run again"],
  14: ["io_error", "it can't be opened; see its path and who owns it"],
  26: ["state_damaged", "it is no database of SQLite; give another path, or restore it from a backup"],
};

/** Extended codes that say something else than their kind. */
const special: Readonly<Record<number, number>> = {
  4874: 13, // SQLITE_IOERR_SHMSIZE: the file beside it could not grow
  8202: 11, // SQLITE_IOERR_DATA
  8458: 11, // SQLITE_IOERR_CORRUPTFS
};

/** What was thrown, as an AgentError that says what was attempted. */
export function agentError(what: string, name: string, error: unknown): unknown {
  if (!(error instanceof SqliteFailure)) return error;
  const kind = kinds[special[error.code] ?? error.code & 0xff];
  const [code, found] = kind ?? ["internal", "SQLite refused a statement; this is an error of lunsync"];
  return new AgentError(
    code,
    `Cannot ${what}: the truth database ${name}: ${found} (SQLite: ${error.message}, ${error.code}); ${nothingKept}`,
    { cause: error, retry: code === "state_damaged" || code === "internal" ? "never" : "after_backoff" },
  );
}
