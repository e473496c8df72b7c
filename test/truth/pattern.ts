// A transaction that rewrites many rows with one number everywhere, and what a store must hold after such transactions.
import { expect } from "vitest";
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
    expect([truth, entries]).toEqual([[], []]);
    return 0;
  }
  expect(facts.blocks).toBe(number);
  expect(members[1]).toMatchObject({ lastResult: `transaction ${number}`, generation: number });
  const wanted = Array.from({ length: pages }, (_, page) => page);
  expect(truth.map((page) => page.number)).toEqual(wanted);
  const whole = pageNumbered(0, number);
  for (const page of truth) {
    expect(page.identifiers.equals(whole.identifiers)).toBe(true);
    expect(page.origins).toEqual(whole.origins);
  }
  const entry = entryAt(0, 1 + (number % 64), number);
  expect(entries.map(({ first }) => first / 64)).toEqual(wanted.filter((page) => page % 3 !== number % 3));
  for (const { first: _, previous, sent, ...rest } of entries) {
    expect(rest).toEqual({ action: "UPDATE", count: entry.count });
    expect(previous.equals(entry.previous) && sent!.equals(entry.sent!)).toBe(true);
  }
  return number;
}
