// What the stores need of a database, and the tables that both keep: one text of SQL for SQLite and PostgreSQL.
//
// Guarantees asked of an implementation:
// - A `write` is there as a whole, and on the medium, when it resolves; or it throws, and then nothing of it is there. Where
//   that can't be known (a medium that failed under a COMMIT), it throws.
// - Within `write` and `read` nobody else's statements run; a `read` sees one state.
// - Failures are AgentErrors that name what was attempted.
import { AgentError } from "../base/errors.ts";

export type Value = number | string | Buffer | null;
export type Row = Readonly<Record<string, unknown>>;

export interface Sql {
  /** One statement; its parameters are `$1`, `$2` … */
  query(text: string, parameters?: readonly Value[]): Promise<readonly Row[]>;
  /** The clock by which leases run out; milliseconds since 1970. */
  nowMs(): Promise<number>;
}

export interface SqlDatabase extends AsyncDisposable {
  /** For messages; no passwords. */
  readonly name: string;
  /** Clauses of SELECT that keep the set's row for this transaction: after waiting, or not at all if another has it. */
  readonly lock: string;
  readonly lockOrSkip: string;
  /** While a transaction writes, no other does, in whatever set: nobody can take a lease meanwhile. */
  readonly oneWriter: boolean;
  /** `what` completes "Cannot …". A read may be repeated. */
  read<T>(what: string, action: (sql: Sql) => Promise<T>): Promise<T>;
  /** `repeatable`: the action may be called again where nothing of it was kept. */
  write<T>(
    what: string,
    action: (sql: Sql) => Promise<T>,
    options?: { readonly repeatable?: boolean },
  ): Promise<T>;
}

/** Of the tables. A database with a newer one was written by a newer lunsync. */
export const schemaVersion = 3;

export interface ColumnTypes {
  readonly integer: string;
  readonly real: string;
  readonly text: string;
  readonly bytes: string;
  /** Behind each table. */
  readonly table: string;
}

/**
 * Statements that lead from each version to the next: the first from nothing to version 1. What was released is never
 * changed, only followed by another.
 */
export const migrations = ({
  integer,
  real,
  text,
  bytes,
  table,
}: ColumnTypes): readonly (readonly string[])[] => [
  [
    `create table counters (
      name ${text} primary key,
      value ${integer} not null
    )${table}`,
    "insert into counters (name, value) values ('fence', 0), ('set', 0)",
    `create table sets (
      id ${integer} primary key,
      name ${text} not null unique,
      uuid ${text} not null,
      extent_bytes ${integer} not null,
      block_bytes ${integer} not null,
      blocks ${integer} not null,
      digest ${text} not null,
      generation ${integer} not null,
      paused ${integer} not null,
      max_change ${real},
      created_ms ${integer} not null,
      members_made ${integer} not null
    )${table}`,
    `create table leases (
      set_id ${integer} primary key references sets (id) on delete cascade,
      fence ${integer} not null,
      owner ${text} not null,
      ttl_ms ${integer} not null,
      until_ms ${integer} not null
    )${table}`,
    `create table members (
      set_id ${integer} not null references sets (id) on delete cascade,
      id ${integer} not null,
      name ${text} not null,
      address ${text} not null,
      role ${text} not null check (role in ('source', 'replica')),
      priority ${integer} not null,
      volume_uuid ${text},
      generation ${integer} not null,
      last_result ${text},
      last_run_ms ${integer},
      primary key (set_id, id),
      unique (set_id, name)
    )${table}`,
    `create table truth (
      set_id ${integer} not null references sets (id),
      page ${integer} not null,
      identifiers ${bytes} not null,
      origins ${bytes} not null,
      checksum ${integer} not null,
      primary key (set_id, page)
    )${table}`,
    `create table entries (
      set_id ${integer} not null,
      member_id ${integer} not null,
      page ${integer} not null,
      first ${integer} not null,
      count ${integer} not null,
      action ${integer} not null check (action between 0 and 3),
      previous ${bytes} not null,
      sent ${bytes},
      checksum ${integer} not null,
      primary key (set_id, member_id, page, first),
      foreign key (set_id, member_id) references members (set_id, id)
    )${table}`,
  ],
  [
    `alter table sets add column handed_out_to ${integer}`,
    `alter table members add column split ${integer} not null default 0`,
    `alter table members add column kept_first ${integer} not null default 0`,
    `alter table members add column history ${text}`,
    `alter table members add column unsettled ${integer} not null default 0`,
  ],
  [`alter table members add column base_unknown ${integer} not null default 0`],
];

/** Which steps are still to be done in a database of this version. @throws AgentError `usage` if it is newer */
export function migrationsFrom(version: number, name: string, types: ColumnTypes): readonly string[] {
  if (version > schemaVersion)
    throw new AgentError(
      "usage",
      `Cannot open the truth database ${name}: its tables have version ${version}, and this lunsync knows ${schemaVersion} at ` +
        "most; use the lunsync that wrote it, or a newer one",
    );
  return migrations(types).slice(version).flat();
}

const quoteMax = 80;

/** A name as it stands in a message. */
export const quoted = (name: string): string =>
  JSON.stringify(name.length > quoteMax ? `${name.slice(0, quoteMax)}…` : name);
