// Runs of a replication set in which everything fails that can: whoever dies, whatever is lost, one run without failures
// brings every replica to what the source holds, and the next one does nothing.
import { join } from "node:path";
import { expect, test } from "vitest";
import { AgentError } from "../../src/base/errors.ts";
import { systemClock } from "../../src/platform/clock.ts";
import type { OpenVolume } from "../../src/sets/points.ts";
import { runSet } from "../../src/sets/run.ts";
import { openSqliteStore } from "../../src/truth/sqlite-store.ts";
import type { Member, TruthStore } from "../../src/truth/store.ts";
import type { VolumeIdentity } from "../../src/volume/volume.ts";
import { below, bytesOf, oneOf, randomOf } from "../support/data.ts";
import { WorkFolder } from "../support/lunsync.ts";
import { MemoryVolume } from "../support/memory-volume.ts";

const cases = Number(process.env.LUNSYNC_TEST_CASES ?? 150);
const blockBytes = 512;
const extentBytes = 1024;
const name = "set";

class NamedVolume extends MemoryVolume {
  override readonly identity: VolumeIdentity;

  constructor(uuid: string, data: Buffer) {
    super(uuid, data, blockBytes, { windowExtentsMax: 40 });
    this.identity = { uuid, keys: [`memory:${uuid}`], description: "memory" };
  }
}

class Killed extends Error {
  override readonly name = "Killed";
}

interface World {
  readonly random: () => number;
  readonly store: TruthStore;
  readonly source: NamedVolume;
  readonly replicas: readonly NamedVolume[];
  readonly offline: Set<string>;
}

const memberOf = (volume: NamedVolume, priority: number): Omit<Member, "id"> => ({
  name: volume.name,
  address: volume.name,
  role: priority === 0 ? "source" : "replica",
  priority,
  volumeUuid: undefined,
  generation: 0,
  lastResult: undefined,
  lastRunMs: undefined,
});

async function made(random: () => number, store: TruthStore): Promise<World> {
  const bytes = (1 + below(random, 200)) * extentBytes - below(random, 2) * blockBytes;
  const contents = () => (random() < 0.5 ? Buffer.alloc(bytes) : bytesOf(random, bytes));
  const data = contents().fill(0, below(random, bytes));
  const source = new NamedVolume("source", data);
  const replicas = Array.from(
    { length: 1 + below(random, 3) },
    (_, i) => new NamedVolume(`replica-${i}`, random() < 0.5 ? data : contents()),
  );
  await store.createSet(
    { name, uuid: "00", extentBytes, blockBytes: 0, digest: "sha256", maxChange: undefined, createdMs: 0 },
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

function run(world: World, store = world.store, open?: OpenVolume) {
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

test("whatever fails, one run without failures brings all replicas to the source, and the next does nothing", async () => {
  await using folder = await WorkFolder.make();
  let written = 0;
  let offline = 0;
  for (let seed = 1; seed <= cases; seed++) {
    const random = randomOf(seed);
    await using store = await openSqliteStore(join(folder.path, `${seed}.sqlite`));
    const world = await made(random, store);
    const { source, replicas } = world;
    for (let step = below(random, 8); step > 0; step--) {
      if (random() < 0.5) scribble(random, source);
      if (random() < 0.2) scribble(random, oneOf(random, replicas));
      if (random() < 0.3) world.offline.add(oneOf(random, replicas).name);
      if (random() < 0.3) world.offline.clear();
      offline += world.offline.size;
      if (random() < 0.6) await troubledRun(world);
      else {
        const result = await run(world);
        for (const replica of result.replicas) {
          const volume = replicas.find((each) => each.name === replica.name)!;
          const expected = world.offline.has(replica.name) ? "offline" : "in step";
          expect([seed, replica.state]).toEqual([seed, expected]);
          if (expected === "in step") expect(volume.medium.equals(source.cache)).toBe(true);
        }
      }
    }
    world.offline.clear();
    const last = await run(world);
    expect([seed, last.replicas.map(({ state, pending }) => [state, pending])]).toEqual([
      seed,
      replicas.map(() => ["in step", 0]),
    ]);
    for (const replica of replicas) expect([seed, replica.medium.equals(source.cache)]).toEqual([seed, true]);
    written += last.replicas.reduce((sum, { carriedOut }) => sum + carriedOut!.written, 0);
    const again = await run(world);
    expect([seed, again.changed, again.generation]).toEqual([seed, 0, last.generation]);
    expect(again.replicas.map(({ carriedOut }) => [carriedOut!.written, carriedOut!.proved])).toEqual(
      replicas.map(() => [0, 0]),
    );
  }
  // It did something.
  expect(written).toBeGreaterThan(cases * 5);
  expect(offline).toBeGreaterThan(cases / 2);
}, 120_000);

test("a replica that was away gets what it lacks, and nothing else", async () => {
  await using folder = await WorkFolder.make();
  await using store = await openSqliteStore(join(folder.path, "truth.sqlite"));
  const world = await made(randomOf(3), store);
  const { source, replicas, offline } = world;
  await run(world);
  offline.add(replicas[0]!.name);
  source.change(0, Buffer.alloc(blockBytes, 1));
  await run(world);
  source.change(0, Buffer.alloc(blockBytes, 2));
  const away = await run(world);
  expect(away.replicas.find((replica) => replica.name === replicas[0]!.name)).toMatchObject({
    state: "offline",
    pending: 1,
  });
  offline.clear();
  const back = await run(world);
  expect(back.replicas.find((replica) => replica.name === replicas[0]!.name)).toMatchObject({
    state: "in step",
    pending: 0,
    carriedOut: { written: 1 },
    strayed: undefined,
  });
});

test("another volume in a replica's place is not written to", async () => {
  await using folder = await WorkFolder.make();
  await using store = await openSqliteStore(join(folder.path, "truth.sqlite"));
  const world = await made(randomOf(4), store);
  await run(world);
  const [replica] = world.replicas;
  const stranger = new NamedVolume("stranger", bytesOf(randomOf(5), replica!.cache.length));
  const before = Buffer.from(stranger.cache);
  const replicas = [Object.assign(stranger, { name: replica!.name }), ...world.replicas.slice(1)];
  world.source.change(0, Buffer.alloc(blockBytes, 7));
  const result = await run({ ...world, replicas });
  expect(result.replicas.find((each) => each.name === replica!.name)).toMatchObject({
    state: "offline",
    reason: expect.stringMatching(/its UUID is stranger, and was replica-0/),
  });
  expect(stranger.cache.equals(before)).toBe(true);
});

test("a run that would change more than it may stops before anything is written", async () => {
  await using folder = await WorkFolder.make();
  await using store = await openSqliteStore(join(folder.path, "truth.sqlite"));
  const world = await made(randomOf(6), store);
  await run(world);
  const lease = await store.acquire(name, "test", 1000);
  await store.write(lease!, (transaction) => transaction.updateSet({ maxChange: 0.3 }));
  await lease!.release();
  const before = world.replicas.map(({ cache }) => Buffer.from(cache));
  world.source.change(0, bytesOf(randomOf(7), world.source.cache.length));
  await expect(run(world)).rejects.toMatchObject({ code: "change_too_large" });
  for (const [i, { cache }] of world.replicas.entries()) expect(cache.equals(before[i]!)).toBe(true);
});

test("two runs of a set exclude each other; who died with it keeps nobody waiting for long", async () => {
  await using folder = await WorkFolder.make();
  await using store = await openSqliteStore(join(folder.path, "truth.sqlite"));
  const world = await made(randomOf(8), store);
  const held = Promise.withResolvers<void>();
  const open: OpenVolume = async () => {
    await held.promise;
    throw new AgentError("connection_refused", "nobody is there");
  };
  const first = run(world, store, open).catch((error: unknown) => error);
  await expect(run(world)).rejects.toMatchObject({
    code: "volume_in_use",
    message: expect.stringMatching(/is in use by test/),
  });
  held.resolve();
  expect(await first).toMatchObject({ code: "connection_refused" });
  // One that was never given back.
  await store.acquire(name, "dead", 1000);
  expect((await run(world)).generation).toBe(1);
});
