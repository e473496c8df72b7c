// Carrying out what is pending for one replica: extents are read from the source, and written where the truth says so.
//
// Guarantees: only what the truth has is written: an extent that the source has changed since is left to the next run. Only
// what the replica was proved to hold is overwritten: what somebody wrote since is refused. What leaves the table was
// flushed, and proved from the medium. Memory is bounded by one window.
import { programOf } from "../digest/spec.ts";
import { identifyMemory } from "../platform/block-file.ts";
import { isZero } from "../platform/native-digest.ts";
import type { Random } from "../platform/random.ts";
import { entryRefused } from "../truth/pending.ts";
import { type EntryRun, extentsOfPage, type Lease, type TruthStore } from "../truth/store.ts";
import type { Volume } from "../volume/volume.ts";
import { encoded, extentsIn, provedBy, type Shape, unnamed, valueBytes, Zeros } from "./values.ts";

const pagesOfWindow = 16;

export interface CarryOutOptions {
  readonly lease: Lease;
  readonly store: TruthStore;
  readonly member: number;
  readonly shape: Shape;
  readonly source: Volume;
  readonly replica: Volume;
  readonly random: Random;
  readonly signal: AbortSignal;
  /** Called before something is overwritten. */
  readonly keep?: (lba: number, blocks: number) => Promise<void>;
}

export interface CarriedOut {
  /** Extents that were written, and the bytes of them. */
  written: number;
  bytes: number;
  /** Extents that were proved from the medium: those, and others whose acknowledgement was lost. */
  proved: number;
  /** Extents that stay pending: the source has changed since, or can't be read; somebody wrote to the replica meanwhile. */
  later: number;
  refused: number;
}

export async function carryOut(options: CarryOutOptions): Promise<CarriedOut> {
  const done: CarriedOut = { written: 0, bytes: 0, proved: 0, later: 0, refused: 0 };
  const { store, lease, member, shape, signal } = options;
  const pages = Math.ceil(extentsIn(shape) / extentsOfPage);
  for (let page = 0; page < pages; page += pagesOfWindow) {
    signal.throwIfAborted();
    const runs = await store.entries(lease.set, member, page, pagesOfWindow);
    if (runs.length === 0) continue;
    const truth = new Zeros(shape).of(page * extentsOfPage, extentsFrom(shape, page));
    for (const { number, identifiers } of await store.truth(lease.set, page, pagesOfWindow))
      identifiers.copy(truth, (number - page) * extentsOfPage * shape.digest.identifierBytes);
    await new Step(options, done, page, truth).go(runs);
  }
  return done;
}

const extentsFrom = (shape: Shape, page: number): number =>
  Math.min(pagesOfWindow * extentsOfPage, extentsIn(shape) - page * extentsOfPage);

class Step {
  readonly #options: CarryOutOptions;
  readonly #done: CarriedOut;
  readonly #page: number;
  readonly #truth: Buffer;

  constructor(options: CarryOutOptions, done: CarriedOut, page: number, truth: Buffer) {
    this.#options = options;
    this.#done = done;
    this.#page = page;
    this.#truth = truth;
  }

  async go(runs: readonly EntryRun[]): Promise<void> {
    const { replica, store, lease, member } = this.#options;
    // What is deleted makes room for the rest.
    const inOrder = [...runs].sort((a, b) => Number(b.action === "DELETE") - Number(a.action === "DELETE"));
    const written = new Set<number>();
    const refused = new Set<number>();
    for (const run of inOrder) await this.#write(run, written, refused);
    if (written.size > 0) await replica.flush();
    const proved = await this.#proved(written);
    this.#done.proved += proved.size;
    this.#done.refused += refused.size;
    const left = runs.flatMap((run) => this.#left(run, proved, refused));
    this.#done.later += left.reduce((sum, { count }) => sum + count, 0) - refused.size;
    await store.write(lease, async (transaction) => {
      for (const page of new Set(runs.map(({ first }) => Math.floor(first / extentsOfPage)))) {
        const ofPage = left.filter(({ first }) => Math.floor(first / extentsOfPage) === page);
        await transaction.putEntries(member, page, ofPage);
      }
    });
  }

  #truthOf(extent: number): Buffer {
    const { identifierBytes } = this.#options.shape.digest;
    const at = (extent - this.#page * extentsOfPage) * identifierBytes;
    return this.#truth.subarray(at, at + identifierBytes);
  }

  /** Writes what may be written of a run. */
  async #write(run: EntryRun, written: Set<number>, refused: Set<number>): Promise<void> {
    const { source, replica, shape, signal } = this.#options;
    const { extentBlocks, blockBytes, blocks, digest } = shape;
    const { identifierBytes } = digest;
    const holds = await this.#holds(run);
    for (let j = 0; j < run.count; j++) {
      const extent = run.first + j;
      if (holds[j] === "truth") {
        written.add(extent); // an acknowledgement was lost; it is proved with the others
        continue;
      }
      if (holds[j] === "something else") {
        refused.add(extent);
        continue;
      }
      signal.throwIfAborted();
      const lba = extent * extentBlocks;
      const count = Math.min(extentBlocks, blocks - lba);
      const data = Buffer.alloc(count * blockBytes);
      try {
        await source.read(lba, data, {}, signal);
      } catch (error) {
        if ((error as { code?: string }).code === "medium_error") continue;
        throw error;
      }
      const held = await identifyMemory(data, {
        program: programOf(digest),
        offset: 0,
        bytes: data.length,
        extentBytes: extentBlocks * blockBytes,
        blockBytes,
        output: "identifiers",
        width: identifierBytes,
      });
      if (!held.values.equals(this.#truthOf(extent))) continue; // the source has gone on
      await this.#options.keep?.(lba, count);
      if (isZero(data)) await replica.zero(lba, count, { unmap: true }, signal);
      else await replica.write(lba, [data], {}, signal);
      this.#done.written++;
      this.#done.bytes += data.length;
      written.add(extent);
    }
  }

  /** What the replica holds right now of each extent of a run. */
  async #holds(run: EntryRun): Promise<("truth" | "what it may" | "something else")[]> {
    const { shape } = this.#options;
    const { identifierBytes } = shape.digest;
    const { values, initialValue } = await this.#values(run.first, run.count, false);
    const truth = Buffer.concat(Array.from({ length: run.count }, (_, j) => this.#truthOf(run.first + j)));
    const known = [truth, run.previous, run.sent ?? run.previous].map((identifiers) =>
      encoded(shape, run.first, identifiers, initialValue),
    );
    const nobodys = unnamed(identifierBytes);
    return Array.from({ length: run.count }, (_, j) => {
      const at = j * valueBytes;
      const equals = (which: number) =>
        values.compare(known[which]!, at, at + valueBytes, at, at + valueBytes) === 0;
      if (equals(0)) return "truth";
      const isUnnamed = run.previous.subarray(j * identifierBytes, (j + 1) * identifierBytes).equals(nobodys);
      return isUnnamed || equals(1) || equals(2) ? "what it may" : "something else";
    });
  }

  #values(first: number, count: number, fresh: boolean): Promise<{ values: Buffer; initialValue: Buffer }> {
    const { replica, shape, random, signal } = this.#options;
    return provedBy(replica, shape, first, count, { fresh, random, signal });
  }

  /** Those that are on the replica's medium as the truth has them. */
  async #proved(written: ReadonlySet<number>): Promise<Set<number>> {
    const proved = new Set<number>();
    const extents = [...written].sort((a, b) => a - b);
    for (let i = 0; i < extents.length; ) {
      let end = i + 1;
      while (end < extents.length && extents[end] === extents[end - 1]! + 1) end++;
      const [first, count] = [extents[i]!, end - i];
      const { values, initialValue } = await this.#values(first, count, true);
      const truth = Buffer.concat(Array.from({ length: count }, (_, j) => this.#truthOf(first + j)));
      const wanted = encoded(this.#options.shape, first, truth, initialValue);
      for (let j = 0; j < count; j++) {
        const at = j * valueBytes;
        if (values.compare(wanted, at, at + valueBytes, at, at + valueBytes) === 0) proved.add(first + j);
      }
      i = end;
    }
    return proved;
  }

  /** What of a run stays in the table, as single entries. */
  #left(run: EntryRun, proved: ReadonlySet<number>, refused: ReadonlySet<number>): EntryRun[] {
    const { identifierBytes } = this.#options.shape.digest;
    const left: EntryRun[] = [];
    for (let j = 0; j < run.count; j++) {
      const extent = run.first + j;
      if (proved.has(extent)) continue;
      const cut = (identifiers: Buffer) =>
        identifiers.subarray(j * identifierBytes, (j + 1) * identifierBytes);
      const { action } = run;
      const previous = cut(run.previous);
      // Nothing was sent to who refused it.
      const entry = entryRefused({ action, previous });
      const sent = refused.has(extent) || !run.sent ? undefined : cut(run.sent);
      left.push({ first: extent, count: 1, action: entry.action, previous, sent });
    }
    return left;
  }
}
