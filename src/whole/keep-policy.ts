// Which restore points are kept: `24h,7d,4w` keeps the newest one of each of the last 24 hours, 7 days and 4 weeks that have
// one; `5` keeps the last 5. Pure.
//
// Guarantees: time alone gives up nothing: an hour without a point counts for nothing, so that a replica that was not
// synchronized for a month, or a clock that was wrong, costs no point. Whether points are given up one by one, as they come, or all
// at once later, the same ones are left. Hours, days and weeks are those of UTC; a week begins on a Monday.
import { AgentError } from "../base/errors.ts";

export interface KeepRule {
  readonly count: number;
  /** One of each so many milliseconds; absent: the last ones. */
  readonly periodMs?: number;
}

export type KeepPolicy = readonly KeepRule[];

/** Nothing is kept. */
export const keepNone: KeepPolicy = [];

const hourMs = 3_600_000;
const dayMs = 24 * hourMs;
const periods: Readonly<Record<string, number>> = { m: 60_000, h: hourMs, d: dayMs, w: 7 * dayMs };
/** 1970-01-01 was a Thursday. */
const firstMondayMs = -3 * dayMs;
/** Points have a file each, which is open. */
const countMax = 256;

/** `24h,7d,4w`, with `+` for commas too; `none`. @throws AgentError `usage` */
export function parseKeep(text: string): KeepPolicy {
  if (text === "none") return keepNone;
  const rules = text.split(/[,+]/).map((each): KeepRule => {
    const [, count, period] = /^([1-9]\d{0,3})([mhdw]?)$/.exec(each) ?? [];
    if (count === undefined)
      throw new AgentError(
        "usage",
        `"${each}" of "${text}" says of no restore points that they are kept: the form is 24h,7d,4w (m, h, d or w behind a ` +
          "number; a number alone means the last ones), or none",
      );
    return { count: Number(count), ...(period !== "" && { periodMs: periods[period!]! }) };
  });
  const all = rules.reduce((sum, { count }) => sum + count, 0);
  if (all > countMax)
    throw new AgentError(
      "usage",
      `"${text}" may keep ${all} restore points of a volume; at most ${countMax} are kept`,
    );
  return rules;
}

/** Those of the points, the oldest first, that a policy wants; `madeMs`: when one became what it is, ms since 1970. */
export function pointsToKeep<T>(
  policy: KeepPolicy,
  points: readonly T[],
  madeMs: (point: T) => number,
): Set<T> {
  const kept = new Set<T>();
  for (const { count, periodMs } of policy) {
    const seen = new Set<number>();
    for (let i = points.length - 1; i >= 0 && seen.size < count; i--) {
      const point = points[i]!;
      const period = periodMs === undefined ? i : Math.floor((madeMs(point) - firstMondayMs) / periodMs);
      if (seen.has(period)) continue;
      seen.add(period);
      kept.add(point);
    }
  }
  return kept;
}
