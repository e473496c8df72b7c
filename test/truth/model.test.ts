// Thousands of small worlds in which everything fails that can: when the failures end, all sync points come to hold the
// truth, and nothing was lost silently on the way.
import { expect, test } from "vitest";
import { live } from "./live.ts";
import type { Kind } from "./world.ts";

const worlds = 4000;

test.each<Kind>(["extents", "volumes"])(
  "a world of %s comes to rest at the truth, and loses no change silently",
  (kind) => {
    const sum: Record<string, number> = {};
    for (let seed = 1; seed <= worlds; seed++) {
      const counts = live(kind, seed);
      for (const [key, count] of Object.entries(counts)) sum[key] = (sum[key] ?? 0) + count;
    }
    // It did look at something.
    expect(sum.taken).toBeGreaterThan(3 * worlds);
    expect(sum.lost).toBeGreaterThan(worlds / 4);
    expect(sum.overruled).toBeGreaterThan(50);
    expect(sum.deaths).toBeGreaterThan(worlds);
    expect(sum.acksLost).toBeGreaterThan(worlds / 4);
    expect(sum.refused).toBeGreaterThan(50);
    if (kind === "extents") expect(sum.torn).toBeGreaterThan(worlds / 4);
  },
);
