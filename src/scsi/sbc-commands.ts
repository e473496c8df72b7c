// CDBs of the block commands (SBC-3/SBC-4), and the parameter data that belongs to them.
import { bits, constant, flag, layout, u8, u16, u24, u32, u64 } from "../base/layout.ts";

const protect = bits(1, 7, 3);
const dpo = flag(1, 4);
const fua = flag(1, 3);

export const read6 = layout({
  name: "READ (6)",
  source: "SBC-3, 5.14",
  bytes: 6,
  fields: {
    operationCode: constant(u8(0), 0x08),
    // 21 bits: the high five in byte 1.
    logicalBlockAddressHigh: bits(1, 4, 5),
    logicalBlockAddressLow: u16(2),
    transferLength: u8(4),
    control: u8(5),
  },
});

export const write6 = layout({
  name: "WRITE (6)",
  source: "SBC-3, 5.31",
  bytes: 6,
  fields: { ...read6.fields, operationCode: constant(u8(0), 0x0a) },
});

export const read10 = layout({
  name: "READ (10)",
  source: "SBC-3, 5.15",
  bytes: 10,
  fields: {
    operationCode: constant(u8(0), 0x28),
    rdprotect: protect,
    dpo,
    fua,
    rarc: flag(1, 2),
    logicalBlockAddress: u32(2),
    groupNumber: bits(6, 4, 5),
    transferLength: u16(7),
    control: u8(9),
  },
});

export const write10 = layout({
  name: "WRITE (10)",
  source: "SBC-3, 5.32",
  bytes: 10,
  fields: {
    operationCode: constant(u8(0), 0x2a),
    wrprotect: protect,
    dpo,
    fua,
    logicalBlockAddress: u32(2),
    groupNumber: bits(6, 4, 5),
    transferLength: u16(7),
    control: u8(9),
  },
});

export const read12 = layout({
  name: "READ (12)",
  source: "SBC-3, 5.16",
  bytes: 12,
  fields: {
    operationCode: constant(u8(0), 0xa8),
    rdprotect: protect,
    dpo,
    fua,
    rarc: flag(1, 2),
    logicalBlockAddress: u32(2),
    transferLength: u32(6),
    groupNumber: bits(10, 4, 5),
    control: u8(11),
  },
});

export const write12 = layout({
  name: "WRITE (12)",
  source: "SBC-3, 5.33",
  bytes: 12,
  fields: {
    operationCode: constant(u8(0), 0xaa),
    wrprotect: protect,
    dpo,
    fua,
    logicalBlockAddress: u32(2),
    transferLength: u32(6),
    groupNumber: bits(10, 4, 5),
    control: u8(11),
  },
});

export const read16 = layout({
  name: "READ (16)",
  source: "SBC-3, 5.17",
  bytes: 16,
  fields: {
    operationCode: constant(u8(0), 0x88),
    rdprotect: protect,
    dpo,
    fua,
    rarc: flag(1, 2),
    logicalBlockAddress: u64(2),
    transferLength: u32(10),
    groupNumber: bits(14, 4, 5),
    control: u8(15),
  },
});

export const write16 = layout({
  name: "WRITE (16)",
  source: "SBC-3, 5.34",
  bytes: 16,
  fields: {
    operationCode: constant(u8(0), 0x8a),
    wrprotect: protect,
    dpo,
    fua,
    logicalBlockAddress: u64(2),
    transferLength: u32(10),
    groupNumber: bits(14, 4, 5),
    control: u8(15),
  },
});

export const writeSame16 = layout({
  name: "WRITE SAME (16)",
  source: "SBC-3, 5.44",
  bytes: 16,
  fields: {
    operationCode: constant(u8(0), 0x93),
    wrprotect: protect,
    anchor: flag(1, 4),
    unmap: flag(1, 3),
    ndob: flag(1, 0),
    logicalBlockAddress: u64(2),
    numberOfLogicalBlocks: u32(10),
    groupNumber: bits(14, 4, 5),
    control: u8(15),
  },
});

export const writeSame10 = layout({
  name: "WRITE SAME (10)",
  source: "SBC-3, 5.43",
  bytes: 10,
  fields: {
    operationCode: constant(u8(0), 0x41),
    wrprotect: protect,
    anchor: flag(1, 4),
    unmap: flag(1, 3),
    logicalBlockAddress: u32(2),
    groupNumber: bits(6, 4, 5),
    numberOfLogicalBlocks: u16(7),
    control: u8(9),
  },
});

export const unmap = layout({
  name: "UNMAP",
  source: "SBC-3, 5.28",
  bytes: 10,
  fields: {
    operationCode: constant(u8(0), 0x42),
    anchor: flag(1, 0),
    groupNumber: bits(6, 4, 5),
    parameterListLength: u16(7),
    control: u8(9),
  },
});

export const unmapParameterListHeader = layout({
  name: "UNMAP parameter list header",
  source: "SBC-3, 5.28.2",
  bytes: 8,
  fields: { unmapDataLength: u16(0), unmapBlockDescriptorDataLength: u16(2) },
});

export const unmapBlockDescriptor = layout({
  name: "UNMAP block descriptor",
  source: "SBC-3, 5.28.2",
  bytes: 16,
  fields: { logicalBlockAddress: u64(0), numberOfLogicalBlocks: u32(8) },
});

export const synchronizeCache10 = layout({
  name: "SYNCHRONIZE CACHE (10)",
  source: "SBC-3, 5.26",
  bytes: 10,
  fields: {
    operationCode: constant(u8(0), 0x35),
    immed: flag(1, 1),
    logicalBlockAddress: u32(2),
    groupNumber: bits(6, 4, 5),
    numberOfLogicalBlocks: u16(7),
    control: u8(9),
  },
});

export const synchronizeCache16 = layout({
  name: "SYNCHRONIZE CACHE (16)",
  source: "SBC-3, 5.27",
  bytes: 16,
  fields: {
    operationCode: constant(u8(0), 0x91),
    immed: flag(1, 1),
    logicalBlockAddress: u64(2),
    numberOfLogicalBlocks: u32(10),
    groupNumber: bits(14, 4, 5),
    control: u8(15),
  },
});

export const readCapacity10 = layout({
  name: "READ CAPACITY (10)",
  source: "SBC-3, 5.18",
  bytes: 10,
  fields: {
    operationCode: constant(u8(0), 0x25),
    logicalBlockAddress: u32(2),
    pmi: flag(8, 0),
    control: u8(9),
  },
});

export const readCapacity10Data = layout({
  name: "READ CAPACITY (10) parameter data",
  source: "SBC-3, 5.18.2",
  bytes: 8,
  fields: { returnedLogicalBlockAddress: u32(0), blockLength: u32(4) },
});

export const readCapacity16 = layout({
  name: "READ CAPACITY (16)",
  source: "SBC-3, 5.19",
  bytes: 16,
  fields: {
    operationCode: constant(u8(0), 0x9e),
    serviceAction: constant(bits(1, 4, 5), 0x10),
    logicalBlockAddress: u64(2),
    allocationLength: u32(10),
    pmi: flag(14, 0),
    control: u8(15),
  },
});

export const readCapacity16Data = layout({
  name: "READ CAPACITY (16) parameter data",
  source: "SBC-3, 5.19.2",
  bytes: 32,
  fields: {
    returnedLogicalBlockAddress: u64(0),
    blockLength: u32(8),
    pType: bits(12, 3, 3),
    protEn: flag(12, 0),
    piExponent: bits(13, 7, 4),
    logicalBlocksPerPhysicalBlockExponent: bits(13, 3, 4),
    lbpme: flag(14, 7),
    lbprz: flag(14, 6),
    // 14 bits: LOWEST ALIGNED LOGICAL BLOCK ADDRESS.
    lowestAlignedHigh: bits(14, 5, 6),
    lowestAlignedLow: u8(15),
  },
});

export const getLbaStatus = layout({
  name: "GET LBA STATUS",
  source: "SBC-3, 5.6",
  bytes: 16,
  fields: {
    operationCode: constant(u8(0), 0x9e),
    serviceAction: constant(bits(1, 4, 5), 0x12),
    startingLogicalBlockAddress: u64(2),
    allocationLength: u32(10),
    control: u8(15),
  },
});

export const lbaStatusDescriptor = layout({
  name: "LBA status descriptor",
  source: "SBC-3, 5.6.2",
  bytes: 16,
  fields: {
    logicalBlockAddress: u64(0),
    numberOfLogicalBlocks: u32(8),
    provisioningStatus: bits(12, 3, 4),
  },
});

/** B0h: what transfers the device likes. */
export const blockLimits = layout({
  name: "Block Limits VPD page",
  source: "SBC-3, 6.6.4",
  bytes: 64,
  fields: {
    peripheral: u8(0),
    pageCode: constant(u8(1), 0xb0),
    pageLength: constant(u16(2), 0x3c),
    wsnz: flag(4, 0),
    maximumCompareAndWriteLength: u8(5),
    optimalTransferLengthGranularity: u16(6),
    maximumTransferLength: u32(8),
    optimalTransferLength: u32(12),
    maximumPrefetchLength: u32(16),
    maximumUnmapLbaCount: u32(20),
    maximumUnmapBlockDescriptorCount: u32(24),
    optimalUnmapGranularity: u32(28),
    ugavalid: flag(32, 7),
    // 31 bits.
    unmapGranularityAlignmentHigh: bits(32, 6, 7),
    unmapGranularityAlignmentLow: u24(33),
    maximumWriteSameLength: u64(36),
    maximumAtomicTransferLength: u32(44),
    atomicAlignment: u32(48),
    atomicTransferLengthGranularity: u32(52),
    maximumAtomicTransferLengthWithAtomicBoundary: u32(56),
    maximumAtomicBoundarySize: u32(60),
  },
});

/** B2h: thin provisioning. */
export const logicalBlockProvisioning = layout({
  name: "Logical Block Provisioning VPD page",
  source: "SBC-3, 6.6.7",
  bytes: 8,
  fields: {
    peripheral: u8(0),
    pageCode: constant(u8(1), 0xb2),
    pageLength: constant(u16(2), 4),
    thresholdExponent: u8(4),
    lbpu: flag(5, 7),
    lbpws: flag(5, 6),
    lbpws10: flag(5, 5),
    lbprz: bits(5, 4, 3),
    ancSup: flag(5, 1),
    dp: flag(5, 0),
    provisioningType: bits(6, 2, 3),
  },
});
