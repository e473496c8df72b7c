// What happens in a simulation of whole generations, how often, and which restore points administrators ask for.
import type { KeepPolicy } from "../../src/whole/keep-policy.ts";

export const policies: readonly (KeepPolicy | undefined)[] = [
  [],
  [],
  [{ count: 1 }],
  [{ count: 2 }],
  [{ count: 4 }],
  [{ count: 1 }, { count: 2, periodMs: 5 }, { count: 2, periodMs: 20 }],
  [{ count: 3, periodMs: 20 }],
  [{ count: 2, periodMs: 50 }],
  [{ count: 4, periodMs: 30 }],
  [{ count: 100 }],
  undefined,
];

/** How often what happens. */
const usual = {
  write: 42,
  flush: 8,
  begin: 5,
  wholeRun: 5,
  commit: 5,
  rollBack: 4,
  view: 5,
  tidy: 3,
  show: 2,
  withdraw: 2,
  grow: 1,
  full: 1,
  failsFlush: 2,
  volumeFailsFlush: 2,
  failsRemoval: 1,
  note: 1,
  crash: 6,
  look: 6,
};
export type Action = keyof typeof usual;
export type Weights = typeof usual;
export const weights: readonly Weights[] = [
  usual,
  { ...usual, crash: 1 },
  // Many points, and disks on which they can't be given up.
  { ...usual, write: 10, wholeRun: 25, tidy: 25, failsRemoval: 10, crash: 6 },
  // Points that are shown and withdrawn while others are merged into them.
  { ...usual, write: 15, wholeRun: 20, tidy: 20, show: 15, withdraw: 12, view: 15, crash: 2 },
  // A journal of which nobody knows what the medium says.
  { ...usual, write: 10, begin: 20, rollBack: 8, failsFlush: 15, note: 5, crash: 15 },
];
