// Who holds a set's lease, and who has lost it.
import { expect, test } from "vitest";
import { AgentError } from "../../src/base/errors.ts";
import { type Clock, systemClock } from "../../src/platform/clock.ts";
import { whileLeased } from "../../src/sets/lease.ts";
import type { TruthStore } from "../../src/truth/store.ts";

/** Nobody waits longer than this process needs. */
const clock: Clock = { ...systemClock, after: (_ms, fn) => systemClock.after(0, fn) };

/** A store of which the lease is renewed as `renew` says. */
const storeOf = (renew: () => Promise<void>): TruthStore =>
  ({
    acquire: async (set: string) => ({ set, fence: 1, renew, release: async () => {} }),
  }) as unknown as TruthStore;

test("who has lost the lease is told so when it is to be renewed; a database that is away for a while is no such loss", async () => {
  for (const code of ["not_known", "connection_lost"] as const) {
    let turns = 0;
    const tried = Promise.withResolvers<void>();
    const renew = async () => {
      if (++turns > 3) tried.resolve();
      throw new AgentError(code, "its lease can't be renewed");
    };
    await whileLeased("set", { store: storeOf(renew), clock, owner: "test" }, async (_lease, signal) => {
      await tried.promise;
      expect([code, signal.aborted]).toEqual([code, code === "not_known"]);
      if (signal.aborted) expect(signal.reason).toMatchObject({ code });
    });
  }
});
