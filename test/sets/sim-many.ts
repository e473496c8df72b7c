// Thousands of schedules of replication sets, in files that run side by side.
import { rmSync } from "node:fs";
import { dirname } from "node:path";
import { expect, test } from "vitest";
import { type Counts, SetSimulation } from "./sim.ts";
import { template } from "./sim-template.ts";

const cases = Number(process.env.LUNSYNC_TEST_CASES ?? 1250);

/** Seeds from `first` on. */
export async function simulateMany(first: number): Promise<void> {
  const empty = await template();
  const sum: Counts = {};
  try {
    for (let seed = first; seed < first + cases; seed++) {
      const counts = await new SetSimulation(seed, empty).run().catch((error: Error) => {
        throw new Error(`npm run simulate -- --sets --seed ${seed} --runs 1: ${error.stack}`, {
          cause: error,
        });
      });
      for (const [name, count] of Object.entries(counts)) sum[name] = (sum[name] ?? 0) + count;
    }
  } finally {
    rmSync(dirname(empty), { recursive: true, force: true });
  }
  // It did something of everything.
  for (const [name, least] of Object.entries(leastOf))
    expect([name, sum[name]]).toEqual([name, expect.toSatisfy((count: number) => count >= least * cases)]);
}

/** How often at least, in a schedule. */
const leastOf = {
  runs: 3,
  ended: 2,
  failed: 0.2,
  generations: 1,
  wholes: 0.7,
  inStep: 2,
  powerCuts: 0.3,
  kills: 0.4,
  stops: 0.2,
  torn: 0.05,
  broken: 0.2,
  reconnected: 0.2,
  rollBacks: 0.04,
  swaps: 0.03,
  handedOut: 0.07,
  alone: 0.02,
  verdicts: 0.07,
  mixed: 0.004,
  follows: 0.15,
  kept: 0.5,
};

/** Whoever replays a seed sees the same again. */
export function replays(): void {
  test("a seed replays its schedule exactly", async () => {
    const empty = await template();
    const tell = async (seed: number) => {
      const lines: string[] = [];
      const simulation = new SetSimulation(seed, empty);
      simulation.tell = (line) => lines.push(line.replaceAll(/lunsync-sim-\w+/g, ""));
      await simulation.run();
      return lines;
    };
    for (let seed = 1; seed <= 10; seed++) expect(await tell(seed)).toEqual(await tell(seed));
    rmSync(dirname(empty), { recursive: true, force: true });
  });
}
