// A volume in memory that knows which of its blocks are mapped, as a thin unit does: zeros that were written are mapped.
import { lengthOf } from "../../src/base/bytes.ts";
import type { VolumeTraits, WriteOptions } from "../../src/volume/volume.ts";
import { MemoryVolume } from "./memory-volume.ts";

export class ThinVolume extends MemoryVolume {
  readonly #mapped: Uint8Array;
  /** Unmaps whole pieces of so many blocks only. */
  granularity = 1;
  /** Says that all of it is mapped, as a block device does. */
  silent = false;
  /** Told of every range that is unmapped, before it is. */
  unmapping: (lba: number, blocks: number) => void = () => {};

  constructor(name: string, data: Buffer, blockBytes: number, traits: Partial<VolumeTraits> = {}) {
    super(name, data, blockBytes, traits);
    this.#mapped = new Uint8Array(this.geometry.blocks).fill(1);
  }

  isMapped(lba: number): boolean {
    return this.#mapped[lba] === 1;
  }

  /** Whether anything is mapped in a range, which may go past the end. */
  maps(lba: number, blocks: number): boolean {
    return this.#mapped.subarray(lba, lba + blocks).includes(1);
  }

  /** Somebody else discards blocks. */
  discard(lba: number, blocks: number): void {
    const { blockBytes } = this.geometry;
    super.change(lba * blockBytes, Buffer.alloc(blocks * blockBytes));
    this.#mapped.fill(0, lba, lba + blocks);
  }

  override change(offset: number, data: Buffer): void {
    super.change(offset, data);
    const { blockBytes } = this.geometry;
    this.#mapped.fill(1, Math.floor(offset / blockBytes), Math.ceil((offset + data.length) / blockBytes));
  }

  override async write(
    lba: number,
    pieces: readonly Buffer[],
    options?: WriteOptions,
    _signal?: AbortSignal,
  ): Promise<void> {
    await super.write(lba, pieces, options);
    this.#mapped.fill(1, lba, lba + lengthOf(pieces) / this.geometry.blockBytes);
  }

  override async zero(lba: number, blocks: number, options: { unmap?: boolean } = {}): Promise<void> {
    if (options.unmap) this.unmapping(lba, blocks);
    const before = this.#mapped.slice(lba, lba + blocks);
    await super.zero(lba, blocks);
    // What was a hole stays one, and what is a part of a larger piece stays mapped.
    this.#mapped.set(before, lba);
    if (!options.unmap) return void this.#mapped.fill(1, lba, lba + blocks);
    const first = Math.ceil(lba / this.granularity) * this.granularity;
    const end = lba + blocks;
    const last = end === this.geometry.blocks ? end : Math.floor(end / this.granularity) * this.granularity;
    if (first < last) this.#mapped.fill(0, first, last);
  }

  override async nextData(lba: number, blocks: number): Promise<{ lba: number; blocks: number } | undefined> {
    this.before("nextData");
    if (this.silent) return { lba, blocks };
    const found = this.#mapped.subarray(lba, lba + blocks).indexOf(1);
    if (found < 0) return undefined;
    const end = this.#mapped.subarray(lba + found, lba + blocks).indexOf(0);
    return { lba: lba + found, blocks: end < 0 ? blocks - found : end };
  }
}
