// A disk for simulations of replication sets: a volatile cache above a medium, and all that goes wrong between them.
//
// What was not flushed is lost or torn by a power cut, sector by sector. A flush may fail (the kernel tells it once, drops what
// it could not write, and the page cache goes on having it), and a disk may lie: it says that all is on the medium, and
// some of it is not. What an extent holds, in cache and on the medium, is known by its identifier without digesting it anew.
import { hash } from "node:crypto";
import { AgentError } from "../../src/base/errors.ts";
import { encodingBlock } from "../../src/digest/encoding.ts";
import { encodeIdentifiers } from "../../src/platform/native-digest.ts";
import type { DigestAnswer, DigestWindow, IdentifierWindow, ReadOptions } from "../../src/volume/volume.ts";
import { below, oneOf } from "../support/data.ts";
import { MemoryVolume } from "../support/memory-volume.ts";
import { SimHistories } from "./sim-history.ts";
import type { Life, Random } from "./sim-time.ts";

export const identifierBytes = 32;
export const identified = (data: Buffer): Buffer => hash("sha256", data, "buffer");

/** Identifiers of extents of a buffer, each digested when it is asked for. */
class Identifiers {
  readonly #extentBytes: number;
  readonly #known: (Buffer | undefined)[] = [];

  constructor(extentBytes: number) {
    this.#extentBytes = extentBytes;
  }

  of(data: Buffer, extent: number): Buffer {
    const at = extent * this.#extentBytes;
    this.#known[extent] ??= identified(data.subarray(at, at + this.#extentBytes));
    return this.#known[extent];
  }

  forget(extent: number): void {
    this.#known[extent] = undefined;
  }
}

export class SimDisk extends MemoryVolume {
  /** The process that has it open. */
  life!: Life;
  readonly extentBytes: number;
  /** Undefined: its host keeps none. */
  readonly histories: SimHistories | undefined;
  /** The next flush fails, and says so. */
  failsFlush = false;
  /** The next flush loses something, and says nothing. */
  lies = false;
  /** Called before the cache of these extents is written to. */
  onPut: (extents: readonly number[]) => void = () => {};
  /** Called when a flush fails, or lies: what the cache has of these may be lost with it. */
  onLoss: (extents: readonly number[]) => void = () => {};
  /** Identifiers that were answered for an extent, and when last. */
  readonly answered = new Map<number, Map<string, number>>();
  /** Called when an extent's identifier is answered. */
  onAnswer: (extent: number, identifier: Buffer) => void = () => {};
  /** When it was written to last, by whomever. */
  changedMs = 0;
  readonly #random: Random;
  readonly #inCache: Identifiers;
  readonly #onMedium: Identifiers;
  /** Extents whose medium has changed since somebody looked. */
  #touched = new Set<number>();
  #unflushed: { lba: number; data: Buffer }[] = [];
  #lost = 0;
  /** A flush has failed in this process's life: the page cache is not believed. */
  #distrusted: Life | undefined;

  constructor(name: string, data: Buffer, blockBytes: number, extentBytes: number, random: Random) {
    super(name, data, blockBytes, { digests: "own", windowExtentsMax: 40, grows: false });
    this.extentBytes = extentBytes;
    this.#random = random;
    this.#inCache = new Identifiers(extentBytes);
    this.#onMedium = new Identifiers(extentBytes);
    this.holes = random() < 0.3;
    this.histories = random() < 0.5 ? new SimHistories() : undefined;
  }

  get extents(): number {
    return Math.ceil(this.cache.length / this.extentBytes);
  }

  inCache(extent: number): Buffer {
    return this.#inCache.of(this.cache, extent);
  }

  onMedium(extent: number): Buffer {
    return this.#onMedium.of(this.medium, extent);
  }

  /** What its host says of it: of the medium, once a flush has failed. */
  inSight(extent: number): Buffer {
    return this.#distrusted === this.life ? this.#fresh(extent) : this.inCache(extent);
  }

  /** Cache and medium have the same of it, whatever happens next. */
  isSettled(extent: number): boolean {
    const isDirty = this.#unflushed.some(({ lba, data }) =>
      this.extentsOf(lba, data.length).includes(extent),
    );
    return !isDirty && this.inCache(extent).equals(this.onMedium(extent));
  }

  /** What a digest of the medium sees: what is dirty is written back first. */
  #fresh(extent: number): Buffer {
    const [from, to] = [extent * this.extentBytes, (extent + 1) * this.extentBytes];
    const { blockBytes } = this.geometry;
    const dirty = this.#unflushed.filter(
      ({ lba, data }) => lba * blockBytes < to && lba * blockBytes + data.length > from,
    );
    if (dirty.length === 0) return this.onMedium(extent);
    const data = Buffer.from(this.medium.subarray(from, to));
    for (const { lba, data: written } of dirty) {
      const at = lba * blockBytes - from;
      if (at >= 0) written.copy(data, at);
      else written.copy(data, 0, -at);
    }
    return identified(data);
  }

  touched(): ReadonlySet<number> {
    const touched = this.#touched;
    this.#touched = new Set();
    return touched;
  }

  extentsOf(lba: number, bytes: number): number[] {
    const first = Math.floor((lba * this.geometry.blockBytes) / this.extentBytes);
    const end = Math.ceil((lba * this.geometry.blockBytes + bytes) / this.extentBytes);
    return Array.from({ length: end - first }, (_, i) => first + i);
  }

  // --- what its owner does ---

  override async read(lba: number, buffer: Buffer, options?: ReadOptions): Promise<void> {
    await this.life.pause();
    await super.read(lba, buffer, options);
  }

  override async write(lba: number, pieces: readonly Buffer[]): Promise<void> {
    const { blockBytes } = this.geometry;
    const data = Buffer.concat([...pieces]);
    const blocks = data.length / blockBytes;
    await this.life.pause();
    const bad = Array.from({ length: blocks }, (_, i) => lba + i).find((at) => this.unwritable.has(at));
    const room = Math.min(blocks, this.room, bad === undefined ? blocks : bad - lba);
    const half = below(this.#random, room + 1) * blockBytes;
    this.put(lba, data.subarray(0, half));
    if (bad !== undefined) throw new AgentError("medium_error", `Cannot write LBA ${bad}`, { lba: bad });
    if (blocks > this.room) throw new AgentError("no_space", `${this.name} is full`);
    await this.life.pause();
    this.put(lba + half / blockBytes, data.subarray(half));
  }

  override async zero(lba: number, blocks: number): Promise<void> {
    await this.write(lba, [Buffer.alloc(blocks * this.geometry.blockBytes)]);
  }

  override async flush(): Promise<void> {
    const { life } = this;
    await life.pause();
    life.time.tell(() => `${this.name} is flushed, of ${this.#unflushed.length} writes`);
    const covered = this.#unflushed;
    this.#unflushed = [];
    if (this.failsFlush && covered.length > 0) {
      this.failsFlush = false;
      life.time.tell(() => `${this.name} fails to flush`);
      this.#lost++;
      this.#distrusted = life;
      this.#doubt(covered);
      this.onLoss(covered.flatMap(({ lba, data }) => this.extentsOf(lba, data.length)));
      for (const { lba, data } of covered.slice(below(this.#random, covered.length + 1)))
        this.#settle(lba, data);
      await life.pause();
      throw new AgentError("medium_error", `Cannot put on the medium what was written to ${this.name}`);
    }
    const forgotten = this.lies && covered.length > 0 ? oneOf(this.#random, covered) : undefined;
    if (forgotten) {
      this.lies = false;
      const extents = this.extentsOf(forgotten.lba, forgotten.data.length);
      life.time.tell(() => `${this.name} lies about extents ${extents}`);
      this.onLoss(extents);
    }
    for (const written of covered) if (written !== forgotten) this.#settle(written.lba, written.data);
    await life.pause();
  }

  override get lostWrites(): number {
    return this.#lost;
  }

  async identifiers(window: IdentifierWindow): Promise<DigestAnswer> {
    const first = (window.lba * this.geometry.blockBytes) / this.extentBytes;
    const fresh = window.fresh || this.#distrusted === this.life;
    this.life.time.tell(() => `${this.name} is asked${fresh ? ", of its medium" : ""}`);
    const values: Buffer[] = [];
    // Who writes meanwhile is seen by what is read after it.
    const pauseAt = below(this.#random, window.extents);
    await this.life.pause();
    for (let i = 0; i < window.extents; i++) {
      const bad = this.#unreadableIn(first + i);
      if (bad !== undefined)
        return { values: Buffer.concat(values), extents: i, unreadable: { lba: bad, reason: "EIO" } };
      const value = i === pauseAt ? await this.#mixture(first + i, fresh) : this.#value(first + i, fresh);
      values.push(value);
      this.#note(first + i, value);
    }
    return { values: Buffer.concat(values), extents: window.extents, unreadable: undefined };
  }

  #value(extent: number, fresh: boolean): Buffer {
    return fresh ? this.#fresh(extent) : this.inCache(extent);
  }

  /** An extent that is written to while it is read is half of the one and half of the other. */
  async #mixture(extent: number, fresh: boolean): Promise<Buffer> {
    const { blockBytes } = this.geometry;
    const before = this.#value(extent, fresh);
    const at = extent * this.extentBytes;
    const first = Buffer.from(this.cache.subarray(at, at + blockBytes));
    await this.life.pause();
    const after = this.#value(extent, fresh);
    if (before.equals(after)) return after;
    return identified(Buffer.concat([first, this.cache.subarray(at + first.length, at + this.extentBytes)]));
  }

  #note(extent: number, identifier: Buffer): void {
    this.onAnswer(extent, identifier);
    const known = this.answered.get(extent) ?? new Map<string, number>();
    known.set(identifier.toString("latin1"), this.life.time.nowMs);
    this.answered.set(extent, known);
  }

  isReadable(extent: number): boolean {
    return this.#unreadableIn(extent) === undefined;
  }

  #unreadableIn(extent: number): number | undefined {
    if (this.unreadable.size === 0) return undefined;
    const { blockBytes } = this.geometry;
    const [from, to] = [extent * this.extentBytes, (extent + 1) * this.extentBytes];
    return [...this.unreadable].find((lba) => lba * blockBytes >= from && lba * blockBytes < to);
  }

  override async encodeDigests(window: DigestWindow): Promise<DigestAnswer> {
    const { values, extents, unreadable } = await this.identifiers(window);
    const blocks = Buffer.alloc(16 * extents);
    for (let i = 0; i < extents; i++)
      encodingBlock(window.initialValue, window.lba + i * window.extentBlocks, blocks, 16 * i);
    const whole = extents === 0 ? Buffer.alloc(0) : encodeIdentifiers(values, identifierBytes, blocks, false);
    const cut = Array.from({ length: extents }, (_, i) => whole.subarray(16 * i, 16 * i + window.width));
    return { values: Buffer.concat(cut), extents, unreadable };
  }

  // --- what happens to it ---

  /** A block can't be read until it is written to; a scrub has found it. */
  damage(lba: number): void {
    this.unreadable.add(lba);
    this.histories?.note(this.extentsOf(lba, this.geometry.blockBytes));
    this.changedMs = this.life.time.nowMs;
  }

  readable(): void {
    if (this.unreadable.size > 0) this.changedMs = this.life.time.nowMs;
    this.unreadable.clear();
  }

  /** Into the cache. */
  put(lba: number, data: Buffer): void {
    if (data.length === 0) return;
    const { blockBytes } = this.geometry;
    const blocks = data.length / blockBytes;
    const extents = this.extentsOf(lba, data.length);
    this.onPut(extents);
    this.histories?.note(extents);
    data.copy(this.cache, lba * blockBytes);
    for (const extent of extents) this.#inCache.forget(extent);
    for (let at = lba; at < lba + blocks; at++) this.unreadable.delete(at); // written anew, a sector can be read
    this.room -= blocks;
    this.changedMs = this.life.time.nowMs;
    this.#unflushed.push({ lba, data });
  }

  #settle(lba: number, data: Buffer): void {
    data.copy(this.medium, lba * this.geometry.blockBytes);
    for (const extent of this.extentsOf(lba, data.length)) {
      this.#onMedium.forget(extent);
      this.#touched.add(extent);
    }
  }

  /** What is clean leaves the page cache. */
  evict(): void {
    this.medium.copy(this.cache);
    for (const { lba, data } of this.#unflushed) data.copy(this.cache, lba * this.geometry.blockBytes);
    for (let extent = 0; extent < this.extents; extent++) this.#inCache.forget(extent);
    this.#distrusted = undefined;
  }

  /** What may be lost of these writes is a change. */
  #doubt(writes: readonly { readonly lba: number; readonly data: Buffer }[]): void {
    for (const { lba, data } of writes) this.histories?.note(this.extentsOf(lba, data.length));
  }

  powerCut(): void {
    this.#doubt(this.#unflushed);
    this.life.time.tell(() => `power cut of ${this.name}, ${this.#unflushed.length} writes unflushed`);
    const { blockBytes } = this.geometry;
    const random = this.#random;
    for (const { lba, data } of this.#unflushed) {
      const keep = oneOf(random, [0, 0.5, 1]);
      for (let at = 0; at < data.length; at += blockBytes)
        if (random() < keep) this.#settle(lba + at / blockBytes, data.subarray(at, at + blockBytes));
    }
    if (this.#unflushed.length > 0) this.changedMs = this.life.time.nowMs;
    this.#unflushed = [];
    this.failsFlush = false;
    this.lies = false;
    this.evict();
  }
}
