// Restore points of a volume that keeps its last whole generation: bad blocks, damage, growth, roll backs that are not complete,
// room that is wanting, files that somebody else has removed.
import { open, readdir, rm, truncate, writeFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { AgentError } from "../../src/base/errors.ts";
import { systemClock } from "../../src/platform/clock.ts";
import { systemRandom } from "../../src/platform/random.ts";
import { FileVolume } from "../../src/volume/file-volume.ts";
import type { Volume } from "../../src/volume/volume.ts";
import { dataAt, extentBytes, tableAt } from "../../src/whole/format.ts";
import type { KeepPolicy } from "../../src/whole/keep-policy.ts";
import { openWhole } from "../../src/whole/keeper.ts";
import { WholePoints } from "../../src/whole/points.ts";
import type { WholeVolume } from "../../src/whole/whole-volume.ts";
import { bytesOf, randomOf } from "../support/data.ts";
import { WorkFolder } from "../support/lunsync.ts";
import { MemoryVolume } from "../support/memory-volume.ts";

const blockBytes = 512;
const extentBlocks = extentBytes / blockBytes;
const extents = 6;
const all: KeepPolicy = [{ count: 100 }];

interface Kept {
  readonly keep?: KeepPolicy | undefined;
  readonly keepBytes?: number;
  readonly log?: string[];
}

const keep = (folder: WorkFolder, volume: Volume, { log = [], ...options }: Kept = { keep: all }) =>
  openWhole(volume, {
    folder: folder.path,
    clock: systemClock,
    random: systemRandom,
    log: (_level, message) => log.push(message),
    changedMs: async () => undefined,
    ...options,
  });

const memoryOf = () => new MemoryVolume("disk", bytesOf(randomOf(1), extents * extentBytes), blockBytes);

let nextRun = 1;

/** A run that overwrites these extents with something new. What the volume was before it. */
async function overwrite(whole: WholeVolume, volume: MemoryVolume, ...which: number[]): Promise<Buffer> {
  const before = Buffer.from(volume.cache);
  const run = Buffer.alloc(16, nextRun++);
  await whole.beginWhole(run);
  for (const extent of which)
    await whole.write(extent * extentBlocks, [bytesOf(randomOf(nextRun * 100 + extent), extentBytes)]);
  await whole.commitWhole(run);
  return before;
}

async function contentOf(volume: Volume): Promise<Buffer> {
  const { blocks } = volume.geometry;
  const buffer = Buffer.alloc(blocks * blockBytes);
  await volume.read(0, buffer);
  return buffer;
}

/** What each point shows, the oldest first; or the code of why it shows nothing. */
async function shown(whole: WholeVolume): Promise<(Buffer | string)[]> {
  const points = new WholePoints(whole);
  return Promise.all(
    (await points.list()).map(async ({ id }) => {
      const { volume } = await points.open(id, { force: true });
      await using _volume = volume;
      return contentOf(volume).catch((error) => (error instanceof AgentError ? error.code : `${error}`));
    }),
  );
}

async function layersOf(folder: WorkFolder): Promise<string> {
  const name = (await readdir(folder.file("whole"))).find((each) => each.endsWith(".layers"));
  return folder.file(`whole/${name}`);
}

async function damage(path: string, offset: number): Promise<void> {
  await using file = await open(path, "r+");
  const byte = Buffer.alloc(1);
  await file.read(byte, 0, 1, offset);
  await file.write(Buffer.from([byte[0]! ^ 0xff]), 0, 1, offset);
}

const codeOf = (work: Promise<unknown>) =>
  work.then(
    () => "no error",
    (error) => (error instanceof AgentError ? error.code : error),
  );

test("points are there after a restart, and show what was, also of a volume that has grown", async () => {
  await using folder = await WorkFolder.make();
  const volume = memoryOf();
  const was: Buffer[] = [];
  {
    await using kept = await keep(folder, volume);
    was.push(await overwrite(kept.volume, volume, 0, 5));
    await kept.volume.grow((extents + 1) * extentBlocks - 7);
    was.push(await overwrite(kept.volume, volume, 1, 5));
    await kept.volume.write(extents * extentBlocks - 3, [bytesOf(randomOf(5), 100 * blockBytes)]);
  }
  await using kept = await keep(folder, volume);
  was.push(await overwrite(kept.volume, volume, 0, 1, 2, 3, 4, 5));
  const seen = await shown(kept.volume);
  expect(seen.length).toBe(4); // one of what was written outside of a run
  expect(
    seen.map((each, i) => (i === 2 ? was[1]!.length : was[Math.min(i, 2)]!.length) - each.length),
  ).toEqual([0, 0, 0, 0]);
  expect([was[0]!.equals(seen[0] as Buffer), was[1]!.equals(seen[1] as Buffer)]).toEqual([true, true]);
  expect(was[2]!.equals(seen[3] as Buffer)).toBe(true);
});

test("a point that the policy does not want is merged into the next older one", async () => {
  await using folder = await WorkFolder.make();
  const volume = memoryOf();
  const was: Buffer[] = [];
  {
    await using kept = await keep(folder, volume);
    was.push(await overwrite(kept.volume, volume, 0, 1));
    was.push(await overwrite(kept.volume, volume, 1, 2));
    was.push(await overwrite(kept.volume, volume, 2, 3));
  }
  // All of one week: the newest.
  await using kept = await keep(folder, volume, {
    keep: [{ count: 1, periodMs: 7 * 86_400_000 }, { count: 1 }],
  });
  const { tidy, chain } = kept.volume.journal;
  expect(tidy.next()).toMatchObject({ action: "drop" });
  await kept.volume.tidy();
  const left = await shown(kept.volume);
  expect(left.map((each) => was[2]!.equals(each as Buffer))).toEqual([true]);
  expect(chain.sealed.map(({ keptExtents }) => keptExtents)).toEqual([2]);
});

test("a run ends while points are merged, however long that takes", async () => {
  await using folder = await WorkFolder.make();
  const volume = memoryOf();
  await using kept = await keep(folder, volume, { keep: [{ count: 2, periodMs: 1 }] });
  const { volume: whole } = kept;
  const { chain, tidy } = whole.journal;
  const merging = Promise.withResolvers<void>();
  const begun = Promise.withResolvers<void>();
  const merge = chain.merge.bind(chain);
  chain.merge = async (...layers) => {
    begun.resolve();
    await merging.promise;
    await merge(...layers);
  };
  await overwrite(whole, volume, 0);
  const { volume: first } = await new WholePoints(whole).open((await new WholePoints(whole).list())[0]!.id);
  for (let run = 0; run < 4; run++) {
    await systemClock.sleep(2); // another millisecond, and so another period
    await overwrite(whole, volume, run);
  }
  expect(tidy.next()?.action).toBe("merge");
  const tidied = whole.tidy();
  await begun.promise;
  const last = await overwrite(whole, volume, 0, 1, 2);
  merging.resolve();
  await tidied;
  expect(last.equals((await shown(whole)).at(-1) as Buffer)).toBe(true);
  await first[Symbol.asyncDispose]();
});

describe("what can't be read any more is told as such, and nothing else in its place", () => {
  test("a block that could not be read before it was overwritten", async () => {
    await using folder = await WorkFolder.make();
    const volume = memoryOf();
    await using kept = await keep(folder, volume);
    const { volume: whole } = kept;
    volume.unreadable.add(extentBlocks + 7);
    await overwrite(whole, volume, 1);
    await overwrite(whole, volume, 1, 2);
    expect((await shown(whole))[0]).toBe("medium_error");
    expect(typeof (await shown(whole))[1]).toBe("object");
  });

  test("an image that is damaged, also when its layer is merged", async () => {
    await using folder = await WorkFolder.make();
    const volume = memoryOf();
    const was: Buffer[] = [];
    {
      await using kept = await keep(folder, volume);
      was.push(await overwrite(kept.volume, volume, 0));
      was.push(await overwrite(kept.volume, volume, 1, 2));
      await overwrite(kept.volume, volume, 1, 2);
    }
    const layers = await layersOf(folder);
    await damage(`${layers}/2`, dataAt(volume.cache.length) + 100); // of extent 1
    await using kept = await keep(folder, volume);
    const { volume: whole } = kept;
    expect((await shown(whole)).slice(0, 2)).toEqual(["medium_error", "medium_error"]);
    await whole.journal.chain.merge(whole.journal.chain.sealed[1]!);
    expect(await readdir(layers)).toEqual(["1", "3"]);
    expect((await shown(whole))[0]).toBe("medium_error");
    const [first] = await new WholePoints(whole).list();
    const { volume: point } = await new WholePoints(whole).open(first!.id);
    await using _point = point;
    const others = Buffer.alloc(4 * extentBytes);
    await point.read(2 * extentBlocks, others);
    expect(others.equals(was[0]!.subarray(2 * extentBytes))).toBe(true);
    expect(await codeOf(point.read(extentBlocks + 3, Buffer.alloc(blockBytes)))).toBe("medium_error");
  });

  test("a layer whose head is damaged, or whose file is gone from under an open run", async () => {
    await using folder = await WorkFolder.make();
    const volume = memoryOf();
    let last: Buffer;
    {
      await using kept = await keep(folder, volume);
      await overwrite(kept.volume, volume, 0);
      await overwrite(kept.volume, volume, 1);
      last = await overwrite(kept.volume, volume, 2);
    }
    const layers = await layersOf(folder);
    for (const at of [20, 4096 + 20]) await damage(`${layers}/2`, at);
    const log: string[] = [];
    {
      await using kept = await keep(folder, volume, { keep: all, log });
      expect(log.join()).toMatch(/older can't be relied on/);
      const points = await new WholePoints(kept.volume).list();
      expect(points.map(({ number, doubtful }) => [number, doubtful])).toEqual([
        [1, true],
        [3, false],
      ]);
      expect(last.equals((await shown(kept.volume))[1] as Buffer)).toBe(true);
      expect(await codeOf(new WholePoints(kept.volume).open(points[0]!.id))).toBe("backup_mismatch");
      await kept.volume.beginWhole(Buffer.alloc(16, 1));
    }
    await rm(`${layers}/4`);
    expect(await codeOf(keep(folder, volume))).toBe("state_damaged");
  });
});

test("a roll back that was not complete leaves what older points need", async () => {
  await using folder = await WorkFolder.make();
  const volume = memoryOf();
  await using kept = await keep(folder, volume);
  const { volume: whole } = kept;
  const before = await overwrite(whole, volume, 0);
  volume.unreadable.add(2 * extentBlocks);
  await whole.beginWhole(Buffer.alloc(16, 99));
  await whole.write(2 * extentBlocks, [Buffer.alloc(extentBytes, 9)]);
  expect(await whole.rollBackWhole()).toMatchObject({ unreadable: 1 });
  expect(await shown(whole)).toEqual(["medium_error", "medium_error"]);
  // Complete, it leaves nothing.
  await whole.beginWhole(Buffer.alloc(16, 98));
  await whole.write(3 * extentBlocks, [Buffer.alloc(extentBytes, 9)]);
  expect(await whole.rollBackWhole()).toMatchObject({ extents: 1, unreadable: 0 });
  expect((await new WholePoints(whole).list()).length).toBe(2);
  const { volume: point } = await new WholePoints(whole).open((await new WholePoints(whole).list())[0]!.id);
  await using _point = point;
  const extent = Buffer.alloc(2 * extentBytes);
  await point.read(3 * extentBlocks, extent);
  expect(extent.equals(before.subarray(3 * extentBytes, 5 * extentBytes))).toBe(true);
});

test("a volume that got shorter is no more what its points need, also when it has its size again", async () => {
  await using folder = await WorkFolder.make();
  const path = folder.file("disk");
  const bytes = extents * extentBytes;
  await writeFile(path, bytesOf(randomOf(1), bytes));
  await using volume = await FileVolume.open(path, { writable: true });
  await using kept = await keep(folder, volume);
  const { volume: whole } = kept;
  const doubts = async () => (await new WholePoints(whole).list()).map(({ doubtful }) => doubtful);
  const run = async (number: number) => {
    await whole.beginWhole(Buffer.alloc(16, number));
    await whole.write(0, [Buffer.alloc(extentBytes, number)]);
    await whole.commitWhole(Buffer.alloc(16, number));
  };
  await run(1);
  expect(await doubts()).toEqual([false]);
  for (const size of [extentBytes, bytes]) {
    await truncate(path, size);
    expect(await whole.remeasure()).toBe(true);
    expect(await doubts()).toEqual([true]);
  }
  await run(2);
  expect(await doubts()).toEqual([true, false]);
  const seen = (await shown(whole))[1] as Buffer;
  expect(seen.subarray(0, extentBytes).equals(Buffer.alloc(extentBytes, 1))).toBe(true);
  expect(seen.subarray(extentBytes).equals(Buffer.alloc(bytes - extentBytes))).toBe(true);
});

test("points take no more than they may: the oldest are given up, but for those that are shown", async () => {
  await using folder = await WorkFolder.make();
  const volume = memoryOf();
  const log: string[] = [];
  await using kept = await keep(folder, volume, { keep: all, keepBytes: 4 * extentBytes, log });
  const { volume: whole } = kept;
  const was: Buffer[] = [];
  for (let run = 0; run < 4; run++) was.push(await overwrite(whole, volume, 0, 1));
  expect((await shown(whole)).map((each, i) => was[2 + i]!.equals(each as Buffer))).toEqual([true, true]);
  const points = new WholePoints(whole);
  const { volume: first } = await points.open((await points.list())[0]!.id);
  for (let run = 0; run < 3; run++) was.push(await overwrite(whole, volume, 0, 1));
  expect((await contentOf(first)).equals(was[2]!)).toBe(true);
  await first[Symbol.asyncDispose]();
  await whole.tidy();
  expect((await points.list()).length).toBe(2);
  expect(await codeOf(contentOf(first))).toBe("volume_missing");
  // What the open run needs is never given up.
  const before = Buffer.from(volume.cache);
  await whole.beginWhole(Buffer.alloc(16, 77));
  await whole.write(0, [bytesOf(randomOf(77), extents * extentBytes)]);
  await whole.rollBackWhole();
  expect(volume.cache.equals(before)).toBe(true);
});

test("a journal that was removed leaves its points in doubt", async () => {
  await using folder = await WorkFolder.make();
  const volume = memoryOf();
  {
    await using kept = await keep(folder, volume);
    await overwrite(kept.volume, volume, 0);
  }
  const journal = (await readdir(folder.file("whole"))).find((each) => each.endsWith(".journal"));
  await rm(folder.file(`whole/${journal}`));
  await using kept = await keep(folder, volume);
  expect(await new WholePoints(kept.volume).list()).toMatchObject([{ number: 1, doubtful: true }]);
  await overwrite(kept.volume, volume, 0);
  expect(await new WholePoints(kept.volume).list()).toMatchObject([{ doubtful: true }, { doubtful: false }]);
});

test("an entry that is damaged in the older layer is not overwritten by merging", async () => {
  await using folder = await WorkFolder.make();
  const volume = memoryOf();
  {
    await using kept = await keep(folder, volume);
    await overwrite(kept.volume, volume, 0);
    await overwrite(kept.volume, volume, 0);
  }
  await damage(`${await layersOf(folder)}/1`, tableAt + 20);
  await using kept = await keep(folder, volume);
  const { chain } = kept.volume.journal;
  await chain.merge(chain.sealed[1]!);
  expect(await shown(kept.volume)).toEqual(["medium_error"]);
});
