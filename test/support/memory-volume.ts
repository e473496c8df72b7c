// A volume in memory that can go wrong in every way that the Volume interface knows: blocks that can't be read or
// written, a cache that loses what was not flushed, a writer that nobody expects, a disk that is full.
import { lengthOf } from "../../src/base/bytes.ts";
import { AgentError } from "../../src/base/errors.ts";
import { isZero } from "../../src/platform/native-digest.ts";
import { Durability } from "../../src/volume/durability.ts";
import { digestByReading } from "../../src/volume/read-digests.ts";
import {
  type CompareAnswer,
  checkRange,
  type DigestAnswer,
  type DigestWindow,
  differences,
  type Geometry,
  type ReadOptions,
  type Volume,
  type VolumeIdentity,
  type VolumeTraits,
  type WriteOptions,
} from "../../src/volume/volume.ts";

export class MemoryVolume implements Volume {
  readonly name: string;
  geometry: Geometry;
  readonly identity: VolumeIdentity;
  readonly traits: VolumeTraits;
  readonly traffic = { sent: 0, received: 0 };
  /** What a read sees; and what is left after a power cut. */
  cache: Buffer;
  medium: Buffer;
  readonly unreadable = new Set<number>();
  readonly unwritable = new Set<number>();
  /** Blocks that can be written yet before the disk is full. */
  room = Number.POSITIVE_INFINITY;
  /** It does not grow beyond this. */
  blocksMax = 65_536;
  /** Called before every operation; may change anything. A flush waits for what it returns. */
  before: (operation: string) => unknown = () => undefined;
  holes = false;
  /** Reads and writes need no waiting, where nothing goes wrong. */
  atOnce = false;
  /** Counts what others wrote. */
  #changes = 0;
  #lost = false;
  readonly #durability: Durability;

  constructor(name: string, data: Buffer, blockBytes: number, traits: Partial<VolumeTraits> = {}) {
    this.name = name;
    this.#durability = new Durability(name);
    this.cache = Buffer.from(data);
    this.medium = Buffer.from(data);
    this.geometry = { blockBytes, blocks: data.length / blockBytes };
    this.identity = { uuid: undefined, keys: [`memory:${name}`], description: "memory" };
    this.traits = {
      writable: true,
      thin: true,
      digests: "own",
      digestsOffered: undefined,
      windowExtentsMax: 65535,
      windowBytesMax: 1 << 30,
      windowsInFlight: 3,
      grows: true,
      ...traits,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {}

  /** Somebody else writes. */
  change(offset: number, data: Buffer): void {
    data.copy(this.cache, offset);
    data.copy(this.medium, offset);
    this.#changes++;
  }

  /** Somebody else makes it larger or smaller; what is new is zeros. */
  resize(blocks: number): void {
    const { blockBytes } = this.geometry;
    const bytes = blocks * blockBytes;
    for (const name of ["cache", "medium"] as const)
      this[name] = Buffer.concat([this[name].subarray(0, bytes)], bytes);
    this.geometry = { blockBytes, blocks };
    this.#changes++;
  }

  /** The device is reset: of what was not flushed, every block is there or not as `keeps` says. */
  reset(keeps: () => boolean): void {
    const { blockBytes, blocks } = this.geometry;
    for (let lba = 0; lba < blocks; lba++) {
      if (keeps()) this.cache.copy(this.medium, lba * blockBytes, lba * blockBytes, (lba + 1) * blockBytes);
    }
    this.medium.copy(this.cache);
    this.#lost = true;
  }

  #failAt(bad: Set<number>, lba: number, blocks: number, doing: string): void {
    for (let at = lba; at < lba + blocks; at++) {
      if (bad.has(at))
        throw new AgentError("medium_error", `Cannot ${doing} LBA ${at} of ${this.name}`, { lba: at });
    }
  }

  async read(lba: number, buffer: Buffer, options: ReadOptions = {}): Promise<void> {
    this.before("read");
    const { blockBytes } = this.geometry;
    checkRange(this, lba, buffer.length / blockBytes);
    this.#failAt(this.unreadable, lba, buffer.length / blockBytes, "read");
    (options.fresh ? this.medium : this.cache).copy(buffer, 0, lba * blockBytes);
  }

  readNow(lba: number, buffer: Buffer): boolean {
    const { blockBytes } = this.geometry;
    if (!this.atOnce || this.#meets(this.unreadable, lba, buffer.length / blockBytes)) return false;
    this.cache.copy(buffer, 0, lba * blockBytes);
    return true;
  }

  writeNow(lba: number, pieces: readonly Buffer[]): boolean {
    const { blockBytes } = this.geometry;
    const blocks = lengthOf(pieces) / blockBytes;
    if (!this.atOnce || blocks > this.room || this.#meets(this.unwritable, lba, blocks)) return false;
    this.room -= blocks;
    Buffer.concat(pieces).copy(this.cache, lba * blockBytes);
    return true;
  }

  #meets(bad: Set<number>, lba: number, blocks: number): boolean {
    for (let at = lba; at < lba + blocks; at++) if (bad.has(at)) return true;
    return false;
  }

  async write(lba: number, pieces: readonly Buffer[], options: WriteOptions = {}): Promise<void> {
    this.before("write");
    const { blockBytes } = this.geometry;
    const blocks = lengthOf(pieces) / blockBytes;
    checkRange(this, lba, blocks);
    this.#failAt(this.unwritable, lba, blocks, "write");
    if (blocks > this.room) throw new AgentError("no_space", `${this.name} is full`);
    this.room -= blocks;
    Buffer.concat(pieces).copy(this.cache, lba * blockBytes);
    if (options.durable)
      this.cache.copy(this.medium, lba * blockBytes, lba * blockBytes, (lba + blocks) * blockBytes);
    for (let at = lba; at < lba + blocks; at++) this.unreadable.delete(at); // written anew, a sector can be read
  }

  async zero(lba: number, blocks: number): Promise<void> {
    await this.write(lba, [Buffer.alloc(blocks * this.geometry.blockBytes)]);
  }

  flush(): Promise<void> {
    return this.#durability.run(async () => {
      await this.before("flush");
      this.cache.copy(this.medium);
      if (!this.#lost) return;
      this.#lost = false;
      throw new AgentError("not_proved", `${this.name} was reset before its writes were flushed`);
    });
  }

  get lostWrites(): number {
    return this.#durability.lost;
  }

  /** What is new is on the medium, and zeros. */
  async grow(blocks: number): Promise<void> {
    this.before("grow");
    const { blockBytes } = this.geometry;
    const more = blocks - this.geometry.blocks;
    if (more <= 0) return;
    if (blocks > this.blocksMax) throw new AgentError("no_space", `${this.name} can't have ${blocks} blocks`);
    const zeros = Buffer.alloc(more * blockBytes);
    this.cache = Buffer.concat([this.cache, zeros]);
    this.medium = Buffer.concat([this.medium, zeros]);
    this.geometry = { blockBytes, blocks };
  }

  /** Runs of zeros count as holes, where `holes` says so. */
  async nextData(lba: number, blocks: number): Promise<{ lba: number; blocks: number } | undefined> {
    this.before("nextData");
    const { blockBytes } = this.geometry;
    const isHole = (at: number) =>
      this.holes && isZero(this.cache.subarray(at * blockBytes, (at + 1) * blockBytes));
    let first = lba;
    while (first < lba + blocks && isHole(first)) first++;
    if (first === lba + blocks) return undefined;
    let end = first + 1;
    while (end < lba + blocks && !isHole(end)) end++;
    return { lba: first, blocks: end - first };
  }

  encodeDigests(window: DigestWindow): Promise<DigestAnswer> {
    this.before("digest");
    return digestByReading(
      (lba, buffer) => this.#look(lba, buffer, window.fresh),
      this.geometry,
      window,
      "encode",
    );
  }

  decodeDigests(window: DigestWindow, values: Buffer): Promise<DigestAnswer> {
    this.before("digest");
    return digestByReading(
      (lba, buffer) => this.#look(lba, buffer, window.fresh),
      this.geometry,
      window,
      "decode",
      values,
    );
  }

  async compareDigests(window: DigestWindow, values: Buffer): Promise<CompareAnswer> {
    const own = await this.encodeDigests(window);
    return {
      different: differences(own.values, values, own.extents, window.width),
      extents: own.extents,
      unreadable: own.unreadable,
    };
  }

  async #look(lba: number, buffer: Buffer, fresh: boolean): Promise<void> {
    this.#failAt(this.unreadable, lba, buffer.length / this.geometry.blockBytes, "read");
    (fresh ? this.medium : this.cache).copy(buffer, 0, lba * this.geometry.blockBytes);
  }

  async changeMark(): Promise<string> {
    return `${this.#changes}`;
  }
}
