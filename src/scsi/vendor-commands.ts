// The vendor-specific commands by which a replica proves what it holds: CDBs, the parameter list of SUBMIT, the
// head of the answers, and VPD page DBh. docs/protocol.md is the reference; it is written from this table. Those that
// write are in extent-commands.ts; their numbers are here, so that no two are alike.
import { ascii, bits, constant, flag, layout, raw, u8, u16, u32, u64 } from "../base/layout.ts";

const source = "docs/protocol.md";

/** Service actions of operation code 7Fh. */
export const serviceAction32 = {
  encodeDigests: 0xf801,
  submit: 0xf802,
  receive: 0xf803,
  writeExtents: 0xf804,
  copyExtents: 0xf805,
} as const;

/** Service actions of operation code D1h. */
export const serviceAction16 = {
  submit: 0x01,
  receive: 0x02,
  writeExtents: 0x03,
  copyExtents: 0x04,
} as const;

/** FUNCTION of a parameter list: of SUBMIT, but for WRITE EXTENTS and COPY EXTENTS, which are commands. */
export const vendorFunction = {
  encodeDigests: 0x01,
  decodeDigests: 0x02,
  compareDigests: 0x03,
  writeExtents: 0x04,
  copyExtents: 0x05,
  findExtents: 0x06,
  beginGeneration: 0x07,
  commitGeneration: 0x08,
  changesSince: 0x09,
  grow: 0x0a,
  beginWhole: 0x0b,
  commitWhole: 0x0c,
  rollBack: 0x0d,
  wholeState: 0x0e,
  setLabel: 0x0f,
  listPoints: 0x14,
  exposePoint: 0x15,
  withdrawPoint: 0x16,
} as const;

/** SOURCE: where the device server may take the identifiers from. */
export const identifierSource = { fresh: 0, catalogueAllowed: 1, catalogueOnly: 2 } as const;

export const protocolVersion = 1;
export const vendorPageCode = 0xdb;
export const vendorPageSignature = "LUNSYNC";

/** What all of operation code D1h have in common. */
export const cdb16 = (action: number) => ({
  operationCode: constant(u8(0), 0xd1),
  serviceAction: constant(u8(1), action),
  control: u8(15),
});

/** What all of operation code 7Fh have in common. */
export const cdb32 = (action: number) => ({
  operationCode: constant(u8(0), 0x7f),
  control: u8(1),
  groupNumber: bits(6, 5, 6),
  additionalCdbLength: constant(u8(7), 0x18),
  serviceAction: constant(u16(8), action),
});

/** ENCODE DIGESTS: one command, 32 bytes, Data-In. */
export const encodeDigests32 = layout({
  name: "ENCODE DIGESTS (32)",
  source,
  bytes: 32,
  fields: {
    ...cdb32(serviceAction32.encodeDigests),
    digest: u8(2),
    source: bits(3, 1, 2),
    dpo: flag(3, 2),
    width: flag(3, 3),
    extentSize: u8(4),
    level: u8(5),
    numberOfExtents: u16(10),
    logicalBlockAddress: u64(12),
    initialValue: u64(20),
    allocationLength: u32(28),
  },
});

/** SUBMIT: Data-Out, a parameter list that RECEIVE answers. */
export const submit16 = layout({
  name: "SUBMIT (16)",
  source,
  bytes: 16,
  fields: {
    ...cdb16(serviceAction16.submit),
    listIdentifier: u32(2),
    parameterListLength: u32(10),
  },
});

/** RECEIVE: Data-In; waits for the results of the SUBMIT with the same list identifier. */
export const receive16 = layout({
  name: "RECEIVE (16)",
  source,
  bytes: 16,
  fields: {
    ...cdb16(serviceAction16.receive),
    listIdentifier: u32(2),
    allocationLength: u32(10),
  },
});

export const submit32 = layout({
  name: "SUBMIT (32)",
  source,
  bytes: 32,
  fields: {
    ...cdb32(serviceAction32.submit),
    listIdentifier: u32(12),
    parameterListLength: u32(28),
  },
});

export const receive32 = layout({
  name: "RECEIVE (32)",
  source,
  bytes: 32,
  fields: {
    ...cdb32(serviceAction32.receive),
    listIdentifier: u32(12),
    allocationLength: u32(28),
  },
});

/** The head of a SUBMIT parameter list; the function's own data follows it. */
export const parameterListHeader = layout({
  name: "SUBMIT parameter list",
  source,
  bytes: 48,
  fields: {
    version: constant(u8(0), protocolVersion),
    function: u8(1),
    digest: u8(2),
    source: bits(3, 1, 2),
    dpo: flag(3, 2),
    width: flag(3, 3),
    extentSize: u8(4),
    level: u8(5),
    groupNumber: bits(6, 5, 6),
    numberOfExtents: u16(8),
    dataLength: u32(12),
    logicalBlockAddress: u64(16),
    initialValue: raw(32, 16),
  },
});

/** The head of the Data-In of ENCODE DIGESTS and RECEIVE; the values follow it. */
export const answerHeader = layout({
  name: "digest answer header",
  source,
  bytes: 32,
  fields: {
    /** Bytes that follow this field, whether or not the allocation length let them through. */
    availableLength: u32(0),
    version: constant(u8(4), protocolVersion),
    fromCatalogue: flag(5, 0),
    partial: flag(5, 1),
    width: flag(5, 3),
    numberOfExtents: u16(6),
    logicalBlockAddress: u64(8),
    unreadableLogicalBlockAddress: u64(16),
    catalogueGeneration: u64(24),
  },
});

/** VPD page DBh without its list of digests. */
export const vendorPageHeader = layout({
  name: "lunsync VPD page",
  source,
  bytes: 72,
  fields: {
    peripheral: u8(0),
    pageCode: constant(u8(1), vendorPageCode),
    pageLength: u16(2),
    signature: constant(ascii(4, 8), vendorPageSignature),
    protocolVersion: u8(12),
    modeVerdict: flag(13, 2),
    modeDecode: flag(13, 1),
    modeEncode: flag(13, 0),
    width16: flag(14, 1),
    width8: flag(14, 0),
    catalogueState: bits(15, 1, 2),
    smallestExtentSize: u8(16),
    largestExtentSize: u8(17),
    preferredExtentSize: u8(18),
    mostExtents: u16(20),
    mostCommands: u16(22),
    mostBytes: u64(24),
    resultLifetimeMs: u32(32),
    volumeUuid: raw(36, 16),
    generation: u64(52),
    numberOfDigests: u16(60),
    points: flag(62, 7),
    whole: flag(62, 5),
    grow: flag(62, 4),
    histories: flag(62, 3),
    findExtents: flag(62, 2),
    copyExtents: flag(62, 1),
    writeExtents: flag(62, 0),
    /** Index into the list of digests, log2 of the extent's blocks, log2 of the fan-out, and the level of the root. */
    catalogueDigest: u8(63),
    mostListBytes: u32(64),
    mostRuns: u16(68),
    catalogueExtentSize: u8(70),
    catalogueFanOut: bits(71, 7, 3),
    catalogueRootLevel: bits(71, 4, 5),
  },
});

/** The head of one entry in page DBh's list; `textLength` bytes of ASCII follow it. */
export const digestEntryHeader = layout({
  name: "digest list entry",
  source,
  bytes: 4,
  fields: { index: u8(0), textLength: u8(1), identifierBytes: u16(2) },
});

/** The data of a list of GROW. */
export const growList = layout({
  name: "what a unit is to grow to",
  source,
  bytes: 24,
  fields: {
    /** Of the unit that is meant, as its page DBh has it. */
    volumeUuid: raw(0, 16),
    numberOfBlocks: u64(16),
  },
});

/** The head of the answer to CHANGES SINCE GENERATION; ranges follow it. */
export const changesHeader = layout({
  name: "changes since a generation",
  source,
  bytes: 24,
  fields: {
    /** There is a generation in common. */
    known: flag(0, 0),
    /** The ranges name what has not changed. */
    unchanged: flag(0, 1),
    numberOfRanges: u32(4),
    generation: raw(8, 16),
  },
});

export const changedRange = layout({
  name: "range of extents",
  source,
  bytes: 12,
  fields: { first: u64(0), count: u32(8) },
});
