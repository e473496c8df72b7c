// Randomness, as the rest of the program sees it.
import { randomBytes } from "node:crypto";

export interface Random {
  /** `count` unpredictable bytes. */
  bytes(count: number): Buffer;
}

/** RFC 9562, version 4: 16 bytes. */
export function randomUuid(random: Random): Buffer {
  const id = random.bytes(16);
  id[6] = (id[6]! & 0x0f) | 0x40;
  id[8] = (id[8]! & 0x3f) | 0x80;
  return id;
}

export const systemRandom: Random = { bytes: (count) => randomBytes(count) };
