// The truth database in a PostgreSQL server that several hosts share.
//
// Guarantees:
// - A transaction that resolved is on the server's medium: synchronous_commit is on, and a server without fsync is refused.
// - Each transaction leaves a mark of its own. When the connection goes while it is being committed, whoever comes back looks for
//   the mark; by that it waits for the old session too, if that is not over. So it is known whether it is there. Where even
//   that can't be asked, it is `connection_lost`: never done without being done.
// - A transaction in which nothing was asked for `idleMs` is ended by the server: a host that was stopped in the middle holds up
//   nobody for longer.
// - The server's clock decides when a lease runs out.
import { randomUUID } from "node:crypto";
import pg from "pg";
import { Semaphore } from "../base/async.ts";
import { AgentError, messageOf } from "../base/errors.ts";
import { type Clock, systemClock } from "../platform/clock.ts";
import { agentError, PostgresFailure } from "./postgres-errors.ts";
import { migrationsFrom, type Row, type Sql, type SqlDatabase, schemaVersion, type Value } from "./sql.ts";
import { SqlStore } from "./sql-store.ts";
import type { TruthStore } from "./store.ts";

const connectMs = 10_000;
/** Longer than any statement takes, waiting included; then the server counts as gone. */
const silenceMs = 120_000;
const lockMs = 30_000;
const idleMs = 60_000;
/** How long it is asked what became of a COMMIT. */
const doubtMs = 30_000;
const attemptsMax = 3;
const pauseMs = 200;
/** Transactions of callers, small ones of ours, reads; and one who asks for a mark. */
const sessionsOfEach = 4;
/** "lsTD": whoever makes or changes the tables holds it. */
const migrationLock = 0x6c735444;

const types = { integer: "bigint", real: "double precision", text: "text", bytes: "bytea", table: "" };

// Not of the session: what is between us and the server may give a session to several clients.
const settings =
  "set local search_path = lunsync, pg_temp; set local synchronous_commit = on; set local statement_timeout = 0; " +
  `set local lock_timeout = ${lockMs}; set local idle_in_transaction_session_timeout = ${idleMs}`;
const beginWrite = `begin isolation level read committed read write; ${settings}`;
const beginRead = `begin isolation level repeatable read read only; ${settings}`;

/**
 * The store in the database of a `postgres://` URL, in a schema `lunsync` of its own, which is made where it is missing.
 *
 * @throws AgentError `connection_refused`, `login_refused`, `connection_lost`, `usage` (URL, newer version), `state_damaged`
 */
export async function openPostgresStore(url: string, clock: Clock = systemClock): Promise<TruthStore> {
  return new SqlStore(await PostgresDatabase.open(url, clock));
}

type Kind = "write" | "small" | "read";

class PostgresDatabase implements SqlDatabase {
  readonly name: string;
  readonly lock = " for no key update";
  readonly lockOrSkip = " for no key update skip locked";
  readonly oneWriter = false;
  readonly #pool: pg.Pool;
  readonly #clock: Clock;
  readonly #turns: Readonly<Record<Kind, Semaphore>> = {
    write: new Semaphore(sessionsOfEach),
    small: new Semaphore(sessionsOfEach),
    read: new Semaphore(sessionsOfEach),
  };
  /** Marks of transactions that have ended: nobody will look for them. */
  readonly #oldMarks: string[] = [];

  private constructor(name: string, pool: pg.Pool, clock: Clock) {
    this.name = name;
    this.#pool = pool;
    this.#clock = clock;
  }

  static async open(url: string, clock: Clock): Promise<PostgresDatabase> {
    let name: string;
    let pool: pg.Pool;
    try {
      const { host, port, database } = new pg.Client({ connectionString: url });
      name = `${database ?? ""} at ${host}:${port}`;
      pool = new pg.Pool({
        connectionString: url,
        max: 3 * sessionsOfEach + 1,
        connectionTimeoutMillis: connectMs,
        query_timeout: silenceMs,
        keepAlive: true,
        allowExitOnIdle: true,
        application_name: "lunsync",
        types: { getTypeParser },
      });
    } catch (error) {
      throw new AgentError(
        "usage",
        `Cannot open the truth database: its URL is no postgres://USER@HOST:PORT/DATABASE (${messageOf(error)})`,
      );
    }
    // Whoever uses a connection learns of its end by his statement.
    pool.on("error", () => {});
    pool.on("connect", (client) => client.on("error", () => {}));
    const database = new PostgresDatabase(name, pool, clock);
    try {
      await database.#prepare();
    } catch (error) {
      await pool.end();
      throw error;
    }
    return database;
  }

  read<T>(what: string, action: (sql: Sql) => Promise<T>): Promise<T> {
    return this.#inTurn("read", what, async (attempt) => {
      const session = await this.#begin(beginRead);
      try {
        const result = await action(session);
        await session.query("commit");
        session.end();
        return result;
      } catch (error) {
        await session.rollback();
        if (attempt < attemptsMax && error instanceof PostgresFailure && error.lost) return again;
        throw agentError(what, this.name, error);
      }
    });
  }

  write<T>(
    what: string,
    action: (sql: Sql) => Promise<T>,
    { repeatable = false }: { readonly repeatable?: boolean } = {},
  ): Promise<T> {
    return this.#inTurn(repeatable ? "small" : "write", what, async (attempt) => {
      const mark = randomUUID();
      const session = await this.#begin(beginWrite);
      // Taken by one: who deletes a row waits for whoever else has deleted it.
      const oldMarks = this.#oldMarks.splice(0);
      let result: T;
      try {
        await session.query("insert into transactions (mark) values ($1)", [mark]);
        await session.query("delete from transactions where mark = any($1::text[])", [
          `{${oldMarks.join(",")}}`,
        ]);
        result = await action(session);
      } catch (error) {
        await session.rollback();
        this.#oldMarks.push(...oldMarks);
        const vain = error instanceof PostgresFailure && (error.lost || error.contended);
        if (repeatable && vain && attempt < attemptsMax) return again;
        throw agentError(what, this.name, error);
      }
      try {
        await session.commit();
        session.end();
      } catch (error) {
        session.end(error);
        if (!(await this.#isThere(mark, what, error))) {
          if (repeatable && attempt < attemptsMax) return again;
          throw agentError(what, this.name, error);
        }
      }
      this.#oldMarks.push(mark);
      return result;
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // What is under way ends first; what comes after finds it closed.
    const all = Object.values(this.#turns).map((turns) => turns.acquire(sessionsOfEach));
    const releases = await Promise.all(all);
    await this.#pool.end();
    for (const release of releases) release();
  }

  /** Again and again, until the attempt comes to a result. */
  async #inTurn<T>(
    kind: Kind,
    what: string,
    attempt: (number: number) => Promise<T | typeof again>,
  ): Promise<T> {
    const release = await this.#turns[kind].acquire();
    try {
      for (let number = 1; ; number++) {
        try {
          const result = await attempt(number);
          if (result !== again) return result;
        } catch (error) {
          // Nothing had begun: the server is back perhaps, and only the connection is of yesterday.
          if (!(error instanceof NotBegun)) throw error;
          if (number >= attemptsMax) throw agentError(what, this.name, error.cause);
        }
        await this.#clock.sleep(pauseMs * (number - 1));
      }
    } finally {
      release();
    }
  }

  async #begin(text: string): Promise<Session> {
    let client: pg.PoolClient;
    try {
      client = await this.#pool.connect();
    } catch (error) {
      throw notBegun(new PostgresFailure(error));
    }
    const session = new Session(client);
    try {
      await session.query(text);
    } catch (error) {
      session.end(error);
      throw notBegun(error);
    }
    return session;
  }

  /** Whether a transaction whose COMMIT was not answered is there. @throws AgentError `connection_lost` if nobody can say */
  async #isThere(mark: string, what: string, cause: unknown): Promise<boolean> {
    const endMs = this.#clock.monotonicMs() + doubtMs;
    for (;;) {
      let session: Session | undefined;
      try {
        session = await this.#begin(beginWrite);
        // Waits for a transaction that has written the mark and goes on.
        const rows = await session.query(
          "insert into transactions (mark) values ($1) on conflict do nothing returning mark",
          [mark],
        );
        await session.rollback();
        return rows.length === 0;
      } catch (error) {
        await session?.rollback();
        if (this.#clock.monotonicMs() >= endMs)
          throw agentError(
            what,
            this.name,
            new PostgresFailure(cause),
            `whether the transaction is there is not known (${messageOf(error)}): what it was about has to be looked at again`,
          );
        await this.#clock.sleep(pauseMs);
      }
    }
  }

  /** Sees to it that the server can keep what it is given, and that the tables are there. */
  async #prepare(): Promise<void> {
    await this.#inTurn("small", "open the truth database", async () => {
      const session = await this.#begin(beginWrite);
      try {
        await session.query("select pg_advisory_xact_lock($1)", [migrationLock]);
        const [server] = await session.query(
          "select current_setting('server_encoding') as encoding, current_setting('fsync') as fsync, " +
            "to_regnamespace('lunsync') is not null as schema, to_regclass('lunsync.version') is not null as tables, " +
            "exists (select from pg_tables where schemaname = 'lunsync') as others",
        );
        if (server!.encoding !== "UTF8")
          throw this.#unsuitable(`its encoding is ${server!.encoding}, not UTF8`);
        if (server!.fsync !== "on") throw this.#unsuitable("its server keeps nothing safe (fsync is off)");
        if (!server!.tables && server!.others)
          throw this.#unsuitable('its schema "lunsync" is of another program');
        await this.#migrate(session, server!.schema === true, server!.tables === true);
        await session.query("delete from transactions where at < now() - interval '1 day'");
        await session.commit();
        session.end();
      } catch (error) {
        await session.rollback();
        throw agentError("open the truth database", this.name, error);
      }
    });
  }

  async #migrate(session: Session, schema: boolean, tables: boolean): Promise<void> {
    if (!schema) await session.query("create schema lunsync");
    if (!tables) {
      await session.query("create table version (version bigint not null)");
      await session.query("insert into version (version) values (0)");
      await session.query(
        "create table transactions (mark text primary key, at timestamptz not null default clock_timestamp())",
      );
    }
    const [row] = await session.query("select version from version");
    const version = Number(row?.version);
    const steps = migrationsFrom(version, this.name, types);
    for (const step of steps) await session.query(step);
    if (version !== schemaVersion) await session.query("update version set version = $1", [schemaVersion]);
  }

  #unsuitable(found: string): AgentError {
    return new AgentError(
      "usage",
      `Cannot open the truth database ${this.name}: ${found}; give another database`,
    );
  }
}

const again = Symbol("again");

class NotBegun extends Error {}
const notBegun = (cause: unknown) => new NotBegun(messageOf(cause), { cause });

/** A connection while it is one transaction's. */
class Session implements Sql {
  readonly #client: pg.PoolClient;
  #ended = false;
  #lost: unknown;

  constructor(client: pg.PoolClient) {
    this.#client = client;
  }

  async query(text: string, parameters: readonly Value[] = []): Promise<readonly Row[]> {
    try {
      const values = parameters.length === 0 ? undefined : [...parameters];
      return (await this.#client.query<Row>(text, values)).rows;
    } catch (error) {
      const failure = new PostgresFailure(error);
      if (failure.lost) this.#lost = failure;
      throw failure;
    }
  }

  async nowMs(): Promise<number> {
    const [row] = await this.query(
      "select cast(floor(extract(epoch from clock_timestamp()) * 1000) as bigint) as now_ms",
    );
    return row!.now_ms as number;
  }

  async commit(): Promise<void> {
    let command: string;
    try {
      ({ command } = await this.#client.query("commit"));
    } catch (error) {
      throw new PostgresFailure(error);
    }
    // That is what a transaction gets in which a statement had failed.
    if (command !== "COMMIT") throw new PostgresFailure(new Error(`COMMIT was answered by ${command}`));
  }

  /** Gives the connection back, or ends it if `error` says that nobody knows what it is doing. */
  end(error?: unknown): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#client.release(error !== undefined);
  }

  async rollback(): Promise<void> {
    if (this.#ended) return;
    try {
      // A session that does not answer is not asked again.
      if (this.#lost === undefined) await this.query("rollback");
      this.end(this.#lost);
    } catch (error) {
      this.end(error);
    }
  }
}

const bigintOid = 20;

/** What PostgreSQL calls bigint are numbers here; one that is too large stays text, and no column takes it for a number. */
function getTypeParser(oid: number, format?: "text" | "binary"): (value: string) => unknown {
  if (oid !== bigintOid) return pg.types.getTypeParser(oid, format as "text");
  return (value) => (Number.isSafeInteger(Number(value)) ? Number(value) : value);
}
