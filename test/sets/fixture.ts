// A replication set over volumes in memory, for tests of single runs: with the real engine, rules and database.
import { AgentError } from "../../src/base/errors.ts";
import { systemClock } from "../../src/platform/clock.ts";
import type { OpenVolume } from "../../src/sets/points.ts";
import { runSet } from "../../src/sets/run.ts";
import type { TruthStore } from "../../src/truth/store.ts";
import type { VolumeIdentity } from "../../src/volume/volume.ts";
import { below, bytesOf } from "../support/data.ts";
import { MemoryVolume } from "../support/memory-volume.ts";
import { newMember, newSet } from "../support/sets.ts";

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

export interface World {
  readonly random: () => number;
  readonly store: TruthStore;
  readonly source: NamedVolume;
  readonly replicas: readonly NamedVolume[];
  readonly offline: Set<string>;
}

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
    newSet(name, extentBytes),
    [source, ...replicas].map((volume, priority) => newMember(volume.name, priority)),
  );
  return { random, store, source, replicas, offline: new Set() };
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
