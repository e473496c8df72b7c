// Trimming: what is a hole at the source, and mapped at the replica, is unmapped there, so that thin volumes stay thin.
//
// It comes behind a pass that found all extents equal. There a hole of the source is zeros at the replica too, but
// zeros that were written take space, and no comparison tells them from a hole: both sides are asked what they have
// mapped.
//
// Guarantees: only extents of which nothing is mapped at the source are unmapped, and the source is asked once more
// right before each step. Nothing is read for it, but where before-images are kept: each extent has its own on disk
// before it is unmapped. Memory is bounded, and so is what is done between two looks at the signal. What is counted is
// what the replica itself no longer has mapped; all of it is on the medium when run() resolves with true.
//
// Why it is right when the source is written to meanwhile. A hole reads as zeros, so that unmapping ships what the
// source held at a moment of this pass, as every WRITE does. Data that comes into a hole after that moment is missing
// at the replica, as data is that comes into an extent after it was read. Both times the source's change mark, taken
// before the pass and behind the trimming, tells: then the run does not end as equal but with another pass, which ships
// it, or as `changed`. The generation of a pair began before all this: what is written from then on, here or there, is
// looked at by the next run. What a file has lost at its end is no hole: nextData() throws. Where nothing tells of
// changes (an iSCSI source), trimming promises no less than shipping: the replica holds what the source held while the
// run went on.
//
// A volume that does not know its holes says that all of it is mapped. Such a source leaves nothing to trim. Such a
// replica would be written to in vain, or even be allocated by it: trimming begins with small steps, looks what became
// of them, and gives up if nothing is unmapped.
import { AgentError } from "../base/errors.ts";
import { type BlockRange, formatBytes, MiB } from "../base/units.ts";
import type { Volume } from "../volume/volume.ts";
import type { BadExtent, SynchronizeOptions } from "./job.ts";

/** One step, or one extent. */
const stepBytesMax = 32 * MiB;
/** Likewise as long as nothing was seen to be unmapped; after so much in vain it is given up. */
const trialBytesMax = MiB;
const vainBytesMax = 8 * MiB;
/** One record of before-images, or one extent. */
const imageBytesMax = MiB;

/** Whole extents of which something is mapped, in order. `range` begins with an extent, and ends with one or the volume. */
async function* mappedIn(
  volume: Volume,
  range: BlockRange,
  extentBlocks: number,
  signal: AbortSignal | undefined,
): AsyncGenerator<BlockRange> {
  const end = range.lba + range.blocks;
  for (let at = range.lba; at < end; ) {
    signal?.throwIfAborted();
    const data = await volume.nextData(at, end - at, signal);
    if (!data) return;
    const first = data.lba - (data.lba % extentBlocks);
    at = Math.min(end, Math.ceil((data.lba + data.blocks) / extentBlocks) * extentBlocks);
    yield { lba: first, blocks: at - first };
  }
}

/** The others: whole extents of which nothing is mapped. */
async function* holesIn(
  volume: Volume,
  range: BlockRange,
  extentBlocks: number,
  signal: AbortSignal | undefined,
): AsyncGenerator<BlockRange> {
  const end = range.lba + range.blocks;
  let at = range.lba;
  for await (const { lba, blocks } of mappedIn(volume, range, extentBlocks, signal)) {
    if (lba > at) yield { lba: at, blocks: lba - at };
    at = lba + blocks;
  }
  if (at < end) yield { lba: at, blocks: end - at };
}

/** A range in pieces of at most `most` blocks. */
function* piecesOf({ lba, blocks }: BlockRange, most: number): Generator<BlockRange> {
  for (let done = 0; done < blocks; done += most)
    yield { lba: lba + done, blocks: Math.min(most, blocks - done) };
}

export class Trimmer {
  readonly #job: SynchronizeOptions;
  readonly #extentBlocks: number;
  /** The number of the file of before-images: an extent may have been shipped in this pass, too. */
  readonly #images: number;
  readonly #onBad: (bad: BadExtent) => void;
  #vainBytes = 0;

  constructor(
    job: SynchronizeOptions,
    extentBlocks: number,
    images: number,
    onBad: (bad: BadExtent) => void,
  ) {
    this.#job = job;
    this.#extentBlocks = extentBlocks;
    this.#images = images;
    this.#onBad = onBad;
  }

  /** Returns false if what was done may have been lost with the replica's cache. @throws what a volume throws */
  async run(): Promise<boolean> {
    const { replica, counters, signal, onNotice } = this.#job;
    if (!replica.traits.thin) {
      onNotice?.(`Nothing is trimmed: "${replica.name}" is not thin, it can't unmap anything`);
      return true;
    }
    counters.phase = "trimming";
    try {
      const touched = await this.#walk();
      const certain = !touched || (await this.#flush());
      signal?.throwIfAborted();
      return certain;
    } finally {
      counters.phase = "comparing";
    }
  }

  /** Returns whether the replica was asked to unmap anything. */
  async #walk(): Promise<boolean> {
    const { source, replica, signal, onNotice } = this.#job;
    const all = { lba: 0, blocks: source.geometry.blocks };
    let holes = false;
    let touched = false;
    for await (const hole of holesIn(source, all, this.#extentBlocks, signal)) {
      holes = true;
      for await (const run of mappedIn(replica, hole, this.#extentBlocks, signal)) {
        touched = true;
        if (await this.#unmapRun(run)) continue;
        onNotice?.(
          `Trimming ends: "${replica.name}" was asked to unmap ${formatBytes(this.#vainBytes)}, and says that all of it ` +
            "is still mapped. It does not know its holes (block devices don't), or unmaps larger extents only (see --extent)",
        );
        return touched;
      }
    }
    if (!holes) {
      onNotice?.(
        `Nothing is trimmed: "${source.name}" names no hole of a whole extent. It has none, or does not know them ` +
          "(block devices and arrays don't)",
      );
    }
    return touched;
  }

  /** Returns false if it is in vain. */
  async #unmapRun(run: BlockRange): Promise<boolean> {
    const { source, counters, signal } = this.#job;
    const end = run.lba + run.blocks;
    for (let lba = run.lba; lba < end; ) {
      const onTrial = counters.trimmedExtents === 0;
      const most = this.#blocksOf(onTrial ? trialBytesMax : stepBytesMax);
      const step = { lba, blocks: Math.min(most, end - lba) };
      for await (const hole of holesIn(source, step, this.#extentBlocks, signal)) {
        await this.#keep(hole);
        await this.#unmap(hole);
      }
      if (counters.trimmedExtents === 0 && this.#vainBytes >= vainBytesMax) return false;
      lba += step.blocks;
    }
    return true;
  }

  /** Whole extents within so many bytes, one at least. */
  #blocksOf(bytes: number): number {
    return Math.max(1, Math.floor(bytes / this.#job.extentBytes)) * this.#extentBlocks;
  }

  async #keep(range: BlockRange): Promise<void> {
    const { beforeImages, replica, source, extentBytes } = this.#job;
    if (!beforeImages) return;
    const records = [...piecesOf(range, this.#blocksOf(imageBytesMax))];
    await beforeImages.keep(replica, { source: source.name, extentBytes, pass: this.#images }, records);
  }

  /** Extent by extent where the medium fails. */
  async #unmap(range: BlockRange): Promise<void> {
    const { replica, signal } = this.#job;
    signal?.throwIfAborted();
    const { lba, blocks } = range;
    try {
      await replica.zero(lba, blocks, { unmap: true }, signal);
    } catch (error) {
      if (!(error instanceof AgentError) || error.code !== "medium_error") throw error;
      if (blocks > this.#extentBlocks)
        for (const extent of piecesOf(range, this.#extentBlocks)) await this.#unmap(extent);
      else this.#onBad({ side: "replica", action: "write", lba: error.lba ?? lba, reason: error.message });
      return;
    }
    await this.#count(range);
  }

  /** Looks what became of it. */
  async #count(range: BlockRange): Promise<void> {
    const { replica, counters, signal } = this.#job;
    const { blockBytes } = replica.geometry;
    for await (const { blocks } of holesIn(replica, range, this.#extentBlocks, signal)) {
      counters.trimmedExtents += Math.ceil(blocks / this.#extentBlocks);
      counters.trimmedBytes += blocks * blockBytes;
    }
    if (counters.trimmedExtents === 0) this.#vainBytes += range.blocks * blockBytes;
  }

  async #flush(): Promise<boolean> {
    const { replica, onNotice } = this.#job;
    try {
      await replica.flush();
    } catch (error) {
      if (!(error instanceof AgentError) || error.code !== "not_proved") throw error;
      onNotice?.(error.message);
      return false;
    }
    return true;
  }
}
