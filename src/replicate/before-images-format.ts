// The files of a folder of before-images, as bytes: docs/formats/before-images.md is written from this table.
//
// A folder has backup.json (what, when, of which volume) and images-1, images-2, … (one for each pass, and for what is
// trimmed behind it). An images file is a header and records; a record is a head and, unless it says otherwise, the blocks
// that stood there.

import { ascii, constant, flag, layout, raw, u16, u32, u64 } from "../base/layout.ts";

const source = "docs/formats/before-images.md";

export const formatVersion = 1;
export const manifestName = "backup.json";
export const imagesName = (pass: number): string => `images-${pass}`;
export const imagesPattern = /^images-(\d+)$/;

/** CRC-32C of the bytes before the checksum's own. */
export const imagesHeader = layout({
  name: "before-images file header",
  source,
  bytes: 64,
  fields: {
    magic: constant(ascii(0, 8), "LUNSYNCB"),
    version: constant(u16(8), formatVersion),
    blockBytes: u32(12),
    blocks: u64(16),
    backupUuid: raw(24, 16),
    pass: u32(40),
    checksum: u32(60),
  },
});

export const imageRecord = layout({
  name: "before-images record head",
  source,
  bytes: 32,
  fields: {
    magic: constant(ascii(0, 4), "IMG1"),
    /** The blocks were zeros: no data follows. */
    zeros: flag(4, 7),
    /** The blocks could not be read: no data follows, and nothing can be put back. */
    unreadable: flag(4, 6),
    /** No extent: what stands before it is on disk. Its `lba` is the byte offset at which it stands itself. */
    commit: flag(4, 5),
    blocks: u32(8),
    lba: u64(12),
    dataChecksum: u32(20),
    checksum: u32(28),
  },
});

/** backup.json */
export interface Manifest {
  readonly format: "lunsync before-images";
  readonly version: number;
  readonly uuid: string;
  /** RFC 3339, UTC. */
  readonly begun: string;
  readonly ended?: string | undefined;
  /** When it was put back. */
  readonly undone?: string | undefined;
  readonly source: string;
  readonly replica: string;
  /** The names by which the replica is recognized. */
  readonly replicaUuid?: string | undefined;
  readonly replicaKeys: readonly string[];
  readonly blockBytes: number;
  readonly blocks: number;
  readonly extentBytes: number;
}
