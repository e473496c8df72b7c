// A volume that keeps its last whole generation: holes, blocks that can't be read, sizes that change, damage, failures.
import { open, readdir, readFile, stat, writeFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { AgentError } from "../../src/base/errors.ts";
import { systemClock } from "../../src/platform/clock.ts";
import { systemRandom } from "../../src/platform/random.ts";
import { FileVolume } from "../../src/volume/file-volume.ts";
import type { Volume } from "../../src/volume/volume.ts";
import { dataAt, extentBytes, headerStep, tableAt } from "../../src/whole/format.ts";
import { openWhole } from "../../src/whole/keeper.ts";
import { PointView } from "../../src/whole/point-view.ts";
import { WholePoints } from "../../src/whole/points.ts";
import type { WholeVolume } from "../../src/whole/whole-volume.ts";
import { bytesOf, randomOf, volumeOf } from "../support/data.ts";
import { WorkFolder } from "../support/lunsync.ts";
import { MemoryVolume } from "../support/memory-volume.ts";

const blockBytes = 512;
const extentBlocks = extentBytes / blockBytes;
const run = Buffer.alloc(16, 1);

function keep(folder: WorkFolder, volume: Volume, log: string[] = []) {
  return openWhole(volume, {
    folder: folder.path,
    clock: systemClock,
    random: systemRandom,
    log: (_level, message) => log.push(message),
    changedMs: async () => undefined,
  });
}

async function journalOf(folder: WorkFolder): Promise<string> {
  const name = (await readdir(folder.file("whole"))).find((each) => each.endsWith(".journal"));
  return folder.file(`whole/${name}`);
}

/** The layer of the open run. */
async function layerOf(folder: WorkFolder): Promise<string> {
  const layers = (await journalOf(folder)).replace(/journal$/, "layers");
  const epochs = (await readdir(layers)).map(Number);
  return `${layers}/${Math.max(...epochs)}`;
}

/** The last whole generation of an open run. */
const lastOf = ({ volume, journal: { chain } }: WholeVolume) => new PointView(volume, chain, chain.current!);

/** Changes one byte of a file. */
async function damage(path: string, offset: number): Promise<void> {
  await using file = await open(path, "r+");
  const byte = Buffer.alloc(1);
  await file.read(byte, 0, 1, offset);
  await file.write(Buffer.from([byte[0]! ^ 0xff]), 0, 1, offset);
}

const memoryOf = (extents: number, seed = 1) =>
  new MemoryVolume("disk", bytesOf(randomOf(seed), extents * extentBytes - blockBytes), blockBytes);

const codeOf = (work: Promise<unknown>) =>
  work.then(
    () => "no error",
    (error) => (error instanceof AgentError ? error.code : error),
  );

test("what was a hole is one again, in a file, and what was data is as it was", async () => {
  await using folder = await WorkFolder.make();
  const path = folder.file("disk");
  const content = volumeOf(randomOf(1), 12 * extentBytes);
  content.fill(0, 3 * extentBytes, 7 * extentBytes);
  await writeFile(path, content);
  {
    await using volume = await FileVolume.open(path, { writable: true });
    await volume.zero(3 * extentBlocks, 4 * extentBlocks, { unmap: true });
  }
  const { blocks } = await stat(path);
  await using volume = await FileVolume.open(path, { writable: true });
  await using kept = await keep(folder, volume);
  const whole = kept.volume;
  await whole.beginWhole(run);
  await whole.write(10, [bytesOf(randomOf(2), 9 * extentBytes)]);
  await whole.zero(9 * extentBlocks, 2 * extentBlocks, { unmap: true });
  const view = lastOf(whole);
  const seen = Buffer.alloc(content.length);
  await view.read(0, seen);
  expect(seen.equals(content)).toBe(true);
  expect(await view.nextData(3 * extentBlocks, 4 * extentBlocks)).toBeUndefined();
  expect(await codeOf(view.write())).toBe("volume_readonly");
  expect(await whole.rollBackWhole()).toMatchObject({ extents: 11, lost: 0, unreadable: 0 });
  expect((await readFile(path)).equals(content)).toBe(true);
  expect((await stat(path)).blocks).toBeLessThanOrEqual(blocks);
  expect(await whole.nextData(3 * extentBlocks, 4 * extentBlocks)).toBeUndefined();
  expect(await codeOf(view.read(0, seen))).toBe("volume_missing");
  // The journal takes no room any more.
  expect((await stat(await journalOf(folder))).blocks).toBeLessThanOrEqual(16);
});

test("a block that could not be read takes no other one with it", async () => {
  await using folder = await WorkFolder.make();
  const volume = memoryOf(3);
  const before = Buffer.from(volume.cache);
  volume.unreadable.add(extentBlocks + 7);
  await using kept = await keep(folder, volume);
  await kept.volume.beginWhole(run);
  await kept.volume.write(0, [bytesOf(randomOf(2), 3 * extentBytes - blockBytes)]);
  const view = lastOf(kept.volume);
  const block = Buffer.alloc(blockBytes);
  await view.read(extentBlocks + 6, block);
  expect(
    block.equals(before.subarray((extentBlocks + 6) * blockBytes, (extentBlocks + 7) * blockBytes)),
  ).toBe(true);
  const failed = await view.read(extentBlocks, Buffer.alloc(extentBytes)).catch((error) => error);
  expect(failed).toMatchObject({ code: "medium_error", lba: extentBlocks + 7 });
  expect(await kept.volume.rollBackWhole()).toMatchObject({ extents: 3, unreadable: 1 });
  const at = (extentBlocks + 7) * blockBytes;
  expect(volume.medium.subarray(0, at).equals(before.subarray(0, at))).toBe(true);
  expect(volume.medium.subarray(at + blockBytes).equals(before.subarray(at + blockBytes))).toBe(true);
});

test("a volume that has grown keeps its size, and what is new is zeros; one that has shrunk is not rolled back", async () => {
  await using folder = await WorkFolder.make();
  const volume = memoryOf(2);
  const before = Buffer.from(volume.cache);
  const { blocks } = volume.geometry;
  await using kept = await keep(folder, volume);
  const whole = kept.volume;
  await whole.beginWhole(run);
  await whole.grow(blocks + 300);
  await whole.write(blocks - 1, [Buffer.alloc(301 * blockBytes, 7)]);
  expect(lastOf(whole).geometry.blocks).toBe(blocks);
  volume.resize(blocks - 1);
  expect(await codeOf(whole.rollBackWhole())).toBe("size_mismatch");
  volume.resize(blocks + 300);
  await whole.rollBackWhole();
  expect(volume.medium.equals(Buffer.concat([before, Buffer.alloc(300 * blockBytes)]))).toBe(true);
});

describe("where something fails", () => {
  test("what a roll back could not put on the medium is put back again, whoever was told of it", async () => {
    await using folder = await WorkFolder.make();
    const volume = memoryOf(3);
    const before = Buffer.from(volume.cache);
    await using kept = await keep(folder, volume);
    const whole = kept.volume;
    await whole.beginWhole(run);
    await whole.write(0, [bytesOf(randomOf(2), 2 * extentBytes)]);
    await whole.flush();
    let fails = true;
    volume.before = async (operation) => {
      // Somebody else's flush is told, in the middle of it.
      if (operation === "write" && fails) {
        fails = false;
        volume.reset(() => false);
        await codeOf(volume.flush());
      }
    };
    expect(await codeOf(whole.rollBackWhole())).toMatch(/medium_error|not_proved/);
    expect(await whole.wholeState()).toMatchObject({ state: "open", rollingBack: true });
    expect(await codeOf(whole.commitWhole(run))).toBe("backup_mismatch");
    await whole.rollBackWhole();
    expect(volume.medium.equals(before)).toBe(true);
    expect(await whole.wholeState()).toMatchObject({ state: "whole", rollingBack: false });
  });

  test("a run of which writes were lost is committed only when it was begun again", async () => {
    await using folder = await WorkFolder.make();
    const volume = memoryOf(2);
    await using kept = await keep(folder, volume);
    await kept.volume.beginWhole(run);
    await kept.volume.write(0, [Buffer.alloc(blockBytes)]);
    volume.reset(() => false);
    expect(await codeOf(kept.volume.flush())).toBe("not_proved");
    expect(await codeOf(kept.volume.commitWhole(run))).toBe("not_proved");
    await kept.volume.beginWhole(run);
    await kept.volume.commitWhole(run);
    expect((await kept.volume.wholeState()).state).toBe("whole");
  });

  test("a label is kept over restarts, moves with a commit, and hands the volume out only where it is whole", async () => {
    await using folder = await WorkFolder.make();
    const volume = memoryOf(2);
    const set = Buffer.alloc(16, 7);
    {
      await using kept = await keep(folder, volume);
      expect((await kept.volume.wholeState()).label).toBeUndefined();
      await kept.volume.beginWhole(run);
      await kept.volume.commitWhole(run, { label: { set, generation: 3 } });
    }
    await using kept = await keep(folder, volume);
    const whole = kept.volume;
    const labelOf = async () => (await whole.wholeState()).label;
    expect(await labelOf()).toEqual({ set, generation: 3, handedOut: false });
    // A run that is rolled back, or committed by somebody who names no set, leaves it as it is.
    await whole.beginWhole(run);
    expect(await codeOf(whole.labelWhole({ set, generation: 3, handedOut: true }))).toBe("not_whole");
    await whole.rollBackWhole();
    await whole.beginWhole(run);
    await whole.commitWhole(run);
    expect(await labelOf()).toEqual({ set, generation: 3, handedOut: false });
    await whole.labelWhole({ set, generation: 3, handedOut: true });
    expect(await codeOf(whole.beginWhole(run))).toBe("split_brain");
    await whole.write(0, [Buffer.alloc(blockBytes, 1)]); // as whoever it was handed out to does
    expect((await whole.wholeState()).keptExtents).toBe(0);
    await whole.labelWhole(undefined);
    expect(await labelOf()).toBeUndefined();
    await whole.beginWhole(run);
  });

  test("a generation of a set is written to in a run only: a run that was rolled back makes no mixture of it", async () => {
    await using folder = await WorkFolder.make();
    const volume = memoryOf(2);
    volume.atOnce = true;
    await using kept = await keep(folder, volume);
    const whole = kept.volume;
    const label = { set: Buffer.alloc(16, 9), generation: 1 };
    const data = Buffer.alloc(blockBytes, 1);
    await whole.write(0, [data]); // nobody's replica so far
    await whole.beginWhole(run);
    await whole.commitWhole(run, { label });
    const generation = Buffer.from(volume.cache);
    await whole.beginWhole(run);
    await whole.write(1, [data]);
    await whole.rollBackWhole();
    for (const write of [
      () => whole.write(1, [data]),
      () => whole.zero(0, 4),
      () => whole.zero(0, 1, { unmap: true }),
    ])
      expect(await codeOf(write())).toBe("volume_readonly");
    expect(whole.writeNow(1, [data])).toBe(false);
    expect(volume.cache.equals(generation)).toBe(true);
    await whole.labelWhole({ ...label, handedOut: true });
    await whole.write(1, [data]);
  });

  test("a before-image that is damaged stops a roll back; by force the others are put back", async () => {
    await using folder = await WorkFolder.make();
    const volume = memoryOf(4);
    const before = Buffer.from(volume.cache);
    await using kept = await keep(folder, volume);
    const whole = kept.volume;
    await whole.beginWhole(run);
    await whole.write(0, [bytesOf(randomOf(2), 3 * extentBytes)]);
    await damage(await layerOf(folder), dataAt(before.length) + extentBytes + 100);
    const failed = await whole.rollBackWhole().catch((error) => error);
    expect(failed).toMatchObject({
      code: "backup_damaged",
      message: expect.stringMatching(/before-image of byte 65536/),
    });
    expect(await whole.rollBackWhole({ force: true })).toMatchObject({ extents: 2, lost: 1 });
    expect(volume.medium.subarray(0, extentBytes).equals(before.subarray(0, extentBytes))).toBe(true);
    expect(volume.medium.subarray(2 * extentBytes).equals(before.subarray(2 * extentBytes))).toBe(true);
  });

  test("an extent whose entry is damaged is not overwritten by the next owner", async () => {
    await using folder = await WorkFolder.make();
    const volume = memoryOf(2);
    const kept = await keep(folder, volume);
    await kept.volume.beginWhole(run);
    await kept.volume.write(0, [Buffer.alloc(blockBytes, 1)]);
    await kept.abandon();
    await damage(await layerOf(folder), tableAt + 20);
    await using again = await keep(folder, volume);
    expect(await codeOf(again.volume.write(0, [Buffer.alloc(blockBytes, 2)]))).toBe("state_damaged");
    expect(volume.cache[0]).toBe(1);
    await again.volume.write(extentBlocks, [Buffer.alloc(blockBytes, 2)]);
    await again.volume.commitWhole(run);
    await again.volume.write(0, [Buffer.alloc(blockBytes, 2)]);
  });

  test("headers: one that is damaged is as good as two; without any nobody says that the volume is whole", async () => {
    await using folder = await WorkFolder.make();
    const volume = memoryOf(2);
    const kept = await keep(folder, volume);
    await kept.volume.beginWhole(run);
    await kept.abandon();
    const path = await journalOf(folder);
    await damage(path, 30);
    const again = await keep(folder, volume);
    expect(await again.volume.wholeState()).toMatchObject({ state: "open", run });
    await again.abandon();
    for (const at of [30, headerStep + 30]) await damage(path, at);
    expect(await codeOf(keep(folder, volume))).toBe("state_damaged");
  });

  test("a volume that others have written to since is not rolled back, also not after the next time", async () => {
    await using folder = await WorkFolder.make();
    const volume = memoryOf(2);
    const kept = await keep(folder, volume);
    await kept.volume.beginWhole(run);
    await kept.volume.write(0, [Buffer.alloc(blockBytes, 1)]);
    await kept[Symbol.asyncDispose]();
    volume.change(0, Buffer.alloc(10, 3));
    for (let i = 0; i < 2; i++) {
      const log: string[] = [];
      await using again = await keep(folder, volume, log);
      expect(log.join()).toMatch(/it can't be rolled back/);
      expect(await again.volume.wholeState()).toMatchObject({ state: "open", foreign: true });
      expect(await codeOf(again.volume.rollBackWhole())).toBe("backup_mismatch");
      expect(await codeOf(new WholePoints(again.volume).open(undefined))).toBe("backup_mismatch");
    }
    await using last = await keep(folder, volume);
    await last.volume.rollBackWhole({ force: true });
    expect(await last.volume.wholeState()).toMatchObject({ state: "whole", foreign: false });
  });
});

test("a journal has one owner at a time", async () => {
  await using folder = await WorkFolder.make();
  const volume = memoryOf(1);
  await using _kept = await keep(folder, volume);
  expect(await codeOf(keep(folder, volume))).toBe("volume_in_use");
});
