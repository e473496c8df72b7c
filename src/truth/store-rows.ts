// Rows of the truth database and the nouns that they stand for.
//
// Guarantees: what is written can be read by both stores (no text that one of them refuses, no number that loses digits);
// what is read is what was written: pages and entries carry a CRC-32 of content and place, and whatever does not fit is
// `state_damaged`, never an identifier.
import { crc32 } from "node:zlib";
import { assert } from "../base/assert.ts";
import { AgentError } from "../base/errors.ts";
import { actions } from "./actions.ts";
import { quoted, type Row, type Value } from "./sql.ts";
import { type EntryRun, extentsOfPage, type Member, type SetFacts, type TruthPage } from "./store.ts";

/** UTF-16 units of a name; both databases can index that. */
export const nameLengthMax = 255;

/** @throws AgentError `usage` for text that not both databases keep as it is */
export function textFor(what: string, value: string): string {
  if (value.includes("\0") || !value.isWellFormed())
    throw new AgentError("usage", `Cannot keep ${what} ${quoted(value)}: it has characters that are no text`);
  return value;
}

/** @throws AgentError `usage` */
export function nameFor(what: string, value: string): string {
  if (value.length === 0 || value.length > nameLengthMax)
    throw new AgentError(
      "usage",
      `Cannot keep ${what} ${quoted(value)}: a name has 1 to ${nameLengthMax} characters, this one has ${value.length}`,
    );
  return textFor(what, value);
}

export function integerFor(what: string, value: number): number {
  assert(Number.isSafeInteger(value), `${what} is no integer: ${value}`);
  return value;
}

export function damaged(what: string, found: string): AgentError {
  return new AgentError(
    "state_damaged",
    `Cannot read ${what} from the truth database: ${found}; restore the database from a backup, or remove the set and make ` +
      "it again: volumes are compared then, and no data is lost",
  );
}

export function integerOf(row: Row, column: string): number {
  const value = row[column];
  if (typeof value !== "number" || !Number.isSafeInteger(value))
    throw damaged(column, `${String(value)} is no integer`);
  return value;
}

export function textOf(row: Row, column: string): string {
  const value = row[column];
  if (typeof value !== "string") throw damaged(column, "there is no text");
  return value;
}

function bytesOf(row: Row, column: string): Buffer {
  const value = row[column];
  if (!(value instanceof Uint8Array)) throw damaged(column, "there are no bytes");
  return Buffer.from(value.buffer, value.byteOffset, value.byteLength);
}

const orUndefined = <T>(row: Row, column: string, of: (row: Row, column: string) => T): T | undefined =>
  row[column] === null ? undefined : of(row, column);

const realOf = (row: Row, column: string): number => {
  const value = row[column];
  if (typeof value !== "number") throw damaged(column, "there is no number");
  return value;
};

/** Those that a set is made with, and all. */
export const newSetColumns =
  "name, uuid, extent_bytes, block_bytes, blocks, digest, generation, paused, max_change, created_ms";
export const setColumns = `${newSetColumns}, handed_out_to`;

export const setOf = (row: Row): SetFacts => ({
  name: textOf(row, "name"),
  uuid: textOf(row, "uuid"),
  extentBytes: integerOf(row, "extent_bytes"),
  blockBytes: integerOf(row, "block_bytes"),
  blocks: integerOf(row, "blocks"),
  digest: textOf(row, "digest"),
  generation: integerOf(row, "generation"),
  paused: integerOf(row, "paused") !== 0,
  maxChange: orUndefined(row, "max_change", realOf),
  createdMs: integerOf(row, "created_ms"),
  handedOutTo: orUndefined(row, "handed_out_to", integerOf),
});

/** Those that a member is made with, and all. */
export const newMemberColumns =
  "id, name, address, role, priority, volume_uuid, generation, last_result, last_run_ms";
export const memberColumns = `${newMemberColumns}, split, base_unknown, kept_first, history, unsettled`;

export function memberOf(row: Row): Member {
  const role = textOf(row, "role");
  if (role !== "source" && role !== "replica") throw damaged("a role", quoted(role));
  return {
    id: integerOf(row, "id"),
    name: textOf(row, "name"),
    address: textOf(row, "address"),
    role,
    priority: integerOf(row, "priority"),
    volumeUuid: orUndefined(row, "volume_uuid", textOf),
    generation: integerOf(row, "generation"),
    lastResult: orUndefined(row, "last_result", textOf),
    lastRunMs: orUndefined(row, "last_run_ms", integerOf),
    split: integerOf(row, "split") !== 0,
    baseUnknown: integerOf(row, "base_unknown") !== 0,
    keptFirst: integerOf(row, "kept_first") !== 0,
    history: orUndefined(row, "history", textOf),
    unsettled: integerOf(row, "unsettled") !== 0,
  };
}

/** What the fields of sets and members are called as columns, and what they are there. */
export const setFields = {
  blocks: ["blocks", (value: number) => integerFor("blocks", value)],
  blockBytes: ["block_bytes", (value: number) => integerFor("blockBytes", value)],
  generation: ["generation", (value: number) => integerFor("generation", value)],
  paused: ["paused", (value: boolean) => (value ? 1 : 0)],
  maxChange: ["max_change", (value: number | undefined) => value ?? null],
  handedOutTo: [
    "handed_out_to",
    (value?: number) => (value === undefined ? null : integerFor("handedOutTo", value)),
  ],
} as const;

export const memberFields = {
  address: ["address", (value: string) => textFor("the address", value)],
  role: ["role", (value: Member["role"]) => value],
  priority: ["priority", (value: number) => integerFor("priority", value)],
  volumeUuid: ["volume_uuid", (value?: string) => (value === undefined ? null : textFor("the UUID", value))],
  generation: ["generation", (value: number) => integerFor("generation", value)],
  lastResult: [
    "last_result",
    (value?: string) => (value === undefined ? null : textFor("the result", value)),
  ],
  lastRunMs: [
    "last_run_ms",
    (value?: number) => (value === undefined ? null : integerFor("lastRunMs", value)),
  ],
  split: ["split", (value: boolean) => (value ? 1 : 0)],
  baseUnknown: ["base_unknown", (value: boolean) => (value ? 1 : 0)],
  keptFirst: ["kept_first", (value: boolean) => (value ? 1 : 0)],
  history: ["history", (value?: string) => (value === undefined ? null : textFor("the history", value))],
  unsettled: ["unsettled", (value: boolean) => (value ? 1 : 0)],
} as const;

/** Columns and their values, of those fields that are there. */
export function assignments(
  fields: Readonly<Record<string, readonly [string, (value: never) => Value]>>,
  facts: object,
): readonly (readonly [string, Value])[] {
  return Object.entries(facts).map(([name, value]) => {
    const field = fields[name];
    assert(field !== undefined && Object.hasOwn(fields, name), `${name} can't be changed`);
    return [field[0], field[1](value as never)];
  });
}

/** Memory of its own: what was lent for a call may change after it. */
function copied(bytes: Uint8Array): Buffer {
  const copy = Buffer.alloc(bytes.length);
  copy.set(bytes);
  return copy;
}

function checksum(place: readonly number[], contents: readonly (Buffer | undefined)[]): number {
  let sum = crc32(place.join(" "));
  for (const content of contents) sum = content === undefined ? crc32("-", sum) : crc32(content, sum);
  return sum;
}

export const pageColumns = "set_id, page, identifiers, origins, checksum";

export function rowOfPage(set: number, { number, identifiers, origins }: TruthPage): Value[] {
  const count = origins.length;
  integerFor("the page", number);
  assert(number >= 0 && count > 0 && count <= extentsOfPage, `page ${number} has ${count} extents`);
  assert(identifiers.length > 0 && identifiers.length % count === 0, `identifiers of page ${number}`);
  const kept = copied(identifiers);
  const who = Buffer.alloc(2 * count);
  for (const [i, origin] of origins.entries()) who.writeUInt16LE(origin, 2 * i);
  return [set, number, kept, who, checksum([set, number], [kept, who])];
}

export function pageOf(row: Row): TruthPage {
  const [set, number] = [integerOf(row, "set_id"), integerOf(row, "page")];
  const [identifiers, who] = [bytesOf(row, "identifiers"), bytesOf(row, "origins")];
  if (checksum([set, number], [identifiers, who]) !== row.checksum)
    throw damaged(`page ${number} of the truth`, "its checksum does not fit");
  const origins = new Uint16Array(who.length / 2);
  for (let i = 0; i < origins.length; i++) origins[i] = who.readUInt16LE(2 * i);
  return { number, identifiers, origins };
}

export const entryColumns = "set_id, member_id, page, first, count, action, previous, sent, checksum";

/** Of the entries of one page; checks that they lie in it one behind another. */
export function rowsOfEntries(
  set: number,
  member: number,
  page: number,
  entries: readonly EntryRun[],
): Value[][] {
  integerFor("the page", page);
  let from = page * extentsOfPage;
  const end = from + extentsOfPage;
  return entries.map(({ first, count, action, previous, sent }) => {
    assert(
      Number.isInteger(count) && count > 0 && first >= from && first + count <= end,
      `entry of ${count} extents from ${first} in page ${page}`,
    );
    assert(previous.length > 0 && previous.length % count === 0, `what was before, from extent ${first}`);
    assert(sent === undefined || sent.length === previous.length, `what was sent, from extent ${first}`);
    from = first + count;
    const [before, after] = [copied(previous), sent && copied(sent)];
    const place = [set, member, page, first, count, actions.indexOf(action)];
    return [...place, before, after ?? null, checksum(place, [before, after])];
  });
}

export function entryOf(row: Row): EntryRun {
  const numbers = ["set_id", "member_id", "page", "first", "count", "action"].map((name) =>
    integerOf(row, name),
  );
  const [, , , first, count, code] = numbers as [number, number, number, number, number, number];
  const [previous, sent] = [bytesOf(row, "previous"), orUndefined(row, "sent", bytesOf)];
  const action = actions[code];
  if (action === undefined || checksum(numbers, [previous, sent]) !== row.checksum)
    throw damaged(`the entry of extent ${first}`, "its checksum does not fit");
  return { first, count, action, previous, sent };
}
