// Two sides of a set, one case each: who may have his way without being asked for, and what is found of those who write at the
// wrong instant.
import { expect, test } from "vitest";
import { AgentError } from "../../src/base/errors.ts";
import { failBack } from "../../src/sets/failback.ts";
import { failOver, handOutAlone } from "../../src/sets/failover.ts";
import { runSet } from "../../src/sets/run.ts";
import { bytesOf } from "../support/data.ts";
import { MemoryVolume } from "../support/memory-volume.ts";
import { blockBytes, extentBytes, name, world } from "./roles-fixture.ts";

test("who was handed out by his host alone, and then by a failover, does not lose what was written to him between", async () => {
  await using made = await world(2); // east keeps whole generations
  const east = made.site("east");
  await made.run();
  await handOutAlone(east.volume, false);
  made.write("east", [0]);
  const held = east.content;
  await made.failOver("east");
  // The old source differs there, and has changed nothing.
  await expect(made.failBack()).rejects.toMatchObject({ code: "split_brain" });
  expect(east.content.equals(held)).toBe(true);
  await made.failBack({ prefer: "east" });
  for (const site of made.sites) expect([site.name, site.content.equals(held)]).toEqual([site.name, true]);
});

test("who writes after a verdict that he has changed nothing stops the failback before anything is written", async () => {
  for (const [changed, late] of [
    ["east", "source"],
    ["source", "east"],
  ] as const) {
    await using made = await world(2);
    await made.run();
    await made.failOver();
    made.write(changed, [0]);
    const truth = made.store.truth.bind(made.store);
    let asked = 0;
    made.store.truth = (...how) => {
      // First for the verdict, then for the pass that carries it out.
      if (++asked === 2) made.write(late, [1]);
      return truth(...how);
    };
    await expect(made.failBack()).rejects.toMatchObject({
      code: "split_brain",
      message: expect.stringMatching(`"${late}" was written to while both sides were compared`),
    });
    made.store.truth = truth;
    const held = made.sites.map(({ content }) => content);
    await expect(made.failBack()).rejects.toMatchObject({ code: "split_brain" });
    expect(made.sites.map((site, k) => site.content.equals(held[k]!))).toEqual([true, true, true]);
    await made.failBack({ prefer: late });
    for (const site of made.sites)
      expect([late, site.name, site.content.equals(made.site(late).content)]).toEqual([
        late,
        site.name,
        true,
      ]);
  }
});

test("a replica that its host hands out while a run opens it is not written to, and is given up again", async () => {
  await using made = await world(2); // east keeps whole generations
  const { volume } = made.site("east");
  await made.run();
  made.write("source", [1]);
  let fenced = false;
  volume.fence = async () => {
    await handOutAlone(volume, false);
    made.write("east", [0]);
    fenced = true;
    return true;
  };
  volume.unfence = async () => {
    fenced = false;
  };
  const found = (await made.run()).replicas.find((replica) => replica.name === "east");
  expect(found).toMatchObject({
    state: "offline",
    reason: expect.stringMatching(/handed out by a failover/),
  });
  expect(fenced).toBe(false);
  const held = made.site("east").content;
  // Who has been handed out for long is not even shut out for a moment.
  let fences = 0;
  volume.fence = async () => ++fences > 0;
  await made.run();
  expect([fences, made.site("east").content.equals(held)]).toEqual([0, true]);
});

test("users of a volume that has reservations, and no label, are shut out by one: the last pass sees all that they wrote", async () => {
  await using made = await world(4); // east keeps nothing
  const east = made.site("east");
  expect(east.volume.traits.keepsWhole).toBeUndefined();
  await made.run();
  await made.failOver();
  let fenced = false;
  east.volume.fence = async (_, { ifFenced = false } = {}) => {
    if (!ifFenced) fenced = true;
    return fenced;
  };
  const truth = made.store.truth.bind(made.store);
  made.store.truth = (...how) => {
    if (!fenced) made.write("east", [0]);
    return truth(...how);
  };
  await made.failBack();
  expect(fenced).toBe(true);
  for (const site of made.sites)
    expect([site.name, site.content.equals(east.content)]).toEqual([site.name, true]);
});

test("what is handed out by force is on its medium: it is what the truth says after a power cut, too", async () => {
  await using made = await world(4); // east keeps nothing
  const { disk } = made.site("east");
  await made.run();
  made.write("source", [0, 2]);
  disk.before = (operation) => {
    if (operation === "flush" && !disk.medium.equals(disk.cache))
      throw new AgentError("connection_lost", "the link is cut");
  };
  await made.run();
  disk.before = () => undefined;
  expect(disk.medium.equals(disk.cache)).toBe(false);
  await made.failOver("east", true);
  const held = made.site("east").content;
  disk.reset(() => false);
  expect(made.site("east").content.equals(held)).toBe(true);
  expect((await made.run()).changed).toBe(0);
});

test("what a run that is late sends to a replica ends before a run asks what that holds", async () => {
  await using made = await world(4); // east keeps nothing
  const { disk, volume } = made.site("east");
  await made.run();
  let isShut = false;
  volume.fence = async () => {
    isShut = true;
    return true;
  };
  const encode = disk.encodeDigests.bind(disk);
  disk.encodeDigests = async (window) => {
    const answer = await encode(window);
    if (!isShut) disk.change(0, bytesOf(made.random, extentBytes));
    return answer;
  };
  made.write("source", [1]);
  await made.run();
  expect(isShut).toBe(true);
  expect(made.site("east").content.equals(made.site("source").content)).toBe(true);
});

test("what a late run sends while a replica is handed out does not arrive there", async () => {
  await using made = await world(4); // east keeps nothing
  const { disk, volume } = made.site("east");
  await made.run();
  let [isShut, isOpen] = [false, false];
  volume.fence = async () => {
    isShut = true;
    return true;
  };
  volume.unfence = async () => {
    isOpen = true;
  };
  const write = made.store.write.bind(made.store);
  made.store.write = (lease, action) => {
    if (!isShut) disk.change(0, bytesOf(made.random, extentBytes));
    return write(lease, action);
  };
  await made.failOver();
  made.store.write = write;
  expect([isShut, isOpen]).toEqual([true, true]);
  // What it holds is what the truth says, and its users may change that.
  expect((await made.run()).changed).toBe(0);
});

test("who is to be followed, and gets extents of the other, is shut to its users as long as it gets them", async () => {
  await using made = await world(2); // east keeps whole generations
  const { disk, volume } = made.site("east");
  await made.run();
  await made.failOver();
  made.write("east", [0]);
  made.write("source", [1]);
  const labels: Promise<boolean | undefined>[] = [];
  disk.before = (operation) => {
    if (operation === "write") labels.push(volume.wholeState!().then(({ label }) => label?.handedOut));
  };
  await made.failBack({ to: "east", prefer: "east", mix: true });
  expect(labels.length).toBeGreaterThan(0);
  expect(await Promise.all(labels)).toEqual(labels.map(() => false));
  expect((await volume.wholeState!()).label?.handedOut).toBe(true);
  for (const site of made.sites)
    expect([site.name, site.content.equals(made.site("east").content)]).toEqual([site.name, true]);
});

test("the set follows another one only when the users of who was followed were shut out before he was asked", async () => {
  await using made = await world(2);
  const { volume, disk } = made.site("source");
  await made.run();
  let fenced = false;
  volume.fence = async (_, { ifFenced = false } = {}) => {
    if (!ifFenced) fenced = true;
    return fenced;
  };
  const write = made.store.write.bind(made.store);
  let written: Buffer | undefined;
  made.store.write = async (lease, action) => {
    if (!fenced) {
      written = bytesOf(made.random, extentBytes);
      disk.change(0, written);
    }
    await write(lease, action);
  };
  await made.failBack({ to: "east" });
  expect(fenced).toBe(true);
  for (const site of made.sites)
    expect([site.name, site.content.subarray(0, extentBytes).equals(written!)]).toEqual([site.name, true]);
});

test("what a failback that died has sent to a side ends before the side is asked", async () => {
  for (const at of ["source", "east"]) {
    await using made = await world(2);
    const { volume, disk } = made.site(at);
    await made.run();
    await made.failOver();
    made.write("east", [0]);
    const atEast = made.site("east").content;
    const dead = 0;
    let holder: number | undefined = dead;
    volume.fence = async ({ number }, { ifFenced = false } = {}) => {
      if (ifFenced && holder === undefined) return false;
      holder = number;
      return true;
    };
    volume.unfence = async () => {
      holder = undefined;
    };
    const truth = made.store.truth.bind(made.store);
    made.store.truth = (...how) => {
      if (holder === dead) disk.change(extentBytes, bytesOf(made.random, extentBytes));
      return truth(...how);
    };
    await made.failBack();
    for (const site of made.sites)
      expect([at, site.name, site.content.equals(atEast)]).toEqual([at, site.name, true]);
  }
});

test("what a roll back took of a replica that was handed out by its host alone does not count as its change", async () => {
  await using made = await world(2); // east keeps whole generations
  const { source, east } = { source: made.site("source"), east: made.site("east") };
  await made.run();
  made.write("source", [1]);
  // All of it is acknowledged, and the run is cut off before it ends there.
  const write = made.store.write.bind(made.store);
  let isCut = false;
  const { members } = await made.store.set(name);
  const { id } = members.find((member) => member.name === "east")!;
  made.store.write = async (lease, action) => {
    const before = (await made.store.pendingCounts(name)).get(id) ?? 0;
    await write(lease, action);
    isCut ||= before > 0 && ((await made.store.pendingCounts(name)).get(id) ?? 0) === 0;
  };
  east.disk.before = () => {
    if (isCut) throw new AgentError("connection_lost", "the link is cut");
  };
  await made.run();
  made.store.write = write;
  east.disk.before = () => undefined;
  expect([isCut, (await east.volume.wholeState!()).state]).toEqual([true, "open"]);
  const atSource = source.content;
  await handOutAlone(east.volume, false);
  expect(east.content.equals(atSource)).toBe(false);
  await expect(made.failBack()).rejects.toMatchObject({ code: "split_brain" });
  expect(source.content.equals(atSource)).toBe(true);
  await made.failBack({ prefer: "source" });
  for (const site of made.sites)
    expect([site.name, site.content.equals(atSource)]).toEqual([site.name, true]);
});

test("what is overwritten of a side is kept where it lies, also beside what its giver has changed meanwhile", async () => {
  await using made = await world(2);
  const [source, east] = [made.site("source"), made.site("east")];
  await made.run();
  await made.failOver();
  for (const { disk } of [source, east]) disk.change(0, bytesOf(made.random, 3 * extentBytes));
  const atEast = east.content;
  const write = made.store.write.bind(made.store);
  let isWritten = false;
  made.store.write = async (lease, action) => {
    await write(lease, action);
    if (!isWritten) source.disk.change(0, bytesOf(made.random, extentBytes));
    isWritten = true;
  };
  await made.failBack({ prefer: "source" });
  await made.run();
  expect(east.content.equals(source.content)).toBe(true);
  for (const extent of [1, 2])
    expect(
      made.kept
        .get(`east ${(extent * extentBytes) / blockBytes}`)
        ?.equals(atEast.subarray(extent * extentBytes, (extent + 1) * extentBytes)),
    ).toBe(true);
});

test("a host that hands its replica out alone takes it from whoever has it before it is returned to what it was", async () => {
  await using made = await world(2); // east keeps whole generations
  const { volume, disk } = made.site("east");
  await made.run();
  const held = made.site("east").content;
  let isTaken = false;
  volume.takeFence = async () => {
    isTaken = true;
    return true;
  };
  const label = volume.labelWhole!.bind(volume);
  volume.labelWhole = async (its, signal) => {
    if (!isTaken) disk.change(0, bytesOf(made.random, extentBytes)); // of a run that sleeps
    await label(its, signal);
  };
  await handOutAlone(volume, false);
  expect(isTaken).toBe(true);
  expect(made.site("east").content.equals(held)).toBe(true);
});

test("a failover that is done again takes the replica from who died with it, and does nothing when it is late itself", async () => {
  await using made = await world(2); // east keeps whole generations
  const { volume } = made.site("east");
  await made.run();
  await made.failOver();
  const calls: string[] = [];
  volume.fence = async (_, { ifFenced = false } = {}) => {
    calls.push(ifFenced ? "take from the dead" : "fence");
    return true;
  };
  volume.unfence = async () => {
    calls.push("unfence");
  };
  expect((await made.failOver()).already).toBe(true);
  expect(calls).toEqual(["take from the dead", "unfence"]);
  // It has seen the set when that followed the east, slept, and goes on when it does not any more.
  const before = await made.store.set(name);
  await made.failBack();
  const store = new Proxy(made.store, {
    get: (its, key) => {
      if (key === "set") return async () => before;
      if (key !== "acquire") return Reflect.get(its, key).bind(its);
      return async (set: string, owner: string, ttlMs: number) => {
        const renew = async () => {
          throw new AgentError("not_known", "its lease was lost");
        };
        return Object.assign((await its.acquire(set, owner, ttlMs))!, { renew });
      };
    },
  });
  calls.length = 0;
  const late = failOver(name, { ...made.options(), store, replica: "east", force: false });
  await expect(late).rejects.toMatchObject({ code: "not_known" });
  expect(calls).not.toContain("unfence");
  expect((await volume.wholeState!()).label).toMatchObject({ handedOut: false });
});

test("what a roll back by hand put back is not said to be somebody's writing", async () => {
  await using made = await world(2); // east keeps whole generations
  const { volume, disk } = made.site("east");
  await made.run();
  made.write("source", [1]);
  let flushes = 0;
  disk.before = (operation) => {
    // The last one ends the run there.
    if (operation === "flush" && disk.cache.equals(made.site("source").content) && ++flushes > 1)
      throw new AgentError("connection_lost", "the link is cut");
  };
  await made.run();
  disk.before = () => undefined;
  expect((await volume.wholeState!()).state).toBe("open");
  await volume.rollBackWhole!();
  const strayed = async () =>
    (await made.run()).replicas.find((replica) => replica.name === "east")!.strayed?.ranges;
  expect(await strayed()).toBeUndefined();
  made.write("east", [0]);
  expect(await strayed()).toEqual([{ first: 0, count: 1 }]);
});

test("another volume in the place of a side is nobody's truth, and is handed out to nobody", async () => {
  for (const handsOut of [false, true]) {
    await using made = await world(2);
    await made.run();
    if (handsOut) await made.failOver();
    const leader = handsOut ? "east" : "source";
    const held = made.sites.map(({ content }) => content);
    const before = await made.store.set(name);
    const mismatch = { code: "identity_mismatch", message: expect.stringMatching(/is another volume than/) };
    const options = (at: string) => ({
      ...made.options(),
      open: async (address: string) => {
        const { volume, content } = made.site(address);
        if (address !== at) return volume;
        // An empty disk, of the same size.
        const other = new MemoryVolume(address, Buffer.alloc(content.length), blockBytes);
        return Object.assign(other, { identity: { uuid: "another", keys: [], description: "memory" } });
      },
    });
    const how = { prefer: "source", mix: false, to: undefined, keep: made.keep };
    await expect(runSet(name, options(leader))).rejects.toMatchObject(mismatch);
    await expect(failBack(name, { ...options(leader), ...how, to: "west" })).rejects.toMatchObject(mismatch);
    await expect(failOver(name, { ...options("west"), replica: "west", force: true })).rejects.toMatchObject(
      mismatch,
    );
    if (handsOut)
      await expect(failBack(name, { ...options("source"), ...how })).rejects.toMatchObject(mismatch);
    expect(await made.store.set(name)).toEqual(before);
    expect(made.sites.map((site, k) => site.content.equals(held[k]!))).toEqual([true, true, true]);
  }
});
