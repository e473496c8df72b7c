// PDUs out of a stream of bytes, and into one.
//
// PduDecoder takes chunks of any size and calls back once for every whole PDU; data segments stay slices of the
// chunks they came in (nothing is copied but headers that straddle chunks). Its memory is bounded by one header, its
// AHSs and one data segment of at most `dataSegmentLengthMax`. A violated length or a wrong header digest is a
// FramingError: nothing behind it in the stream can be trusted, so the connection has to be closed.
//
// Source: RFC 7143, 11.1 (PDU layout) and 13.1 (digests).
import { lengthOf } from "../base/bytes.ts";
import { headerBytes } from "./pdu.ts";

/** The peer broke the framing; the connection cannot go on. */
export class FramingError extends Error {
  override readonly name = "FramingError";
}

/** CRC-32C of `data`, going on from `previous` (0 to begin). */
export type Crc32c = (data: Uint8Array, previous?: number) => number;

export interface Pdu {
  /** The basic header segment, 48 bytes. */
  readonly header: Buffer;
  /** All additional header segments. */
  readonly ahs: Buffer;
  /** The data segment without its padding. */
  readonly data: readonly Buffer[];
  readonly dataLength: number;
  /** False if a data digest was negotiated and does not match. */
  readonly dataIntact: boolean;
}

export interface DigestSwitches {
  headerDigest: boolean;
  dataDigest: boolean;
}

const digestBytes = 4;
const none: readonly Buffer[] = [];
const empty: Buffer = Buffer.alloc(0);

/** Bytes up to the next multiple of four. */
export const paddingOf = (length: number): number => (4 - (length & 3)) & 3;

/** The wire order of a CRC-32C: least significant byte first (RFC 7143, 13.1). */
function digestOf(crc: number): Buffer {
  const bytes = Buffer.allocUnsafe(digestBytes);
  bytes.writeUInt32LE(crc);
  return bytes;
}

export class PduDecoder {
  /** Change them between PDUs, when the login ends. */
  readonly digests: DigestSwitches = { headerDigest: false, dataDigest: false };
  dataSegmentLengthMax: number;
  readonly #crc32c: Crc32c;
  #chunks: Buffer[] = [];
  #available = 0;
  #header: Buffer | undefined;
  #ahs = empty;
  #dataLength = 0;

  constructor(crc32c: Crc32c, dataSegmentLengthMax: number) {
    this.#crc32c = crc32c;
    this.dataSegmentLengthMax = dataSegmentLengthMax;
  }

  /** True in the middle of a PDU: a stream that ends now was cut. */
  get partial(): boolean {
    return this.#available > 0 || this.#header !== undefined;
  }

  /** @throws FramingError */
  push(chunk: Buffer, onPdu: (pdu: Pdu) => void): void {
    if (chunk.length === 0) return;
    this.#chunks.push(chunk);
    this.#available += chunk.length;
    for (;;) {
      if (this.#header === undefined && !this.#takeHeader()) return;
      const digest = this.digests.dataDigest && this.#dataLength > 0 ? digestBytes : 0;
      const padding = paddingOf(this.#dataLength);
      if (this.#available < this.#dataLength + padding + digest) return;
      const data = this.#dataLength === 0 ? none : this.#takeSlices(this.#dataLength);
      const pad = padding === 0 ? empty : this.#take(padding);
      let dataIntact = true;
      if (digest > 0) {
        let crc = 0;
        for (const slice of data) crc = this.#crc32c(slice, crc);
        crc = this.#crc32c(pad, crc);
        dataIntact = this.#take(digestBytes).readUInt32LE(0) === crc;
      }
      const pdu = { header: this.#header!, ahs: this.#ahs, data, dataLength: this.#dataLength, dataIntact };
      this.#header = undefined;
      onPdu(pdu);
    }
  }

  #takeHeader(): boolean {
    if (this.#available < headerBytes) return false;
    const ahsBytes = this.#peekByte(4) * 4;
    const digest = this.digests.headerDigest ? digestBytes : 0;
    const dataLength = (this.#peekByte(5) << 16) | (this.#peekByte(6) << 8) | this.#peekByte(7);
    if (dataLength > this.dataSegmentLengthMax) {
      throw new FramingError(
        `a data segment of ${dataLength} bytes where at most ${this.dataSegmentLengthMax} were declared`,
      );
    }
    if (this.#available < headerBytes + ahsBytes + digest) return false;
    this.#header = this.#take(headerBytes);
    this.#ahs = ahsBytes === 0 ? empty : this.#take(ahsBytes);
    this.#dataLength = dataLength;
    if (digest > 0) {
      const crc = this.#crc32c(this.#ahs, this.#crc32c(this.#header));
      if (this.#take(digestBytes).readUInt32LE(0) !== crc) throw new FramingError("a wrong header digest");
    }
    return true;
  }

  #peekByte(index: number): number {
    let at = index;
    for (const chunk of this.#chunks) {
      if (at < chunk.length) return chunk[at]!;
      at -= chunk.length;
    }
    return 0;
  }

  /** `count` bytes as one buffer; copied only if they straddle chunks. */
  #take(count: number): Buffer {
    const first = this.#chunks[0]!;
    if (first.length > count) {
      this.#chunks[0] = first.subarray(count);
      this.#available -= count;
      return first.subarray(0, count);
    }
    const slices = this.#takeSlices(count);
    return slices.length === 1 ? slices[0]! : Buffer.concat(slices, count);
  }

  #takeSlices(count: number): Buffer[] {
    const slices: Buffer[] = [];
    let missing = count;
    let used = 0;
    while (missing > 0) {
      const chunk = this.#chunks[used]!;
      if (chunk.length > missing) {
        slices.push(chunk.subarray(0, missing));
        this.#chunks[used] = chunk.subarray(missing);
        missing = 0;
      } else {
        slices.push(chunk);
        missing -= chunk.length;
        used++;
      }
    }
    if (used > 0) this.#chunks.splice(0, used);
    this.#available -= count;
    return slices;
  }
}

const pads = [empty, Buffer.alloc(1), Buffer.alloc(2), Buffer.alloc(3)];

/**
 * The pieces of one PDU in the order of the wire. `header` gets its lengths filled in; `ahs` is a multiple of four
 * bytes long. The data is not copied.
 */
export function framePdu(
  crc32c: Crc32c,
  digests: DigestSwitches,
  header: Buffer,
  data: readonly Buffer[] = none,
  ahs: Buffer = empty,
): Buffer[] {
  const dataLength = lengthOf(data);
  header[4] = ahs.length / 4;
  header.writeUIntBE(dataLength, 5, 3);
  const pieces = [header];
  if (ahs.length > 0) pieces.push(ahs);
  if (digests.headerDigest) pieces.push(digestOf(crc32c(ahs, crc32c(header))));
  if (dataLength > 0) {
    const pad = pads[paddingOf(dataLength)]!;
    for (const piece of data) pieces.push(piece);
    if (pad.length > 0) pieces.push(pad);
    if (digests.dataDigest) {
      let crc = 0;
      for (const piece of data) crc = crc32c(piece, crc);
      pieces.push(digestOf(crc32c(pad, crc)));
    }
  }
  return pieces;
}

/** Additional header segments: their types and contents. @throws FramingError for lengths that do not add up */
export function* additionalHeaders(ahs: Buffer): Generator<{ type: number; specific: Buffer }> {
  let at = 0;
  while (at < ahs.length) {
    if (at + 4 > ahs.length) throw new FramingError("an additional header segment is cut off");
    const length = ahs.readUInt16BE(at); // bytes behind AHSType, padding not counted
    const end = at + 3 + length;
    if (length < 1 || end > ahs.length)
      throw new FramingError("an additional header segment is longer than its PDU");
    yield { type: ahs[at + 2]! & 0x3f, specific: ahs.subarray(at + 3, end) };
    at = end + paddingOf(end);
  }
}

export const ahsTypeExtendedCdb = 1;
export const ahsTypeBidirectionalReadLength = 2;

/** The AHS that carries the bytes of a CDB past the sixteenth (RFC 7143, 11.2.2.3). */
export function extendedCdbAhs(rest: Buffer): Buffer {
  const length = rest.length + 1;
  const ahs = Buffer.alloc(3 + length + paddingOf(3 + length));
  ahs.writeUInt16BE(length, 0);
  ahs[2] = ahsTypeExtendedCdb;
  rest.copy(ahs, 4);
  return ahs;
}
