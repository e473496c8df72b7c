// Which restore points a policy keeps.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type KeepPolicy, parseKeep, pointsToKeep } from "../../src/whole/keep-policy.ts";

const hourMs = 3_600_000;
const dayMs = 24 * hourMs;
const at = (text: string) => Date.parse(text);
const kept = (policy: string, times: readonly number[]) => [
  ...pointsToKeep(
    parseKeep(policy),
    [...times].sort((a, b) => a - b),
    (ms) => ms,
  ),
];

/** Policies of every kind, and points in an order that clocks give: mostly forwards. */
const rule = fc.record({
  count: fc.integer({ min: 1, max: 6 }),
  periodMs: fc.constantFrom(undefined, hourMs, dayMs, 7 * dayMs),
});
const policies = fc
  .array(rule, { maxLength: 4 })
  .map(
    (rules): KeepPolicy => rules.map(({ count, periodMs }) => (periodMs ? { count, periodMs } : { count })),
  );
const times = fc.array(fc.integer({ min: 0, max: 3 * dayMs }), { maxLength: 40 }).map((steps) => {
  let ms = at("2026-01-01");
  return steps.map((step) => {
    ms += step;
    return ms;
  });
});
const ofMs = (ms: number) => ms;

describe("pointsToKeep", () => {
  test("keeps the newest of each hour, day and week that have one", () => {
    const points = [
      "2026-11-08T23:50Z", // a Sunday
      "2026-11-09T00:10Z",
      "2026-11-09T13:00Z",
      "2026-11-10T08:00Z",
      "2026-11-10T08:59Z",
      "2026-11-10T09:00Z",
    ].map(at);
    const is = (...indices: number[]) => indices.map((i) => points[i]);
    expect(kept("2h", points)).toEqual(is(5, 4));
    expect(kept("2d", points)).toEqual(is(5, 2));
    expect(kept("3d", points)).toEqual(is(5, 2, 0));
    expect(kept("2w", points)).toEqual(is(5, 0));
    expect(kept("3", points)).toEqual(is(5, 4, 3));
    expect(kept("1h,2w", points)).toEqual(is(5, 0));
    expect(kept("none", points)).toEqual([]);
  });

  test("the last of all is kept by every rule; no rule keeps more than it says", () => {
    fc.assert(
      fc.property(policies, times, (policy, points) => {
        const found = pointsToKeep(policy, points, ofMs);
        const most = policy.reduce((sum, { count }) => sum + count, 0);
        expect(found.size).toBeLessThanOrEqual(Math.min(most, points.length));
        if (policy.length > 0 && points.length > 0) expect(found.has(points.at(-1)!)).toBe(true);
        for (const { count, periodMs } of policy) {
          const alone = pointsToKeep([periodMs ? { count, periodMs } : { count }], points, ofMs);
          for (const point of alone) expect(found.has(point)).toBe(true);
        }
      }),
      { numRuns: 2000 },
    );
  });

  test("given up one by one, as they come, or at once: the same ones are left", () => {
    fc.assert(
      fc.property(policies, times, (policy, points) => {
        // Equal times are one point here.
        const all = [...new Set(points)];
        let some: number[] = [];
        for (const point of all) {
          const wanted = pointsToKeep(policy, [...some, point], ofMs);
          some = [...some, point].filter((each) => wanted.has(each));
        }
        const atOnce = pointsToKeep(policy, all, ofMs);
        expect(some).toEqual(all.filter((each) => atOnce.has(each)));
      }),
      { numRuns: 2000 },
    );
  });

  test("time alone gives up nothing", () => {
    fc.assert(
      fc.property(policies, times, fc.integer({ min: 0, max: 1000 }), (policy, points, weeks) => {
        const wanted = (by: number) =>
          points
            .map((_, i) => i)
            .filter((i) =>
              pointsToKeep(
                policy,
                points.map((ms) => ms + by),
                ofMs,
              ).has(points[i]! + by),
            );
        expect(wanted(weeks * 7 * dayMs)).toEqual(wanted(0));
      }),
      { numRuns: 500 },
    );
  });
});

test("parseKeep: what is no policy is refused, and says the form", () => {
  expect(parseKeep("24h,7d,4w")).toEqual([
    { count: 24, periodMs: hourMs },
    { count: 7, periodMs: dayMs },
    { count: 4, periodMs: 7 * dayMs },
  ]);
  expect(parseKeep("30m+5")).toEqual([{ count: 30, periodMs: 60_000 }, { count: 5 }]);
  expect(parseKeep("none")).toEqual([]);
  for (const text of [
    "",
    "h",
    "24",
    "0",
    "-1",
    "1.5h",
    "7d,",
    "7 d",
    "4y",
    "24h;7d",
    "none,1",
    "1e3",
    "99999",
  ]) {
    if (text === "24") expect(parseKeep(text)).toEqual([{ count: 24 }]);
    else expect(() => parseKeep(text), text).toThrow(/the form is 24h,7d,4w/);
  }
  expect(() => parseKeep("200h,57d")).toThrow(/at most 256/);
});
