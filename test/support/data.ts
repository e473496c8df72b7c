// Random data that is the same for the same seed, and volumes of it.
import { writeFile } from "node:fs/promises";

/** Mulberry32: numbers from 0 up to 1. */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

export const below = (random: () => number, end: number): number => Math.floor(random() * end);
export const oneOf = <T>(random: () => number, all: readonly T[]): T => all[below(random, all.length)]!;

/** Bytes that are no run of zeros. */
export function bytesOf(random: () => number, count: number): Buffer {
  const bytes = Buffer.allocUnsafe(count);
  for (let i = 0; i + 4 <= count; i += 4) bytes.writeUInt32LE((random() * 4294967296) >>> 0, i);
  for (let i = count & ~3; i < count; i++) bytes[i] = below(random, 256);
  return bytes;
}

/** Data with runs of zeros in it, as volumes have them. */
export function volumeOf(random: () => number, count: number): Buffer {
  const bytes = bytesOf(random, count);
  for (let i = 0; i < 3; i++) {
    const start = below(random, count);
    bytes.fill(0, start, Math.min(count, start + below(random, count / 4)));
  }
  return bytes;
}

/** A copy with some places changed: single bytes, runs of other data, runs of zeros. */
export function stale(random: () => number, source: Buffer, changes: number): Buffer {
  const bytes = Buffer.from(source);
  for (let i = 0; i < changes; i++) {
    const start = below(random, bytes.length);
    const length = oneOf(random, [1, 1, 512, 5000]);
    const end = Math.min(bytes.length, start + length);
    if (random() < 0.3) bytes.fill(0, start, end);
    else bytesOf(random, end - start).copy(bytes, start);
  }
  return bytes;
}

/** The extents in which two volumes differ, as ranges of blocks: by looking at every byte. */
export function differingRanges(
  a: Buffer,
  b: Buffer,
  extentBytes: number,
  blockBytes: number,
): { lba: number; blocks: number }[] {
  const ranges: { lba: number; blocks: number }[] = [];
  for (let at = 0; at < a.length; at += extentBytes) {
    const end = Math.min(a.length, at + extentBytes);
    if (a.compare(b, at, end, at, end) === 0) continue;
    const last = ranges.at(-1);
    const blocks = (end - at) / blockBytes;
    if (last && last.lba + last.blocks === at / blockBytes) last.blocks += blocks;
    else ranges.push({ lba: at / blockBytes, blocks });
  }
  return ranges;
}

export async function writePair(
  source: string,
  replica: string,
  seed: number,
  bytes: number,
  changes: number,
) {
  const random = randomOf(seed);
  const original = volumeOf(random, bytes);
  const other = stale(random, original, changes);
  await writeFile(source, original);
  await writeFile(replica, other);
  return { original, other };
}
