// Restore points of a replica, end to end: generations are kept, listed, shown as LUNs while replication goes on, and
// withdrawn; what is shown is what was saved of that generation, to the byte.
import { copyFile, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { bytesOf, randomOf, stale, volumeOf } from "../support/data.ts";
import { lunsync, Running, run, type Served, serve, WorkFolder } from "../support/lunsync.ts";
import { mountsWork, SmallDisk } from "../support/machines.ts";

const MiB = 1024 * 1024;
const bytes = 12 * MiB - 4096; // the last extent is shorter

interface Listed {
  readonly point: number;
  readonly uuid: string;
  readonly last: boolean;
  readonly doubtful: boolean;
  readonly lun: number | null;
  readonly url: string | null;
}

const same = async (a: string, b: string) => (await run("cmp", [a, b])).status === 0;
const listed = async (url: string): Promise<Listed[]> =>
  (await lunsync(["points", "list", url, "--json"])).json().points;

async function exposed(url: string, point: number | "last"): Promise<string> {
  const shown = await lunsync(["points", "serve", url, `${point}`, "--json"]);
  expect([shown.status, shown.stderr]).toEqual([0, ""]);
  return shown.json().url;
}

/** What a LUN holds, read by iSCSI from end to end. */
async function readWhole(url: string, into: string): Promise<void> {
  const read = await run("qemu-img", ["convert", "-f", "raw", "-O", "raw", url, into]);
  expect([read.status, read.stderr]).toEqual([0, ""]);
}

/** A replica and copies of what it was: `gen-0` before the first synchronization, `gen-1` after it, … */
async function replicated(folder: WorkFolder, runs: number, keep: readonly string[]) {
  const [source, replica, state] = ["source", "replica", "state"].map((name) => folder.file(name));
  const random = randomOf(1);
  let content = volumeOf(random, bytes);
  await writeFile(replica!, content);
  await copyFile(replica!, folder.file("gen-0"));
  const args = ["--lun", `${replica},whole`, "--state-dir", state!, ...keep];
  const served = await serve(args);
  for (let generation = 1; generation <= runs; generation++) {
    content = stale(random, content, 40);
    await writeFile(source!, content);
    expect((await lunsync(["sync", source!, served.url])).status).toBe(0);
    await copyFile(replica!, folder.file(`gen-${generation}`));
  }
  await writeFile(source!, bytesOf(random, bytes));
  return { source: source!, replica: replica!, state: state!, args, served };
}

/** A synchronization that has overwritten something, and is not through. */
async function begun(source: string, served: Served): Promise<Running> {
  const sync = new Running(["sync", source, served.url, "--bandwidth", "2M"]);
  for (;;) {
    const { whole } = (await lunsync(["inquiry", served.url, "--json"])).json();
    if (whole.keptExtents >= 20) return sync;
    if (sync.child.exitCode !== null) throw new Error(`sync ended: ${sync.stderr}`);
  }
}

describe("a replica with restore points", () => {
  test("shows one as a LUN while it is synchronized, and the last whole generation of a run that was cut off", async () => {
    await using folder = await WorkFolder.make();
    const { source, replica, served } = await replicated(folder, 4, ["--keep", "10"]);
    await using _served = served;
    const points = await listed(served.url);
    expect(points.map(({ point, last }) => [point, last])).toEqual([1, 2, 3, 4].map((n) => [n, false]));

    await using sync = await begun(source, served);
    const second = await exposed(served.url, points[2]!.point);
    await readWhole(second, folder.file("seen"));
    expect(await same(folder.file("seen"), folder.file("gen-2"))).toBe(true);
    await sync.end("SIGKILL");
    expect(await same(replica, folder.file("gen-4"))).toBe(false);

    const last = await exposed(served.url, "last");
    await readWhole(last, folder.file("seen"));
    expect(await same(folder.file("seen"), folder.file("gen-4"))).toBe(true);
    // It stays that when the next run is through, and the run's own end is what the replica holds.
    expect((await lunsync(["sync", source, served.url, "--verify"])).status).toBe(0);
    expect(await same(source, replica)).toBe(true);
    await readWhole(last, folder.file("seen"));
    expect(await same(folder.file("seen"), folder.file("gen-4"))).toBe(true);
    for (const [i, { point }] of (await listed(served.url)).entries()) {
      await readWhole(await exposed(served.url, point), folder.file("seen"));
      expect([point, await same(folder.file("seen"), folder.file(`gen-${i}`))]).toEqual([point, true]);
    }
  });

  test("a LUN of its own: its UUID, no writes, digests; it can be copied onto the replica", async () => {
    await using folder = await WorkFolder.make();
    const { replica, served } = await replicated(folder, 2, ["--keep", "10"]);
    await using _served = served;
    const [first] = await listed(served.url);
    const url = await exposed(served.url, first!.point);
    expect(await exposed(served.url, first!.point)).toBe(url);
    const facts = (await lunsync(["inquiry", url, "--json"])).json();
    const base = (await lunsync(["inquiry", served.url, "--json"])).json();
    expect(facts).toMatchObject({ uuid: first!.uuid, writeProtected: true, vendorCommands: true, bytes });
    expect(facts.serial).not.toBe(base.serial);
    expect(facts.designators.some((each: string) => base.designators.includes(each))).toBe(false);
    const written = await lunsync(["sync", replica, url, "--json"]);
    expect([written.status, written.json().error.code]).toEqual([4, "volume_readonly"]);
    expect((await lunsync(["compare", folder.file("gen-0"), url])).status).toBe(0);
    expect((await lunsync(["compare", url, served.url])).status).toBe(1);
    // While it is read, what it needs is kept: the replica becomes what it was.
    expect((await lunsync(["sync", url, served.url])).status).toBe(0);
    expect(await same(replica, folder.file("gen-0"))).toBe(true);
    expect((await lunsync(["compare", folder.file("gen-0"), url])).status).toBe(0);
  });

  test("what is shown stays over a restart, and against the policy, until it is withdrawn", async () => {
    await using folder = await WorkFolder.make();
    const { source, args, served } = await replicated(folder, 3, ["--keep", "2"]);
    const points = await listed(served.url);
    expect(points.map(({ point }) => point)).toEqual([2, 3]);
    const url = await exposed(served.url, 2);
    const lun = (await listed(served.url))[0]!.lun;
    expect(url.endsWith(`/${lun}`)).toBe(true);
    await served.end("SIGKILL");

    await using again = await serve(args);
    const moved = (await listed(again.url))[0]!;
    expect(moved).toMatchObject({ point: 2, lun });
    for (let runs = 0; runs < 3; runs++) {
      await writeFile(source, bytesOf(randomOf(10 + runs), bytes));
      expect((await lunsync(["sync", source, again.url])).status).toBe(0);
    }
    await readWhole(moved.url!, folder.file("seen"));
    expect(await same(folder.file("seen"), folder.file("gen-1"))).toBe(true);
    const gone = await lunsync(["points", "withdraw", again.url, "2"]);
    expect([gone.status, gone.stdout]).toEqual([0, `The restore point 2 is LUN ${lun} no more\n`]);
    expect((await lunsync(["inquiry", moved.url!])).status).not.toBe(0);
    while ((await listed(again.url)).some(({ point }) => point === 2)) {}
    expect((await lunsync(["points", "serve", again.url, "2", "--json"])).json().error.code).toBe(
      "volume_missing",
    );
    expect((await listed(again.url)).map(({ point }) => point)).toEqual([5, 6]);
  });

  test("writes outside of a run are no part of what a point shows", async () => {
    await using folder = await WorkFolder.make();
    const { served } = await replicated(folder, 2, ["--keep", "5"]);
    await using _served = served;
    const other = folder.file("other");
    await writeFile(other, bytesOf(randomOf(5), bytes));
    const wrote = await run("qemu-img", ["convert", "-n", "-f", "raw", "-O", "raw", other, served.url]);
    expect([wrote.status, wrote.stderr]).toEqual([0, ""]);
    const points = await listed(served.url);
    expect(points.map(({ last }) => last)).toEqual([false, false, true]);
    for (const [i, { point }] of points.entries()) {
      await readWhole(await exposed(served.url, point), folder.file("seen"));
      expect(await same(folder.file("seen"), folder.file(`gen-${i}`))).toBe(true);
    }
  });

  test("without --keep they stay, and there are no new ones; --keep none drops them all", async () => {
    await using folder = await WorkFolder.make();
    const { source, replica, state, served } = await replicated(folder, 2, ["--keep", "5"]);
    expect(await served.end()).toBe(0);
    const args = ["--lun", `${replica},whole`, "--state-dir", state];
    {
      await using plain = await serve(args);
      expect((await lunsync(["sync", source, plain.url])).status).toBe(0);
      while ((await listed(plain.url)).length > 2) {}
      for (const [i, { point }] of (await listed(plain.url)).entries()) {
        await readWhole(await exposed(plain.url, point), folder.file("seen"));
        expect(await same(folder.file("seen"), folder.file(`gen-${i}`))).toBe(true);
        await lunsync(["points", "withdraw", plain.url, `${point}`]);
      }
      expect(await plain.end()).toBe(0);
    }
    await using none = await serve([...args, "--keep", "none"]);
    while ((await listed(none.url)).length > 0) {}
    const [layers] = (await readdir(join(state, "whole"))).filter((name) => name.endsWith(".layers"));
    expect(await readdir(join(state, "whole", layers!))).toEqual([]);
  });

  test("one since which others have written past the target is shown by force alone", async () => {
    await using folder = await WorkFolder.make();
    const { replica, args, served } = await replicated(folder, 2, ["--keep", "5"]);
    expect(await served.end()).toBe(0);
    await writeFile(replica, bytesOf(randomOf(6), bytes));
    await using again = await serve(args);
    expect(again.stderr).toMatch(/restore points of ".*" can't be relied on any more/);
    const [first] = await listed(again.url);
    expect(first!.doubtful).toBe(true);
    const refused = await lunsync(["points", "serve", again.url, "1", "--json"]);
    expect([refused.status, refused.json().error.code]).toEqual([4, "backup_mismatch"]);
    expect((await lunsync(["points", "serve", again.url, "1", "--force"])).status).toBe(0);
  });
});

const mounts = await WorkFolder.make().then(async (folder) => {
  await using _folder = folder;
  return await mountsWork(folder.path);
});

describe.runIf(mounts)("a state directory that gets full", () => {
  test("costs the oldest points, and no synchronization; one that is shown costs neither", async () => {
    await using folder = await WorkFolder.make();
    await using disk = await SmallDisk.at(folder.file("small"), 16 * MiB);
    const random = randomOf(1);
    const [source, replica] = [folder.file("source"), folder.file("replica")];
    let content = volumeOf(random, bytes);
    await writeFile(replica, content);
    await copyFile(replica, folder.file("gen-0"));
    await using served = await serve([
      ...["--lun", `${replica},whole`, "--state-dir", `${disk.path}/state`, "--keep", "50"],
    ]);
    let url = "";
    for (let generation = 1; generation <= 12; generation++) {
      content = stale(random, content, 40);
      await writeFile(source, content);
      const done = await lunsync(["sync", source, served.url]);
      expect([generation, done.status, done.stderr]).toEqual([generation, 0, ""]);
      await copyFile(replica, folder.file(`gen-${generation}`));
      if (generation === 11) url = await exposed(served.url, 9);
    }
    expect(served.stderr).toMatch(/restore point 1 of ".*" was given up: there is no room/);
    const points = await listed(served.url);
    // No more than has to be.
    expect(points.length).toBeLessThan(12);
    expect(points.length).toBeGreaterThan(3);
    expect(points.at(-1)!.point).toBe(12);
    await readWhole(url, folder.file("seen"));
    expect(await same(folder.file("seen"), folder.file("gen-8"))).toBe(true);
    for (const { point } of points) {
      await readWhole(await exposed(served.url, point), folder.file("seen"));
      expect([point, await same(folder.file("seen"), folder.file(`gen-${point - 1}`))]).toEqual([
        point,
        true,
      ]);
    }
    // All of them are shown now: nothing is given up, and the replica stays what can be rolled back.
    await writeFile(source, bytesOf(random, bytes));
    expect((await lunsync(["sync", source, served.url])).status).toBe(7);
    expect((await lunsync(["rollback", served.url])).status).toBe(0);
    expect(await same(replica, folder.file("gen-12"))).toBe(true);
  });
});

test("what has no restore points says so", async () => {
  await using folder = await WorkFolder.make();
  const path = folder.file("disk");
  await writeFile(path, Buffer.alloc(MiB));
  await using served = await serve(["--lun", path]);
  for (const [args, status, code] of [
    [["list", served.url], 3, "volume_unsuitable"],
    [["list", path], 3, "volume_unsuitable"],
  ] as const) {
    const refused = await lunsync(["points", ...args, "--json"]);
    expect([refused.status, refused.json().error.code]).toEqual([status, code]);
  }
  for (const keep of ["24x", "", "0h", "300", "7d,,4w"]) {
    const wrong = await lunsync(["serve", "--lun", `${path},whole`, "--keep", keep]);
    expect([keep, wrong.status]).toEqual([keep, 2]);
  }
  expect((await lunsync(["serve", "--lun", `${path},keep=3`])).stderr).toMatch(/needs ",whole"/);
});
