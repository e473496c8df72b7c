// sync --trim against volumes that know what they have mapped: what is a hole at the source is one at the replica, and
// nothing else is; whoever writes meanwhile, whatever fails.
import { readFile, truncate, writeFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { AgentError } from "../../src/base/errors.ts";
import { parseDigestSpec } from "../../src/digest/spec.ts";
import { systemClock } from "../../src/platform/clock.ts";
import { crc32c, isZero } from "../../src/platform/native-digest.ts";
import { systemRandom } from "../../src/platform/random.ts";
import { BeforeImages } from "../../src/replicate/before-images.ts";
import { synchronize } from "../../src/replicate/engine.ts";
import { Counters, type SynchronizeOptions } from "../../src/replicate/job.ts";
import { undo } from "../../src/replicate/undo.ts";
import { FileVolume } from "../../src/volume/file-volume.ts";
import { below, bytesOf, oneOf, randomOf, volumeOf } from "../support/data.ts";
import { WorkFolder } from "../support/lunsync.ts";
import { ThinVolume } from "../support/thin-volume.ts";

const cases = Number(process.env.LUNSYNC_TEST_CASES ?? 300);
const MiB = 1024 * 1024;

interface Pair {
  readonly source: ThinVolume;
  readonly replica: ThinVolume;
  readonly extentBlocks: number;
  readonly notices: string[];
  /** Of a run with --trim; each has counters of its own. */
  job(more?: Partial<SynchronizeOptions>): SynchronizeOptions;
}

/** Calls `action` with some ranges of up to a quarter of the volume. */
function someRanges(
  random: () => number,
  blocks: number,
  action: (lba: number, count: number) => void,
  most = 8,
): void {
  for (let times = below(random, most); times > 0; times--) {
    const lba = below(random, blocks);
    action(lba, 1 + below(random, Math.min(blocks - lba, Math.ceil(blocks / 4))));
  }
}

/** The replica has what the source had; both have been written to and discarded from since. */
function pairOf(random: () => number): Pair {
  const blockBytes = oneOf(random, [512, 4096]);
  const extentBlocks = oneOf(random, [1, 2, 8]);
  const blocks = 1 + below(random, oneOf(random, [3, 60, 400]));
  const data = volumeOf(random, blocks * blockBytes);
  const traits = { windowExtentsMax: 1 + below(random, 9), windowsInFlight: 1 + below(random, 4) };
  const source = new ThinVolume("source", data, blockBytes, traits);
  const replica = new ThinVolume("replica", data, blockBytes);
  for (const volume of [source, replica]) {
    someRanges(random, blocks, (lba, count) => volume.discard(lba, count));
    someRanges(random, blocks, (lba, count) =>
      volume.change(
        lba * blockBytes,
        random() < 0.7 ? Buffer.alloc(count * blockBytes) : bytesOf(random, count * blockBytes),
      ),
    );
    if (random() < 0.3) someRanges(random, blocks, (lba, count) => volume.discard(lba, count));
  }
  const notices: string[] = [];
  const mode = oneOf(random, ["encode", "decode", "verdict"] as const);
  const job = (more: Partial<SynchronizeOptions> = {}): SynchronizeOptions => ({
    source,
    replica,
    mode,
    digest: parseDigestSpec("sha256"),
    extentBytes: extentBlocks * blockBytes,
    width: 8,
    fresh: false,
    clock: systemClock,
    random: systemRandom,
    counters: new Counters(),
    onNotice: (notice) => notices.push(notice),
    verify: false,
    trim: true,
    ...more,
  });
  return { source, replica, extentBlocks, notices, job };
}

/** Extents that are holes at the source and have something mapped at the replica. */
function untrimmed({ source, replica, extentBlocks }: Pair): number[] {
  const lbas: number[] = [];
  for (let lba = 0; lba < source.geometry.blocks; lba += extentBlocks)
    if (!source.maps(lba, extentBlocks) && replica.maps(lba, extentBlocks)) lbas.push(lba);
  return lbas;
}

const hasHole = ({ source, extentBlocks }: Pair) =>
  Array.from({ length: Math.ceil(source.geometry.blocks / extentBlocks) }, (_, i) => i * extentBlocks).some(
    (lba) => !source.maps(lba, extentBlocks),
  );

async function forSeeds(check: (random: () => number) => Promise<void>, count = cases): Promise<void> {
  for (let seed = 1; seed <= count; seed++) {
    await check(randomOf(seed)).catch((error) => {
      throw new Error(`seed ${seed}: ${(error as Error).message}`, { cause: error });
    });
  }
}

test("what is a hole at the source is unmapped in whole extents, nothing else is, and nothing is read for it", async () => {
  let trimmed = 0;
  await forSeeds(async (random) => {
    const pair = pairOf(random);
    const { source, replica, job, notices } = pair;
    // Sometimes only what is equal already is left to be trimmed: then it is known what has to be counted.
    const exactly = random() < 0.5;
    if (exactly) {
      expect(await synchronize(job({ trim: false }))).toMatchObject({
        verdict: "equal",
        trimmed: { extents: 0 },
      });
    }
    const expected = untrimmed(pair);
    const options = job({
      verify: random() < 0.3,
      ...(random() < 0.2 && { narrowBytes: source.geometry.blockBytes }),
    });
    const { counters } = options;
    replica.unmapping = (lba, blocks) => {
      if (counters.phase === "trimming") expect(source.maps(lba, blocks)).toBe(false);
    };
    for (const volume of [source, replica]) {
      volume.before = (operation) => {
        if (counters.phase === "trimming") expect(["nextData", "write", "flush"]).toContain(operation);
      };
    }
    const outcome = await synchronize(options);
    expect([outcome.verdict, outcome.passes]).toEqual(["equal", 1]);
    expect(replica.medium.equals(source.cache)).toBe(true);
    expect(untrimmed(pair)).toEqual([]);
    if (exactly) {
      const bytes = expected
        .map((lba) => Math.min(pair.extentBlocks, source.geometry.blocks - lba) * source.geometry.blockBytes)
        .reduce((sum, each) => sum + each, 0);
      expect(outcome.trimmed).toEqual({ extents: expected.length, bytes });
    }
    expect(notices.length).toBe(hasHole(pair) ? 0 : 1);
    trimmed += outcome.trimmed.extents;

    replica.unmapping = () => expect.fail("there is nothing left to trim");
    expect((await synchronize(job())).trimmed).toEqual({ extents: 0, bytes: 0 });
  });
  expect(trimmed).toBeGreaterThan(cases);
});

/** Somebody writes to the source and discards from it, at any time; `when` says at which of the operations. */
function disturb({ source }: Pair, random: () => number, when: () => boolean): void {
  let writes = 1 + below(random, 3);
  source.before = () => {
    if (!when() || writes === 0 || random() < 0.6) return;
    writes--;
    const { blocks, blockBytes } = source.geometry;
    const lba = below(random, blocks);
    const count = 1 + below(random, Math.min(8, blocks - lba));
    if (random() < 0.5) source.change(lba * blockBytes, bytesOf(random, count * blockBytes));
    else source.discard(lba, count);
  };
}

test("a source that is written to while it is trimmed is compared again, and never reported as equal to what it was not", async () => {
  const seen = { equal: 0, changed: 0, again: 0 };
  await forSeeds(async (random) => {
    const pair = pairOf(random);
    const { source, replica, job } = pair;
    const options = job({ verify: random() < 0.2 });
    disturb(pair, random, () => options.counters.phase === "trimming");
    const outcome = await synchronize(options);
    if (outcome.passes > 1) seen.again++;
    if (outcome.verdict === "equal") {
      seen.equal++;
      expect(replica.medium.equals(source.cache)).toBe(true);
      expect(untrimmed(pair)).toEqual([]);
    } else {
      seen.changed++;
      expect(outcome.verdict).toBe("changed");
    }
    source.before = () => {};
    expect((await synchronize(job())).verdict).toBe("equal");
    expect(replica.medium.equals(source.cache)).toBe(true);
  });
  expect(Math.min(seen.equal, seen.changed, seen.again)).toBeGreaterThan(0);
});

test("where nothing tells that the source is written to, each extent is what the source held at some time", () =>
  forSeeds(async (random) => {
    const pair = pairOf(random);
    const { source, replica, extentBlocks, job } = pair;
    source.changeMark = (async () => undefined) as unknown as typeof source.changeMark;
    const bytes = extentBlocks * source.geometry.blockBytes;
    const extentsOf = (data: Buffer) =>
      Array.from({ length: Math.ceil(data.length / bytes) }, (_, i) =>
        data.toString("latin1", i * bytes, (i + 1) * bytes),
      );
    const held = extentsOf(source.cache).map((extent) => new Set([extent]));
    const options = job();
    disturb(pair, random, () => options.counters.phase === "trimming");
    for (const name of ["change", "discard"] as const) {
      const original = source[name].bind(source) as (...args: unknown[]) => void;
      source[name] = (...args: unknown[]) => {
        original(...args);
        for (const [i, extent] of extentsOf(source.cache).entries()) held[i]!.add(extent);
      };
    }
    const outcome = await synchronize(options);
    expect([outcome.verdict, outcome.changesNoticed]).toEqual(["equal", false]);
    for (const [i, extent] of extentsOf(replica.medium).entries()) expect(held[i]!.has(extent)).toBe(true);
  }));

test("before-images of what is trimmed are kept: undo puts back what was there, whatever happened in between", async () => {
  await using folder = await WorkFolder.make();
  let kept = 0;
  await forSeeds(async (random) => {
    const pair = pairOf(random);
    const { source, replica, job } = pair;
    const before = Buffer.from(replica.cache);
    const beforeImages = new BeforeImages(folder.file("kept"), { crc32c, isZero }, () => systemClock.nowMs());
    const options = job({ beforeImages });
    if (random() < 0.7) disturb(pair, random, () => options.counters.phase === "trimming");
    const outcome = await synchronize(options);
    expect(["equal", "changed"]).toContain(outcome.verdict);
    expect(await beforeImages.end()).toBeUndefined();
    if (outcome.shipped.extents + outcome.trimmed.extents === 0) return;
    kept += outcome.trimmed.extents;
    source.before = () => {};
    const tools = { crc32c, nowMs: () => systemClock.nowMs() };
    await undo(beforeImages.folder!, async () => replica, tools);
    expect(replica.medium.equals(before)).toBe(true);
  }, 60);
  expect(kept).toBeGreaterThan(60);
});

test("extents that can't be unmapped are named, and the others are unmapped", () =>
  forSeeds(async (random) => {
    const pair = pairOf(random);
    const { source, replica, extentBlocks, job } = pair;
    expect((await synchronize(job({ trim: false }))).verdict).toBe("equal");
    for (let times = below(random, 4); times > 0; times--)
      replica.unwritable.add(below(random, replica.geometry.blocks));
    const extentOf = (lba: number) => lba - (lba % extentBlocks);
    const broken = new Set([...replica.unwritable].map(extentOf));
    const expected = untrimmed(pair).filter((lba) => broken.has(lba));
    const outcome = await synchronize(job());
    expect(outcome.bad.map(({ lba }) => extentOf(lba))).toEqual(expected);
    expect(outcome.bad.every(({ side, action }) => side === "replica" && action === "write")).toBe(true);
    expect(outcome.badExtents).toBe(expected.length);
    expect(outcome.verdict).toBe(expected.length > 0 ? "incomplete" : "equal");
    expect(untrimmed(pair)).toEqual(expected);
    expect(replica.medium.equals(source.cache)).toBe(true);
  }));

test("what can't be read or was not equal in the end is not trimmed", async () => {
  const pair = pairOf(randomOf(4));
  const { source, replica, job } = pair;
  source.change(0, bytesOf(randomOf(1), source.geometry.blockBytes));
  source.unreadable.add(0);
  replica.unmapping = () => expect.fail("it was not equal");
  const outcome = await synchronize(job({ counters: new Counters() }));
  expect([outcome.verdict, outcome.trimmed.extents]).toEqual(["incomplete", 0]);
});

test("an interruption or a reset ends it between two steps, and the next run goes on from there", () =>
  forSeeds(async (random) => {
    const pair = pairOf(random);
    const { source, replica, job } = pair;
    const controller = new AbortController();
    const options = job({ signal: controller.signal, verify: random() < 0.3 });
    const stopping = random() < 0.5;
    let left = below(random, 12);
    let after = 0;
    let touched = false;
    let reset = false;
    replica.before = (operation) => {
      if (options.counters.phase !== "trimming") return;
      if (operation === "write") touched = true;
      if (controller.signal.aborted && operation === "write") after++;
      if (left-- !== 0) return;
      if (stopping) controller.abort(new AgentError("interrupted", "stopped"));
      else {
        replica.reset(() => random() < 0.5);
        reset = true;
      }
    };
    const outcome = await synchronize(options);
    if (controller.signal.aborted) expect(outcome.verdict).toBe("interrupted");
    else expect([outcome.verdict, outcome.passes]).toEqual(["equal", reset && touched ? 2 : 1]);
    expect(after).toBe(0);
    replica.before = () => {};
    expect(replica.cache.equals(source.cache)).toBe(true);
    expect((await synchronize(job())).verdict).toBe("equal");
    expect(untrimmed(pair)).toEqual([]);
  }));

/** 64 MiB of zeros that were written, in extents of 64 KiB; the source has one extent of data. */
function largePair(): Pair {
  const pair = pairOf(randomOf(1));
  const zeros = Buffer.alloc(64 * MiB);
  const source = new ThinVolume("source", zeros, 4096);
  const replica = new ThinVolume("replica", zeros, 4096);
  source.discard(0, source.geometry.blocks);
  source.change(32 * MiB, Buffer.alloc(65536));
  const job = (more: Partial<SynchronizeOptions> = {}) =>
    pair.job({ source, replica, extentBytes: 65536, ...more });
  return { ...pair, source, replica, extentBlocks: 16, job };
}

test("steps are bounded, small at first; the source is asked before each", async () => {
  const pair = largePair();
  const { source, replica, job } = pair;
  const sizes: number[] = [];
  let asked = 0;
  source.before = (operation) => {
    if (operation === "nextData") asked++;
  };
  replica.unmapping = (_, blocks) => {
    expect(asked).toBeGreaterThan(0);
    asked = 0;
    sizes.push(blocks * 4096);
  };
  expect((await synchronize(job())).trimmed).toEqual({ extents: 1023, bytes: 1023 * 65536 });
  expect(sizes).toEqual([MiB, 31 * MiB, 32 * MiB - 65536]);
});

test("a source that does not know its holes, or has none, is told as having nothing to trim", async () => {
  const { source, replica, job, notices } = largePair();
  source.silent = true;
  replica.unmapping = () => expect.fail("nothing says that it is a hole");
  const outcome = await synchronize(job());
  expect([outcome.verdict, outcome.trimmed.extents]).toEqual(["equal", 0]);
  expect(notices).toEqual([expect.stringMatching(/^Nothing is trimmed: "source" names no hole/)]);
});

test.each([
  ["does not know its holes", { silent: true }],
  ["unmaps larger pieces only", { granularity: 1 << 20 }],
])("a replica that %s is not written to in vain for long", async (_, kind) => {
  const { replica, job, notices } = largePair();
  Object.assign(replica, kind);
  let bytes = 0;
  replica.unmapping = (_lba, blocks) => {
    bytes += blocks * 4096;
  };
  const outcome = await synchronize(job());
  expect([outcome.verdict, outcome.trimmed]).toEqual(["equal", { extents: 0, bytes: 0 }]);
  expect(bytes).toBe(8 * MiB);
  expect(notices).toEqual([expect.stringMatching(/^Trimming ends: "replica" was asked to unmap 8 MiB/)]);
});

test("a replica that is not thin is left alone", async () => {
  const { source, job, notices } = largePair();
  const replica = new ThinVolume("thick", Buffer.alloc(64 * MiB), 4096, { thin: false });
  replica.unmapping = () => expect.fail("it is not thin");
  expect((await synchronize(job({ source, replica }))).verdict).toBe("equal");
  expect(notices).toEqual([expect.stringMatching(/^Nothing is trimmed: "thick" is not thin/)]);
});

test("a source file that is cut off meanwhile has no holes behind its end: the replica keeps what it has there", async () => {
  await using folder = await WorkFolder.make();
  const content = Buffer.concat([Buffer.alloc(MiB), bytesOf(randomOf(3), MiB)]);
  for (const name of ["source", "replica"]) await writeFile(folder.file(name), content);
  await using source = await FileVolume.open(folder.file("source"), { writable: false });
  await using replica = await FileVolume.open(folder.file("replica"), { writable: true });
  const options = largePair().job({ source, replica });
  const nextData = source.nextData.bind(source);
  source.nextData = async (lba, blocks) => {
    if (options.counters.phase === "trimming") await truncate(folder.file("source"), MiB);
    return nextData(lba, blocks);
  };
  const { verdict, failure } = await synchronize(options);
  expect([verdict, failure?.message]).toEqual([
    "failed",
    expect.stringMatching(/^Cannot find what is mapped of .*: it has become shorter/),
  ]);
  expect((await readFile(folder.file("replica"))).equals(content)).toBe(true);
});
