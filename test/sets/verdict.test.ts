// Who has his way, for everything that two sides may have changed and every way in which an operator may put it: what the rules of
// docs/truth.md say, said once more in other words.
import { expect, test } from "vitest";
import { AgentError } from "../../src/base/errors.ts";
import { type Changed, ChangeMap } from "../../src/sets/tally.ts";
import { ConflictError, type Verdict, verdictOn } from "../../src/sets/verdict.ts";

const changes: readonly Changed[] = ["first", "second", "alike", "both"];
/** By the bits of a number. */
const subsets = Array.from({ length: 2 ** changes.length }, (_, bits) =>
  changes.filter((_change, k) => (bits >> k) & 1),
);

interface Case {
  readonly changed: readonly Changed[];
  readonly baseUnknown: boolean;
  readonly priorities: readonly [number, number];
  readonly prefer: "east" | "source" | "priority" | undefined;
  readonly mix: boolean;
}

function* cases(): Generator<Case> {
  for (const changed of subsets)
    for (const baseUnknown of [false, true])
      for (const priorities of [
        [1, 2],
        [2, 1],
      ] as const)
        for (const prefer of [undefined, "east", "source", "priority"] as const)
          for (const mix of [false, true]) yield { changed, baseUnknown, priorities, prefer, mix };
}

function judged({ changed, baseUnknown, priorities, prefer, mix }: Case): Verdict | ConflictError {
  const map = new ChangeMap(changes.length);
  for (const each of changed) map.add(each, changes.indexOf(each));
  const [leader, rival] = [
    { name: "east", priority: priorities[0] },
    { name: "source", priority: priorities[1] },
  ];
  try {
    return verdictOn({ leader, rival, map, baseUnknown }, { prefer, mix });
  } catch (error) {
    if (error instanceof ConflictError) return error;
    throw error;
  }
}

test("nobody loses a change unless somebody else is preferred, and nothing is mixed unless that is asked for", () => {
  for (const each of cases()) {
    const { changed, baseUnknown, priorities, prefer, mix } = each;
    const note = JSON.stringify(each);
    const verdict = judged(each);
    const [ours, theirs] = (["first", "second"] as const).map((one) =>
      changed.some((what) => what === one || what === "both"),
    );
    const byPriority = priorities[0] < priorities[1] ? "leader" : "rival";
    const preferred = { east: "leader", source: "rival", priority: byPriority }[prefer ?? "priority"];
    const differ = ours || theirs;
    // Where nobody knows what both had, whoever differs may have changed it, or lost it.
    const compete = baseUnknown ? differ : ours && theirs;
    if (!compete) {
      expect(verdict, note).toEqual({ winner: theirs ? "rival" : "leader", mixed: false, mayLose: false });
      continue;
    }
    const isMixable = mix && !baseUnknown;
    const needsNobody = isMixable && !changed.includes("both");
    if ((prefer === undefined && !needsNobody) || (mix && baseUnknown)) {
      expect(verdict, note).toBeInstanceOf(ConflictError);
      continue;
    }
    expect(verdict, note).toEqual({
      winner: prefer === undefined ? "leader" : preferred,
      mixed: isMixable,
      mayLose: !needsNobody,
    });
  }
});

test("a preference for somebody else is an error, and not a verdict", () => {
  const sides = { leader: { name: "east", priority: 1 }, rival: { name: "source", priority: 2 } };
  const rivals = { ...sides, map: new ChangeMap(1), baseUnknown: false };
  expect(() => verdictOn(rivals, { prefer: "west", mix: false })).toThrow(AgentError);
});
