// Runs of a set over volumes whose hosts keep histories: what has not changed is not looked at, and nothing is missed by that.
import { copyFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { AgentError } from "../../src/base/errors.ts";
import { Catalogue } from "../../src/catalogue/catalogue.ts";
import { CataloguedVolume } from "../../src/catalogue/catalogued-volume.ts";
import { TreeShape } from "../../src/catalogue/shape.ts";
import { parseDigestSpec } from "../../src/digest/spec.ts";
import { systemClock } from "../../src/platform/clock.ts";
import { systemRandom } from "../../src/platform/random.ts";
import { failBack } from "../../src/sets/failback.ts";
import { failOver } from "../../src/sets/failover.ts";
import { runSet } from "../../src/sets/run.ts";
import { openSqliteStore } from "../../src/truth/sqlite-store.ts";
import type { EntryRun, TruthStore } from "../../src/truth/store.ts";
import type { DigestWindow, IdentifierWindow, Volume } from "../../src/volume/volume.ts";
import { below, bytesOf, oneOf, randomOf } from "../support/data.ts";
import { WorkFolder } from "../support/lunsync.ts";
import { memoryHistories, memoryStorage } from "../support/memory-storage.ts";
import { MemoryVolume } from "../support/memory-volume.ts";
import { newMember, newSet } from "../support/sets.ts";

const cases = Number(process.env.LUNSYNC_TEST_CASES ?? 25);
const blockBytes = 512;
/** Of the catalogues, and of the set. */
const [knownBlocks, extentBlocks] = [2, 4];
const name = "set";

/** A volume whose host has a catalogue and histories; it counts the extents that it is asked for. */
class Remembering extends CataloguedVolume {
  readonly memory: MemoryVolume;
  asked = 0;

  private constructor(
    memory: MemoryVolume,
    catalogue: Catalogue,
    histories: Awaited<ReturnType<typeof memoryHistories>>,
  ) {
    super(memory, catalogue, {
      extentBlocks: knownBlocks,
      random: systemRandom,
      histories,
      discard: async () => {},
      log: () => {},
    });
    this.memory = memory;
  }

  static async make(uuid: string, data: Buffer): Promise<Remembering> {
    const memory = new MemoryVolume(uuid, data, blockBytes, { windowExtentsMax: 40 });
    const extents = Math.ceil(data.length / blockBytes / knownBlocks);
    const shape = new TreeShape(extents, 32);
    const digest = parseDigestSpec("sha256");
    const storage = memoryStorage(shape.fileBytes);
    const catalogue = new Catalogue(storage, extents, knownBlocks * blockBytes, digest, systemClock);
    return new Remembering(memory, catalogue, await memoryHistories(extents));
  }

  override get identity() {
    return { ...this.memory.identity, uuid: `uuid-${this.memory.name}` };
  }

  override encodeDigests(window: DigestWindow, signal?: AbortSignal) {
    this.asked += window.extents;
    return super.encodeDigests(window, signal);
  }

  override identifiers(window: IdentifierWindow, signal?: AbortSignal) {
    this.asked += window.extents;
    return super.identifiers(window, signal);
  }

  /** All of it is known and believed. */
  async know(): Promise<void> {
    await this.digest(0, this.catalogue.shape.nodes[0]!);
    await this.catalogue.believe(this.catalogue.ready(0).whole, () => this.flush());
  }
}

class World {
  readonly random: () => number;
  readonly store: TruthStore;
  readonly volumes: readonly (Remembering | MemoryVolume)[];
  readonly offline = new Set<string>();

  constructor(random: () => number, store: TruthStore, volumes: readonly (Remembering | MemoryVolume)[]) {
    this.random = random;
    this.store = store;
    this.volumes = volumes;
  }

  static async make(random: () => number, store: TruthStore, all: boolean): Promise<World> {
    const bytes = (40 + below(random, 2000)) * blockBytes;
    const volumes = await Promise.all(
      ["source", "east", "west"].map(async (uuid) => {
        const data = uuid === "source" ? bytesOf(random, bytes) : Buffer.alloc(bytes);
        if (all || random() < 0.8) return Remembering.make(uuid, data);
        const volume = new MemoryVolume(uuid, data, blockBytes, { windowExtentsMax: 40 });
        return Object.assign(volume, { identity: { uuid: `uuid-${uuid}`, keys: [], description: "memory" } });
      }),
    );
    await store.createSet(
      newSet(name, extentBlocks * blockBytes),
      volumes.map((volume, priority) => newMember(volume.name, priority)),
    );
    return new World(random, store, volumes);
  }

  readonly options = () => ({
    store: this.store,
    open: async (address: string): Promise<Volume> => {
      if (this.offline.has(address)) throw new AgentError("connection_refused", `"${address}" is offline`);
      return this.volumes.find((volume) => volume.name === address)!;
    },
    clock: systemClock,
    random: { bytes: (count: number) => bytesOf(this.random, count) },
    owner: "test",
    signal: new AbortController().signal,
    onNotice: () => {},
  });

  run = (full = false) => runSet(name, { ...this.options(), full });

  async know(): Promise<void> {
    for (const volume of this.volumes) if (volume instanceof Remembering) await volume.know();
  }

  /** As whoever uses a volume through its host. */
  async write(volume: Volume): Promise<void> {
    const lba = below(this.random, volume.geometry.blocks);
    const blocks = 1 + below(this.random, Math.min(20, volume.geometry.blocks - lba));
    await volume.write(lba, [bytesOf(this.random, blocks * blockBytes)]);
  }

  content = (volume: Remembering | MemoryVolume): Buffer =>
    volume instanceof Remembering ? volume.memory.cache : volume.cache;
}

test("whatever is written wherever, runs that go by histories leave nothing out", async () => {
  await using folder = await WorkFolder.make();
  for (let seed = 1; seed <= cases; seed++) {
    const random = randomOf(seed);
    await using store = await openSqliteStore(join(folder.path, `${seed}.sqlite`));
    const world = await World.make(random, store, false);
    const [source] = world.volumes as [Remembering];
    let leader = source.name;
    for (let step = 3 + below(random, 8); step > 0; step--) {
      if (random() < 0.7) await world.know();
      for (let times = below(random, 4); times > 0; times--) await world.write(oneOf(random, world.volumes));
      if (random() < 0.3 && leader === "source") world.offline.add(oneOf(random, ["east", "west"]));
      if (random() < 0.4) world.offline.clear();
      if (random() < 0.2 && leader === "source" && (await store.set(name)).facts.generation > 0) {
        world.offline.clear();
        leader = oneOf(random, ["east", "west"]);
        await failOver(name, { ...world.options(), replica: leader, force: true });
      }
      // Some of the source can't be read for a while; a replica can't be written to, from some block on.
      const bad = random() < 0.3 ? [below(random, source.geometry.blocks)] : [];
      const memoryOf = (volume: Remembering | MemoryVolume) =>
        volume instanceof Remembering ? volume.memory : volume;
      for (const lba of bad) memoryOf(source).unreadable.add(lba);
      const full = random() < 0.3 ? memoryOf(oneOf(random, world.volumes.slice(1))) : undefined;
      if (full) full.room = below(random, 20);
      const result = await world.run();
      if (full) full.room = Number.POSITIVE_INFINITY;
      memoryOf(source).unreadable.clear();
      if (bad.length > 0) continue;
      const truth = world.content(world.volumes.find((volume) => volume.name === leader)!);
      for (const { name: replica, state } of result.replicas) {
        if (state !== "in step") continue;
        const volume = world.volumes.find((each) => each.name === replica)!;
        expect([seed, replica, world.content(volume).equals(truth)]).toEqual([seed, replica, true]);
      }
      if (leader !== "source" && random() < 0.5) {
        const keep = async () => {};
        await failBack(name, { ...world.options(), prefer: leader, mix: false, to: undefined, keep });
        leader = "source";
        for (const volume of world.volumes)
          expect([seed, volume.name, world.content(volume).equals(truth)]).toEqual([seed, volume.name, true]);
      }
    }
  }
});

test("a truth database that was restored from a backup goes by no history that began after it", async () => {
  await using folder = await WorkFolder.make();
  const path = join(folder.path, "truth.sqlite");
  const world = await (async () => {
    await using store = await openSqliteStore(path);
    const made = await World.make(randomOf(5), store, true);
    await made.run();
    await made.know();
    return made;
  })();
  await copyFile(path, folder.file("backup"));
  const volumes = world.volumes as Remembering[];
  const runWith = async (file: string) => {
    await using store = await openSqliteStore(file);
    return await new World(world.random, store, volumes).run();
  };
  await volumes[0]!.write(8, [Buffer.alloc(blockBytes, 1)]);
  await world.know();
  await runWith(path);
  await world.know();
  // The backup knows another truth of that extent, and nobody has changed it since the run that the backup does not know.
  const result = await runWith(folder.file("backup"));
  expect(result.changed).toBe(1);
  for (const volume of volumes) expect(world.content(volume).equals(world.content(volumes[0]!))).toBe(true);
  const again = await runWith(folder.file("backup"));
  expect(again.changed).toBe(0);
});

test("a run costs what has changed, and not what there is", async () => {
  await using folder = await WorkFolder.make();
  await using store = await openSqliteStore(join(folder.path, "truth.sqlite"));
  const world = await World.make(randomOf(5), store, true);
  const volumes = world.volumes as Remembering[];
  await world.run();
  await world.know();
  await world.run(); // what was written by the first has changed since it began
  await world.know();
  const asked = async (run: () => Promise<unknown>) => {
    for (const volume of volumes) volume.asked = 0;
    await run();
    return volumes.map((volume) => volume.asked);
  };
  expect(await asked(() => world.run())).toEqual([0, 0, 0]);
  const [source, east] = volumes as [Remembering, Remembering];
  await source.write(8, [Buffer.alloc(blockBytes, 1)]);
  await world.know();
  const one = await asked(() => world.run());
  expect(one.every((extents) => extents < 300)).toBe(true);
  expect(world.content(east).equals(world.content(source))).toBe(true);
  // Whoever wants to see all of it does.
  const all = Math.ceil(source.geometry.blocks / extentBlocks);
  const full = await asked(() => world.run(true));
  for (const extents of full) expect(extents).toBeGreaterThanOrEqual(all);
});

test("what is sent to who was away is written down before, also where no host names a change", async () => {
  await using folder = await WorkFolder.make();
  await using store = await openSqliteStore(join(folder.path, "truth.sqlite"));
  const world = await World.make(randomOf(5), store, true);
  const [source, east] = world.volumes as [Remembering, Remembering];
  for (let runs = 0; runs < 2; runs++) {
    await world.run();
    await world.know();
  }
  world.offline.add("east");
  await source.write(8, [Buffer.alloc(blockBytes, 1)]);
  for (let runs = 0; runs < 2; runs++) {
    await world.know();
    await world.run();
  }
  world.offline.clear();
  const { id } = (await store.set(name)).members.find((member) => member.name === "east")!;
  const pages = Math.ceil(source.geometry.blocks / extentBlocks / 64);
  const pending: Promise<EntryRun[]>[] = [];
  east.memory.before = (operation) => {
    if (operation === "write") pending.push(store.entries(name, id, 0, pages));
  };
  await world.run();
  expect(pending.length).toBeGreaterThan(0);
  for (const runs of await Promise.all(pending))
    expect(runs.map(({ sent }) => sent !== undefined)).toEqual(runs.map(() => true));
  expect(world.content(east).equals(world.content(source))).toBe(true);
});

test("a single block is found wherever it was written, whatever extents its host remembers", async () => {
  await using folder = await WorkFolder.make();
  await using store = await openSqliteStore(join(folder.path, "truth.sqlite"));
  const world = await World.make(randomOf(5), store, true);
  const volumes = world.volumes as [Remembering, Remembering, Remembering];
  const [source] = volumes;
  await world.run();
  for (let at = 0; at < 2 * extentBlocks; at++) {
    await world.know();
    await world.run();
    await world.know();
    const lba = 64 * extentBlocks + at; // where a page of truth begins
    await source.write(lba, [bytesOf(world.random, blockBytes)]);
    await world.know();
    expect([at, (await world.run()).changed]).toEqual([at, 1]);
    for (const volume of volumes)
      expect([at, volume.name, world.content(volume).equals(world.content(source))]).toEqual([
        at,
        volume.name,
        true,
      ]);
  }
});
