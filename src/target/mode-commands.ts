// MODE SENSE and MODE SELECT: how the logical unit behaves, and changing it.
//
// Guarantees: a parameter list is applied whole or not at all; initiators but the one that changed something are told
// (the parameters are one set for all of them).
//
// Source: SPC-4, 6.11 to 6.14, 7.5.
import * as spc from "../scsi/spc-commands.ts";
import { type Call, type Command, command } from "./command-table.ts";
import type { LogicalUnit } from "./logical-unit.ts";
import type { PageControl } from "./mode-parameters.ts";
import {
  checkCondition,
  dataInResult,
  good,
  invalidCdbField,
  invalidParameter,
  joined,
  type ScsiResult,
} from "./scsi-task.ts";

interface ModeSense {
  readonly dbd: boolean;
  readonly llbaa: boolean;
  readonly pageControl: number;
  readonly pageCode: number;
  readonly subpageCode: number;
  readonly allocationLength: number;
}

const pageControls: Readonly<Record<number, PageControl>> = { 0: "current", 1: "changeable", 2: "default" };
const allPages = 0x3f;
const allSubpages = 0xff;

function blockDescriptor(unit: LogicalUnit, long: boolean): Buffer {
  const { blocks, blockBytes } = unit.volume.geometry;
  const descriptor = Buffer.alloc(long ? 16 : 8);
  if (long) {
    descriptor.writeBigUInt64BE(BigInt(blocks), 0);
    descriptor.writeUInt32BE(blockBytes, 12);
  } else {
    descriptor.writeUInt32BE(Math.min(blocks, 0xffffffff), 0);
    descriptor.writeUIntBE(blockBytes, 5, 3);
  }
  return descriptor;
}

/** `short`: MODE SENSE (6). */
function modeSense({ unit, request }: Call<unknown>, fields: ModeSense, short: boolean): ScsiResult {
  const control = pageControls[fields.pageControl];
  if (control === undefined) return checkCondition("savingParametersNotSupported");
  if (fields.subpageCode !== 0 && fields.subpageCode !== allSubpages) return invalidCdbField(3);
  const codes = fields.pageCode === allPages ? unit.modes.pageCodes : [fields.pageCode];
  const pages: Buffer[] = [];
  for (const code of codes) {
    const page = unit.modes.page(code, control);
    if (!page) return invalidCdbField(2, 5);
    pages.push(page);
  }
  const descriptor = fields.dbd ? Buffer.alloc(0) : blockDescriptor(unit, !short && fields.llbaa);
  const deviceSpecific = (unit.writeProtection || !request.nexus.rights.writes ? 0x80 : 0) | 0x10; // WP, DPOFUA
  const rest = Buffer.concat([descriptor, ...pages]);
  let head: Buffer;
  if (short) {
    head = Buffer.from([Math.min(255, 3 + rest.length), 0, deviceSpecific, descriptor.length]);
  } else {
    head = Buffer.alloc(8);
    head.writeUInt16BE(6 + rest.length, 0);
    head[3] = deviceSpecific;
    head[4] = descriptor.length === 16 ? 1 : 0; // LONGLBA
    head.writeUInt16BE(descriptor.length, 6);
  }
  return dataInResult(Buffer.concat([head, rest]), fields.allocationLength);
}

/** A block descriptor may be sent back as it was read: it changes neither size nor block length. */
function isOwnDescriptor(unit: LogicalUnit, sent: Buffer, long: boolean): boolean {
  if (sent.length === 0) return true;
  const own = blockDescriptor(unit, long);
  if (sent.length !== own.length) return false;
  // NUMBER OF LOGICAL BLOCKS 0: as it is (SPC-4, 7.5.6.2).
  const keepsSize = sent.subarray(0, long ? 8 : 4).every((byte) => byte === 0);
  return keepsSize ? sent.subarray(long ? 8 : 4).equals(own.subarray(long ? 8 : 4)) : sent.equals(own);
}

function modeSelect(
  { unit, request, fields }: Call<{ pf: boolean; sp: boolean; parameterListLength: number }>,
  short: boolean,
): ScsiResult {
  if (fields.sp) return invalidCdbField(1, 0);
  if (!fields.pf) return invalidCdbField(1, 4);
  if (fields.parameterListLength === 0) return good;
  const list = joined(request.dataOut);
  const headBytes = short ? 4 : 8;
  if (list.length < fields.parameterListLength || list.length < headBytes) {
    return checkCondition("parameterListLengthError");
  }
  const long = !short && (list[4]! & 1) !== 0;
  const descriptorBytes = short ? list[3]! : list.readUInt16BE(6);
  const pagesAt = headBytes + descriptorBytes;
  if (pagesAt > list.length) return checkCondition("parameterListLengthError");
  if (!isOwnDescriptor(unit, list.subarray(headBytes, pagesAt), long)) return invalidParameter(short ? 3 : 6);
  const outcome = unit.modes.select(list.subarray(pagesAt));
  if ("wrongAt" in outcome) return invalidParameter(pagesAt + outcome.wrongAt);
  if (outcome.changed) unit.raiseAttention("modeParametersChanged", request.nexus);
  return good;
}

const listBytes = { dataOutBytes: (fields: { parameterListLength: number }) => fields.parameterListLength };

export const modeCommands: readonly Command[] = [
  command(spc.modeSense6, "read", (call) => modeSense(call, { ...call.fields, llbaa: false }, true), {
    withoutMedium: true,
  }),
  command(spc.modeSense10, "read", (call) => modeSense(call, call.fields, false), {
    withoutMedium: true,
  }),
  command(spc.modeSelect6, "write", (call) => modeSelect(call, true), { ...listBytes, withoutMedium: true }),
  command(spc.modeSelect10, "write", (call) => modeSelect(call, false), {
    ...listBytes,
    withoutMedium: true,
  }),
];
