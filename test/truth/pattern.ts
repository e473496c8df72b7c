// A transaction that rewrites many rows with one number everywhere, and what a store must hold after such transactions.
import assert from "node:assert/strict";
import type { Transaction, TruthStore } from "../../src/truth/store.ts";
import { entryAt, pageNumbered } from "./stores.ts";

const pages = 300;

export async function writePattern(transaction: Transaction, number: number): Promise<void> {
  for (let page = 0; page < pages; page++) {
    await transaction.putTruth(pageNumbered(page, number));
    // How many there are changes too.
    const entries = page % 3 === number % 3 ? [] : [entryAt(page * 64, 1 + (number % 64), number)];
    await transaction.putEntries(2, page, entries);
  }
  await transaction.updateMember(2, { lastResult: `transaction ${number}`, generation: number });
  await transaction.updateSet({ generation: number, blocks: number });
}

/** Exactly one transaction's rows; its number. */
export async function patternIn(store: TruthStore, set: string): Promise<number> {
  const { facts, members } = await store.set(set);
  const number = facts.generation;
  const truth = await store.truth(set, 0, pages + 1);
  const entries = await store.entries(set, 2, 0, pages + 1);
  if (number === 0) {
    assert.deepEqual([truth, entries], [[], []]);
    return 0;
  }
  assert.equal(facts.blocks, number);
  assert.deepEqual([members[1]!.lastResult, members[1]!.generation], [`transaction ${number}`, number]);
  const wanted = Array.from({ length: pages }, (_, page) => page);
  assert.deepEqual(
    truth.map((page) => page.number),
    wanted,
  );
  const whole = pageNumbered(0, number);
  for (const page of truth) {
    assert(page.identifiers.equals(whole.identifiers));
    assert.deepEqual(page.origins, whole.origins);
  }
  const entry = entryAt(0, 1 + (number % 64), number);
  assert.deepEqual(
    entries.map(({ first }) => first / 64),
    wanted.filter((page) => page % 3 !== number % 3),
  );
  for (const { first: _, previous, sent, ...rest } of entries) {
    assert.deepEqual(rest, { action: "UPDATE", count: entry.count });
    assert(previous.equals(entry.previous) && sent!.equals(entry.sent!));
  }
  return number;
}
