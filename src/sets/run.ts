// One run of a replication set: every replica that can be reached is brought to what the source holds, or the replica that a
// failover has handed out (docs/truth.md).
//
// Guarantees: one run of a set at a time, by the lease. A run that would change more than it may stops before anything is
// written. Who has gone his own way since a failover is not written to.
import { together } from "../base/async.ts";
import { AgentError } from "../base/errors.ts";
import type { Member, SetFacts } from "../truth/store.ts";
import type { Tally } from "./gather.ts";
import { whileLeased } from "./lease.ts";
import { byPriority, close, type HeldSet, pass, type RunResult, type SetOptions } from "./pass.ts";
import { cutOff, type OnlinePoint, openedLate, openFollower, openLeader, type Point } from "./points.ts";
import { punctual } from "./punctual.ts";
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
    const set = { ...options, signal, lease, facts };
    return await new Run(
      set,
      options,
      leader,
      byPriority(members).filter((member) => member !== ours),
    ).go();
  });
}

/** What the others are kept waiting for one of them, and no longer. */
const patienceMs = 5000;

class Run {
  readonly #set: HeldSet;
  readonly #options: RunOptions;
  readonly #leader: OnlinePoint;
  readonly #members: readonly Member[];
  readonly #opening: readonly Promise<Point>[];

  constructor(set: HeldSet, options: RunOptions, leader: OnlinePoint, members: readonly Member[]) {
    this.#set = set;
    this.#options = options;
    this.#leader = leader;
    this.#members = members;
    this.#opening = members.map((member) => this.#open(member, set.facts));
  }

  #open(member: Member, facts: SetFacts): Promise<Point> {
    return openFollower(member, this.#leader.volume, facts, this.#set.lease, this.#set.open);
  }

  async go(): Promise<RunResult> {
    const leader = this.#leader;
    const patience = { clock: this.#set.clock, ms: patienceMs };
    let followers: Point[] = [];
    try {
      followers = await punctual(this.#opening, Promise.resolve(), patience, (k) =>
        openedLate(this.#members[k]!),
      );
      const result = await pass(
        this.#set,
        {
          leader,
          sides: [{ point: leader, leads: true, taken: true, restates: false }],
          followers,
          dropped: [],
        },
        {
          check: (tally, shape) => checkChange(this.#set.facts, tally, shape, this.#options),
          full: this.#options.full ?? false,
          patience,
        },
      );
      return await this.#catchUp(result, followers);
    } finally {
      await close([...new Set([leader, ...followers, ...(await Promise.all(this.#opening))])]);
    }
  }

  /** Replicas that nobody waited for get what they lack when the others are done; the truth stays what it is. */
  async #catchUp(result: RunResult, followers: readonly Point[]): Promise<RunResult> {
    const late = followers.filter((point) => point.late);
    if (late.length === 0) return result;
    const { facts, members } = await this.#set.store.set(this.#set.facts.name);
    const set = { ...this.#set, facts };
    const caughtUp = await together(
      late.map(async (point) => {
        await point.closing;
        const opened = await this.#opening[this.#members.indexOf(point.member)]!;
        const member = members.find(({ id }) => id === point.member.id)!;
        // What took so long to open is open by now, or is not to be had; what was left while it was asked is closed.
        const again = opened === point ? await this.#open(member, facts) : opened;
        try {
          return await pass(set, { leader: this.#leader, sides: [], followers: [again], dropped: [] });
        } finally {
          if (again !== opened) await close([again]);
        }
      }),
    );
    const results = caughtUp.flatMap(({ replicas }) => replicas);
    return {
      ...result,
      replicas: result.replicas.map(
        (replica) => results.find(({ name }) => name === replica.name) ?? replica,
      ),
    };
  }
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
