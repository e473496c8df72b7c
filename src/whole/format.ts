// The journal of a volume's before-images, as bytes: docs/formats/whole.md is written from these tables.
//
// Guarantees: a header or an entry that is damaged decodes to undefined. Both fit into one sector, which a device writes
// whole.
import { isBlank } from "../base/bytes.ts";
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

const formatVersion = 2;
const markBytesMax = 256;

/** Of the header of a journal, and of the head of a layer. */
export const headerBytes = 512;

const headerLayout = layout({
  name: "header of a journal of before-images",
  source,
  bytes: headerBytes,
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
    /** 1: the volume is whole, and what is written all the same is kept in the layer of `epoch`. */
    keeping: u8(448),
    /** Somebody else has written to the volume since layers up to this one were begun. */
    doubtEpoch: u64(456),
    /** The generation that the volume was whole as last: when it was, and by which run. */
    madeMs: u64(464),
    madeRun: raw(472, 16),
  },
});

export interface Header {
  readonly sequence: number;
  readonly state: number;
  readonly closed: boolean;
  readonly foreign: boolean;
  /** The newest layer: the one that before-images go into, if there is one now. */
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
  /** The volume is whole, and what is written all the same is kept. */
  readonly keeping: boolean;
  /** Layers up to this one may show what somebody else wrote. */
  readonly doubtEpoch: number;
  /** The generation that the volume was whole as last; 0 where others may have written to it since. */
  readonly madeMs: number;
  readonly madeRun: Buffer;
}

export function encodeHeader(header: Header): Buffer {
  const mark = Buffer.from(header.mark, "utf8").subarray(0, markBytesMax);
  const bytes = headerLayout.encode({
    sequence: BigInt(header.sequence),
    state: header.state,
    closed: header.closed ? 1 : 0,
    foreign: header.foreign ? 1 : 0,
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
    keeping: header.keeping ? 1 : 0,
    doubtEpoch: BigInt(header.doubtEpoch),
    madeMs: BigInt(Math.round(header.madeMs)),
    madeRun: header.madeRun,
  });
  bytes.writeUInt32BE(crc32c(bytes.subarray(4)), 0);
  return bytes;
}

/** Whether the sector is whole, of this kind, and of this version. */
function isOurs(bytes: Buffer, { fields }: typeof headerLayout | typeof layerLayout): boolean {
  const { magic, version, extentBytes: extent } = fields;
  return (
    bytes.readUInt32BE(0) === crc32c(bytes.subarray(4, headerBytes)) &&
    bytes.toString("latin1", magic.byte, magic.byte + magic.length) === magic.constant &&
    bytes[version.byte] === formatVersion &&
    bytes.readUInt32BE(extent.byte) === extentBytes
  );
}

export function decodeHeader(bytes: Buffer): Header | undefined {
  if (!isOurs(bytes, headerLayout)) return undefined;
  const fields = headerLayout.decode(bytes);
  return {
    sequence: Number(fields.sequence),
    state: fields.state,
    closed: fields.closed === 1,
    foreign: fields.foreign === 1,
    epoch: Number(fields.epoch),
    sinceMs: Number(fields.sinceMs),
    beatMs: Number(fields.beatMs),
    volume: Buffer.from(fields.volume),
    run: Buffer.from(fields.run),
    mark: fields.mark.subarray(0, fields.markBytes).toString("utf8"),
    label: isBlank(fields.set)
      ? undefined
      : {
          set: Buffer.from(fields.set),
          generation: Number(fields.generation),
          handedOut: fields.handedOut === 1,
        },
    keeping: fields.keeping === 1,
    doubtEpoch: Number(fields.doubtEpoch),
    madeMs: Number(fields.madeMs),
    madeRun: Buffer.from(fields.madeRun),
  };
}

const layerLayout = layout({
  name: "head of a layer of before-images",
  source,
  bytes: headerBytes,
  fields: {
    crc: u32(0),
    magic: constant(ascii(8, 8), "LUNLAYER"),
    version: constant(u8(24), formatVersion),
    extentBytes: constant(u32(28), extentBytes),
    volumeBytes: u64(32),
    epoch: u64(40),
    madeMs: u64(48),
    volume: raw(64, 32),
    run: raw(96, 16),
    id: raw(112, 16),
    set: raw(128, 16),
    generation: u64(144),
    isPoint: u8(152),
  },
});

/** What a layer is of: the volume as it was when the layer was begun. Written once. */
export interface LayerHead {
  readonly epoch: number;
  /** Of the volume, when the layer was begun. */
  readonly volumeBytes: number;
  /** When the volume became what the layer keeps: ms since 1970; and by which run, zeros for none. */
  readonly madeMs: number;
  readonly run: Buffer;
  /** SHA-256 of the volume's names. */
  readonly volume: Buffer;
  /** 16 random bytes, by which it is called. */
  readonly id: Buffer;
  /** Which generation of which replication set that was. */
  readonly label: Omit<SetLabel, "handedOut"> | undefined;
  /** A policy asked for restore points: where none is named later, this one stays. */
  readonly isPoint: boolean;
}

export function encodeLayerHead(head: LayerHead): Buffer {
  const bytes = layerLayout.encode({
    epoch: BigInt(head.epoch),
    volumeBytes: BigInt(head.volumeBytes),
    madeMs: BigInt(Math.round(head.madeMs)),
    run: head.run,
    volume: head.volume,
    id: head.id,
    isPoint: head.isPoint ? 1 : 0,
    ...(head.label && { set: head.label.set, generation: BigInt(head.label.generation) }),
  });
  bytes.writeUInt32BE(crc32c(bytes.subarray(4)), 0);
  return bytes;
}

export function decodeLayerHead(bytes: Buffer): LayerHead | undefined {
  if (!isOurs(bytes, layerLayout)) return undefined;
  const { epoch, volumeBytes, madeMs, run, volume, id, set, generation, isPoint } = layerLayout.decode(bytes);
  return {
    epoch: Number(epoch),
    volumeBytes: Number(volumeBytes),
    madeMs: Number(madeMs),
    run: Buffer.from(run),
    volume: Buffer.from(volume),
    id: Buffer.from(id),
    isPoint: isPoint === 1,
    label: isBlank(set) ? undefined : { set: Buffer.from(set), generation: Number(generation) },
  };
}

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
  if (bytes.readUInt32BE(0) === 0 && isBlank(bytes)) return "none";
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
