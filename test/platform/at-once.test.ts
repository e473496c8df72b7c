// What is read and written without changing threads: only what takes no waiting, and then rightly, on every kind of
// file; everything else is left to read() and write(), which say what is wrong.
import { randomBytes } from "node:crypto";
import { open, readFile, stat, truncate, writeFile } from "node:fs/promises";
import { release } from "node:os";
import { expect, test } from "vitest";
import { BlockFile } from "../../src/platform/block-file.ts";
import { SystemError } from "../../src/platform/errno.ts";
import { LoopDevice, loopDevicesWork } from "../support/loop.ts";
import { run, WorkFolder } from "../support/lunsync.ts";
import { mountsWork, SmallDisk, withBadSector } from "../support/machines.ts";

const KiB = 1024;
const content = randomBytes(1024 * KiB);
await using probe = await WorkFolder.make();
const mounts = await mountsWork(probe.file("."));
const loops = await loopDevicesWork();
const [major = 0, minor = 0] = release().split(".").map(Number);
/** cachestat(2) tells what of a file in memory is there. */
const tellsMemory = major > 6 || (major === 6 && minor >= 5);

/** Reads everything in pieces, at once where that can be done; how often it could. */
async function readAll(file: BlockFile, pieceBytes: number): Promise<{ data: Buffer; atOnce: number }> {
  const data = Buffer.alloc(file.bytes);
  let atOnce = 0;
  for (let at = 0; at < data.length; at += pieceBytes) {
    const piece = data.subarray(at, Math.min(data.length, at + pieceBytes));
    if (file.readNow(at, piece)) atOnce++;
    else await file.read(at, piece);
  }
  return { data, atOnce };
}

async function write(file: BlockFile, at: number, pieces: Buffer[]): Promise<boolean> {
  const atOnce = file.writeNow(at, pieces);
  if (!atOnce) await file.write(at, pieces);
  return atOnce;
}

test.each([512, 4 * KiB, 12 * KiB, 256 * KiB])(
  "a cached file is read in pieces of %i bytes",
  async (piece) => {
    await using folder = await WorkFolder.make();
    await writeFile(folder.file("a"), content);
    await using file = await BlockFile.open(folder.file("a"), true);
    expect((await readAll(file, piece)).data.equals(content)).toBe(true);
    const changed = Buffer.from(content);
    const news = [randomBytes(512), randomBytes(3584), randomBytes(8192)];
    Buffer.concat(news).copy(changed, 65536 - 512);
    await write(file, 65536 - 512, news);
    expect((await readAll(file, piece)).data.equals(changed)).toBe(true);
    expect((await readFile(folder.file("a"))).equals(changed)).toBe(true);
  },
);

test("what is not cached is left to the threads, and so is what is large", async () => {
  await using folder = await WorkFolder.make();
  await writeFile(folder.file("a"), content);
  await using file = await BlockFile.open(folder.file("a"), true);
  expect(file.readNow(0, Buffer.alloc(512 * KiB))).toBe(false);
  expect(file.writeNow(0, [Buffer.alloc(512 * KiB)])).toBe(false);
  const many = Array.from({ length: 100 }, () => Buffer.alloc(512));
  expect(file.writeNow(0, many)).toBe(false);
  expect((await readFile(folder.file("a"))).equals(content)).toBe(true);
  // Dropped from the cache, and read right all the same.
  expect(
    (await run("dd", [`of=${folder.file("a")}`, "oflag=nocache", "conv=notrunc,fdatasync", "count=0"]))
      .status,
  ).toBe(0);
  expect((await readAll(file, 4 * KiB)).data.equals(content)).toBe(true);
});

test("past the end of a file that shrank nothing is read, and read() says so", async () => {
  await using folder = await WorkFolder.make();
  await writeFile(folder.file("a"), content);
  await using file = await BlockFile.open(folder.file("a"), true);
  await truncate(folder.file("a"), 6 * KiB);
  const buffer = Buffer.alloc(4 * KiB);
  expect(file.readNow(4 * KiB, buffer)).toBe(false);
  await expect(file.read(4 * KiB, buffer)).rejects.toBeInstanceOf(SystemError);
});

test("a file that is open for reading is not written", async () => {
  await using folder = await WorkFolder.make();
  await writeFile(folder.file("a"), content);
  await using file = await BlockFile.open(folder.file("a"), false);
  expect(file.writeNow(0, [Buffer.alloc(512)])).toBe(false);
  await expect(file.write(0, [Buffer.alloc(512)])).rejects.toMatchObject({ code: "EBADF" });
});

test.skipIf(!mounts)(
  "in memory: data at once, holes by the threads, a full disk as write() says it",
  async () => {
    await using folder = await WorkFolder.make();
    await using disk = await SmallDisk.at(folder.file("disk"), 256 * KiB);
    await writeFile(`${disk.path}/a`, content.subarray(0, 64 * KiB));
    await truncate(`${disk.path}/a`, 1024 * KiB);
    await using file = await BlockFile.open(`${disk.path}/a`, true);
    const expected = Buffer.alloc(1024 * KiB);
    content.copy(expected, 0, 0, 64 * KiB);
    const { data, atOnce } = await readAll(file, 4 * KiB);
    expect(data.equals(expected)).toBe(true);
    if (tellsMemory) {
      expect(atOnce).toBe(256); // the holes too
      expect(file.writeNow(0, [content.subarray(0, 4 * KiB)])).toBe(true);
      expect(file.writeNow(64 * KiB, [content.subarray(0, 4 * KiB)])).toBe(false);
    }

    const news = randomBytes(8 * KiB);
    await write(file, 60 * KiB, [news]); // half of it into the hole
    news.copy(expected, 60 * KiB);
    expect((await readAll(file, 4 * KiB)).data.equals(expected)).toBe(true);
    const used = (await stat(`${disk.path}/a`)).blocks * 512;
    expect(used).toBe(68 * KiB);

    const fill = randomBytes(64 * KiB);
    let failure: unknown;
    for (let at = 128 * KiB; at < 1024 * KiB && !failure; at += fill.length) {
      await write(file, at, [fill]).catch((error) => {
        failure = error;
      });
    }
    expect(failure).toMatchObject({ code: "ENOSPC" });
    expect(
      (await readAll(file, 4 * KiB)).data.subarray(0, 68 * KiB).equals(expected.subarray(0, 68 * KiB)),
    ).toBe(true);
  },
);

test.skipIf(!mounts)("through FUSE: read and written right, and EIO names its block", async () => {
  await using folder = await WorkFolder.make();
  await writeFile(folder.file("a"), content);
  await using bad = await withBadSector(folder.file("a"), folder.file("."), 100);
  await using file = await BlockFile.open(bad.path, true);
  const buffer = Buffer.alloc(4 * KiB);
  const sector = 100 * 512;
  const start = sector - (sector % (4 * KiB));
  expect(file.readNow(start, buffer)).toBe(false);
  await expect(file.read(start, buffer)).rejects.toMatchObject({ code: "EIO", offsetBytes: sector });
  const news = randomBytes(8 * KiB);
  await write(file, start, [news]);
  const expected = Buffer.from(content);
  news.copy(expected, start);
  expect((await readAll(file, 64 * KiB)).data.equals(expected)).toBe(true);
});

test.skipIf(!loops)("a block device", async () => {
  await using folder = await WorkFolder.make();
  await writeFile(folder.file("a"), content);
  await using device = await LoopDevice.over(folder.file("a"));
  await using file = await BlockFile.open(device.path, true);
  const expected = Buffer.from(content);
  const news = randomBytes(8 * KiB);
  await write(file, 512, [news]);
  news.copy(expected, 512);
  expect((await readAll(file, 4 * KiB)).data.equals(expected)).toBe(true);
  const again = await readAll(file, 4 * KiB); // from the page cache by now
  expect(again.data.equals(expected)).toBe(true);
  expect(again.atOnce).toBeGreaterThan(0);
  await file.flush();
  await using handle = await open(folder.file("a"));
  expect((await handle.readFile()).equals(expected)).toBe(true);
});
