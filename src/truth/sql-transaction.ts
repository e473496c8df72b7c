// One transaction of a store: rows are gathered and go to the database many at a time.
//
// Guarantees: memory is bounded by `rowsMax` rows; what the caller lent is copied before the call resolves. After a call has
// failed, none that follows does anything, and the transaction can't end well, whoever swallowed the failure.
import { InvariantError } from "../base/assert.ts";
import { AgentError } from "../base/errors.ts";
import { quoted, type Sql, type Value } from "./sql.ts";
import type { EntryRun, Transaction, TruthPage } from "./store.ts";
import {
  assignments,
  entryColumns,
  memberFields,
  pageColumns,
  rowOfPage,
  rowsOfEntries,
  setFields,
} from "./store-rows.ts";

/** Rows that are held until there are as many; up to 4 KiB each. */
export const rowsMax = 128;

const placeholders = (rows: number, columns: number): string =>
  Array.from({ length: rows }, (_, row) => {
    const of = Array.from({ length: columns }, (_, column) => `$${row * columns + column + 1}`);
    return `(${of.join(", ")})`;
  }).join(", ");

const insertPages = (rows: number): string =>
  `insert into truth (${pageColumns}) values ${placeholders(rows, 5)} on conflict (set_id, page) do update set ` +
  "identifiers = excluded.identifiers, origins = excluded.origins, checksum = excluded.checksum";

const insertEntries = (rows: number): string =>
  `insert into entries (${entryColumns}) values ${placeholders(rows, 9)}`;

export class SqlTransaction implements Transaction {
  readonly #sql: Sql;
  readonly #set: { readonly id: number; readonly name: string };
  #pages: Value[][] = [];
  #lastPage = -1;
  /** Pages whose entries are still to be deleted, and the entries that replace them; of one member. */
  #member = 0;
  #cleared: number[] = [];
  #entries: Value[][] = [];
  /** Calls one after another, also those that nobody waited for. */
  #last: Promise<void> = Promise.resolve();
  #failure: { readonly error: unknown } | undefined;
  #ended = false;

  constructor(sql: Sql, set: { readonly id: number; readonly name: string }) {
    this.#sql = sql;
    this.#set = set;
  }

  putTruth(page: TruthPage): Promise<void> {
    return this.#next(async () => {
      const row = rowOfPage(this.#set.id, page);
      // One statement can't write a row twice.
      if (page.number <= this.#lastPage) await this.#flushPages();
      this.#pages.push(row);
      this.#lastPage = page.number;
      if (this.#pages.length >= rowsMax) await this.#flushPages();
    });
  }

  putEntries(member: number, page: number, entries: readonly EntryRun[]): Promise<void> {
    return this.#next(async () => {
      const rows = rowsOfEntries(this.#set.id, member, page, entries);
      if (member !== this.#member || this.#cleared.includes(page)) await this.#flushEntries();
      this.#member = member;
      this.#cleared.push(page);
      this.#entries.push(...rows);
      if (this.#cleared.length >= rowsMax || this.#entries.length >= rowsMax) await this.#flushEntries();
    });
  }

  updateSet(facts: Parameters<Transaction["updateSet"]>[0]): Promise<void> {
    return this.#next(async () => {
      const changed = assignments(setFields, facts);
      if (changed.length === 0) return;
      const set = changed.map(([column], i) => `${column} = $${i + 2}`).join(", ");
      const values = changed.map(([, value]) => value);
      await this.#sql.query(`update sets set ${set} where id = $1`, [this.#set.id, ...values]);
    });
  }

  updateMember(id: number, facts: Parameters<Transaction["updateMember"]>[1]): Promise<void> {
    return this.#next(async () => {
      const changed = assignments(memberFields, facts);
      const set = ["id = id", ...changed.map(([column], i) => `${column} = $${i + 3}`)].join(", ");
      const values = changed.map(([, value]) => value);
      const rows = await this.#sql.query(
        `update members set ${set} where set_id = $1 and id = $2 returning id`,
        [this.#set.id, id, ...values],
      );
      if (rows.length === 0) throw noMember(this.#set.name, id);
    });
  }

  /** Writes what is held. @throws what any of the calls threw */
  async end(): Promise<void> {
    await this.#next(async () => {
      await this.#flushPages();
      await this.#flushEntries();
    });
    this.#ended = true;
  }

  /** When it resolves, nothing runs any more, and nothing will. */
  async abandon(): Promise<void> {
    this.#ended = true;
    await this.#last;
  }

  #next(action: () => Promise<void>): Promise<void> {
    const call = this.#last.then(async () => {
      if (this.#failure) throw this.#failure.error;
      if (this.#ended) throw new InvariantError("the transaction has ended");
      try {
        await action();
      } catch (error) {
        this.#failure = { error };
        throw error;
      }
    });
    this.#last = call.catch(() => {});
    return call;
  }

  async #flushPages(): Promise<void> {
    const rows = this.#pages;
    this.#pages = [];
    this.#lastPage = -1;
    if (rows.length > 0) await this.#sql.query(insertPages(rows.length), rows.flat());
  }

  async #flushEntries(): Promise<void> {
    const [pages, rows] = [this.#cleared, this.#entries];
    this.#cleared = [];
    this.#entries = [];
    if (pages.length === 0) return;
    const which = pages.map((_, i) => `$${i + 3}`).join(", ");
    await this.#sql.query(`delete from entries where set_id = $1 and member_id = $2 and page in (${which})`, [
      this.#set.id,
      this.#member,
      ...pages,
    ]);
    if (rows.length === 0) return;
    const [member] = await this.#sql.query("select id from members where set_id = $1 and id = $2", [
      this.#set.id,
      this.#member,
    ]);
    if (!member) throw noMember(this.#set.name, this.#member);
    for (let at = 0; at < rows.length; at += rowsMax) {
      const some = rows.slice(at, at + rowsMax);
      await this.#sql.query(insertEntries(some.length), some.flat());
    }
  }
}

export const noMember = (set: string, id: number): AgentError =>
  new AgentError(
    "not_known",
    `Cannot find member ${id} of the set ${quoted(set)}: there is none of that number`,
  );
