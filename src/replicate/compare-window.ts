// One window compared: both sides answer for its extents, in one of the three modes.
//
// Guarantees: an extent counts as equal only if both sides gave a value for it, for the same random initial value, and
// the values agree. Where a block can't be read, its extent is marked, and the comparison goes on behind it with a
// fresh initial value and small windows that grow again.
import { together } from "../base/async.ts";
import { AgentError } from "../base/errors.ts";
import { encodingBlock, initialValueBytes, newInitialValue } from "../digest/encoding.ts";
import {
  type CompareAnswer,
  type DigestAnswer,
  type DigestWindow,
  differences,
  type Unreadable,
} from "../volume/volume.ts";
import type { BadExtent, JobOptions } from "./job.ts";
import type { PlannedWindow } from "./plan.ts";

export const extentState = { equal: 0, differs: 1, sourceUnreadable: 2, replicaUnreadable: 3 } as const;

export interface WindowVerdict {
  readonly lba: number;
  readonly extents: number;
  /** An extentState for each extent. */
  readonly states: Uint8Array;
  readonly bad: readonly BadExtent[];
}

interface Step {
  readonly extents: number;
  readonly different: readonly boolean[];
  /** Why it ended before its window did. */
  readonly source: Unreadable | undefined;
  readonly replica: Unreadable | undefined;
}

function checkAnswer(answer: DigestAnswer | CompareAnswer, window: DigestWindow, name: string): void {
  const short = answer.extents < window.extents;
  if (answer.extents <= window.extents && short === (answer.unreadable !== undefined)) return;
  throw new AgentError(
    "protocol_error",
    `"${name}" answered for ${answer.extents} of ${window.extents} extents`,
  );
}

const step = (
  extents: number,
  different: readonly boolean[],
  source: Unreadable | undefined,
  replica: Unreadable | undefined,
): Step => ({ extents, different, source, replica });

async function byEncoding({ source, replica, signal }: JobOptions, window: DigestWindow): Promise<Step> {
  const [ours, theirs] = await together([
    source.encodeDigests(window, signal),
    replica.encodeDigests(window, signal),
  ]);
  checkAnswer(ours, window, source.name);
  checkAnswer(theirs, window, replica.name);
  const extents = Math.min(ours.extents, theirs.extents);
  return step(
    extents,
    differences(ours.values, theirs.values, extents, window.width),
    ours.extents === extents ? ours.unreadable : undefined,
    theirs.extents === extents ? theirs.unreadable : undefined,
  );
}

/** The initial value stays here: the replica gets a window without it. */
async function byDecoding({ source, replica, signal }: JobOptions, window: DigestWindow): Promise<Step> {
  const ours = await source.encodeDigests({ ...window, width: 16 }, signal);
  checkAnswer(ours, window, source.name);
  if (ours.extents === 0) return step(0, [], ours.unreadable, undefined);
  const asked = { ...window, extents: ours.extents, initialValue: Buffer.alloc(initialValueBytes) };
  const theirs = await replica.decodeDigests(asked, ours.values, signal);
  checkAnswer(theirs, asked, replica.name);
  const { width } = window;
  const blocks = Buffer.alloc(theirs.extents * width);
  const block = Buffer.alloc(16);
  for (let i = 0; i < theirs.extents; i++) {
    encodingBlock(window.initialValue, window.lba + i * window.extentBlocks, block).copy(
      blocks,
      i * width,
      0,
      width,
    );
  }
  return step(
    theirs.extents,
    differences(blocks, theirs.values, theirs.extents, width),
    theirs.unreadable ? undefined : ours.unreadable,
    theirs.unreadable,
  );
}

async function byVerdict({ source, replica, signal }: JobOptions, window: DigestWindow): Promise<Step> {
  const ours = await source.encodeDigests(window, signal);
  checkAnswer(ours, window, source.name);
  if (ours.extents === 0) return step(0, [], ours.unreadable, undefined);
  const asked = { ...window, extents: ours.extents };
  const theirs = await replica.compareDigests(asked, ours.values, signal);
  checkAnswer(theirs, asked, replica.name);
  return step(
    theirs.extents,
    theirs.different,
    theirs.unreadable ? undefined : ours.unreadable,
    theirs.unreadable,
  );
}

const byMode = { encode: byEncoding, decode: byDecoding, verdict: byVerdict };

export async function compareWindow(
  job: JobOptions,
  extentBlocks: number,
  planned: PlannedWindow,
): Promise<WindowVerdict> {
  const states = new Uint8Array(planned.extents);
  const bad: BadExtent[] = [];
  let most = planned.extents;
  for (let at = 0; at < planned.extents; ) {
    job.signal?.throwIfAborted();
    const extents = Math.min(most, planned.extents - at);
    const lba = planned.lba + at * extentBlocks;
    const done = await byMode[job.mode](job, {
      lba,
      extentBlocks,
      extents,
      digest: job.digest,
      initialValue: newInitialValue(job.random),
      width: job.width,
      fresh: job.fresh,
    });
    for (let i = 0; i < done.extents; i++) {
      states[at + i] = done.different[i] ? extentState.differs : extentState.equal;
    }
    at += done.extents;
    most = Math.min(most * 2, planned.extents);
    if (done.extents === extents) continue;
    if (done.replica) {
      states[at] = extentState.replicaUnreadable;
      bad.push({ side: "replica", action: "read", ...done.replica });
    }
    if (done.source) {
      states[at] = extentState.sourceUnreadable;
      bad.push({ side: "source", action: "read", ...done.source });
    }
    at++;
    most = 1;
  }
  return { ...planned, states, bad };
}
