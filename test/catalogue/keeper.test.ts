// Whether a catalogue that is found may be believed, and what becomes of one that can't be kept: on real files.
import { createHash } from "node:crypto";
import { open, readdir, readFile, rename, stat, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { Catalogue } from "../../src/catalogue/catalogue.ts";
import { CataloguedVolume } from "../../src/catalogue/catalogued-volume.ts";
import { CatalogueKeeper } from "../../src/catalogue/keeper.ts";
import { TreeShape } from "../../src/catalogue/shape.ts";
import { parseDigestSpec } from "../../src/digest/spec.ts";
import { systemClock } from "../../src/platform/clock.ts";
import { lastChangeMs } from "../../src/platform/local-volumes.ts";
import { systemRandom } from "../../src/platform/random.ts";
import { changedRanges } from "../../src/replicate/generations.ts";
import { FileVolume } from "../../src/volume/file-volume.ts";
import { bytesOf, randomOf } from "../support/data.ts";
import { WorkFolder } from "../support/lunsync.ts";
import { mountsWork, SmallDisk } from "../support/machines.ts";
import { memoryStorage } from "../support/memory-storage.ts";
import { MemoryVolume } from "../support/memory-volume.ts";

const MiB = 1024 * 1024;
const content = bytesOf(randomOf(1), 9 * MiB);
await using probe = await WorkFolder.make();
const mounts = await mountsWork(probe.file("."));

interface Kept extends AsyncDisposable {
  readonly keeper: CatalogueKeeper;
  readonly log: string[];
  /** Ends as a crash does: nothing is closed in order. */
  crash(): Promise<void>;
}

async function keep(
  path: string,
  folder: string,
  more: { extentBytes?: number; digest?: string; blockBytes?: number } = {},
): Promise<Kept> {
  const log: string[] = [];
  const volume = await FileVolume.open(path, { writable: true, blockBytes: more.blockBytes ?? 512 });
  const keeper = await CatalogueKeeper.open(volume, {
    folder,
    digest: parseDigestSpec(more.digest ?? "sha256"),
    extentBytes: more.extentBytes ?? 65_536,
    clock: systemClock,
    random: systemRandom,
    log: (level, message) => log.push(`${level}: ${message}`),
    changedMs: () => lastChangeMs(path),
    fill: false,
  }).catch(async (error) => {
    await volume[Symbol.asyncDispose]();
    throw error;
  });
  return {
    keeper,
    log,
    crash: async () => {
      await keeper.abandon();
      await volume[Symbol.asyncDispose]();
    },
    [Symbol.asyncDispose]: async () => {
      await keeper[Symbol.asyncDispose]();
      await volume[Symbol.asyncDispose]();
    },
  };
}

const known = async ({ keeper }: Kept): Promise<number> => {
  const { catalogue } = keeper.volume;
  const { knowledge } = await catalogue.look(0, catalogue.shape.nodes[0]!);
  return knowledge.filter((each) => each === 1).length;
};

/** A volume, and its catalogue whole and closed. */
async function closed() {
  const folder = await WorkFolder.make();
  const path = folder.file("volume");
  await writeFile(path, content);
  {
    await using kept = await keep(path, folder.path);
    await kept.keeper.fill(new AbortController().signal);
    expect(await known(kept)).toBe(144);
  }
  const [name] = await readdir(folder.file("catalogues"));
  return { folder, path, catalogue: join(folder.file("catalogues"), name!) };
}

const anew = (log: readonly string[]) => log.filter((line) => /begins anew/.test(line));

describe("a catalogue that was closed", () => {
  test("is believed; and again after a crash, but for what was being written", async () => {
    const { folder, path } = await closed();
    await using _ = folder;
    const kept = await keep(path, folder.path);
    expect([await known(kept), anew(kept.log)]).toEqual([144, []]);
    await kept.keeper.volume.write(70 * 128, [Buffer.alloc(512, 1)]);
    await kept.crash();
    await using after = await keep(path, folder.path);
    expect(anew(after.log)).toEqual([]);
    expect(await known(after)).toBe(80); // 64 extents of the region are in doubt
  });

  test.each<[string, RegExp, (of: Awaited<ReturnType<typeof closed>>) => Promise<unknown>]>([
    [
      "a block of the volume was written, and its time put back",
      /written to since it was closed/,
      async ({ path }) => {
        const { atime, mtime } = await stat(path);
        await using file = await open(path, "r+");
        await file.write(Buffer.alloc(512, 7), 0, 512, 5 * MiB);
        await utimes(path, atime, mtime);
      },
    ],
    [
      "another file has its place",
      /of another volume/,
      async ({ path }) => {
        await writeFile(`${path}.x`, content); // another inode, since both are there
        await rename(`${path}.x`, path);
      },
    ],
    [
      "the volume has grown",
      /another size/,
      async ({ path }) => {
        await using file = await open(path, "r+");
        await file.truncate(10 * MiB);
      },
    ],
    [
      "both headers are damaged",
      /header is damaged/,
      async ({ catalogue }) => {
        await using file = await open(catalogue, "r+");
        for (const at of [100, 4196]) await file.write(Buffer.from([1]), 0, 1, at);
      },
    ],
  ])("is not where %s", async (_what, why, change) => {
    const found = await closed();
    await using _ = found.folder;
    await change(found);
    await using kept = await keep(found.path, found.folder.path);
    expect(anew(kept.log)[0]).toMatch(why);
    expect(await known(kept)).toBe(0);
  });

  test("is not for other extents or digests", async () => {
    const { folder, path } = await closed();
    await using _ = folder;
    for (const more of [{ extentBytes: 32_768 }, { extentBytes: 32_768, digest: "sha512" }]) {
      await using kept = await keep(path, folder.path, more);
      expect(anew(kept.log)[0]).toMatch(/has other digests/);
      expect(await known(kept)).toBe(0);
    }
  });

  test("is with blocks of another size", async () => {
    const { folder, path } = await closed();
    await using _ = folder;
    for (const blockBytes of [4096, 512]) {
      await using kept = await keep(path, folder.path, { blockBytes });
      expect([await known(kept), anew(kept.log)]).toEqual([144, []]);
    }
  });

  test("is scrubbed from where the last scrub was interrupted", async () => {
    const { folder, path } = await closed();
    await using _ = folder;
    const stop = new AbortController();
    {
      await using kept = await keep(path, folder.path);
      const scrubbed = kept.keeper.scrub({
        // The second region would be a day later.
        bytesPerSecond: 50,
        found: () => {},
        signal: stop.signal,
      });
      setTimeout(() => stop.abort(new Error("interrupted")), 200);
      await expect(scrubbed).rejects.toThrow("interrupted");
    }
    await using kept = await keep(path, folder.path);
    const rest = { bytesPerSecond: Number.POSITIVE_INFINITY, found: () => {} };
    expect(await kept.keeper.scrub(rest)).toMatchObject({ proved: 80, done: true });
    expect(await kept.keeper.scrub(rest)).toMatchObject({ proved: 144, done: true });
  });

  test("loses a page that is damaged, and nothing else", async () => {
    const { folder, path, catalogue } = await closed();
    await using _ = folder;
    const bytes = await readFile(catalogue);
    // The last pages are those of the extents: the second of three.
    bytes[bytes.length - 2080 - 500]! ^= 0x04;
    await writeFile(catalogue, bytes);
    await using kept = await keep(path, folder.path);
    expect(await known(kept)).toBe(80);
    await kept.keeper.fill(new AbortController().signal);
    expect(await known(kept)).toBe(144);
  });
});

describe("the catalogue of a volume that grows while it is kept", () => {
  const truncate = async (path: string, bytes: number) => {
    await using file = await open(path, "r+");
    await file.truncate(bytes);
  };

  test("grows with it, over a crash as well", async () => {
    const { folder, path } = await closed();
    await using _ = folder;
    const data = bytesOf(randomOf(3), MiB);
    let extents = 144;
    // By a block, within an extent; over the end of a page; to another level of the tree; and again.
    for (const bytes of [9 * MiB + 512, 13 * MiB, 300 * MiB, 301 * MiB]) {
      const kept = await keep(path, folder.path);
      const { volume } = kept.keeper;
      expect([await known(kept), anew(kept.log)]).toEqual([extents, []]);
      const endBefore = volume.geometry.blocks;
      await truncate(path, bytes);
      expect(await volume.remeasure()).toBe(true);
      expect(volume.geometry.blocks).toBe(bytes / 512);
      const lastRegionBefore = Math.floor((extents - 1) / 64);
      expect(await known(kept)).toBe(64 * lastRegionBefore); // all but the region that got longer
      extents = Math.ceil(bytes / 65_536);
      if (bytes === 300 * MiB) {
        await kept.crash();
        await using after = await keep(path, folder.path);
        expect([await known(after), anew(after.log)]).toEqual([64 * lastRegionBefore, []]);
        await after.keeper.fill(new AbortController().signal);
        continue;
      }
      await volume.write(endBefore, [data.subarray(0, Math.min(data.length, bytes - endBefore * 512))]);
      await kept.keeper.fill(new AbortController().signal);
      await kept[Symbol.asyncDispose]();
    }
    await using kept = await keep(path, folder.path);
    const { catalogue } = kept.keeper.volume;
    const { identifiers, knowledge } = await catalogue.look(0, extents);
    expect(knowledge.every((each) => each === 1)).toBe(true);
    const file = await readFile(path);
    for (let i = 0; i < extents; i++) {
      const sha256 = createHash("sha256").update(file.subarray(i * 65_536, (i + 1) * 65_536));
      expect(identifiers.toString("hex", 32 * i, 32 * i + 32)).toBe(sha256.digest("hex"));
    }
  });

  test("names what is new in histories that reach back to before", async () => {
    const { folder, path } = await closed();
    await using _ = folder;
    await using kept = await keep(path, folder.path);
    const { volume, catalogue } = { volume: kept.keeper.volume, catalogue: kept.keeper.volume.catalogue };
    const [pair, generation] = [Buffer.alloc(16, 1), Buffer.alloc(16, 2)];
    await volume.beginGeneration(pair, generation);
    await volume.commitGeneration(pair, generation);
    await volume.write(70 * 128, [Buffer.alloc(512, 1)]);
    await kept.keeper.fill(new AbortController().signal);
    await truncate(path, 300 * MiB); // two levels become three
    await volume.remeasure();
    expect(catalogue.shape.rootLevel).toBe(3);
    const news = [
      { first: 70, count: 1 },
      { first: 128, count: 4800 - 128 }, // the region that got longer, and what is new
    ];
    // While that is in doubt, and when it is believed.
    expect(changedRanges((await volume.changesSince(pair))!, 4800)).toEqual(news);
    await kept.keeper.fill(new AbortController().signal);
    expect(changedRanges((await volume.changesSince(pair))!, 4800)).toEqual(news);
  });

  test("of one that shrinks is thrown away", async () => {
    const { folder, path, catalogue } = await closed();
    await using _ = folder;
    const kept = await keep(path, folder.path);
    await truncate(path, 5 * MiB);
    expect(await kept.keeper.volume.remeasure()).toBe(true);
    expect(kept.keeper.volume.traits.catalogue).toBeUndefined();
    expect(kept.log.join()).toMatch(/the volume has another size; it was thrown away/);
    await expect(stat(catalogue)).rejects.toMatchObject({ code: "ENOENT" });
    await kept.keeper.volume.write(0, [Buffer.alloc(512, 1)]);
    await kept[Symbol.asyncDispose]();
  });
});

test("after a crash, a volume that was written to much later is not believed", async () => {
  const { folder, path } = await closed();
  await using _ = folder;
  const kept = await keep(path, folder.path);
  await kept.crash();
  const later = new Date(Date.now() + 60_000);
  await utimes(path, later, later);
  await using after = await keep(path, folder.path);
  expect(anew(after.log)[0]).toMatch(/after its owner had died/);
});

test("one volume has one keeper at a time", async () => {
  const { folder, path } = await closed();
  await using _ = folder;
  await using _kept = await keep(path, folder.path);
  await expect(keep(path, folder.path)).rejects.toMatchObject({ code: "volume_in_use" });
});

test.skipIf(!mounts)("on a full disk it is not believed, and writing goes on", async () => {
  await using folder = await WorkFolder.make();
  const path = folder.file("volume");
  await writeFile(path, content);
  await using disk = await SmallDisk.at(folder.file("state"), 12 * 1024);
  await using kept = await keep(path, disk.path);
  const { volume } = kept.keeper;
  await expect(kept.keeper.fill(new AbortController().signal)).rejects.toMatchObject({ code: "ENOSPC" });
  const data = bytesOf(randomOf(2), 65_536);
  for (let i = 0; i < 20; i++) await volume.write(i * 800, [data]);
  await volume.flush();
  const file = await readFile(path);
  for (let i = 0; i < 20; i++)
    expect(file.subarray(i * 800 * 512, i * 800 * 512 + 65_536).equals(data)).toBe(true);
});

describe("a catalogue whose storage fails", () => {
  async function failing(discard: () => Promise<void>) {
    const memory = new MemoryVolume("memory", content, 512);
    const storage = memoryStorage(new TreeShape(144, 32).fileBytes);
    let broken = false;
    const catalogue = new Catalogue(
      {
        ...storage,
        write: async (...request) => {
          if (broken) throw new Error("EIO");
          await storage.write(...request);
        },
      },
      144,
      65_536,
      parseDigestSpec("sha256"),
      systemClock,
    );
    const log: string[] = [];
    const volume = new CataloguedVolume(memory, catalogue, {
      extentBlocks: 128,
      random: systemRandom,
      discard,
      log: (level, message) => log.push(`${level}: ${message}`),
    });
    await volume.digest(0, 144);
    await catalogue.believe(catalogue.ready(0).whole, () => volume.flush());
    broken = true;
    return { memory, volume, log };
  }

  test("is thrown away before the write goes on", async () => {
    let discarded = 0;
    const { memory, volume, log } = await failing(async () => void discarded++);
    let writes = 0;
    memory.before = (operation) => {
      if (operation === "write" && writes++ === 0) expect(discarded).toBe(1);
    };
    await Promise.all([0, 1, 9000].map((lba) => volume.write(lba, [Buffer.alloc(512, 5)])));
    expect([discarded, writes]).toEqual([1, 3]);
    expect(volume.traits.catalogue).toBeUndefined();
    expect(log.join()).toMatch(/^error: The catalogue of "memory" can't be kept: EIO; it was thrown away/);
    // Digests are those of the data from here on.
    expect(
      (
        await volume.identifiers({
          lba: 0,
          extentBlocks: 128,
          extents: 144,
          digest: parseDigestSpec("md5"),
          fresh: false,
        })
      ).extents,
    ).toBe(144);
  });

  test("and can't be thrown away either: the write fails, and nothing is written", async () => {
    const { memory, volume } = await failing(async () => {
      throw new Error("EROFS");
    });
    const before = Buffer.from(memory.cache);
    await expect(volume.write(0, [Buffer.alloc(512, 5)])).rejects.toMatchObject({
      code: "io_error",
      message: expect.stringMatching(/can't be kept: EIO, nor thrown away: EROFS/),
    });
    expect(memory.cache.equals(before)).toBe(true);
    // Nor later: what the medium says of the region is not known.
    for (const lba of [0, 5, 9000])
      await expect(volume.write(lba, [Buffer.alloc(512, 5)])).rejects.toMatchObject({ code: "io_error" });
    expect(volume.writeNow(0, [Buffer.alloc(512, 5)])).toBe(false);
    expect(memory.cache.equals(before)).toBe(true);
  });
});
