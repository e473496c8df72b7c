// Actions, and what an old and a new one make together (mission rows T1 and T5).
//
// Pure. Guarantees: merging is what applying one after the other does to a sync point that has had neither; tables are
// merged run by run, whatever their length. Actions carry no data: data for ADD and UPDATE is the truth's, always.
import { AgentError } from "../base/errors.ts";
import type { Range } from "../base/ranges.ts";
import { sideBySide } from "./runs.ts";

export const actions = ["NO_CHANGE", "ADD", "DELETE", "UPDATE"] as const;

/**
 * What has still to be done to one record of one sync point. NO_CHANGE in a table is not the same as no entry: it is left
 * of an ADD that may have been sent before the truth lost the record again, and has to be looked after.
 */
export type Action = (typeof actions)[number];

/** The old action selects the row, the new one the column. */
export const mergeTable: Readonly<Record<Action, Readonly<Record<Action, Action | "invalid">>>> = {
  NO_CHANGE: { NO_CHANGE: "NO_CHANGE", ADD: "ADD", DELETE: "DELETE", UPDATE: "UPDATE" },
  ADD: { NO_CHANGE: "ADD", ADD: "ADD", DELETE: "NO_CHANGE", UPDATE: "ADD" },
  DELETE: { NO_CHANGE: "DELETE", ADD: "invalid", DELETE: "DELETE", UPDATE: "invalid" },
  UPDATE: { NO_CHANGE: "UPDATE", ADD: "UPDATE", DELETE: "DELETE", UPDATE: "UPDATE" },
};

/** How an old and a new action of one record become one. `what` names the record in the error's message. */
export type Merge = (old: Action, next: Action, what?: string) => Action;

/**
 * The effective action, by the table.
 *
 * @throws AgentError `state_damaged` where the table says invalid: no record comes after its own deletion
 */
export const merge: Merge = (old, next, what = "a record") => {
  const merged = mergeTable[old][next];
  if (merged !== "invalid") return merged;
  throw new AgentError(
    "state_damaged",
    `Cannot merge the pending ${old} of ${what} with a new ${next}: what is to be deleted has no successor under the same ` +
      "identity; the action table and the truth database are not of one state",
  );
};

/**
 * The effective action where an identity may come back: an extent that is unmapped and mapped again is the same extent. As
 * long as its DELETE has not left the table, the sync point may still have the old one, and UPDATE is right; if the
 * DELETE was carried out, the sync point's proof shows it before anything is sent.
 *
 * @throws AgentError `state_damaged` for DELETE with UPDATE: the truth can't have changed what it does not have
 */
export const mergeReturning: Merge = (old, next, what) =>
  old === "DELETE" && next === "ADD" ? "UPDATE" : merge(old, next, what);

/** What makes one content of another that differs; whether there is a record before and after is all that counts. */
export function actionBetween(before: boolean, after: boolean): Action {
  if (after) return before ? "UPDATE" : "ADD";
  return before ? "DELETE" : "NO_CHANGE";
}

export interface ActionRun extends Range {
  readonly action: Action;
}

/** Neighbouring runs of one action as one. */
function* joined(runs: Iterable<ActionRun>): Generator<ActionRun> {
  let last: ActionRun | undefined;
  for (const run of runs) {
    if (last && last.action === run.action && last.first + last.count === run.first)
      last = { ...last, count: last.count + run.count };
    else {
      if (last) yield last;
      last = run;
    }
  }
  if (last) yield last;
}

function* merged(old: Iterable<ActionRun>, next: Iterable<ActionRun>, rule: Merge): Generator<ActionRun> {
  for (const { first, count, one, others } of sideBySide(old, [next])) {
    const [other] = others;
    const action = one && other ? rule(one.action, other.action, `record ${first}`) : (one ?? other)!.action;
    yield { first, count, action };
  }
}

/**
 * An old and a new table of one sync point as one. An entry present in only one of them goes over as it is, NO_CHANGE too.
 *
 * @throws AgentError `state_damaged`, as `rule` does, with the record's number
 */
export const mergeTables = (
  old: Iterable<ActionRun>,
  next: Iterable<ActionRun>,
  rule: Merge = merge,
): Iterable<ActionRun> => joined(merged(old, next, rule));
