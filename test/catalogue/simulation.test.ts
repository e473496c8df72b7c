// Thousands of schedules: whatever happens, no extent and no node that is believed is wrong.
import { expect, test } from "vitest";
import { Simulation } from "./sim.ts";

test("no entry that is believed is wrong, whatever is written, digested and cut off", async () => {
  const sum = { writes: 0, crashes: 0, believed: 0, known: 0, nodes: 0, unchanged: 0 };
  for (let seed = 1; seed <= 2000; seed++) {
    const simulation = new Simulation(seed);
    await simulation.run(120).catch((error) => {
      throw new Error(`seed ${seed}: ${error.stack}`);
    });
    for (const key of Object.keys(sum) as (keyof typeof sum)[]) sum[key] += simulation.counts[key];
  }
  // It did look at something.
  expect(sum.known).toBeGreaterThan(50_000);
  expect(sum.nodes).toBeGreaterThan(1000);
  expect(sum.unchanged).toBeGreaterThan(8000);
  expect(sum.crashes).toBeGreaterThan(1000);
});
