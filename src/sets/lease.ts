// Holding a set's lease for as long as something is done with it.
//
// Guarantees: one at a time holds it. Whoever died with it loses it within seconds. Whoever has lost it is told so before he
// writes anything more.
import { AgentError } from "../base/errors.ts";
import type { Clock } from "../platform/clock.ts";
import { Loop } from "../platform/loop.ts";
import type { Lease, TruthStore } from "../truth/store.ts";

const leaseMs = 15_000;
const leasePollMs = 250;

export interface LeaseOptions {
  readonly store: TruthStore;
  readonly clock: Clock;
  /** Named to those who ask for the set meanwhile. */
  readonly owner: string;
  readonly signal?: AbortSignal;
}

/**
 * Takes the lease of a set, waiting for one that its holder does not renew.
 * @throws AgentError `volume_in_use` if somebody has it and goes on renewing it
 */
async function acquired(set: string, { store, owner, clock, signal }: LeaseOptions): Promise<Lease> {
  let first: number | undefined;
  for (;;) {
    const lease = await store.acquire(set, owner, leaseMs);
    if (lease) return lease;
    const holder = await store.holder(set);
    first ??= holder?.untilMs;
    if (holder && holder.untilMs !== first)
      throw new AgentError(
        "volume_in_use",
        `The set "${set}" is in use by ${holder.owner}; wait until it has ended, or stop it`,
      );
    await clock.sleep(leasePollMs, signal);
  }
}

/** Does something with a set that nobody else does anything with. The signal says that the lease was lost. */
export async function whileLeased<T>(
  set: string,
  options: LeaseOptions,
  action: (lease: Lease, signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const lease = await acquired(set, options);
  const lost = new AbortController();
  const renewing = new Loop(
    options.clock,
    leaseMs / 4,
    () => lease.renew(),
    (error) => {
      // Somebody else has it: nothing more is written.
      if (error instanceof AgentError && error.code === "not_known") lost.abort(error);
    },
  );
  try {
    const signals = options.signal ? [options.signal, lost.signal] : [lost.signal];
    return await action(lease, AbortSignal.any(signals));
  } catch (error) {
    // Who has lost the set reads what another one is writing, truth and tables one after the other: they need not fit.
    if (error instanceof AgentError && error.code === "state_damaged") await lease.renew();
    throw error;
  } finally {
    await renewing[Symbol.asyncDispose]();
    await lease.release().catch(() => {}); // gone with its set, or runs out by itself
  }
}
