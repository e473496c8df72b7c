// Writing what is pending within one window of a replica: neighbours are read, digested and written together, several such
// pieces at a time.
//
// Guarantees: right before a piece is written, the replica was asked what it holds there: what is neither `previous` nor `sent`
// is refused, extent by extent. What was read is written only where it is what the truth says. What is deleted comes first. Memory
// is bounded by `memoryBytes`, or one extent, whatever the size of the window. When this ends, with or without a failure,
// nothing is under way.
import { orderedPipeline } from "../base/async.ts";
import { BufferPool } from "../base/buffer-pool.ts";
import { MiB } from "../base/units.ts";
import { programOf } from "../digest/spec.ts";
import { identifyMemory } from "../platform/block-file.ts";
import { isZero } from "../platform/native-digest.ts";
import type { Random } from "../platform/random.ts";
import type { EntryRun } from "../truth/store.ts";
import type { Volume } from "../volume/volume.ts";
import { encoded, provedBy, type Shape, unnamed, valueBytes } from "./values.ts";

/** Of neighbours that are written together: what one command transfers. */
const pieceBytesMax = MiB;
/** Of pieces under way. */
const memoryBytes = 16 * MiB;

export interface PiecesOf {
  readonly shape: Shape;
  readonly source: Volume;
  readonly replica: Volume;
  readonly random: Random;
  readonly signal: AbortSignal;
  /** Called before something is overwritten. */
  readonly keep?: (lba: number, blocks: number) => Promise<void>;
}

/** Neighbours with one action. */
interface Piece {
  readonly first: number;
  readonly count: number;
  /** Identifiers, one for each. */
  readonly previous: Buffer;
  readonly sent: Buffer | undefined;
}

export interface Outcome {
  /** Extents that the truth's content was written to, or that held it already. */
  readonly brought: Set<number>;
  readonly refused: Set<number>;
  written: number;
  bytes: number;
}

export class Pieces {
  readonly #of: PiecesOf;
  readonly #truth: (first: number, count: number) => Buffer;
  readonly #pool = new BufferPool(memoryBytes);
  readonly #extentsMax: number;
  readonly #depth: number;

  /** `truth` gives identifiers of neighbours. */
  constructor(of: PiecesOf, truth: (first: number, count: number) => Buffer) {
    this.#of = of;
    this.#truth = truth;
    const { extentBlocks, blockBytes } = of.shape;
    const extentBytes = extentBlocks * blockBytes;
    const windowExtents = Math.floor(of.replica.traits.windowBytesMax / extentBytes);
    this.#extentsMax = Math.max(1, Math.min(Math.floor(pieceBytesMax / extentBytes), windowExtents));
    this.#depth = Math.max(1, Math.floor(memoryBytes / Math.max(extentBytes, pieceBytesMax)));
  }

  /** @throws AgentError what reading, asking and writing throw, but for what can't be read of the source */
  async write(runs: readonly EntryRun[]): Promise<Outcome> {
    const outcome: Outcome = { brought: new Set(), refused: new Set(), written: 0, bytes: 0 };
    // What is deleted makes room for the rest.
    for (const deletes of [true, false]) {
      const some = runs.filter(({ action }) => (action === "DELETE") === deletes);
      await this.inFlight(this.#cut(some), (piece) => this.#bring(piece, outcome));
    }
    return outcome;
  }

  /** Does something with each, several at a time. */
  async inFlight<T>(items: Iterable<T>, action: (item: T) => Promise<void>): Promise<void> {
    for await (const _ of orderedPipeline(items, this.#depth, action));
  }

  *#cut(runs: readonly EntryRun[]): Generator<Piece> {
    const { identifierBytes } = this.#of.shape.digest;
    for (const { first, count, previous, sent } of runs) {
      for (let from = 0; from < count; from += this.#extentsMax) {
        const to = Math.min(count, from + this.#extentsMax);
        const cut = (all: Buffer) => all.subarray(from * identifierBytes, to * identifierBytes);
        yield { first: first + from, count: to - from, previous: cut(previous), sent: sent && cut(sent) };
      }
    }
  }

  async #bring(piece: Piece, outcome: Outcome): Promise<void> {
    const { shape, signal } = this.#of;
    signal.throwIfAborted();
    const holds = await this.#holds(piece);
    holds.forEach((what, j) => {
      if (what === "truth") outcome.brought.add(piece.first + j); // an acknowledgement was lost; it is proved with the others
      if (what === "something else") outcome.refused.add(piece.first + j);
    });
    for (const [from, to] of spans(holds, (what) => what === "what it may")) {
      const { buffer, giveBack } = this.#pool.borrow((to - from) * shape.extentBlocks * shape.blockBytes);
      try {
        await this.#send(piece.first + from, to - from, buffer, outcome);
      } finally {
        giveBack();
      }
    }
  }

  /** What the replica holds right now of each extent of a piece. */
  async #holds(piece: Piece): Promise<("truth" | "what it may" | "something else")[]> {
    const { shape, replica, random, signal } = this.#of;
    const { identifierBytes } = shape.digest;
    const { first, count, previous, sent } = piece;
    const how = { fresh: false, random, signal };
    const { values, initialValue } = await provedBy(replica, shape, first, count, how);
    const known = [this.#truth(first, count), previous, sent ?? previous].map((identifiers) =>
      encoded(shape, first, identifiers, initialValue),
    );
    const nobodys = unnamed(identifierBytes);
    const isAt = (held: Buffer, wanted: Buffer, j: number) =>
      held.compare(wanted, j * valueBytes, (j + 1) * valueBytes, j * valueBytes, (j + 1) * valueBytes) === 0;
    const inCache = Array.from({ length: count }, (_, j) => isAt(values, known[0]!, j));
    // What is pending and in a cache already may be on the medium, or was lost on its way there.
    const fresh = inCache.includes(true)
      ? await provedBy(replica, shape, first, count, { ...how, fresh: true })
      : undefined;
    const truth = fresh && encoded(shape, first, this.#truth(first, count), fresh.initialValue);
    return Array.from({ length: count }, (_, j) => {
      const equals = (which: number) => isAt(values, known[which]!, j);
      if (inCache[j]) return fresh && truth && isAt(fresh.values, truth, j) ? "truth" : "what it may";
      const isUnnamed = previous.subarray(j * identifierBytes, (j + 1) * identifierBytes).equals(nobodys);
      return isUnnamed || equals(1) || equals(2) ? "what it may" : "something else";
    });
  }

  /** Reads neighbours, and writes those that are what the truth says. */
  async #send(first: number, count: number, buffer: Buffer, outcome: Outcome): Promise<void> {
    const { shape, source, replica, signal, keep } = this.#of;
    const { extentBlocks, blockBytes, blocks } = shape;
    const extentBytes = extentBlocks * blockBytes;
    const lba = first * extentBlocks;
    const data = buffer.subarray(0, Math.min(count * extentBlocks, blocks - lba) * blockBytes);
    const extent = (j: number) => data.subarray(j * extentBytes, (j + 1) * extentBytes);
    try {
      await source.read(lba, data, {}, signal);
    } catch (error) {
      if ((error as { code?: string }).code !== "medium_error") throw error;
      // Of several, those that can be read.
      if (count > 1) for (let j = 0; j < count; j++) await this.#send(first + j, 1, extent(j), outcome);
      return;
    }
    const states = await this.#states(first, data);
    for (const [from, to] of spans(states, (state) => state !== "changed")) {
      const piece = data.subarray(from * extentBytes, to * extentBytes);
      const at = lba + from * extentBlocks;
      await keep?.(at, piece.length / blockBytes);
      if (states[from] === "zeros")
        await replica.zero(at, piece.length / blockBytes, { unmap: true }, signal);
      else await replica.write(at, [piece], {}, signal);
      outcome.written += to - from;
      outcome.bytes += piece.length;
      for (let j = from; j < to; j++) outcome.brought.add(first + j);
    }
  }

  /** Of each extent of the data, whether it is what the truth says; else the source has gone on. */
  async #states(first: number, data: Buffer): Promise<("changed" | "zeros" | "data")[]> {
    const { digest, extentBlocks, blockBytes } = this.#of.shape;
    const { identifierBytes } = digest;
    const extentBytes = extentBlocks * blockBytes;
    const { values } = await identifyMemory(data, {
      program: programOf(digest),
      offset: 0,
      bytes: data.length,
      extentBytes,
      blockBytes,
      output: "identifiers",
      width: identifierBytes,
    });
    const count = Math.ceil(data.length / extentBytes);
    const truth = this.#truth(first, count);
    return Array.from({ length: count }, (_, j) => {
      const [at, end] = [j * identifierBytes, (j + 1) * identifierBytes];
      if (values.compare(truth, at, end, at, end) !== 0) return "changed";
      return isZero(data.subarray(j * extentBytes, (j + 1) * extentBytes)) ? "zeros" : "data";
    });
  }
}

/** From and to of neighbours that are wanted, and equal. */
function* spans<T>(all: readonly T[], isWanted: (each: T) => boolean): Generator<[from: number, to: number]> {
  for (let i = 0; i < all.length; ) {
    let end = i + 1;
    while (end < all.length && all[end] === all[i]) end++;
    if (isWanted(all[i]!)) yield [i, end];
    i = end;
  }
}
