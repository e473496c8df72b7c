// Media for simulations: files, folders and volumes whose operations take their time, and whose unflushed writes may be
// lost or torn.
//
// Every wait ends when the schedule says so, so that a seed replays a run exactly.
import { createHash } from "node:crypto";
import { AgentError } from "../../src/base/errors.ts";
import type { HistoryFolder } from "../../src/catalogue/history.ts";
import type { Storage } from "../../src/catalogue/page-store.ts";
import { encodingBlock } from "../../src/digest/encoding.ts";
import { encodeIdentifiers } from "../../src/platform/native-digest.ts";
import type { DigestAnswer, DigestWindow, IdentifierWindow } from "../../src/volume/volume.ts";
import { below, oneOf } from "../support/data.ts";
import { MemoryVolume } from "../support/memory-volume.ts";

export type Random = () => number;
export const sha256 = (data: Buffer) => createHash("sha256").update(data).digest();
const sectorBytes = 512;

/** Who waits, until the schedule lets one go on. */
export class Schedule {
  readonly #random: Random;
  #waiting: { life: Life; lazy: boolean; resume: () => void }[] = [];

  constructor(random: Random) {
    this.#random = random;
  }

  /** `lazy`: long enough for all the others to come and go. */
  wait(life: Life, lazy: boolean): Promise<void> {
    return new Promise((resume) => this.#waiting.push({ life, lazy, resume }));
  }

  /** Of what waits in this life nothing goes on. */
  end(life: Life): void {
    this.#waiting = this.#waiting.filter((each) => each.life !== life);
  }

  /** Everybody comes to where he waits, or nearly so. */
  async turns(): Promise<void> {
    for (let turns = 0; turns < 30; turns++) await Promise.resolve();
  }

  /** Lets one of those who wait go on; false if nobody does. */
  async step(): Promise<boolean> {
    await this.turns();
    const eager = this.#waiting.filter(({ lazy }) => !lazy);
    const candidates = eager.length > 0 && this.#random() < 0.99 ? eager : this.#waiting;
    const next = candidates[below(this.#random, candidates.length)];
    this.#waiting = this.#waiting.filter((each) => each !== next);
    next?.resume();
    await this.turns();
    return next !== undefined;
  }
}

/** A process, until it dies. */
export class Life {
  readonly #schedule: Schedule;
  readonly #death = Promise.withResolvers<never>();
  dead = false;

  constructor(schedule: Schedule) {
    this.#schedule = schedule;
    this.#death.promise.catch(() => {});
  }

  pause(lazy = false): Promise<void> {
    return this.dead ? new Promise(() => {}) : this.#schedule.wait(this, lazy);
  }

  die(): void {
    this.dead = true;
    this.#schedule.end(this);
    this.#death.reject(new AgentError("connection_lost", "the host is dead"));
  }

  /** As somebody else sees it, who learns of the death. @throws AgentError `connection_lost` */
  seen<T>(work: Promise<T>): Promise<T> {
    return Promise.race([work, this.#death.promise]);
  }
}

/** A file whose unflushed writes may be lost or torn by sectors. */
export class SimStorage {
  cache: Buffer;
  #medium: Buffer;
  #unflushed: { offset: number; bytes: Buffer }[] = [];

  constructor(bytes: number) {
    this.cache = Buffer.alloc(bytes);
    this.#medium = Buffer.alloc(bytes);
  }

  /** As one process sees it. */
  over(life: Life): Storage {
    return {
      read: async (offset, buffer) => {
        await life.pause();
        this.cache.copy(buffer, 0, offset, offset + buffer.length);
      },
      write: async (offset, pieces) => {
        const bytes = Buffer.concat([...pieces]);
        await life.pause();
        bytes.copy(this.cache, offset);
        this.#unflushed.push({ offset, bytes });
        await life.pause();
      },
      flush: async () => {
        await life.pause();
        const covered = this.#unflushed;
        this.#unflushed = [];
        for (const { offset, bytes } of covered) bytes.copy(this.#medium, offset);
        await life.pause();
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

/** Files whose names change in one step; what is in them is lost and torn like any other. */
export class SimFolder {
  #files = new Map<string, SimStorage>();

  over(life: Life): HistoryFolder {
    const over = (name: string) => this.#files.get(name)!.over(life);
    return {
      // Nobody waits while a folder is only listed.
      list: async () => [...this.#files.keys()],
      create: async (name, bytes) => {
        await life.pause();
        this.#files.set(name, new SimStorage(bytes));
        return over(name);
      },
      open: async (name) => over(name),
      extend: async (name, bytes) => {
        await life.pause();
        this.#files.get(name)!.extend(bytes);
      },
      rename: async (from, to) => {
        await life.pause();
        this.#files.set(to, this.#files.get(from)!);
        this.#files.delete(from);
        await life.pause();
      },
      remove: async (name) => {
        await life.pause();
        this.#files.delete(name);
      },
    };
  }

  powerCut(random: Random): void {
    for (const file of this.#files.values()) file.powerCut(random);
  }
}

/** A volume whose operations take their time. */
export class SimVolume extends MemoryVolume {
  life!: Life;
  #lostWrites = 0;
  /** Puts so far: by its owner, and by others. */
  puts = 0;
  /** The next flush fails: what it should have put on the medium is gone. */
  failsFlush = false;
  readonly #random: Random;
  #unflushed: { lba: number; data: Buffer }[] = [];
  #flushing: Promise<void> = Promise.resolve();

  constructor(name: string, data: Buffer, blockBytes: number, random: Random) {
    super(name, data, blockBytes, { digests: "own", windowExtentsMax: 40 });
    this.#random = random;
  }

  override async read(lba: number, buffer: Buffer): Promise<void> {
    await this.life.pause();
    await super.read(lba, buffer);
  }

  override async write(lba: number, pieces: readonly Buffer[]): Promise<void> {
    const { blockBytes } = this.geometry;
    const data = Buffer.concat([...pieces]);
    const half = below(this.#random, data.length / blockBytes + 1) * blockBytes;
    await this.life.pause();
    this.#put(lba, data.subarray(0, half));
    await this.life.pause(this.#random() < 0.2);
    this.#put(lba + half / blockBytes, data.subarray(half));
    await this.life.pause();
  }

  override async zero(lba: number, blocks: number): Promise<void> {
    await this.write(lba, [Buffer.alloc(blocks * this.geometry.blockBytes)]);
  }

  override writeNow(lba: number, pieces: readonly Buffer[]): boolean {
    this.#put(lba, Buffer.concat([...pieces]));
    return true;
  }

  /** One after another; who comes after one that has failed is told nothing of it. */
  override flush(): Promise<void> {
    const { life } = this;
    const before = this.#flushing.catch(() => {});
    this.#flushing = (async () => {
      await life.pause();
      await life.seen(before);
      const covered = this.#unflushed;
      this.#unflushed = [];
      const { blockBytes } = this.geometry;
      const lost = this.failsFlush && covered.length > 0;
      if (lost) {
        this.failsFlush = false;
        this.#lostWrites++;
        // The kernel drops what it could not write, and tells once.
        for (const { lba, data } of covered)
          this.medium
            .subarray(lba * blockBytes, lba * blockBytes + data.length)
            .copy(this.cache, lba * blockBytes);
        for (const { lba, data } of this.#unflushed) data.copy(this.cache, lba * blockBytes);
      } else for (const { lba, data } of covered) data.copy(this.medium, lba * blockBytes);
      await life.pause();
      if (lost) throw new AgentError("medium_error", "EIO");
    })();
    return this.#flushing;
  }

  override get lostWrites(): number {
    return this.#lostWrites;
  }

  async identifiers(window: IdentifierWindow): Promise<DigestAnswer> {
    const { blockBytes } = this.geometry;
    const values: Buffer[] = [];
    for (let i = 0; i < window.extents; i++) {
      await this.life.pause();
      const at = (window.lba + i * window.extentBlocks) * blockBytes;
      // What is read while it is written may be a mixture of both.
      const end = Math.min(at + window.extentBlocks * blockBytes, this.cache.length);
      const first = Buffer.from(this.cache.subarray(at, at + blockBytes));
      await this.life.pause();
      values.push(sha256(Buffer.concat([first, this.cache.subarray(Math.min(end, at + blockBytes), end)])));
    }
    return { values: Buffer.concat(values), extents: window.extents, unreadable: undefined };
  }

  override async encodeDigests(window: DigestWindow): Promise<DigestAnswer> {
    const { values, extents } = await this.identifiers(window);
    const blocks = Buffer.alloc(16 * extents);
    for (let i = 0; i < extents; i++)
      encodingBlock(window.initialValue, window.lba + i * window.extentBlocks, blocks, 16 * i);
    const whole = encodeIdentifiers(values, 32, blocks, false);
    const cut = Array.from({ length: extents }, (_, i) => whole.subarray(16 * i, 16 * i + window.width));
    return { values: Buffer.concat(cut), extents, unreadable: undefined };
  }

  override async changeMark(): Promise<string> {
    return `${this.puts}`;
  }

  /** Somebody else writes. */
  override change(offset: number, data: Buffer): void {
    super.change(offset, data);
    this.puts++;
  }

  override resize(blocks: number): void {
    super.resize(blocks);
    this.puts++;
  }

  /** The host that had it is gone; what the kernel has is still there. */
  orphaned(): void {
    this.#flushing = Promise.resolve();
    this.failsFlush = false;
  }

  powerCut(random: Random): void {
    const { blockBytes } = this.geometry;
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
    this.puts++;
    data.copy(this.cache, lba * this.geometry.blockBytes);
    this.#unflushed.push({ lba, data });
  }
}
