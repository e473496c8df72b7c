// The truth database of a simulation: SQLite itself, on a file in memory, in the thread of the simulation, on a host that
// may lose its power.
//
// A cut leaves what was on the medium: the file and its log as they were after the last statement; or, where it comes in the
// middle of a COMMIT, with any sectors of what that has written and any others as before. Not simulated: a PostgreSQL server;
// it is the same SQL, and test/truth/store-faults.test.ts kills real ones.
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync, type StatementSync } from "node:sqlite";
import type { Row, Value } from "../../src/truth/sql.ts";
import { failureOf, type Side, SqliteConnections, type Work } from "../../src/truth/sqlite-connections.ts";
import { openSqliteStore } from "../../src/truth/sqlite-store.ts";
import { SqliteFailure, type SqliteFile } from "../../src/truth/sqlite-thread.ts";
import { extentsOfPage, type TruthStore } from "../../src/truth/store.ts";
import { oneOf } from "../support/data.ts";
import { identifierBytes } from "./sim-disk.ts";
import { simulationsFolder } from "./sim-template.ts";
import { chance, type Life, type Random } from "./sim-time.ts";

const sectorBytes = 512;
const [ioerr, full] = [10, 13];

export interface MemberState {
  readonly id: number;
  readonly name: string;
  readonly role: string;
  readonly uuid: string | undefined;
  readonly generation: number;
  readonly priority: number;
  readonly split: boolean;
  readonly keptFirst: boolean;
  readonly entries: ReadonlyMap<number, EntryState>;
}

/** What is pending for an extent. */
export interface EntryState {
  readonly previous: Buffer;
  /** Undefined: nothing was sent. */
  readonly sent: Buffer | undefined;
}

/** All that the database says. */
export interface TruthState {
  readonly generation: number;
  readonly paused: boolean;
  /** A member's number; undefined: the set follows its source. */
  readonly handedOutTo: number | undefined;
  /** Identifiers by extent; what is missing is zeros. */
  readonly truth: ReadonlyMap<number, Buffer>;
  readonly members: readonly MemberState[];
  /** To compare it with itself at another time. */
  readonly text: string;
}

const buffer = (value: unknown): Buffer => Buffer.from(value as Uint8Array);

export class SimDatabase {
  readonly random: Random;
  readonly #folder: string;
  #path: string;
  #number = 0;
  #watch!: DatabaseSync;
  #questions = new Map<string, StatementSync>();
  #files = new Set<SimSqliteFile>();
  /** Statements that write fail: there is no room, or the medium fails. */
  fault: "full" | "io" | undefined;
  /** The power is cut in the middle of the next COMMIT. */
  cutsCommit = false;
  /** Called after each COMMIT that changed more than leases. */
  onCommit: () => void = () => {};
  /** Called when the power was cut, with what may be there now. */
  onCut: (may: readonly TruthState[]) => void = () => {};
  readonly counts = { cuts: 0, torn: 0, refused: 0, commits: 0 };
  /** Bytes of the log that are known to be on the medium. */
  #synced: Buffer | undefined;

  private constructor(folder: string, random: Random) {
    this.random = random;
    this.#folder = folder;
    this.#path = join(folder, "truth-0.sqlite");
  }

  /** From `template`, an empty one that a store has made. */
  static make(template: string, random: Random): SimDatabase {
    const database = new SimDatabase(mkdtempSync(join(simulationsFolder, "lunsync-sim-")), random);
    copyFileSync(template, database.#path);
    database.#open();
    return database;
  }

  get path(): string {
    return this.#path;
  }

  #open(): void {
    this.#watch = new DatabaseSync(this.#path, { timeout: 0 });
    // Whoever closes last would take the log with him.
    this.#watch.exec("select count(*) from sqlite_schema");
  }

  /** As a process sees it. What opens a file is real, and the world waits for it. */
  async store(life: Life): Promise<TruthStore> {
    const done = life.time.outside();
    try {
      return await openSqliteStore(this.#path, life.clock, (path) => {
        done();
        const file = new SimSqliteFile(this, path, life);
        this.#files.add(file);
        life.atDeath(() => file.gone());
        return file;
      });
    } finally {
      done();
    }
  }

  #ask(text: string): Row[] {
    const question = this.#questions.get(text) ?? this.#watch.prepare(text);
    this.#questions.set(text, question);
    return question.all();
  }

  /** Who has the lease of the set. */
  holder(): string | undefined {
    return this.#ask("select owner from leases")[0]?.owner as string | undefined;
  }

  look(): TruthState {
    const all = (text: string): Row[] => this.#ask(text);
    this.#watch.exec("begin");
    const [sets, members, pages, entries] = [
      all("select name, generation, blocks, paused, max_change, handed_out_to from sets"),
      all(
        "select id, name, address, role, priority, volume_uuid, generation, split, base_unknown, kept_first, unsettled from members order by id",
      ),
      all("select page, identifiers from truth order by page"),
      all("select member_id, first, count, action, previous, sent from entries order by member_id, first"),
    ];
    this.#watch.exec("commit");
    const truth = new Map<number, Buffer>();
    for (const { page, identifiers } of pages) {
      const bytes = buffer(identifiers);
      for (let i = 0; i * identifierBytes < bytes.length; i++)
        truth.set(
          Number(page) * extentsOfPage + i,
          bytes.subarray(i * identifierBytes, (i + 1) * identifierBytes),
        );
    }
    const of = (id: unknown) => {
      const found = new Map<number, EntryState>();
      for (const { member_id, first, count, previous, sent } of entries) {
        if (member_id !== id) continue;
        for (let j = 0; j < Number(count); j++) {
          const cut = (value: unknown) =>
            buffer(value).subarray(j * identifierBytes, (j + 1) * identifierBytes);
          found.set(Number(first) + j, {
            previous: cut(previous),
            sent: sent === null ? undefined : cut(sent),
          });
        }
      }
      return found;
    };
    const hex = (row: Row) =>
      Object.values(row).map((value) =>
        value instanceof Uint8Array ? buffer(value).toString("base64") : value,
      );
    return {
      generation: Number(sets[0]?.generation ?? 0),
      paused: sets[0]?.paused === 1,
      handedOutTo: (sets[0]?.handed_out_to ?? undefined) as number | undefined,
      truth,
      members: members.map(({ id, name, role, volume_uuid, generation, priority, ...its }) => ({
        id: Number(id),
        name: String(name),
        role: String(role),
        uuid: volume_uuid === null ? undefined : String(volume_uuid),
        generation: Number(generation),
        priority: Number(priority),
        split: its.split === 1,
        keptFirst: its.kept_first === 1,
        entries: of(id),
      })),
      text: JSON.stringify([sets, members, pages, entries].map((rows) => rows.map(hex))),
    };
  }

  /** What is written so far goes from the log into the file. */
  checkpoint(): void {
    this.#watch.exec("pragma wal_checkpoint(passive)");
  }

  #log(): Buffer {
    const path = `${this.#path}-wal`;
    return existsSync(path) ? readFileSync(path) : Buffer.alloc(0);
  }

  /** A COMMIT. */
  commit(connections: SqliteConnections, work: Work, changes: boolean): readonly Row[] {
    this.counts.commits++;
    const before =
      this.cutsCommit || this.#synced ? { log: this.#log(), file: readFileSync(this.#path) } : undefined;
    const was = this.cutsCommit ? this.look() : undefined;
    const rows = connections.carryOut(work);
    // A COMMIT flushes the log only where SQLite was told to.
    const [pragma] = connections.carryOut({
      does: "query",
      side: "write",
      text: "pragma synchronous",
      parameters: [],
      within: false,
    });
    const flushes = Number(pragma?.synchronous) >= 2;
    if (was && before) {
      this.cutsCommit = false;
      this.counts.torn++;
      this.#cut(before.log, [was, this.look()]);
      throw new SqliteFailure(ioerr, "the power is gone");
    }
    this.#synced = flushes ? undefined : (this.#synced ?? before?.log ?? Buffer.alloc(0));
    if (changes) this.onCommit();
    return rows;
  }

  powerCut(): void {
    const now = this.look();
    this.#cut(this.#synced, [now]);
  }

  /** `known`: the log as it is on the medium; of what it has become since, any sectors may be there. */
  #cut(known: Buffer | undefined, may: readonly TruthState[]): void {
    this.counts.cuts++;
    const [file, log] = [readFileSync(this.#path), this.#log()];
    if (known) {
      const keep = oneOf(this.random, [0, this.random(), 1]);
      for (let at = 0; at < log.length; at += sectorBytes) {
        const now = log.subarray(at, at + sectorBytes);
        const then = known.subarray(at, at + sectorBytes);
        if (now.equals(then) || chance(this.random, keep)) continue;
        now.fill(0);
        then.copy(now);
      }
    }
    for (const each of this.#files) each.gone();
    this.#files.clear();
    this.#questions.clear();
    this.#watch.close();
    for (const suffix of ["", "-wal", "-shm"]) rmSync(`${this.#path}${suffix}`, { force: true });
    this.#path = join(this.#folder, `truth-${++this.#number}.sqlite`);
    writeFileSync(this.#path, file);
    if (log.length > 0) writeFileSync(`${this.#path}-wal`, log);
    this.#synced = undefined;
    this.#open();
    this.onCut(may);
  }

  forget(file: SimSqliteFile): void {
    this.#files.delete(file);
  }

  close(): void {
    for (const each of this.#files) each.gone();
    this.#watch.close();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** The file as one process has it open. */
class SimSqliteFile implements SqliteFile {
  readonly #database: SimDatabase;
  readonly #life: Life;
  readonly #connections: SqliteConnections;
  #gone = false;
  /** The transaction that is open changes more than leases. */
  #changes = false;

  constructor(database: SimDatabase, path: string, life: Life) {
    this.#database = database;
    this.#life = life;
    this.#connections = new SqliteConnections(path, 0);
  }

  /** The process is dead, or the host of the file. */
  gone(): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#connections.carryOut({ does: "close" });
  }

  async #do(work: Work): Promise<readonly Row[]> {
    await this.#life.pause();
    const isCommit = (work.does === "query" || work.does === "script") && work.text === "commit";
    const rows = this.#now(work, isCommit);
    // It is carried out; that it is, is not known yet.
    if (isCommit) await this.#life.pause();
    return rows;
  }

  #now(work: Work, isCommit: boolean): readonly Row[] {
    if (this.#gone) throw new SqliteFailure(ioerr, "the host of the database is gone");
    const writes =
      work.does === "query" && work.side === "write" && /^(insert|update|delete|commit)/.test(work.text);
    if (isBegin(work)) this.#changes = false;
    if (writes && / (truth|entries|members|sets) /.test(work.text)) this.#changes = true;
    const fails = writes && this.#database.fault !== undefined && chance(this.#database.random, 0.5);
    if (fails) this.#database.counts.refused++;
    if (fails && isCommit && this.#database.fault === "io" && chance(this.#database.random, 0.5)) {
      // What the medium has of it is found by whoever opens the file next.
      this.#commit(work);
      throw new SqliteFailure(ioerr, "disk I/O error");
    }
    if (fails) {
      this.#connections.carryOut({ does: "rollback", side: "write" }); // SQLite does it by itself
      throw new SqliteFailure(this.#database.fault === "io" ? ioerr : full, "no room, or no medium");
    }
    return isCommit && work.does !== "close" && work.does !== "open" && work.side === "write"
      ? this.#commit(work)
      : this.#carryOut(work);
  }

  #commit(work: Work): readonly Row[] {
    try {
      return this.#database.commit(this.#connections, work, this.#changes);
    } catch (error) {
      if (error instanceof SqliteFailure) throw error;
      const { code, message } = failureOf(error);
      if (code === 0) throw error;
      throw new SqliteFailure(code, message);
    }
  }

  #carryOut(work: Work): readonly Row[] {
    try {
      return this.#connections.carryOut(work);
    } catch (error) {
      const { code, message } = failureOf(error);
      throw new SqliteFailure(code, message);
    }
  }

  open(side: Side): Promise<unknown> {
    return this.#do({ does: "open", side });
  }

  query(side: Side, text: string, parameters: readonly Value[], within: boolean): Promise<readonly Row[]> {
    return this.#do({ does: "query", side, text, parameters, within });
  }

  script(side: Side, text: string): Promise<unknown> {
    return this.#do({ does: "script", side, text });
  }

  rollback(side: Side): Promise<unknown> {
    return this.#do({ does: "rollback", side });
  }

  async close(): Promise<void> {
    await this.#life.pause();
    this.gone();
    this.#database.forget(this);
  }
}

const isBegin = (work: Work): boolean => work.does === "script" && work.text.startsWith("begin immediate");
