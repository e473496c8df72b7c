// CDBs of the block commands that concern the medium as a whole (SBC-3/SBC-4): loading, prefetching, defects, erasing.
import { bits, constant, flag, layout, u8, u16, u32, u64 } from "../base/layout.ts";

export const startStopUnit = layout({
  name: "START STOP UNIT",
  source: "SBC-3, 5.25",
  bytes: 6,
  fields: {
    operationCode: constant(u8(0), 0x1b),
    immed: flag(1, 0),
    powerConditionModifier: bits(3, 3, 4),
    powerCondition: bits(4, 7, 4),
    noFlush: flag(4, 2),
    loej: flag(4, 1),
    start: flag(4, 0),
    control: u8(5),
  },
});

export const preventAllowMediumRemoval = layout({
  name: "PREVENT ALLOW MEDIUM REMOVAL",
  source: "SBC-3, 5.13",
  bytes: 6,
  fields: { operationCode: constant(u8(0), 0x1e), prevent: bits(4, 1, 2), control: u8(5) },
});

export const preFetch10 = layout({
  name: "PRE-FETCH (10)",
  source: "SBC-3, 5.11",
  bytes: 10,
  fields: {
    operationCode: constant(u8(0), 0x34),
    immed: flag(1, 1),
    logicalBlockAddress: u32(2),
    groupNumber: bits(6, 4, 5),
    length: u16(7),
    control: u8(9),
  },
});

export const preFetch16 = layout({
  name: "PRE-FETCH (16)",
  source: "SBC-3, 5.12",
  bytes: 16,
  fields: {
    operationCode: constant(u8(0), 0x90),
    immed: flag(1, 1),
    logicalBlockAddress: u64(2),
    length: u32(10),
    groupNumber: bits(14, 4, 5),
    control: u8(15),
  },
});

export const readDefectData10 = layout({
  name: "READ DEFECT DATA (10)",
  source: "SBC-3, 5.20",
  bytes: 10,
  fields: {
    operationCode: constant(u8(0), 0x37),
    reqPlist: flag(2, 4),
    reqGlist: flag(2, 3),
    defectListFormat: bits(2, 2, 3),
    allocationLength: u16(7),
    control: u8(9),
  },
});

export const readDefectData12 = layout({
  name: "READ DEFECT DATA (12)",
  source: "SBC-3, 5.21",
  bytes: 12,
  fields: {
    operationCode: constant(u8(0), 0xb7),
    reqPlist: flag(1, 4),
    reqGlist: flag(1, 3),
    defectListFormat: bits(1, 2, 3),
    addressDescriptorIndex: u32(2),
    allocationLength: u32(6),
    control: u8(11),
  },
});

const sanitizeFields = {
  operationCode: constant(u8(0), 0x48),
  immed: flag(1, 7),
  ause: flag(1, 5),
  parameterListLength: u16(7),
  control: u8(9),
} as const;

export const sanitizeOverwrite = layout({
  name: "SANITIZE, OVERWRITE",
  source: "SBC-3, 5.24",
  bytes: 10,
  fields: { ...sanitizeFields, serviceAction: constant(bits(1, 4, 5), 0x01) },
});

export const sanitizeBlockErase = layout({
  name: "SANITIZE, BLOCK ERASE",
  source: "SBC-3, 5.24",
  bytes: 10,
  fields: { ...sanitizeFields, serviceAction: constant(bits(1, 4, 5), 0x02) },
});

export const sanitizeExitFailureMode = layout({
  name: "SANITIZE, EXIT FAILURE MODE",
  source: "SBC-3, 5.24",
  bytes: 10,
  fields: { ...sanitizeFields, serviceAction: constant(bits(1, 4, 5), 0x1f) },
});

/** The head of SANITIZE's OVERWRITE parameter list; the initialization pattern follows. */
export const sanitizeOverwriteHeader = layout({
  name: "SANITIZE OVERWRITE parameter list",
  source: "SBC-3, 5.24.2.2",
  bytes: 4,
  fields: {
    invert: flag(0, 7),
    test: bits(0, 6, 2),
    overwriteCount: bits(0, 4, 5),
    initializationPatternLength: u16(2),
  },
});
