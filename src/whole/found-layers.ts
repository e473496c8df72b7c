// The layers of a volume as its owner finds them when it opens the journal.
//
// Guarantees: a layer that the header does not know of, and so has nothing in it, is left out, to be removed when the header is on the
// medium. One that can't be used any more, or whose journal is gone, puts itself and older ones in doubt.
import { AgentError } from "../base/errors.ts";
import { type Header, journalState } from "./format.ts";
import type { LayerFolder } from "./journal-file.ts";
import { Layer, type LayerOptions } from "./layer.ts";

export type Log = (level: "info" | "warning" | "error", message: string) => void;

export const isRecording = ({ state, keeping }: Header): boolean => state !== journalState.whole || keeping;

export interface FoundLayers {
  /** Open, the oldest first. */
  readonly layers: readonly Layer[];
  /** Epochs of those that are to be removed. */
  readonly left: readonly number[];
  readonly epoch: number;
  readonly doubtEpoch: number;
}

interface FindOptions extends LayerOptions {
  readonly log: Log;
  readonly sealedPagesMax: number;
}

/** @throws what I/O gives */
export async function findLayers(
  folder: LayerFolder,
  header: Header,
  options: FindOptions,
): Promise<FoundLayers> {
  const isKnown = header.sequence > 0;
  const layers: Layer[] = [];
  const left: number[] = [];
  let { epoch, doubtEpoch } = header;
  try {
    for (const each of (await folder.list()).sort((a, b) => a - b)) {
      // Begun without the header, and so with nothing in it.
      const isLeft = isKnown && each > epoch;
      const pagesMax = each === epoch && isRecording(header) ? options.pagesMax : options.sealedPagesMax;
      const layer = isLeft ? undefined : await openLayer(folder, each, { ...options, pagesMax });
      if (isLeft || (!isKnown && layer?.keptExtents === 0)) {
        layer?.close();
        left.push(each);
        continue;
      }
      if (layer) layers.push(layer);
      // Without a journal nobody knows what was written since the layers were begun.
      if (!layer || !isKnown) doubtEpoch = Math.max(doubtEpoch, each);
      epoch = Math.max(epoch, each);
    }
    return { layers, left, epoch, doubtEpoch };
  } catch (error) {
    for (const layer of layers) layer.close();
    throw error;
  }
}

/** Undefined for one that can't be used any more. */
async function openLayer(
  folder: LayerFolder,
  epoch: number,
  { random, log, pagesMax }: LayerOptions & { readonly log: Log },
): Promise<Layer | undefined> {
  try {
    return await Layer.open(folder, epoch, { random, pagesMax });
  } catch (error) {
    if (!(error instanceof AgentError) || error.code !== "state_damaged") throw error;
    log("error", `${error.message}; restore points that are older can't be relied on. Remove the file`);
    return undefined;
  }
}
