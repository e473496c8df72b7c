// Puts back what an open run has overwritten, so that the volume is its last whole generation again.
//
// Guarantees: each put is made in the function that `noted` gives, for whoever has to know of writes before they begin. Extents of
// which blocks could not be read, or whose image is damaged, are counted and left as they are, the latter only by force.
import { together } from "../base/async.ts";
import { AgentError } from "../base/errors.ts";
import { type RollBackOptions, type RolledBack, type Volume, volumeBytes } from "../volume/volume.ts";
import { hasUnreadable, lengthOfExtent, putBack } from "./extent-images.ts";
import { extentBytes } from "./format.ts";
import type { Journal } from "./journal.ts";
import type { KeptImage } from "./layer.ts";

/** What of a long range is made a hole at once. */
const stepBytes = 64 * extentBytes;
/** Images that are put back at a time. */
const putsAtOnce = 8;

/** @throws AgentError `size_mismatch`; `backup_mismatch` where others have written, unless by force */
export function checkRollBack(
  volume: Volume,
  { header, volumeBytes: before }: Journal,
  force: boolean,
): void {
  const bytes = volumeBytes(volume.geometry);
  if (bytes < before) {
    throw new AgentError(
      "size_mismatch",
      `Cannot roll back "${volume.name}": it has ${bytes} bytes, and had ${before} when the run began; ` +
        "give it that size again and run it once more",
    );
  }
  if (header.foreign && !force) {
    throw new AgentError(
      "backup_mismatch",
      `Cannot roll back "${volume.name}": it was written to past lunsync since the run began, and old blocks would be put ` +
        "among new ones; nothing was put back. --force puts back what the run has overwritten all the same",
    );
  }
}

/** Puts back all images of the current layer. @throws AgentError `backup_damaged`, and what writing gives */
export async function putAllBack(
  volume: Volume,
  { chain, volumeBytes: before }: Journal,
  { force = false, noted = (_lba, _blocks, action) => action() }: RollBackOptions,
  signal?: AbortSignal,
): Promise<RolledBack> {
  const { blockBytes, blocks } = volume.geometry;
  const layer = chain.current!;
  const done = { extents: 0, bytes: 0, unreadable: 0, lost: 0 };
  const put = async (extent: number, imageOf: () => Promise<KeptImage>) => {
    signal?.throwIfAborted();
    const length = lengthOfExtent(extent, before);
    try {
      const image = await imageOf();
      if (image && "tornCrc" in image) {
        // Then nobody has overwritten the extent; or the image is damaged, which is told by that.
        await chain.contentOf(layer, extent);
      } else if (image) {
        const lba = (extent * extentBytes) / blockBytes;
        await noted(lba, length / blockBytes, () => putBack(volume, image, before));
        if (hasUnreadable(image)) done.unreadable++;
      }
    } catch (error) {
      if (!(error instanceof AgentError) || error.code !== "state_damaged") throw error;
      if (!force) throw damaged(volume, error, done.extents);
      done.lost++;
      return;
    }
    done.extents++;
    done.bytes += length;
  };
  let puts: Promise<void>[] = [];
  const settle = async () => {
    const all = puts;
    puts = [];
    await together(all);
  };
  try {
    for await (const { extent, image } of layer.images()) {
      puts.push(put(extent, image));
      if (puts.length === putsAtOnce) await settle();
    }
  } finally {
    await settle();
  }
  // What the volume did not have when the run began.
  const step = stepBytes / blockBytes;
  for (let at = before / blockBytes; at < blocks; ) {
    const [lba, count] = [at, Math.min(blocks - at, step - (at % step))];
    await noted(lba, count, () => volume.zero(lba, count, { unmap: true }));
    at += count;
  }
  return done;
}

function damaged(volume: Volume, cause: AgentError, extents: number): AgentError {
  return new AgentError(
    "backup_damaged",
    `Cannot roll back "${volume.name}": ${cause.message.split("; ")[0]}. ${extents} extents were put back, and nothing is ` +
      "lost of the others; --force puts back all but those that are damaged",
    { cause },
  );
}
