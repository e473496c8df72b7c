// Encoding of identifiers with an initial value (docs/protocol.md): the readable reference.
//
// The addon does this for whole windows; here it stands once in plain words, as the oracle of the tests and for
// the block B that decode mode compares with.
import { createCipheriv, createDecipheriv, createHash } from "node:crypto";

export const initialValueBytes = 16;
export const encodedBytesMax = 16;

/** Bytes of one encoded value on the wire. */
export type ValueWidth = 8 | 16;

/** A new one that every form of the commands carries: its high half is zeros, since ENCODE DIGESTS (32) has 8 bytes for it. */
export const newInitialValue = (random: { bytes(count: number): Buffer }): Buffer =>
  Buffer.concat([Buffer.alloc(8), random.bytes(8)]);

/** K: the first 16 bytes of SHA-256 of the identifier. */
export function encodingKey(identifier: Uint8Array): Buffer {
  return createHash("sha256").update(identifier).digest().subarray(0, 16);
}

/**
 * B: the low 8 bytes of the initial value, then the extent's LBA; the high 8 bytes of the initial value are XORed
 * into the second half. `initialValue` has 16 bytes, big-endian.
 */
export function encodingBlock(initialValue: Buffer, lba: number, out = Buffer.alloc(16), at = 0): Buffer {
  initialValue.copy(out, at, 8, 16);
  // By halves: a bigint of each extent is a lot of garbage.
  out.writeUInt32BE((Math.floor(lba / 2 ** 32) ^ initialValue.readUInt32BE(0)) >>> 0, at + 8);
  out.writeUInt32BE(((lba >>> 0) ^ initialValue.readUInt32BE(4)) >>> 0, at + 12);
  return out;
}

/** AES-128(K, B), whole. */
export function encodeIdentifier(identifier: Uint8Array, block: Uint8Array): Buffer {
  const cipher = createCipheriv("aes-128-ecb", encodingKey(identifier), null).setAutoPadding(false);
  return Buffer.concat([cipher.update(block), cipher.final()]);
}

/** AES-128⁻¹(K, value): the block B, if the value was encoded with the same identifier. */
export function decodeWithIdentifier(identifier: Uint8Array, value: Uint8Array): Buffer {
  const decipher = createDecipheriv("aes-128-ecb", encodingKey(identifier), null).setAutoPadding(false);
  return Buffer.concat([decipher.update(value), decipher.final()]);
}
