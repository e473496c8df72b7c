// Schedules by the hundred: a volume is one whole generation, or can be returned to it, and its restore points are what it was,
// whatever is cut off. `npm run simulate` goes on with thousands.
import { expect, test } from "vitest";
import { type SimCounts, type SimOptions, WholeSimulation } from "./sim.ts";

async function simulate(seeds: number, options: SimOptions = {}) {
  const sum: Partial<SimCounts> = {};
  for (let seed = 1; seed <= seeds; seed++) {
    const simulation = new WholeSimulation(seed, options);
    await simulation.run(60).catch((error) => {
      throw new Error(`seed ${seed}: ${error.stack}`);
    });
    for (const [key, count] of Object.entries(simulation.counts) as [keyof SimCounts, number][])
      sum[key] = (sum[key] ?? 0) + count;
  }
  return sum;
}

test("a roll back returns to the last whole generation, a commit is for good, a point is always what was", async () => {
  const sum = await simulate(600);
  expect(sum.rollBacks).toBeGreaterThan(300);
  expect(sum.commits).toBeGreaterThan(300);
  expect(sum.views).toBeGreaterThan(300);
  expect(sum.resumed).toBeGreaterThan(300);
  expect(sum.refused).toBeGreaterThan(300);
  expect(sum.points).toBeGreaterThan(3000);
  expect(sum.merges).toBeGreaterThan(80);
  expect(sum.drops).toBeGreaterThan(100);
  expect(sum.grown).toBeGreaterThan(100);
});

test("a layer that is removed, and not merged, is found out", async () => {
  const alter: SimOptions["alter"] = (host) => {
    const { chain } = host.journal;
    chain.merge = (layer) => chain.remove(layer);
    return host;
  };
  await expect(simulate(300, { alter })).rejects.toThrow(/the restore point \d+ is what it was/);
});

test("before-images that are not flushed are found out", async () => {
  await expect(simulate(300, { withoutFlush: true })).rejects.toThrow();
});
