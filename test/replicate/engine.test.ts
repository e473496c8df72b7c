// The engine against volumes that go wrong, thousands of times: whatever happens, it never says more than is true.
import { expect, test } from "vitest";
import { AgentError } from "../../src/base/errors.ts";
import { parseDigestSpec } from "../../src/digest/spec.ts";
import { systemClock } from "../../src/platform/clock.ts";
import { systemRandom } from "../../src/platform/random.ts";
import { compare, synchronize } from "../../src/replicate/engine.ts";
import { Counters, type JobOptions, modes, type Outcome } from "../../src/replicate/job.ts";
import { below, bytesOf, differingRanges, oneOf, randomOf, stale, volumeOf } from "../support/data.ts";
import { MemoryVolume } from "../support/memory-volume.ts";

const cases = Number(process.env.LUNSYNC_TEST_CASES ?? 1500);
const digests = ["sha256", "md5", "crc32c", "crc64+sha1", "crc32c(md5)"].map(parseDigestSpec);

interface Pair {
  readonly source: MemoryVolume;
  readonly replica: MemoryVolume;
  readonly job: JobOptions;
}

/** Two volumes of a few dozen extents with small windows, so that a run has several of them. */
function pairOf(random: () => number): Pair {
  const blockBytes = oneOf(random, [512, 4096]);
  const extentBytes = blockBytes * oneOf(random, [1, 2, 8]);
  const bytes = blockBytes * (1 + below(random, oneOf(random, [3, 40, 200])));
  const data = volumeOf(random, bytes);
  const traits = { windowExtentsMax: 1 + below(random, 9), windowsInFlight: 1 + below(random, 4) };
  const source = new MemoryVolume("source", data, blockBytes, traits);
  const other = stale(random, data, below(random, 8));
  // Often a replica that has nothing yet, in part or altogether.
  if (random() < 0.5) other.fill(0, below(random, 2) * below(random, bytes));
  const replica = new MemoryVolume("replica", other, blockBytes);
  source.holes = random() < 0.5;
  replica.holes = random() < 0.7;
  const job: JobOptions = {
    source,
    replica,
    mode: oneOf(random, modes),
    digest: oneOf(random, digests),
    extentBytes,
    width: oneOf(random, [8, 16] as const),
    fresh: random() < 0.3,
    clock: systemClock,
    random: systemRandom,
    counters: new Counters(),
  };
  return { source, replica, job };
}

/** Sometimes what differs is narrowed to blocks. */
const narrowing = (random: () => number, { source }: JobOptions) =>
  random() < 0.3 ? { narrowBytes: source.geometry.blockBytes } : {};

async function rangesOf(outcome: Outcome): Promise<{ lba: number; blocks: number }[]> {
  const ranges = [];
  for await (const range of outcome.ranges) ranges.push(range);
  return ranges;
}

const extentOf = (job: JobOptions, lba: number) =>
  Math.floor((lba * job.source.geometry.blockBytes) / job.extentBytes);

/** Extents of the replica's medium that are not the source's. */
function wrongExtents({ source, replica, job }: Pair): number[] {
  const wrong: number[] = [];
  for (let at = 0; at < source.cache.length; at += job.extentBytes) {
    const end = Math.min(source.cache.length, at + job.extentBytes);
    if (source.cache.compare(replica.medium, at, end, at, end) !== 0) wrong.push(at / job.extentBytes);
  }
  return wrong;
}

async function forSeeds(check: (random: () => number) => Promise<void>): Promise<void> {
  for (let seed = 1; seed <= cases; seed++) {
    try {
      await check(randomOf(seed));
    } catch (error) {
      throw new Error(`seed ${seed}: ${(error as Error).message}`, { cause: error });
    }
  }
}

test("compare names exactly the extents that differ", () =>
  forSeeds(async (random) => {
    const { source, replica, job } = pairOf(random);
    const expected = differingRanges(
      source.cache,
      replica.cache,
      job.extentBytes,
      source.geometry.blockBytes,
    );
    const before = Buffer.from(replica.cache);
    const outcome = await compare(job);
    expect(await rangesOf(outcome)).toEqual(expected);
    expect(outcome.verdict).toBe(expected.length === 0 ? "equal" : "different");
    expect(replica.cache.equals(before)).toBe(true);
  }));

test("sync makes them equal, on the medium, and writes nothing else", () =>
  forSeeds(async (random) => {
    const pair = pairOf(random);
    const { source, replica, job } = pair;
    const expected = differingRanges(
      source.cache,
      replica.cache,
      job.extentBytes,
      source.geometry.blockBytes,
    );
    const outcome = await synchronize({ ...job, verify: random() < 0.5 });
    expect(outcome.verdict).toBe("equal");
    expect(wrongExtents(pair)).toEqual([]);
    expect(outcome.shipped.bytes).toBe(
      expected.reduce((sum, range) => sum + range.blocks * source.geometry.blockBytes, 0),
    );
    expect(replica.cache.equals(replica.medium)).toBe(true);
  }));

test("blocks that can't be read or written are named, and all the rest is done", () =>
  forSeeds(async (random) => {
    const pair = pairOf(random);
    const { source, replica, job } = pair;
    source.holes = false; // what is a hole has no block that could be bad
    const some = (set: Set<number>) => {
      for (let i = below(random, 4); i > 0; i--) set.add(below(random, source.geometry.blocks));
    };
    some(source.unreadable);
    some(replica.unreadable);
    some(replica.unwritable);
    const broken = new Set([...source.unreadable, ...replica.unwritable].map((lba) => extentOf(job, lba)));
    const blind = new Set([...source.unreadable, ...replica.unreadable].map((lba) => extentOf(job, lba)));

    const compared = await compare({ ...job, counters: new Counters() });
    expect(new Set(compared.bad.map((bad) => extentOf(job, bad.lba)))).toEqual(blind);
    expect(compared.extents.compared).toBe(compared.extents.total - blind.size);
    if (blind.size > 0) expect(compared.verdict).toBe("incomplete");

    const outcome = await synchronize({ ...job, ...narrowing(random, job), verify: random() < 0.5 });
    const named = new Set(outcome.bad.map((bad) => extentOf(job, bad.lba)));
    for (const extent of wrongExtents(pair)) expect(named).toContain(extent);
    for (const extent of named) expect(broken).toContain(extent);
    for (const lba of source.unreadable) expect(named).toContain(extentOf(job, lba));
    expect(outcome.verdict).toBe(named.size > 0 ? "incomplete" : "equal");
  }));

test("a source that is written to is never reported as equal to what it was not", () =>
  forSeeds(async (random) => {
    const pair = pairOf(random);
    const { source, job } = pair;
    let operations = 0;
    let writes = below(random, 6);
    const due = new Set(Array.from({ length: writes }, () => below(random, 60)));
    source.before = () => {
      if (!due.has(operations++) || writes-- <= 0) return;
      const offset = below(random, source.cache.length);
      source.change(offset, bytesOf(random, Math.min(700, source.cache.length - offset)));
    };
    const outcome = await synchronize({ ...job, ...narrowing(random, job), verify: random() < 0.3 });
    if (outcome.verdict === "equal") expect(wrongExtents(pair)).toEqual([]);
    else expect(outcome.verdict).toBe("changed");
  }));

test("a replica that is reset and loses its cache is not believed", () =>
  forSeeds(async (random) => {
    const pair = pairOf(random);
    const { replica, job } = pair;
    let operations = 0;
    const due = new Set(Array.from({ length: below(random, 4) }, () => below(random, 30)));
    replica.before = () => {
      if (due.has(operations++)) replica.reset(() => random() < 0.5);
    };
    const outcome = await synchronize({ ...job, ...narrowing(random, job), verify: random() < 0.5 });
    if (outcome.verdict === "equal") expect(wrongExtents(pair)).toEqual([]);
    else expect(outcome.verdict).toBe("incomplete");
  }));

test("a full disk or an interruption ends it; what was shipped is kept, and it goes on from there", () =>
  forSeeds(async (random) => {
    const pair = pairOf(random);
    const { source, replica, job } = pair;
    const wrongBefore = wrongExtents(pair);
    const controller = new AbortController();
    const full = random() < 0.5;
    if (full) replica.room = below(random, source.geometry.blocks);
    else {
      let left = below(random, 20);
      source.before = () => {
        if (left-- === 0) controller.abort(new AgentError("interrupted", "stopped"));
      };
    }
    const outcome = await synchronize({
      ...job,
      ...narrowing(random, job),
      verify: random() < 0.5,
      signal: controller.signal,
    });
    const wrong = wrongExtents(pair);
    for (const extent of wrong) expect(wrongBefore).toContain(extent);
    if (outcome.verdict === "equal") expect(wrong).toEqual([]);
    else if (full) expect([outcome.verdict, outcome.failure?.code]).toEqual(["failed", "no_space"]);
    else expect(outcome.verdict).toBe("interrupted");
    replica.room = Number.POSITIVE_INFINITY;
    source.before = () => {};
    const again = await synchronize({ ...job, verify: false, counters: new Counters() });
    expect(again.verdict).toBe("equal");
    expect(wrongExtents(pair)).toEqual([]);
  }));
