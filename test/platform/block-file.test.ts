// A file that is closed while requests are made and under way, that gets shorter, or longer.
import { createHash, randomBytes } from "node:crypto";
import { readFile, stat, truncate, writeFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { parseDigestSpec, programOf } from "../../src/digest/spec.ts";
import { BlockFile } from "../../src/platform/block-file.ts";
import { FileVolume } from "../../src/volume/file-volume.ts";
import { LoopDevice, loopDevicesWork } from "../support/loop.ts";
import { WorkFolder } from "../support/lunsync.ts";

test("a file that somebody has locked is told as such", async () => {
  await using folder = await WorkFolder.make();
  await writeFile(folder.file("a"), Buffer.alloc(512));
  await using _ = await BlockFile.open(folder.file("a"), true);
  await expect(BlockFile.open(folder.file("a"), true)).rejects.toMatchObject({
    code: "EAGAIN",
    message: "locked by another process (EAGAIN)",
  });
});

test("close() leaves what was asked for to end; what is asked for afterwards is refused", async () => {
  await using folder = await WorkFolder.make();
  const content = randomBytes(65536);
  await writeFile(folder.file("a"), Buffer.alloc(65536));
  await writeFile(folder.file("b"), content);
  await using other = await BlockFile.open(folder.file("b"), true);
  const file = await BlockFile.open(folder.file("a"), true);
  const written = file.write(0, [content]);
  const buffer = Buffer.alloc(65536);
  const read = other.read(0, buffer); // goes down together with the write
  file.close();
  await Promise.all([written, read]);
  expect(buffer.equals(content)).toBe(true);
  expect((await readFile(folder.file("a"))).equals(content)).toBe(true);
  const closed = { code: "EBADF" };
  await expect(file.write(0, [content])).rejects.toMatchObject(closed);
  await expect(file.read(0, buffer)).rejects.toMatchObject(closed);
  await expect(file.zero(0, 512)).rejects.toMatchObject(closed);
  await expect(file.flush()).rejects.toMatchObject(closed);
  await expect(file.nextData(0, 512)).rejects.toMatchObject(closed);
  expect([file.readNow(0, buffer), file.writeNow(0, [content])]).toEqual([false, false]);
});

test("what a file has lost at its end is neither a hole nor zeros", async () => {
  await using folder = await WorkFolder.make();
  await writeFile(folder.file("a"), "");
  await truncate(folder.file("a"), 65536);
  await using file = await BlockFile.open(folder.file("a"), false);
  expect(await file.nextData(4096, 61440)).toBeUndefined();
  await truncate(folder.file("a"), 32768);
  await expect(file.nextData(4096, 61440)).rejects.toMatchObject({ code: "ENXIO" });
  await expect(file.nextData(32768, 4096)).rejects.toMatchObject({ code: "ENXIO" });
  expect(await file.nextData(4096, 28672)).toBeUndefined();
  const volume = await FileVolume.open(folder.file("a"), { writable: false });
  await truncate(folder.file("a"), 16384);
  const window = { lba: 0, extentBlocks: 8, extents: 8, digest: parseDigestSpec("sha256"), fresh: false };
  const answer = await volume.identifiers(window);
  expect([answer.extents, answer.unreadable?.lba]).toEqual([4, 32]);
  await volume[Symbol.asyncDispose]();
});

test.skipIf(!(await loopDevicesWork()))(
  "a block device is deallocated where zeros may be holes",
  async () => {
    await using folder = await WorkFolder.make();
    const MiB = 1024 * 1024;
    const backing = folder.file("a");
    const content = randomBytes(8 * MiB);
    await writeFile(backing, content, { flush: true });
    await using device = await LoopDevice.over(backing);
    await using file = await BlockFile.open(device.path, true);
    // In MiB: the file system's own blocks count, too.
    const allocated = async () => Math.round((512 * (await stat(backing)).blocks) / MiB);
    await file.zero(MiB, 2 * MiB);
    await file.flush();
    expect(await allocated()).toBe(8);
    await file.zero(4 * MiB, 3 * MiB, { unmap: true });
    await file.flush();
    expect(await allocated()).toBe(5);
    content.fill(0, MiB, 3 * MiB).fill(0, 4 * MiB, 7 * MiB);
    const buffer = Buffer.alloc(8 * MiB);
    await file.read(0, buffer);
    expect(buffer.equals(content)).toBe(true);
  },
);

test("a file grows by a hole, and never gets shorter; what is behind its old end is digested as it is", async () => {
  await using folder = await WorkFolder.make();
  const path = folder.file("a");
  const content = randomBytes(65536);
  await writeFile(path, content);
  await using file = await BlockFile.open(path, true);
  await file.grow(4 * 65536);
  await file.grow(65536);
  await file.flush();
  expect((await readFile(path)).equals(Buffer.concat([content, Buffer.alloc(3 * 65536)]))).toBe(true);
  expect((await stat(path)).blocks * 512).toBeLessThan(2 * 65536);
  expect(await file.nextData(65536, 3 * 65536)).toBeUndefined();
  await file.write(2 * 65536, [content]);
  const { values, count } = await file.identify({
    program: programOf(parseDigestSpec("sha256")),
    offset: 0,
    bytes: 4 * 65536,
    extentBytes: 65536,
    blockBytes: 512,
    output: "identifiers",
    width: 32,
  });
  const sha256 = (data: Buffer) => createHash("sha256").update(data).digest("hex");
  const [data, zeros] = [sha256(content), sha256(Buffer.alloc(65536))];
  const found = Array.from({ length: count }, (_, i) => values.toString("hex", 32 * i, 32 * i + 32));
  expect(found).toEqual([data, zeros, data, zeros]);
  await using reader = await BlockFile.open(path, false);
  await expect(reader.grow(8 * 65536)).rejects.toMatchObject({ code: "EINVAL" });
});
