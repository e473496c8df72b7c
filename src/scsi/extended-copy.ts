// EXTENDED COPY and RECEIVE COPY RESULTS (LID1): CDBs, parameter lists and parameter data.
//
// Source: SPC-4, 6.3 (EXTENDED COPY), 6.24 (RECEIVE COPY RESULTS), 7.8.17 (Third-party Copy VPD page); the target and
// segment descriptors as in SPC-3, 6.3.6 and 6.3.7.
import { bits, constant, flag, layout, raw, u8, u16, u24, u32, u64 } from "../base/layout.ts";

export const extendedCopy = layout({
  name: "EXTENDED COPY (LID1)",
  source: "SPC-4, 6.3",
  bytes: 16,
  fields: {
    operationCode: constant(u8(0), 0x83),
    serviceAction: constant(bits(1, 4, 5), 0x00),
    parameterListLength: u32(10),
    control: u8(15),
  },
});

const receiveCopyResults = (name: string, action: number) =>
  layout({
    name: `RECEIVE COPY RESULTS, ${name}`,
    source: "SPC-4, 6.24",
    bytes: 16,
    fields: {
      operationCode: constant(u8(0), 0x84),
      serviceAction: constant(bits(1, 4, 5), action),
      listIdentifier: u8(2),
      allocationLength: u32(10),
      control: u8(15),
    },
  });

export const copyStatus = receiveCopyResults("COPY STATUS", 0);
export const operatingParameters = receiveCopyResults("OPERATING PARAMETERS", 3);

export const copyListHeader = layout({
  name: "EXTENDED COPY (LID1) parameter list",
  source: "SPC-4, 6.3.1",
  bytes: 16,
  fields: {
    listIdentifier: u8(0),
    sequentialStriped: flag(1, 5),
    listIdentifierUsage: bits(1, 4, 2),
    priority: bits(1, 2, 3),
    targetDescriptorListLength: u16(2),
    segmentDescriptorListLength: u32(8),
    inlineDataLength: u32(12),
  },
});

export const targetDescriptorBytes = 32;

/** E4h: a unit by one of the designators of its Device Identification VPD page. */
export const identificationTarget = layout({
  name: "Identification descriptor target descriptor",
  source: "SPC-3, 6.3.6.2",
  bytes: targetDescriptorBytes,
  fields: {
    typeCode: constant(u8(0), 0xe4),
    // LU ID TYPE (bits 7 and 6) is obsolete since SPC-4.
    nul: flag(1, 5),
    peripheralDeviceType: bits(1, 4, 5),
    codeSet: bits(4, 3, 4),
    association: bits(5, 5, 2),
    designatorType: bits(5, 3, 4),
    designatorLength: u8(7),
    designator: raw(8, 20),
    pad: flag(28, 2),
    blockBytes: u24(29),
  },
});

/** 02h. */
export const blockToBlockSegment = layout({
  name: "Block device to block device segment descriptor",
  source: "SPC-3, 6.3.7.5",
  bytes: 28,
  fields: {
    typeCode: constant(u8(0), 0x02),
    /** The count is in blocks of the destination. */
    destinationCount: flag(1, 1),
    cat: flag(1, 0),
    descriptorLength: constant(u16(2), 0x18),
    sourceIndex: u16(4),
    destinationIndex: u16(6),
    blocks: u16(10),
    sourceLba: u64(12),
    destinationLba: u64(20),
  },
});

export const copyStatusData = layout({
  name: "RECEIVE COPY RESULTS, COPY STATUS parameter data",
  source: "SPC-4, 6.24.2",
  bytes: 12,
  fields: {
    availableData: constant(u32(0), 8),
    /** 0 under way, 1 completed, 2 completed with errors. */
    copyManagerStatus: bits(4, 6, 7),
    segmentsProcessed: u16(5),
    /** 1: the count is in KiB. */
    transferCountUnits: u8(7),
    transferCount: u32(8),
  },
});

export const operatingParametersData = layout({
  name: "RECEIVE COPY RESULTS, OPERATING PARAMETERS parameter data",
  source: "SPC-4, 6.24.4",
  bytes: 44,
  fields: {
    availableData: u32(0),
    snlid: flag(4, 0),
    maximumTargetDescriptorCount: u16(8),
    maximumSegmentDescriptorCount: u16(10),
    maximumDescriptorListLength: u32(12),
    maximumSegmentLength: u32(16),
    maximumInlineDataLength: u32(20),
    heldDataLimit: u32(24),
    totalConcurrentCopies: u16(34),
    maximumConcurrentCopies: u8(36),
    dataSegmentGranularity: u8(37),
    implementedDescriptorListLength: u8(43),
  },
});
