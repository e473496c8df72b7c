// A replica that is smaller than its source is made as large, before anything is compared.
//
// Guarantees: what would refuse the synchronization itself refuses it before the replica grows, since nobody makes it
// shorter again. What is new is zeros and differs wherever the source is not: a run that is cut off behind the growth leaves a
// replica of the right size, and the next run ships the rest.
import { AgentError } from "../base/errors.ts";
import { volumeBytes } from "../volume/volume.ts";
import type { JobOptions } from "./job.ts";
import { checkDigest, checkWritable, extentBlocksOf, growthOf } from "./plan.ts";

/** Bytes of the replica before and after. */
export interface Growth {
  readonly from: number;
  readonly to: number;
}

/**
 * Grows the replica to the source's size; undefined if there is nothing to do. `dryRun`: refuses instead.
 * @throws AgentError as checkPair() has it for what growing does not help against; what the replica throws
 */
export async function growReplica(
  job: Pick<JobOptions, "source" | "replica" | "digest" | "extentBytes" | "signal">,
  dryRun: boolean,
): Promise<Growth | undefined> {
  const { source, replica } = job;
  const blocks = growthOf(source, replica);
  if (blocks === undefined) return undefined;
  const from = volumeBytes(replica.geometry);
  if (dryRun) {
    throw new AgentError(
      "size_mismatch",
      `Cannot compare "${source.name}" with "${replica.name}", which would grow from ${from} to ${volumeBytes(source.geometry)} bytes first: ` +
        "--dry-run leaves it as it is; run it without",
    );
  }
  checkWritable(replica);
  checkDigest([source, replica], job.digest);
  extentBlocksOf([source, replica], job.extentBytes);
  if (!replica.grow) throw new AgentError("internal", `"${replica.name}" can't be grown`);
  await replica.grow(blocks, job.signal);
  return { from, to: volumeBytes(replica.geometry) };
}
