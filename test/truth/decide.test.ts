// T6: what the truth becomes, and what every sync point has to be told.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Action } from "../../src/truth/actions.ts";
import {
  type Decision,
  decide,
  decideRuns,
  type Report,
  reportOf,
  reportOffline,
  type SyncPoint,
} from "../../src/truth/decide.ts";
import { prove, type State } from "../../src/truth/extent-state.ts";
import { entryRefused, entryToKeep, entryToSend } from "../../src/truth/pending.ts";
import { recover } from "../../src/truth/recovery.ts";

const point = (name: string, changesTaken = true): SyncPoint => ({ name, changesTaken });
const abc = [point("a"), point("b"), point("c")];
const report = (actual: State, more: Partial<Report> = {}): Report => ({
  ...reportOffline(undefined),
  actual,
  ...more,
});
const offline = (pending?: Action) => reportOffline(pending);
const idle = report("NO_CHANGE");
const there = { there: true, origin: "a" };
const none = { there: false, origin: undefined };
const different = () => false;
const alike = () => true;

describe("T6: one sync point changed a record", () => {
  test.each([
    ["ADDED", none, "ADD", true],
    ["UPDATED", there, "UPDATE", true],
    ["DELETED", there, "DELETE", false],
  ] as const)("%s: the truth takes it, and all others get the action", (actual, before, action, after) => {
    expect(decide(abc, before, [idle, report(actual), idle], different)).toEqual<Decision>({
      takes: "b",
      truth: { there: after, origin: "b" },
      actions: [action, undefined, action],
      conflict: undefined,
    });
  });

  test("nobody did: the truth stays, and so does what is pending", () => {
    expect(decide(abc, there, [idle, offline("UPDATE"), offline("NO_CHANGE")], different)).toEqual<Decision>({
      takes: undefined,
      truth: there,
      actions: [undefined, "UPDATE", "NO_CHANGE"],
      conflict: undefined,
    });
  });

  test.each<[Action | undefined, State, boolean, Action]>([
    [undefined, "UPDATED", true, "UPDATE"],
    ["ADD", "UPDATED", true, "ADD"],
    ["UPDATE", "UPDATED", true, "UPDATE"],
    ["ADD", "DELETED", true, "NO_CHANGE"],
    ["UPDATE", "DELETED", true, "DELETE"],
    ["NO_CHANGE", "ADDED", false, "ADD"],
    ["DELETE", "ADDED", false, "UPDATE"], // the extent came back before the DELETE was carried out
  ])(
    "who is offline with %s, when it is %s, has then pending what T5 says",
    (pending, actual, before, expected) => {
      const truth = { there: before, origin: "a" };
      expect(decide(abc, truth, [report(actual), offline(pending), idle], different).actions[1]).toBe(
        expected,
      );
    },
  );

  test("a table that contradicts the truth is not merged", () => {
    expect(() => decide(abc, there, [report("UPDATED"), offline("DELETE"), idle], different)).toThrow(
      "Cannot merge the pending DELETE",
    );
  });
});

test("T6: an added record that duplicates an old one is ignored", () => {
  const proof = prove("same", undefined, "same", (a, b) => a === b);
  const duplicate = { pending: undefined, outcome: proof.outcome, beside: false };
  const recovered = recover({ pending: undefined, state: "ADDED", duplicate });
  expect(reportOf(proof, recovered)).toEqual(idle);
});

describe("T6: several sync points changed a record", () => {
  test("the first in the operator's order wins, and the others are named", () => {
    const decision = decide(abc, there, [idle, report("UPDATED"), report("DELETED")], different);
    expect(decision).toEqual<Decision>({
      takes: "b",
      truth: { there: true, origin: "b" },
      actions: ["UPDATE", undefined, "ADD"],
      conflict: { winner: "b", losers: [{ syncPoint: "c", lost: "its own change", because: "priority" }] },
    });
    expect(decide(abc, there, [idle, report("DELETED"), report("UPDATED")], different)).toMatchObject({
      takes: "b",
      actions: ["DELETE", undefined, "DELETE"],
      conflict: { losers: [{ syncPoint: "c" }] },
    });
  });

  test("who made the same change is in no conflict, and needs no action", () => {
    expect(decide(abc, there, [idle, report("DELETED"), report("DELETED")], alike)).toEqual<Decision>({
      takes: "b",
      truth: { there: false, origin: "b" },
      actions: ["DELETE", undefined, undefined],
      conflict: undefined,
    });
  });
});

describe("T6: a change that was made without having seen the truth's", () => {
  const unseen = (actual: State) => report(actual, { unseen: true });

  test("loses to it if the truth's comes from a sync point that goes before", () => {
    expect(decide(abc, there, [idle, unseen("UPDATED"), idle], different)).toEqual<Decision>({
      takes: undefined,
      truth: there,
      actions: [undefined, "UPDATE", undefined],
      conflict: {
        winner: undefined,
        losers: [{ syncPoint: "b", lost: "its own change", because: "priority" }],
      },
    });
    expect(decide(abc, there, [idle, unseen("DELETED"), idle], different).actions).toEqual([
      undefined,
      "ADD",
      undefined,
    ]);
  });

  test("loses to it, too, if nobody knows whose the truth's was", () => {
    for (const origin of [undefined, "gone"])
      expect(
        decide(abc, { there: true, origin }, [unseen("UPDATED"), idle, idle], different).takes,
      ).toBeUndefined();
  });

  test("wins if its sync point goes before, and the truth's is named as lost", () => {
    expect(
      decide(abc, { there: true, origin: "c" }, [idle, unseen("UPDATED"), idle], different),
    ).toMatchObject({
      takes: "b",
      conflict: {
        winner: "b",
        losers: [{ syncPoint: "c", lost: "the truth's change", because: "priority" }],
      },
    });
  });

  test("the truth's is not lost to one who had seen it", () => {
    const decision = decide(
      abc,
      { there: true, origin: "b" },
      [report("UPDATED"), idle, unseen("UPDATED")],
      different,
    );
    expect(decision.takes).toBe("a");
    expect(decision.conflict?.losers).toEqual([
      { syncPoint: "c", lost: "its own change", because: "priority" },
    ]);
    // Nor if one of two who made the same change had.
    const both = [unseen("DELETED"), idle, report("DELETED")];
    expect(decide(abc, { there: true, origin: "b" }, both, alike).conflict).toBeUndefined();
  });
});

describe("changes that never go into the truth", () => {
  test.each([
    ["of a sync point that only follows", [point("a", false), point("b")], {}, "not_taken"],
    ["that may be a write that was cut off", [point("a"), point("b")], { doubtful: true }, "doubtful"],
  ] as const)("%s, whatever its priority; they are undone and named", (_, points, more, because) => {
    const losers = [{ syncPoint: "a", lost: "its own change", because }];
    for (const [actual, truth, action] of [
      ["ADDED", none, "DELETE"],
      ["UPDATED", there, "UPDATE"],
      ["DELETED", there, "ADD"],
    ] as const) {
      expect(decide(points, truth, [report(actual, more), idle], different)).toEqual({
        takes: undefined,
        truth,
        actions: [action, undefined],
        conflict: { winner: undefined, losers },
      });
    }
    expect(decide(points, there, [report("UPDATED", more), report("UPDATED")], different)).toMatchObject({
      takes: "b",
      actions: ["UPDATE", undefined],
      conflict: { winner: "b", losers },
    });
  });
});

describe("entries of the table", () => {
  test("who was asked: from what it holds, to what the truth has; who was not: as long as it may hold what was sent", () => {
    expect(entryToSend("NO_CHANGE", "old", "old")).toBeUndefined();
    const entry = entryToSend("UPDATE", "old", "new")!;
    expect(entry).toEqual({ action: "UPDATE", previous: "old", sent: { content: "new" } });
    expect(entryToKeep("DELETE", entry, "new")).toEqual({ ...entry, action: "DELETE" });
    expect(entryToKeep("NO_CHANGE", entryToSend("ADD", undefined, "new"), "new")).toEqual({
      action: "NO_CHANGE",
      previous: undefined,
      sent: { content: "new" },
    });
    expect(entryToKeep("NO_CHANGE", { action: "ADD", previous: undefined }, "new")).toBeUndefined();
    expect(entryToKeep("UPDATE", undefined, "old")).toEqual({ action: "UPDATE", previous: "old" });
    expect(entryRefused(entry)).toEqual({ action: "UPDATE", previous: "old" });
  });
});

test("T6: tables are decided upon run by run as record by record", () => {
  const states: readonly State[] = ["ADDED", "DELETED", "UPDATED"];
  const table = fc.array(
    fc.record({
      gap: fc.nat(6),
      count: fc.integer({ min: 1, max: 6 }),
      actual: fc.constantFrom(...states),
      changed: fc.boolean(),
      unseen: fc.boolean(),
    }),
    { maxLength: 8 },
  );
  const runs = <T extends { gap: number; count: number }>(all: readonly T[]) => {
    let at = 0;
    return all.map((each) => {
      const first = at + each.gap;
      at = first + each.count;
      return { ...each, first };
    });
  };
  const at = <T extends { first: number; count: number }>(all: readonly T[], record: number) =>
    all.find(({ first, count }) => first <= record && record < first + count);
  let decided = 0;
  fc.assert(
    fc.property(table, fc.array(table, { minLength: 3, maxLength: 3 }), (truths, points) => {
      const truth = runs(truths).map((run) => ({ ...run, there: run.changed, origin: "c" }));
      const reports = points.map((one) =>
        runs(one).map(({ first, count, actual, changed, unseen }) => ({
          first,
          count,
          ...(changed ? report(actual, { unseen }) : offline("UPDATE")),
        })),
      );
      const same = (record: number, a: number, b: number) => (record * 7 + a + b) % 3 === 0;
      const found = [...decideRuns(abc, truth, reports, same)];
      for (let record = 0; record < 110; record++) {
        const known = reports.map((one) => at(one, record) ?? offline());
        const decision = at(found, record);
        if (known.every(({ actual }) => actual === "NO_CHANGE")) {
          expect(decision).toBeUndefined();
          continue;
        }
        decided++;
        const one = at(truth, record);
        const expected = decide(abc, { there: one?.there ?? false, origin: one?.origin }, known, (a, b) =>
          same(record, a, b),
        );
        expect(decision).toMatchObject(expected);
      }
    }),
    { numRuns: 500 },
  );
  expect(decided).toBeGreaterThan(5000);
});
