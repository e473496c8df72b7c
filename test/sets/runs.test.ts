// Single runs of a replication set: who is away, who dies, who is somebody else, what is too much. simulation.ts has them in
// thousands of schedules.
import { join } from "node:path";
import { expect, test } from "vitest";
import { AgentError } from "../../src/base/errors.ts";
import type { OpenVolume } from "../../src/sets/points.ts";
import { releaseReplica } from "../../src/sets/release.ts";
import { openSqliteStore } from "../../src/truth/sqlite-store.ts";
import { bytesOf, randomOf } from "../support/data.ts";
import { WorkFolder } from "../support/lunsync.ts";
import { blockBytes, made, NamedVolume, name, run } from "./fixture.ts";

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

test("a replica that dies while it is asked, or written to, costs the others nothing", async () => {
  for (const dying of ["digest", "write", "flush"]) {
    await using folder = await WorkFolder.make();
    await using store = await openSqliteStore(join(folder.path, "truth.sqlite"));
    const world = await made(randomOf(9), store); // of several replicas
    expect(world.replicas.length).toBeGreaterThan(1);
    await run(world);
    world.source.change(0, bytesOf(randomOf(10), world.source.cache.length));
    const [first, ...others] = world.replicas;
    first!.before = (operation) => {
      if (operation === dying) throw new AgentError("connection_lost", "the link is cut");
    };
    const result = await run(world);
    const states = new Map(result.replicas.map((replica) => [replica.name, replica]));
    expect([dying, states.get(first!.name)]).toEqual([
      dying,
      expect.objectContaining({
        state: dying === "write" ? "behind" : "offline",
        reason: expect.stringMatching(/the link is cut/),
      }),
    ]);
    for (const other of others) {
      expect(states.get(other.name)!.state).toBe("in step");
      expect(other.medium.equals(world.source.cache)).toBe(true);
    }
    first!.before = () => undefined;
    expect((await run(world)).replicas.map(({ state }) => state)).toEqual(
      world.replicas.map(() => "in step"),
    );
    expect(first!.medium.equals(world.source.cache)).toBe(true);
  }
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

test("what a disk has lost on its way to the medium, and its cache still has, is written again by the next run", async () => {
  await using folder = await WorkFolder.make();
  await using store = await openSqliteStore(join(folder.path, "truth.sqlite"));
  const world = await made(randomOf(11), store);
  await run(world);
  world.source.change(0, Buffer.alloc(blockBytes, 9));
  const [replica] = world.replicas;
  const flush = replica!.flush.bind(replica);
  replica!.flush = async () => {
    const before = Buffer.from(replica!.medium.subarray(0, blockBytes));
    await flush();
    before.copy(replica!.medium);
  };
  const lying = await run(world);
  const stateOf = (result: typeof lying) =>
    result.replicas.find((each) => each.name === replica!.name)!.state;
  expect(stateOf(lying)).toBe("behind");
  // It goes on lying: nobody believes its cache.
  expect(stateOf(await run(world))).toBe("behind");
  replica!.flush = flush;
  const last = await run(world);
  expect(stateOf(last)).toBe("in step");
  expect(replica!.medium.equals(world.source.cache)).toBe(true);
});

test("what a disk has lost is not taken for the truth when the source has again what the cache has", async () => {
  await using folder = await WorkFolder.make();
  await using store = await openSqliteStore(join(folder.path, "truth.sqlite"));
  const world = await made(randomOf(11), store);
  await run(world);
  const [replica] = world.replicas;
  const flush = replica!.flush.bind(replica);
  const stateNow = async () => (await run(world)).replicas.find((each) => each.name === replica!.name)!.state;
  replica!.flush = async () => {
    const before = Buffer.from(replica!.medium.subarray(0, blockBytes));
    await flush();
    before.copy(replica!.medium);
  };
  // The second is refused: the cache has what was sent first, and neither what the medium has nor what is sent now.
  for (const content of [9, 8, 9]) {
    world.source.change(0, Buffer.alloc(blockBytes, content));
    expect([content, await stateNow()]).toEqual([content, "behind"]);
  }
  replica!.flush = flush;
  expect(await stateNow()).toBe("in step");
  expect(replica!.medium.equals(world.source.cache)).toBe(true);
});

test("a replica grows with its source, and what it had of the last extent before that is nobody's writing", async () => {
  await using folder = await WorkFolder.make();
  let grown = 0;
  for (let seed = 1; grown < 5; seed++) {
    await using store = await openSqliteStore(join(folder.path, `${seed}.sqlite`));
    const world = await made(randomOf(seed), store);
    const { source, replicas } = world;
    const blocks = source.geometry.blocks;
    if (blocks % 2 === 0) continue; // its last extent is a whole one
    grown++;
    const stranger = new NamedVolume("replica-0", Buffer.alloc((blocks - 1) * blockBytes));
    const open: OpenVolume = async (address) =>
      [stranger, source, ...replicas].find((volume) => volume.name === address)!;
    // Whose size was never its source's may be anybody: it is not made longer.
    const refused = (await run(world, store, open)).replicas.find((replica) => replica.name === "replica-0");
    expect(refused).toMatchObject({ state: "offline", reason: expect.stringMatching(/extend it/) });
    expect(stranger.geometry.blocks).toBe(blocks - 1);
    source.change((blocks - 1) * blockBytes, bytesOf(world.random, blockBytes));
    await run(world);
    source.resize(blocks + 4);
    source.change((blocks - 1) * blockBytes, bytesOf(world.random, 5 * blockBytes));
    const result = await run(world);
    expect(result.replicas.map(({ state, strayed }) => [state, strayed])).toEqual(
      replicas.map(() => ["in step", undefined]),
    );
    for (const replica of replicas) expect([seed, replica.medium.equals(source.cache)]).toEqual([seed, true]);
    // Who has written elsewhere is named, all the same.
    const [replica] = replicas;
    source.resize(blocks + 5);
    replica!.change(0, bytesOf(world.random, blockBytes));
    const found = (await run(world)).replicas.find((each) => each.name === replica!.name);
    expect(found?.strayed?.ranges).toEqual([{ first: 0, count: 1 }]);
    source.resize(blocks);
    await expect(run(world)).rejects.toMatchObject({ code: "size_mismatch" });
  }
});

test("an address that leads to the source itself is no replica: it is not fenced, and not written to", async () => {
  await using folder = await WorkFolder.make();
  await using store = await openSqliteStore(join(folder.path, "truth.sqlite"));
  const world = await made(randomOf(3), store);
  const { source, replicas } = world;
  let fences = 0;
  Object.assign(source, { fence: async () => ++fences > 0 });
  const open: OpenVolume = async (address) =>
    address === "replica-0" ? source : [source, ...replicas].find((volume) => volume.name === address)!;
  const found = (await run(world, store, open)).replicas.find((replica) => replica.name === "replica-0");
  expect(found).toMatchObject({ state: "offline", reason: expect.stringMatching(/is the source itself/) });
  expect(fences).toBe(0);
});

test("another volume in a replica's place is not given up with it", async () => {
  await using folder = await WorkFolder.make();
  await using store = await openSqliteStore(join(folder.path, "truth.sqlite"));
  const world = await made(randomOf(3), store);
  await run(world);
  const { facts, members } = await store.set(name);
  const member = members.find(({ role }) => role === "replica")!;
  const calls: string[] = [];
  const release = async (volume: NamedVolume) => {
    const lease = (await store.acquire(name, "test", 1000))!;
    Object.assign(volume, {
      fence: async () => calls.push("fence") > 0,
      unfence: async () => void calls.push("unfence"),
    });
    try {
      return await releaseReplica(member, { facts, lease, open: async () => volume });
    } finally {
      await lease.release();
    }
  };
  const other = new NamedVolume("somebody's", Buffer.alloc(blockBytes));
  await expect(release(other)).rejects.toMatchObject({ code: "identity_mismatch" });
  expect(calls).toEqual([]);
  expect(await release(world.replicas[0]!)).toBe(true);
  expect(calls).toEqual(["fence", "unfence"]);
});
