// Replication sets as they are made: what the tests of stores, runs and simulations make theirs of.
import type { NewMember, NewSet } from "../../src/truth/store.ts";

/** A member that was never run; the first is the source. */
export const newMember = (name: string, priority: number, address = name): NewMember => ({
  name,
  address,
  role: priority === 0 ? "source" : "replica",
  priority,
  volumeUuid: undefined,
  generation: 0,
  lastResult: undefined,
  lastRunMs: undefined,
});

/** A set of SHA-256; its source says what its blocks are. */
export const newSet = (name: string, extentBytes: number): NewSet => ({
  name,
  uuid: "ab".repeat(16),
  extentBytes,
  blockBytes: 0,
  digest: "sha256",
  maxChange: undefined,
  createdMs: 0,
});
