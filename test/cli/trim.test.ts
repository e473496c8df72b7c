// sync --trim with sparse files: the replica gives back the space that only written zeros take.
import { open, readFile, stat, truncate, writeFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { bytesOf, randomOf } from "../support/data.ts";
import { LoopDevice, loopDevicesWork } from "../support/loop.ts";
import { lunsync, type Served, serve, WorkFolder } from "../support/lunsync.ts";

const MiB = 1024 * 1024;
const extentBytes = 65_536;
const volumeBytes = 48 * MiB + 4096 * 3; // the last extent is shorter
const extents = Math.ceil(volumeBytes / extentBytes);
/** Where data of two extents begins: within an extent, too, so that it lies in three. */
const places = [0, 9 * MiB, 20 * MiB + 8192, 47 * MiB];
const data = bytesOf(randomOf(1), 2 * extentBytes);
const dataExtents = 2 + 2 + 3 + 2;

/** A sparse source, and a replica with the same content, all of it written. */
async function writeThinPair(
  folder: WorkFolder,
): Promise<{ source: string; replica: string; content: Buffer }> {
  const [source, replica] = [folder.file("source"), folder.file("replica")];
  const content = Buffer.alloc(volumeBytes);
  await writeFile(source, "");
  await truncate(source, volumeBytes);
  const file = await open(source, "r+");
  for (const at of places) {
    await file.write(data, 0, data.length, at);
    data.copy(content, at);
  }
  await file.sync();
  await file.close();
  await writeFile(replica, content, { flush: true });
  return { source, replica, content };
}

const allocated = async (path: string) => (await stat(path)).blocks * 512;
const trimmed = {
  extents: extents - dataExtents,
  bytes: volumeBytes - dataExtents * extentBytes,
};
const atMost = dataExtents * extentBytes + MiB; // and what the file system needs for itself

describe.each(["a path", "a target", "targets for both"] as const)("the replica as %s", (kind) => {
  async function serveFor(
    source: string,
    replica: string,
  ): Promise<AsyncDisposable & { source: string; replica: string }> {
    const served: Served[] = [];
    const urlOf = async (path: string) => {
      const target = await serve(["--lun", path]);
      served.push(target);
      return target.url;
    };
    const theirs = kind === "a path" ? replica : await urlOf(replica);
    const ours = kind === "targets for both" ? await urlOf(source) : source;
    return {
      source: ours,
      replica: theirs,
      [Symbol.asyncDispose]: async () => {
        for (const each of served) await each[Symbol.asyncDispose]();
      },
    };
  }

  test("what is a hole at the source is given back, once; without --trim it stays", async () => {
    await using folder = await WorkFolder.make();
    const { source, replica, content } = await writeThinPair(folder);
    await using names = await serveFor(source, replica);
    const sync = async (...more: string[]) => {
      const { status, stdout } = await lunsync(["sync", names.source, names.replica, ...more, "--json"]);
      return [status, JSON.parse(stdout)];
    };
    const nothing = { extents: 0, bytes: 0 };
    for (const more of [[], ["--trim", "--dry-run"]]) {
      expect(await sync(...more)).toMatchObject([0, { verdict: "equal", trimmed: nothing }]);
      expect(await allocated(replica)).toBeGreaterThanOrEqual(volumeBytes);
    }
    expect(await sync("--trim")).toMatchObject([0, { verdict: "equal", shipped: nothing, trimmed }]);
    expect(await allocated(replica)).toBeLessThan(atMost);
    expect((await readFile(replica)).equals(content)).toBe(true);
    expect(await sync("--trim")).toMatchObject([0, { verdict: "equal", shipped: nothing, trimmed: nothing }]);
    expect((await readFile(replica)).equals(content)).toBe(true);
  });
});

test("over a target with a catalogue; the next run uses what it remembers", async () => {
  await using folder = await WorkFolder.make();
  const { source, replica, content } = await writeThinPair(folder);
  const serveOne = (path: string) =>
    serve([
      "--lun",
      `${path},catalogue`,
      "--state-dir",
      folder.file("state"),
      "--target",
      `iqn.2026-11.com.example:${path.at(-1)}`,
    ]);
  await using ours = await serveOne(source);
  await using theirs = await serveOne(replica);
  const sync = async () => (await lunsync(["sync", ours.url, theirs.url, "--trim", "--json"])).json();
  expect(await sync()).toMatchObject({ verdict: "equal", trimmed, history: { committed: true } });
  expect(await allocated(replica)).toBeLessThan(atMost);
  expect(await sync()).toMatchObject({
    verdict: "equal",
    trimmed: { extents: 0 },
    history: { used: true, committed: true },
  });
  const compared = await lunsync(["compare", ours.url, theirs.url, "--fresh", "--json"]);
  expect(compared.json().identical).toBe(true);
  expect((await readFile(replica)).equals(content)).toBe(true);
});

test("what differs is shipped first; before-images are kept of both, and undo puts them back", async () => {
  await using folder = await WorkFolder.make();
  const { source, replica, content } = await writeThinPair(folder);
  const other = Buffer.from(content);
  bytesOf(randomOf(2), 3 * extentBytes).copy(other, 30 * MiB);
  await writeFile(replica, other, { flush: true });
  const kept = folder.file("kept");
  const { status, stdout } = await lunsync(["sync", source, replica, "--trim", "--backup-dir", kept]);
  expect(status).toBe(0);
  // What was shipped as zeros is unmapped already.
  expect(stdout).toMatch(/shipped {2}3 extents .*, 3 of them as zeros/);
  expect(stdout).toMatch(
    new RegExp(`trimmed {2}${trimmed.extents - 3} extents \\(.* MiB\\), holes at the source`),
  );
  expect(await allocated(replica)).toBeLessThan(atMost);
  expect((await readFile(replica)).equals(content)).toBe(true);
  expect((await lunsync(["undo", kept, replica])).status).toBe(0);
  expect((await readFile(replica)).equals(other)).toBe(true);
});

test("a source without holes is told as having nothing to trim", async () => {
  await using folder = await WorkFolder.make();
  const { source, replica, content } = await writeThinPair(folder);
  await writeFile(source, content, { flush: true });
  const { status, stderr } = await lunsync(["sync", source, replica, "--trim"]);
  expect(status).toBe(0);
  expect(stderr).toMatch(/^Nothing is trimmed: ".*source" names no hole of a whole extent/m);
  expect(await allocated(replica)).toBeGreaterThanOrEqual(volumeBytes);
});

test.skipIf(!(await loopDevicesWork()))(
  "a block device does not know its holes: no more than a trial is made with it",
  async () => {
    await using folder = await WorkFolder.make();
    const { source, replica, content } = await writeThinPair(folder);
    await using device = await LoopDevice.over(replica);
    await using target = await serve(["--lun", device.path]);
    const { status, stderr, stdout } = await lunsync(["sync", source, target.url, "--trim", "--json"]);
    expect([status, JSON.parse(stdout).trimmed]).toEqual([0, { extents: 0, bytes: 0 }]);
    expect(stderr).toMatch(
      /^Trimming ends: ".*" was asked to unmap 8 MiB, and says that all of it is still mapped/m,
    );
    await target.end();
    expect((await readFile(device.path)).equals(content)).toBe(true);
  },
);
