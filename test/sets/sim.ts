// A replication set over volumes in memory, in which everything fails that can, by a schedule that a seed makes: runs die
// before and after any step, replicas lose what was not flushed, break, are offline, are written to by others; the source
// goes on changing. Engine, rules and database are the real ones.
import { AgentError } from "../../src/base/errors.ts";
import { systemClock } from "../../src/platform/clock.ts";
import type { RunResult } from "../../src/sets/pass.ts";
import type { OpenVolume } from "../../src/sets/points.ts";
import { runSet } from "../../src/sets/run.ts";
import type { NewMember, TruthStore } from "../../src/truth/store.ts";
import type { VolumeIdentity } from "../../src/volume/volume.ts";
import { below, bytesOf, oneOf, randomOf } from "../support/data.ts";
import { MemoryVolume } from "../support/memory-volume.ts";

export class SimulationError extends Error {
  override readonly name = "SimulationError";
}

export const blockBytes = 512;
const extentBytes = 1024;
export const name = "set";

export class NamedVolume extends MemoryVolume {
  override readonly identity: VolumeIdentity;

  constructor(uuid: string, data: Buffer) {
    super(uuid, data, blockBytes, { windowExtentsMax: 40 });
    this.identity = { uuid, keys: [`memory:${uuid}`], description: "memory" };
  }
}

class Killed extends Error {
  override readonly name = "Killed";
}

export interface World {
  readonly random: () => number;
  readonly store: TruthStore;
  readonly source: NamedVolume;
  readonly replicas: readonly NamedVolume[];
  readonly offline: Set<string>;
}

const memberOf = (volume: NamedVolume, priority: number): NewMember => ({
  name: volume.name,
  address: volume.name,
  role: priority === 0 ? "source" : "replica",
  priority,
  volumeUuid: undefined,
  generation: 0,
  lastResult: undefined,
  lastRunMs: undefined,
});

export async function made(random: () => number, store: TruthStore): Promise<World> {
  const bytes = (1 + below(random, 200)) * extentBytes - below(random, 2) * blockBytes;
  const contents = () => (random() < 0.5 ? Buffer.alloc(bytes) : bytesOf(random, bytes));
  const data = contents().fill(0, below(random, bytes));
  const source = new NamedVolume("source", data);
  const replicas = Array.from(
    { length: 1 + below(random, 3) },
    (_, i) => new NamedVolume(`replica-${i}`, random() < 0.5 ? data : contents()),
  );
  await store.createSet(
    {
      name,
      uuid: "01".repeat(16),
      extentBytes,
      blockBytes: 0,
      digest: "sha256",
      maxChange: undefined,
      createdMs: 0,
    },
    [source, ...replicas].map(memberOf),
  );
  return { random, store, source, replicas, offline: new Set() };
}

/** Writes some blocks. Zeros, too: an extent of zeros is no record. */
function scribble(random: () => number, volume: MemoryVolume): void {
  for (let times = 1 + below(random, 4); times > 0; times--) {
    const lba = below(random, volume.geometry.blocks);
    const blocks = 1 + below(random, Math.min(8, volume.geometry.blocks - lba));
    const data = random() < 0.3 ? Buffer.alloc(blocks * blockBytes) : bytesOf(random, blocks * blockBytes);
    volume.change(lba * blockBytes, data);
  }
}

export function run(world: World, store = world.store, open?: OpenVolume) {
  const { random, source, replicas, offline } = world;
  return runSet(name, {
    store,
    open:
      open ??
      (async (address) => {
        if (offline.has(address)) throw new AgentError("connection_refused", `"${address}" is offline`);
        return [source, ...replicas].find((volume) => volume.name === address)!;
      }),
    clock: systemClock,
    random: { bytes: (count) => bytesOf(random, count) },
    owner: "test",
    signal: new AbortController().signal,
    onNotice: () => {},
  });
}

/** A run that something happens to: it dies, before or after a step; a replica breaks; the source goes on changing. */
async function troubledRun(world: World): Promise<void> {
  const { random, store, source, replicas } = world;
  const volumes = [source, ...replicas];
  let left = below(random, 60);
  let dead = false;
  const trouble = oneOf(random, ["death", "death", "store", "replica", "writer", "stranger"] as const);
  for (const volume of volumes) {
    volume.before = (operation) => {
      if (dead) throw new Killed();
      if (left-- > 0) return;
      if (trouble === "death") {
        dead = true;
        throw new Killed();
      }
      if (trouble === "replica" && volume !== source) throw new AgentError("medium_error", "EIO");
      if (trouble === "writer" && random() < 0.3) scribble(random, source);
      if (trouble === "stranger" && random() < 0.1 && operation !== "flush")
        scribble(random, oneOf(random, replicas));
    };
  }
  let writes = below(random, 4);
  const write: TruthStore["write"] = async (...call) => {
    if (dead) throw new Killed();
    const dies = trouble === "store" && writes-- === 0;
    if (dies && random() < 0.5) throw new Killed(); // before it, or after
    await store.write(...call);
    if (dies) dead = true;
    if (dead) throw new Killed();
  };
  const failing = new Proxy(store, {
    get(target, key) {
      if (key === "write") return write;
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
  await run(world, failing).catch((error: unknown) => {
    if (!(error instanceof Killed) && !(error instanceof AgentError)) throw error;
  });
  for (const volume of volumes) volume.before = () => undefined;
  // Whoever died may have lost what was not flushed, or some of it.
  for (const replica of replicas) {
    if (random() >= 0.5) continue;
    for (let at = 0; at < replica.cache.length; at += blockBytes)
      if (random() < 0.5) replica.cache.copy(replica.medium, at, at, at + blockBytes);
    replica.medium.copy(replica.cache);
  }
}

const check = (right: boolean, what: string): void => {
  if (!right) throw new SimulationError(what);
};

/** Each replica that was reached is in step, and holds on its medium what the source does. */
function checkReached(world: World, result: RunResult): void {
  for (const { name: replica, state, reason } of result.replicas) {
    const volume = world.replicas.find((each) => each.name === replica)!;
    const expected = world.offline.has(replica) ? "offline" : "in step";
    check(state === expected, `${replica} is ${state}, not ${expected}: ${reason}`);
    if (expected === "in step")
      check(volume.medium.equals(world.source.cache), `${replica} is in step, and differs`);
  }
}

/** One schedule. @throws SimulationError for what must not be */
export async function simulate(
  seed: number,
  store: TruthStore,
): Promise<{ written: number; offline: number }> {
  const random = randomOf(seed);
  const world = await made(random, store);
  const { source, replicas } = world;
  let offline = 0;
  for (let step = below(random, 8); step > 0; step--) {
    if (random() < 0.5) scribble(random, source);
    if (random() < 0.2) scribble(random, oneOf(random, replicas));
    if (random() < 0.3) world.offline.add(oneOf(random, replicas).name);
    if (random() < 0.3) world.offline.clear();
    offline += world.offline.size;
    if (random() < 0.6) await troubledRun(world);
    else checkReached(world, await run(world));
  }
  world.offline.clear();
  const last = await run(world);
  checkReached(world, last);
  check(
    last.replicas.every(({ pending }) => pending === 0),
    "something is pending after a run without failures",
  );
  const again = await run(world);
  const idle = again.replicas.every(({ carriedOut }) => carriedOut!.written + carriedOut!.proved === 0);
  check(again.changed === 0 && again.generation === last.generation && idle, "the next run does something");
  return { written: last.replicas.reduce((sum, { carriedOut }) => sum + carriedOut!.written, 0), offline };
}
