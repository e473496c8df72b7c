// One run of a replication set: every replica that can be reached is brought to what the source holds, or the replica that a
// failover has handed out (docs/truth.md).
//
// Guarantees: one run of a set at a time, by the lease. A run that would change more than it may stops before anything is
// written. Who has gone his own way since a failover is not written to.
import { AgentError } from "../base/errors.ts";
import type { Member, SetFacts } from "../truth/store.ts";
import type { Tally } from "./gather.ts";
import { whileLeased } from "./lease.ts";
import { byPriority, close, pass, type RunResult, type SetOptions } from "./pass.ts";
import { cutOff, openFollower, openLeader } from "./points.ts";
import { extentsIn, type Shape } from "./values.ts";

export interface RunOptions extends SetOptions {
  /** Instead of the set's own; 0 to 1. */
  readonly maxChange?: number | undefined;
  /** Looks at everything, also at what has not changed since the last run as far as its host knows. */
  readonly full?: boolean;
}

/** Runs a set once. @throws AgentError */
export async function runSet(name: string, options: RunOptions): Promise<RunResult> {
  return whileLeased(name, options, async (lease, signal) => {
    const { facts, members } = await options.store.set(name);
    if (facts.paused)
      throw new AgentError("usage", `The set "${name}" is paused; "lunsync set resume ${name}" lets it run`);
    const ours = leaderOf(facts, members);
    if (ours.keptFirst)
      throw new AgentError("split_brain", `Cannot run "${name}" from "${ours.name}": ${cutOff}`);
    const leader = await openLeader(ours, options.open);
    const points = [
      leader,
      ...(await Promise.all(
        byPriority(members)
          .filter((member) => member !== ours)
          .map((member) => openFollower(member, leader.volume, facts, lease, options.open)),
      )),
    ];
    try {
      const [, ...followers] = points;
      return await pass(
        { ...options, signal, lease, facts },
        { sides: [{ point: leader, leads: true, taken: true, restates: false }], followers, dropped: [] },
        {
          check: (tally, shape) => checkChange(facts, tally, shape, options),
          full: options.full ?? false,
        },
      );
    } finally {
      await close(points);
    }
  });
}

/** Whom the others are brought to. @throws AgentError `state_damaged` */
export function leaderOf(facts: SetFacts, members: readonly Member[]): Member {
  const { handedOutTo } = facts;
  const found = members.find(({ role, id }) =>
    handedOutTo === undefined ? role === "source" : id === handedOutTo,
  );
  if (!found) throw new AgentError("state_damaged", `The set "${facts.name}" has no source`);
  return found;
}

function checkChange(facts: SetFacts, { changed }: Tally, shape: Shape, options: RunOptions): void {
  const most = options.maxChange ?? facts.maxChange;
  const share = changed / extentsIn(shape);
  // The first run brings everything.
  if (most === undefined || facts.generation === 0 || share <= most) return;
  const percent = (value: number) => `${(100 * value).toFixed(1)} %`;
  throw new AgentError(
    "change_too_large",
    `${percent(share)} of the source have changed (${changed} extents), and no more than ${percent(most)} may be changed without being asked; ` +
      `nothing was written. If that is right: lunsync set run ${facts.name} --max-change 100%`,
  );
}
