// Sense data: why a command ended with CHECK CONDITION. Built, decoded and put into words.
//
// decodeSense() takes any bytes and gives a value, or undefined for what is no sense data.
// Source: SPC-4, 4.5 Sense data; codes from annex F (ASC and ASCQ assignments).
import { checkedNumber } from "../base/units.ts";

export const senseKeys = [
  "NO SENSE",
  "RECOVERED ERROR",
  "NOT READY",
  "MEDIUM ERROR",
  "HARDWARE ERROR",
  "ILLEGAL REQUEST",
  "UNIT ATTENTION",
  "DATA PROTECT",
  "BLANK CHECK",
  "VENDOR SPECIFIC",
  "COPY ABORTED",
  "ABORTED COMMAND",
  "RESERVED",
  "VOLUME OVERFLOW",
  "MISCOMPARE",
  "COMPLETED",
] as const;

/** Where in the CDB or in the parameter list the offending field is (SPC-4, 4.5.2.4.2). */
export interface FieldPointer {
  /** True: a field of the CDB; false: of the parameter list. */
  readonly cdb: boolean;
  readonly byte: number;
  readonly bit?: number | undefined;
}

export interface Sense {
  readonly key: number;
  readonly asc: number;
  readonly ascq: number;
  /** INFORMATION: an LBA for medium errors, an offset for MISCOMPARE (of our vendor commands an LBA). */
  readonly information?: number | undefined;
  /** COMMAND-SPECIFIC INFORMATION: whatever the command says that it is; 0 is the same as none. */
  readonly commandSpecific?: number | undefined;
  readonly fieldPointer?: FieldPointer | undefined;
  /** The error belongs to an earlier command that had been reported as good. */
  readonly deferred?: boolean;
}

/** The conditions that this program reports or tells apart: key, ASC, ASCQ. */
export const condition = {
  noSense: [0x0, 0x00, 0x00],
  initializingCommandRequired: [0x2, 0x04, 0x02],
  notReadyInTransition: [0x2, 0x04, 0x0a],
  notReadyStandby: [0x2, 0x04, 0x0b],
  notReadyUnavailable: [0x2, 0x04, 0x0c],
  sanitizeInProgress: [0x2, 0x04, 0x1b],
  mediumNotPresent: [0x2, 0x3a, 0x00],
  sanitizeFailed: [0x3, 0x31, 0x03],
  unrecoveredReadError: [0x3, 0x11, 0x00],
  writeError: [0x3, 0x0c, 0x00],
  internalTargetFailure: [0x4, 0x44, 0x00],
  invalidOperationCode: [0x5, 0x20, 0x00],
  accessDenied: [0x5, 0x20, 0x02],
  lbaOutOfRange: [0x5, 0x21, 0x00],
  invalidFieldInCdb: [0x5, 0x24, 0x00],
  logicalUnitNotSupported: [0x5, 0x25, 0x00],
  invalidFieldInParameterList: [0x5, 0x26, 0x00],
  invalidReleaseOfReservation: [0x5, 0x26, 0x04],
  insufficientRegistrationResources: [0x5, 0x55, 0x04],
  parameterListLengthError: [0x5, 0x1a, 0x00],
  commandSequenceError: [0x5, 0x2c, 0x00],
  savingParametersNotSupported: [0x5, 0x39, 0x00],
  mediumRemovalPrevented: [0x5, 0x53, 0x02],
  insufficientResources: [0x5, 0x55, 0x03],
  conflictingListIdentifier: [0x5, 0x00, 0x16],
  // Not 29/01, though it is more exact: this is what initiators know (libiscsi waits for it and for no other).
  powerOnOccurred: [0x6, 0x29, 0x00],
  busReset: [0x6, 0x29, 0x02],
  deviceReset: [0x6, 0x29, 0x03],
  nexusLoss: [0x6, 0x29, 0x07],
  mediumMayHaveChanged: [0x6, 0x28, 0x00],
  modeParametersChanged: [0x6, 0x2a, 0x01],
  reservationsPreempted: [0x6, 0x2a, 0x03],
  reservationsReleased: [0x6, 0x2a, 0x04],
  registrationsPreempted: [0x6, 0x2a, 0x05],
  capacityChanged: [0x6, 0x2a, 0x09],
  commandsCleared: [0x6, 0x2f, 0x00],
  reportedLunsChanged: [0x6, 0x3f, 0x0e],
  softwareWriteProtected: [0x7, 0x27, 0x02],
  writeProtected: [0x7, 0x27, 0x00],
  spaceAllocationFailed: [0x7, 0x27, 0x07],
  tooManyTargetDescriptors: [0x5, 0x26, 0x06],
  unsupportedTargetDescriptor: [0x5, 0x26, 0x07],
  tooManySegmentDescriptors: [0x5, 0x26, 0x08],
  unsupportedSegmentDescriptor: [0x5, 0x26, 0x09],
  inlineDataLengthExceeded: [0x5, 0x26, 0x0b],
  copyThirdPartyFailure: [0xa, 0x0d, 0x01],
  copyTargetNotReachable: [0xa, 0x0d, 0x02],
  copyAborted: [0xa, 0x00, 0x00],
  protocolServiceCrcError: [0xb, 0x47, 0x05],
  dataOffsetError: [0xb, 0x4b, 0x00],
  dataPhaseError: [0xb, 0x4b, 0x00],
  commandAborted: [0xb, 0x00, 0x00],
  miscompare: [0xe, 0x1d, 0x00],
} as const satisfies Record<string, readonly [number, number, number]>;

export type Condition = keyof typeof condition;

/** The sense of one of our conditions. */
export function sense(name: Condition, details: Omit<Sense, "key" | "asc" | "ascq"> = {}): Sense {
  const [key, asc, ascq] = condition[name];
  return { key, asc, ascq, ...details };
}

/** True if `value` is that condition. */
export function isCondition(value: Sense | undefined, name: Condition): boolean {
  const [key, asc, ascq] = condition[name];
  return value !== undefined && value.key === key && value.asc === asc && value.ascq === ascq;
}

const fixedBytes = 18;

function fieldPointerBytes(pointer: FieldPointer): Buffer {
  const bytes = Buffer.alloc(3);
  const bit = pointer.bit === undefined ? 0 : 0x08 | (pointer.bit & 0x07);
  bytes[0] = 0x80 | (pointer.cdb ? 0x40 : 0) | bit;
  bytes.writeUInt16BE(pointer.byte, 1);
  return bytes;
}

/**
 * Sense data in fixed format; in descriptor format where the INFORMATION does not fit into 32 bits, or where
 * `descriptor` asks for it (D_SENSE of the control mode page).
 */
export function encodeSense(value: Sense, descriptor = false): Buffer {
  const widest = Math.max(value.information ?? 0, value.commandSpecific ?? 0);
  if (descriptor || widest > 0xffffffff) return encodeDescriptorSense(value);
  const bytes = Buffer.alloc(fixedBytes);
  bytes[0] = value.deferred ? 0x71 : 0x70;
  if (value.information !== undefined) {
    bytes[0] |= 0x80;
    bytes.writeUInt32BE(value.information, 3);
  }
  bytes[2] = value.key;
  bytes[7] = fixedBytes - 8;
  bytes.writeUInt32BE(value.commandSpecific ?? 0, 8);
  bytes[12] = value.asc;
  bytes[13] = value.ascq;
  if (value.fieldPointer) fieldPointerBytes(value.fieldPointer).copy(bytes, 15);
  return bytes;
}

/** A descriptor that is one integer of 64 bits (SPC-4, 4.5.2.2 and 4.5.2.3). */
function wideDescriptor(type: number, third: number, value: number): Buffer {
  const descriptor = Buffer.from([type, 0x0a, third, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
  descriptor.writeBigUInt64BE(BigInt(value), 4);
  return descriptor;
}

function encodeDescriptorSense(value: Sense): Buffer {
  const descriptors: Buffer[] = [];
  if (value.information !== undefined) descriptors.push(wideDescriptor(0x00, 0x80, value.information));
  if (value.commandSpecific) descriptors.push(wideDescriptor(0x01, 0, value.commandSpecific));
  if (value.fieldPointer) {
    const specific = Buffer.alloc(8);
    specific[0] = 0x02;
    specific[1] = 0x06;
    fieldPointerBytes(value.fieldPointer).copy(specific, 4);
    descriptors.push(specific);
  }
  const body = Buffer.concat(descriptors);
  const head = Buffer.from([
    value.deferred ? 0x73 : 0x72,
    value.key,
    value.asc,
    value.ascq,
    0,
    0,
    0,
    body.length,
  ]);
  return Buffer.concat([head, body]);
}

function decodeFieldPointer(bytes: Buffer): FieldPointer | undefined {
  const first = bytes[0]!;
  if ((first & 0x80) === 0) return undefined;
  return {
    cdb: (first & 0x40) !== 0,
    byte: bytes.readUInt16BE(1),
    bit: (first & 0x08) === 0 ? undefined : first & 0x07,
  };
}

/** The sense in `bytes`, in either format, truncated or not; undefined for anything else. */
export function decodeSense(bytes: Buffer): Sense | undefined {
  if (bytes.length < 1) return undefined;
  const responseCode = bytes[0]! & 0x7f;
  if (responseCode === 0x70 || responseCode === 0x71) {
    if (bytes.length < 3) return undefined;
    const length = Math.min(bytes.length, 8 + (bytes[7] ?? 0));
    const key = bytes[2]! & 0x0f;
    return {
      key,
      asc: length > 12 ? bytes[12]! : 0,
      ascq: length > 13 ? bytes[13]! : 0,
      deferred: responseCode === 0x71,
      information: (bytes[0]! & 0x80) !== 0 && bytes.length >= 7 ? bytes.readUInt32BE(3) : undefined,
      commandSpecific: (length >= 12 && bytes.readUInt32BE(8)) || undefined,
      fieldPointer: key === 5 && length >= 18 ? decodeFieldPointer(bytes.subarray(15, 18)) : undefined,
    };
  }
  if (responseCode !== 0x72 && responseCode !== 0x73) return undefined;
  if (bytes.length < 4) return undefined;
  const key = bytes[1]! & 0x0f;
  let information: number | undefined;
  let commandSpecific: number | undefined;
  let fieldPointer: FieldPointer | undefined;
  const end = Math.min(bytes.length, 8 + (bytes[7] ?? 0));
  for (let at = 8; at + 2 <= end; at += 2 + bytes[at + 1]!) {
    const type = bytes[at]!;
    const length = bytes[at + 1]!;
    if (at + 2 + length > end) break;
    if (type === 0x00 && length >= 10 && (bytes[at + 2]! & 0x80) !== 0) {
      information = checkedNumber(bytes.readBigUInt64BE(at + 4)) ?? information;
    } else if (type === 0x01 && length >= 10) {
      commandSpecific = checkedNumber(bytes.readBigUInt64BE(at + 4)) || commandSpecific;
    } else if (type === 0x02 && length >= 6 && key === 5) {
      fieldPointer = decodeFieldPointer(bytes.subarray(at + 4, at + 7));
    }
  }
  return {
    key,
    asc: bytes[2]!,
    ascq: bytes[3]!,
    deferred: responseCode === 0x73,
    information,
    commandSpecific,
    fieldPointer,
  };
}

// ASC ‖ ASCQ in hexadecimal → T10's words. Only what administrators meet; the numbers stand beside them anyway.
const additionalWords: Record<string, string> = {
  "0000": "NO ADDITIONAL SENSE INFORMATION",
  "0016": "OPERATION IN PROGRESS",
  "0400": "LOGICAL UNIT NOT READY, CAUSE NOT REPORTABLE",
  "0401": "LOGICAL UNIT IS IN PROCESS OF BECOMING READY",
  "0402": "LOGICAL UNIT NOT READY, INITIALIZING COMMAND REQUIRED",
  "0403": "LOGICAL UNIT NOT READY, MANUAL INTERVENTION REQUIRED",
  "0404": "LOGICAL UNIT NOT READY, FORMAT IN PROGRESS",
  "040a": "LOGICAL UNIT NOT ACCESSIBLE, ASYMMETRIC ACCESS STATE TRANSITION",
  "040b": "LOGICAL UNIT NOT ACCESSIBLE, TARGET PORT IN STANDBY STATE",
  "040c": "LOGICAL UNIT NOT ACCESSIBLE, TARGET PORT IN UNAVAILABLE STATE",
  "0414": "LOGICAL UNIT NOT READY, SPACE ALLOCATION IN PROGRESS",
  "041b": "LOGICAL UNIT NOT READY, SANITIZE IN PROGRESS",
  "0800": "LOGICAL UNIT COMMUNICATION FAILURE",
  "0801": "LOGICAL UNIT COMMUNICATION TIME-OUT",
  "0c00": "WRITE ERROR",
  "0c02": "WRITE ERROR - AUTO REALLOCATION FAILED",
  "0d01": "THIRD PARTY DEVICE FAILURE",
  "0d02": "COPY TARGET DEVICE NOT REACHABLE",
  "0e00": "INVALID INFORMATION UNIT",
  "1000": "ID CRC OR ECC ERROR",
  "1100": "UNRECOVERED READ ERROR",
  "1101": "READ RETRIES EXHAUSTED",
  "1104": "UNRECOVERED READ ERROR - AUTO REALLOCATE FAILED",
  "1400": "RECORDED ENTITY NOT FOUND",
  "1a00": "PARAMETER LIST LENGTH ERROR",
  "1d00": "MISCOMPARE DURING VERIFY OPERATION",
  "2000": "INVALID COMMAND OPERATION CODE",
  "2002": "ACCESS DENIED - NO ACCESS RIGHTS",
  "2100": "LOGICAL BLOCK ADDRESS OUT OF RANGE",
  "2400": "INVALID FIELD IN CDB",
  "2500": "LOGICAL UNIT NOT SUPPORTED",
  "2600": "INVALID FIELD IN PARAMETER LIST",
  "2604": "INVALID RELEASE OF PERSISTENT RESERVATION",
  "2606": "TOO MANY TARGET DESCRIPTORS",
  "2607": "UNSUPPORTED TARGET DESCRIPTOR TYPE CODE",
  "2608": "TOO MANY SEGMENT DESCRIPTORS",
  "2609": "UNSUPPORTED SEGMENT DESCRIPTOR TYPE CODE",
  "260b": "INLINE DATA LENGTH EXCEEDED",
  "2700": "WRITE PROTECTED",
  "2701": "HARDWARE WRITE PROTECTED",
  "2702": "LOGICAL UNIT SOFTWARE WRITE PROTECTED",
  "2707": "SPACE ALLOCATION FAILED WRITE PROTECT",
  "2800": "NOT READY TO READY CHANGE, MEDIUM MAY HAVE CHANGED",
  "2900": "POWER ON, RESET, OR BUS DEVICE RESET OCCURRED",
  "2901": "POWER ON OCCURRED",
  "2902": "SCSI BUS RESET OCCURRED",
  "2903": "BUS DEVICE RESET FUNCTION OCCURRED",
  "2907": "I_T NEXUS LOSS OCCURRED",
  "2a01": "MODE PARAMETERS CHANGED",
  "2a03": "RESERVATIONS PREEMPTED",
  "2a04": "RESERVATIONS RELEASED",
  "2a05": "REGISTRATIONS PREEMPTED",
  "2a06": "ASYMMETRIC ACCESS STATE CHANGED",
  "2a09": "CAPACITY DATA HAS CHANGED",
  "2c00": "COMMAND SEQUENCE ERROR",
  "2f00": "COMMANDS CLEARED BY ANOTHER INITIATOR",
  "3103": "SANITIZE COMMAND FAILED",
  "3900": "SAVING PARAMETERS NOT SUPPORTED",
  "3a00": "MEDIUM NOT PRESENT",
  "3f0e": "REPORTED LUNS DATA HAS CHANGED",
  "4400": "INTERNAL TARGET FAILURE",
  "4705": "PROTOCOL SERVICE CRC ERROR",
  "4900": "INVALID MESSAGE ERROR",
  "4b00": "DATA PHASE ERROR",
  "5302": "MEDIUM REMOVAL PREVENTED",
  "5500": "SYSTEM RESOURCE FAILURE",
  "5504": "INSUFFICIENT REGISTRATION RESOURCES",
  "5503": "INSUFFICIENT RESOURCES",
};

const hex = (value: number) => value.toString(16).padStart(2, "0");

/** `MEDIUM ERROR, UNRECOVERED READ ERROR (3/11/00) at LBA 4096`. */
export function describeSense(value: Sense): string {
  const words = additionalWords[hex(value.asc) + hex(value.ascq)];
  const key = senseKeys[value.key] ?? `SENSE KEY ${value.key}`;
  let text = words === undefined || words.startsWith("NO ADDITIONAL") ? key : `${key}, ${words}`;
  text += ` (${value.key.toString(16)}/${hex(value.asc)}/${hex(value.ascq)})`;
  if (value.information !== undefined && value.key !== 0xe) text += ` at LBA ${value.information}`;
  if (value.fieldPointer) {
    const { cdb, byte, bit } = value.fieldPointer;
    text += `, ${cdb ? "CDB" : "parameter"} byte ${byte}${bit === undefined ? "" : ` bit ${bit}`}`;
  }
  return text;
}
