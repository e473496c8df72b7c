// What a sync point's proof says of a record: it holds the truth, it has or has not carried out what is pending, or
// somebody has written to it.
//
// Pure. For volumes a record is an extent, and contents are identifiers; one level up it is a volume of the replication
// set, and contents are its facts. Guarantees: what was ever sent to a sync point is not taken for somebody's writing; a
// window of extents costs two comparisons an extent, and memory for the runs in which they differ only.
import type { Range } from "../base/ranges.ts";
import { type Action, actionBetween } from "./actions.ts";
import { type Content, type Pending, type Same, sameContent } from "./pending.ts";

/** What a sync point reports of a record, compared with what it was known to hold. */
export type State = "NO_CHANGE" | "ADDED" | "DELETED" | "UPDATED";

export interface Proof {
  /**
   * `equal`: it holds the truth; whatever was pending is done, and its acknowledgement was lost. `applied`: it holds what
   * it was sent; the acknowledgement was lost, and the truth has gone on since. `not_applied`: it holds what it held
   * before. `written`: anything else; somebody wrote to it.
   */
  readonly outcome: "equal" | "applied" | "not_applied" | "written";
  readonly state: State;
  /** What is pending now that this is known; undefined if the entry leaves the table. */
  readonly pending: Action | undefined;
  /**
   * Something was sent, and what is there is neither that nor what was there before: perhaps nobody wrote, but the sync
   * point died in the middle of the write. Then it must never become the truth.
   */
  readonly doubtful: boolean;
}

/** What is there, and what it equals. */
interface Facts {
  readonly provedThere: boolean;
  readonly truthThere: boolean;
  readonly previousThere: boolean;
  readonly sentThere: boolean;
  readonly equals: "truth" | "sent" | "previous" | "nothing";
}

/** What somebody has done who did this to a record. */
export const states: Readonly<Record<Action, State>> = {
  NO_CHANGE: "NO_CHANGE",
  ADD: "ADDED",
  DELETE: "DELETED",
  UPDATE: "UPDATED",
};

function proofOf(pending: Action | undefined, wasSent: boolean, facts: Facts): Proof {
  const unchanged = { state: "NO_CHANGE", doubtful: false } as const;
  switch (facts.equals) {
    case "truth":
      return { ...unchanged, outcome: "equal", pending: undefined };
    case "sent":
      return { ...unchanged, outcome: "applied", pending: actionBetween(facts.sentThere, facts.truthThere) };
    case "previous":
      // An ADD that was taken back before it arrived: nothing is left of it.
      return { ...unchanged, outcome: "not_applied", pending: pending === "NO_CHANGE" ? undefined : pending };
    case "nothing":
      return {
        outcome: "written",
        state: states[actionBetween(facts.previousThere, facts.provedThere)],
        pending,
        doubtful: wasSent,
      };
  }
}

/** Of one record: what the truth holds, what is pending for the sync point, and what that proves to hold. */
export function prove<C>(
  truth: Content<C>,
  pending: Pending<C> | undefined,
  proved: Content<C>,
  same: Same<C>,
): Proof {
  const equals = (content: Content<C>) => sameContent(proved, content, same);
  const previous = pending ? pending.previous : truth;
  const sent = pending?.sent;
  return proofOf(pending?.action, sent !== undefined, {
    provedThere: proved !== undefined,
    truthThere: truth !== undefined,
    previousThere: previous !== undefined,
    sentThere: sent?.content !== undefined,
    equals: equals(truth)
      ? "truth"
      : sent && equals(sent.content)
        ? "sent"
        : equals(previous)
          ? "previous"
          : "nothing",
  });
}

/**
 * Extents of one volume that have the same entry, or none. The buffers hold one value an extent, one after another: their
 * identifiers, or all of them encoded with one initial value. An extent that is unmapped has the value of zeros.
 */
export interface ExtentWindow extends Range {
  readonly valueBytes: number;
  readonly pending: Action | undefined;
  readonly truth: Buffer;
  /** As in {@link Pending}; `previous` is absent where nothing is pending. */
  readonly previous?: Buffer;
  readonly sent?: Buffer;
  readonly proved: Buffer;
  /** The values of zeros: one for all extents, or, since an encoded value depends on its place, one for each. */
  readonly zeros: Buffer;
}

export interface ProofRun extends Range, Proof {}

/** Whether two proofs by one entry are one; doubt follows from the entry. */
const isOneProof = (a: Proof, b: Proof): boolean =>
  a.outcome === b.outcome && a.state === b.state && a.pending === b.pending;

/** What a window proves, in runs of one proof each. */
export function* proveExtents(window: ExtentWindow): Generator<ProofRun> {
  const { first, count, valueBytes, pending, truth, proved, zeros, sent } = window;
  const previous = window.previous ?? truth;
  const zerosStep = zeros.length === valueBytes ? 0 : valueBytes;
  const differ = (a: Buffer, b: Buffer, at: number, bAt = at) =>
    a.compare(b, bAt, bAt + valueBytes, at, at + valueBytes) !== 0;
  const factsAt = (i: number): Facts => {
    const at = i * valueBytes;
    const there = (values: Buffer) => differ(values, zeros, at, i * zerosStep);
    return {
      provedThere: there(proved),
      truthThere: there(truth),
      previousThere: there(previous),
      sentThere: sent !== undefined && there(sent),
      equals: !differ(proved, truth, at)
        ? "truth"
        : sent && !differ(proved, sent, at)
          ? "sent"
          : !differ(proved, previous, at)
            ? "previous"
            : "nothing",
    };
  };
  if (proved.equals(truth)) {
    yield { first, count, ...proofOf(pending, sent !== undefined, factsAt(0)) };
    return;
  }
  let from = 0;
  let proof: Proof | undefined;
  for (let i = 0; i < count; i++) {
    // Nearly all of a volume is as it should be: no facts are gathered about that.
    if (proof?.outcome === "equal" && !differ(proved, truth, i * valueBytes)) continue;
    const next = proofOf(pending, sent !== undefined, factsAt(i));
    if (proof && isOneProof(proof, next)) continue;
    if (proof) yield { first: first + from, count: i - from, ...proof };
    from = i;
    proof = next;
  }
  if (proof) yield { first: first + from, count: count - from, ...proof };
}
