// Copies within a replica: their order, on thousands of random permutations, circles and copies of copies.
import fc from "fast-check";
import { expect, test } from "vitest";
import { type Move, orderedMoves } from "../../src/replicate/moves.ts";

const movesOf = (size: number, picks: readonly number[]): Move[] =>
  picks.flatMap((from, to) => (from < size && from !== to && to < size ? [{ from, to }] : []));

test("no copy overwrites what a later one reads; only circles lose one each", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 40 }), fc.array(fc.nat(60), { maxLength: 40 }), (size, picks) => {
      const moves = movesOf(size, picks);
      const before = Array.from({ length: size }, (_, i) => i);
      const after = [...before];
      const ordered = orderedMoves(moves);
      for (const { from, to } of ordered) after[to] = after[from]!;
      const kept = new Map(moves.map(({ from, to }) => [to, from]));
      for (const { to } of ordered) expect(after[to]).toBe(kept.get(to));
      expect(new Set(ordered.map(({ to }) => to)).size).toBe(ordered.length);
      // Whatever is left out lies on a circle: following where it comes from leads back to it.
      const done = new Set(ordered.map(({ to }) => to));
      for (const { to } of moves) {
        if (done.has(to)) continue;
        let at = kept.get(to);
        for (let steps = 0; at !== undefined && at !== to && steps < size; steps++) at = kept.get(at);
        expect(at).toBe(to);
      }
    }),
    { numRuns: 5000 },
  );
});

test("a volume that moved by one place needs no order but the right one", () => {
  const shift = Array.from({ length: 1000 }, (_, i) => ({ from: i, to: i + 1 }));
  expect(orderedMoves(shift).length).toBe(1000);
  expect(orderedMoves(shift)[0]).toEqual({ from: 999, to: 1000 });
  expect(
    orderedMoves([
      { from: 1, to: 2 },
      { from: 2, to: 1 },
    ]).length,
  ).toBe(1);
});
