// Whether the entries of a catalogue file that is found may be believed: whose it is, and who can have written since.
//
// Guarantees: they are believed only if the catalogue is this volume's, in its present size, and nobody can be seen to
// have written since the last owner let go: closed in order, the volume's change mark must be the one noted then; left by
// a crash, the volume must not have been written to later than the owner was alive. What can't be seen,
// docs/formats/catalogue.md lists.
import { type Header, newestHeader } from "./header.ts";
import type { Storage } from "./page-store.ts";
import { headerBytes } from "./shape.ts";

/** How much later than the last beat a volume may have been written to by an owner that died. */
const beatSlackMs = 10_000;

/** Of a volume, what its catalogue is made for. */
export type Subject = Pick<Header, "blockBytes" | "blocks" | "extentBytes" | "digest" | "volume">;

export async function readHeader(file: Storage): Promise<Header | undefined> {
  const bytes = Buffer.alloc(2 * headerBytes);
  await file.read(0, bytes);
  return newestHeader([bytes.subarray(0, headerBytes), bytes.subarray(headerBytes)]);
}

/**
 * Why the entries are not to be believed; undefined if they are. `mark` is the volume's now, `changedMs` when it was
 * changed last, in ms since 1970; undefined where nobody can tell.
 */
export async function disbelief(
  found: Header | undefined,
  expected: Subject,
  mark: string | undefined,
  changedMs: () => Promise<number | undefined>,
): Promise<string | undefined> {
  if (!found) return "its header is damaged";
  if (!found.volume.equals(expected.volume)) return "it is of another volume";
  // How large a block is changes nothing of the extents.
  if (found.blocks * found.blockBytes !== expected.blocks * expected.blockBytes)
    return "the volume has another size";
  if (found.extentBytes !== expected.extentBytes || found.digest !== expected.digest)
    return "it has other digests";
  if (found.closed) return found.mark === mark ? undefined : "the volume was written to since it was closed";
  const changed = await changedMs();
  if (changed !== undefined && changed > found.beatMs + beatSlackMs)
    return "the volume was written to after its owner had died";
  return undefined;
}
