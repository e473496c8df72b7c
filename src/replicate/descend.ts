// Down the digest trees of two volumes, from the root: only windows below nodes that differ are left to be compared.
//
// Guarantees: extents are passed over only below a node for which both catalogues gave equal values, encoded with one
// random initial value; every other extent is in exactly one window, in order. Memory is bounded: no more than
// `rangesMax` ranges of a level are looked into at once.

import { orderedPipeline, together } from "../base/async.ts";
import { AgentError } from "../base/errors.ts";
import { newInitialValue } from "../digest/encoding.ts";
import { type CatalogueOffer, differences } from "../volume/volume.ts";
import type { JobOptions } from "./job.ts";
import type { PlannedWindow } from "./plan.ts";

const rangesMax = 1024;
/** Nodes of one command: a few hundred KiB of values. */
const nodesMax = 8192;
const depth = 8;

interface NodeRange {
  readonly first: number;
  readonly count: number;
}

/** The catalogue that both sides keep in the same form, and that answers for what the job compares. */
export function commonCatalogue(job: JobOptions): CatalogueOffer | undefined {
  const { source, replica, digest, extentBytes, fresh } = job;
  const [ours, theirs] = [source.traits.catalogue, replica.traits.catalogue];
  const suits =
    !fresh &&
    ours !== undefined &&
    theirs !== undefined &&
    (["digest", "extentBlocks", "fanOut", "rootLevel"] as const).every((key) => ours[key] === theirs[key]) &&
    ours.digest === digest.text &&
    ours.extentBlocks * source.geometry.blockBytes === extentBytes &&
    // The root stands for the whole volume, whatever a peer says.
    ours.fanOut ** ours.rootLevel * ours.extentBlocks >= source.geometry.blocks;
  return suits ? ours : undefined;
}

/** Windows of at most `extents` extents, of what the trees do not prove equal. `passed` is told of what they do. */
export async function* descend(
  job: JobOptions,
  catalogue: CatalogueOffer,
  extents: number,
  passed: (extents: number) => void,
): AsyncGenerator<PlannedWindow> {
  const { extentBlocks, fanOut, rootLevel } = catalogue;
  const total = Math.ceil(job.source.geometry.blocks / extentBlocks);
  const nodesOf = (level: number) => Math.ceil(total / fanOut ** level);
  const extentsBelow = (level: number, { first, count }: NodeRange) =>
    Math.min(total, (first + count) * fanOut ** level) - first * fanOut ** level;

  /** The ranges of children of the nodes that differ, or of which one side knows nothing. */
  async function differing(level: number, ranges: readonly NodeRange[]): Promise<NodeRange[]> {
    const below: NodeRange[] = [];
    const answers = orderedPipeline(ranges, depth, async (range) => ({
      range,
      different: await compareNodes(job, catalogue, level, range),
    }));
    for await (const { range, different } of answers) {
      for (let i = 0; i < range.count; i++) {
        const node = { first: range.first + i, count: 1 };
        if (!different[i]) {
          passed(extentsBelow(level, node));
          continue;
        }
        const first = node.first * fanOut;
        const count = Math.min(fanOut, nodesOf(level - 1) - first);
        const last = below.at(-1);
        if (last && last.first + last.count === first && last.count + count <= nodesMax)
          below[below.length - 1] = { first: last.first, count: last.count + count };
        else below.push({ first, count });
      }
    }
    return below;
  }

  async function* into(level: number, ranges: readonly NodeRange[]): AsyncGenerator<PlannedWindow> {
    if (level === 0) {
      for (const { first, count } of ranges) {
        for (let done = 0; done < count; done += extents) {
          yield { lba: (first + done) * extentBlocks, extents: Math.min(extents, count - done) };
        }
      }
      return;
    }
    for (let at = 0; at < ranges.length; at += rangesMax) {
      yield* into(level - 1, await differing(level, ranges.slice(at, at + rangesMax)));
    }
  }

  yield* into(rootLevel, [{ first: 0, count: 1 }]);
}

async function compareNodes(
  job: JobOptions,
  { extentBlocks, fanOut }: CatalogueOffer,
  level: number,
  { first, count }: NodeRange,
): Promise<boolean[]> {
  const { source, replica, digest, signal } = job;
  signal?.throwIfAborted();
  const window = {
    lba: first * extentBlocks * fanOut ** level,
    extentBlocks,
    extents: count,
    digest,
    initialValue: newInitialValue(job.random),
    width: job.width,
    fresh: false,
    level,
  };
  const [ours, theirs] = await together([
    source.encodeDigests(window, signal),
    replica.encodeDigests(window, signal),
  ]);
  for (const [answer, { name }] of [
    [ours, source],
    [theirs, replica],
  ] as const) {
    if (answer.extents !== count)
      throw new AgentError("protocol_error", `"${name}" answered for ${answer.extents} of ${count} nodes`);
  }
  return differences(ours.values, theirs.values, count, job.width);
}
