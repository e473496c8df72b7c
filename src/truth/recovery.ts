// Recovery: what a record's actual state is, after whatever died (mission row T4).
//
// Pure. Guarantees: the rules are tried in their order, and the first that fits decides. What they make of a situation
// depends on nothing but the action table as it was written down last and on what the sync point reports now, so that it
// makes no difference who died, when, or how often.
import type { Action } from "./actions.ts";
import type { Proof, State } from "./extent-state.ts";

/**
 * The old record that an added one duplicates: it stands for the same thing, by the name that it carries in itself. Of
 * several of that name (a deleted one, whose DELETE is pending still, and its successor), the one as which it proves
 * something known.
 */
export interface Duplicate {
  /** What is pending for the old record at this sync point; undefined if it has no entry. */
  readonly pending: Action | undefined;
  /** What the added record proves as the old one: that an action for it was carried out, or that somebody wrote. */
  readonly outcome: Proof["outcome"];
  /** Whether the sync point has the old record itself, too: then the added one is a copy, like a snapshot. */
  readonly beside: boolean;
}

/** All that is known of a record of one sync point. */
export interface Situation {
  /** What is pending for the record itself; undefined if it has no entry. */
  readonly pending: Action | undefined;
  readonly state: State;
  /** Only of records that are ADDED and bring an identity of their own; an extent has its number, and needs none. */
  readonly duplicate?: Duplicate;
}

interface Outcome {
  /** Whether decide() is to see what the sync point reports. */
  readonly presented: boolean;
  readonly actual: State;
  /**
   * What becomes of the pending action; with the old record's identity, of the old record's. `acknowledged`: it was
   * carried out, and leaves the table; what the truth has become since it was sent is pending instead.
   */
  readonly pending: "stays" | "dropped" | "acknowledged";
  /** Under which identity the record goes on. */
  readonly identity: "its own" | "the old record's";
}

export interface Rule {
  /** As the mission numbers them; 6 has several cases. */
  readonly name: string;
  readonly fits: (situation: Situation) => boolean;
  readonly outcome: Outcome;
}

export interface Recovered extends Outcome {
  readonly rule: string;
  /** The sync point changed the record without having seen the change that the dropped action would have brought it. */
  readonly unseen: boolean;
  /** What the sync point made of the record is overwritten without having been presented; that has to be reported. */
  readonly overruled: boolean;
}

const notPresented = { presented: false, actual: "NO_CHANGE" } as const;
const itsOwn = { identity: "its own" } as const;

const carriedOut = ({ outcome }: Duplicate): boolean => outcome === "equal" || outcome === "applied";

/** The last rule fits everything, so that one always does. */
export const rules: readonly Rule[] = [
  {
    /** What the truth has deleted does not come back by what a sync point still has, or has made of it since. */
    name: "1",
    fits: ({ pending }) => pending === "DELETE",
    outcome: { ...notPresented, ...itsOwn, pending: "stays" },
  },
  {
    /** There is nothing left that an action could be applied to; the deletion is the sync point's own change. */
    name: "2",
    fits: ({ state }) => state === "DELETED",
    outcome: { presented: true, actual: "DELETED", ...itsOwn, pending: "dropped" },
  },
  {
    /** What was pending must not overwrite the sync point's own change before that was decided upon. */
    name: "3",
    fits: ({ state }) => state === "UPDATED",
    outcome: { presented: true, actual: "UPDATED", ...itsOwn, pending: "dropped" },
  },
  {
    /** Nothing happened there: what is pending is sent again, as if the sync point had been offline. */
    name: "4",
    fits: ({ state }) => state !== "ADDED",
    outcome: { presented: true, actual: "NO_CHANGE", ...itsOwn, pending: "stays" },
  },
  {
    /**
     * A record of the sync point's own. An old record that is to be deleted here is duplicated by what holds the same
     * only: whoever made something else of that name made it anew.
     */
    name: "5",
    fits: ({ duplicate }) =>
      duplicate === undefined || (duplicate.pending === "DELETE" && duplicate.outcome === "written"),
    outcome: { presented: true, actual: "ADDED", ...itsOwn, pending: "dropped" },
  },
  {
    /** An ADD that was carried out; its acknowledgement was lost. It may have been taken back since (NO_CHANGE). */
    name: "6, pending ADD",
    fits: ({ duplicate }) =>
      carriedOut(duplicate!) && (duplicate!.pending === "ADD" || duplicate!.pending === "NO_CHANGE"),
    outcome: { ...notPresented, pending: "acknowledged", identity: "the old record's" },
  },
  {
    /** One that stands for what an ADD was to bring, but was made by somebody else: both were added, and compete. */
    name: "6, added twice",
    fits: ({ duplicate }) => duplicate!.pending === "ADD",
    outcome: { presented: true, actual: "ADDED", pending: "dropped", identity: "the old record's" },
  },
  {
    /** What an ADD that was taken back never brought: the old record is in no database any more. */
    name: "6, nothing old left",
    fits: ({ duplicate }) => duplicate!.pending === "NO_CHANGE",
    outcome: { presented: true, actual: "ADDED", ...itsOwn, pending: "dropped" },
  },
  {
    /** A copy beside the old record (a snapshot carries the name of its volume): T6 ignores it. */
    name: "6, beside the old record",
    fits: ({ duplicate }) => duplicate!.beside,
    outcome: { ...notPresented, ...itsOwn, pending: "stays" },
  },
  {
    /** The old record under a new local name; it is to be deleted under that, and does not come back by it. */
    name: "6, pending DELETE",
    fits: ({ duplicate }) => duplicate!.pending === "DELETE",
    outcome: { ...notPresented, pending: "stays", identity: "the old record's" },
  },
  {
    /** The old record under a new local name; the update that is on its way to it finds it there. */
    name: "6, pending UPDATE",
    fits: ({ duplicate }) => duplicate!.pending === "UPDATE",
    outcome: { ...notPresented, pending: "stays", identity: "the old record's" },
  },
  {
    /** The old record under a new local name, made anew at the sync point: the old record is changed to match. */
    name: "6, no action",
    fits: () => true,
    outcome: { presented: true, actual: "UPDATED", pending: "dropped", identity: "the old record's" },
  },
];

/** By the first rule that fits. */
export function recover(situation: Situation): Recovered {
  const { name, outcome } = rules.find(({ fits }) => fits(situation))!;
  const droppedOne = outcome.identity === "its own" ? situation.pending : situation.duplicate?.pending;
  return {
    ...outcome,
    rule: name,
    unseen: outcome.pending === "dropped" && (droppedOne === "ADD" || droppedOne === "UPDATE"),
    overruled:
      (name === "1" && (situation.state === "ADDED" || situation.state === "UPDATED")) ||
      (name === "6, pending UPDATE" && situation.duplicate!.outcome === "written"),
  };
}
