// PDUs out of a stream of bytes, and into one.
//
// PduDecoder takes chunks of any size, which it copies from: they are free again when push() returns. A sink is told of
// every header and says where the data that follows belongs; it is called again when the PDU is whole. The decoder's
// own memory is one header with its AHSs. A violated length or a wrong header digest is a FramingError: nothing behind
// it in the stream can be trusted, so the connection has to be closed.
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
  readonly data: Buffer;
  /** False if a data digest was negotiated and does not match. */
  readonly dataIntact: boolean;
}

export interface PduSink {
  /**
   * A header that is followed by data. Returns the buffer of `dataLength` bytes that the data goes to; a new one is
   * made where it returns undefined. Whatever it throws comes out of push().
   */
  place?(header: Buffer, dataLength: number): Buffer | undefined;
  /** A whole PDU. */
  pdu(pdu: Pdu): void;
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

const headMax = headerBytes + 255 * 4 + digestBytes;

export class PduDecoder {
  /** Change them between PDUs, when the login ends. */
  readonly digests: DigestSwitches = { headerDigest: false, dataDigest: false };
  dataSegmentLengthMax: number;
  readonly #crc32c: Crc32c;
  /** The head of the PDU under way: basic header, AHSs, header digest. */
  readonly #head = Buffer.alloc(headMax);
  #headHas = 0;
  #header: Buffer | undefined;
  #ahs = empty;
  #data = empty;
  #dataHas = 0;
  /** Padding and data digest. */
  readonly #tail = Buffer.alloc(3 + digestBytes);
  #tailHas = 0;
  #tailLength = 0;

  constructor(crc32c: Crc32c, dataSegmentLengthMax: number) {
    this.#crc32c = crc32c;
    this.dataSegmentLengthMax = dataSegmentLengthMax;
  }

  /** True in the middle of a PDU: a stream that ends now was cut. */
  get partial(): boolean {
    return this.#headHas > 0 || this.#header !== undefined;
  }

  /** @throws FramingError, and what the sink throws */
  push(chunk: Buffer, sink: PduSink): void {
    let at = 0;
    for (;;) {
      if (this.#header === undefined) {
        at = this.#takeHead(chunk, at);
        if (!this.#headComplete()) return;
        this.#beginPdu(sink);
      }
      const missing = this.#data.length - this.#dataHas;
      if (missing > 0) {
        const bytes = Math.min(missing, chunk.length - at);
        this.#data.set(
          at === 0 && bytes === chunk.length ? chunk : chunk.subarray(at, at + bytes),
          this.#dataHas,
        );
        this.#dataHas += bytes;
        at += bytes;
        if (bytes < missing) return;
      }
      while (this.#tailHas < this.#tailLength) {
        if (at === chunk.length) return;
        this.#tail[this.#tailHas++] = chunk[at++]!;
      }
      const pdu = { header: this.#header!, ahs: this.#ahs, data: this.#data, dataIntact: this.#dataIntact() };
      this.#header = undefined;
      this.#data = empty;
      sink.pdu(pdu);
    }
  }

  /** Bytes that the head of the PDU has, as far as that is known yet. */
  #headLength(): number {
    if (this.#headHas < 8) return headerBytes;
    return headerBytes + this.#head[4]! * 4 + (this.digests.headerDigest ? digestBytes : 0);
  }

  #headComplete(): boolean {
    return this.#headHas >= headerBytes && this.#headHas === this.#headLength();
  }

  #takeHead(chunk: Buffer, from: number): number {
    let at = from;
    while (at < chunk.length && !this.#headComplete()) {
      // The lengths first: they bound what is taken afterwards.
      const until = this.#headHas < 8 ? 8 : this.#headLength();
      const bytes = Math.min(until - this.#headHas, chunk.length - at);
      chunk.copy(this.#head, this.#headHas, at, at + bytes);
      this.#headHas += bytes;
      at += bytes;
      if (this.#headHas === 8) this.#checkDataLength();
    }
    return at;
  }

  #checkDataLength(): void {
    const dataLength = this.#head.readUIntBE(5, 3);
    if (dataLength <= this.dataSegmentLengthMax) return;
    throw new FramingError(
      `a data segment of ${dataLength} bytes where at most ${this.dataSegmentLengthMax} were declared`,
    );
  }

  #beginPdu(sink: PduSink): void {
    const head = this.#head;
    const ahsBytes = head[4]! * 4;
    const dataLength = head.readUIntBE(5, 3);
    this.#headHas = 0;
    if (this.digests.headerDigest) {
      const end = headerBytes + ahsBytes;
      if (head.readUInt32LE(end) !== this.#crc32c(head.subarray(0, end)))
        throw new FramingError("a wrong header digest");
    }
    const header = Buffer.from(head.subarray(0, headerBytes));
    this.#ahs = ahsBytes === 0 ? empty : Buffer.from(head.subarray(headerBytes, headerBytes + ahsBytes));
    this.#header = header;
    this.#dataHas = 0;
    this.#tailHas = 0;
    this.#tailLength = 0;
    if (dataLength === 0) return;
    this.#data = sink.place?.(header, dataLength) ?? Buffer.allocUnsafe(dataLength);
    this.#tailLength = paddingOf(dataLength) + (this.digests.dataDigest ? digestBytes : 0);
  }

  #dataIntact(): boolean {
    if (!this.digests.dataDigest || this.#data.length === 0) return true;
    const padding = this.#tailLength - digestBytes;
    const crc = this.#crc32c(this.#tail.subarray(0, padding), this.#crc32c(this.#data));
    return this.#tail.readUInt32LE(padding) === crc;
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
