// The truth database in one file of this host: SQLite, as Node brings it. Several processes may have it open.
//
// Guarantees:
// - A transaction that resolved is on the medium: write-ahead log, synchronous=FULL. Whatever dies, the next to open finds
//   the state after the last transaction that ended, as a whole.
// - The event loop waits for nothing: the file is open in a thread of its own (sqlite-thread.ts).
// - Folder and file are made so that only their owner can read them. A file that is no truth database, a damaged one or one
//   of a newer version is refused, and not changed.
// - Nobody waits for another process for ever: `waitMs`, then `timeout`.
import { Semaphore } from "../base/async.ts";
import { AgentError, messageOf } from "../base/errors.ts";
import { type Clock, systemClock } from "../platform/clock.ts";
import { makePrivateFile } from "../platform/durable-file.ts";
import { migrationsFrom, type Row, type Sql, type SqlDatabase, schemaVersion } from "./sql.ts";
import { SqlStore } from "./sql-store.ts";
import type { Side } from "./sqlite-connections.ts";
import { agentError, SqliteFailure, type SqliteFile, SqliteThread } from "./sqlite-thread.ts";
import type { TruthStore } from "./store.ts";

/** "lsTD"; what `file` prints, and how we know our own. */
const applicationId = 0x6c735444;
/** No database is shorter. */
const headerBytes = 512;
/** A page of truth has some 2.2 KiB. */
const pageBytes = 8192;
/** The log gets this short again after a long transaction. */
const logBytesMax = 64 * 1024 * 1024;
/** For another process's transaction. */
const waitMs = 60_000;
const pauseMs = 15;

const types = { integer: "integer", real: "real", text: "text", bytes: "blob", table: " strict" };

/**
 * The store in the file `path`, which is made, with its folders, where it is missing. `fileAt` opens it: in a thread of its
 * own, but for simulations.
 *
 * @throws AgentError `state_damaged`, `usage` (a newer version), `no_space`, `io_error`, `timeout`
 */
export async function openSqliteStore(
  path: string,
  clock: Clock = systemClock,
  fileAt: (path: string) => SqliteFile = (at) => new SqliteThread(at),
): Promise<TruthStore> {
  return new SqlStore(await SqliteDatabase.open(path, clock, fileAt));
}

class SqliteDatabase implements SqlDatabase {
  readonly name: string;
  // One transaction at a time writes to the file: its whole is what others would have to wait for.
  readonly lock = "";
  readonly lockOrSkip = "";
  readonly oneWriter = true;
  readonly #file: SqliteFile;
  readonly #clock: Clock;
  readonly #turns: Readonly<Record<Side, Semaphore>> = { write: new Semaphore(1), read: new Semaphore(1) };

  private constructor(path: string, file: SqliteFile, clock: Clock) {
    this.name = JSON.stringify(path);
    this.#file = file;
    this.#clock = clock;
  }

  static async open(
    path: string,
    clock: Clock,
    fileAt: (path: string) => SqliteFile,
  ): Promise<SqliteDatabase> {
    let bytes: number;
    try {
      bytes = await makePrivateFile(path);
    } catch (error) {
      const code = ["ENOSPC", "EDQUOT"].includes((error as NodeJS.ErrnoException).code ?? "")
        ? "no_space"
        : "io_error";
      const found = messageOf(error);
      throw new AgentError(code, `Cannot make the truth database ${JSON.stringify(path)}: ${found}`, {
        cause: error,
      });
    }
    // SQLite takes what is left of a file for an empty one.
    if (bytes > 0 && bytes < headerBytes)
      throw new AgentError(
        "state_damaged",
        `Cannot open the truth database ${JSON.stringify(path)}: it was cut off, and has ${bytes} bytes; restore it from a ` +
          "backup, or move it away and make the sets again",
      );
    const file = fileAt(path);
    const database = new SqliteDatabase(path, file, clock);
    try {
      await database.#prepare();
    } catch (error) {
      await file.close().catch(() => {});
      throw agentError("open the truth database", database.name, error);
    }
    return database;
  }

  read<T>(what: string, action: (sql: Sql) => Promise<T>): Promise<T> {
    // What it sees is decided by the first statement; that is also the one that may have to wait.
    return this.#transaction(what, "read", "begin; select value from counters limit 1", action);
  }

  write<T>(what: string, action: (sql: Sql) => Promise<T>): Promise<T> {
    return this.#transaction(what, "write", "begin immediate", action);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // What is under way ends first; what comes after finds it closed.
    const releases = [await this.#turns.write.acquire(), await this.#turns.read.acquire()];
    await this.#file.close();
    for (const release of releases) release();
  }

  async #transaction<T>(
    what: string,
    side: Side,
    begin: string,
    action: (sql: Sql) => Promise<T>,
  ): Promise<T> {
    const release = await this.#turns[side].acquire();
    try {
      await this.#begin(side, begin);
      const result = await action({
        query: (text, parameters = []) => this.#file.query(side, text, parameters, true),
        nowMs: async () => this.#clock.nowMs(),
      });
      await this.#file.query(side, "commit", [], true);
      return result;
    } catch (error) {
      await this.#file.rollback(side).catch(() => {});
      throw agentError(what, this.name, error);
    } finally {
      release();
    }
  }

  #begin(side: Side, text: string): Promise<void> {
    return this.#patiently(async () => {
      try {
        await this.#file.script(side, text);
      } catch (error) {
        await this.#file.rollback(side);
        throw error;
      }
    });
  }

  /** Until no other process has the file; SQLite's own waiting would hold up the thread. */
  async #patiently<T>(action: () => Promise<T>): Promise<T> {
    const endMs = this.#clock.monotonicMs() + waitMs;
    for (;;) {
      try {
        return await action();
      } catch (error) {
        const goOn = error instanceof SqliteFailure && error.busy && this.#clock.monotonicMs() < endMs;
        if (!goOn) throw error;
        await this.#clock.sleep(pauseMs);
      }
    }
  }

  /** Opens both connections, and sees to it that the tables are there. */
  async #prepare(): Promise<void> {
    const file = this.#file;
    await file.open("write");
    const ask = (text: string): Promise<readonly Row[]> =>
      this.#patiently(() => file.query("write", text, [], false));
    // Before anything is written: whose file is this?
    await this.#begin("write", "begin; select count(*) from sqlite_schema");
    const found = await this.#identity();
    await file.rollback("write");
    if (found.tables > 0 && found.application !== applicationId) throw this.#foreign();
    migrationsFrom(found.version, this.name, types);
    await ask("pragma trusted_schema = off");
    await ask("pragma cell_size_check = on");
    if (found.tables === 0) await ask(`pragma page_size = ${pageBytes}`);
    const [mode] = await ask("pragma journal_mode = wal");
    if (mode?.journal_mode !== "wal")
      throw new AgentError(
        "io_error",
        `Cannot open the truth database ${this.name}: its file system does not let processes share memory (SQLite: journal ` +
          `mode ${String(mode?.journal_mode)}); keep it on a local file system, or use a PostgreSQL server`,
      );
    await ask("pragma synchronous = full");
    await ask(`pragma journal_size_limit = ${logBytesMax}`);
    await this.#migrate(ask);
    await file.open("read");
    await file.script(
      "read",
      "pragma trusted_schema = off; pragma cell_size_check = on; pragma query_only = on",
    );
  }

  /** Within a transaction: another process may be making the tables. */
  async #identity() {
    const number = async (text: string): Promise<number> => {
      const [row] = await this.#file.query("write", text, [], true);
      return Number(Object.values(row ?? {})[0]);
    };
    return {
      tables: await number("select count(*) from sqlite_schema"),
      version: await number("pragma user_version"),
      application: await number("pragma application_id"),
    };
  }

  async #migrate(ask: (text: string) => Promise<readonly Row[]>): Promise<void> {
    await this.#begin("write", "begin immediate");
    try {
      // Another process may have been here since.
      const found = await this.#identity();
      if (found.tables > 0 && found.application !== applicationId) throw this.#foreign();
      const steps = migrationsFrom(found.version, this.name, types);
      for (const step of steps) await ask(step);
      if (steps.length > 0) {
        await ask(`pragma application_id = ${applicationId}`);
        await ask(`pragma user_version = ${schemaVersion}`);
      }
      await this.#file.script("write", "commit");
    } catch (error) {
      await this.#file.rollback("write").catch(() => {});
      throw error;
    }
  }

  #foreign(): AgentError {
    return new AgentError(
      "state_damaged",
      `Cannot open the truth database ${this.name}: it is a database of another program; give another path`,
    );
  }
}
