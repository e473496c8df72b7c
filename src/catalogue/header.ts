// The header of a catalogue file: which volume it is about, and whether its entries may be believed.
//
// Guarantees: two copies are written in turn, so that one is whole at every instant; bytes that are neither decode to
// undefined. docs/formats/catalogue.md describes the format.
import { ascii, constant, layout, raw, u8, u16, u32, u64 } from "../base/layout.ts";
import { crc32c } from "../platform/native-digest.ts";
import { fanOut, headerBytes } from "./shape.ts";

const magic = 0x4c55_4e43_4154_4c31n; // "LUNCATL1"

const headerLayout = layout({
  name: "catalogue header",
  source: "docs/formats/catalogue.md",
  bytes: headerBytes,
  fields: {
    crc: u32(0),
    magic: constant(u64(8), magic),
    sequence: u64(16),
    /** 0: entries were changed until the file was left; 1: closed, and `mark` says how the volume was then. */
    closed: u8(24),
    fanOut: constant(u8(25), fanOut),
    markBytes: u16(26),
    blockBytes: u32(28),
    blocks: u64(32),
    extentBytes: u32(40),
    generation: u64(48),
    beatMs: u64(56),
    /** SHA-256 of the names of the volume. */
    volume: raw(64, 32),
    digest: ascii(96, 160),
    mark: raw(256, 1024),
    /** The region that a scrub goes on with, and when the last whole one ended: milliseconds since 1970. */
    scrubNext: u64(1280),
    scrubbedMs: u64(1288),
  },
});

export interface Header {
  readonly sequence: number;
  readonly closed: boolean;
  readonly blockBytes: number;
  readonly blocks: number;
  readonly extentBytes: number;
  /** Counts the times that the catalogue was begun anew: identifiers of different ones are of different histories. */
  readonly generation: number;
  /** When the owner was last known to be alive: milliseconds since 1970. */
  readonly beatMs: number;
  readonly volume: Buffer;
  /** Canonical text of the digest specification. */
  readonly digest: string;
  readonly mark: string;
  /** The region that a scrub goes on with. */
  readonly scrubNext: number;
  /** When the last scrub of the whole volume ended; 0 if there was none. */
  readonly scrubbedMs: number;
}

export function encodeHeader(header: Header): Buffer {
  const mark = Buffer.from(header.mark, "utf8");
  const bytes = headerLayout.encode({
    sequence: BigInt(header.sequence),
    closed: header.closed ? 1 : 0,
    markBytes: mark.length,
    blockBytes: header.blockBytes,
    blocks: BigInt(header.blocks),
    extentBytes: header.extentBytes,
    generation: BigInt(header.generation),
    beatMs: BigInt(Math.round(header.beatMs)),
    scrubNext: BigInt(header.scrubNext),
    scrubbedMs: BigInt(Math.round(header.scrubbedMs)),
    volume: header.volume,
    digest: header.digest,
    mark: Buffer.concat([mark, Buffer.alloc(headerLayout.fields.mark.length - mark.length)]),
  });
  bytes.writeUInt32BE(crc32c(bytes.subarray(4)), 0);
  return bytes;
}

export function decodeHeader(bytes: Buffer): Header | undefined {
  if (bytes.readUInt32BE(0) !== crc32c(bytes.subarray(4))) return undefined;
  if (bytes.readBigUInt64BE(8) !== magic || bytes[25] !== fanOut) return undefined;
  const fields = headerLayout.decode(bytes);
  return {
    sequence: Number(fields.sequence),
    closed: fields.closed === 1,
    blockBytes: fields.blockBytes,
    blocks: Number(fields.blocks),
    extentBytes: fields.extentBytes,
    generation: Number(fields.generation),
    beatMs: Number(fields.beatMs),
    volume: Buffer.from(fields.volume),
    digest: fields.digest,
    scrubNext: Number(fields.scrubNext),
    scrubbedMs: Number(fields.scrubbedMs),
    mark: fields.mark.subarray(0, fields.markBytes).toString("utf8"),
  };
}

/** The newer of the copies that are whole. */
export function newestHeader(copies: readonly Buffer[]): Header | undefined {
  const whole = copies.map(decodeHeader).filter((header) => header !== undefined);
  return whole.sort((a, b) => b.sequence - a.sequence)[0];
}
