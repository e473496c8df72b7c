// The truth database over any database that speaks SQL: sets, members, leases, truth and entries.
//
// Guarantees: those of store.ts. Whoever writes keeps the row of the set for his transaction, and looks then whether the lease
// is still his; whoever takes a lease keeps the same row. So no transaction of an old holder ends after a new one has the
// lease. Fences are counted for the whole database, and never go back, even if a set is removed and made again.
import { assert } from "../base/assert.ts";
import { AgentError } from "../base/errors.ts";
import { quoted, type Row, type Sql, type SqlDatabase } from "./sql.ts";
import { noMember, SqlTransaction } from "./sql-transaction.ts";
import type {
  EntryRun,
  Lease,
  Member,
  NewMember,
  NewSet,
  SetFacts,
  Transaction,
  TruthPage,
  TruthStore,
} from "./store.ts";
import {
  entryColumns,
  entryOf,
  integerFor,
  integerOf,
  memberColumns,
  memberOf,
  nameFor,
  newMemberColumns,
  newSetColumns,
  pageColumns,
  pageOf,
  setColumns,
  setOf,
  textFor,
  textOf,
} from "./store-rows.ts";

/** Member numbers have 16 bits in a page's origins. */
const memberMax = 0xffff;
/** Pages whose rows are deleted by one statement. */
const deletedAtOnce = 4096;

interface FoundSet {
  readonly id: number;
  readonly name: string;
}

export class SqlStore implements TruthStore {
  readonly #database: SqlDatabase;
  /** Fences of leases by which a transaction is written now. */
  readonly #writing = new Set<number>();
  #closed: PromiseLike<void> | undefined;

  constructor(database: SqlDatabase) {
    this.#database = database;
  }

  async createSet(facts: NewSet, members: readonly NewMember[]): Promise<void> {
    const { name, uuid, extentBytes, blockBytes, digest, maxChange, createdMs } = facts;
    nameFor("the set", name);
    const numbers = [extentBytes, blockBytes, 0, 0, 0, createdMs];
    for (const number of numbers) integerFor(`a number of the set ${quoted(name)}`, number);
    const values = [
      name,
      textFor("the UUID", uuid),
      extentBytes,
      blockBytes,
      0,
      textFor("the digest", digest),
      0,
      0,
      maxChange ?? null,
      createdMs,
    ];
    await this.#write(`make the set ${quoted(name)}`, async (sql) => {
      // By the counter, whoever makes sets waits for whoever else does.
      const id = await counted(sql, "set");
      const [there] = await sql.query("select id from sets where name = $1", [name]);
      if (there)
        throw new AgentError(
          "usage",
          `Cannot make the set ${quoted(name)}: there is one of that name already`,
        );
      await sql.query(
        `insert into sets (id, members_made, ${newSetColumns}) values ($1, 0, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
        [id, ...values],
      );
      for (const member of members) await addMember(sql, { id, name }, member);
    });
  }

  sets(): Promise<SetFacts[]> {
    return this.#database.read("list the sets", async (sql) =>
      (await sql.query(`select ${setColumns} from sets order by id`)).map(setOf),
    );
  }

  set(name: string): Promise<{ readonly facts: SetFacts; readonly members: readonly Member[] }> {
    return this.#database.read(`look up the set ${quoted(name)}`, async (sql) => {
      const [row] = await findRows(sql, name, setColumns);
      const members = await sql.query(`select ${memberColumns} from members where set_id = $1 order by id`, [
        integerOf(row!, "set_id"),
      ]);
      return { facts: setOf(row!), members: members.map(memberOf) };
    });
  }

  async removeSet(lease: Lease): Promise<void> {
    await this.#write(`remove the set ${quoted(lease.set)}`, async (sql) => {
      const set = await this.#held(sql, lease);
      await deleteByPages(sql, "entries", "set_id = $1", [set.id]);
      await deleteByPages(sql, "truth", "set_id = $1", [set.id]);
      await sql.query("delete from sets where id = $1", [set.id]);
    });
  }

  addMember(lease: Lease, member: NewMember): Promise<number> {
    return this.#write(`add a member to the set ${quoted(lease.set)}`, async (sql) =>
      addMember(sql, await this.#held(sql, lease), member),
    );
  }

  async removeMember(lease: Lease, id: number): Promise<void> {
    await this.#write(`remove member ${id} of the set ${quoted(lease.set)}`, async (sql) => {
      const set = await this.#held(sql, lease);
      await deleteByPages(sql, "entries", "set_id = $1 and member_id = $2", [set.id, id]);
      const gone = await sql.query("delete from members where set_id = $1 and id = $2 returning id", [
        set.id,
        id,
      ]);
      if (gone.length === 0) throw noMember(set.name, id);
    });
  }

  async acquire(set: string, owner: string, ttlMs: number): Promise<Lease | undefined> {
    assert(Number.isSafeInteger(ttlMs) && ttlMs > 0, `a lease of ${ttlMs} ms`);
    textFor("the owner", owner);
    const what = `take the lease of the set ${quoted(set)}`;
    // Who asks in vain, again and again, disturbs no writer.
    const taken = await this.#database.read(what, async (sql) => {
      const [row] = await findRows(
        sql,
        set,
        "(select until_ms from leases where set_id = sets.id) as until_ms",
      );
      return row!.until_ms !== null && integerOf(row!, "until_ms") > (await sql.nowMs());
    });
    if (taken) return undefined;
    const fence = await this.#write(what, async (sql) => {
      const { id } = await findSet(sql, set);
      const locked = await sql.query(`select id from sets where id = $1${this.#database.lockOrSkip}`, [id]);
      if (locked.length === 0) return undefined;
      const fence = await counted(sql, "fence");
      const nowMs = await sql.nowMs();
      const [mine] = await sql.query(
        "insert into leases (set_id, fence, owner, ttl_ms, until_ms) values ($1, $2, $3, $4, $5) on conflict (set_id) do " +
          "update set fence = excluded.fence, owner = excluded.owner, ttl_ms = excluded.ttl_ms, until_ms = excluded.until_ms " +
          "where leases.until_ms <= $6 returning fence",
        [id, fence, owner, ttlMs, nowMs + ttlMs, nowMs],
      );
      return mine && fence;
    });
    if (fence === undefined) return undefined;
    const lease: Lease = {
      set,
      fence,
      renew: () => this.#renew(lease),
      release: () => this.#release(lease),
    };
    return lease;
  }

  holder(set: string): Promise<{ readonly owner: string; readonly untilMs: number } | undefined> {
    return this.#database.read(`look up the lease of the set ${quoted(set)}`, async (sql) => {
      const { id } = await findSet(sql, set);
      const [row] = await sql.query("select owner, until_ms from leases where set_id = $1", [id]);
      return row && { owner: textOf(row, "owner"), untilMs: integerOf(row, "until_ms") };
    });
  }

  async write(lease: Lease, action: (transaction: Transaction) => Promise<void>): Promise<void> {
    await this.#database.write(`write the truth of the set ${quoted(lease.set)}`, async (sql) => {
      const set = await this.#held(sql, lease);
      const transaction = new SqlTransaction(sql, set);
      this.#writing.add(lease.fence);
      try {
        await action(transaction);
        await transaction.end();
        // However long it took: nobody could take the lease meanwhile, and nobody shall just now.
        await renewed(sql, lease);
      } finally {
        await transaction.abandon();
        this.#writing.delete(lease.fence);
      }
    });
  }

  truth(set: string, first: number, count: number): Promise<TruthPage[]> {
    return this.#database.read(`read the truth of the set ${quoted(set)}`, async (sql) => {
      const { id } = await findSet(sql, set);
      const rows = await sql.query(
        `select ${pageColumns} from truth where set_id = $1 and page >= $2 and page < $3 order by page`,
        [id, first, first + count],
      );
      return rows.map(pageOf);
    });
  }

  entries(set: string, member: number, firstPage: number, pages: number): Promise<EntryRun[]> {
    return this.#database.read(`read the entries of the set ${quoted(set)}`, async (sql) => {
      const { id } = await findSet(sql, set);
      const rows = await sql.query(
        `select ${entryColumns} from entries where set_id = $1 and member_id = $2 and page >= $3 and page < $4 ` +
          "order by page, first",
        [id, member, firstPage, firstPage + pages],
      );
      return rows.map(entryOf);
    });
  }

  nextPending(set: string, page: number, member?: number): Promise<number | undefined> {
    return this.#database.read(`find what is pending in the set ${quoted(set)}`, async (sql) => {
      const { id } = await findSet(sql, set);
      // By the index of each member.
      const [row] = await sql.query(
        "select min((select min(page) from entries where set_id = members.set_id and member_id = members.id and page >= $2)) " +
          `as page from members where set_id = $1${member === undefined ? "" : " and id = $3"}`,
        member === undefined ? [id, page] : [id, page, member],
      );
      return row === undefined || row.page === null ? undefined : integerOf(row, "page");
    });
  }

  pendingCounts(set: string): Promise<ReadonlyMap<number, number>> {
    return this.#database.read(`count what is pending in the set ${quoted(set)}`, async (sql) => {
      const { id } = await findSet(sql, set);
      const rows = await sql.query(
        "select id, cast((select coalesce(sum(count), 0) from entries where set_id = members.set_id and " +
          "member_id = members.id) as bigint) as extents from members where set_id = $1 order by id",
        [id],
      );
      return new Map(rows.map((row) => [integerOf(row, "id"), integerOf(row, "extents")]));
    });
  }

  /** After what is under way has ended. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed ??= this.#database[Symbol.asyncDispose]();
    await this.#closed;
  }

  /** Of our own statements only, which do the same when they are repeated. */
  #write<T>(what: string, action: (sql: Sql) => Promise<T>): Promise<T> {
    return this.#database.write(what, action, { repeatable: true });
  }

  /** Keeps the set's row. @throws AgentError `not_known` unless the lease is its lease */
  async #held(sql: Sql, lease: Lease): Promise<FoundSet> {
    const [row] = await findRows(sql, lease.set, "id", this.#database.lock);
    const id = integerOf(row!, "set_id");
    const [held] = await sql.query("select fence, owner from leases where set_id = $1", [id]);
    if (held?.fence !== lease.fence) throw lost(lease, held);
    return { id, name: lease.set };
  }

  async #renew(lease: Lease): Promise<void> {
    // The transaction that is being written renews it at its end; until then nobody can take it.
    if (this.#database.oneWriter && this.#writing.has(lease.fence)) return;
    await this.#write(`renew the lease of the set ${quoted(lease.set)}`, (sql) => renewed(sql, lease));
  }

  async #release(lease: Lease): Promise<void> {
    await this.#write(`give back the lease of the set ${quoted(lease.set)}`, async (sql) => {
      await sql.query("delete from leases where fence = $1", [lease.fence]);
    });
  }
}

async function renewed(sql: Sql, lease: Lease): Promise<void> {
  const rows = await sql.query("update leases set until_ms = $1 + ttl_ms where fence = $2 returning fence", [
    await sql.nowMs(),
    lease.fence,
  ]);
  if (rows.length > 0) return;
  const [other] = await sql.query(
    "select owner from leases where set_id = (select id from sets where name = $1)",
    [lease.set],
  );
  throw lost(lease, other);
}

function lost(lease: Lease, held: Row | undefined): AgentError {
  const who = held ? `${quoted(textOf(held, "owner"))} has it now` : "it was given back, or the set removed";
  return new AgentError(
    "not_known",
    `Cannot write the set ${quoted(lease.set)}: its lease was lost, ${who}; nothing was written, run again when the set is free`,
  );
}

/** @throws AgentError `not_known` if there is no such set */
async function findRows(sql: Sql, name: string, columns: string, lock = ""): Promise<readonly Row[]> {
  // What is no text names no set; the databases differ in what they make of it.
  const text = !name.includes("\0") && name.isWellFormed();
  const rows = text
    ? await sql.query(`select id as set_id, ${columns} from sets where name = $1${lock}`, [name])
    : [];
  if (rows.length === 0)
    throw new AgentError("not_known", `Cannot find the set ${quoted(name)}: there is none of that name`);
  return rows;
}

async function findSet(sql: Sql, name: string): Promise<FoundSet> {
  const [row] = await findRows(sql, name, "name");
  return { id: integerOf(row!, "set_id"), name };
}

async function counted(sql: Sql, counter: "fence" | "set"): Promise<number> {
  const [row] = await sql.query("update counters set value = value + 1 where name = $1 returning value", [
    counter,
  ]);
  return integerOf(row ?? {}, "value");
}

/** The set's row is kept by the caller. */
async function addMember(sql: Sql, set: FoundSet, member: NewMember): Promise<number> {
  const { name, address, role, priority, volumeUuid, generation, lastResult, lastRunMs } = member;
  nameFor("the member", name);
  const [there] = await sql.query("select id from members where set_id = $1 and name = $2", [set.id, name]);
  if (there)
    throw new AgentError(
      "usage",
      `Cannot add the member ${quoted(name)} to the set ${quoted(set.name)}: there is one of that name already`,
    );
  const [made] = await sql.query(
    "update sets set members_made = members_made + 1 where id = $1 returning members_made",
    [set.id],
  );
  const id = integerOf(made ?? {}, "members_made");
  if (id > memberMax)
    throw new AgentError(
      "usage",
      `Cannot add a member to the set ${quoted(set.name)}: it has had ${memberMax} members, and numbers are given once`,
    );
  await sql.query(
    `insert into members (set_id, ${newMemberColumns}) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
    [
      set.id,
      id,
      name,
      textFor("the address", address),
      role,
      integerFor("priority", priority),
      volumeUuid === undefined ? null : textFor("the UUID", volumeUuid),
      integerFor("generation", generation),
      lastResult === undefined ? null : textFor("the result", lastResult),
      lastRunMs === undefined ? null : integerFor("lastRunMs", lastRunMs),
    ],
  );
  return id;
}

/** Piece by piece, so that no statement runs for minutes. */
async function deleteByPages(
  sql: Sql,
  table: "truth" | "entries",
  where: string,
  values: readonly number[],
): Promise<void> {
  const [row] = await sql.query(`select max(page) as last from ${table} where ${where}`, values);
  if (row === undefined || row.last === null) return;
  const last = integerOf(row, "last");
  const bounds = `page >= $${values.length + 1} and page < $${values.length + 2}`;
  for (let page = 0; page <= last; page += deletedAtOnce)
    await sql.query(`delete from ${table} where ${where} and ${bounds}`, [
      ...values,
      page,
      page + deletedAtOnce,
    ]);
}
