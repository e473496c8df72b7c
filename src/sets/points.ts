// The sync points of a replication set, as one run finds them: opened, and known to be who they were.
//
// Guarantees: nothing is asked of a volume, and nothing written to it, before its UUID is that of the volume that was seen
// first under this name; who can't be reached, or is somebody else, counts as offline, with the reason. A replica that is
// online takes writes of this run alone, where its host can see to that (Volume.fence), and what it holds is on its medium.
import { AgentError, messageOf } from "../base/errors.ts";
import type { Member, SetFacts } from "../truth/store.ts";
import type { Fence, Volume } from "../volume/volume.ts";

/** Opens what an address names. @throws AgentError */
export type OpenVolume = (address: string, writable: boolean) => Promise<Volume>;

export interface Point {
  readonly member: Member;
  /** Undefined: offline, `why` says why. */
  volume: Volume | undefined;
  why: string | undefined;
}

/** The sync point is offline from here on. */
export async function leave(point: Point, why: string): Promise<void> {
  const { volume } = point;
  point.volume = undefined;
  point.why = why;
  await volume?.[Symbol.asyncDispose]();
}

/** @throws AgentError for what only the operator can mend: no source, or another one */
export async function openPoints(
  facts: SetFacts,
  members: readonly Member[],
  open: OpenVolume,
  fence: Fence,
  signal: AbortSignal,
): Promise<{ source: Point & { volume: Volume }; replicas: Point[] }> {
  const ours = members.find(({ role }) => role === "source");
  if (!ours) throw new AgentError("state_damaged", `The set "${facts.name}" has no source`);
  const volume = await open(ours.address, false);
  try {
    checkIdentity(ours, volume);
    const replicas = await Promise.all(
      members
        .filter(({ role }) => role === "replica")
        .map((member) => openReplica(member, volume, open, fence, signal)),
    );
    return { source: { member: ours, volume, why: undefined }, replicas };
  } catch (error) {
    await volume[Symbol.asyncDispose]();
    throw error;
  }
}

async function openReplica(
  member: Member,
  source: Volume,
  open: OpenVolume,
  fence: Fence,
  signal: AbortSignal,
): Promise<Point> {
  let volume: Volume | undefined;
  try {
    volume = await open(member.address, true);
    checkIdentity(member, volume);
    checkFits(member, volume, source);
    // What a run sends that sleeps, or sent before it died, must not arrive after what is proved now.
    await volume.fence?.(fence, {}, signal);
    // What a run that died has written and not flushed must not be proved from a cache.
    await volume.flush();
    return { member, volume, why: undefined };
  } catch (error) {
    await volume?.[Symbol.asyncDispose]();
    return { member, volume: undefined, why: messageOf(error) };
  }
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

function checkFits(member: Member, volume: Volume, source: Volume): void {
  const [ours, theirs] = [source.geometry, volume.geometry];
  if (volume.identity.uuid === source.identity.uuid)
    throw new AgentError("volume_same", `"${member.address}" is the source itself`);
  if (!volume.traits.writable)
    throw new AgentError("volume_readonly", `Cannot write to "${member.address}": it is read-only`);
  if (ours.blockBytes === theirs.blockBytes && ours.blocks === theirs.blocks) return;
  throw new AgentError(
    "size_mismatch",
    `"${member.address}" has ${theirs.blocks} blocks of ${theirs.blockBytes} bytes, the source ${ours.blocks} of ${ours.blockBytes}; ` +
      'give it the source\'s size ("lunsync sync --grow" does, where it is smaller)',
  );
}
