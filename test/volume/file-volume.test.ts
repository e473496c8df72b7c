// A file or a block device that grows: what is there afterwards, and what refuses it.
import { readFile, stat, truncate, writeFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { FileVolume } from "../../src/volume/file-volume.ts";
import { bytesOf, randomOf } from "../support/data.ts";
import { LoopDevice, loopDevicesWork } from "../support/loop.ts";
import { run, WorkFolder } from "../support/lunsync.ts";

const MiB = 1024 * 1024;

async function withFile(bytes: number) {
  const folder = await WorkFolder.make();
  const path = folder.file("disk");
  const content = bytesOf(randomOf(1), bytes);
  await writeFile(path, content);
  return { path, content, [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose]() };
}

describe("a file", () => {
  test("grows; what is new is zeros and can be written, what was there is as it was", async () => {
    await using file = await withFile(MiB + 512);
    await using volume = await FileVolume.open(file.path, { writable: true });
    expect(volume.traits.grows).toBe(true);
    await volume.grow(4096);
    expect(volume.geometry).toEqual({ blockBytes: 512, blocks: 4096 });
    const last = Buffer.alloc(512, 7);
    await volume.write(4095, [last]);
    const expected = Buffer.concat([file.content, Buffer.alloc(2 * MiB - MiB - 1024), last]);
    expect((await readFile(file.path)).equals(expected)).toBe(true);
    await volume.grow(100); // it has more
    expect(volume.geometry.blocks).toBe(4096);
    expect((await stat(file.path)).size).toBe(2 * MiB);
  });

  test("that somebody else has made longer already is taken as it is", async () => {
    await using file = await withFile(MiB);
    await using volume = await FileVolume.open(file.path, { writable: true });
    await truncate(file.path, 3 * MiB);
    await volume.grow(4096);
    expect(volume.geometry.blocks).toBe(6144);
    expect((await stat(file.path)).size).toBe(3 * MiB);
  });

  test("that was opened for reading does not grow", async () => {
    await using file = await withFile(MiB);
    await using volume = await FileVolume.open(file.path, { writable: false });
    expect(volume.traits.grows).toBe(false);
    await expect(volume.grow(4096)).rejects.toMatchObject({ code: "volume_readonly" });
    expect((await stat(file.path)).size).toBe(MiB);
  });
});

test.skipIf(!(await loopDevicesWork()))(
  "a block device has the size that its administrator has given to it",
  async () => {
    await using file = await withFile(MiB);
    await using device = await LoopDevice.over(file.path);
    await using volume = await FileVolume.open(device.path, { writable: true });
    await expect(volume.grow(4096)).rejects.toMatchObject({
      code: "size_mismatch",
      message: expect.stringMatching(/from 1048576 to 2097152 bytes: .*; extend it with lvextend/),
    });
    expect((await stat(file.path)).size).toBe(MiB);
    await truncate(file.path, 2 * MiB);
    expect((await run("losetup", ["--set-capacity", device.path])).status).toBe(0);
    await volume.grow(4096);
    expect(volume.geometry.blocks).toBe(4096);
    await volume.write(4095, [Buffer.alloc(512, 7)]);
    await volume.flush();
    // Extended, but not enough: the present size is known, and told.
    await truncate(file.path, 3 * MiB);
    await run("losetup", ["--set-capacity", device.path]);
    await expect(volume.grow(8192)).rejects.toMatchObject({
      message: expect.stringContaining(`from ${3 * MiB} to ${4 * MiB} bytes`),
    });
    expect(volume.geometry.blocks).toBe(6144);
  },
);
