// Giving a replica up: its volume takes writes of everybody again, as it did before the first run of its set.
//
// Guarantees: without force only who holds the set's lease gives it up, and only the volume that is meant: one of another UUID,
// and what somebody else has reserved, are left as they are. What earlier runs had sent has ended when it is given up; what one
// that sleeps sends afterwards, nobody refuses any more.
import { AgentError } from "../base/errors.ts";
import type { Lease, Member, SetFacts } from "../truth/store.ts";
import type { Fence } from "../volume/volume.ts";
import { checkIdentity, disown, fenceOf, type OpenVolume } from "./points.ts";

export interface ReleaseOptions {
  readonly facts: SetFacts;
  readonly lease: Lease;
  readonly open: OpenVolume;
  /** Also what is reserved by somebody else. */
  readonly force?: boolean;
  /** Its host does not take it for a replica any more, either. */
  readonly disowns?: boolean;
}

/** Whoever has no lease has no place among the runs of a set, and takes nothing without force. */
const nobody: Fence = { set: "0000", number: 1 };

/** True if the volume was given up, false if its host has no reservations. @throws AgentError what opening it gives */
export async function releaseReplica(
  member: Pick<Member, "name" | "address" | "volumeUuid">,
  { facts, lease, open, force = false, disowns = false }: ReleaseOptions,
): Promise<boolean> {
  await using volume = await open(member.address, true);
  checkIdentity(member, volume);
  const fenced = (await volume.fence?.(fenceOf(facts, lease), { force })) ?? false;
  if (disowns) await disown(volume);
  if (fenced) await volume.unfence?.();
  return fenced;
}

/** Likewise for a volume whose set is lost, whoever has reserved it. */
export async function releaseByForce(address: string, open: OpenVolume): Promise<boolean> {
  await using volume = await open(address, true);
  if (!(await volume.fence?.(nobody, { force: true }))) return false;
  await volume.unfence?.();
  return true;
}

/** The volume is a replica of no set from here on, whichever had it; a cluster keeps what it has reserved. */
export async function adopt(address: string, open: OpenVolume): Promise<void> {
  await using volume = await open(address, true);
  await volume.takeFence?.();
  await disown(volume);
  await volume.unfence?.();
}

/** The replica of that name; or the volume of that address, which may have been one. @throws AgentError `not_known` */
export function releasable(
  facts: SetFacts,
  members: readonly Member[],
  named: string,
  isAddress: (text: string) => boolean,
): Pick<Member, "name" | "address" | "volumeUuid"> {
  const replicas = members.filter(({ role }) => role === "replica");
  const found =
    replicas.find(({ name }) => name === named) ?? replicas.find(({ address }) => address === named);
  if (found) return found;
  if (isAddress(named)) return { name: named, address: named, volumeUuid: undefined };
  throw new AgentError("not_known", `The set "${facts.name}" has no replica "${named}"`);
}
