// Source and replica of one command, opened so that they fit: a file has the logical blocks of the other side.

import { stat } from "node:fs/promises";
import { FileVolume } from "../volume/file-volume.ts";
import type { Volume } from "../volume/volume.ts";
import { checkName, isScsiAddress, openVolume } from "./volumes.ts";

export interface Pair extends AsyncDisposable {
  readonly source: Volume;
  readonly replica: Volume;
}

export interface PairOptions {
  /** The replica is opened for writing. */
  readonly writable: boolean;
  readonly onNotice: (notice: string) => void;
  readonly signal?: AbortSignal;
}

/** True for what has no logical blocks of its own. */
async function isFile(name: string): Promise<boolean> {
  if (isScsiAddress(name)) return false;
  return stat(name).then(
    (info) => info.isFile(),
    () => false,
  );
}

/** @throws AgentError what openVolume() throws; nothing stays open then */
export async function openPair(sourceName: string, replicaName: string, options: PairOptions): Promise<Pair> {
  // What is misspelt is said before anything is connected to.
  for (const name of [sourceName, replicaName]) checkName(name);
  const open = (name: string, writable: boolean, blockBytes: number | undefined) =>
    openVolume(name, { ...options, writable, blockBytes });
  // The one with blocks of its own first; what is written after what is read, where that leaves a choice.
  const replicaFirst = (await isFile(sourceName)) && !(await isFile(replicaName));
  const first = replicaFirst
    ? await open(replicaName, options.writable, undefined)
    : await open(sourceName, false, undefined);
  try {
    const blockBytes =
      first instanceof FileVolume && !first.blockDevice ? undefined : first.geometry.blockBytes;
    const second = replicaFirst
      ? await open(sourceName, false, blockBytes)
      : await open(replicaName, options.writable, blockBytes);
    const [source, replica] = replicaFirst ? [second, first] : [first, second];
    return {
      source,
      replica,
      async [Symbol.asyncDispose]() {
        await source[Symbol.asyncDispose]();
        await replica[Symbol.asyncDispose]();
      },
    };
  } catch (error) {
    await first[Symbol.asyncDispose]();
    throw error;
  }
}
