// An entry of a sync point's action table, and what becomes of it when it is written down.
//
// Pure. Guarantees: an entry remembers all that the sync point may hold by our doing: what it last proved or
// acknowledged, and what it was sent since. So it can be told later whether anybody else has written to it.
import type { Action } from "./actions.ts";

/** What a record holds: an identifier of an extent, the facts of a volume. Undefined: there is no such record. */
export type Content<C> = C | undefined;

/** Whether two contents are the same; asked only of what is there. */
export type Same<C> = (a: C, b: C) => boolean;

/** Whether two contents are the same, or neither is there. */
export const sameContent = <C>(a: Content<C>, b: Content<C>, same: Same<C>): boolean =>
  a === undefined || b === undefined ? a === b : same(a, b);

export interface Pending<C> {
  readonly action: Action;
  /** What the sync point last proved or acknowledged: the truth of that time. */
  readonly previous: Content<C>;
  /**
   * What the action carries or carried when the sync point could be reached last: it may have been sent, and may have
   * been carried out. Absent if nothing was sent since `previous`.
   */
  readonly sent?: { readonly content: Content<C> };
}

/**
 * The entry of a sync point that has reported what it holds (`held`), and to which the action is going to be sent.
 * Written down before it is sent, so that what was sent is known whatever dies then. Undefined: there is nothing to do.
 */
export function entryToSend<C>(action: Action, held: Content<C>, truth: Content<C>): Pending<C> | undefined {
  return action === "NO_CHANGE" ? undefined : { action, previous: held, sent: { content: truth } };
}

/**
 * The entry of a sync point that could not be asked. `old` is its entry so far, `truthBefore` what the truth held until
 * now: without an entry, that is what the sync point was last known to hold.
 */
export function entryToKeep<C>(
  action: Action,
  old: Pending<C> | undefined,
  truthBefore: Content<C>,
): Pending<C> | undefined {
  if (action === "NO_CHANGE" && !old?.sent) return undefined;
  return old ? { ...old, action } : { action, previous: truthBefore };
}

/**
 * The entry after the sync point has refused the action, since it holds something that is neither what it had proved nor
 * what it was sent: nothing was carried out, and it is known that what it holds is whole.
 */
export function entryRefused<C>({ action, previous }: Pending<C>): Pending<C> {
  return { action, previous };
}
