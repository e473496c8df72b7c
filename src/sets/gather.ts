// Gathering and deciding: every sync point that can be reached proves what it holds, and the rules say what becomes of
// the truth and of what is pending (docs/truth.md).
//
// Guarantees: nothing is written anywhere, neither to a volume nor to the database: what was decided is in the spool. An
// extent that can't be read changes nothing. What a sync point's host knows to be as it was in step is not looked at there,
// and where that holds for all of them, and nothing is pending, not even in the truth database. Memory is bounded by a few
// windows for each sync point.
import { orderedPipeline } from "../base/async.ts";
import { append, type Range, union } from "../base/ranges.ts";
import type { Random } from "../platform/random.ts";
import { type EntryRun, extentsOfPage, type TruthPage, type TruthStore } from "../truth/store.ts";
import { isOnline, type OnlinePoint, type Point } from "./points.ts";
import type { Patience } from "./punctual.ts";
import type { Sink } from "./spool.ts";
import { ChangeMap, ExtentsByMember } from "./tally.ts";
import { extentsIn, type Shape } from "./values.ts";
import { Window } from "./window.ts";

/** What is written down of one page. */
export interface PageNews {
  readonly page: number;
  readonly truth: TruthPage | undefined;
  /** Of members whose entries are not what they were. */
  readonly entries: readonly { readonly member: number; readonly runs: readonly EntryRun[] }[];
}

/** A sync point of which what it holds is learnt by name, so that the truth may take it. */
export interface Side {
  readonly point: OnlinePoint;
  /** The set follows it: what the truth has become since both sides parted was its doing. */
  readonly leads: boolean;
  /** Whether it does. */
  readonly taken: boolean;
  /** The truth shall be what it holds, wherever that differs: what was pending for it is dropped. */
  readonly restates: boolean;
}

export interface GatherOptions {
  readonly set: string;
  readonly store: TruthStore;
  readonly shape: Shape;
  /** Where two have changed an extent, the first one's change is taken. Without any, the truth stays what it is. */
  readonly sides: readonly Side[];
  /** In the order of their priorities; their changes are never taken. */
  readonly followers: readonly Point[];
  /** Members that are not asked, and of which nothing is to be pending any more. */
  readonly dropped: readonly number[];
  /** What may have changed of a sync point since it was in step; undefined, or absent: nobody knows. */
  readonly changedOf?: (point: Point) => readonly Range[] | undefined;
  /** How long the others are kept waiting for a replica; as long as it takes if this is left out. */
  readonly patience?: Patience;
  readonly random: Random;
  readonly signal: AbortSignal;
}

export interface Tally {
  /** Extents whose truth is another one now. */
  changed: number;
  /** Extents of the first side that can't be read. */
  unreadable: number;
  /** What the sides have changed. */
  readonly map: ChangeMap;
  /** Changes of sides that the truth does not take. */
  readonly lost: ExtentsByMember;
  /** What somebody else wrote to replicas that follow. */
  readonly strayed: ExtentsByMember;
}

const pagesOfWindow = 16;
const windowsInFlight = 4;

export async function gather(options: GatherOptions, sink: Sink<PageNews>): Promise<Tally> {
  const total = extentsIn(options.shape);
  const tally: Tally = {
    changed: 0,
    unreadable: 0,
    map: new ChangeMap(total),
    lost: new ExtentsByMember(),
    strayed: new ExtentsByMember(),
  };
  // A replica that is far away takes its time for each answer: several windows are asked for at once.
  const windows = orderedPipeline(
    itinerary(options, Math.ceil(total / extentsOfPage)),
    windowsInFlight,
    async ({ first: page, count: pages }) => {
      options.signal.throwIfAborted();
      const first = page * extentsOfPage;
      const window = new Window(options, tally, first, Math.min(pages * extentsOfPage, total - first));
      await window.ask();
      return window;
    },
  );
  for await (const window of windows) await window.decide(sink);
  return tally;
}

/** Pages that have to be looked at, in order, as many at once as a window has at most. */
async function* itinerary(options: GatherOptions, total: number): AsyncGenerator<Range> {
  const { store, set, sides, followers, changedOf } = options;
  const points = [...sides.map(({ point }) => point), ...followers.filter(isOnline)];
  const known = points.map((point) => changedOf?.(point));
  if (known.some((changed) => changed === undefined)) {
    for (let page = 0; page < total; page += pagesOfWindow)
      yield { first: page, count: Math.min(pagesOfWindow, total - page) };
    return;
  }
  const changed: Range[] = [];
  for (const { first, count } of union(known.flat() as Range[], [])) {
    const from = Math.floor(first / extentsOfPage);
    append(changed, from, Math.ceil((first + count) / extentsOfPage) - from);
  }
  let k = 0;
  let pending = await store.nextPending(set, 0);
  /** The first page from this one on that has to be looked at. */
  const next = async (page: number): Promise<number> => {
    while (k < changed.length && changed[k]!.first + changed[k]!.count <= page) k++;
    if (pending !== undefined && pending < page) pending = await store.nextPending(set, page);
    const changes = changed[k] ? Math.max(changed[k]!.first, page) : total;
    return Math.min(changes, pending ?? total, total);
  };
  for (let page = await next(0); page < total; page = await next(page)) {
    const first = page++;
    while (page < total && page - first < pagesOfWindow && (await next(page)) === page) page++;
    yield { first, count: page - first };
  }
}
