// A catalogue over a volume, both on media that lose what was not flushed, driven by a schedule that a seed makes:
// writes in flight, digests, scrubs, crashes of the process and of the power, writes past the catalogue's back.
//
// Every wait of storage or volume ends when the schedule says so, so that a seed replays a run exactly.
import { createHash } from "node:crypto";
import { Catalogue, extentKnowledge } from "../../src/catalogue/catalogue.ts";
import { CataloguedVolume } from "../../src/catalogue/catalogued-volume.ts";
import { Histories, type HistoryFolder } from "../../src/catalogue/history.ts";
import type { Storage } from "../../src/catalogue/page-store.ts";
import { fanOut, TreeShape } from "../../src/catalogue/shape.ts";
import { parseDigestSpec } from "../../src/digest/spec.ts";
import { changedRanges } from "../../src/replicate/generations.ts";
import type { DigestAnswer, GenerationChanges, IdentifierWindow } from "../../src/volume/volume.ts";
import { below, bytesOf, oneOf, randomOf } from "../support/data.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { MemoryVolume } from "../support/memory-volume.ts";

type Random = () => number;

const blockBytes = 512;
const extentBlocks = 2;
const extentBytes = extentBlocks * blockBytes;
const digest = parseDigestSpec("sha256");
const sha256 = (data: Buffer) => createHash("sha256").update(data).digest();
const sectorBytes = 512;

export class SimulationError extends Error {
  override readonly name = "SimulationError";
}

/** Who waits, until the schedule lets one go on. */
class Schedule {
  readonly #random: Random;
  readonly #waiting: (() => void)[] = [];
  /** A crash: nobody goes on any more. */
  dead = false;

  constructor(random: Random) {
    this.#random = random;
  }

  pause(): Promise<void> {
    if (this.dead) return new Promise(() => {});
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** Lets one of those who wait go on; false if nobody does. */
  async step(): Promise<boolean> {
    for (let turns = 0; turns < 30; turns++) await Promise.resolve();
    const [next] = this.#waiting.splice(below(this.#random, this.#waiting.length), 1);
    next?.();
    for (let turns = 0; turns < 30; turns++) await Promise.resolve();
    return next !== undefined;
  }
}

/** A file whose unflushed writes may be lost or torn by sectors. */
class SimStorage {
  cache: Buffer;
  #medium: Buffer;
  #unflushed: { offset: number; bytes: Buffer }[] = [];

  constructor(bytes: number) {
    this.cache = Buffer.alloc(bytes);
    this.#medium = Buffer.alloc(bytes);
  }

  /** As one process sees it. */
  over(schedule: Schedule): Storage {
    return {
      read: async (offset, buffer) => {
        await schedule.pause();
        this.cache.copy(buffer, 0, offset, offset + buffer.length);
      },
      write: async (offset, pieces) => {
        const bytes = Buffer.concat([...pieces]);
        await schedule.pause();
        bytes.copy(this.cache, offset);
        this.#unflushed.push({ offset, bytes });
        await schedule.pause();
      },
      flush: async () => {
        await schedule.pause();
        const covered = this.#unflushed;
        this.#unflushed = [];
        for (const { offset, bytes } of covered) bytes.copy(this.#medium, offset);
        await schedule.pause();
      },
      close: () => {},
    };
  }

  /** At once on the medium, as a truncate with its fsync is. */
  extend(bytes: number): void {
    const more = Buffer.alloc(Math.max(0, bytes - this.cache.length));
    this.cache = Buffer.concat([this.cache, more]);
    this.#medium = Buffer.concat([this.#medium, more]);
  }

  powerCut(random: Random): void {
    for (const { offset, bytes } of this.#unflushed) {
      const keep = oneOf(random, [0, 0.5, 1]);
      const first = Math.floor(offset / sectorBytes);
      for (let sector = first; sector * sectorBytes < offset + bytes.length; sector++) {
        if (random() >= keep) continue;
        const from = Math.max(offset, sector * sectorBytes);
        const to = Math.min(offset + bytes.length, (sector + 1) * sectorBytes);
        bytes.copy(this.#medium, from, from - offset, to - offset);
      }
    }
    this.#unflushed = [];
    this.#medium.copy(this.cache);
  }
}

/** The volume, whose operations take their time. */
class SimVolume extends MemoryVolume {
  schedule!: Schedule;
  random!: Random;
  #unflushed: { lba: number; data: Buffer }[] = [];

  override async write(lba: number, pieces: readonly Buffer[]): Promise<void> {
    const data = Buffer.concat([...pieces]);
    const half = below(this.random, data.length / blockBytes + 1) * blockBytes;
    await this.schedule.pause();
    this.#put(lba, data.subarray(0, half));
    for (let pauses = oneOf(this.random, [1, 1, 20]); pauses > 0; pauses--) await this.schedule.pause();
    this.#put(lba + half / blockBytes, data.subarray(half));
    await this.schedule.pause();
  }

  override async zero(lba: number, blocks: number): Promise<void> {
    await this.write(lba, [Buffer.alloc(blocks * blockBytes)]);
  }

  override writeNow(lba: number, pieces: readonly Buffer[]): boolean {
    this.#put(lba, Buffer.concat([...pieces]));
    return true;
  }

  override async flush(): Promise<void> {
    await this.schedule.pause();
    const covered = this.#unflushed;
    this.#unflushed = [];
    for (const { lba, data } of covered) data.copy(this.medium, lba * blockBytes);
    await this.schedule.pause();
  }

  async identifiers(window: IdentifierWindow): Promise<DigestAnswer> {
    const values: Buffer[] = [];
    for (let i = 0; i < window.extents; i++) {
      await this.schedule.pause();
      const at = (window.lba + i * window.extentBlocks) * blockBytes;
      // What is read while it is written may be a mixture of both.
      const end = Math.min(at + extentBytes, this.cache.length);
      const first = Buffer.from(this.cache.subarray(at, at + blockBytes));
      await this.schedule.pause();
      values.push(sha256(Buffer.concat([first, this.cache.subarray(Math.min(end, at + blockBytes), end)])));
    }
    return { values: Buffer.concat(values), extents: window.extents, unreadable: undefined };
  }

  powerCut(random: Random): void {
    for (const { lba, data } of this.#unflushed) {
      const keep = oneOf(random, [0, 0.5, 1]);
      for (let at = 0; at < data.length; at += blockBytes) {
        if (random() < keep) data.copy(this.medium, lba * blockBytes + at, at, at + blockBytes);
      }
    }
    this.#unflushed = [];
    this.medium.copy(this.cache);
  }

  #put(lba: number, data: Buffer): void {
    if (data.length === 0) return;
    data.copy(this.cache, lba * blockBytes);
    this.#unflushed.push({ lba, data });
  }
}

/** Files whose names change in one step; what is in them is lost and torn like any other. */
class SimFolder {
  #files = new Map<string, SimStorage>();

  over(schedule: Schedule): HistoryFolder {
    const over = (name: string) => this.#files.get(name)!.over(schedule);
    return {
      list: async () => [...this.#files.keys()],
      create: async (name, bytes) => {
        await schedule.pause();
        this.#files.set(name, new SimStorage(bytes));
        return over(name);
      },
      open: async (name) => over(name),
      rename: async (from, to) => {
        await schedule.pause();
        this.#files.set(to, this.#files.get(from)!);
        this.#files.delete(from);
        await schedule.pause();
      },
      extend: async (name, bytes) => {
        await schedule.pause();
        this.#files.get(name)!.extend(bytes);
      },
      remove: async (name) => {
        await schedule.pause();
        this.#files.delete(name);
      },
    };
  }

  powerCut(random: Random): void {
    for (const file of this.#files.values()) file.powerCut(random);
  }
}

const pair = Buffer.alloc(16, 0xab);

export class Simulation {
  readonly #folder = new SimFolder();
  /** What the volume held when a generation was begun, extent by extent: of the one that is begun, and of those committed. */
  #begun: Buffer[] | undefined;
  #busy = false;
  #generation: Buffer = Buffer.alloc(0);
  readonly #generations = new Map<string, Buffer[]>();
  readonly #random: Random;
  readonly #extents: number;
  readonly #shape: TreeShape;
  readonly #volume: SimVolume;
  readonly #storage: SimStorage;
  readonly #clock = new FakeClock();
  readonly #pagesMax: number;
  #schedule!: Schedule;
  #catalogued!: CataloguedVolume;
  #catalogue!: Catalogue;
  #underWay = new Set<Promise<unknown>>();
  #failure: unknown;
  readonly counts = { writes: 0, crashes: 0, believed: 0, known: 0, nodes: 0, unchanged: 0 };

  constructor(seed: number) {
    this.#random = randomOf(seed);
    this.#extents = oneOf(this.#random, [3, 64, 100, 130, 64 * 65]);
    const blocks = this.#extents * extentBlocks - below(this.#random, extentBlocks);
    const data = Buffer.alloc(blocks * blockBytes);
    if (this.#random() < 0.5) bytesOf(this.#random, data.length / 2).copy(data);
    this.#volume = new SimVolume("simulated", data, blockBytes, { digests: "own" });
    this.#volume.random = this.#random;
    this.#shape = new TreeShape(this.#extents, 32);
    this.#storage = new SimStorage(this.#shape.fileBytes);
    this.#pagesMax = oneOf(this.#random, [1, 3, 2048]);
  }

  async #open(): Promise<void> {
    this.#schedule = new Schedule(this.#random);
    this.#volume.schedule = this.#schedule;
    this.#catalogue = Catalogue.over(
      this.#storage.over(this.#schedule),
      this.#extents,
      extentBytes,
      digest,
      this.#clock,
      this.#pagesMax,
    );
    // Nobody waits while a folder is only listed.
    const opening = Histories.open(this.#folder.over(this.#schedule), this.#extents, false, {
      pagesMax: this.#pagesMax,
    });
    this.#go(opening);
    await this.#calm();
    this.#catalogued = new CataloguedVolume(this.#volume, this.#catalogue, {
      extentBlocks,
      random: { bytes: (count) => bytesOf(this.#random, count) },
      histories: await opening,
      discard: async () => {},
      log: () => {},
    });
  }

  async run(steps: number): Promise<void> {
    await this.#open();
    // Half of the runs see more of generations, and less of trouble.
    const quiet = this.#random() < 0.5;
    const odds: readonly (readonly [number, () => Promise<void> | void])[] = [
      [0.35, () => this.#step(1)],
      [0.2, () => this.#write()],
      [0.1, () => this.#go(this.#digestSome())],
      [0.15, () => this.#go(this.#believe())],
      [quiet ? 0.004 : 0.02, () => this.#crash()],
      [quiet ? 0.06 : 0.02, () => this.#nextGeneration()],
      [quiet ? 0.04 : 0.02, () => this.#go(this.#changesMeanwhile())],
      [quiet ? 0.05 : 0.005, () => this.#knowAll()],
      [quiet ? 0.05 : 0.02, () => this.#checked()],
      [0.1, () => this.#step(10)],
    ];
    const sum = odds.reduce((total, [share]) => total + share, 0);
    for (let step = 0; step < steps; step++) {
      if (this.#failure) throw this.#failure;
      let what = this.#random() * sum;
      for (const [share, action] of odds) {
        what -= share;
        if (what > 0) continue;
        await action();
        break;
      }
    }
    await this.#checked();
  }

  async #step(times: number): Promise<void> {
    for (let i = 0; i < times; i++) await this.#schedule.step();
  }

  async #checked(): Promise<void> {
    await this.#calm();
    await this.#check();
  }

  #go(work: Promise<unknown>): void {
    const { dead } = this.#schedule;
    const guarded: Promise<unknown> = work
      .catch((error) => {
        if (!dead) this.#failure ??= error;
      })
      .finally(() => this.#underWay.delete(guarded));
    this.#underWay.add(guarded);
  }

  #write(): void {
    this.counts.writes++;
    const { blocks } = this.#volume.geometry;
    const lba = below(this.#random, blocks);
    const most = oneOf(this.#random, [1, 2, 8, 300]);
    const count = 1 + below(this.#random, Math.min(most, blocks - lba));
    const data =
      this.#random() < 0.3 ? Buffer.alloc(count * blockBytes) : bytesOf(this.#random, count * blockBytes);
    if (this.#random() < 0.3 && this.#catalogued.writeNow(lba, [data])) return;
    this.#go(this.#random() < 0.2 ? this.#catalogued.zero(lba, count) : this.#catalogued.write(lba, [data]));
  }

  #digestSome(): Promise<unknown> {
    const first = below(this.#random, this.#extents);
    const count = 1 + below(this.#random, Math.min(oneOf(this.#random, [3, 100]), this.#extents - first));
    return this.#catalogued.digest(first, count);
  }

  async #believe(): Promise<void> {
    const { whole, idle } = this.#catalogue.ready(0);
    if (idle.length > 0 && this.#random() < 0.7) {
      const region = oneOf(this.#random, idle);
      await this.#catalogued.digest(region * fanOut, Math.min(fanOut, this.#extents - region * fanOut));
    }
    this.counts.believed += whole.length;
    await this.#catalogue.believe(whole, () => this.#volume.flush());
  }

  /** A quiet time: everything is digested and believed. */
  async #knowAll(): Promise<void> {
    if (this.#extents > 200) return;
    await this.#calm();
    this.#go(
      this.#catalogued
        .digest(0, this.#extents)
        .then(() => this.#catalogue.believe(this.#catalogue.ready(0).whole, () => this.#volume.flush())),
    );
    await this.#calm();
  }

  /** Begins one, or commits the one that was begun, while others go on writing. */
  async #nextGeneration(): Promise<void> {
    if (this.#busy) return;
    if (this.#begun && this.#random() < 0.6) {
      const generation = this.#generation;
      this.#generations.set(generation.toString("hex"), this.#begun);
      this.#begun = undefined;
      this.#busy = true;
      this.#go(this.#catalogued.commitGeneration(pair, generation).then(() => this.#freed()));
      return;
    }
    this.#begun = undefined;
    this.#generation = bytesOf(this.#random, 16);
    this.#busy = true;
    this.#go(
      this.#catalogued.beginGeneration(pair, this.#generation).then(() => {
        // In this very moment: whatever is under way is in doubt, and counts as changed.
        if (!this.#schedule.dead) this.#begun = this.#truth();
        this.#freed();
      }),
    );
  }

  #freed(): void {
    if (!this.#schedule.dead) this.#busy = false;
  }

  #truth(): Buffer[] {
    const { cache } = this.#volume;
    return Array.from({ length: this.#extents }, (_, i) =>
      sha256(cache.subarray(i * extentBytes, Math.min((i + 1) * extentBytes, cache.length))),
    );
  }

  /** Of the process, or of the power: nothing of what was under way goes on. */
  async #crash(): Promise<void> {
    // Everybody has come to where he waits: nobody of this life does anything in the next.
    await new Promise((resolve) => setImmediate(resolve));
    this.counts.crashes++;
    this.#schedule.dead = true;
    this.#underWay = new Set();
    if (this.#random() < 0.7) {
      this.#volume.powerCut(this.#random);
      this.#storage.powerCut(this.#random);
      this.#folder.powerCut(this.#random);
    }
    this.#begun = undefined;
    this.#busy = false;
    await this.#open();
  }

  async #calm(): Promise<void> {
    while (this.#underWay.size > 0) {
      if (this.#failure) throw this.#failure;
      if (!(await this.#schedule.step()) && this.#underWay.size > 0) {
        // Until everybody who can has come to where he waits.
        await new Promise((resolve) => setImmediate(resolve));
        if (!(await this.#schedule.step()) && this.#underWay.size > 0)
          throw new SimulationError("something waits for ever");
      }
    }
  }

  /** While nothing is under way: no entry that is believed is wrong. */
  async #check(): Promise<void> {
    const wait = <T>(work: Promise<T>): Promise<T> => {
      this.#go(work);
      return this.#calm().then(() => work);
    };
    const truth = this.#truth();
    const { identifiers, knowledge } = await wait(this.#catalogue.look(0, this.#extents));
    for (let i = 0; i < this.#extents; i++) {
      if (knowledge[i] !== extentKnowledge.known) continue;
      this.counts.known++;
      if (!identifiers.subarray(32 * i, 32 * i + 32).equals(truth[i]!))
        throw new SimulationError(`extent ${i} is believed, and differs`);
    }
    this.#checkChanges(await wait(this.#catalogued.changesSince(pair)), truth);
    let children = truth;
    for (let level = 1; level <= this.#shape.rootLevel; level++) {
      const nodes = Array.from({ length: this.#shape.nodes[level]! }, (_, i) =>
        sha256(Buffer.concat(children.slice(i * fanOut, (i + 1) * fanOut))),
      );
      const believed = await wait(this.#catalogue.nodes(level, 0, nodes.length));
      believed.forEach((identifier, i) => {
        if (identifier === undefined) return;
        this.counts.nodes++;
        if (!identifier.equals(nodes[i]!)) throw new SimulationError(`node ${i} of level ${level} is wrong`);
      });
      children = nodes;
    }
  }

  /** Asks while others write, digest and believe: the answer is about the moment of the question. */
  async #changesMeanwhile(): Promise<void> {
    const { dead } = this.#schedule;
    const truth = this.#truth();
    const since = await this.#catalogued.changesSince(pair);
    if (!dead) this.#checkChanges(since, truth);
  }

  #checkChanges(since: GenerationChanges | undefined, truth: readonly Buffer[]): void {
    if (!since) return;
    const before = this.#generations.get(since.generation.toString("hex"));
    if (!before) throw new SimulationError("a generation that nobody committed");
    const changed = new Set<number>();
    for (const { first, count } of changedRanges(since, this.#extents))
      for (let extent = first; extent < first + count; extent++) changed.add(extent);
    for (let i = 0; i < this.#extents; i++) {
      if (changed.has(i)) continue;
      this.counts.unchanged++;
      if (!before[i]!.equals(truth[i]!))
        throw new SimulationError(`extent ${i} is said to be unchanged, and has changed`);
    }
  }
}
