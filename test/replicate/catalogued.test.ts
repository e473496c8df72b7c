// The engine over catalogues: random knowledge on both sides, moved data, narrowing; compared with looking at every byte.
import { createHash } from "node:crypto";
import { expect, test } from "vitest";
import { Catalogue } from "../../src/catalogue/catalogue.ts";
import { CataloguedVolume } from "../../src/catalogue/catalogued-volume.ts";
import type { Histories } from "../../src/catalogue/history.ts";
import { TreeShape } from "../../src/catalogue/shape.ts";
import { parseDigestSpec } from "../../src/digest/spec.ts";
import { systemClock } from "../../src/platform/clock.ts";
import { systemRandom } from "../../src/platform/random.ts";
import { compare, synchronize } from "../../src/replicate/engine.ts";
import { Counters, type JobOptions, modes } from "../../src/replicate/job.ts";
import type { ExtentCopy } from "../../src/volume/volume.ts";
import { below, bytesOf, differingRanges, oneOf, randomOf, stale, volumeOf } from "../support/data.ts";
import { memoryHistories, memoryStorage } from "../support/memory-storage.ts";
import { MemoryVolume } from "../support/memory-volume.ts";

const cases = Number(process.env.LUNSYNC_TEST_CASES ?? 700);
const blockBytes = 512;
const extentBlocks = 2;
const extentBytes = extentBlocks * blockBytes;
const digest = parseDigestSpec("sha256");
const sha256 = (data: Buffer) => createHash("sha256").update(data).digest();

/** A volume with a catalogue, which can copy within itself, as a target of ours does. */
class Catalogued extends CataloguedVolume {
  readonly memory: MemoryVolume;
  readonly #uuid: string;
  /** Copies that its host refuses, as one that finds something else there. */
  refuses: (copy: ExtentCopy) => boolean = () => false;

  constructor(name: string, data: Buffer, histories?: Histories) {
    const memory = new MemoryVolume(name, data, blockBytes, { windowExtentsMax: 40 });
    const extents = Math.ceil(data.length / extentBytes);
    const storage = memoryStorage(new TreeShape(extents, 32).fileBytes);
    const catalogue = new Catalogue(storage, extents, extentBytes, digest, systemClock);
    super(memory, catalogue, {
      extentBlocks,
      random: systemRandom,
      histories,
      discard: async () => {},
      log: () => {},
    });
    this.#uuid = name;
    this.memory = memory;
  }

  override get identity() {
    return { ...this.memory.identity, uuid: this.#uuid };
  }

  override get traits() {
    return { ...super.traits, copiesExtents: true };
  }

  async copyExtents(copies: readonly ExtentCopy[]): Promise<boolean[]> {
    const flags: boolean[] = [];
    for (const copy of copies) {
      const data = Buffer.alloc(copy.blocks * blockBytes);
      await this.read(copy.from, data);
      const right = sha256(data).equals(copy.identifier) && !this.refuses(copy);
      if (right) await this.write(copy.to, [data]);
      flags.push(right);
    }
    return flags;
  }

  /** Some or all of it is known, and some of that believed. */
  async know(random: () => number): Promise<void> {
    const extents = this.catalogue.shape.nodes[0]!;
    for (let times = below(random, 4); times > 0; times--) {
      const first = below(random, extents);
      await this.digest(first, 1 + below(random, extents - first));
    }
    if (random() < 0.5) await this.digest(0, extents);
    if (random() < 0.8) await this.catalogue.believe(this.catalogue.ready(0).whole, () => this.flush());
  }
}

/** What a file system does that is laid out anew: extents change places, some are there twice. */
function moved(random: () => number, data: Buffer): Buffer {
  const extents = Math.floor(data.length / extentBytes);
  const result = Buffer.from(data);
  const shift = below(random, extents);
  for (let i = 0; i < extents; i++) {
    const from = random() < 0.9 ? (i + shift) % extents : below(random, extents);
    data.copy(result, i * extentBytes, from * extentBytes, (from + 1) * extentBytes);
  }
  return result;
}

function pairOf(random: () => number) {
  const bytes = blockBytes * (1 + below(random, oneOf(random, [3, 200, 1200])));
  const data = volumeOf(random, bytes);
  const other = random() < 0.4 ? moved(random, data) : data;
  const source = new Catalogued("source", stale(random, other, below(random, 4)));
  const replica = new Catalogued("replica", data);
  source.memory.holes = random() < 0.5;
  replica.memory.holes = random() < 0.5;
  const job: JobOptions = {
    source,
    replica,
    mode: oneOf(random, modes),
    digest,
    extentBytes,
    width: oneOf(random, [8, 16] as const),
    fresh: random() < 0.1,
    clock: systemClock,
    random: systemRandom,
    counters: new Counters(),
  };
  return { source, replica, job };
}

async function prepared(random: () => number) {
  const pair = pairOf(random);
  const { source, replica } = pair;
  await source.know(random);
  await replica.know(random);
  const { blocks } = source.geometry;
  for (const side of [source, replica]) {
    for (let writes = below(random, 5); writes > 0; writes--) {
      const lba = below(random, blocks);
      const count = 1 + below(random, Math.min(8, blocks - lba));
      await side.write(lba, [bytesOf(random, count * blockBytes)]);
    }
    if (random() < 0.3) await side.know(random);
    await side.flush(); // reading past the cache writes it back first
  }
  return pair;
}

async function forSeeds(check: (random: () => number) => Promise<void>): Promise<void> {
  for (let seed = 1; seed <= cases; seed++) {
    await check(randomOf(seed)).catch((error) => {
      throw new Error(`seed ${seed}: ${(error as Error).message}`, { cause: error });
    });
  }
}

test("compare names exactly the extents that differ, whatever the catalogues know", () =>
  forSeeds(async (random) => {
    const { source, replica, job } = await prepared(random);
    const outcome = await compare(job);
    const ranges = [];
    for await (const range of outcome.ranges) ranges.push(range);
    expect(ranges).toEqual(
      differingRanges(source.memory.cache, replica.memory.cache, extentBytes, blockBytes),
    );
    expect(outcome.extents.compared).toBe(outcome.extents.total);
  }));

test("sync makes them equal on the medium, by copies and pieces, and the catalogues agree", async () => {
  let copied = 0;
  await forSeeds(async (random) => {
    const { source, replica, job } = await prepared(random);
    if (random() < 0.3) replica.refuses = () => random() < 0.3;
    const outcome = await synchronize({
      ...job,
      verify: random() < 0.4,
      shipMoved: random() < 0.1,
      ...(random() < 0.4 && { narrowBytes: blockBytes }),
    });
    expect(outcome.verdict).toBe("equal");
    expect(replica.memory.medium.equals(source.memory.cache)).toBe(true);
    copied += outcome.copied;
    if (job.fresh) expect(outcome.copied).toBe(0); // where it lies is what catalogues say
    // What the catalogue believes of the replica is what it holds.
    const extents = replica.catalogue.shape.nodes[0]!;
    const { identifiers, knowledge } = await replica.catalogue.look(0, extents);
    for (let i = 0; i < extents; i++) {
      if (knowledge[i] !== 1) continue;
      const held = replica.memory.cache.subarray(i * extentBytes, (i + 1) * extentBytes);
      expect(identifiers.subarray(32 * i, 32 * i + 32).equals(sha256(held))).toBe(true);
    }
  });
  expect(copied).toBeGreaterThan(5000);
});

const jobOf = (source: Catalogued, replica: Catalogued): JobOptions => ({
  source,
  replica,
  mode: "encode",
  digest,
  extentBytes,
  width: 8,
  fresh: false,
  clock: systemClock,
  random: systemRandom,
  counters: new Counters(),
});

test("run after run, histories pass over only what neither side has changed", async () => {
  let used = 0;
  let passedOver = 0;
  await forSeeds(async (random) => {
    const bytes = blockBytes * (1 + below(random, oneOf(random, [200, 1200])));
    const extents = Math.ceil(bytes / extentBytes);
    const data = volumeOf(random, bytes);
    const source = new Catalogued("source", data, await memoryHistories(extents));
    const replica = new Catalogued("replica", stale(random, data, 3), await memoryHistories(extents));
    for (let round = 0; round < 4; round++) {
      const job = jobOf(source, replica);
      // Sometimes somebody writes to the source in the middle of it: the next run has to find that.
      const during = random() < 0.3 ? below(random, 4) : -1;
      let writes = 0;
      source.memory.before = (operation) => {
        if (operation !== "read" || writes++ !== during) return;
        void source.write(below(random, bytes / blockBytes), [bytesOf(random, blockBytes)]);
      };
      const outcome = await synchronize({ ...job, verify: random() < 0.2 });
      source.memory.before = () => {};
      if (during < 0) {
        expect(outcome.verdict).toBe("equal");
        expect(replica.memory.cache.equals(source.memory.cache)).toBe(true);
      }
      if (outcome.history?.used) used++;
      if (outcome.history?.used && outcome.extents.differing < 5) passedOver++;
      for (const side of [source, replica]) {
        if (random() < 0.8) await side.know(random);
        for (let times = below(random, 3); times > 0; times--) {
          const lba = below(random, bytes / blockBytes);
          await side.write(lba, [bytesOf(random, blockBytes)]);
        }
        if (random() < 0.5) await side.know(random);
      }
    }
  });
  expect(used).toBeGreaterThan(500);
  expect(passedOver).toBeGreaterThan(100);
});

test("two runs at a time: what one has begun the other can't commit", async () => {
  const data = bytesOf(randomOf(1), 64 * extentBytes);
  const extents = 64;
  const source = new Catalogued("source", data, await memoryHistories(extents));
  const replica = new Catalogued("replica", data, await memoryHistories(extents));
  for (const side of [source, replica]) {
    await side.digest(0, extents);
    await side.catalogue.believe(side.catalogue.ready(0).whole, () => side.flush());
  }
  // The first run has looked at all; then somebody writes, and another run begins, and dies.
  const flush = replica.flush.bind(replica);
  const pair = createHash("sha256").update("source\nreplica").digest().subarray(0, 16);
  replica.flush = async () => {
    await source.write(7, [bytesOf(randomOf(2), blockBytes)]);
    for (const side of [source, replica]) await side.beginGeneration(pair, Buffer.alloc(16, 2));
    await flush();
  };
  const first = await synchronize({ ...jobOf(source, replica), verify: false });
  replica.flush = flush;
  expect([first.verdict, first.history]).toEqual(["equal", { used: false, committed: false }]);
  const second = await synchronize({ ...jobOf(source, replica), verify: false });
  expect([second.verdict, second.history]).toEqual(["equal", { used: false, committed: true }]);
  expect(replica.memory.cache.equals(source.memory.cache)).toBe(true);
});
