// What merging means: applying the merged action to a set of records does what applying one after the other does.
import fc from "fast-check";
import { expect, test } from "vitest";
import {
  type Action,
  actionBetween,
  actions,
  merge,
  mergeReturning,
  mergeTables,
} from "../../src/truth/actions.ts";

type Holds = string | undefined;

/** What a set holds of a record after the action; "no" where a set refuses: to add what is there, to delete what is not. */
function applied(action: Action, holds: Holds, truth: string): Holds | "no" {
  switch (action) {
    case "NO_CHANGE":
      return holds;
    case "ADD":
      return holds === undefined ? truth : "no";
    case "DELETE":
      return holds === undefined ? "no" : undefined;
    case "UPDATE":
      return holds === undefined ? "no" : truth;
  }
}

const inTurn = (all: readonly Action[], holds: Holds, truth: string): Holds | "no" =>
  all.reduce<Holds | "no">((at, action) => (at === "no" ? at : applied(action, at, truth)), holds);

const defined = (old: Action | undefined, next: Action | undefined): Action | undefined => {
  if (old === undefined || next === undefined) return undefined;
  try {
    return merge(old, next);
  } catch {
    return undefined;
  }
};

test("T5: the merged action does what both do, one after the other, wherever a set can do both", () => {
  let looked = 0;
  for (const old of actions)
    for (const next of actions)
      for (const holds of [undefined, "before"]) {
        const expected = inTurn([old, next], holds, "truth");
        if (expected === "no" || (old === "DELETE" && next === "ADD")) continue;
        looked++;
        const effective = merge(old, next);
        const found = applied(effective, holds, "truth");
        expect([old, next, holds, found]).toEqual([old, next, holds, expected]);
      }
  expect(looked).toBe(12);
  // Where an identity comes back, it does so too.
  expect(applied(mergeReturning("DELETE", "ADD"), "before", "truth")).toBe(
    inTurn(["DELETE", "ADD"], "before", "truth"),
  );
});

test("T5: what a set refuses, the table tolerates: what was done already is done again", () => {
  // A sync point that writes whatever it is told, over whatever it holds.
  const written = (action: Action, holds: Holds): Holds =>
    action === "NO_CHANGE" ? holds : action === "DELETE" ? undefined : "truth";
  for (const old of actions)
    for (const next of actions) {
      const effective = defined(old, next);
      if (effective === undefined) continue;
      const start = old === "ADD" ? undefined : "before";
      expect([old, next, written(effective, start)]).toEqual([old, next, written(next, written(old, start))]);
    }
});

test("T5: how several are grouped makes no difference, wherever a set can do them", () => {
  const different: string[] = [];
  let looked = 0;
  for (const a of actions)
    for (const b of actions)
      for (const c of actions) {
        const left = defined(defined(a, b), c);
        const right = defined(a, defined(b, c));
        if (left === undefined || right === undefined) continue;
        looked++;
        if (left !== right) different.push(`${a} ${b} ${c}`);
      }
  // Adding what is there, deleting what is not: no truth ever does that. All the same, the newest is merged last.
  expect(different).toEqual(["ADD ADD DELETE", "ADD DELETE DELETE", "UPDATE ADD DELETE"]);
  for (const all of different)
    for (const holds of [undefined, "before"])
      expect(inTurn(all.split(" ") as Action[], holds, "truth")).toBe("no");
  expect(looked).toBeGreaterThan(35);
});

test("T5: whatever the truth goes through, what is pending leads from what a sync point held to the truth", () => {
  const histories = fc.array(fc.option(fc.integer({ min: 1, max: 1000 }), { nil: undefined }), {
    minLength: 1,
    maxLength: 12,
  });
  fc.assert(
    fc.property(histories, (truths) => {
      const [held, ...later] = truths;
      let truth = held;
      let pending: Action | undefined;
      for (const next of later) {
        const action = truth === next ? "NO_CHANGE" : actionBetween(truth !== undefined, next !== undefined);
        pending = pending === undefined ? action : mergeReturning(pending, action);
        truth = next;
      }
      const wanted = actionBetween(held !== undefined, truth !== undefined);
      // What came back to what it was is written once more, or nothing is done.
      if (held === truth) expect([wanted, "NO_CHANGE", undefined]).toContain(pending);
      else expect(pending).toBe(wanted);
    }),
    { numRuns: 5000 },
  );
});

test("T5: tables of runs are merged as they are record by record", () => {
  const table = fc.array(fc.tuple(fc.nat(4), fc.integer({ min: 1, max: 5 }), fc.constantFrom(...actions)), {
    maxLength: 12,
  });
  const runsOf = (gaps: readonly (readonly [number, number, Action])[]) => {
    let at = 0;
    return gaps.map(([gap, count, action]) => {
      const first = at + gap;
      at = first + count;
      return { first, count, action };
    });
  };
  const recordsOf = (runs: Iterable<{ first: number; count: number; action: Action }>) => {
    const records: (Action | undefined)[] = [];
    for (const { first, count, action } of runs)
      for (let i = first; i < first + count; i++) records[i] = action;
    return Array.from({ length: 120 }, (_, i) => records[i]);
  };
  fc.assert(
    fc.property(table, table, (a, b) => {
      const old = recordsOf(runsOf(a));
      const next = recordsOf(runsOf(b));
      const expected = old.map((action, i) => {
        const then = next[i];
        return action && then ? defined(action, then) : (action ?? then);
      });
      if (expected.some((action, i) => action === undefined && (old[i] || next[i]))) {
        expect(() => [...mergeTables(runsOf(a), runsOf(b))]).toThrow("Cannot merge");
        return;
      }
      const found = [...mergeTables(runsOf(a), runsOf(b))];
      expect(recordsOf(found)).toEqual(expected);
      // As few runs as there can be.
      found.slice(1).forEach((run, i) => {
        const before = found[i]!;
        expect(run.first > before.first + before.count || run.action !== before.action).toBe(true);
      });
    }),
    { numRuns: 2000 },
  );
});
