// What the tests of the stores share: sets, pages and entries to store, and a store by its address.
import { AgentError } from "../../src/base/errors.ts";
import { openPostgresStore } from "../../src/truth/postgres-store.ts";
import { openSqliteStore } from "../../src/truth/sqlite-store.ts";
import {
  type EntryRun,
  extentsOfPage,
  type Member,
  type NewMember,
  type NewSet,
  type TruthPage,
  type TruthStore,
} from "../../src/truth/store.ts";
import { newMember } from "../support/sets.ts";

/** By a path or a URL. */
export const openStore = (address: string): Promise<TruthStore> =>
  address.startsWith("postgres:") ? openPostgresStore(address) : openSqliteStore(address);

/** A database of its own for each test. */
export interface Place extends AsyncDisposable {
  readonly address: string;
}

/** What an AgentError of this code is compared with. */
export const coded = (code: string) => ({
  asymmetricMatch: (error: unknown) => error instanceof AgentError && error.code === code,
  toString: () => `AgentError ${code}`,
});

export const identifierBytes = 32;

export const setNamed = (name: string): NewSet => ({
  name,
  uuid: `uuid of ${name.slice(0, 20)}`,
  extentBytes: 65536,
  blockBytes: 512,
  digest: "sha-256/0",
  maxChange: undefined,
  createdMs: 1_790_000_000_000,
});

export const memberNamed = (name: string, priority = 0): NewMember => ({
  ...newMember(name, priority, `/dev/${name}`),
  role: name === "source" ? "source" : "replica",
});

/** As it is read again. */
export const memberRead = (id: number, made: NewMember): Member => ({
  id,
  ...made,
  split: false,
  baseUnknown: false,
  keptFirst: false,
  history: undefined,
  unsettled: false,
});

/** Statements that make tables of version 1 of the newest. */
export const toVersion1 = [
  "alter table sets drop column handed_out_to",
  "alter table members drop column split",
  "alter table members drop column base_unknown",
  "alter table members drop column kept_first",
  "alter table members drop column history",
  "alter table members drop column unsettled",
];

/** Bytes in which `seed` is everywhere. */
export function identifiers(count: number, seed: number): Buffer {
  const bytes = Buffer.alloc(count * identifierBytes);
  for (let at = 0; at < bytes.length; at += 4) bytes.writeUInt32LE((seed * 2654435761 + at) >>> 0, at);
  return bytes;
}

export const pageNumbered = (number: number, seed: number, count = extentsOfPage): TruthPage => ({
  number,
  identifiers: identifiers(count, seed),
  origins: Uint16Array.from({ length: count }, (_, i) => (seed + i) % 65536),
});

export const entryAt = (
  first: number,
  count: number,
  seed: number,
  action: EntryRun["action"] = "UPDATE",
  sent = true,
): EntryRun => ({
  first,
  count,
  action,
  previous: identifiers(count, seed),
  sent: sent ? identifiers(count, seed + 1) : undefined,
});

export const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Asks again and again until there is an answer. */
export async function eventually<T>(
  what: string,
  ask: () => Promise<T | undefined>,
  ms = 30_000,
): Promise<T> {
  for (const endMs = Date.now() + ms; Date.now() < endMs; await pause(20)) {
    const answer = await ask();
    if (answer !== undefined) return answer;
  }
  throw new Error(`waited in vain: ${what}`);
}
