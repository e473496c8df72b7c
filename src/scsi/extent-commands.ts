// The vendor-specific commands that write: WRITE EXTENTS and COPY EXTENTS, their CDBs and parameter lists.
// docs/protocol.md is the reference; it is written from this table.
import { bits, constant, layout, u8, u16, u32, u64 } from "../base/layout.ts";
import { cdb16, cdb32, protocolVersion, serviceAction16, serviceAction32 } from "./vendor-commands.ts";

const source = "docs/protocol.md";

/** FORM of a run's data: as it is, compressed, or none because the run is to read as zeros. */
export const runForm = { stored: 0, zstd: 1, zeros: 2 } as const;

const extents16 = (name: string, action: number) =>
  layout({
    name: `${name} (16)`,
    source,
    bytes: 16,
    fields: { ...cdb16(action), parameterListLength: u32(10) },
  });

const extents32 = (name: string, action: number) =>
  layout({
    name: `${name} (32)`,
    source,
    bytes: 32,
    fields: { ...cdb32(action), parameterListLength: u32(28) },
  });

/** WRITE EXTENTS: Data-Out, a parameter list that is carried out when the command ends. */
export const writeExtents16 = extents16("WRITE EXTENTS", serviceAction16.writeExtents);
export const writeExtents32 = extents32("WRITE EXTENTS", serviceAction32.writeExtents);

/** COPY EXTENTS: likewise, with data that the unit has already. */
export const copyExtents16 = extents16("COPY EXTENTS", serviceAction16.copyExtents);
export const copyExtents32 = extents32("COPY EXTENTS", serviceAction32.copyExtents);

/** The head of both parameter lists; the runs' descriptors follow it, then what belongs to each run, in their order. */
export const extentListHeader = layout({
  name: "extent list",
  source,
  bytes: 16,
  fields: {
    version: constant(u8(0), protocolVersion),
    function: u8(1),
    digest: u8(2),
    numberOfRuns: u16(8),
    dataLength: u32(12),
  },
});

/** A run of WRITE EXTENTS. Its identifier and its data stand behind all descriptors; zeros have neither. */
export const writeRun = layout({
  name: "WRITE EXTENTS run",
  source,
  bytes: 24,
  fields: {
    logicalBlockAddress: u64(0),
    numberOfLogicalBlocks: u32(8),
    form: bits(12, 1, 2),
    dataLength: u32(16),
  },
});

/** A run of COPY EXTENTS. Its identifier stands behind all descriptors. */
export const copyRun = layout({
  name: "COPY EXTENTS run",
  source,
  bytes: 24,
  fields: {
    sourceLogicalBlockAddress: u64(0),
    destinationLogicalBlockAddress: u64(8),
    numberOfLogicalBlocks: u32(16),
  },
});
