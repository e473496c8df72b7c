// Shipping: extents that differ are read once from the source and written to the replica.
//
// Guarantees: memory is bounded by `memoryBytes`; an extent that is overwritten has its before-image on disk, if they
// are kept; zeros are unmapped, not written, where the replica can. What is to be proved is proved against the very
// bytes that were shipped, after a flush, from the medium.

import { Semaphore } from "../base/async.ts";
import { BufferPool } from "../base/buffer-pool.ts";
import { AgentError } from "../base/errors.ts";
import { type BlockRange, MiB } from "../base/units.ts";
import { newInitialValue } from "../digest/encoding.ts";
import { programOf } from "../digest/spec.ts";
import { identifyMemory } from "../platform/block-file.ts";
import { isZero } from "../platform/native-digest.ts";
import type { ExtentRun } from "../volume/volume.ts";
import { extentState, type WindowVerdict } from "./compare-window.ts";
import type { BadExtent, SynchronizeOptions } from "./job.ts";
import type { PlannedWindow } from "./plan.ts";

const memoryBytes = 32 * MiB;
const runBytesMax = MiB;
/** Extents that are shipped before they are proved: their values are what has to be kept in memory. */
const proveExtents = 16_384;

interface Shipped {
  readonly lba: number;
  readonly extentBlocks: number;
  readonly extents: number;
  /** job.width bytes each, encoded with the initial value. */
  readonly values: Buffer;
  readonly initialValue: Buffer;
}

function unlessMediumError(error: unknown): false {
  if (error instanceof AgentError && error.code === "medium_error") return false;
  throw error;
}

export class Shipper {
  readonly #job: SynchronizeOptions;
  readonly #extentBlocks: number;
  readonly #pass: number;
  readonly #memory = new Semaphore(memoryBytes);
  readonly #pool = new BufferPool(memoryBytes);
  readonly #underWay = new Set<Promise<void>>();
  #failure: unknown;
  /** Something that was proved on the way was not as it should be. */
  #uncertain = false;
  #unproved: Shipped[] = [];
  #unprovedExtents = 0;
  #initialValue: Buffer;
  readonly #onBad: (bad: BadExtent) => void;

  constructor(job: SynchronizeOptions, extentBlocks: number, pass: number, onBad: (bad: BadExtent) => void) {
    this.#job = job;
    this.#extentBlocks = extentBlocks;
    this.#pass = pass;
    this.#onBad = onBad;
    this.#initialValue = newInitialValue(job.random);
  }

  /** Ships what differs in a window; may resolve before it is written. @throws what an earlier one ran into */
  async ship(verdict: WindowVerdict): Promise<void> {
    const runs = this.#runsOf(verdict);
    if (runs.length === 0) return;
    const { beforeImages, replica, source, counters } = this.#job;
    for (const { blocks } of runs) counters.toShip += Math.ceil(blocks / this.#extentBlocks);
    if (beforeImages) {
      const { extentBytes } = this.#job;
      await beforeImages.keep(replica, { source: source.name, extentBytes, pass: this.#pass }, runs);
    }
    for (const run of runs) {
      if (this.#failure || this.#job.signal?.aborted) break;
      const bytes = run.blocks * source.geometry.blockBytes;
      const release = await this.#memory.acquire(bytes);
      const work = this.#shipRun(run)
        .catch((error: unknown) => {
          this.#failure ??= error;
        })
        .finally(() => {
          release();
          this.#underWay.delete(work);
        });
      this.#underWay.add(work);
    }
    if (this.#failure) await this.settled();
    this.#job.signal?.throwIfAborted();
    await this.proveIfMany();
  }

  /** The replica copied an extent there: it is proved with what is shipped. */
  copied(lba: number, extentBlocks: number, encode: (initialValue: Buffer) => Buffer): void {
    if (!this.#job.verify) return;
    const values = encode(this.#initialValue).subarray(0, this.#job.width);
    this.#unproved.push({ lba, extentBlocks, extents: 1, values, initialValue: this.#initialValue });
    this.#unprovedExtents++;
  }

  /** Keeps what waits to be proved within its bound. */
  async proveIfMany(): Promise<void> {
    if (this.#unprovedExtents >= proveExtents && !(await this.prove())) this.#uncertain = true;
  }

  /**
   * A window of which the replica has nothing mapped: it reads as zeros there, so that an extent is equal if the source's
   * is zeros. Nothing is digested, and the source is read once. Resolves when all is read; writing may go on.
   */
  async shipBlank(window: PlannedWindow): Promise<WindowVerdict> {
    const { source, counters, signal } = this.#job;
    const { blockBytes, blocks: capacity } = source.geometry;
    const states = new Uint8Array(window.extents);
    const bad: BadExtent[] = [];
    const end = Math.min(window.lba + window.extents * this.#extentBlocks, capacity);
    const reads: Promise<void>[] = [];
    const step =
      Math.max(1, Math.floor(runBytesMax / (this.#extentBlocks * blockBytes))) * this.#extentBlocks;
    let dataEnd = window.lba;
    for (let lba = window.lba; lba < end && !this.#failure && !signal?.aborted; ) {
      if (lba >= dataEnd) {
        const data = await source.nextData(lba, end - lba, signal);
        if (!data) break;
        // From the beginning of the extent in which the data begins.
        lba = data.lba - ((data.lba - window.lba) % this.#extentBlocks);
        dataEnd = data.lba + data.blocks;
      }
      // No further than the data: behind it are holes, which are zeros here and there.
      const extents = Math.ceil((dataEnd - lba) / this.#extentBlocks);
      const run = { lba, blocks: Math.min(step, extents * this.#extentBlocks, end - lba) };
      const release = await this.#memory.acquire(run.blocks * blockBytes);
      const { promise, resolve } = Promise.withResolvers<void>();
      reads.push(promise);
      const classified = (extentLba: number, state: number) => {
        states[(extentLba - window.lba) / this.#extentBlocks] = state;
        if (state === extentState.differs) counters.toShip++;
      };
      const work = this.#shipOntoZeros(run, classified, bad, resolve)
        .catch((error: unknown) => {
          this.#failure ??= error;
        })
        .finally(() => {
          resolve();
          release();
          this.#underWay.delete(work);
        });
      this.#underWay.add(work);
      lba += run.blocks;
    }
    await Promise.all(reads);
    if (this.#failure) await this.settled();
    signal?.throwIfAborted();
    return { ...window, states, bad };
  }

  /** Reads a run, says which of its extents are no zeros, and writes those. */
  async #shipOntoZeros(
    run: BlockRange,
    classified: (lba: number, state: number) => void,
    bad: BadExtent[],
    readDone: () => void,
  ): Promise<void> {
    const { source, fresh, verify, signal } = this.#job;
    const { blockBytes } = source.geometry;
    const { buffer, giveBack } = this.#pool.borrow(run.blocks * blockBytes);
    const read = (lba: number, into: Buffer) => source.read(lba, into, { fresh }, signal);
    try {
      const whole = await read(run.lba, buffer).then(() => true, unlessMediumError);
      const toWrite: BlockRange[] = [];
      for (let done = 0; done < run.blocks; done += this.#extentBlocks) {
        const lba = run.lba + done;
        const blocks = Math.min(this.#extentBlocks, run.blocks - done);
        const extent = buffer.subarray(done * blockBytes, (done + blocks) * blockBytes);
        try {
          if (!whole) await read(lba, extent);
        } catch (error) {
          if (!(error instanceof AgentError) || error.code !== "medium_error") throw error;
          classified(lba, extentState.sourceUnreadable);
          bad.push({ side: "source", action: "read", lba: error.lba ?? lba, reason: error.message });
          continue;
        }
        if (isZero(extent)) continue;
        classified(lba, extentState.differs);
        const last = toWrite.at(-1);
        if (last && last.lba + last.blocks === lba)
          toWrite[toWrite.length - 1] = { ...last, blocks: last.blocks + blocks };
        else toWrite.push({ lba, blocks });
      }
      readDone();
      for (const { lba, blocks } of toWrite) {
        const piece = buffer.subarray((lba - run.lba) * blockBytes, (lba - run.lba + blocks) * blockBytes);
        try {
          await this.#writeRun({ lba, blocks, prove: verify }, piece);
        } catch (error) {
          if (!(error instanceof AgentError) || error.code !== "medium_error") throw error;
          await this.#singly({ lba, blocks, prove: verify }, piece, error);
        }
      }
    } finally {
      giveBack();
    }
  }

  /** Waits until nothing is under way. @throws what something of it ran into */
  async settled(): Promise<void> {
    while (this.#underWay.size > 0) await Promise.all(this.#underWay);
    if (this.#failure) throw this.#failure;
  }

  /**
   * Flushes, then proves what was shipped since the last time. Returns false if something has to be shipped again:
   * what is not as it should be, or what may have been lost with the replica's cache.
   */
  async prove(): Promise<boolean> {
    await this.settled();
    // Before the flush: what is shipped meanwhile, by windows that are read ahead, belongs to the next time.
    const shipped = this.#unproved.sort((a, b) => a.lba - b.lba);
    this.#unproved = [];
    this.#unprovedExtents = 0;
    this.#initialValue = newInitialValue(this.#job.random);
    const { replica, counters, verify } = this.#job;
    counters.phase = "flushing";
    let certain = true;
    try {
      await replica.flush();
    } catch (error) {
      if (!(error instanceof AgentError) || error.code !== "not_proved") throw error;
      this.#job.onNotice?.(error.message);
      certain = verify; // then everything is proved below in any case
    }
    counters.phase = "proving";
    for (const each of shipped) if (!(await this.#proveOne(each))) certain = false;
    counters.phase = "comparing";
    return certain && !this.#uncertain;
  }

  async #proveOne(shipped: Shipped): Promise<boolean> {
    const { replica, digest, width, counters, signal } = this.#job;
    const { lba, extentBlocks, extents, values, initialValue } = shipped;
    const answer = await replica.encodeDigests(
      { lba, extentBlocks, extents, digest, initialValue, width, fresh: true },
      signal,
    );
    let right = answer.extents === extents;
    const wrong = (extent: number, reason: string) => {
      right = false;
      this.#onBad({ side: "replica", action: "prove", lba: lba + extent * extentBlocks, reason });
    };
    for (let i = 0; i < answer.extents; i++) {
      const at = i * width;
      if (answer.values.compare(values, at, at + width, at, at + width) === 0) counters.provedExtents++;
      else wrong(i, "the medium does not hold what was written");
    }
    for (let i = answer.extents; i < extents; i++) wrong(i, answer.unreadable?.reason ?? "no answer");
    return right;
  }

  /** Extents to ship as ranges of at most runBytesMax. */
  #runsOf({ lba, states }: WindowVerdict): (BlockRange & { readonly prove: boolean })[] {
    const { blockBytes, blocks: capacity } = this.#job.source.geometry;
    const extentBlocks = this.#extentBlocks;
    const most = Math.max(1, Math.floor(runBytesMax / (extentBlocks * blockBytes)));
    const runs: (BlockRange & { readonly prove: boolean })[] = [];
    for (let i = 0; i < states.length; ) {
      const state = states[i];
      if (state !== extentState.differs && state !== extentState.replicaUnreadable) {
        i++;
        continue;
      }
      let end = i + 1;
      while (end < states.length && end - i < most && states[end] === state) end++;
      const start = lba + i * extentBlocks;
      const blocks = Math.min(lba + end * extentBlocks, capacity) - start;
      // What could not be read before is not believed to be writable without a look.
      runs.push({ lba: start, blocks, prove: this.#job.verify || state === extentState.replicaUnreadable });
      i = end;
    }
    return runs;
  }

  async #shipRun(run: BlockRange & { readonly prove: boolean }): Promise<void> {
    const { source, fresh } = this.#job;
    const { blockBytes } = source.geometry;
    const { buffer, giveBack } = this.#pool.borrow(run.blocks * blockBytes);
    try {
      await source.read(run.lba, buffer, { fresh }, this.#job.signal);
      await this.#writeRun(run, buffer);
    } catch (error) {
      if (!(error instanceof AgentError) || error.code !== "medium_error") throw error;
      await this.#singly(run, buffer, error);
    } finally {
      giveBack();
    }
  }

  /** A run of which something could not be read or written: extent by extent. */
  async #singly(
    run: BlockRange & { readonly prove: boolean },
    buffer: Buffer,
    cause: AgentError,
  ): Promise<void> {
    const { source, fresh } = this.#job;
    const { blockBytes } = source.geometry;
    for (let done = 0; done < run.blocks; done += this.#extentBlocks) {
      const lba = run.lba + done;
      const blocks = Math.min(this.#extentBlocks, run.blocks - done);
      const extent = buffer.subarray(0, blocks * blockBytes);
      let side: "source" | "replica" = "source";
      try {
        await source.read(lba, extent, { fresh }, this.#job.signal);
        side = "replica";
        await this.#writeRun({ lba, blocks, prove: run.prove }, extent);
      } catch (error) {
        if (!(error instanceof AgentError) || error.code !== "medium_error") throw error;
        const reason = error.message || cause.message;
        this.#onBad({ side, action: side === "source" ? "read" : "write", lba: error.lba ?? lba, reason });
      }
    }
  }

  async #writeRun(run: BlockRange & { readonly prove: boolean }, data: Buffer): Promise<void> {
    const { replica, counters, extentBytes, signal } = this.#job;
    const { blockBytes } = replica.geometry;
    const extents = Math.ceil(data.length / extentBytes);
    const zeros = Array.from({ length: extents }, (_, i) =>
      isZero(data.subarray(i * extentBytes, Math.min((i + 1) * extentBytes, data.length))),
    );
    const proof = run.prove ? await this.#valuesOf(run, data) : undefined;
    const { compress, digest } = this.#job;
    const compressed = compress !== undefined && replica.traits.writesExtents === true;
    const lists: ExtentRun[] = [];
    for (let i = 0; i < extents; ) {
      let end = i + 1;
      while (end < extents && zeros[end] === zeros[i]) end++;
      const piece = data.subarray(i * extentBytes, Math.min(end * extentBytes, data.length));
      const lba = run.lba + i * this.#extentBlocks;
      if (zeros[i]) {
        await replica.zero(lba, piece.length / blockBytes, { unmap: true }, signal);
        counters.zeroedExtents += end - i;
      } else if (compressed) lists.push({ lba, blocks: piece.length / blockBytes, data: piece });
      else await replica.write(lba, [piece], {}, signal);
      i = end;
    }
    if (lists.length > 0) await replica.writeExtents!(lists, { digest, level: compress! }, signal);
    counters.shippedExtents += extents;
    counters.shippedBytes += data.length;
    if (proof) {
      this.#unproved.push(proof);
      this.#unprovedExtents += extents;
    }
  }

  async #valuesOf(run: BlockRange, data: Buffer): Promise<Shipped> {
    const { digest, width, extentBytes, source } = this.#job;
    const { blockBytes } = source.geometry;
    const initialValue = this.#initialValue;
    const result = await identifyMemory(data, {
      program: programOf(digest),
      offset: run.lba * blockBytes,
      bytes: data.length,
      extentBytes,
      blockBytes,
      output: "encode",
      width,
      initialValue,
    });
    const extentBlocks = this.#extentBlocks;
    return { lba: run.lba, extentBlocks, extents: result.count, values: result.values, initialValue };
  }
}
