// The mission's tables, written out here once more: every cell of T5, every rule of T4 in every situation.
import { describe, expect, test } from "vitest";
import { AgentError } from "../../src/base/errors.ts";
import { type Action, merge, mergeReturning, mergeTables } from "../../src/truth/actions.ts";
import type { State } from "../../src/truth/extent-state.ts";
import { recover } from "../../src/truth/recovery.ts";

const T5 = `
| old \\ new | NO_CHANGE | ADD | DELETE | UPDATE |
| --- | --- | --- | --- | --- |
| NO_CHANGE | NO_CHANGE | ADD | DELETE | UPDATE |
| ADD | ADD | ADD | NO_CHANGE | ADD |
| DELETE | DELETE | invalid | DELETE | invalid |
| UPDATE | UPDATE | UPDATE | DELETE | UPDATE |
`;

const cells = (line: string) =>
  line
    .split("|")
    .slice(1, -1)
    .map((cell) => cell.trim());
const [head, , ...rows] = T5.trim().split("\n").map(cells);

describe("T5: an old and a new action", () => {
  const all = rows.flatMap(([old, ...row]) =>
    row.map((expected, i) => [old as Action, head![i + 1] as Action, expected!] as const),
  );
  expect(all.length).toBe(16);

  test.each(all)("%s, then %s, is %s", (old, next, expected) => {
    if (expected !== "invalid") return expect(merge(old, next)).toBe(expected);
    expect(() => merge(old, next, "record 7")).toThrow(AgentError);
    expect(() => merge(old, next, "record 7")).toThrow(
      `Cannot merge the pending ${old} of record 7 with a new ${next}`,
    );
  });

  test("an identity that comes back while its DELETE is pending is updated; nothing else is different", () => {
    for (const [old, next, expected] of all) {
      if (expected !== "invalid") expect(mergeReturning(old, next)).toBe(expected);
    }
    expect(mergeReturning("DELETE", "ADD")).toBe("UPDATE");
    expect(() => mergeReturning("DELETE", "UPDATE")).toThrow(AgentError);
  });
});

describe("T5: whole tables", () => {
  const run = (first: number, count: number, action: Action) => ({ first, count, action });

  test("an entry present in only one table goes over as it is, and neighbours become one run", () => {
    const old = [run(0, 10, "UPDATE"), run(20, 5, "ADD"), run(40, 1, "NO_CHANGE")];
    const next = [run(5, 10, "UPDATE"), run(22, 1, "DELETE"), run(41, 2, "ADD")];
    expect([...mergeTables(old, next)]).toEqual([
      run(0, 15, "UPDATE"),
      run(20, 2, "ADD"),
      run(22, 1, "NO_CHANGE"),
      run(23, 2, "ADD"),
      run(40, 1, "NO_CHANGE"),
      run(41, 2, "ADD"),
    ]);
    expect([...mergeTables(old, [])]).toEqual(old);
    expect([...mergeTables([], next)]).toEqual(next);
  });

  test("what is invalid is named by its record", () => {
    expect(() => [...mergeTables([run(0, 9, "DELETE")], [run(4, 2, "ADD")])]).toThrow("record 4");
    expect([...mergeTables([run(0, 9, "DELETE")], [run(4, 2, "ADD")], mergeReturning)]).toEqual([
      run(0, 4, "DELETE"),
      run(4, 2, "UPDATE"),
      run(6, 3, "DELETE"),
    ]);
  });

  test("a table that is out of order is not merged", () => {
    expect(() => [...mergeTables([run(4, 2, "ADD"), run(5, 1, "ADD")], [])]).toThrow(
      "out of order at record 5",
    );
    expect(() => [...mergeTables([], [run(4, 0, "ADD")])]).toThrow("out of order at record 4");
  });

  test("tables of any length are merged as they are read", () => {
    let read = 0;
    function* endless(action: Action) {
      for (let first = 0; ; first += 2) {
        read++;
        yield run(first, 1, action);
      }
    }
    let extents = 0;
    for (const { count } of mergeTables(endless("ADD"), endless("DELETE"))) {
      extents += count;
      if (extents === 10_000) break;
    }
    expect(read).toBeLessThan(20_010);
  });
});

describe("T4: the rules, in their order", () => {
  const pendings = [undefined, "NO_CHANGE", "ADD", "DELETE", "UPDATE"] as const;
  const states: readonly State[] = ["NO_CHANGE", "ADDED", "DELETED", "UPDATED"];
  const others = pendings.filter((pending) => pending !== "DELETE");

  test.each(states)("1: with DELETE pending, a record that is %s is not presented", (state) => {
    expect(recover({ pending: "DELETE", state })).toMatchObject({
      presented: false,
      actual: "NO_CHANGE",
      pending: "stays",
      identity: "its own",
      overruled: state === "ADDED" || state === "UPDATED",
    });
  });

  test.each(others)("2: DELETED drops the pending %s", (pending) => {
    expect(recover({ pending, state: "DELETED" })).toMatchObject({
      presented: true,
      actual: "DELETED",
      pending: "dropped",
      unseen: pending === "ADD" || pending === "UPDATE",
      overruled: false,
    });
  });

  test.each(others)("3: UPDATED drops the pending %s", (pending) => {
    expect(recover({ pending, state: "UPDATED" })).toMatchObject({
      presented: true,
      actual: "UPDATED",
      pending: "dropped",
      unseen: pending === "ADD" || pending === "UPDATE",
      overruled: false,
    });
  });

  test.each(others)("4: neither DELETED, UPDATED nor ADDED leaves the pending %s", (pending) => {
    expect(recover({ pending, state: "NO_CHANGE" })).toMatchObject({
      presented: true,
      actual: "NO_CHANGE",
      pending: "stays",
      unseen: false,
      overruled: false,
    });
  });

  test.each(others)(
    "5: ADDED, no duplicate of an old record, is ADDED (%s pending for its number)",
    (pending) => {
      expect(recover({ pending, state: "ADDED" })).toMatchObject({
        presented: true,
        actual: "ADDED",
        pending: "dropped",
        identity: "its own",
        unseen: pending === "ADD" || pending === "UPDATE",
      });
    },
  );

  type Old = (typeof pendings)[number];
  const added = (pending: Old, outcome: "equal" | "applied" | "not_applied" | "written", beside = false) =>
    recover({ pending: undefined, state: "ADDED", duplicate: { pending, outcome, beside } });

  test.each(["equal", "applied"] as const)(
    "6: ADDED, duplicate of an old record with ADD pending, was added; the acknowledgement was lost (%s)",
    (outcome) => {
      const recovered = {
        presented: false,
        pending: "acknowledged",
        identity: "the old record's",
        unseen: false,
      };
      expect(added("ADD", outcome)).toMatchObject(recovered);
      // The same when the truth has lost the record since: the ADD was taken back, and left NO_CHANGE.
      expect(added("NO_CHANGE", outcome)).toMatchObject(recovered);
    },
  );

  test("6: … if it holds something else, somebody has added it as well, and both compete", () => {
    expect(added("ADD", "written")).toMatchObject({
      presented: true,
      actual: "ADDED",
      pending: "dropped",
      identity: "the old record's",
      unseen: true,
    });
    expect(added("NO_CHANGE", "written")).toMatchObject({ presented: true, identity: "its own" });
  });

  test("6: with UPDATE pending for the old record, it is not presented", () => {
    for (const outcome of ["equal", "applied", "not_applied", "written"] as const)
      expect(added("UPDATE", outcome)).toMatchObject({
        presented: false,
        pending: "stays",
        identity: "the old record's",
        overruled: outcome === "written",
      });
  });

  test("6: with no action, it gets the old identity, and the old record is changed to match", () => {
    expect(added(undefined, "written")).toMatchObject({
      presented: true,
      actual: "UPDATED",
      identity: "the old record's",
      unseen: false,
    });
  });

  test("6: a copy beside the old record is ignored, and takes nothing from it", () => {
    for (const pending of [undefined, "UPDATE"] as const)
      expect(added(pending, "written", true)).toMatchObject({
        presented: false,
        pending: "stays",
        identity: "its own",
        overruled: false,
      });
  });

  test("6: an old record with DELETE pending does not come back under another name; what was made anew is ADDED", () => {
    expect(added("DELETE", "not_applied")).toMatchObject({
      presented: false,
      pending: "stays",
      identity: "the old record's",
    });
    expect(added("DELETE", "written")).toMatchObject({
      presented: true,
      actual: "ADDED",
      identity: "its own",
    });
  });

  test("an earlier rule goes before a later one", () => {
    const fits = (pending: Old, state: State, duplicate = false) =>
      recover({
        pending,
        state,
        ...(duplicate && { duplicate: { pending: "ADD", outcome: "applied", beside: false } as const }),
      }).rule;
    const expected: Record<State, string> = { DELETED: "2", UPDATED: "3", NO_CHANGE: "4", ADDED: "5" };
    for (const state of states) {
      expect(fits("DELETE", state)).toBe("1");
      expect(fits("DELETE", state, true)).toBe("1");
      expect(fits("UPDATE", state)).toBe(expected[state]);
      if (state !== "ADDED") expect(fits("UPDATE", state, true)).toBe(expected[state]);
    }
    expect(fits(undefined, "ADDED", true)).toBe("6, pending ADD");
  });
});
