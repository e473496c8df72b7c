// SCSI commands for fuzzing: every command that the target has a layout for, with fields that mostly make sense and
// parameter data to match, damaged now and then.
import { type Field, type Layout, LayoutError } from "../../src/base/layout.ts";
import * as xcopy from "../../src/scsi/extended-copy.ts";
import * as extents from "../../src/scsi/extent-commands.ts";
import * as persistent from "../../src/scsi/persistent-reservation.ts";
import * as sbc from "../../src/scsi/sbc-commands.ts";
import * as medium from "../../src/scsi/sbc-medium-commands.ts";
import * as verify from "../../src/scsi/sbc-verify-commands.ts";
import * as spc from "../../src/scsi/spc-commands.ts";
import * as vendor from "../../src/scsi/vendor-commands.ts";
import { below, bytesOf, oneOf } from "../support/data.ts";
import {
  copied,
  copyList,
  dataRun,
  sha256,
  type TestRun,
  writeList,
  zeroRun,
} from "../support/extent-lists.ts";
import { chance, damaged, type Random, reshaped } from "./mutate.ts";

type AnyLayout = Layout<Record<string, Field<unknown>>>;

const isCommand = (value: unknown): value is AnyLayout =>
  (value as AnyLayout | undefined)?.fields?.operationCode?.constant !== undefined;

/** Every CDB layout there is. */
export const cdbLayouts: readonly AnyLayout[] = [
  spc,
  sbc,
  medium,
  verify,
  persistent,
  xcopy,
  vendor,
  extents,
].flatMap((module): AnyLayout[] => Object.values(module).filter(isCommand));

export interface FuzzedCommand {
  readonly name: string;
  readonly cdb: Buffer;
  readonly dataOut: Buffer;
  /** Bytes of Data-In that the initiator expects; a command has one or the other. */
  readonly dataInBytes: number;
}

export interface Surroundings {
  readonly blockBytes: number;
  readonly blocks: number;
  /** NAA designators that EXTENDED COPY may name. */
  readonly designators: readonly Buffer[];
  /** UUIDs of units, 16 bytes each. */
  readonly uuids: readonly Buffer[];
  /** The names of ports that a registration may be given to. */
  readonly ports: readonly string[];
}

const few = (random: Random) => (chance(random, 0.9) ? below(random, 17) : below(random, 2000));
const keys = [0n, 0n, 1n, 1n, 1n, 2n, 0xffff_ffff_ffff_ffffn];

function unmapList(random: Random, { blocks }: Surroundings): Buffer {
  const descriptors = Array.from({ length: below(random, 5) }, () =>
    sbc.unmapBlockDescriptor.encode({
      logicalBlockAddress: BigInt(below(random, blocks + 8)),
      numberOfLogicalBlocks: few(random),
    }),
  );
  const bytes = 16 * descriptors.length;
  const head = sbc.unmapParameterListHeader.encode({
    unmapDataLength: bytes + 6,
    unmapBlockDescriptorDataLength: bytes,
  } as never);
  return Buffer.concat([head, ...descriptors]);
}

function reservationList(random: Random, { ports }: Surroundings): Buffer {
  const common = {
    reservationKey: oneOf(random, keys),
    serviceActionReservationKey: oneOf(random, keys),
  };
  const ids = Buffer.concat(
    Array.from({ length: below(random, 3) }, () => persistent.encodeTransportId(oneOf(random, ports))),
  );
  if (chance(random, 0.3)) {
    const head = persistent.moveParameterList.encode({
      ...common,
      unreg: chance(random, 0.5),
      relativeTargetPort: below(random, 3),
      transportIdLength: ids.length,
    });
    return Buffer.concat([head, ids]);
  }
  const specIPt = chance(random, 0.3);
  const head = persistent.parameterList.encode({
    ...common,
    specIPt,
    allTgPt: chance(random, 0.3),
    aptpl: chance(random, 0.1),
  });
  if (!specIPt) return head;
  const length = Buffer.alloc(4);
  length.writeUInt32BE(ids.length);
  return Buffer.concat([head, length, ids]);
}

function extendedCopyList(random: Random, { blocks, blockBytes, designators }: Surroundings): Buffer {
  const targets = Array.from({ length: 1 + below(random, 3) }, () => {
    const designator = oneOf(random, designators);
    return xcopy.identificationTarget.encode({
      codeSet: 1,
      designatorType: 3,
      designatorLength: designator.length,
      designator: Buffer.concat([designator, Buffer.alloc(20)]).subarray(0, 20),
      blockBytes,
    });
  });
  const segments = Array.from({ length: below(random, 4) }, () =>
    xcopy.blockToBlockSegment.encode({
      destinationCount: chance(random, 0.5),
      sourceIndex: below(random, targets.length + 1),
      destinationIndex: below(random, targets.length),
      blocks: few(random),
      sourceLba: BigInt(below(random, blocks)),
      destinationLba: BigInt(below(random, blocks)),
    }),
  );
  const head = xcopy.copyListHeader.encode({
    listIdentifier: below(random, 4),
    listIdentifierUsage: oneOf(random, [0, 2, 3]),
    targetDescriptorListLength: xcopy.targetDescriptorBytes * targets.length,
    segmentDescriptorListLength: xcopy.blockToBlockSegment.bytes * segments.length,
  });
  return Buffer.concat([head, ...targets, ...segments]);
}

/** What GROW is asked for: a little more most of the time, too little, or what nobody has. */
function growthData(random: Random, { blocks, uuids }: Surroundings): Buffer {
  const wanted = oneOf(random, [
    blocks + below(random, 64),
    blocks + below(random, 64),
    below(random, blocks),
  ]);
  const absurd = oneOf(random, [1n << 40n, 1n << 44n, 1n << 63n, 0xffff_ffff_ffff_ffffn]);
  return vendor.growList.encode({
    volumeUuid: chance(random, 0.9) ? oneOf(random, uuids) : bytesOf(random, 16),
    numberOfBlocks: chance(random, 0.2) ? absurd : BigInt(wanted),
  });
}

/** A unit and a run, of which there are few; a list of ROLL BACK is shorter. */
function wholeData(random: Random, func: number, { uuids }: Surroundings): Buffer {
  if (func === 14) return Buffer.alloc(chance(random, 0.9) ? 0 : 8);
  const uuid = chance(random, 0.9) ? oneOf(random, uuids) : bytesOf(random, 16);
  const rest = func === 13 ? Buffer.alloc(8, 0) : Buffer.alloc(16, below(random, 3));
  if (func === 13 && chance(random, 0.3)) rest[0] = below(random, 256);
  return Buffer.concat([uuid, rest]);
}

function submitList(random: Random, around: Surroundings): Buffer {
  const extentSize = below(random, 6);
  const extents = below(random, 20);
  const func = oneOf(random, [1, 1, 2, 3, 6, 7, 8, 9, 10, 11, 11, 12, 13, 14, 15]);
  const wide = chance(random, 0.3);
  // Functions of histories have a pair, of which there are few, and a generation.
  const pair = Buffer.alloc(func === 9 ? 16 : 32, below(random, 3));
  const bytes = func === 6 ? 32 : wide ? 16 : 8;
  const ofWhole = func >= 11 && func <= 14 ? wholeData(random, func, around) : pair;
  const ofUnit = func === 10 ? growthData(random, around) : ofWhole;
  const values = func === 1 ? Buffer.alloc(0) : func >= 7 ? ofUnit : bytesOf(random, extents * bytes);
  const head = vendor.parameterListHeader.encode({
    function: func,
    digest: func === 6 ? 2 : below(random, 6),
    source: chance(random, 0.8) ? 0 : below(random, 4),
    width: wide,
    extentSize,
    numberOfExtents: extents,
    dataLength: values.length,
    level: chance(random, 0.2) ? below(random, 4) : 0,
    logicalBlockAddress: func === 6 ? 0n : BigInt(below(random, 8) << extentSize),
    initialValue: bytesOf(random, 16),
  });
  return Buffer.concat([head, values]);
}

function runsToWrite(random: Random, { blocks, blockBytes }: Surroundings): Buffer {
  const run = (): TestRun => {
    const lba = below(random, blocks + 2);
    const count = 1 + below(random, chance(random, 0.9) ? 8 : 200);
    if (chance(random, 0.2)) return zeroRun(lba, count);
    // What is written is no secret.
    const data = Buffer.alloc(count * blockBytes, below(random, 256));
    const identifier = chance(random, 0.1) ? bytesOf(random, 32) : sha256(data);
    return dataRun(lba, data, { compressed: chance(random, 0.6), blockBytes, identifier });
  };
  return writeList(Array.from({ length: below(random, 6) }, run));
}

function runsToCopy(random: Random, { blocks, blockBytes }: Surroundings): Buffer {
  const run = (): TestRun => {
    const count = 1 + below(random, 8);
    // Zeros are what there most likely is.
    const identifier = sha256(Buffer.alloc(count * blockBytes, chance(random, 0.7) ? 0 : below(random, 256)));
    return copied(below(random, blocks + 2), below(random, blocks), count, identifier);
  };
  return copyList(Array.from({ length: below(random, 6) }, run));
}

function modeList(random: Random, long: boolean): Buffer {
  const caching = Buffer.alloc(20);
  caching.set([0x08, 0x12, chance(random, 0.5) ? 0x04 : 0]);
  const control = Buffer.alloc(12);
  control.set([0x0a, 0x0a, chance(random, 0.3) ? 0x04 : 0, 0, chance(random, 0.1) ? 0x08 : 0]);
  return Buffer.concat([Buffer.alloc(long ? 8 : 4), oneOf(random, [caching, control])]);
}

function sanitizeList(random: Random, { blockBytes }: Surroundings): Buffer {
  const pattern = bytesOf(random, oneOf(random, [4, blockBytes]));
  const head = Buffer.from([0x01 + below(random, 2), 0, 0, 0]);
  head.writeUInt16BE(pattern.length, 2);
  return Buffer.concat([head, pattern]);
}

/** Lists of the vendor commands. */
const vendorLists = new Map<string, (random: Random, around: Surroundings) => Buffer>([
  [vendor.submit16.name, submitList],
  [vendor.submit32.name, submitList],
  [extents.writeExtents16.name, runsToWrite],
  [extents.writeExtents32.name, runsToWrite],
  [extents.copyExtents16.name, runsToCopy],
  [extents.copyExtents32.name, runsToCopy],
]);

/** Other commands whose Data-Out is a list of parameters, by operation code. */
const lists = new Map<number, (random: Random, around: Surroundings) => Buffer>([
  [0x15, (random) => modeList(random, false)],
  [0x42, unmapList],
  [0x48, sanitizeList],
  [0x55, (random) => modeList(random, true)],
  [0x56, (random) => bytesOf(random, oneOf(random, [0, 8]))],
  [0x57, (random) => bytesOf(random, oneOf(random, [0, 8]))],
  [0x5f, reservationList],
  [0x83, extendedCopyList],
]);
const listOf = ({ name, fields }: AnyLayout) =>
  vendorLists.get(name) ?? lists.get(fields.operationCode!.constant as number)!;

const oneBlock = new Set([0x41, 0x93]);
const twice = new Set([0x89]);
const writes = new Set([0x0a, 0x2a, 0xaa, 0x8a, 0x2e, 0xae, 0x8e, 0x8b, 0x9c, 0x41, 0x93, 0x89]);
const verifies = new Set([0x2f, 0xaf, 0x8f]);
const reads = new Set([0x08, 0x28, 0xa8, 0x88]);

const reservationTypes = [...Object.values(persistent.reservationType), 0, 15];
const pageCodes = [
  0x00, 0x08, 0x0a, 0x1c, 0x3f, 0x80, 0x83, 0x86, 0x87, 0x88, 0x8f, 0xb0, 0xb1, 0xb2, 0xdb, 0x2f, 0x55,
];

/** A value for a field, by what its name says. */
function fieldValue(
  random: Random,
  name: string,
  field: Field<unknown>,
  { blocks }: Surroundings,
  list: Buffer,
) {
  const fitting = (value: number) =>
    field.kind === "u64" ? BigInt(value) : value % 2 ** Math.min(32, field.width);
  if (field.constant !== undefined) return undefined;
  if (/address$/i.test(name)) return fitting(below(random, blocks + 4));
  if (/allocationLength/.test(name)) return fitting(oneOf(random, [0, 4, 16, 255, 4096, 65535]));
  if (/parameterListLength/.test(name)) return fitting(list.length);
  if (/length|blocks$|extents$/i.test(name)) return fitting(few(random));
  if (/listIdentifier/.test(name)) return fitting(below(random, 4));
  if (name === "pf") return chance(random, 0.9);
  if (name === "type") return oneOf(random, reservationTypes);
  if (name === "scope") return chance(random, 0.9) ? 0 : below(random, 16);
  if (name === "pageCode") return oneOf(random, pageCodes) % 2 ** field.width;
  if (field.kind === "flag") return chance(random, 0.25);
  if (field.kind !== "uint") return undefined;
  return chance(random, 0.6) ? 0 : below(random, 2 ** Math.min(field.width, 16));
}

/** One command of `layout`, or of any. */
export function commandOf(
  random: Random,
  around: Surroundings,
  layout = oneOf(random, cdbLayouts),
): FuzzedCommand {
  const code = layout.fields.operationCode!.constant as number;
  const wantsList =
    Object.hasOwn(layout.fields, "parameterListLength") && (code !== 0x48 || chance(random, 0.5));
  let dataOut: Buffer = wantsList ? listOf(layout)(random, around) : Buffer.alloc(0);
  if (wantsList && chance(random, 0.2)) dataOut = damaged(random, dataOut);
  if (wantsList && chance(random, 0.1)) dataOut = Buffer.from(reshaped(random, dataOut));
  const values: Record<string, unknown> = {};
  for (const [name, field] of Object.entries(layout.fields)) {
    const value = fieldValue(random, name, field, around, dataOut);
    if (value !== undefined) values[name] = value;
  }
  if (chance(random, 0.9) && Object.hasOwn(values, "control")) values.control = 0;
  let cdb: Buffer;
  try {
    cdb = layout.encode(values);
  } catch (error) {
    if (!(error instanceof LayoutError)) throw error;
    cdb = layout.encode({});
  }
  const length = Object.entries(values).find(([name]) =>
    /^(transferLength|length|numberOfLogicalBlocks)$/.test(name),
  );
  const blocks = Number(length?.[1] ?? 0);
  const moved = blocks * around.blockBytes;
  if (writes.has(code) || (verifies.has(code) && ((values.bytchk as number | undefined) ?? 0) > 0)) {
    const bytes = oneBlock.has(code) ? around.blockBytes : twice.has(code) ? 2 * moved : moved;
    // What is written is no secret.
    dataOut = Buffer.alloc(Math.min(bytes, 256 * 1024), below(random, 256));
  }
  let dataInBytes = reads.has(code) ? moved : Number(values.allocationLength ?? (code === 0x25 ? 8 : 0));
  if (chance(random, 0.1)) dataInBytes = oneOf(random, [0, 1, 8, 511, 70_000]);
  if (dataOut.length > 0 && chance(random, 0.1)) dataOut = dataOut.subarray(0, below(random, dataOut.length));
  if (chance(random, 0.1)) cdb = damaged(random, cdb);
  return { name: layout.name, cdb, dataOut, dataInBytes: dataOut.length > 0 ? 0 : dataInBytes };
}
