// One world by its seed, from its beginning until it has come to rest.
import { Manager } from "./manager.ts";
import { type Kind, type Witness, World } from "./world.ts";

const turbulentRuns = 12;
/** @throws Error with one line that says how to see the same again */
export function live(kind: Kind, seed: number, log?: (line: string) => void): Witness["counts"] {
  const world = new World(kind, seed);
  try {
    const manager = new Manager(world);
    for (let run = 0; run < turbulentRuns; run++) {
      world.say(`run ${run}`);
      manager.run();
    }
    world.turbulent = false;
    for (const point of world.points) point.online = true;
    world.say("one run without failures");
    manager.run();
    const unfinished = manager.unfinished();
    if (unfinished !== undefined) throw new Error(`after a run without failures ${unfinished}`);
    // What is at rest stays at rest.
    const { taken, lost, overruled } = world.witness.counts;
    manager.run();
    const restless =
      manager.unfinished() ??
      world.witness.counts.taken +
        world.witness.counts.lost +
        world.witness.counts.overruled -
        (taken + lost + overruled);
    if (restless !== 0) throw new Error(`a run with nothing to do did something: ${restless}`);
    return world.witness.counts;
  } catch (error) {
    throw new Error(`${(error as Error).message}; again: node test/truth/replay.ts ${kind} ${seed}`, {
      cause: error,
    });
  } finally {
    for (const line of world.log) log?.(line);
  }
}
