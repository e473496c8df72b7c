// Whose a file beside a volume is, and whether somebody else has written to the volume since: what is kept about volumes
// is bound to their names, and believed by their change marks.
//
// Guarantees: a volume that was replaced by another one under its path has another name.
import { createHash } from "node:crypto";
import type { Volume } from "./volume.ts";

/** What something kept beside a volume is bound to: the volume's name, and of a file the inode. */
export function volumeName(volume: Volume): Buffer {
  const inode =
    volume.identity.keys
      .find((key) => key.startsWith("file:"))
      ?.split(":")
      .at(-1) ?? "";
  return createHash("sha256").update(`${volume.identity.uuid}\n${inode}`).digest();
}

/** A device counts its writes from the boot of the host: another boot tells nothing. */
export async function changeMarkOf(volume: Volume): Promise<string | undefined> {
  const mark = await volume.changeMark();
  const device = volume.identity.keys.find((key) => key.startsWith("device:")) ?? "";
  return mark && `${mark} ${device}`;
}
