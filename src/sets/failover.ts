// Failover: a replica is handed out, to be written to, at its last whole generation.
//
// Guarantees: what is handed out is one whole generation: a run that is open there is rolled back first, and a replica that
// can't be is refused. From the transaction on that notes it, the set follows that replica, and no run writes to it, or to the
// source that was left: whatever that has of its own since then is settled by a failback, and by nothing else. What a run has
// sent that sleeps does not arrive there any more (Volume.fence). Who is cut off in the middle does it again.
import { AgentError } from "../base/errors.ts";
import type { Member } from "../truth/store.ts";
import type { RolledBack, SetLabel, Volume } from "../volume/volume.ts";
import { whileLeased } from "./lease.ts";
import { byPriority, type HeldSet, type SetOptions, settle } from "./pass.ts";
import {
  checkLabel,
  fenceOf,
  giveOut,
  labelOf,
  type OnlinePoint,
  offline,
  openLeader,
  stateOf,
  takeFromDead,
} from "./points.ts";
import { leaderOf } from "./run.ts";

export interface FailOverOptions extends SetOptions {
  readonly replica: string;
  /**
   * Also a replica that is a mixture of two generations, one that others wrote to while a run was open, and one of which some
   * can't be read.
   */
  readonly force: boolean;
}

export interface FailedOver {
  readonly set: string;
  readonly replica: string;
  readonly address: string;
  /** The truth's number of what the replica holds. */
  readonly generation: number;
  /** The generation of the source that this is, as far as it is known. */
  readonly holds: number;
  /** Extents in which it differs from what the source was last known to hold. */
  readonly behind: number;
  /** What an open run had overwritten, and was put back. */
  readonly rolledBack: RolledBack | undefined;
  /** It was handed out already. */
  readonly already: boolean;
}

/** @throws AgentError `not_whole`, `not_known`, and what opening the replica throws */
export async function failOver(name: string, options: FailOverOptions): Promise<FailedOver> {
  return whileLeased(name, options, async (lease, signal) => {
    const { facts, members } = await options.store.set(name);
    const set: HeldSet = { ...options, signal, lease, facts };
    const member = members.find(({ role, name: its }) => role === "replica" && its === options.replica);
    if (!member) throw new AgentError("not_known", `The set "${name}" has no replica "${options.replica}"`);
    if (facts.generation === 0)
      throw new AgentError(
        "not_whole",
        `The set "${name}" was never run: "${member.name}" holds nothing of it`,
      );
    const point = await openLeader(member, options.open, true);
    try {
      return await handOut(set, members, point, options.force);
    } finally {
      await point.volume[Symbol.asyncDispose]();
    }
  });
}

async function handOut(
  set: HeldSet,
  members: readonly Member[],
  point: OnlinePoint,
  force: boolean,
): Promise<FailedOver> {
  const { facts } = set;
  const { member } = point;
  const left = leaderOf(facts, members);
  const isFollowed = left === member;
  if (isFollowed && !member.keptFirst) {
    // Others write to it, unless it was cut off before they could.
    await takeFromDead(set, point.volume);
    await giveOut(set, point.volume, labelFor(point, facts, facts.generation));
    return {
      ...about(set, member),
      generation: facts.generation,
      behind: 0,
      rolledBack: undefined,
      already: true,
    };
  }
  if (isFollowed && !force)
    throw new AgentError(
      "not_whole",
      `A failback was cut off that takes extents of others into "${member.name}". Run the failback again; if who has those is gone ` +
        "for good, --force hands it out as it was before",
    );
  const { rolledBack, hadOwn } = await makeWhole(set, point, force);
  // The truth is going to be what it has on its medium.
  await point.volume.flush(set.signal);
  // A failback was cut off that has decided about somebody.
  const isCutOff = members.some(({ keptFirst }) => keptFirst);
  const rest = members.filter((each) => each !== member);
  // Who goes his own way from here on.
  const parted = rest.filter((each) => each === left || each.keptFirst);
  const others = rest.filter((each) => !parted.includes(each));
  const { generation, tally } = await settle(
    set,
    {
      leader: point,
      sides: [{ point, leads: true, taken: true, restates: true }],
      followers: byPriority(others).map((each) => offline(each, "a failover asks nobody else")),
      dropped: parted.map(({ id }) => id),
    },
    {
      check: ({ unreadable }) => {
        if (unreadable === 0 || force) return;
        throw new AgentError(
          "not_whole",
          `${unreadable} extents can't be read of "${member.address}" ("${member.name}"): it is no whole generation, and was not handed ` +
            "out. Take another replica; --force hands it out as it is",
        );
      },
      alsoWrite: async (transaction, now) => {
        await transaction.updateSet({ handedOutTo: member.id });
        for (const each of parted)
          await transaction.updateMember(each.id, {
            split: true,
            // It never had what another wrote for himself, and may have some of what a failback has sent.
            baseUnknown: hadOwn || each.keptFirst,
            keptFirst: false,
            history: undefined,
          });
        // The others may have got what nobody else has.
        for (const each of isCutOff ? others.filter(({ split }) => !split) : [])
          await transaction.updateMember(each.id, { keptFirst: true });
        await transaction.updateMember(member.id, {
          generation: now,
          split: false,
          baseUnknown: false,
          keptFirst: false,
          history: undefined,
          unsettled: false,
          lastResult: "handed out",
          lastRunMs: set.clock.nowMs(),
        });
      },
    },
  );
  await giveOut(set, point.volume, labelFor(point, facts, generation));
  const behind = tally.map.of("first").count;
  return { ...about(set, member), generation, behind, rolledBack, already: false };
}

const about = ({ facts }: HeldSet, member: Member) => ({
  set: facts.name,
  replica: member.name,
  address: member.address,
  holds: member.generation,
});

/** Its host remembers it too, so that nobody who does not know the truth database writes to it. */
const labelFor = (
  { volume }: OnlinePoint,
  facts: HeldSet["facts"],
  generation: number,
): SetLabel | undefined => (volume.traits.keepsWhole ? labelOf(facts, generation, true) : undefined);

/**
 * `hadOwn`: it may have changes of its own, that nobody else has.
 *
 * @throws AgentError `not_whole` where it is a mixture, and can't be returned to one generation
 */
async function makeWhole(
  { facts, lease, signal }: HeldSet,
  { member, volume }: OnlinePoint,
  force: boolean,
): Promise<{ readonly rolledBack: RolledBack | undefined; readonly hadOwn: boolean }> {
  const state = await stateOf(volume);
  // What it held before it joined the set, or a mixture, is whole to its host, too.
  if (member.generation === 0 && !state?.label && !force)
    throw new AgentError(
      "not_whole",
      `"${member.address}" ("${member.name}") has never held a generation of the set as a whole. Run the set again while the source ` +
        "is there, or take another replica; --force hands it out as it is",
    );
  // One that was handed out by its host alone is what it is, and written to by others; the set follows it from here on.
  if (!state?.label?.handedOut) {
    checkLabel(member, facts, state?.label);
    await volume.fence?.(fenceOf(facts, lease), {}, signal);
  }
  const hadOwn = member.split || member.keptFirst || state?.label?.handedOut === true;
  if (state?.state === "open") return { rolledBack: await rolledBackWhole(volume, force, signal), hadOwn };
  if (state?.label?.generation === 0 && !force) throw mixture(volume.name);
  const isWhole = member.generation > 0 && !member.unsettled;
  if (state || isWhole || force) return { rolledBack: undefined, hadOwn };
  throw new AgentError(
    "not_whole",
    `"${member.address}" ("${member.name}") is no whole generation: a run has written to it and not ended, and its host keeps no ` +
      "before-images (serve --lun PATH,whole does). Run the set again while the source is there; --force hands it out as it is",
  );
}

/** @throws AgentError `not_whole` if not all could be put back */
async function rolledBackWhole(volume: Volume, force: boolean, signal?: AbortSignal): Promise<RolledBack> {
  const done = await volume.rollBackWhole!({ force }, signal);
  if (done.unreadable + done.lost > 0 && !force) throw mixture(volume.name, done);
  return done;
}

const mixture = (name: string, done?: RolledBack): AgentError =>
  new AgentError(
    "not_whole",
    `Cannot hand out "${name}": a run was rolled back there of which not all could be put back` +
      (done
        ? ` (${done.unreadable} extents could not be read before, of ${done.lost} the before-image is lost)`
        : "") +
      ". It is a mixture of two generations. Take another replica; --force hands it out as it is",
  );

/**
 * Hands a replica out where the truth database is lost or away: only its own host remembers that. Whoever runs the set later
 * finds it, and refuses to write to it before a failback. @throws AgentError `not_whole`
 */
export async function handOutAlone(
  volume: Volume,
  force: boolean,
): Promise<SetLabel & { readonly rolledBack: RolledBack | undefined }> {
  const state = await stateOf(volume);
  if (!state?.label)
    throw new AgentError(
      "not_whole",
      `Cannot hand out "${volume.name}": its host does not know it for a replica of a set that it keeps whole generations of ` +
        "(serve --lun PATH,whole does, from the set's first run on). It can be used as it is, if that is known to be right",
    );
  await volume.takeFence?.();
  const rolledBack = state.state === "open" ? await rolledBackWhole(volume, force) : undefined;
  const { label: left = state.label } = (await stateOf(volume)) ?? {};
  if (left.generation === 0 && !force) throw mixture(volume.name);
  const label = { ...left, handedOut: true };
  await volume.labelWhole!(label);
  await volume.unfence?.();
  return { ...label, rolledBack };
}
