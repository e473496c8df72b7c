// Damage to bytes as fuzzers do it: single bits, bytes at the edges of their ranges, whole integers, noise.
import { below, bytesOf, oneOf } from "../support/data.ts";

export type Random = () => number;

export const chance = (random: Random, probability: number): boolean => random() < probability;

const edges8 = [0x00, 0x01, 0x7f, 0x80, 0xfe, 0xff];
const edges16 = [0x0000, 0x0001, 0x00ff, 0x7fff, 0x8000, 0xfffe, 0xffff];
const edges32 = [0, 1, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff];

/** Changes one place of `bytes`, from `start` on. */
export function damage(random: Random, bytes: Buffer, start = 0): void {
  if (bytes.length <= start) return;
  const at = start + below(random, bytes.length - start);
  const left = bytes.length - at;
  switch (below(random, 5)) {
    case 0:
      bytes[at]! ^= 1 << below(random, 8);
      return;
    case 1:
      bytes[at] = oneOf(random, edges8);
      return;
    case 2:
      if (left >= 2) bytes.writeUInt16BE(oneOf(random, edges16), at);
      return;
    case 3:
      if (left >= 4) bytes.writeUInt32BE(oneOf(random, edges32), at);
      return;
    default:
      bytesOf(random, Math.min(left, 1 + below(random, 8))).copy(bytes, at);
  }
}

/** A copy with some places changed. */
export function damaged(random: Random, bytes: Buffer, places = 1 + below(random, 4)): Buffer {
  const copy = Buffer.from(bytes);
  for (let i = 0; i < places; i++) damage(random, copy);
  return copy;
}

/** A copy that ends early, goes on, or has a piece doubled or missing. */
export function reshaped(random: Random, bytes: Buffer): Buffer {
  const at = below(random, bytes.length + 1);
  const to = at + below(random, bytes.length - at + 1);
  switch (below(random, 4)) {
    case 0:
      return bytes.subarray(0, at);
    case 1:
      return Buffer.concat([bytes, bytesOf(random, 1 + below(random, 64))]);
    case 2:
      return Buffer.concat([bytes.subarray(0, to), bytes.subarray(at)]);
    default:
      return Buffer.concat([bytes.subarray(0, at), bytes.subarray(to)]);
  }
}
