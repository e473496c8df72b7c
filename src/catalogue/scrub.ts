// A scrub: what the catalogue believes is read from the medium and digested again.
//
// Guarantees: an extent whose medium holds something else than what was written is reported, and answered for like one
// that can't be read until it is written anew; nothing is healed. What was written to while it was looked at is left to
// the next time. Reading is limited to `bytesPerSecond`, and goes on where it stopped.
import type { Clock } from "../platform/clock.ts";
import { volumeIdentifiers } from "../volume/read-digests.ts";
import type { CataloguedVolume } from "./catalogued-volume.ts";
import { fanOut } from "./shape.ts";
import { extentKnowledge } from "./tree.ts";

export interface ScrubFinding {
  readonly lba: number;
  readonly kind: "differs" | "unreadable";
  readonly reason: string;
}

export interface ScrubOptions {
  readonly bytesPerSecond: number;
  readonly clock: Clock;
  readonly found: (finding: ScrubFinding) => void;
  /** Told after each region which one is the next. */
  readonly reached?: (next: number) => Promise<void>;
  readonly signal?: AbortSignal;
}

export interface ScrubProgress {
  /** Extents that were proved, that differ, and that could not be read or were not believed. */
  readonly proved: number;
  readonly differing: number;
  readonly skipped: number;
  /** The region to go on with. */
  readonly next: number;
  readonly done: boolean;
}

/** Looks at up to `regions` regions from `first` on. */
export async function scrub(
  volume: CataloguedVolume,
  first: number,
  regions: number,
  options: ScrubOptions,
): Promise<ScrubProgress> {
  const { shape } = volume.catalogue;
  const all = shape.nodes[1]!;
  const end = Math.min(all, first + regions);
  const sum = { proved: 0, differing: 0, skipped: 0 };
  let region = first;
  for (; region < end && volume.catalogue.isKept; region++) {
    options.signal?.throwIfAborted();
    const begunMs = options.clock.monotonicMs();
    const part = await scrubRegion(volume, region, options);
    sum.proved += part.proved;
    sum.differing += part.differing;
    sum.skipped += part.skipped;
    const { blockBytes } = volume.geometry;
    const bytes = (part.proved + part.differing) * volume.extentBlocks * blockBytes;
    const restMs = (1000 * bytes) / options.bytesPerSecond - (options.clock.monotonicMs() - begunMs);
    await options.reached?.(region + 1);
    if (restMs > 0) await options.clock.sleep(restMs, options.signal);
  }
  return { ...sum, next: region, done: region >= all };
}

async function scrubRegion(volume: CataloguedVolume, region: number, options: ScrubOptions) {
  const { catalogue, extentBlocks } = volume;
  const { identifierBytes } = catalogue.shape;
  const first = region * fanOut;
  const extents = catalogue.shape.nodesIn(0, region);
  const before = await catalogue.look(first, extents);
  const differing: number[] = [];
  let proved = 0;
  let skipped = 0;
  for (let i = 0; i < extents; ) {
    if (before.knowledge[i] !== extentKnowledge.known) {
      skipped++;
      i++;
      continue;
    }
    let end = i + 1;
    while (end < extents && before.knowledge[end] === extentKnowledge.known) end++;
    const lba = (first + i) * extentBlocks;
    const window = { lba, extentBlocks, extents: end - i, digest: catalogue.digest, fresh: true };
    const answer = await volumeIdentifiers(volume.volume, window, options.signal);
    for (let j = 0; j < answer.extents; j++) {
      const ours = before.identifiers.subarray((i + j) * identifierBytes, (i + j + 1) * identifierBytes);
      const theirs = answer.values.subarray(j * identifierBytes, (j + 1) * identifierBytes);
      if (ours.equals(theirs)) proved++;
      else differing.push(i + j);
    }
    i += answer.extents;
    if (!answer.unreadable) continue;
    options.found({ ...answer.unreadable, kind: "unreadable" });
    skipped++;
    i++;
  }
  if (differing.length === 0) return { proved, differing: 0, skipped };
  // What was written to meanwhile differs rightly.
  const after = await catalogue.look(first, extents);
  const rotten = differing.filter((i) => {
    const [from, to] = [i * identifierBytes, (i + 1) * identifierBytes];
    const same = before.identifiers.compare(after.identifiers, from, to, from, to) === 0;
    return after.knowledge[i] === extentKnowledge.known && same;
  });
  await catalogue.suspect(rotten.map((i) => first + i));
  for (const i of rotten) {
    const lba = (first + i) * extentBlocks;
    options.found({
      lba,
      kind: "differs",
      reason: `the medium differs from what was written, in the ${extentBlocks} blocks at LBA ${lba}`,
    });
  }
  return { proved, differing: rotten.length, skipped: skipped + differing.length - rotten.length };
}
