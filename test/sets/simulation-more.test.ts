// The second half of the schedules; simulation.test.ts has the first.
import { test } from "vitest";
import { simulateMany } from "./sim-many.ts";

test(
  "whatever fails, what must hold holds after every step, and one run or two make all equal",
  () => simulateMany(1_000_001),
  600_000,
);
