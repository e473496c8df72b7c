// The simulation of catalogues for as long as wanted: npm run simulate [-- --seconds N --seed N --runs N --steps N]
//
// A seed replays its run exactly. The exit status is 1 if something was found.
import { parseArgs } from "node:util";
import { Simulation } from "./sim.ts";

const { values } = parseArgs({
  options: {
    seconds: { type: "string", default: "60" },
    seed: { type: "string", default: `${Date.now() % 2 ** 31}` },
    runs: { type: "string", default: "Infinity" },
    steps: { type: "string", default: "200" },
  },
});
const [seconds, seed, runs, steps] = [values.seconds, values.seed, values.runs, values.steps].map(Number);
const deadline = performance.now() + seconds! * 1000;
let run = 0;
let found = 0;
const sum: Record<string, number> = {};
for (; run < runs! && performance.now() < deadline; run++) {
  const simulation = new Simulation(seed! + run);
  try {
    await simulation.run(steps!);
  } catch (error) {
    found++;
    console.error(`FOUND seed ${seed! + run}: ${(error as Error).stack}`);
    console.error(`again: npm run simulate -- --seed ${seed! + run} --runs 1 --steps ${steps}`);
  }
  for (const [key, count] of Object.entries(simulation.counts)) sum[key] = (sum[key] ?? 0) + count;
}
console.log(`${run} runs from seed ${seed}, ${found} findings; ${JSON.stringify(sum)}`);
process.exit(found > 0 ? 1 : 0);
