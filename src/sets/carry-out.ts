// Carrying out what is pending for one replica: extents are read from the source, and written where the truth says so.
//
// Guarantees: only what the truth has is written: an extent that the source has changed since is left to the next run. Only
// what the replica was proved to hold is overwritten: what somebody wrote since is refused (pieces.ts). What leaves the table was
// flushed after it had been written, and then proved from the medium. Memory is bounded by two windows of identifiers: one is
// written while the one before is flushed, proved and acknowledged.
import type { Random } from "../platform/random.ts";
import { entryRefused } from "../truth/pending.ts";
import { type EntryRun, extentsOfPage, type Lease, type TruthStore } from "../truth/store.ts";
import type { Volume } from "../volume/volume.ts";
import { type Outcome, Pieces } from "./pieces.ts";
import { encoded, extentsIn, provedBy, type Shape, valueBytes, Zeros } from "./values.ts";

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
  // What stays pending is passed, too.
  const next = (page: number) => store.nextPending(lease.set, page, member);
  let before = Promise.resolve();
  try {
    for (let page = await next(0); page !== undefined; page = await next(page + pagesOfWindow)) {
      signal.throwIfAborted();
      const runs = await store.entries(lease.set, member, page, pagesOfWindow);
      const truth = new Zeros(shape).of(page * extentsOfPage, extentsFrom(shape, page));
      for (const { number, identifiers } of await store.truth(lease.set, page, pagesOfWindow))
        identifiers.copy(truth, (number - page) * extentsOfPage * shape.digest.identifierBytes);
      const window = new Window(options, done, page, truth);
      const outcome = await window.write(runs);
      await before;
      before = window.acknowledge(runs, outcome);
      before.catch(() => {}); // observed where it is awaited
    }
    await before;
  } finally {
    await before.catch(() => {}); // nothing goes on behind the caller's back
  }
  return done;
}

const extentsFrom = (shape: Shape, page: number): number =>
  Math.min(pagesOfWindow * extentsOfPage, extentsIn(shape) - page * extentsOfPage);

class Window {
  readonly #options: CarryOutOptions;
  readonly #done: CarriedOut;
  readonly #page: number;
  readonly #truth: Buffer;
  readonly #pieces: Pieces;

  constructor(options: CarryOutOptions, done: CarriedOut, page: number, truth: Buffer) {
    this.#options = options;
    this.#done = done;
    this.#page = page;
    this.#truth = truth;
    this.#pieces = new Pieces(options, (first, count) => this.#truthOf(first, count));
  }

  async write(runs: readonly EntryRun[]): Promise<Outcome> {
    const outcome = await this.#pieces.write(runs);
    this.#done.written += outcome.written;
    this.#done.bytes += outcome.bytes;
    return outcome;
  }

  /** What is on the medium leaves the table. */
  async acknowledge(runs: readonly EntryRun[], { brought, refused }: Outcome): Promise<void> {
    const { replica, store, lease, member, signal } = this.#options;
    if (brought.size > 0) await replica.flush(signal);
    const proved = await this.#proved(brought);
    const left = runs.flatMap((run) => this.#left(run, proved, refused));
    this.#done.proved += proved.size;
    this.#done.refused += refused.size;
    this.#done.later += left.reduce((sum, { count }) => sum + count, 0) - refused.size;
    await store.write(lease, async (transaction) => {
      for (const page of new Set(runs.map(({ first }) => Math.floor(first / extentsOfPage)))) {
        const ofPage = left.filter(({ first }) => Math.floor(first / extentsOfPage) === page);
        await transaction.putEntries(member, page, ofPage);
      }
    });
  }

  #truthOf(first: number, count: number): Buffer {
    const { identifierBytes } = this.#options.shape.digest;
    const at = (first - this.#page * extentsOfPage) * identifierBytes;
    return this.#truth.subarray(at, at + count * identifierBytes);
  }

  /** Those that are on the replica's medium as the truth has them. */
  async #proved(brought: ReadonlySet<number>): Promise<Set<number>> {
    const { replica, shape, random, signal } = this.#options;
    const proved = new Set<number>();
    const how = { fresh: true, random, signal };
    await this.#pieces.inFlight(neighbours(brought), async ({ first, count }) => {
      const { values, initialValue } = await provedBy(replica, shape, first, count, how);
      const wanted = encoded(shape, first, this.#truthOf(first, count), initialValue);
      for (let j = 0; j < count; j++) {
        const at = j * valueBytes;
        if (values.compare(wanted, at, at + valueBytes, at, at + valueBytes) === 0) proved.add(first + j);
      }
    });
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

/** Runs of neighbours, in order. */
function* neighbours(extents: ReadonlySet<number>): Generator<{ first: number; count: number }> {
  let run: { first: number; count: number } | undefined;
  for (const extent of [...extents].sort((a, b) => a - b)) {
    if (run && extent === run.first + run.count) run.count++;
    else {
      if (run) yield run;
      run = { first: extent, count: 1 };
    }
  }
  if (run) yield run;
}
