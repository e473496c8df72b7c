// CDBs of the primary commands (SPC-4): every device type has these.
import { bits, constant, flag, layout, u8, u16, u32 } from "../base/layout.ts";

export const testUnitReady = layout({
  name: "TEST UNIT READY",
  source: "SPC-4, 6.47",
  bytes: 6,
  fields: { operationCode: constant(u8(0), 0x00), control: u8(5) },
});

export const requestSense = layout({
  name: "REQUEST SENSE",
  source: "SPC-4, 6.39",
  bytes: 6,
  fields: { operationCode: constant(u8(0), 0x03), desc: flag(1, 0), allocationLength: u8(4), control: u8(5) },
});

export const inquiry = layout({
  name: "INQUIRY",
  source: "SPC-4, 6.6",
  bytes: 6,
  fields: {
    operationCode: constant(u8(0), 0x12),
    evpd: flag(1, 0),
    pageCode: u8(2),
    allocationLength: u16(3),
    control: u8(5),
  },
});

export const modeSense6 = layout({
  name: "MODE SENSE (6)",
  source: "SPC-4, 6.13",
  bytes: 6,
  fields: {
    operationCode: constant(u8(0), 0x1a),
    dbd: flag(1, 3),
    pageControl: bits(2, 7, 2),
    pageCode: bits(2, 5, 6),
    subpageCode: u8(3),
    allocationLength: u8(4),
    control: u8(5),
  },
});

export const modeSense10 = layout({
  name: "MODE SENSE (10)",
  source: "SPC-4, 6.14",
  bytes: 10,
  fields: {
    operationCode: constant(u8(0), 0x5a),
    llbaa: flag(1, 4),
    dbd: flag(1, 3),
    pageControl: bits(2, 7, 2),
    pageCode: bits(2, 5, 6),
    subpageCode: u8(3),
    allocationLength: u16(7),
    control: u8(9),
  },
});

export const modeSelect6 = layout({
  name: "MODE SELECT (6)",
  source: "SPC-4, 6.11",
  bytes: 6,
  fields: {
    operationCode: constant(u8(0), 0x15),
    pf: flag(1, 4),
    rtd: flag(1, 1),
    sp: flag(1, 0),
    parameterListLength: u8(4),
    control: u8(5),
  },
});

export const modeSelect10 = layout({
  name: "MODE SELECT (10)",
  source: "SPC-4, 6.12",
  bytes: 10,
  fields: {
    operationCode: constant(u8(0), 0x55),
    pf: flag(1, 4),
    rtd: flag(1, 1),
    sp: flag(1, 0),
    parameterListLength: u16(7),
    control: u8(9),
  },
});

export const reportLuns = layout({
  name: "REPORT LUNS",
  source: "SPC-4, 6.33",
  bytes: 12,
  fields: {
    operationCode: constant(u8(0), 0xa0),
    selectReport: u8(2),
    allocationLength: u32(6),
    control: u8(11),
  },
});

export const reportSupportedOperationCodes = layout({
  name: "REPORT SUPPORTED OPERATION CODES",
  source: "SPC-4, 6.35",
  bytes: 12,
  fields: {
    operationCode: constant(u8(0), 0xa3),
    serviceAction: constant(bits(1, 4, 5), 0x0c),
    rctd: flag(2, 7),
    reportingOptions: bits(2, 2, 3),
    requestedOperationCode: u8(3),
    requestedServiceAction: u16(4),
    allocationLength: u32(6),
    control: u8(11),
  },
});

/** The head of REPORT LUNS parameter data. */
export const lunListHeader = layout({
  name: "LUN LIST header",
  source: "SPC-4, 6.33, table 231",
  bytes: 8,
  fields: { lunListLength: u32(0) },
});

export const reportTargetPortGroups = layout({
  name: "REPORT TARGET PORT GROUPS",
  source: "SPC-4, 6.37",
  bytes: 12,
  fields: {
    operationCode: constant(u8(0), 0xa3),
    parameterDataFormat: bits(1, 7, 3),
    serviceAction: constant(bits(1, 4, 5), 0x0a),
    allocationLength: u32(6),
    control: u8(11),
  },
});

export const reportSupportedTaskManagementFunctions = layout({
  name: "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
  source: "SPC-4, 6.36",
  bytes: 12,
  fields: {
    operationCode: constant(u8(0), 0xa3),
    serviceAction: constant(bits(1, 4, 5), 0x0d),
    repd: flag(2, 7),
    allocationLength: u32(6),
    control: u8(11),
  },
});

export const logSense = layout({
  name: "LOG SENSE",
  source: "SPC-4, 6.8",
  bytes: 10,
  fields: {
    operationCode: constant(u8(0), 0x4d),
    ppc: flag(1, 1),
    sp: flag(1, 0),
    pageControl: bits(2, 7, 2),
    pageCode: bits(2, 5, 6),
    subpageCode: u8(3),
    parameterPointer: u16(5),
    allocationLength: u16(7),
    control: u8(9),
  },
});

const taskManagementFlags = {
  ats: flag(0, 7),
  atss: flag(0, 6),
  cacas: flag(0, 5),
  ctss: flag(0, 4),
  lurs: flag(0, 3),
  qts: flag(0, 2),
  /** TARGET RESET; obsolete since SPC-4, though iSCSI has it (RFC 7143, 11.5.1). */
  trs: flag(0, 1),
  qaes: flag(1, 2),
  qtss: flag(1, 1),
  itnrs: flag(1, 0),
};

export const supportedTaskManagement = layout({
  name: "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS basic parameter data",
  source: "SPC-4, 6.36.2; TRS: SPC-3, 6.24",
  bytes: 4,
  fields: { ...taskManagementFlags, additionalLength: constant(u8(3), 0) },
});

/** Without TMFTMOV: no time-outs are told. */
export const supportedTaskManagementLong = layout({
  name: "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS extended parameter data",
  source: "SPC-4, 6.36.3",
  bytes: 16,
  fields: { ...taskManagementFlags, additionalLength: constant(u8(3), 0x0c) },
});
