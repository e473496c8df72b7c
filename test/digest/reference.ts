// What the digest tests compare with: node:crypto (OpenSSL) for MD5 and the SHAs, and for the CRCs, which it
// lacks, the definition bit by bit, independent of every kernel.
import { createHash } from "node:crypto";

/** In the order of the addon's algorithm numbers. */
export const algorithmNames = ["md5", "sha1", "sha256", "sha512", "crc32c", "crc64"] as const;
export type AlgorithmName = (typeof algorithmNames)[number];

export const algorithmNumber = (name: AlgorithmName): number => algorithmNames.indexOf(name);

/** CRC-32C (iSCSI): the reflected polynomial is 82F63B78h; initial value and final XOR are all ones. */
export function crc32cBitwise(data: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of data) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc & 1) !== 0 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  }
  return ~crc >>> 0;
}

/** CRC-64/XZ: the reflected polynomial is C96C5795D7870F42h; in two halves; all ones before and after. */
export function crc64Bitwise(data: Uint8Array): bigint {
  let high = 0xffffffff;
  let low = 0xffffffff;
  for (const byte of data) {
    low ^= byte;
    for (let bit = 0; bit < 8; bit++) {
      const odd = (low & 1) !== 0;
      low = (low >>> 1) | ((high & 1) << 31);
      high >>>= 1;
      if (!odd) continue;
      high ^= 0xc96c5795;
      low ^= 0xd7870f42;
    }
  }
  return (BigInt(~high >>> 0) << 32n) | BigInt(~low >>> 0);
}

export function referenceDigest(name: AlgorithmName, data: Uint8Array): Buffer {
  if (name === "crc32c") {
    const out = Buffer.alloc(4);
    out.writeUInt32BE(crc32cBitwise(data));
    return out;
  }
  if (name === "crc64") {
    const out = Buffer.alloc(8);
    out.writeBigUInt64BE(crc64Bitwise(data));
    return out;
  }
  return createHash(name).update(data).digest();
}

/** Reproducible numbers below `bound` (xorshift32). */
export function numbersFrom(seed: number): (bound: number) => number {
  let x = seed;
  return (bound) => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return (x >>> 0) % bound;
  };
}

export function bytesFrom(next: (bound: number) => number, length: number): Buffer {
  const out = Buffer.allocUnsafe(length);
  for (let i = 0; i < length; i++) out[i] = next(256);
  return out;
}
