// What a failover, a failback or a first run that was cut off leaves, and who may do what with it then: extents of a side that
// died may be in the truth, and nobody has them yet.
import { join } from "node:path";
import { expect, test } from "vitest";
import { AgentError } from "../../src/base/errors.ts";
import { systemClock } from "../../src/platform/clock.ts";
import { failBack } from "../../src/sets/failback.ts";
import { handOutAlone } from "../../src/sets/failover.ts";
import { labelOf } from "../../src/sets/points.ts";
import { openSqliteStore } from "../../src/truth/sqlite-store.ts";
import { bytesOf } from "../support/data.ts";
import { WorkFolder } from "../support/lunsync.ts";
import { memoryWhole } from "../support/memory-journal.ts";
import { blockBytes, extentBytes, Killed, name, type Site, World, world } from "./roles-fixture.ts";

/** Mixes what the source has into the truth, and loses its host after that, as soon as `when`. Returns what brings it back. */
async function cutOff(made: World, when = () => true): Promise<() => void> {
  const { disk } = made.site("source");
  let isWritten = false;
  const lose = () => {
    if (isWritten && when()) made.offline.add("source");
  };
  const write = made.store.write.bind(made.store);
  made.store.write = async (lease, action) => {
    await write(lease, action);
    const { members } = await made.store.set(name);
    isWritten ||= members.some(({ keptFirst }) => keptFirst);
    lose();
  };
  disk.before = () => {
    lose();
    if (made.offline.has("source")) throw new AgentError("connection_lost", "its host is down");
  };
  await expect(made.failBack({ prefer: "east", mix: true })).rejects.toMatchObject({ code: "not_whole" });
  made.store.write = write;
  expect(made.offline.has("source")).toBe(true);
  return () => {
    made.offline.clear();
    disk.before = () => undefined;
  };
}

test("no run brings others to who lacks what a failback has mixed, and nothing of it is overwritten by one", async () => {
  await using made = await world(2);
  await made.run();
  await made.failOver();
  made.write("east", [0]);
  made.write("source", [0, 1]);
  const back = await cutOff(made);
  const held = made.sites.map(({ content }) => content);
  for (const isBack of [false, true]) {
    if (isBack) back();
    await expect(made.run()).rejects.toMatchObject({
      code: "split_brain",
      message: expect.stringMatching(/Cannot run "set" from "east": a failback was cut off/),
    });
    expect(made.sites.map((site, k) => site.content.equals(held[k]!))).toEqual([true, true, true]);
  }
  await made.failBack();
  const [source, ...others] = made.sites;
  for (const site of others)
    expect([site.name, site.content.equals(source!.content)]).toEqual([site.name, true]);
});

test("what was pending for who parts from the set is forgotten: the set goes on without him", async () => {
  await using made = await world(2);
  const { source, east } = { source: made.site("source"), east: made.site("east") };
  source.disk.change(0, bytesOf(made.random, extentBytes));
  await made.run();
  await made.failOver();
  // What the truth deletes is to be deleted at the source, which keeps it.
  east.disk.change(0, Buffer.alloc(extentBytes));
  made.write("source", [1]);
  const atSource = source.content;
  const back = await cutOff(made);
  await made.failOver("west", true);
  const { members } = await made.store.set(name);
  const parted = members.filter(({ split }) => split);
  expect(parted.map((member) => member.name)).toEqual(["source", "east"]);
  const pending = await made.store.pendingCounts(name);
  expect(parted.map(({ id }) => pending.get(id) ?? 0)).toEqual([0, 0]);
  // Of what it holds nobody knows what a failback has sent: also where the other has changed nothing, it does not win unasked.
  back();
  await expect(made.failBack()).rejects.toMatchObject({ code: "split_brain" });
  // What was deleted is there again, and then another one.
  made.site("west").disk.change(0, bytesOf(made.random, extentBytes));
  await made.run();
  expect(source.content.equals(atSource)).toBe(true);
  await expect(made.failBack()).rejects.toMatchObject({ code: "split_brain" });
  const atWest = made.site("west").content;
  await made.failBack({ prefer: "west" });
  for (const site of [source, made.site("west")])
    expect([site.name, site.content.equals(atWest)]).toEqual([site.name, true]);
});

test("a side that a failback has decided against, and that is handed out again, has changes that nobody else knows of", async () => {
  await using made = await world(2); // east keeps whole generations
  const east = made.site("east");
  await made.run();
  await made.failOver();
  made.write("east", [0]);
  made.write("source", [1]);
  const [atEast, atSource] = [east.content, made.site("source").content];
  east.disk.before = (operation) => {
    if (operation === "write") throw new AgentError("connection_lost", "the link is cut");
  };
  await made.failBack({ prefer: "source" });
  east.disk.before = () => undefined;
  await made.failOver("east");
  expect(east.content.equals(atEast)).toBe(true);
  await expect(made.failBack()).rejects.toMatchObject({ code: "split_brain" });
  expect([east.content.equals(atEast), made.site("source").content.equals(atSource)]).toEqual([true, true]);
  await made.failBack({ prefer: "east" });
  for (const site of made.sites) expect([site.name, site.content.equals(atEast)]).toEqual([site.name, true]);
});

test("who has got extents of a side that died, and nobody else has, keeps them until a failback has kept them", async () => {
  await using made = await world(2);
  const [source, east, west] = made.sites as [Site, Site, Site];
  await made.run();
  await made.failOver();
  made.write("east", [0]);
  made.write("source", [1]);
  east.disk.before = (operation) => {
    if (operation === "write") throw new AgentError("connection_lost", "the link is cut");
  };
  const only = source.content.subarray(extentBytes, 2 * extentBytes);
  const atWest = () => west.content.subarray(extentBytes, 2 * extentBytes);
  const back = await cutOff(made, () => atWest().equals(only));
  expect(atWest().equals(only)).toBe(true);
  east.disk.before = () => undefined;
  await made.failOver("east", true);
  const found = (await made.run()).replicas.find((replica) => replica.name === "west");
  expect(found).toMatchObject({ state: "offline", reason: expect.stringMatching(/a failback was cut off/) });
  expect(atWest().equals(only)).toBe(true);
  back();
  await made.failBack({ prefer: "east" });
  expect(atWest().equals(only)).toBe(false);
  expect(made.kept.get("west 2")?.equals(only)).toBe(true);
});

test("what a failback has sent and not flushed is on the medium before it leaves the table, whatever a drive says of its cache", async () => {
  await using made = await world(4); // east keeps nothing
  const { disk } = made.site("east");
  await made.run();
  await made.failOver();
  made.write("east", [0]);
  made.write("source", [1]);
  // A drive answers from its own cache, also who wants to see the medium.
  const encode = disk.encodeDigests.bind(disk);
  disk.encodeDigests = (window) => encode({ ...window, fresh: false });
  disk.before = (operation) => {
    if (operation === "flush" && !disk.medium.equals(disk.cache))
      throw new AgentError("connection_lost", "the link is cut");
  };
  const isMixed = made.failBack({ prefer: "east", mix: true, to: "east" });
  await expect(isMixed).rejects.toMatchObject({ message: expect.any(String) });
  disk.before = () => undefined;
  expect(disk.medium.equals(disk.cache)).toBe(false);
  const pendingOf = async () => {
    const { members } = await made.store.set(name);
    const { id } = members.find((member) => member.name === "east")!;
    return (await made.store.pendingCounts(name)).get(id) ?? 0;
  };
  expect(await pendingOf()).toBeGreaterThan(0);
  const write = made.store.write.bind(made.store);
  const found: boolean[] = [];
  made.store.write = async (lease, action) => {
    await write(lease, action);
    if ((await pendingOf()) === 0) found.push(disk.medium.equals(disk.cache));
  };
  await made.failBack({ prefer: "east", to: "east" });
  expect(found.length).toBeGreaterThan(0);
  expect(found).toEqual(found.map(() => true));
  for (const site of made.sites)
    expect([site.name, site.content.equals(made.site("east").content)]).toEqual([site.name, true]);
});

test("who is followed no more, and lacks what a failback has mixed, is not said to be in step", async () => {
  await using made = await world(2); // east keeps whole generations
  const { disk, volume } = made.site("east");
  await made.run();
  await made.failOver();
  const { generation } = (await volume.wholeState!()).label!;
  made.write("east", [0]);
  made.write("source", [1]);
  disk.before = (operation) => {
    if (operation === "write") throw new AgentError("no_space", "its disk is full");
  };
  expect((await made.failBack({ prefer: "east", mix: true })).source).toBe("source");
  const { facts, members } = await made.store.set(name);
  const east = members.find((member) => member.name === "east")!;
  expect(facts.generation).toBeGreaterThan(generation);
  expect((await made.store.pendingCounts(name)).get(east.id)).toBe(1);
  expect([east.generation, east.lastResult?.startsWith("behind"), east.keptFirst]).toEqual([
    generation,
    true,
    true,
  ]);
  expect((await volume.wholeState!()).label?.generation).toBe(generation);
  disk.before = () => undefined;
  await made.failBack();
  for (const site of made.sites)
    expect([site.name, site.content.equals(made.site("source").content)]).toEqual([site.name, true]);
});

/** Mixes, while one side takes no writes; `to` is to be followed. */
async function mixedWithout(made: World, at: "source" | "east", to?: string): Promise<void> {
  await made.run();
  await made.failOver();
  made.write("east", [0]);
  made.write("source", [1]);
  const { disk } = made.site(at);
  disk.before = (operation) => {
    if (operation === "write") throw new AgentError("connection_lost", "the link is cut");
  };
  await made.failBack({ prefer: "east", mix: true, to }).catch((error: unknown) => {
    expect(error).toMatchObject({ code: "not_whole" });
  });
  disk.before = () => undefined;
}

const pendingFor = async (made: World, at: string): Promise<number> => {
  const { members } = await made.store.set(name);
  const { id } = members.find((member) => member.name === at)!;
  return (await made.store.pendingCounts(name)).get(id) ?? 0;
};

test("what was pending for who parts is forgotten also where whoever is handed out holds the truth already", async () => {
  await using made = await world(2);
  await mixedWithout(made, "source");
  expect(await pendingFor(made, "source")).toBe(1);
  await made.failOver("west");
  expect(await pendingFor(made, "source")).toBe(0);
});

test("what a side lacks stays pending while it can't be read there", async () => {
  await using made = await world(2);
  const { disk } = made.site("east");
  await mixedWithout(made, "east", "east");
  expect(await pendingFor(made, "east")).toBe(1);
  for (const lba of [2, 3]) disk.unreadable.add(lba);
  await made.failBack({ to: "east" }).catch(() => {}); // nothing can be kept of it
  expect(await pendingFor(made, "east")).toBe(1);
  disk.unreadable.clear();
  await made.failBack({ to: "east" });
  for (const site of made.sites)
    expect([site.name, site.content.equals(made.site("source").content)]).toEqual([site.name, true]);
});

test("nothing is pending for who is handed out by force, also where it can't be read", async () => {
  await using made = await world(4); // east keeps nothing
  const { disk } = made.site("east");
  await made.run();
  made.write("source", [1]);
  disk.before = (operation) => {
    if (operation === "write") throw new AgentError("connection_lost", "the link is cut");
  };
  await made.run();
  disk.before = () => undefined;
  expect(await pendingFor(made, "east")).toBe(1);
  disk.unreadable.add(2);
  await made.failOver("east", true);
  expect(await pendingFor(made, "east")).toBe(0);
});

test("who lacks extents that a failback took of a side that died is handed out as it was, by force, and nothing of the side is lost", async () => {
  await using made = await world(2); // east keeps whole generations
  const { source, east } = { source: made.site("source"), east: made.site("east") };
  await made.run();
  await made.failOver();
  made.write("east", [0]);
  made.write("source", [1]);
  const [atEast, atSource] = [east.content, source.content];
  // It dies when the verdict was written down.
  let [isDown, reads] = [false, 0];
  const write = made.store.write.bind(made.store);
  made.store.write = async (lease, action) => {
    await write(lease, action);
    const { members } = await made.store.set(name);
    isDown ||= members.some(({ keptFirst }) => keptFirst);
  };
  source.disk.before = () => {
    reads++;
    if (isDown) throw new AgentError("connection_lost", "its host is down");
  };
  await expect(made.failBack({ prefer: "east", mix: true })).rejects.toMatchObject({
    code: "not_whole",
    message: expect.stringMatching(/"source" could not be brought to the truth/),
  });
  expect([isDown, reads > 0]).toEqual([true, true]);
  made.store.write = write;
  made.offline.add("source");
  await expect(made.failOver("east")).rejects.toMatchObject({
    code: "not_whole",
    message: expect.stringMatching(/A failback was cut off/),
  });
  const done = await made.failOver("east", true);
  expect(done.already).toBe(false);
  expect(east.content.equals(atEast)).toBe(true);
  made.write("east", [2]);
  const later = east.content;
  const last = await made.run();
  expect(last.replicas.map((replica) => [replica.name, replica.state])).toEqual([
    ["source", "offline"],
    ["west", expect.stringMatching(/offline|in step/)],
  ]);
  // The old source is back, with what it had.
  isDown = false;
  made.offline.clear();
  expect(source.content.equals(atSource)).toBe(true);
  await expect(made.failBack()).rejects.toMatchObject({ code: "split_brain" });
  await made.failBack({ prefer: "east" });
  for (const site of made.sites) expect([site.name, site.content.equals(later)]).toEqual([site.name, true]);
  expect(made.kept.get("source 2")?.equals(atSource.subarray(extentBytes, 2 * extentBytes))).toBe(true);
});

test("a side that a failback had begun to overwrite when another replica was handed out is again what its users had", async () => {
  await using made = await world(2); // east keeps whole generations
  const { east, west } = { east: made.site("east"), west: made.site("west") };
  await made.run();
  await made.failOver("east");
  made.write("east", [0, 4]); // no neighbours: two writes
  made.write("source", [2]);
  const atEast = east.content;
  let writes = 0;
  east.disk.before = (operation) => {
    if (operation === "write" && ++writes >= 2) throw new AgentError("connection_lost", "the link is cut");
  };
  await made.failBack({ prefer: "source" });
  east.disk.before = () => undefined;
  expect(east.content.equals(atEast)).toBe(false);
  await made.failOver("west");
  west.disk.change(3 * extentBytes, bytesOf(made.random, extentBytes));
  await expect(made.failBack({ to: "east" })).rejects.toMatchObject({ code: "split_brain" });
  await made.failBack({ prefer: "east", to: "east" });
  expect(east.content.equals(atEast)).toBe(true);
  // The old source is another side of its own.
  await made.failBack({ prefer: "east", to: "east" });
  for (const site of made.sites) expect([site.name, site.content.equals(atEast)]).toEqual([site.name, true]);
});

test("a failback that dies before it gives the new side to its users does that when it is done again", async () => {
  await using made = await world(2); // east keeps whole generations
  const { volume } = made.site("east");
  await made.run();
  const label = volume.labelWhole!.bind(volume);
  volume.labelWhole = async (its, signal) => {
    if (its?.handedOut) throw new Killed("killed");
    await label(its, signal);
  };
  await expect(made.failBack({ to: "east" })).rejects.toThrow(Killed);
  volume.labelWhole = label;
  expect((await made.store.set(name)).members.find(({ role }) => role === "source")!.name).toBe("east");
  await made.failBack({ to: "east" });
  await volume.write(2, [Buffer.alloc(blockBytes, 3)]);
});

test("a failback that dies before its verdict is written down leaves a replica that its host has handed out alone", async () => {
  await using made = await world(2);
  const east = made.site("east");
  await made.run();
  await handOutAlone(east.volume, false);
  made.write("east", [0]);
  const held = east.content;
  const write = made.store.write.bind(made.store);
  made.store.write = async () => {
    throw new Killed("killed");
  };
  await expect(made.failBack({ prefer: "source" })).rejects.toThrow(Killed);
  made.store.write = write;
  await made.run();
  expect(east.content.equals(held)).toBe(true);
  await made.failBack({ prefer: "east" });
  for (const site of made.sites) expect([site.name, site.content.equals(held)]).toEqual([site.name, true]);
});

test("a failover or a failback that comes late lets nobody in, and shuts nobody out", async () => {
  await using made = await world(2); // east keeps whole generations
  const { volume } = made.site("east");
  await made.run();
  await made.failBack({ to: "east" });
  await made.failBack({ to: "source" });
  // It has begun when the set followed the east, slept, and goes on when it does not any more.
  const { facts, members } = await made.store.set(name);
  const before = {
    facts,
    members: members.map((member) => ({ ...member, role: member.name === "east" ? "source" : "replica" })),
  };
  const late = {
    ...made.options(),
    store: new Proxy(made.store, {
      get: (store, key) => {
        if (key === "set") return async () => before;
        if (key !== "acquire") return Reflect.get(store, key).bind(store);
        return async (set: string, owner: string, ttlMs: number) => {
          const lease = await store.acquire(set, owner, ttlMs);
          const renew = async () => {
            throw new AgentError("not_known", "its lease was lost");
          };
          return Object.assign(lease!, { renew });
        };
      },
    }),
  };
  const how = { prefer: undefined, mix: false, to: undefined, keep: made.keep };
  await expect(failBack(name, { ...late, ...how })).rejects.toMatchObject({ code: "not_known" });
  expect((await volume.wholeState!()).label).toMatchObject({ handedOut: false });
});

test("a replica whose first run was cut off is not handed out, whatever its host calls whole", async () => {
  await using folder = await WorkFolder.make();
  let tried = 0;
  for (let seed = 1; tried < 6; seed++) {
    await using store = await openSqliteStore(join(folder.path, `first-${seed}.sqlite`));
    const world = await World.make(seed, store);
    const { disk, volume } = world.site("east");
    if (!volume.traits.keepsWhole) continue;
    tried++;
    let written = false;
    disk.before = (operation) => {
      written ||= operation === "write";
      if (operation === "flush" && written) throw new AgentError("connection_lost", "the link is cut");
    };
    await world.run();
    disk.before = () => undefined;
    const before = world.site("east").content;
    if (tried % 2 === 0) await volume.rollBackWhole!();
    await expect(world.failOver()).rejects.toMatchObject({
      code: "not_whole",
      message: expect.stringMatching(/has never held a generation/),
    });
    if (tried % 2 === 1) expect(world.site("east").content.equals(before)).toBe(true);
    await world.run();
    await world.failOver();
  }
});

test("a side that can't be read in full does not have its way as a whole", async () => {
  await using made = await world(2);
  const { source, east } = { source: made.site("source"), east: made.site("east") };
  await made.run();
  await made.failOver();
  made.write("source", [0]);
  made.write("east", [1]);
  const held = [source.content, east.content];
  source.disk.unreadable.add(4);
  await expect(made.failBack({ prefer: "source" })).rejects.toMatchObject({
    code: "not_whole",
    message: expect.stringMatching(/1 extents can't be read of "source"/),
  });
  expect([source.content.equals(held[0]!), east.content.equals(held[1]!)]).toEqual([true, true]);
  source.disk.unreadable.clear();
  await made.failBack({ prefer: "source" });
  for (const site of made.sites)
    expect([site.name, site.content.equals(held[0]!)]).toEqual([site.name, true]);
});

test("a source that its host calls handed out, after a failback that was cut off, is brought together with the others", async () => {
  await using made = await world(2);
  const [source, east] = [made.site("source"), made.site("east")];
  source.volume = await memoryWhole(source.disk, () => systemClock.nowMs());
  await made.run();
  const { facts } = await made.store.set(name);
  await source.volume.labelWhole!({ ...labelOf(facts, 1), handedOut: true });
  await made.failOver();
  made.write("east", [0]);
  const held = east.content;
  // It dies between its verdict, and taking the source back.
  const labelWhole = source.volume.labelWhole!;
  source.volume.labelWhole = async () => {
    throw new Killed("killed");
  };
  await expect(made.failBack()).rejects.toThrow(Killed);
  source.volume.labelWhole = labelWhole.bind(source.volume);
  expect((await source.volume.wholeState!()).label).toMatchObject({ handedOut: true });
  await made.failBack({ prefer: "east" });
  for (const site of made.sites) expect([site.name, site.content.equals(held)]).toEqual([site.name, true]);
});

test("who is followed, and lacks what a failback has mixed, gets it by a failback to himself, and is shut to its users meanwhile", async () => {
  await using made = await world(2); // east keeps whole generations
  const [source, east] = [made.site("source"), made.site("east")];
  await made.run();
  await made.failOver();
  made.write("east", [0]);
  made.write("source", [1]);
  const back = await cutOff(made);
  // A host that has lost what it was told, or a command that came late, lets its users in.
  const { label } = await east.volume.wholeState!();
  if ((await east.volume.wholeState!()).state === "whole")
    await east.volume.labelWhole!({ ...label!, handedOut: true });
  back();
  await made.failBack({ prefer: "east", mix: true, to: "east" });
  expect((await made.store.set(name)).members.map(({ keptFirst }) => keptFirst)).toEqual([
    false,
    false,
    false,
  ]);
  expect(await made.store.pendingCounts(name)).toEqual(new Map([1, 2, 3].map((id) => [id, 0])));
  expect(east.content.equals(source.content)).toBe(true);
});
