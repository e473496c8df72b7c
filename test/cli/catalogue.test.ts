// Catalogues as their users meet them: two targets that keep them, compared and synchronized, killed and cheated.
import { readFile, writeFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { write16 } from "../../src/scsi/sbc-commands.ts";
import { below, bytesOf, randomOf, stale, volumeOf } from "../support/data.ts";
import { lunsync, type Served, serve, WorkFolder } from "../support/lunsync.ts";
import { RawInitiator } from "../support/raw-initiator.ts";

const MiB = 1024 * 1024;
const volumeBytes = 40 * MiB - 4096; // the last region and the last extent are shorter

interface Pair extends AsyncDisposable {
  readonly source: Served;
  readonly replica: Served;
}

/** Targets over `source.img` and `replica.img` of the folder, with catalogues. */
async function servePair(folder: WorkFolder, more: string[] = []): Promise<Pair> {
  const one = (side: string) =>
    serve([
      "--lun",
      `${folder.file(`${side}.img`)},catalogue`,
      "--target",
      `iqn.2026-11.com.example:${side}`,
      "--state-dir",
      folder.file(`${side}-state`),
      ...more,
    ]);
  const source = await one("source");
  const replica = await one("replica");
  return {
    source,
    replica,
    [Symbol.asyncDispose]: async () => {
      await source[Symbol.asyncDispose]();
      await replica[Symbol.asyncDispose]();
    },
  };
}

const compare = async ({ source, replica }: Pair, ...more: string[]) =>
  (await lunsync(["compare", source.url, replica.url, "--json", ...more])).json();

/** Compares until both catalogues are whole: then equal volumes cost one node each. */
async function settledCost(pair: Pair): Promise<number> {
  for (let tries = 0; ; tries++) {
    const { bytes } = await compare(pair);
    if (bytes.sent + bytes.received < 1000 || tries === 40) return bytes.sent + bytes.received;
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

function place(url: string): { port: number; targetName: string } {
  const { port, pathname } = new URL(url.replace("iscsi:", "http:"));
  return { port: Number(port), targetName: decodeURIComponent(pathname.split("/")[1]!) };
}

async function writer(served: Served): Promise<RawInitiator> {
  const { port, targetName } = place(served.url);
  const raw = await RawInitiator.login(port, targetName, [], undefined, "iqn.2026-11.com.example:writer");
  await raw.settle();
  return raw;
}

async function write(raw: RawInitiator, lba: number, data: Buffer): Promise<void> {
  raw.sendCommand(
    write16.encode({ logicalBlockAddress: BigInt(lba), transferLength: data.length / 512 }),
    { write: true, expectedDataTransferLength: data.length },
    data,
  );
  expect((await raw.outcome()).status).toBe(0);
}

describe("two volumes with catalogues", () => {
  test("are proved equal by their roots; what is written is found, shipped, and equal again", async () => {
    await using folder = await WorkFolder.make();
    const content = volumeOf(randomOf(1), volumeBytes);
    await writeFile(folder.file("source.img"), content);
    await writeFile(folder.file("replica.img"), content);
    await using pair = await servePair(folder);
    const first = await compare(pair);
    expect([first.identical, first.extents.compared]).toEqual([true, first.extents.total]);
    expect(await settledCost(pair)).toBeLessThan(400);
    expect((await lunsync(["inquiry", pair.source.url, "--json"])).json().catalogue).toEqual({
      digest: "sha256",
      extentBytes: 65_536,
      histories: true,
    });

    await using raw = await writer(pair.source);
    const random = randomOf(2);
    const changed = new Set<number>();
    for (let i = 0; i < 5; i++) {
      const lba = below(random, volumeBytes / 512 - 8);
      await write(raw, lba, bytesOf(random, 4096));
      for (let block = lba; block < lba + 8; block++) changed.add(Math.floor(block / 128));
    }
    const found = await compare(pair);
    expect(found.extents).toEqual({ total: 640, compared: 640, differing: changed.size });
    // The regions that were written to, and the way to them: not all extents' values.
    expect(found.bytes.received).toBeLessThan(2 * 5 * 3 * 64 * 9 + 2000);
    const fresh = await compare(pair, "--fresh");
    expect(fresh.ranges).toEqual(found.ranges);

    const synced = (await lunsync(["sync", pair.source.url, pair.replica.url, "--json"])).json();
    expect([synced.verdict, synced.shipped.extents]).toEqual(["equal", changed.size]);
    expect(await settledCost(pair)).toBeLessThan(400);
    expect((await compare(pair, "--fresh")).identical).toBe(true);
  });

  test("keep their catalogues over a restart; one that was written to behind its back begins anew", async () => {
    await using folder = await WorkFolder.make();
    const content = volumeOf(randomOf(3), volumeBytes);
    await writeFile(folder.file("source.img"), content);
    await writeFile(folder.file("replica.img"), content);
    {
      await using pair = await servePair(folder);
      expect(await settledCost(pair)).toBeLessThan(400);
      expect(await pair.source.end()).toBe(0);
      expect(await pair.replica.end()).toBe(0);
    }
    {
      await using pair = await servePair(folder);
      const { bytes } = await compare(pair);
      expect(bytes.sent + bytes.received).toBeLessThan(400); // nothing was read, by either
      await pair.source.end();
      await pair.replica.end();
    }
    const state = ["--state-dir", folder.file("source-state")];
    const scrubbed = await lunsync(["scrub", folder.file("source.img"), ...state, "--json"]);
    expect([scrubbed.status, scrubbed.json()]).toEqual([
      0,
      expect.objectContaining({ catalogue: "kept", proved: 640, differing: 0, skipped: 0, findings: [] }),
    ]);
    const changed = stale(randomOf(4), content, 1);
    await writeFile(folder.file("replica.img"), changed);
    await using pair = await servePair(folder);
    expect(pair.replica.stderr).toMatch(/begins anew: the volume was written to since it was closed/);
    expect(pair.source.stderr).not.toMatch(/begins anew/);
    expect((await lunsync(["scrub", folder.file("source.img"), ...state])).status).toBe(4); // it is being served
    expect((await compare(pair)).identical).toBe(false);
  });

  test("are scrubbed by their server", async () => {
    await using folder = await WorkFolder.make();
    for (const side of ["source", "replica"])
      await writeFile(folder.file(`${side}.img`), volumeOf(randomOf(7), 8 * MiB));
    await using pair = await servePair(folder, ["--scrub-every", "1s", "--scrub-rate", "100M"]);
    for (let tries = 0; tries < 100 && !/scrub of .* has ended/.test(pair.source.stderr); tries++)
      await new Promise((resolve) => setTimeout(resolve, 100));
    expect(pair.source.stderr).toMatch(/scrub of ".*source.img" begins[\s\S]*scrub of ".*" has ended/);
    expect(pair.source.stderr).not.toMatch(/differs|unreadable/);
  });

  test("that are killed while they are written to trust nothing that may have changed", async () => {
    await using folder = await WorkFolder.make();
    const content = volumeOf(randomOf(5), volumeBytes);
    await writeFile(folder.file("source.img"), content);
    await writeFile(folder.file("replica.img"), content);
    const random = randomOf(6);
    for (let round = 0; round < 3; round++) {
      await using pair = await servePair(folder);
      if (round === 0) expect(await settledCost(pair)).toBeLessThan(400);
      await using raw = await writer(pair.source);
      for (let i = 0; i < 30; i++) {
        const data = bytesOf(random, 8192);
        raw.sendCommand(
          write16.encode({
            logicalBlockAddress: BigInt(below(random, volumeBytes / 512 - 16)),
            transferLength: 16,
          }),
          { write: true, expectedDataTransferLength: data.length },
          data,
        );
        if (random() < 0.3) await new Promise((resolve) => setTimeout(resolve, 20));
      }
      await pair.source.end("SIGKILL");
      await pair.replica.end("SIGKILL");
      await using again = await servePair(folder);
      expect(again.source.stderr).not.toMatch(/begins anew/);
      const [source, replica] = await Promise.all(
        ["source.img", "replica.img"].map((name) => readFile(folder.file(name))),
      );
      const differing = Array.from({ length: 640 }, (_, i) => {
        const [from, to] = [i * 65_536, Math.min(volumeBytes, (i + 1) * 65_536)];
        return source!.compare(replica!, from, to, from, to) !== 0;
      }).filter(Boolean).length;
      expect((await compare(again)).extents.differing).toBe(differing);
      const synced = (await lunsync(["sync", again.source.url, again.replica.url, "--json"])).json();
      expect([synced.verdict, synced.shipped.extents]).toEqual(["equal", differing]);
      expect((await readFile(folder.file("replica.img"))).equals(source!)).toBe(true);
    }
  });

  test("data that moved is copied by the replica itself, and next to nothing is shipped", async () => {
    await using folder = await WorkFolder.make();
    const extent = 65_536;
    const count = 500;
    const old = bytesOf(randomOf(8), count * extent);
    old.fill(0, 100 * extent, 140 * extent);
    const at = (i: number) => old.subarray(i * extent, (i + 1) * extent);
    // Everything moves up by seven extents, two change places, one is there twice, three are new.
    const places = Array.from({ length: count }, (_, i) => at((i + count - 7) % count));
    [places[300], places[301]] = [at(301), at(300)];
    places[20] = at(400);
    const fresh = bytesOf(randomOf(9), 3 * extent);
    for (const i of [0, 1, 2]) places[200 + i] = fresh.subarray(i * extent, (i + 1) * extent);
    const moved = Buffer.concat(places);
    await writeFile(folder.file("source.img"), moved);
    for (const more of [
      [],
      ["--verify"],
      ["--backup-dir", folder.file("before")],
      ["--no-moved"],
      ["--compress"],
      ["--narrow", "--verify"],
    ]) {
      await writeFile(folder.file("replica.img"), old);
      await using replica = await serve([
        "--lun",
        `${folder.file("replica.img")},catalogue`,
        "--state-dir",
        folder.file(`state-${more.join("")}`.replaceAll("/", "_")),
      ]);
      const compared = (await lunsync(["compare", folder.file("source.img"), replica.url, "--json"])).json();
      for (let wait = 0; wait < 6; wait++) await new Promise((resolve) => setTimeout(resolve, 500)); // it is known now
      const sync = ["sync", folder.file("source.img"), replica.url, "--json", ...more];
      const { stdout, status } = await lunsync(sync);
      const report = JSON.parse(stdout);
      expect([status, report.verdict]).toEqual([0, "equal"]);
      expect((await readFile(folder.file("replica.img"))).equals(moved)).toBe(true);
      const { differing } = compared.extents;
      if (more[0] === "--narrow") {
        expect([report.copied > 400, report.bytes.sent < 1.5 * MiB]).toEqual([true, true]);
        continue; // it counts pieces
      }
      if (more[0] === "--no-moved") {
        expect(report.copied).toBe(0);
        expect(report.shipped.extents).toBe(differing);
        continue;
      }
      expect(report.copied + report.shipped.extents).toBe(differing);
      // The new ones, zeros, and one for each circle.
      expect(report.shipped.extents - report.shipped.zeroed).toBeLessThan(15);
      expect(report.bytes.sent).toBeLessThan(1.5 * MiB);
      if (more[0] === "--verify") expect(report.proved).toBe(differing);
      if (more[0] === "--backup-dir") {
        expect((await lunsync(["undo", report.backup, replica.url])).status).toBe(0);
        expect((await readFile(folder.file("replica.img"))).equals(old)).toBe(true);
      }
    }
  });

  test("that were synchronized remember it: the next run looks only at what either has changed since", async () => {
    await using folder = await WorkFolder.make();
    await writeFile(folder.file("source.img"), volumeOf(randomOf(10), volumeBytes));
    await writeFile(folder.file("replica.img"), Buffer.alloc(volumeBytes));
    const sync = async ({ source, replica }: Pair) => {
      const { stdout } = await lunsync(["sync", source.url, replica.url, "--json"]);
      return JSON.parse(stdout);
    };
    const same = async () =>
      (await readFile(folder.file("source.img"))).equals(await readFile(folder.file("replica.img")));
    const random = randomOf(11);
    {
      await using pair = await servePair(folder);
      expect((await sync(pair)).history).toEqual({ used: false, committed: true });
      expect(await settledCost(pair)).toBeLessThan(400);
      // What was shipped counts as changed since; from the next run on nothing does.
      const second = await sync(pair);
      expect([second.verdict, second.history, second.shipped.extents]).toEqual([
        "equal",
        { used: true, committed: true },
        0,
      ]);
      const third = await sync(pair);
      expect(third.history).toEqual({ used: true, committed: true });
      expect(third.bytes.sent + third.bytes.received).toBeLessThan(3000);
      await pair.source.end();
      await pair.replica.end();
    }
    {
      // Over a restart; and whoever writes to the replica is found out as well.
      await using pair = await servePair(folder);
      await using ours = await writer(pair.source);
      await using theirs = await writer(pair.replica);
      await write(ours, 128 * 100, bytesOf(random, 4096));
      await write(theirs, 128 * 300, bytesOf(random, 4096));
      const found = await sync(pair);
      expect([found.verdict, found.history, found.shipped.extents]).toEqual([
        "equal",
        { used: true, committed: true },
        2,
      ]);
      expect(found.ranges).toEqual([
        { lba: 128 * 100, blocks: 128 },
        { lba: 128 * 300, blocks: 128 },
      ]);
      expect(await same()).toBe(true);
      await write(ours, 128 * 5, bytesOf(random, 4096));
      await pair.source.end("SIGKILL");
      await pair.replica.end("SIGKILL");
    }
    {
      await using pair = await servePair(folder);
      const found = await sync(pair);
      expect([found.verdict, found.history.used, found.shipped.extents]).toEqual(["equal", true, 1]);
      expect(await same()).toBe(true);
      // The other way round is another pair: its first run compares.
      const back = await sync({ ...pair, source: pair.replica, replica: pair.source });
      expect([back.verdict, back.history]).toEqual(["equal", { used: false, committed: true }]);
      await pair.replica.end();
    }
    // A replica that was put back to an older state, or is another volume, has no generation in common.
    await writeFile(folder.file("replica.img"), volumeOf(randomOf(10), volumeBytes));
    await using pair = await servePair(folder, ["--listen", "127.0.0.1:0"]);
    const found = await sync(pair);
    expect([found.verdict, found.history.used]).toEqual(["equal", false]);
    expect(await same()).toBe(true);
  });
});
