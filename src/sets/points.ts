// The sync points of a replication set, as one run finds them: opened, and known to be who they were.
//
// Guarantees: nothing is asked of a volume, and nothing written to it, before its UUID is that of the volume that was seen
// first under this name, and its label, where its host keeps one, is that of a replica of this set that is no newer than the
// truth and was not handed out. A replica that is online takes writes of this run alone, where its host can see to that
// (Volume.fence), and what it holds is on its medium.
import { AgentError, messageOf } from "../base/errors.ts";
import type { Lease, Member, SetFacts } from "../truth/store.ts";
import type { Fence, Geometry, SetLabel, Volume, WholeState } from "../volume/volume.ts";

/** Opens what an address names. @throws AgentError */
export type OpenVolume = (address: string, writable: boolean) => Promise<Volume>;

export interface Point {
  readonly member: Member;
  /** Undefined: offline, `why` says why. */
  volume: Volume | undefined;
  why: string | undefined;
  /** The others do not wait for it any more: it is brought what it lacks when they are done. */
  late?: boolean;
  /** Its volume, as it is closed behind everybody's back. */
  closing?: PromiseLike<void>;
  /** A run of ours that had not ended was rolled back there: what it holds otherwise is nobody's writing. */
  readonly rolledBack: boolean;
  /** The extent that was the last and shorter one before the volume grew: what is known of it is of its old length. */
  readonly lengthened: number | undefined;
}

export type OnlinePoint = Point & { readonly volume: Volume };

/** The sync point is offline from here on. */
export async function leave(point: Point, why: string): Promise<void> {
  const { volume } = point;
  if (!volume) return;
  point.volume = undefined;
  point.why = why;
  await volume[Symbol.asyncDispose]();
}

const slow = "it answers so slowly that the others were not kept waiting for it";

/** The others go on without it. */
export function leaveLate(point: Point): void {
  point.closing = leave(point, slow).catch(() => {}); // it was of no use before
  point.late = true;
}

/** A sync point that nobody waits for while it is opened. */
export const openedLate = (member: Member): Point => ({ ...offline(member, slow), late: true });

export const isOnline = (point: Point): point is OnlinePoint => point.volume !== undefined;

/** The label of a replica of this set. */
export const labelOf = (
  { uuid }: Pick<SetFacts, "uuid">,
  generation: number,
  handedOut = false,
): SetLabel => ({
  set: Buffer.from(uuid, "hex"),
  generation,
  handedOut,
});

/** What replicas of the set know a run by. */
export const fenceOf = ({ uuid }: Pick<SetFacts, "uuid">, { fence }: Lease): Fence => ({
  set: uuid,
  number: fence,
});

/**
 * What an earlier command of the set has reserved, and not given up before it died, is this one's; what is its users' stays theirs.
 * @throws AgentError `volume_in_use` if this one is late
 */
export async function takeFromDead({ facts, lease, signal }: Holder, volume: Volume): Promise<void> {
  await volume.fence?.(fenceOf(facts, lease), { ifFenced: true }, signal);
}

/** Everybody may write to it from here on; its host remembers it so, if there is a label. @throws AgentError for who is late */
export async function giveOut(
  { lease, signal }: Holder,
  volume: Volume,
  label: SetLabel | undefined,
): Promise<void> {
  // Nobody else has brought the set further meanwhile.
  await lease.renew();
  if (label) await volume.labelWhole?.(label, signal);
  await volume.unfence?.(signal);
}

interface Holder {
  readonly facts: Pick<SetFacts, "uuid">;
  readonly lease: Lease;
  readonly signal: AbortSignal;
}

/** Opens the sync point that the others are brought to. @throws AgentError for what only the operator can mend */
export async function openLeader(member: Member, open: OpenVolume, writable = false): Promise<OnlinePoint> {
  const volume = await open(member.address, writable);
  try {
    checkIdentity(member, volume);
    if (writable) checkWritable(member, volume);
    return { member, volume, why: undefined, rolledBack: false, lengthened: undefined };
  } catch (error) {
    await volume[Symbol.asyncDispose]();
    throw error;
  }
}

export const cutOff =
  'a failback was cut off before what it overwrites there was kept; "lunsync failback" goes on with it';

/**
 * Opens a replica that follows `leader`; offline is who can't be reached, or is somebody else. `keeps`: what is overwritten
 * of it is kept first, where that has to be.
 */
export async function openFollower(
  member: Member,
  leader: Volume,
  facts: SetFacts,
  lease: Lease,
  open: OpenVolume,
  keeps = false,
): Promise<Point> {
  if (member.keptFirst && !keeps) return offline(member, cutOff);
  if (member.split)
    return offline(
      member,
      'it has gone its own way since a failover, and no run writes to it; "lunsync failback" brings both sides together',
    );
  let volume: Volume | undefined;
  try {
    volume = await open(member.address, true);
    checkIdentity(member, volume);
    if (volume.identity.uuid === leader.identity.uuid)
      throw new AgentError("volume_same", `"${member.address}" is the source itself`);
    checkWritable(member, volume);
    checkLabel(member, facts, (await stateOf(volume))?.label);
    // What a run sends that sleeps, or sent before it died, must not arrive after what is proved now.
    await volume.fence?.(fenceOf(facts, lease));
    const state = await stateOf(volume);
    try {
      checkLabel(member, facts, state?.label);
    } catch (error) {
      await volume.unfence?.(); // it was handed out meanwhile, by its host alone
      throw error;
    }
    const blocksBefore = volume.geometry.blocks;
    await matchSize(member, volume, leader.geometry);
    // What a run that died has written and not flushed must not be proved from a cache.
    await volume.flush();
    const extentBlocks = facts.extentBytes / leader.geometry.blockBytes;
    const before = Math.min(blocksBefore, facts.blocks);
    const grew = before < leader.geometry.blocks && before % extentBlocks !== 0;
    return {
      member,
      volume,
      why: undefined,
      rolledBack: member.unsettled && state?.state === "whole",
      lengthened: grew ? Math.floor(before / extentBlocks) : undefined,
    };
  } catch (error) {
    await volume?.[Symbol.asyncDispose]();
    return offline(member, messageOf(error));
  }
}

export const offline = (member: Member, why: string): Point => ({
  member,
  volume: undefined,
  why,
  rolledBack: false,
  lengthened: undefined,
});

/** Undefined: its host keeps no generations. */
export async function stateOf(volume: Volume): Promise<WholeState | undefined> {
  return volume.traits.keepsWhole ? volume.wholeState?.() : undefined;
}

/** The volume is a replica of no set from here on, as far as its host remembers such things. */
export async function disown(volume: Volume): Promise<void> {
  if ((await stateOf(volume))?.label) await volume.labelWhole?.(undefined);
}

/** @throws AgentError `identity_mismatch` */
export function checkIdentity(member: Pick<Member, "name" | "address" | "volumeUuid">, volume: Volume): void {
  const { uuid } = volume.identity;
  if (uuid === undefined)
    throw new AgentError(
      "identity_mismatch",
      `"${member.address}" ("${member.name}") has no UUID by which it could be known again; serve it with lunsync`,
    );
  if (member.volumeUuid === undefined || member.volumeUuid === uuid) return;
  throw new AgentError(
    "identity_mismatch",
    `"${member.address}" is another volume than "${member.name}" was: its UUID is ${uuid}, and was ${member.volumeUuid}. ` +
      "Nothing was written; if it is to take that one's place, remove the replica from the set and add it anew",
  );
}

function checkWritable(member: Member, { traits }: Volume): void {
  if (!traits.writable)
    throw new AgentError("volume_readonly", `Cannot write to "${member.address}": it is read-only`);
}

/** @throws AgentError where the host of a replica knows better than the truth database */
export function checkLabel(member: Member, facts: SetFacts, label: SetLabel | undefined): void {
  if (!label) return;
  const what = `"${member.address}" ("${member.name}")`;
  if (!label.set.equals(labelOf(facts, 0).set))
    throw new AgentError(
      "identity_mismatch",
      `${what} is a replica of another set, ${label.set.toString("hex")}; "${facts.name}" is ${facts.uuid}. Nothing was written; ` +
        `if it is to belong to "${facts.name}": lunsync set remove-replica, and add-replica --adopt`,
    );
  if (label.handedOut)
    throw new AgentError(
      "split_brain",
      `${what} was handed out by a failover at generation ${label.generation}, which the truth database does not know of: what ` +
        `was written to it since would be lost. Nothing was written; "lunsync failback ${facts.name}" brings both sides together`,
    );
  if (label.generation > facts.generation)
    throw new AgentError(
      "replica_newer",
      `${what} holds generation ${label.generation} of the set, and the truth database knows ${facts.generation} only: it was ` +
        "restored from an old backup, or another one is in use as well. Nothing was written; if the source is right: " +
        "lunsync set remove-replica, and add-replica --adopt",
    );
}

/** Makes a replica as long as the source, if that has grown. @throws AgentError `size_mismatch` */
async function matchSize(member: Member, volume: Volume, ours: Geometry): Promise<void> {
  const theirs = volume.geometry;
  const isShorter = ours.blockBytes === theirs.blockBytes && theirs.blocks < ours.blocks;
  // One that has held a generation was as long as the source once, and that has grown. Of another it is not known.
  if (isShorter && member.generation > 0 && volume.traits.grows) await volume.grow?.(ours.blocks);
  const { blocks, blockBytes } = volume.geometry;
  if (ours.blockBytes === blockBytes && ours.blocks === blocks) return;
  throw new AgentError(
    "size_mismatch",
    `"${member.address}" has ${blocks} blocks of ${blockBytes} bytes, the source ${ours.blocks} of ${ours.blockBytes}; ` +
      (blocks < ours.blocks ? "extend it" : "make the source as long, or the replica anew"),
  );
}
