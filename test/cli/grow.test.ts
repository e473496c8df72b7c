// sync --grow: a source that has become larger is replicated as such, to files, to targets, and to devices.
import { readFile, stat, truncate, writeFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { write16 } from "../../src/scsi/sbc-commands.ts";
import { bytesOf, randomOf, stale, volumeOf } from "../support/data.ts";
import { LoopDevice, loopDevicesWork } from "../support/loop.ts";
import { lunsync, run, type Served, serve, WorkFolder } from "../support/lunsync.ts";
import { RawInitiator } from "../support/raw-initiator.ts";

const MiB = 1024 * 1024;
/** The last extents are shorter. */
const before = 9 * MiB - 4096;
const after = 21 * MiB + 512;
const grown = { from: before, to: after };

/** A replica of what the source was before it grew, and changed in places. */
async function writeGrown(folder: WorkFolder) {
  const [source, replica] = [folder.file("source"), folder.file("replica")];
  const content = volumeOf(randomOf(1), after);
  content.fill(0, 12 * MiB, 15 * MiB);
  const old = stale(randomOf(2), content.subarray(0, before), 4);
  await writeFile(source, content);
  await writeFile(replica, old);
  return { source, replica, content, old };
}

const loops = await loopDevicesWork();

const json = async (...args: string[]) => {
  const { status, stdout, stderr } = await lunsync(["sync", ...args, "--json"]);
  return { status, stderr, report: JSON.parse(stdout) };
};
const same = async (a: string, b: string) => (await run("cmp", [a, b])).status === 0;
const sizeOf = async (path: string) => (await stat(path)).size;

describe("a replica that is a file of this host", () => {
  test("grows and is made equal; the next run has nothing to do", async () => {
    await using folder = await WorkFolder.make();
    const { source, replica } = await writeGrown(folder);
    const refused = await json(source, replica);
    expect([refused.status, refused.report.error.code]).toEqual([4, "size_mismatch"]);
    expect(refused.report.error.message).toMatch(/have "lunsync sync --grow" do it/);
    expect(await sizeOf(replica)).toBe(before);
    const dry = await json(source, replica, "--grow", "--dry-run");
    expect([dry.status, dry.report.error.code]).toEqual([4, "size_mismatch"]);
    expect(dry.report.error.message).toMatch(/would grow from 9433088 to 22020608 bytes first: --dry-run/);
    expect(await sizeOf(replica)).toBe(before);

    const { status, stdout } = await lunsync(["sync", source, replica, "--grow", "--verify"]);
    expect(status).toBe(0);
    expect(stdout).toMatch(/^ {2}grown {4}the replica, from 9\.00 MiB to 21\.0 MiB$/m);
    expect(await same(source, replica)).toBe(true);
    const again = await json(source, replica, "--grow");
    expect(again.report).toMatchObject({ verdict: "equal", shipped: { extents: 0 } });
    expect(again.report).not.toHaveProperty("grown");
  });

  test("that is larger than its source is never made shorter", async () => {
    await using folder = await WorkFolder.make();
    const { source, replica } = await writeGrown(folder);
    for (const more of [[], ["--grow"]]) {
      const { status, report } = await json(replica, source, ...more);
      expect([status, report.error.code]).toEqual([4, "size_mismatch"]);
      expect(report.error.message).toMatch(/lunsync makes no volume shorter.*truncate, lvreduce/);
      expect(await sizeOf(source)).toBe(after);
    }
  });

  test("is left as it is where the run would be refused anyway", async () => {
    await using folder = await WorkFolder.make();
    const { source, replica, old } = await writeGrown(folder);
    await using readonly = await serve(["--lun", `${replica},ro`]);
    for (const [args, code, status] of [
      [[source, readonly.url], "volume_readonly", 4],
      [[source, folder.file("nothing")], "volume_missing", 3],
    ] as const) {
      const refused = await json(...args, "--grow");
      expect([refused.report.error?.code, refused.status]).toEqual([code, status]);
    }
    await readonly.end();
    await truncate(source, 24 * MiB);
    await using wide = await serve(["--lun", source, "--block-size", "4096"]);
    await using narrow = await serve(["--lun", replica]);
    const other = await json(wide.url, narrow.url, "--grow");
    expect([other.report.error.code, other.status]).toEqual(["block_size_mismatch", 4]);
    await narrow.end();
    await wide.end();
    const odd = await json(source, replica, "--grow", "--extent", "1023");
    expect(odd.status).toBe(2);
    expect((await readFile(replica)).equals(old)).toBe(true);
  });

  test("a limit for files is said, and the replica is as it was", async () => {
    await using folder = await WorkFolder.make();
    const { source, replica, old } = await writeGrown(folder);
    const { status, stdout } = await lunsync(["sync", source, replica, "--grow", "--json"], {
      through: ["prlimit", `--fsize=${15 * MiB}`],
    });
    expect(status).toBe(7);
    expect(JSON.parse(stdout).error).toEqual({
      code: "no_space",
      message: expect.stringMatching(
        /Cannot grow .* from 9433088 to 22020608 bytes: file too large.*ulimit -f/,
      ),
    });
    expect((await readFile(replica)).equals(old)).toBe(true);
  });

  test("before-images have the new size: undo puts back what was there, and leaves it as long as it is", async () => {
    await using folder = await WorkFolder.make();
    const { source, replica, old } = await writeGrown(folder);
    const kept = folder.file("kept");
    await writeFile(source, await readFile(source).then((all) => all.subarray(0, before)));
    expect((await lunsync(["sync", source, replica, "--backup-dir", kept])).status).toBe(0);
    const older = await readFile(replica);
    await writeFile(source, volumeOf(randomOf(3), after));
    expect((await lunsync(["sync", source, replica, "--backup-dir", kept, "--grow"])).status).toBe(0);
    expect(await same(source, replica)).toBe(true);
    expect((await lunsync(["undo", kept, replica])).status).toBe(0);
    const expected = Buffer.concat([older, Buffer.alloc(after - before)]);
    expect((await readFile(replica)).equals(expected)).toBe(true);
    // The run before overwrote a shorter one.
    const { status, stderr } = await lunsync(["undo", kept, replica]);
    expect(status).toBe(4);
    expect(stderr).toMatch(
      /it has 43009 blocks of 512 bytes, and had 18424 of 512 in that run; give it that size/,
    );
    await truncate(replica, before);
    expect((await lunsync(["undo", kept, replica])).status).toBe(0);
    expect((await readFile(replica)).equals(old)).toBe(true);
  });
});

describe("a replica that a target serves", () => {
  test("grows, by both forms of the source; the target says so, and it lasts", async () => {
    await using folder = await WorkFolder.make();
    const { source, replica, old } = await writeGrown(folder);
    await using theirs = await serve(["--lun", replica]);
    const first = await json(source, theirs.url, "--grow");
    expect(first.report).toMatchObject({ verdict: "equal", grown });
    expect(await same(source, replica)).toBe(true);
    for (let tries = 0; tries < 100 && !/has 43009 blocks of 512 bytes now/.test(theirs.stderr); tries++)
      await new Promise((resolve) => setTimeout(resolve, 100));
    expect(theirs.stderr).toMatch(/LUN 0 \(".*replica"\) has 43009 blocks of 512 bytes now/);
    expect(await theirs.end("SIGKILL")).not.toBe(0);
    expect(await sizeOf(replica)).toBe(after);

    await writeFile(replica, old);
    await using ours = await serve(["--lun", `${source},ro`, "--target", "iqn.2026-11.com.example:source"]);
    await using again = await serve(["--lun", replica]);
    const second = await json(ours.url, again.url, "--grow", "--verify", "--compress");
    expect(second.report).toMatchObject({ verdict: "equal", grown });
    expect(await same(source, replica)).toBe(true);
  });

  test("not for whom the target refuses it", async () => {
    await using folder = await WorkFolder.make();
    const { source, replica, old } = await writeGrown(folder);
    const names = ["plain", "ro"].map((what) => `iqn.2026-11.com.example:${what},${what}`);
    await using theirs = await serve(["--lun", replica, ...names.flatMap((name) => ["--initiator", name])]);
    for (const [who, code, message] of [
      ["plain", "size_mismatch", /its target does not speak lunsync's vendor commands/],
      ["ro", "volume_readonly", /./],
    ] as const) {
      const { stdout } = await lunsync(["sync", source, theirs.url, "--grow", "--json"], {
        env: { LUNSYNC_INITIATOR_NAME: `iqn.2026-11.com.example:${who}` },
      });
      expect(JSON.parse(stdout).error).toEqual({ code, message: expect.stringMatching(message) });
    }
    await theirs.end();
    expect((await readFile(replica)).equals(old)).toBe(true);
  });

  test("a limit for the target's files is said", async () => {
    await using folder = await WorkFolder.make();
    const { source, replica, old } = await writeGrown(folder);
    await using theirs = await serve(["--lun", replica], { through: ["prlimit", `--fsize=${15 * MiB}`] });
    const { status, report } = await json(source, theirs.url, "--grow");
    expect([status, report.error.code]).toEqual([7, "no_space"]);
    expect(report.error.message).toMatch(
      /Cannot grow iscsi:.* from 9433088 to 22020608 bytes: .*make room at the target/,
    );
    await theirs.end();
    expect((await readFile(replica)).equals(old)).toBe(true);
  });

  test.skipIf(!loops)("a device has to be extended by its administrator first", async () => {
    await using folder = await WorkFolder.make();
    const { source, replica } = await writeGrown(folder);
    await using device = await LoopDevice.over(replica);
    await using theirs = await serve(["--lun", device.path]);
    const refused = await json(source, theirs.url, "--grow");
    expect([refused.status, refused.report.error.code]).toEqual([4, "size_mismatch"]);
    expect(refused.report.error.message).toMatch(/extend it there with lvextend/);
    await truncate(replica, after);
    expect((await run("losetup", ["--set-capacity", device.path])).status).toBe(0);
    const { report } = await json(source, theirs.url, "--grow");
    expect(report.verdict).toBe("equal");
    expect(await same(source, device.path)).toBe(true);
  });
});

describe("two volumes with catalogues, of which one grows while it is served", () => {
  async function serveOne(folder: WorkFolder, side: "source" | "replica"): Promise<Served> {
    const state = folder.file(`${side}-state`);
    const target = `iqn.2026-11.com.example:${side}`;
    return serve(["--lun", `${folder.file(side)},catalogue`, "--target", target, "--state-dir", state]);
  }

  async function write(served: Served, lba: number, data: Buffer): Promise<void> {
    const { port, pathname } = new URL(served.url.replace("iscsi:", "http:"));
    const name = decodeURIComponent(pathname.split("/")[1]!);
    await using raw = await RawInitiator.login(Number(port), name);
    await raw.settle();
    const cdb = write16.encode({ logicalBlockAddress: BigInt(lba), transferLength: data.length / 512 });
    raw.sendCommand(cdb, { write: true, expectedDataTransferLength: data.length }, data);
    expect((await raw.outcome()).status).toBe(0);
  }

  /** Synchronizes until both catalogues are whole: then next to nothing has to be looked at. */
  async function settled(ours: Served, theirs: Served): Promise<number> {
    for (let tries = 0; ; tries++) {
      const { report } = await json(ours.url, theirs.url);
      expect(report).toMatchObject({ verdict: "equal", shipped: { extents: 0 } });
      const bytes = report.bytes.sent + report.bytes.received;
      if (bytes < 3000 || tries === 40) return bytes;
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
  }

  test("are replicated by what they remember, and stay catalogued at their new size, over a restart", async () => {
    await using folder = await WorkFolder.make();
    const [source, replica] = [folder.file("source"), folder.file("replica")];
    const content = volumeOf(randomOf(4), before);
    for (const path of [source, replica]) await writeFile(path, content);
    {
      await using ours = await serveOne(folder, "source");
      await using theirs = await serveOne(folder, "replica");
      const first = await json(ours.url, theirs.url);
      expect(first.report).toMatchObject({ verdict: "equal", history: { used: false, committed: true } });
      expect(await settled(ours, theirs)).toBeLessThan(3000);

      await truncate(source, 300 * MiB); // another level of the tree
      for (let tries = 0; tries < 100 && !/blocks of 512 bytes now/.test(ours.stderr); tries++)
        await new Promise((resolve) => setTimeout(resolve, 100));
      await write(ours, 300 * 2048 - 8, bytesOf(randomOf(5), 4096));
      await write(ours, 128, bytesOf(randomOf(6), 4096));
      const { report } = await json(ours.url, theirs.url, "--grow");
      expect(report).toMatchObject({
        verdict: "equal",
        grown: { from: before, to: 300 * MiB },
        history: { used: true, committed: true },
        shipped: { extents: 2 },
      });
      expect(await same(source, replica)).toBe(true);
      expect(await settled(ours, theirs)).toBeLessThan(3000);
      await write(ours, 200 * 2048, bytesOf(randomOf(7), 4096));
      const next = await json(ours.url, theirs.url);
      expect(next.report).toMatchObject({
        verdict: "equal",
        history: { used: true },
        shipped: { extents: 1 },
      });
      expect(next.report.bytes.received).toBeLessThan(80_000); // the extent, and little more
      for (const each of [ours, theirs]) expect(await each.end()).toBe(0);
    }
    await using ours = await serveOne(folder, "source");
    await using theirs = await serveOne(folder, "replica");
    expect(ours.stderr + theirs.stderr).not.toMatch(/begins anew/);
    const { report } = await json(ours.url, theirs.url);
    expect(report).toMatchObject({ verdict: "equal", history: { used: true }, shipped: { extents: 0 } });
    expect((await json(ours.url, theirs.url, "--fresh")).report).toMatchObject({ shipped: { extents: 0 } });
    expect(await same(source, replica)).toBe(true);
  });

  test("one that was cut off behind the growth: the next run ships what is new", async () => {
    await using folder = await WorkFolder.make();
    const { source, replica, old } = await writeGrown(folder);
    {
      await using theirs = await serveOne(folder, "replica");
      // No further than GROW: nothing can be kept there.
      const cut = await json(source, theirs.url, "--grow", "--backup-dir", "/dev/null/kept");
      expect(cut.report).toMatchObject({ verdict: "failed", grown });
      await theirs.end("SIGKILL");
    }
    const expected = Buffer.concat([old, Buffer.alloc(after - before)]);
    expect((await readFile(replica)).equals(expected)).toBe(true);
    await using theirs = await serveOne(folder, "replica");
    const { report } = await json(source, theirs.url);
    expect(report.verdict).toBe("equal");
    expect(await same(source, replica)).toBe(true);
  });
});
