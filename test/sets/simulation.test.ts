// The first half of the schedules; simulation-more.test.ts has the other.
import { test } from "vitest";
import { replays, simulateMany } from "./sim-many.ts";

test(
  "whatever fails, what must hold holds after every step, and one run or two make all equal",
  () => simulateMany(1),
  600_000,
);

replays();
