// A set whose members change their roles, over volumes in memory: source, east and west, with what their users write.
import { join } from "node:path";
import { AgentError } from "../../src/base/errors.ts";
import { systemClock } from "../../src/platform/clock.ts";
import { type FailBackOptions, failBack } from "../../src/sets/failback.ts";
import { failOver } from "../../src/sets/failover.ts";
import type { Keep } from "../../src/sets/pass.ts";
import { runSet } from "../../src/sets/run.ts";
import { openSqliteStore } from "../../src/truth/sqlite-store.ts";
import type { TruthStore } from "../../src/truth/store.ts";
import type { Volume } from "../../src/volume/volume.ts";
import { below, bytesOf, randomOf } from "../support/data.ts";
import { WorkFolder } from "../support/lunsync.ts";
import { memoryWhole } from "../support/memory-journal.ts";
import { MemoryVolume } from "../support/memory-volume.ts";
import { newMember, newSet } from "../support/sets.ts";

export const [blockBytes, extentBytes] = [512, 1024];
export const name = "set";

export class Killed extends Error {}

export class Site {
  readonly name: string;
  readonly disk: MemoryVolume;
  volume: Volume;

  private constructor(disk: MemoryVolume, volume: Volume) {
    this.name = disk.name;
    this.disk = disk;
    this.volume = volume;
  }

  static async make(at: string, data: Buffer, whole: boolean): Promise<Site> {
    const disk = new MemoryVolume(at, data, blockBytes, { windowExtentsMax: 40 });
    Object.assign(disk, { identity: { uuid: `uuid-${at}`, keys: [`memory:${at}`], description: "memory" } });
    if (!whole) return new Site(disk, disk);
    return new Site(disk, await memoryWhole(disk, () => systemClock.nowMs()));
  }

  get content(): Buffer {
    return Buffer.from(this.disk.cache);
  }
}

export class World {
  readonly random: () => number;
  readonly store: TruthStore;
  readonly sites: readonly Site[];
  readonly kept = new Map<string, Buffer>();
  readonly offline = new Set<string>();

  constructor(random: () => number, store: TruthStore, sites: readonly Site[]) {
    this.random = random;
    this.store = store;
    this.sites = sites;
  }

  static async make(seed: number, store: TruthStore): Promise<World> {
    const random = randomOf(seed);
    const bytes = (2 + below(random, 100)) * extentBytes - below(random, 2) * blockBytes;
    const data = bytesOf(random, bytes).fill(0, below(random, bytes));
    const sites = [
      await Site.make("source", data, false),
      await Site.make("east", Buffer.alloc(bytes), random() < 0.7),
      await Site.make("west", Buffer.alloc(bytes), random() < 0.5),
    ];
    await store.createSet(
      newSet(name, extentBytes),
      sites.map((site, priority) => newMember(site.name, priority)),
    );
    return new World(random, store, sites);
  }

  site(at: string): Site {
    return this.sites.find((site) => site.name === at)!;
  }

  options() {
    return {
      store: this.store,
      open: async (address: string) => {
        if (this.offline.has(address)) throw new AgentError("connection_refused", "its host is down");
        return this.site(address).volume;
      },
      clock: systemClock,
      random: { bytes: (count: number) => bytesOf(this.random, count) },
      owner: "test",
      signal: new AbortController().signal,
      onNotice: () => {},
    };
  }

  readonly keep: Keep = async (volume, lba, blocks) => {
    const buffer = Buffer.alloc(blocks * blockBytes);
    await volume.read(lba, buffer);
    for (let at = 0; at < buffer.length; at += extentBytes) {
      const key = `${volume.name} ${lba + at / blockBytes}`;
      // What was kept before a death is of that time: the first counts.
      if (!this.kept.has(key)) this.kept.set(key, buffer.subarray(at, at + extentBytes));
    }
  };

  run = () => runSet(name, this.options());
  failOver = (replica = "east", force = false) => failOver(name, { ...this.options(), replica, force });
  failBack = (how: Partial<FailBackOptions> = {}) =>
    failBack(name, {
      ...this.options(),
      prefer: undefined,
      mix: false,
      to: undefined,
      keep: this.keep,
      ...how,
    });

  /** Extents that were changed by it; some of them zeros. */
  write(at: string, extents: readonly number[]): void {
    const { disk } = this.site(at);
    for (const extent of extents) {
      const length = Math.min(extentBytes, disk.cache.length - extent * extentBytes);
      const data = this.random() < 0.2 ? Buffer.alloc(length) : bytesOf(this.random, length);
      disk.change(extent * extentBytes, data);
    }
  }

  get extents(): number {
    return Math.ceil(this.sites[0]!.disk.cache.length / extentBytes);
  }

  some(most: number): number[] {
    return Array.from({ length: below(this.random, most + 1) }, () => below(this.random, this.extents));
  }

  /** Does it, but dies first, several times, at some step. */
  async despiteDeaths<T>(action: () => Promise<T>): Promise<T> {
    for (let deaths = below(this.random, 4); deaths > 0; deaths--) {
      let left = below(this.random, 80);
      for (const { disk } of this.sites)
        disk.before = () => {
          if (left-- <= 0) throw new Killed("killed");
        };
      const done = await action().then(
        (value) => ({ value }),
        (error: unknown) => {
          if (error instanceof Killed || error instanceof AgentError) return undefined;
          throw error;
        },
      );
      for (const { disk } of this.sites) disk.before = () => undefined;
      // Where a death was taken for a replica's failure, it goes on in the end.
      if (done && left >= 0) return done.value;
    }
    return action();
  }
}

/** With a database of its own. */
export async function world(seed: number): Promise<World & AsyncDisposable> {
  const folder = await WorkFolder.make();
  const store = await openSqliteStore(join(folder.path, "truth.sqlite"));
  const made = await World.make(seed, store);
  return Object.assign(made, {
    [Symbol.asyncDispose]: async () => {
      await store[Symbol.asyncDispose]();
      await folder[Symbol.asyncDispose]();
    },
  });
}
