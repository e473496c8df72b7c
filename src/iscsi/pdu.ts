// The basic header segments of every iSCSI PDU.
//
// Source: RFC 7143, section 11. Bytes 4 (TotalAHSLength) and 5–7 (DataSegmentLength) belong to the framing and are
// filled in by it; they are part of each layout so that no other field can overlap them.
import { bits, constant, flag, layout, raw, u8, u16, u24, u32, u64 } from "../base/layout.ts";
import { noTag, opcode } from "./codes.ts";

export const headerBytes = 48;

const length = { totalAhsLength: u8(4), dataSegmentLength: u24(5) };
/** Of every PDU from the target, and of every numbered one from the initiator (4.2.2). */
const targetNumbers = { statSN: u32(24), expCmdSN: u32(28), maxCmdSN: u32(32) };
const initiatorNumbers = { cmdSN: u32(24), expStatSN: u32(28) };
const final = flag(1, 7);
const source = (section: string) => `RFC 7143, ${section}`;

export const scsiCommandPdu = layout({
  name: "SCSI Command",
  source: source("11.3"),
  bytes: headerBytes,
  fields: {
    immediate: flag(0, 6),
    opcode: constant(bits(0, 5, 6), opcode.scsiCommand),
    final,
    read: flag(1, 6),
    write: flag(1, 5),
    attributes: bits(1, 2, 3),
    ...length,
    lun: u64(8),
    initiatorTaskTag: u32(16),
    expectedDataTransferLength: u32(20), // bytes
    ...initiatorNumbers,
    cdb: raw(32, 16),
  },
});

export const scsiResponsePdu = layout({
  name: "SCSI Response",
  source: source("11.4"),
  bytes: headerBytes,
  fields: {
    opcode: constant(u8(0), opcode.scsiResponse),
    final: constant(flag(1, 7), true),
    bidirectionalReadResidualOverflow: flag(1, 4),
    bidirectionalReadResidualUnderflow: flag(1, 3),
    residualOverflow: flag(1, 2),
    residualUnderflow: flag(1, 1),
    response: u8(2),
    status: u8(3),
    ...length,
    initiatorTaskTag: u32(16),
    snackTag: u32(20),
    ...targetNumbers,
    expDataSN: u32(36),
    bidirectionalReadResidualCount: u32(40),
    residualCount: u32(44),
  },
});

export const taskManagementRequestPdu = layout({
  name: "Task Management Function Request",
  source: source("11.5"),
  bytes: headerBytes,
  fields: {
    immediate: flag(0, 6),
    opcode: constant(bits(0, 5, 6), opcode.taskManagementRequest),
    final: constant(flag(1, 7), true),
    function: bits(1, 6, 7),
    ...length,
    lun: u64(8),
    initiatorTaskTag: u32(16),
    referencedTaskTag: u32(20),
    ...initiatorNumbers,
    refCmdSN: u32(32),
    expDataSN: u32(36),
  },
});

export const taskManagementResponsePdu = layout({
  name: "Task Management Function Response",
  source: source("11.6"),
  bytes: headerBytes,
  fields: {
    opcode: constant(u8(0), opcode.taskManagementResponse),
    final: constant(flag(1, 7), true),
    response: u8(2),
    ...length,
    initiatorTaskTag: u32(16),
    ...targetNumbers,
  },
});

export const dataOutPdu = layout({
  name: "SCSI Data-Out",
  source: source("11.7"),
  bytes: headerBytes,
  fields: {
    opcode: constant(u8(0), opcode.dataOut),
    final,
    ...length,
    lun: u64(8),
    initiatorTaskTag: u32(16),
    targetTransferTag: u32(20),
    expStatSN: u32(28),
    dataSN: u32(36),
    bufferOffset: u32(40),
  },
});

export const dataInPdu = layout({
  name: "SCSI Data-In",
  source: source("11.7"),
  bytes: headerBytes,
  fields: {
    opcode: constant(u8(0), opcode.dataIn),
    final,
    acknowledge: flag(1, 6),
    residualOverflow: flag(1, 2),
    residualUnderflow: flag(1, 1),
    hasStatus: flag(1, 0),
    status: u8(3),
    ...length,
    lun: u64(8),
    initiatorTaskTag: u32(16),
    targetTransferTag: u32(20),
    ...targetNumbers,
    dataSN: u32(36),
    bufferOffset: u32(40),
    residualCount: u32(44),
  },
});

export const r2tPdu = layout({
  name: "Ready To Transfer",
  source: source("11.8"),
  bytes: headerBytes,
  fields: {
    opcode: constant(u8(0), opcode.r2t),
    final: constant(flag(1, 7), true),
    ...length,
    lun: u64(8),
    initiatorTaskTag: u32(16),
    targetTransferTag: u32(20),
    ...targetNumbers,
    r2tSN: u32(36),
    bufferOffset: u32(40),
    desiredDataTransferLength: u32(44), // bytes
  },
});

export const asyncMessagePdu = layout({
  name: "Asynchronous Message",
  source: source("11.9"),
  bytes: headerBytes,
  fields: {
    opcode: constant(u8(0), opcode.asyncMessage),
    final: constant(flag(1, 7), true),
    ...length,
    lun: u64(8),
    reserved: constant(u32(16), noTag),
    ...targetNumbers,
    asyncEvent: u8(36),
    asyncVCode: u8(37),
    parameter1: u16(38),
    parameter2: u16(40),
    parameter3: u16(42),
  },
});

export const textRequestPdu = layout({
  name: "Text Request",
  source: source("11.10"),
  bytes: headerBytes,
  fields: {
    immediate: flag(0, 6),
    opcode: constant(bits(0, 5, 6), opcode.textRequest),
    final,
    continue: flag(1, 6),
    ...length,
    lun: u64(8),
    initiatorTaskTag: u32(16),
    targetTransferTag: u32(20),
    ...initiatorNumbers,
  },
});

export const textResponsePdu = layout({
  name: "Text Response",
  source: source("11.11"),
  bytes: headerBytes,
  fields: {
    opcode: constant(u8(0), opcode.textResponse),
    final,
    continue: flag(1, 6),
    ...length,
    lun: u64(8),
    initiatorTaskTag: u32(16),
    targetTransferTag: u32(20),
    ...targetNumbers,
  },
});

export const loginRequestPdu = layout({
  name: "Login Request",
  source: source("11.12"),
  bytes: headerBytes,
  fields: {
    immediate: flag(0, 6),
    opcode: constant(bits(0, 5, 6), opcode.loginRequest),
    transit: flag(1, 7),
    continue: flag(1, 6),
    currentStage: bits(1, 3, 2),
    nextStage: bits(1, 1, 2),
    versionMax: u8(2),
    versionMin: u8(3),
    ...length,
    isid: raw(8, 6),
    tsih: u16(14),
    initiatorTaskTag: u32(16),
    cid: u16(20),
    ...initiatorNumbers,
  },
});

export const loginResponsePdu = layout({
  name: "Login Response",
  source: source("11.13"),
  bytes: headerBytes,
  fields: {
    opcode: constant(u8(0), opcode.loginResponse),
    transit: flag(1, 7),
    continue: flag(1, 6),
    currentStage: bits(1, 3, 2),
    nextStage: bits(1, 1, 2),
    versionMax: u8(2),
    versionActive: u8(3),
    ...length,
    isid: raw(8, 6),
    tsih: u16(14),
    initiatorTaskTag: u32(16),
    ...targetNumbers,
    statusClass: u8(36),
    statusDetail: u8(37),
  },
});

export const logoutRequestPdu = layout({
  name: "Logout Request",
  source: source("11.14"),
  bytes: headerBytes,
  fields: {
    immediate: flag(0, 6),
    opcode: constant(bits(0, 5, 6), opcode.logoutRequest),
    final: constant(flag(1, 7), true),
    reasonCode: bits(1, 6, 7),
    ...length,
    initiatorTaskTag: u32(16),
    cid: u16(20),
    ...initiatorNumbers,
  },
});

export const logoutResponsePdu = layout({
  name: "Logout Response",
  source: source("11.15"),
  bytes: headerBytes,
  fields: {
    opcode: constant(u8(0), opcode.logoutResponse),
    final: constant(flag(1, 7), true),
    response: u8(2),
    ...length,
    initiatorTaskTag: u32(16),
    ...targetNumbers,
    time2Wait: u16(40),
    time2Retain: u16(42),
  },
});

export const rejectPdu = layout({
  name: "Reject",
  source: source("11.17"),
  bytes: headerBytes,
  fields: {
    opcode: constant(u8(0), opcode.reject),
    final: constant(flag(1, 7), true),
    reason: u8(2),
    ...length,
    initiatorTaskTag: constant(u32(16), noTag),
    ...targetNumbers,
    dataSN: u32(36),
  },
});

export const nopOutPdu = layout({
  name: "NOP-Out",
  source: source("11.18"),
  bytes: headerBytes,
  fields: {
    immediate: flag(0, 6),
    opcode: constant(bits(0, 5, 6), opcode.nopOut),
    final: constant(flag(1, 7), true),
    ...length,
    lun: u64(8),
    initiatorTaskTag: u32(16),
    targetTransferTag: u32(20),
    ...initiatorNumbers,
  },
});

export const nopInPdu = layout({
  name: "NOP-In",
  source: source("11.19"),
  bytes: headerBytes,
  fields: {
    opcode: constant(u8(0), opcode.nopIn),
    final: constant(flag(1, 7), true),
    ...length,
    lun: u64(8),
    initiatorTaskTag: u32(16),
    targetTransferTag: u32(20),
    ...targetNumbers,
  },
});
