// A replica that keeps its last whole generation: synchronizations that are cut off, servers that die, full disks.
import { appendFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { bytesOf, randomOf, stale, volumeOf } from "../support/data.ts";
import { lunsync, Running, run, serve, WorkFolder } from "../support/lunsync.ts";
import { mountsWork, SmallDisk } from "../support/machines.ts";

const MiB = 1024 * 1024;
const bytes = 12 * MiB - 4096; // the last extent is shorter

async function makePair(folder: WorkFolder) {
  const [source, replica, old, state] = ["source", "replica", "old", "state"].map((name) =>
    folder.file(name),
  );
  const before = volumeOf(randomOf(1), bytes);
  before.fill(0, 5 * MiB, 7 * MiB);
  await writeFile(replica!, before);
  await run("fallocate", ["--dig-holes", replica!]);
  await writeFile(old!, before);
  await writeFile(source!, bytesOf(randomOf(2), bytes));
  return { source: source!, replica: replica!, old: old!, state: state! };
}

const same = async (a: string, b: string) => (await run("cmp", [a, b])).status === 0;

async function wholeOf(url: string) {
  return (await lunsync(["inquiry", url, "--json"])).json().whole;
}

/** A synchronization that has overwritten something, and is not through. */
async function begun(source: string, url: string): Promise<Running> {
  const sync = new Running(["sync", source, url, "--bandwidth", "2M"]);
  while ((await wholeOf(url)).keptExtents < 20) {
    if (sync.child.exitCode !== null) throw new Error(`sync ended: ${sync.stderr}`);
  }
  return sync;
}

describe("a synchronization that is cut off", () => {
  test.each(["whole", "whole,catalogue"])(
    "by the death of its server (,%s): the run is open after a restart, and is rolled back",
    async (kept) => {
      await using folder = await WorkFolder.make();
      const { source, replica, old, state } = await makePair(folder);
      const args = ["--lun", `${replica},${kept}`, "--state-dir", state];
      await using dying = await serve(args);
      expect(await wholeOf(dying.url)).toMatchObject({ state: "whole", run: null, keptExtents: 0 });
      await using sync = await begun(source, dying.url);
      await dying.end("SIGKILL");
      await sync.end("SIGKILL");
      expect(await same(replica, old)).toBe(false);

      await using again = await serve(args);
      const found = await lunsync(["inquiry", again.url]);
      expect(found.stdout).toMatch(
        /^Generation: +a mixture since .*Z; \d+ extents of the last whole one are kept/m,
      );
      expect(again.stderr).toMatch(/the run [0-9a-f]{32} of ".*" is open$/m);
      const back = await lunsync(["rollback", again.url, "--json"]);
      expect([back.status, back.stderr]).toEqual([0, ""]);
      expect(back.json()).toMatchObject({ state: "whole", unreadable: 0, lost: 0 });
      expect(await same(replica, old)).toBe(true);
      const nothing = await lunsync(["rollback", again.url]);
      expect(nothing.stdout).toMatch(/is a whole generation: there is nothing to put back/);
      // What the catalogue answers for is what is there.
      expect((await lunsync(["compare", old, again.url])).status).toBe(0);
      expect(await wholeOf(again.url)).toMatchObject({ state: "whole" });
      expect(await again.end()).toBe(0);
      expect(await same(replica, old)).toBe(true);
    },
  );

  test("goes on where it stopped; when it is through, nothing brings the old content back", async () => {
    await using folder = await WorkFolder.make();
    const { source, replica, old, state } = await makePair(folder);
    const args = ["--lun", `${replica},whole,catalogue`, "--state-dir", state];
    await using served = await serve(args);
    await using sync = await begun(source, served.url);
    await sync.end("SIGKILL");
    await served.end();
    await using again = await serve(args);
    expect(await wholeOf(again.url)).toMatchObject({ state: "open", foreign: false });
    const through = await lunsync(["sync", source, again.url, "--verify"]);
    expect(through.status).toBe(0);
    expect(await wholeOf(again.url)).toMatchObject({ state: "whole" });
    expect((await lunsync(["rollback", again.url])).status).toBe(0);
    expect([await same(replica, source), await same(replica, old)]).toEqual([true, false]);
  });

  test("is rolled back on the replica's own host, while nobody serves it", async () => {
    await using folder = await WorkFolder.make();
    const { source, replica, old, state } = await makePair(folder);
    const served = await serve(["--lun", `${replica},whole,catalogue`, "--state-dir", state]);
    await using sync = await begun(source, served.url);
    const busy = await lunsync(["rollback", replica, "--state-dir", state, "--json"]);
    expect([busy.status, busy.json().error.code]).toEqual([4, "volume_in_use"]);
    await served.end("SIGKILL");
    await sync.end("SIGKILL");
    const elsewhere = await lunsync(["rollback", replica, "--state-dir", folder.file("other"), "--json"]);
    expect([elsewhere.status, elsewhere.json().error.code]).toEqual([3, "volume_missing"]);
    const back = await lunsync(["rollback", replica, "--state-dir", state]);
    expect(back.stdout).toMatch(/^Put back \d+ extents \(.*\): .*replica is its last whole generation$/m);
    expect(back.status).toBe(0);
    expect(await same(replica, old)).toBe(true);
  });

  test("and then written to by somebody else is rolled back only by force", async () => {
    await using folder = await WorkFolder.make();
    const { source, replica, old, state } = await makePair(folder);
    const args = ["--lun", `${replica},whole`, "--state-dir", state];
    const served = await serve(args);
    await using sync = await begun(source, served.url);
    await sync.end("SIGKILL");
    await served.end();
    const mixture = await readFile(replica);
    await writeFile(replica, stale(randomOf(3), mixture, 3));
    const refused = await lunsync(["rollback", replica, "--state-dir", state, "--json"]);
    expect([refused.status, refused.json().error.code]).toEqual([4, "backup_mismatch"]);
    // It is remembered.
    await using again = await serve(args);
    const asked = await lunsync(["rollback", again.url, "--json"]);
    expect([asked.status, asked.json().error.code]).toEqual([4, "backup_mismatch"]);
    expect((await lunsync(["rollback", again.url, "--force"])).status).toBe(0);
    expect(await wholeOf(again.url)).toMatchObject({ state: "whole" });
    expect(await same(replica, old)).toBe(false);
  });
});

test("a unit that keeps nothing can't be rolled back, and one that is read-only keeps nothing", async () => {
  await using folder = await WorkFolder.make();
  const { replica } = await makePair(folder);
  await using served = await serve(["--lun", replica]);
  expect(await wholeOf(served.url)).toBe(null);
  const refused = await lunsync(["rollback", served.url, "--json"]);
  expect([refused.status, refused.json().error.code]).toEqual([3, "volume_unsuitable"]);
  const readonly = await lunsync(["serve", "--lun", `${replica},ro,whole`]);
  expect([readonly.status, readonly.stderr]).toEqual([2, expect.stringMatching(/served read-only/)]);
});

const mounts = await WorkFolder.make().then(async (folder) => {
  await using _folder = folder;
  return await mountsWork(folder.path);
});

describe.runIf(mounts)("a state directory that is full", () => {
  test("stops the synchronization; what was overwritten is put back, and with room it goes on", async () => {
    await using folder = await WorkFolder.make();
    const { source, replica, old } = await makePair(folder);
    await using disk = await SmallDisk.at(folder.file("small"), 2 * MiB);
    const state = `${disk.path}/state`;
    await mkdir(state);
    await using served = await serve(["--lun", `${replica},whole`, "--state-dir", state]);
    const full = await lunsync(["sync", source, served.url, "--json"]);
    expect([full.status, full.json().error?.code ?? full.json().failure?.code]).toEqual([7, "no_space"]);
    const kept = await wholeOf(served.url);
    expect(kept.state).toBe("open");
    expect(kept.keptExtents).toBeGreaterThan(0);
    expect((await lunsync(["rollback", served.url])).status).toBe(0);
    expect(await same(replica, old)).toBe(true);
    // Filled by somebody else: not even a run can be begun, or not a block be overwritten.
    await appendFile(`${disk.path}/filler`, Buffer.alloc(4 * MiB)).catch(() => {});
    expect((await lunsync(["sync", source, served.url])).status).toBe(7);
    expect((await lunsync(["rollback", served.url])).status).toBe(0);
    expect(await same(replica, old)).toBe(true);
    await disk.grow(32 * MiB);
    expect((await lunsync(["sync", source, served.url])).status).toBe(0);
    expect(await same(replica, source)).toBe(true);
  });
});
