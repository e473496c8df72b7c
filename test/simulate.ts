// Simulations for as long as wanted: npm run simulate [-- --sets --whole --seconds N --seed N --runs N --steps N --tell]
//
// Of catalogues, with --sets of replication sets, or with --whole of whole generations and restore points; --tell says what happens
// in a set. A seed replays its run exactly. The exit status is 1 if something was found.
import { parseArgs } from "node:util";
import { Simulation } from "./catalogue/sim.ts";
import { SetSimulation } from "./sets/sim.ts";
import { template } from "./sets/sim-template.ts";
import { WholeSimulation } from "./whole/sim.ts";

const { values } = parseArgs({
  options: {
    sets: { type: "boolean", default: false },
    whole: { type: "boolean", default: false },
    seconds: { type: "string", default: "60" },
    seed: { type: "string", default: `${Date.now() % 2 ** 31}` },
    runs: { type: "string", default: "Infinity" },
    steps: { type: "string", default: "200" },
    tell: { type: "boolean", default: false },
  },
});
const [seconds, first, runs, steps] = [values.seconds, values.seed, values.runs, values.steps].map(Number);

type Counts = Readonly<Record<string, number>>;

async function ofCatalogues(seed: number): Promise<Counts> {
  const simulation = new Simulation(seed);
  await simulation.run(steps!);
  return simulation.counts;
}

const emptyDatabase = values.sets ? await template() : "";

async function ofSets(seed: number): Promise<Counts> {
  const simulation = new SetSimulation(seed, emptyDatabase);
  if (values.tell) simulation.tell = (line) => console.log(line);
  return simulation.run();
}

async function ofWhole(seed: number): Promise<Counts> {
  const simulation = new WholeSimulation(seed);
  await simulation.run(steps!);
  return simulation.counts;
}

const [simulated, which] = values.sets
  ? [ofSets, "--sets "]
  : values.whole
    ? [ofWhole, "--whole "]
    : [ofCatalogues, ""];
const deadline = performance.now() + seconds! * 1000;
let run = 0;
let found = 0;
const sum: Record<string, number> = {};
for (; run < runs! && performance.now() < deadline; run++) {
  const seed = first! + run;
  try {
    const counts = await simulated(seed);
    for (const [key, count] of Object.entries(counts)) sum[key] = (sum[key] ?? 0) + count;
  } catch (error) {
    found++;
    console.error(`FOUND seed ${seed}: ${(error as Error).stack}`);
    console.error(
      `again: npm run simulate -- ${which}--seed ${seed} --runs 1${values.sets ? "" : ` --steps ${steps}`}`,
    );
  }
}
console.log(`${run} runs from seed ${first}, ${found} findings; ${JSON.stringify(sum)}`);
process.exit(found > 0 ? 1 : 0);
