// PERSISTENT RESERVE IN and OUT, RESERVE and RELEASE: CDBs, parameter data, and the TransportIDs of iSCSI.
//
// decodeTransportIds() takes any bytes; what is no list of iSCSI TransportIDs gives undefined.
// Source: SPC-4, 6.15, 6.16, 7.6.4.8 (TransportID for SCSI over iSCSI); SPC-2, 7.21 and 7.22 (RESERVE, RELEASE).
import { bits, constant, flag, layout, u8, u16, u32, u64 } from "../base/layout.ts";

/** PERSISTENT RESERVATION TYPE (SPC-4, table 213). */
export const reservationType = {
  writeExclusive: 1,
  exclusiveAccess: 3,
  writeExclusiveRegistrantsOnly: 5,
  exclusiveAccessRegistrantsOnly: 6,
  writeExclusiveAllRegistrants: 7,
  exclusiveAccessAllRegistrants: 8,
} as const;

const persistentReserveIn = (name: string, action: number) =>
  layout({
    name: `PERSISTENT RESERVE IN, ${name}`,
    source: "SPC-4, 6.15",
    bytes: 10,
    fields: {
      operationCode: constant(u8(0), 0x5e),
      serviceAction: constant(bits(1, 4, 5), action),
      allocationLength: u16(7),
      control: u8(9),
    },
  });

export const readKeys = persistentReserveIn("READ KEYS", 0);
export const readReservation = persistentReserveIn("READ RESERVATION", 1);
export const reportCapabilities = persistentReserveIn("REPORT CAPABILITIES", 2);
export const readFullStatus = persistentReserveIn("READ FULL STATUS", 3);

const persistentReserveOut = (name: string, action: number) =>
  layout({
    name: `PERSISTENT RESERVE OUT, ${name}`,
    source: "SPC-4, 6.16",
    bytes: 10,
    fields: {
      operationCode: constant(u8(0), 0x5f),
      serviceAction: constant(bits(1, 4, 5), action),
      scope: bits(2, 7, 4),
      type: bits(2, 3, 4),
      parameterListLength: u32(5),
      control: u8(9),
    },
  });

export const register = persistentReserveOut("REGISTER", 0);
export const reserve = persistentReserveOut("RESERVE", 1);
export const release = persistentReserveOut("RELEASE", 2);
export const clear = persistentReserveOut("CLEAR", 3);
export const preempt = persistentReserveOut("PREEMPT", 4);
export const preemptAndAbort = persistentReserveOut("PREEMPT AND ABORT", 5);
export const registerAndIgnore = persistentReserveOut("REGISTER AND IGNORE EXISTING KEY", 6);
export const registerAndMove = persistentReserveOut("REGISTER AND MOVE", 7);

/** The parameter list of all service actions but REGISTER AND MOVE; TransportIDs may follow. */
export const parameterList = layout({
  name: "PERSISTENT RESERVE OUT parameter list",
  source: "SPC-4, 6.16.3",
  bytes: 24,
  fields: {
    reservationKey: u64(0),
    serviceActionReservationKey: u64(8),
    specIPt: flag(20, 3),
    allTgPt: flag(20, 2),
    aptpl: flag(20, 0),
  },
});

export const moveParameterList = layout({
  name: "PERSISTENT RESERVE OUT, REGISTER AND MOVE parameter list",
  source: "SPC-4, 6.16.4",
  bytes: 24,
  fields: {
    reservationKey: u64(0),
    serviceActionReservationKey: u64(8),
    unreg: flag(17, 1),
    aptpl: flag(17, 0),
    relativeTargetPort: u16(18),
    transportIdLength: u32(20),
  },
});

/** READ KEYS, READ RESERVATION and READ FULL STATUS begin so. */
export const reservationHeader = layout({
  name: "PERSISTENT RESERVE IN parameter data",
  source: "SPC-4, 6.15.2",
  bytes: 8,
  fields: { generation: u32(0), additionalLength: u32(4) },
});

export const reservationDescriptor = layout({
  name: "READ RESERVATION descriptor",
  source: "SPC-4, 6.15.3",
  bytes: 16,
  fields: { reservationKey: u64(0), scope: bits(13, 7, 4), type: bits(13, 3, 4) },
});

export const capabilitiesData = layout({
  name: "REPORT CAPABILITIES parameter data",
  source: "SPC-4, 6.15.4",
  bytes: 8,
  fields: {
    length: constant(u16(0), 8),
    /** Compatible reservation handling of RESERVE and RELEASE. */
    crh: flag(2, 4),
    sipC: flag(2, 3),
    atpC: flag(2, 2),
    ptplC: flag(2, 0),
    tmv: flag(3, 7),
    allowCommands: bits(3, 6, 3),
    ptplA: flag(3, 0),
    writeExclusiveAllRegistrants: flag(4, 7),
    exclusiveAccessRegistrantsOnly: flag(4, 6),
    writeExclusiveRegistrantsOnly: flag(4, 5),
    exclusiveAccess: flag(4, 3),
    writeExclusive: flag(4, 1),
    exclusiveAccessAllRegistrants: flag(5, 0),
  },
});

export const fullStatusDescriptor = layout({
  name: "READ FULL STATUS descriptor",
  source: "SPC-4, 6.15.5",
  bytes: 24,
  fields: {
    reservationKey: u64(0),
    allTgPt: flag(12, 1),
    rHolder: flag(12, 0),
    scope: bits(13, 7, 4),
    type: bits(13, 3, 4),
    relativeTargetPort: u16(18),
    additionalDescriptorLength: u32(20),
  },
});

export const reserve6 = layout({
  name: "RESERVE (6)",
  source: "SPC-2, 7.21",
  bytes: 6,
  fields: { operationCode: constant(u8(0), 0x16), control: u8(5) },
});

export const release6 = layout({
  name: "RELEASE (6)",
  source: "SPC-2, 7.17",
  bytes: 6,
  fields: { operationCode: constant(u8(0), 0x17), control: u8(5) },
});

export const reserve10 = layout({
  name: "RESERVE (10)",
  source: "SPC-2, 7.22",
  bytes: 10,
  fields: { operationCode: constant(u8(0), 0x56), parameterListLength: u16(7), control: u8(9) },
});

export const release10 = layout({
  name: "RELEASE (10)",
  source: "SPC-2, 7.18",
  bytes: 10,
  fields: { operationCode: constant(u8(0), 0x57), parameterListLength: u16(7), control: u8(9) },
});

const protocolIscsi = 5;
const nameBytesMax = 223 + ",i,0x".length + 12;

/**
 * TransportIDs one after another: each an initiator port (`NAME,i,0xISID`) or, without the ISID, all ports of an
 * initiator. Names are in lower case.
 */
export function decodeTransportIds(bytes: Buffer): string[] | undefined {
  const names: string[] = [];
  for (let at = 0; at < bytes.length; ) {
    if (bytes.length - at < 24 || (bytes[at]! & 0x0f) !== protocolIscsi) return undefined;
    const format = bytes[at]! >> 6;
    const length = bytes.readUInt16BE(at + 2);
    const end = at + 4 + length;
    if (format > 1 || length < 20 || length % 4 !== 0 || end > bytes.length) return undefined;
    const text = bytes.subarray(at + 4, end);
    const nul = text.indexOf(0);
    if (nul < 1 || nul > nameBytesMax) return undefined;
    const name = text.toString("utf8", 0, nul).toLowerCase();
    const port = /^[^,]+,i,0x[0-9a-f]{1,12}$/.exec(name) !== null;
    if (port !== (format === 1) || (!port && name.includes(","))) return undefined;
    names.push(port ? canonical(name) : name);
    at = end;
  }
  return names;
}

/** The ISID with all of its twelve digits. */
function canonical(port: string): string {
  const [name, isid] = port.split(",i,0x");
  return `${name},i,0x${isid!.padStart(12, "0")}`;
}

/** The TransportID of an initiator port, `NAME,i,0xISID`. */
export function encodeTransportId(port: string): Buffer {
  const name = Buffer.from(`${port}\0`, "utf8");
  const length = Math.max(20, 4 * Math.ceil(name.length / 4));
  const bytes = Buffer.alloc(4 + length);
  bytes[0] = 0x40 | protocolIscsi;
  bytes.writeUInt16BE(length, 2);
  name.copy(bytes, 4);
  return bytes;
}
