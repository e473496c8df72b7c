// What goes wrong in the middle: bad sectors, a full disk, a target that dies, signals, a source that changes.
import { open, readFile, stat, truncate, writeFile } from "node:fs/promises";
import { afterAll, describe, expect, test } from "vitest";
import { randomOf, volumeOf, writePair } from "../support/data.ts";
import { lunsync, Running, serve, WorkFolder } from "../support/lunsync.ts";
import { freePort, mountsWork, SmallDisk, Tgt, withBadSector } from "../support/machines.ts";

const MiB = 1024 * 1024;
const probe = await WorkFolder.make();
const mountable = await mountsWork(probe.path);
afterAll(() => probe[Symbol.asyncDispose]());

/** A replica that has nothing yet: what is shipped shows in its allocation. */
async function emptyReplica(path: string, bytes: number): Promise<void> {
  await writeFile(path, "");
  await truncate(path, bytes);
}

async function untilShipping(path: string, bytes = MiB): Promise<void> {
  while ((await stat(path)).blocks * 512 < bytes) await pause(20);
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

describe.skipIf(!mountable)("bad sectors and full disks", () => {
  test("a source with one unreadable sector: it is named, the rest is done, the exit status says so", async () => {
    await using folder = await WorkFolder.make();
    const [file, replica] = [folder.file("source"), folder.file("replica")];
    const lba = 3333;
    const extent = Math.floor(lba / 128);
    const { original, other } = await writePair(file, replica, 1, 4 * MiB, 40);
    await using source = await withBadSector(file, folder.path, lba);
    await using target = await serve(["--lun", replica]);
    const compared = await lunsync(["compare", source.path, target.url, "--json"]);
    expect(compared.status).toBe(5);
    expect(compared.json()).toMatchObject({
      verdict: "incomplete",
      badExtents: 1,
      bad: [{ side: "source", action: "read", lba }],
      extents: { total: 64, compared: 63 },
    });
    const shipped = await lunsync(["sync", source.path, target.url]);
    expect(shipped.status).toBe(5);
    expect(shipped.stdout).toContain(`source LBA ${lba}: cannot read`);
    const expected = Buffer.from(original);
    other.copy(expected, extent * 65536, extent * 65536, (extent + 1) * 65536);
    expect((await readFile(replica)).equals(expected)).toBe(true);
  });

  test("a replica with one: compare names it, sync writes it anew and proves it", async () => {
    await using folder = await WorkFolder.make();
    const [source, file] = [folder.file("source"), folder.file("replica")];
    const lba = 4242;
    const { original } = await writePair(source, file, 2, 4 * MiB, 40);
    await using bad = await withBadSector(file, folder.path, lba);
    await using target = await serve(["--lun", bad.path]);
    const compared = await lunsync(["compare", source, target.url, "--json"]);
    expect(compared.json().bad).toMatchObject([{ side: "replica", action: "read", lba }]);
    expect(compared.status).toBe(5);
    const shipped = await lunsync(["sync", source, target.url, "--json"]);
    expect(shipped.json()).toMatchObject({ identical: true, badExtents: 0, proved: 1 });
    expect(shipped.status).toBe(0);
    await target.end();
    expect((await readFile(file)).equals(original)).toBe(true);
  });

  test("a full disk ends it with its own status; with more room it goes on", async () => {
    await using folder = await WorkFolder.make();
    const source = folder.file("source");
    await writeFile(source, volumeOf(randomOf(3), 12 * MiB));
    await using disk = await SmallDisk.at(folder.file("disk"), 4 * MiB);
    const replica = `${disk.path}/replica`;
    await writeFile(replica, "");
    await truncate(replica, 12 * MiB);
    {
      await using target = await serve(["--lun", replica]);
      const full = await lunsync(["sync", source, target.url, "--json"]);
      expect([full.status, full.json().verdict, full.json().error.code]).toEqual([7, "failed", "no_space"]);
      expect(full.stderr).toMatch(/SPACE ALLOCATION FAILED.*make room/);
      expect(full.json().shipped.bytes).toBeGreaterThan(0);
      await disk.grow(32 * MiB);
      expect((await lunsync(["sync", source, target.url, "--verify"])).status).toBe(0);
    }
    expect((await readFile(replica)).equals(await readFile(source))).toBe(true);
  });

  test("no room for before-images: what could not be kept is not overwritten, and the rest can be put back", async () => {
    await using folder = await WorkFolder.make();
    const [source, replica] = [folder.file("source"), folder.file("replica")];
    // Several windows: there is room for the first of them.
    const { original, other } = await writePair(source, replica, 4, 96 * MiB, 90);
    const kept = `${folder.path}/disk/kept`;
    await using disk = await SmallDisk.at(folder.file("disk"), 3 * MiB);
    const full = await lunsync(["sync", source, replica, "--backup-dir", kept, "--json"]);
    expect([full.status, full.json().error.code]).toEqual([7, "no_space"]);
    expect(full.json().shipped.bytes).toBeGreaterThan(0);
    expect((await readFile(replica)).equals(original)).toBe(false);
    await disk.grow(64 * MiB);
    expect((await lunsync(["undo", kept, replica])).status).toBe(0);
    expect((await readFile(replica)).equals(other)).toBe(true);
  });
});

describe("a target that dies", () => {
  test("and comes back at once: the connection is made again and the work finished", async () => {
    await using folder = await WorkFolder.make();
    const [source, replica] = [folder.file("source"), folder.file("replica")];
    await writeFile(source, volumeOf(randomOf(5), 24 * MiB));
    await emptyReplica(replica, 24 * MiB);
    const listen = ["--listen", `127.0.0.1:${await freePort()}`];
    await using first = await serve([...listen, "--lun", replica]);
    await using sync = new Running(["sync", source, first.url, "--bandwidth", "12M", "--json", "--verify"]);
    await untilShipping(replica);
    await first.end("SIGKILL");
    await using second = await serve([...listen, "--lun", replica]);
    expect(await sync.ended).toBe(0);
    expect(sync.stderr).toMatch(/was lost: .*connecting again/);
    expect(sync.stderr).toMatch(/is there again/);
    expect(JSON.parse(sync.stdout).identical).toBe(true);
    await second.end();
    expect((await readFile(replica)).equals(await readFile(source))).toBe(true);
  });

  test("and another volume in its place is not written to", async () => {
    await using folder = await WorkFolder.make();
    const [source, replica, stranger] = [
      folder.file("source"),
      folder.file("replica"),
      folder.file("stranger"),
    ];
    await writeFile(source, volumeOf(randomOf(6), 24 * MiB));
    await emptyReplica(replica, 24 * MiB);
    await writeFile(stranger, Buffer.alloc(24 * MiB));
    const listen = ["--listen", `127.0.0.1:${await freePort()}`];
    await using first = await serve([...listen, "--lun", replica]);
    await using sync = new Running(["sync", source, first.url, "--bandwidth", "12M", "--json"]);
    await untilShipping(replica);
    await first.end("SIGKILL");
    await using _second = await serve([...listen, "--lun", stranger]);
    expect(await sync.ended).toBe(4);
    expect(sync.stderr).toMatch(/another volume after the reconnection/);
    expect((await readFile(stranger)).equals(Buffer.alloc(24 * MiB))).toBe(true);
  });

  test("or is only stuck for a while: it is asked, given up, and found again", async () => {
    await using folder = await WorkFolder.make();
    const [source, replica] = [folder.file("source"), folder.file("replica")];
    await writeFile(source, volumeOf(randomOf(12), 24 * MiB));
    await emptyReplica(replica, 24 * MiB);
    await using target = await serve(["--lun", replica]);
    await using sync = new Running(["sync", source, target.url, "--bandwidth", "12M", "--json"]);
    await untilShipping(replica);
    target.child.kill("SIGSTOP");
    await pause(12_000);
    target.child.kill("SIGCONT");
    expect(await sync.ended).toBe(0);
    expect(sync.stderr).toMatch(/the target was silent for 1\d s; connecting again/);
    await target.end();
    expect((await readFile(replica)).equals(await readFile(source))).toBe(true);
  });

  test("for good: the command ends by itself and says what was done", async () => {
    await using folder = await WorkFolder.make();
    const [source, replica] = [folder.file("source"), folder.file("replica")];
    await writeFile(source, volumeOf(randomOf(7), 24 * MiB));
    await emptyReplica(replica, 24 * MiB);
    await using target = await serve(["--lun", replica]);
    await using sync = new Running(["sync", source, target.url, "--bandwidth", "12M", "--json"]);
    // Some of it has been acknowledged by then, however slow the machine.
    await untilShipping(replica, 8 * MiB);
    await target.end("SIGKILL");
    expect(await sync.ended).toBe(6);
    const report = JSON.parse(sync.stdout);
    expect([report.verdict, report.error.code]).toEqual(["failed", "connection_lost"]);
    expect(report.shipped.bytes).toBeGreaterThan(0);
  });
});

test.each([
  ["SIGINT", 130],
  ["SIGTERM", 143],
] as const)("%s stops it cleanly; running it again goes on from there", async (signal, status) => {
  await using folder = await WorkFolder.make();
  const [source, replica] = [folder.file("source"), folder.file("replica")];
  await writeFile(source, volumeOf(randomOf(8), 16 * MiB));
  await emptyReplica(replica, 16 * MiB);
  await using target = await serve(["--lun", replica]);
  await using sync = new Running(["sync", source, target.url, "--bandwidth", "8M", "--json"]);
  await untilShipping(replica);
  expect(await sync.end(signal)).toBe(status);
  const report = JSON.parse(sync.stdout);
  expect(report.verdict).toBe("interrupted");
  expect(report.shipped.bytes).toBeGreaterThan(0);
  expect(report.shipped.bytes).toBeLessThan(14 * MiB); // it did not wait for what was queued
  const again = (await lunsync(["sync", source, target.url, "--json"])).json();
  expect(again.identical).toBe(true);
  expect(again.shipped.bytes).toBeLessThanOrEqual(16 * MiB - report.shipped.bytes);
});

test("a source that is written to all the time is never called equal", async () => {
  await using folder = await WorkFolder.make();
  const [source, replica] = [folder.file("source"), folder.file("replica")];
  // A pass lasts longer than the writer ever has to wait for his turn.
  const bytes = 128 * MiB;
  await writePair(source, replica, 9, bytes, 30);
  await using writer = await open(source, "r+");
  let writing = true;
  const writes = (async () => {
    for (let i = 0; writing; i++) {
      await writer.write(`change ${i}`, (i * 37_633) % (bytes - 64));
      await pause(2);
    }
  })();
  const compared = await lunsync(["compare", source, replica, "--json"]);
  const shipped = await lunsync(["sync", source, replica, "--json", "--bandwidth", "16M"]);
  writing = false;
  await writes;
  expect([compared.status, compared.json().verdict, compared.json().identical]).toEqual([
    8,
    "changed",
    false,
  ]);
  expect([shipped.status, shipped.json().verdict, shipped.json().passes]).toEqual([8, "changed", 3]);
  expect((await lunsync(["sync", source, replica])).status).toBe(0);
});

test("a replica of another maker (tgt) works by reads, with a warning", async () => {
  await using folder = await WorkFolder.make();
  const [source, replica] = [folder.file("source"), folder.file("replica")];
  const { original } = await writePair(source, replica, 10, 6 * MiB + 512, 40);
  await using tgt = await Tgt.serving(replica);
  const compared = await lunsync(["compare", source, tgt.url]);
  expect(compared.status).toBe(1);
  expect(compared.stderr).toMatch(/does not speak the vendor commands/);
  for (const mode of ["encode", "decode", "verdict"]) {
    expect((await lunsync(["compare", source, tgt.url, "--mode", mode, "--fresh"])).status).toBe(1);
  }
  expect((await lunsync(["sync", source, tgt.url, "--verify"])).status).toBe(0);
  expect((await readFile(replica)).equals(original)).toBe(true);
  expect((await lunsync(["inquiry", tgt.url, "--json"])).json().vendorCommands).toBe(false);
  const listed = await lunsync(["inquiry", tgt.url.replace(/\/iqn.*/, "")]);
  expect(listed.stdout).toMatch(/^iqn\.2026-11\.com\.example:tgt\n {4}at 127\.0\.0\.1:\d+,1\n$/);
  // What is read over the wire to be compared counts as data.
  const slow = await lunsync(["compare", source, tgt.url, "--bandwidth", "4M", "--json"]);
  expect(slow.json().seconds).toBeGreaterThan(1);
});

describe("memory stays bounded", () => {
  const peakOf = async (pid: number) => {
    const status = await readFile(`/proc/${pid}/status`, "utf8").catch(() => "");
    return Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1] ?? 0) / 1024;
  };

  test.each([
    ["of which every extent is shipped", 768 * MiB, 768 * MiB],
    ["of 4 TiB, nearly all of it a hole", 64 * MiB, 4 * 1024 * 1024 * MiB],
  ])("with a volume %s", async (_what, dataBytes, bytes) => {
    await using folder = await WorkFolder.make("/var/tmp");
    const [source, replica] = [folder.file("source"), folder.file("replica")];
    const piece = volumeOf(randomOf(11), 16 * MiB);
    const file = await open(source, "w");
    for (let at = 0; at < dataBytes; at += piece.length) await file.write(piece, 0, piece.length, at);
    await file.truncate(bytes);
    await file.close();
    await writeFile(replica, "");
    await truncate(replica, bytes);
    await using target = await serve(["--lun", replica]);
    const extent = bytes > 1024 * MiB ? "16M" : "64K";
    await using sync = new Running(["sync", source, target.url, "--json", "--extent", extent]);
    let peak = 0;
    let over = false;
    void sync.ended.then(() => {
      over = true;
    });
    while (!over) {
      peak = Math.max(peak, await peakOf(sync.child.pid!));
      await pause(20);
    }
    expect(await sync.ended).toBe(0);
    expect(peak).toBeGreaterThan(20);
    expect(peak).toBeLessThan(256);
    expect(await peakOf(target.child.pid!)).toBeLessThan(256);
  });

  test("of a target whose catalogues are being made while they are compared", async () => {
    await using folder = await WorkFolder.make("/var/tmp");
    const files = [folder.file("source"), folder.file("replica")];
    for (const [i, path] of files.entries()) {
      await writeFile(path, volumeOf(randomOf(i), 8 * MiB));
      await truncate(path, 256 * 1024 * MiB);
    }
    const luns = files.flatMap((path) => ["--lun", `${path},catalogue`]);
    await using target = await serve([...luns, "--state-dir", folder.file("state")]);
    const [source, replica] = target.urls;
    expect((await lunsync(["compare", source!, replica!])).status).toBe(1);
    const peak = await peakOf(target.child.pid!);
    expect(peak).toBeGreaterThan(20);
    expect(peak).toBeLessThan(256);
  });
});
