// Deciding: what the truth becomes, and what every sync point has to be told (mission row T6).
//
// Pure. Guarantees: the truth takes at most one sync point's change of a record; whatever else is lost by that, a change at
// a sync point or a change that the truth had taken before, is named in a conflict. What is said of one record holds for
// a whole run of which the same is reported.
import type { Range } from "../base/ranges.ts";
import { type Action, actionBetween, mergeReturning } from "./actions.ts";
import type { Proof, State } from "./extent-state.ts";
import type { Recovered } from "./recovery.ts";
import { sideBySide } from "./runs.ts";

export interface SyncPoint {
  readonly name: string;
  /** False for a replica that only follows: its changes never go into the truth. */
  readonly changesTaken: boolean;
}

/** What the truth has of a record. */
export interface TruthRecord {
  /** Whether there is one. */
  readonly there: boolean;
  /** The sync point whose change the truth took last. */
  readonly origin: string | undefined;
}

/** What there is to know of a record of one sync point, after recovery. */
export interface Report {
  /** NO_CHANGE also for what is not presented, and for a sync point that is offline. */
  readonly actual: State;
  /** What is pending after recovery; undefined if there is no entry. */
  readonly pending: Action | undefined;
  /** As in {@link Recovered}. */
  readonly unseen: boolean;
  /** As in {@link Proof}. */
  readonly doubtful: boolean;
}

/** Of a sync point that is offline, or of which nothing new is known: it keeps what is pending. */
export const reportOffline = (pending: Action | undefined): Report => ({
  actual: "NO_CHANGE",
  pending,
  unseen: false,
  doubtful: false,
});

/**
 * Of a record that has proved what it holds, and went through recovery. Whoever holds what the truth has changes nothing,
 * whatever it did to come to that: an added record that duplicates an old one is ignored.
 */
export const reportOf = (proof: Proof, recovered: Recovered): Report => ({
  actual: proof.outcome === "equal" ? "NO_CHANGE" : recovered.actual,
  pending: recovered.pending === "dropped" ? undefined : proof.pending,
  unseen: recovered.unseen,
  doubtful: proof.doubtful,
});

export interface Loser {
  /** Whose change is lost; undefined if the truth's has no known origin. */
  readonly syncPoint: string | undefined;
  /** Whether it is the change that the truth had taken, or one that the sync point still holds. */
  readonly lost: "the truth's change" | "its own change";
  /**
   * `priority`: the operator put another before it. `not_taken`: the sync point only follows. `doubtful`: it may be a write
   * that was cut off.
   */
  readonly because: "priority" | "not_taken" | "doubtful";
}

export interface Conflict {
  /** Whose change the truth has now; undefined if it keeps what it had. */
  readonly winner: string | undefined;
  readonly losers: readonly Loser[];
}

export interface Decision {
  /** The sync point whose content the truth takes; undefined if it keeps its own. */
  readonly takes: string | undefined;
  readonly truth: TruthRecord;
  /** For each sync point, what is pending from now on (by T5); undefined where no entry is needed. */
  readonly actions: readonly (Action | undefined)[];
  readonly conflict: Conflict | undefined;
}

/**
 * Decides upon one record. `points` are in the order of their priorities, the first wins; `reports` go with them. Whoever
 * holds what the truth has reports no change. `same` tells whether two of those that changed the record hold the same, `what` names the record in an
 * error's message.
 *
 * @throws AgentError `state_damaged` if a pending action and the truth contradict each other
 */
export function decide(
  points: readonly SyncPoint[],
  truth: TruthRecord,
  reports: readonly Report[],
  same: (a: number, b: number) => boolean,
  what = "a record",
): Decision {
  const changed = [...points.keys()].filter((i) => reports[i]!.actual !== "NO_CHANGE");
  // A change that was made without having seen the truth's competes with it, as if both had been made at once. What
  // nobody can be named for counts as decided upon before.
  const originRank = points.findIndex(({ name }) => name === truth.origin);
  const against = new Map<number, Loser["because"]>();
  for (const i of changed) {
    if (!points[i]!.changesTaken) against.set(i, "not_taken");
    else if (reports[i]!.doubtful) against.set(i, "doubtful");
    else if (reports[i]!.unseen && originRank < i) against.set(i, "priority");
  }
  const winner = changed.find((i) => !against.has(i));
  const holdsWinners = (i: number) =>
    winner !== undefined && (i === winner || (changed.includes(i) && same(winner, i)));
  const losers: Loser[] = changed
    .filter((i) => !holdsWinners(i))
    .map((i) => ({
      syncPoint: points[i]!.name,
      lost: "its own change",
      because: against.get(i) ?? "priority",
    }));
  // Whoever had seen the truth's change and changed it has not lost it.
  if (winner !== undefined && changed.every((i) => !holdsWinners(i) || reports[i]!.unseen))
    losers.push({ syncPoint: truth.origin, lost: "the truth's change", because: "priority" });
  const takes = winner === undefined ? undefined : points[winner]!.name;
  const there = winner === undefined ? truth.there : reports[winner]!.actual !== "DELETED";
  const news = winner === undefined ? "NO_CHANGE" : actionBetween(truth.there, there);
  const actionOf = (i: number): Action | undefined => {
    if (holdsWinners(i)) return undefined;
    const { actual, pending } = reports[i]!;
    if (actual !== "NO_CHANGE") return entered(actionBetween(actual !== "DELETED", there));
    return pending === undefined ? entered(news) : mergeReturning(pending, news, what);
  };
  return {
    takes,
    truth: winner === undefined ? truth : { there, origin: takes },
    actions: [...points.keys()].map(actionOf),
    conflict: losers.length === 0 ? undefined : { winner: takes, losers },
  };
}

/** NO_CHANGE makes no entry; only merging leaves one of it. */
const entered = (action: Action): Action | undefined => (action === "NO_CHANGE" ? undefined : action);

export interface TruthRun extends Range, TruthRecord {}
export interface ReportRun extends Range, Report {}
export interface DecisionRun extends Range, Decision {}

/**
 * Decides upon a table of records, run by run, in order. `truth` and `reports` leave out of what there is nothing to say:
 * no record, no change and nothing pending. Records that no sync point changed are left out: for these the truth stays, and
 * what the reports have pending. Where several sync points changed a record, it is decided upon one by one.
 */
export function* decideRuns(
  points: readonly SyncPoint[],
  truth: Iterable<TruthRun>,
  reports: readonly Iterable<ReportRun>[],
  same: (record: number, a: number, b: number) => boolean,
): Generator<DecisionRun> {
  for (const { first, count, one, others } of sideBySide(truth, reports)) {
    const changes = others.filter((report) => report && report.actual !== "NO_CHANGE").length;
    if (changes === 0) continue;
    const before = { there: one?.there ?? false, origin: one?.origin };
    const known = others.map((report) => report ?? reportOffline(undefined));
    const step = changes === 1 ? count : 1;
    for (let at = first; at < first + count; at += step) {
      yield {
        first: at,
        count: step,
        ...decide(points, before, known, (a, b) => same(at, a, b), `record ${at}`),
      };
    }
  }
}
