// What is decided before anything is read or written: may these two volumes be compared, and in which windows.
//
// Pure. Guarantees: a pair that passes checkPair() has equal geometry and is not one volume twice; the windows cover
// the volume once, in order, each aligned to the extent.
import { AgentError } from "../base/errors.ts";
import { formatBytes, MiB } from "../base/units.ts";
import type { DigestSpec } from "../digest/spec.ts";
import { type Volume, type VolumeIdentity, volumeBytes } from "../volume/volume.ts";

/** The key under which an identity overlaps another, or undefined. */
function sharedKey(a: VolumeIdentity, b: VolumeIdentity): string | undefined {
  const keysOf = (identity: VolumeIdentity) => [
    ...identity.keys,
    ...(identity.uuid === undefined ? [] : [`uuid:${identity.uuid}`]),
  ];
  const theirs = new Set(keysOf(b));
  // A partition and the disk around it share blocks; two partitions of one disk do not.
  return keysOf(a).find(
    (key) =>
      (theirs.has(key) && !key.startsWith("within:")) ||
      theirs.has(`within:${key}`) ||
      (key.startsWith("within:") && theirs.has(key.slice("within:".length))),
  );
}

const pairOf = (source: Volume, replica: Volume) => `"${source.name}" with "${replica.name}"`;

function checkDistinct(source: Volume, replica: Volume): void {
  if (sharedKey(source.identity, replica.identity) === undefined) return;
  throw new AgentError(
    "volume_same",
    `Cannot compare ${pairOf(source, replica)}: source and replica are the same volume, or one is part of the other`,
  );
}

function checkBlocks(source: Volume, replica: Volume): void {
  const [ours, theirs] = [source.geometry.blockBytes, replica.geometry.blockBytes];
  if (ours === theirs) return;
  throw new AgentError(
    "block_size_mismatch",
    `Cannot compare ${pairOf(source, replica)}: the source has logical blocks of ${ours} bytes, the replica of ${theirs}; ` +
      "serve the replica with the source's block size",
  );
}

/** @throws AgentError `volume_same`, `size_mismatch`, `block_size_mismatch` */
export function checkPair(source: Volume, replica: Volume): void {
  checkDistinct(source, replica);
  const [ours, theirs] = [volumeBytes(source.geometry), volumeBytes(replica.geometry)];
  if (ours !== theirs) {
    throw new AgentError(
      "size_mismatch",
      `Cannot compare ${pairOf(source, replica)}: the source has ${ours} bytes (${formatBytes(ours)}), ` +
        `the replica ${theirs} (${formatBytes(theirs)}); ` +
        (ours > theirs
          ? 'give the replica the source\'s size, or have "lunsync sync --grow" do it'
          : "lunsync makes no volume shorter: if the source is the right one, cut the replica to its size yourself (truncate, lvreduce)"),
    );
  }
  checkBlocks(source, replica);
}

/**
 * The blocks that a replica which is smaller than its source has to be given; undefined if their sizes are equal.
 * @throws AgentError as checkPair() for everything else
 */
export function growthOf(source: Volume, replica: Volume): number | undefined {
  if (volumeBytes(source.geometry) <= volumeBytes(replica.geometry)) {
    checkPair(source, replica);
    return undefined;
  }
  checkDistinct(source, replica);
  checkBlocks(source, replica);
  return source.geometry.blocks;
}

/** @throws AgentError `volume_readonly` */
export function checkWritable(replica: Volume): void {
  if (replica.traits.writable) return;
  throw new AgentError("volume_readonly", `Cannot write to "${replica.name}": it is read-only`);
}

/** @throws AgentError `digest_unknown` if one of the volumes does not offer it */
export function checkDigest(volumes: readonly Volume[], digest: DigestSpec): void {
  for (const { name, traits } of volumes) {
    if (traits.digestsOffered === undefined || traits.digestsOffered.includes(digest.text)) continue;
    throw new AgentError(
      "digest_unknown",
      `"${name}" does not offer the digest ${digest.text}; it offers ${traits.digestsOffered.slice(0, 12).join(", ")}, …`,
    );
  }
}

/** @throws AgentError `usage` for an extent that the volumes' blocks do not fit into */
export function extentBlocksOf(volumes: readonly Volume[], extentBytes: number): number {
  for (const { name, geometry, traits } of volumes) {
    const blocks = extentBytes / geometry.blockBytes;
    if (Number.isInteger(blocks) && extentBytes <= traits.windowBytesMax) continue;
    throw new AgentError(
      "usage",
      `An extent of ${formatBytes(extentBytes)} does not fit "${name}": ${Number.isInteger(blocks) ? "it is too large" : `a logical block has ${geometry.blockBytes} bytes`}`,
    );
  }
  return extentBytes / volumes[0]!.geometry.blockBytes;
}

export interface PlannedWindow {
  readonly lba: number;
  readonly extents: number;
}

const windowBytesWanted = 32 * MiB;

/** Extents of one window, as both sides take them. */
export function windowExtents(volumes: readonly Volume[], extentBlocks: number): number {
  const limits = volumes.map(({ geometry, traits }) =>
    Math.min(
      traits.windowExtentsMax,
      Math.floor(traits.windowBytesMax / (extentBlocks * geometry.blockBytes)),
    ),
  );
  const wanted = Math.floor(windowBytesWanted / (extentBlocks * volumes[0]!.geometry.blockBytes));
  return Math.max(1, Math.min(...limits, Math.max(1, wanted)));
}

/** The windows of a whole volume, in order. */
export function* windowsOf(blocks: number, extentBlocks: number, extents: number): Generator<PlannedWindow> {
  for (let lba = 0; lba < blocks; lba += extents * extentBlocks) {
    yield { lba, extents: Math.min(extents, Math.ceil((blocks - lba) / extentBlocks)) };
  }
}
