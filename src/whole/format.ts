// The journal of a volume's before-images, as bytes: docs/formats/whole.md is written from these tables.
//
// Guarantees: a header or an entry that is damaged decodes to undefined. Both fit into one sector, which a device writes
// whole.
import { ascii, constant, layout, raw, u8, u16, u32, u64 } from "../base/layout.ts";
import { crc32c } from "../platform/native-digest.ts";
import type { SetLabel } from "../volume/volume.ts";

const source = "docs/formats/whole.md";

/** What before-images are of. */
export const extentBytes = 65_536;
/** Blocks that can't be read are told apart by this many bytes: the smallest that a logical block has. */
export const sectorBytes = 512;
/** Two copies of the header lie so far apart; the table begins behind them. */
export const headerStep = 4096;
export const tableAt = 2 * headerStep;
export const pageBytes = 4096;
export const entryBytes = 64;
export const entriesOfPage = pageBytes / entryBytes;

/** Where the first before-image lies, in the journal of a volume of so many bytes. */
export function dataAt(volumeBytes: number): number {
  const extents = Math.ceil(volumeBytes / extentBytes);
  const end = tableAt + Math.ceil(extents / entriesOfPage) * pageBytes;
  return Math.ceil(end / extentBytes) * extentBytes;
}

export const journalState = { whole: 0, open: 1, rollingBack: 2 } as const;

const formatVersion = 1;
const markBytesMax = 256;

const headerLayout = layout({
  name: "header of a journal of before-images",
  source,
  bytes: 512,
  fields: {
    crc: u32(0),
    magic: constant(ascii(8, 8), "LUNWHOLE"),
    sequence: u64(16),
    version: constant(u8(24), formatVersion),
    state: u8(25),
    /** 1: the owner let go in order, and `mark` says how the volume was then. */
    closed: u8(26),
    /** 1: somebody else wrote to the volume since the run began. */
    foreign: u8(27),
    extentBytes: constant(u32(28), extentBytes),
    volumeBytes: u64(32),
    epoch: u64(40),
    sinceMs: u64(48),
    beatMs: u64(56),
    volume: raw(64, 32),
    run: raw(96, 16),
    markBytes: u16(112),
    mark: raw(128, markBytesMax),
    /** Zeros: the volume is a replica of no set. */
    set: raw(384, 16),
    generation: u64(400),
    handedOut: u8(408),
  },
});

export interface Header {
  readonly sequence: number;
  readonly state: number;
  readonly closed: boolean;
  readonly foreign: boolean;
  /** Of the volume when the run began. */
  readonly volumeBytes: number;
  /** Entries with another one are of a run that has ended. */
  readonly epoch: number;
  /** When the run began, and when its owner was last known to be alive: milliseconds since 1970. */
  readonly sinceMs: number;
  readonly beatMs: number;
  /** SHA-256 of the volume's names. */
  readonly volume: Buffer;
  /** 16 bytes: of the run that is open, or of the one that was committed last. */
  readonly run: Buffer;
  readonly mark: string;
  readonly label: SetLabel | undefined;
}

export function encodeHeader(header: Header): Buffer {
  const mark = Buffer.from(header.mark, "utf8").subarray(0, markBytesMax);
  const bytes = headerLayout.encode({
    sequence: BigInt(header.sequence),
    state: header.state,
    closed: header.closed ? 1 : 0,
    foreign: header.foreign ? 1 : 0,
    volumeBytes: BigInt(header.volumeBytes),
    epoch: BigInt(header.epoch),
    sinceMs: BigInt(Math.round(header.sinceMs)),
    beatMs: BigInt(Math.round(header.beatMs)),
    volume: header.volume,
    run: header.run,
    markBytes: mark.length,
    mark: Buffer.concat([mark, Buffer.alloc(markBytesMax - mark.length)]),
    ...(header.label && {
      set: header.label.set,
      generation: BigInt(header.label.generation),
      handedOut: header.label.handedOut ? 1 : 0,
    }),
  });
  bytes.writeUInt32BE(crc32c(bytes.subarray(4)), 0);
  return bytes;
}

export function decodeHeader(bytes: Buffer): Header | undefined {
  const { magic, version, extentBytes: extent } = headerLayout.fields;
  const ours =
    bytes.readUInt32BE(0) === crc32c(bytes.subarray(4, headerLayout.bytes)) &&
    bytes.toString("latin1", magic.byte, magic.byte + magic.length) === magic.constant &&
    bytes[version.byte] === formatVersion &&
    bytes.readUInt32BE(extent.byte) === extentBytes;
  if (!ours) return undefined;
  const fields = headerLayout.decode(bytes);
  return {
    sequence: Number(fields.sequence),
    state: fields.state,
    closed: fields.closed === 1,
    foreign: fields.foreign === 1,
    volumeBytes: Number(fields.volumeBytes),
    epoch: Number(fields.epoch),
    sinceMs: Number(fields.sinceMs),
    beatMs: Number(fields.beatMs),
    volume: Buffer.from(fields.volume),
    run: Buffer.from(fields.run),
    mark: fields.mark.subarray(0, fields.markBytes).toString("utf8"),
    label: fields.set.every((byte) => byte === 0)
      ? undefined
      : {
          set: Buffer.from(fields.set),
          generation: Number(fields.generation),
          handedOut: fields.handedOut === 1,
        },
  };
}

export const headerBytes = headerLayout.bytes;

export const entryKind = { data: 1, hole: 2, zeros: 3 } as const;

const entryLayout = layout({
  name: "entry of an extent's before-image",
  source,
  bytes: entryBytes,
  fields: {
    crc: u32(0),
    kind: u8(4),
    epoch: u64(8),
    /** Whoever wrote it had it on the medium before it went by it; for anybody else it may be torn. */
    writer: raw(16, 8),
    slot: u64(24),
    dataCrc: u32(32),
    /** One bit a sector, the first most significant: it could not be read. */
    unreadable: raw(40, 16),
  },
});

export interface Entry {
  readonly kind: number;
  readonly epoch: number;
  readonly writer: Buffer;
  /** Which of the places for data has it; 0 where there is none. */
  readonly slot: number;
  readonly dataCrc: number;
  readonly unreadable: Buffer;
}

export function encodeEntry(entry: Entry): Buffer {
  const bytes = entryLayout.encode({ ...entry, epoch: BigInt(entry.epoch), slot: BigInt(entry.slot) });
  bytes.writeUInt32BE(crc32c(bytes.subarray(4)), 0);
  return bytes;
}

/** What is known of an extent: nothing (zeros), an entry, or that there was one. */
export function decodeEntry(bytes: Buffer): Entry | "none" | "damaged" {
  if (bytes.readUInt32BE(0) === 0 && bytes.every((byte) => byte === 0)) return "none";
  if (bytes.readUInt32BE(0) !== crc32c(bytes.subarray(4))) return "damaged";
  const { kind, epoch, writer, slot, dataCrc, unreadable } = entryLayout.decode(bytes);
  return {
    kind,
    epoch: Number(epoch),
    writer: Buffer.from(writer),
    slot: Number(slot),
    dataCrc,
    unreadable: Buffer.from(unreadable),
  };
}
