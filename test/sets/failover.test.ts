// Failover and failback, in thousands of steps: a replica is handed out, both sides are written to, runs go on, processes die in the
// middle; then both are brought together. What comes out is known beforehand: nothing that one side wrote is lost unless
// the operator said so, and then it was kept.
import { join } from "node:path";
import { expect, test } from "vitest";
import { AgentError } from "../../src/base/errors.ts";
import type { FailBackOptions } from "../../src/sets/failback.ts";
import { handOutAlone } from "../../src/sets/failover.ts";
import { ConflictError } from "../../src/sets/verdict.ts";
import { openSqliteStore } from "../../src/truth/sqlite-store.ts";
import { below, bytesOf, oneOf } from "../support/data.ts";
import { WorkFolder } from "../support/lunsync.ts";
import { blockBytes, extentBytes, name, type Site, World, world } from "./roles-fixture.ts";

const cases = Number(process.env.LUNSYNC_TEST_CASES ?? 60);

/** Extents in which they differ. */
function changedBetween(a: Buffer, b: Buffer): Set<number> {
  const changed = new Set<number>();
  for (let at = 0; at < a.length; at += extentBytes)
    if (!a.subarray(at, at + extentBytes).equals(b.subarray(at, at + extentBytes)))
      changed.add(at / extentBytes);
  return changed;
}

function overlaid(base: Buffer, from: Buffer, extents: Iterable<number>): Buffer {
  const result = Buffer.from(base);
  for (const extent of extents)
    from.copy(result, extent * extentBytes, extent * extentBytes, (extent + 1) * extentBytes);
  return result;
}

test("whatever was written to either side comes through, or is kept where the operator gave it up", async () => {
  await using folder = await WorkFolder.make();
  const seen = { none: 0, conflicts: 0, east: 0, source: 0, mixed: 0 };
  for (let seed = 1; seed <= cases; seed++) {
    await using store = await openSqliteStore(join(folder.path, `${seed}.sqlite`));
    const world = await World.make(seed, store);
    const { random } = world;
    const [source, east, west] = world.sites as [Site, Site, Site];
    await world.run();
    if (random() < 0.5) {
      world.write("source", world.some(3));
      if (random() < 0.5) await world.run();
    }
    await world.despiteDeaths(() => world.failOver());
    const base = east.content;
    for (let steps = below(random, 4); steps > 0; steps--) {
      world.write("east", world.some(2));
      if (random() < 0.5) world.write("source", world.some(1));
      if (random() < 0.6) await world.despiteDeaths(() => world.run());
    }
    const [atEast, atSource] = [east.content, source.content];
    const [ours, theirs] = [changedBetween(base, atEast), changedBetween(base, atSource)];
    const both = [...ours].filter((extent) => theirs.has(extent));
    const isConflict = ours.size > 0 && theirs.size > 0 && !atEast.equals(atSource);
    const note = `seed ${seed}`;
    let expected = ours.size > 0 ? atEast : atSource;
    let how: Partial<FailBackOptions> = {};
    if (isConflict) {
      const refused = await world.failBack().catch((error: unknown) => error);
      // What both made the same of is in no conflict: then nobody need be asked if nothing else has changed at one of them.
      const alike = both.filter((extent) => !changedBetween(atEast, atSource).has(extent));
      const isOneSided = [ours, theirs].some((changed) => changed.size === alike.length);
      if (isOneSided) expected = ours.size === alike.length ? atSource : atEast;
      else {
        seen.conflicts++;
        expect(refused, note).toBeInstanceOf(ConflictError);
        const { conflict } = refused as ConflictError;
        expect(conflict.onlyLeader.count + conflict.both.count + conflict.alike, note).toBe(ours.size);
        expect(conflict.onlyRival.count + conflict.both.count + conflict.alike, note).toBe(theirs.size);
        expect([east.content.equals(atEast), source.content.equals(atSource)], note).toEqual([true, true]);
        const prefer = oneOf(random, ["east", "source", "priority"]);
        const winner = prefer === "east" ? "east" : "source";
        const mix = random() < 0.3;
        how = { prefer, mix };
        seen[mix ? "mixed" : winner]++;
        expected = winner === "east" ? atEast : atSource;
        if (mix) {
          const merged = overlaid(overlaid(base, atEast, ours), atSource, theirs);
          expected = overlaid(merged, expected, both);
        }
      }
    } else seen.none++;
    const done = await world.despiteDeaths(() => world.failBack(how));
    expect(done.source, note).toBe("source");
    // Who follows again holds the generation that its host calls it.
    for (const { generation } of (await store.set(name)).members.filter((each) => each.name === "east")) {
      const state = await east.volume.wholeState?.();
      if (state?.label) expect(state.label.generation, note).toBe(generation);
    }
    for (const site of [source, east, west])
      expect([site.name, site.disk.medium.equals(expected)], note).toEqual([site.name, true]);
    // Whatever a side had of its own and has no more was kept before it was overwritten.
    for (const [site, was] of [
      [east, atEast],
      [source, atSource],
    ] as const)
      for (const extent of changedBetween(was, expected)) {
        const kept = world.kept.get(`${site.volume.name} ${extent * 2}`);
        const own = (site === east ? ours : theirs).has(extent);
        const cut = was.subarray(extent * extentBytes, (extent + 1) * extentBytes);
        if (own) expect(kept?.equals(cut), `${note}: extent ${extent} of ${site.name}`).toBe(true);
      }
    const last = await world.run();
    expect(last.replicas.map(({ state, pending }) => [state, pending])).toEqual(
      last.replicas.map(() => ["in step", 0]),
    );
    expect(last.changed, note).toBe(0);
  }
  // All of it was met.
  for (const [what, count] of Object.entries(seen)) expect([what, count > 0]).toEqual([what, true]);
});

test("a replica that was handed out is not written to by any run, with the truth database or without", async () => {
  await using made = await world(2); // east keeps whole generations
  const east = made.site("east");
  await made.run();
  expect(east.volume.traits.keepsWhole).toBe(true);
  await handOutAlone(east.volume, false);
  made.write("east", [0]);
  made.write("source", [1]);
  const held = east.content;
  const refused = (await made.run()).replicas.find((replica) => replica.name === "east");
  expect(refused).toMatchObject({
    state: "offline",
    reason: expect.stringMatching(/handed out by a failover/),
  });
  expect(east.content.equals(held)).toBe(true);
  // Both have changed: that is found, and nobody wins by accident.
  await expect(made.failBack()).rejects.toMatchObject({ code: "split_brain" });
  expect(east.content.equals(held)).toBe(true);
  await made.failBack({ prefer: "east" });
  for (const site of made.sites) expect([site.name, site.content.equals(held)]).toEqual([site.name, true]);
});

test("a replica that is newer than the truth database, or another set's, is refused", async () => {
  await using made = await world(2);
  const east = made.site("east");
  await made.run();
  const held = east.content;
  for (const [label, reason] of [
    [
      { set: Buffer.alloc(16, 0xab), generation: 9 },
      /holds generation 9 of the set, and the truth database knows 1 only/,
    ],
    [{ set: Buffer.alloc(16, 0xcd), generation: 1 }, /a replica of another set, cdcd/],
  ] as const) {
    await east.volume.labelWhole!({ ...label, handedOut: false });
    made.write("source", [0]);
    const replica = (await made.run()).replicas.find((each) => each.name === "east");
    expect(replica).toMatchObject({ state: "offline", reason: expect.stringMatching(reason) });
    await expect(made.failOver()).rejects.toMatchObject({
      code: expect.stringMatching(/replica_newer|identity/),
    });
  }
  expect(east.content.equals(held)).toBe(true);
});

test("a mixture of two generations is not handed out unless it is asked for", async () => {
  await using made = await world(4); // east keeps nothing
  expect(made.site("east").volume.traits.keepsWhole).toBeUndefined();
  await expect(made.failOver()).rejects.toMatchObject({ code: "not_whole" });
  await made.run();
  made.write("source", [0, 2]); // no neighbours: two writes
  const { disk } = made.site("east");
  let writes = 0;
  disk.before = (operation) => {
    if (operation === "write" && ++writes === 2) throw new AgentError("connection_lost", "the link is cut");
  };
  await made.run();
  disk.before = () => undefined;
  await expect(made.failOver()).rejects.toMatchObject({ code: "not_whole" });
  expect((await made.store.set(name)).facts.handedOutTo).toBeUndefined();
});

test("the set follows another member for good; the old source is a replica then", async () => {
  await using made = await world(6);
  await made.run();
  await made.failOver();
  made.write("east", [0]);
  const done = await made.failBack({ to: "east" });
  expect(done.source).toBe("east");
  // Whoever uses it goes on with that; nobody writes to what follows it.
  const { east, west } = { east: made.site("east").volume, west: made.site("west").volume };
  await east.write(2, [Buffer.alloc(blockBytes, 3)]);
  if (west.traits.keepsWhole)
    await expect(west.write(0, [Buffer.alloc(blockBytes)])).rejects.toMatchObject({
      code: "volume_readonly",
    });
  expect((await made.run()).replicas.map((replica) => [replica.name, replica.state])).toEqual([
    ["source", "in step"],
    ["west", "in step"],
  ]);
  for (const site of made.sites)
    expect([site.name, site.content.equals(made.site("east").content)]).toEqual([site.name, true]);
  // And back, with nobody handed out.
  const back = await made.failBack({ to: "source" });
  expect(back.source).toBe("source");
  expect((await made.store.set(name)).members.find(({ role }) => role === "source")!.name).toBe("source");
});

test("a source that is gone for good is left behind; it says how", async () => {
  await using made = await world(6);
  await made.run();
  await made.failOver();
  made.write("east", [0]);
  made.offline.add("source");
  await expect(made.failBack()).rejects.toMatchObject({
    code: "connection_refused",
    message: expect.stringMatching(
      /down\. The set goes on following "east"; .*lunsync failback set --to east$/,
    ),
  });
  expect((await made.failBack({ to: "east" })).source).toBe("east");
  expect((await made.run()).replicas.map((replica) => [replica.name, replica.state])).toEqual([
    ["source", "offline"],
    ["west", "in step"],
  ]);
});

test("what is written to the side that was handed out until a failback shuts its users out is not lost", async () => {
  await using made = await world(2); // east keeps whole generations
  const { volume } = made.site("east");
  await made.run();
  await made.failOver();
  const label = volume.labelWhole!.bind(volume);
  let written: Buffer | undefined;
  volume.labelWhole = async (its, signal) => {
    if (its?.handedOut === false && !written) {
      made.write("east", [0]);
      written = made.site("east").content;
    }
    await label(its, signal);
  };
  await made.failBack();
  for (const site of made.sites)
    expect([site.name, site.content.equals(written!)]).toEqual([site.name, true]);
});

test("where extents are mixed, the side that is preferred has its way with what the other one has deleted, too", async () => {
  for (const prefer of ["east", "source"]) {
    await using made = await world(2);
    const { source, east } = { source: made.site("source"), east: made.site("east") };
    const at = (site: Site, extent: number) =>
      site.content.subarray(extent * extentBytes, (extent + 1) * extentBytes);
    source.disk.change(0, bytesOf(made.random, extentBytes));
    await made.run();
    await made.failOver();
    east.disk.change(0, Buffer.alloc(extentBytes));
    await made.run();
    const [deleted, written] = [at(east, 0), bytesOf(made.random, extentBytes)];
    source.disk.change(0, written);
    await made.failBack({ prefer, mix: true });
    for (const site of made.sites)
      expect([prefer, site.name, at(site, 0).equals(prefer === "east" ? deleted : written)]).toEqual([
        prefer,
        site.name,
        true,
      ]);
  }
});

test("where extents are mixed, what an earlier leader wrote is the leader's, and has his way if he is preferred", async () => {
  await using made = await world(2);
  await made.run();
  await made.failOver("east");
  made.site("east").disk.change(0, bytesOf(made.random, extentBytes));
  await made.run();
  await made.failOver("west");
  const [first, second] = [
    made.site("west").content.subarray(0, extentBytes),
    bytesOf(made.random, extentBytes),
  ];
  made.site("source").disk.change(0, bytesOf(made.random, extentBytes));
  made.site("source").disk.change(extentBytes, second);
  await made.failBack({ prefer: "west", mix: true });
  const mixed = Buffer.concat([first, second]);
  for (const site of [made.site("source"), made.site("west")])
    expect([site.name, site.content.subarray(0, 2 * extentBytes).equals(mixed)]).toEqual([site.name, true]);
});

test("what is written to the side that has lost until a failback shuts its users out is kept", async () => {
  await using made = await world(2);
  const { volume } = made.site("east");
  await made.run();
  await made.failOver();
  made.write("source", [1]);
  const label = volume.labelWhole!.bind(volume);
  let written: Buffer | undefined;
  volume.labelWhole = async (its, signal) => {
    if (its?.handedOut === false && !written) {
      written = bytesOf(made.random, extentBytes);
      made.site("east").disk.change(0, written);
    }
    await label(its, signal);
  };
  await made.failBack();
  await made.run();
  const { source, east } = { source: made.site("source"), east: made.site("east") };
  expect(east.content.equals(source.content)).toBe(true);
  expect(made.kept.get("east 0")?.equals(written!)).toBe(true);
});

test("where extents are mixed, what the truth takes of the source is not written to any more before it is shipped", async () => {
  await using made = await world(2);
  const source = made.site("source");
  await made.run();
  await made.failOver();
  made.write("east", [0]);
  made.write("source", [1]);
  let fenced = false;
  source.volume.fence = async (_, { ifFenced = false } = {}) => {
    // What an earlier command has reserved is taken before; here it has none.
    if (!ifFenced) fenced = true;
    return fenced;
  };
  const write = made.store.write.bind(made.store);
  made.store.write = (lease, action) => {
    if (!fenced) made.write("source", [1]);
    return write(lease, action);
  };
  await made.failBack({ prefer: "east", mix: true });
  expect(fenced).toBe(true);
  for (const site of made.sites)
    expect([site.name, site.content.equals(source.content)]).toEqual([site.name, true]);
});

test("who is handed out again with changes of his own has his way over whoever was meanwhile only if he is preferred", async () => {
  for (const prefer of ["west", "source"]) {
    await using made = await world(2);
    await made.run();
    await made.failOver("east");
    made.site("east").disk.change(0, bytesOf(made.random, extentBytes));
    const atEast = made.site("east").content;
    await made.failOver("west");
    made.site("west").disk.change(extentBytes, bytesOf(made.random, extentBytes));
    const atWest = made.site("west").content;
    await made.failOver("east");
    // The old source has changed nothing: it gets what the east has.
    await made.failBack();
    expect(made.site("source").content.equals(atEast)).toBe(true);
    await expect(made.failBack()).rejects.toMatchObject({ code: "split_brain" });
    await expect(made.failBack({ prefer, mix: true })).rejects.toMatchObject({
      message: expect.stringMatching(/Nobody knows what "source" and "west" both held/),
    });
    expect(made.site("west").content.equals(atWest)).toBe(true);
    made.kept.clear();
    await made.failBack({ prefer });
    const expected = prefer === "west" ? atWest : atEast;
    for (const site of made.sites)
      expect([prefer, site.name, site.content.equals(expected)]).toEqual([prefer, site.name, true]);
    const kept = made.kept.get(prefer === "west" ? "source 0" : "west 2");
    const lost =
      prefer === "west" ? atEast.subarray(0, extentBytes) : atWest.subarray(extentBytes, 2 * extentBytes);
    expect(kept?.equals(lost)).toBe(true);
  }
});

test("a replica of which some can't be read is no whole generation", async () => {
  await using made = await world(2);
  await made.run();
  made.site("east").disk.unreadable.add(2);
  await expect(made.failOver()).rejects.toMatchObject({
    code: "not_whole",
    message: expect.stringMatching(/1 extents can't be read/),
  });
  expect((await made.store.set(name)).facts.handedOutTo).toBeUndefined();
  made.site("east").disk.unreadable.clear();
  await made.failOver();
});

test("a replica of which not all could be put back is no whole generation, also when that is tried again", async () => {
  for (const alone of [false, true]) {
    await using made = await world(2); // east keeps whole generations
    const { disk, volume } = made.site("east");
    await made.run();
    disk.unreadable.add(2);
    made.write("source", [1, 3]);
    disk.before = (operation) => {
      if (["write", "flush"].includes(operation) && disk.unreadable.size === 0)
        throw new AgentError("connection_lost", "the link is cut");
    };
    await made.run();
    disk.before = () => undefined;
    expect((await volume.wholeState!()).state).toBe("open");
    const handOut = (force: boolean) => (alone ? handOutAlone(volume, force) : made.failOver("east", force));
    for (const why of [/1 extents could not be read before/, /it is a mixture/i])
      await expect(handOut(false)).rejects.toMatchObject({
        code: "not_whole",
        message: expect.stringMatching(why),
      });
    expect((await volume.wholeState!()).label).toMatchObject({ generation: 0, handedOut: false });
    // The next run makes it whole.
    if (!alone) await made.run();
    await handOut(alone);
  }
});

test("the truth knows whose change it took", async () => {
  await using made = await world(2);
  await made.run();
  made.write("source", [1]);
  await made.run();
  await made.failOver();
  made.write("east", [0]);
  await made.run();
  const { members } = await made.store.set(name);
  const idOf = (each: string) => members.find((member) => member.name === each)!.id;
  const [page] = await made.store.truth(name, 0, 1);
  expect([page!.origins[0], page!.origins[1]]).toEqual([idOf("east"), idOf("source")]);
});
