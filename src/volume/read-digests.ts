// Digests of a volume that cannot digest its own data: it is read, and digested on this host.
//
// Memory is bounded by `chunkBytes` for each window under way.
import { AgentError } from "../base/errors.ts";
import { programOf } from "../digest/spec.ts";
import { identifyMemory } from "../platform/block-file.ts";
import {
  type DigestAnswer,
  type DigestWindow,
  type Geometry,
  type IdentifierWindow,
  type Unreadable,
  type Volume,
  windowBlocks,
} from "./volume.ts";

type Read = (lba: number, buffer: Buffer) => Promise<void>;

const chunkBytes = 4 * 1024 * 1024;

/** Reads as many whole extents as can be read; says what ended them. */
async function readExtents(
  read: Read,
  geometry: Geometry,
  lba: number,
  buffer: Buffer,
  extentBytes: number,
): Promise<{ bytes: number; unreadable: Unreadable | undefined }> {
  try {
    await read(lba, buffer);
    return { bytes: buffer.length, unreadable: undefined };
  } catch (error) {
    if (!(error instanceof AgentError) || error.code !== "medium_error") throw error;
  }
  for (let at = 0; at < buffer.length; at += extentBytes) {
    const extentLba = lba + at / geometry.blockBytes;
    try {
      await read(extentLba, buffer.subarray(at, at + extentBytes));
    } catch (error) {
      if (!(error instanceof AgentError) || error.code !== "medium_error") throw error;
      return { bytes: at, unreadable: { lba: error.lba ?? extentLba, reason: error.message } };
    }
  }
  return { bytes: buffer.length, unreadable: undefined };
}

/** The answer to a window, by READs. `input` holds 16 bytes an extent for decode mode. */
export async function digestByReading(
  read: Read,
  geometry: Geometry,
  window: IdentifierWindow & Partial<Pick<DigestWindow, "width" | "initialValue">>,
  output: "encode" | "decode" | "identifiers",
  input?: Buffer,
): Promise<DigestAnswer> {
  const width = window.width ?? window.digest.identifierBytes;
  const { blockBytes } = geometry;
  const extentBytes = window.extentBlocks * blockBytes;
  const totalBytes = windowBlocks(window, geometry) * blockBytes;
  // Whole extents where several fit into a chunk; an extent that is larger is read whole all the same.
  const stepBytes = Math.max(extentBytes, chunkBytes - (chunkBytes % extentBytes));
  const buffer = Buffer.allocUnsafeSlow(Math.min(stepBytes, totalBytes));
  const values = Buffer.alloc(window.extents * width);
  let extents = 0;
  for (let at = 0; at < totalBytes; at += stepBytes) {
    const lba = window.lba + at / blockBytes;
    const chunk = buffer.subarray(0, Math.min(stepBytes, totalBytes - at));
    const { bytes, unreadable } = await readExtents(read, geometry, lba, chunk, extentBytes);
    if (bytes > 0) {
      const result = await identifyMemory(chunk.subarray(0, bytes), {
        program: programOf(window.digest),
        offset: window.lba * blockBytes + at,
        bytes,
        extentBytes,
        blockBytes,
        output,
        width,
        ...(window.initialValue && { initialValue: window.initialValue }),
        ...(input && { input: input.subarray(extents * 16) }),
      });
      result.values.copy(values, extents * width);
      extents += result.count;
    }
    if (unreadable) return { values, extents, unreadable };
  }
  return { values, extents, unreadable: undefined };
}

/** Identifiers of any volume: its own, or by reading it. */
export function volumeIdentifiers(
  volume: Volume,
  window: IdentifierWindow,
  signal?: AbortSignal,
): Promise<DigestAnswer> {
  if (volume.identifiers) return volume.identifiers(window, signal);
  const read: Read = (lba, buffer) => volume.read(lba, buffer, { fresh: window.fresh }, signal);
  return digestByReading(read, volume.geometry, window, "identifiers");
}
