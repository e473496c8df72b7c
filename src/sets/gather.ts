// Gathering and deciding: every sync point that can be reached proves what it holds, and the rules say what becomes of
// the truth and of what is pending (docs/truth.md).
//
// Guarantees: nothing is written anywhere, neither to a volume nor to the database: what was decided is in the spool. An
// extent that can't be read changes nothing. Memory is bounded by one window for each sync point.
import type { Random } from "../platform/random.ts";
import { type EntryRun, extentsOfPage, type TruthPage, type TruthStore } from "../truth/store.ts";
import type { OnlinePoint, Point } from "./points.ts";
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
  /** Whether it does. */
  readonly taken: boolean;
  /** The truth shall be what it holds, wherever that differs: what was pending for it is dropped. */
  readonly restates: boolean;
}

export interface GatherOptions {
  readonly set: string;
  readonly store: TruthStore;
  readonly shape: Shape;
  /** One or two; where both have changed an extent, the first one's change is taken. */
  readonly sides: readonly Side[];
  /** In the order of their priorities; their changes are never taken. */
  readonly followers: readonly Point[];
  /** Members that are not asked, and of which nothing is to be pending any more. */
  readonly dropped: readonly number[];
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

export async function gather(options: GatherOptions, sink: Sink<PageNews>): Promise<Tally> {
  const total = extentsIn(options.shape);
  const tally: Tally = {
    changed: 0,
    unreadable: 0,
    map: new ChangeMap(total),
    lost: new ExtentsByMember(),
    strayed: new ExtentsByMember(),
  };
  const pages = Math.ceil(total / extentsOfPage);
  for (let page = 0; page < pages; page += pagesOfWindow) {
    options.signal.throwIfAborted();
    const first = page * extentsOfPage;
    const count = Math.min(pagesOfWindow * extentsOfPage, total - first);
    await new Window(options, tally, first, count).go(sink);
  }
  return tally;
}
