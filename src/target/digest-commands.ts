// The vendor commands: the unit's volume digests its own extents, and answers with encoded values.
//
// Guarantees: an answer holds values only for extents that were read whole, in order from the first one asked for.
// The fields of a command are checked before anything is read. docs/protocol.md is the reference.

import { LayoutError } from "../base/layout.ts";
import { checkedNumber, MiB } from "../base/units.ts";
import type { ValueWidth } from "../digest/encoding.ts";
import { offeredDigests } from "../digest/spec.ts";
import { encodeVendorPage } from "../scsi/inquiry-data.ts";
import * as vendor from "../scsi/vendor-commands.ts";
import type { DigestWindow } from "../volume/volume.ts";
import { outOfRange, rangeIn } from "./block-commands.ts";
import { type Call, type Command, command } from "./command-table.ts";
import { listBytesMax, runsMax } from "./extent-list.ts";
import { LogicalUnit } from "./logical-unit.ts";
import type { Nexus } from "./nexus.ts";
import {
  checkCondition,
  dataInResult,
  good,
  invalidCdbField,
  invalidParameter,
  joined,
  type ScsiResult,
} from "./scsi-task.ts";
import { answer, notAnswered, nothing, type Submission } from "./submission.ts";
import { ofUnit } from "./unit-functions.ts";

const extentsMax = 16_384;
/** Digested within seconds by the slowest disk, so that no command outlasts an initiator's timeout. */
const windowBytesMax = 256 * MiB;
const extentBytesMax = 16 * MiB;
const commandsMax = 8;
const preferredExtentBytes = 65_536;
const parameterBytesMax = vendor.parameterListHeader.bytes + 16 * extentsMax;

/** What page DBh says of the volume's catalogue. */
function catalogueOf(unit: LogicalUnit) {
  const { catalogue } = unit.volume.traits;
  if (!catalogue)
    return {
      catalogueState: 0,
      catalogueDigest: 0,
      catalogueExtentSize: 0,
      catalogueFanOut: 0,
      catalogueRootLevel: 0,
      findExtents: false,
      histories: false,
    };
  return {
    catalogueState: 1,
    catalogueDigest: offeredDigests.findIndex(({ text }) => text === catalogue.digest),
    catalogueExtentSize: Math.log2(catalogue.extentBlocks),
    catalogueFanOut: Math.log2(catalogue.fanOut),
    catalogueRootLevel: catalogue.rootLevel,
    findExtents: unit.volume.traits.findsExtents ?? false,
    histories: unit.volume.traits.keepsHistories ?? false,
  };
}

/** VPD page DBh of a unit. */
export function vendorPageOf(unit: LogicalUnit): Buffer {
  const { blockBytes } = unit.volume.geometry;
  return encodeVendorPage({
    modeEncode: true,
    modeDecode: true,
    modeVerdict: true,
    width8: true,
    width16: true,
    ...catalogueOf(unit),
    grow: unit.volume.traits.grows ?? false,
    whole: unit.volume.traits.keepsWhole ?? false,
    points: unit.points !== undefined,
    smallestExtentSize: 0,
    largestExtentSize: Math.log2(extentBytesMax / blockBytes),
    preferredExtentSize: Math.log2(preferredExtentBytes / blockBytes),
    mostExtents: extentsMax,
    mostBytes: windowBytesMax,
    mostCommands: commandsMax,
    resultLifetimeMs: LogicalUnit.heldLimits.lifetimeMs,
    volumeUuid: unit.volumeUuid,
    generation: 0,
    writeExtents: true,
    copyExtents: true,
    mostListBytes: listBytesMax,
    mostRuns: runsMax,
    digests: offeredDigests.map(({ text, identifierBytes }, index) => ({ index, text, identifierBytes })),
  });
}

interface WindowFields {
  readonly digest: number;
  readonly source: number;
  readonly width: boolean;
  readonly extentSize: number;
  readonly level: number;
  readonly numberOfExtents: number;
  readonly logicalBlockAddress: bigint;
}

type Place = { readonly [K in keyof WindowFields]: { readonly byte: number; readonly msb: number } };

/** The window that the fields describe, or what is wrong with them; `invalid` points at the field. */
function windowOf(
  unit: LogicalUnit,
  fields: WindowFields,
  initialValue: Buffer,
  place: Place,
  invalid: (byte: number, bit?: number) => ScsiResult,
): DigestWindow | ScsiResult {
  const { geometry } = unit.volume;
  const digest = offeredDigests[fields.digest];
  if (!digest) return invalid(place.digest.byte);
  if (fields.source > vendor.identifierSource.catalogueOnly)
    return invalid(place.source.byte, place.source.msb);
  if (fields.extentSize > Math.log2(extentBytesMax / geometry.blockBytes))
    return invalid(place.extentSize.byte);
  const extentBlocks = 2 ** fields.extentSize;
  const extents = fields.numberOfExtents;
  const { level } = fields;
  const { catalogue } = unit.volume.traits;
  if (level > 0) {
    const suits = catalogue && digest.text === catalogue.digest && extentBlocks === catalogue.extentBlocks;
    if (!suits || level > catalogue.rootLevel) return invalid(place.level.byte);
    // Nodes are of the catalogue: the medium has none.
    if (fields.source === vendor.identifierSource.fresh) return invalid(place.source.byte, place.source.msb);
  }
  /** Blocks that one value answers for. */
  const step = level === 0 ? extentBlocks : extentBlocks * catalogue!.fanOut ** level;
  if (
    extents > extentsMax ||
    (level === 0 && extents > 1 && extents * extentBlocks * geometry.blockBytes > windowBytesMax)
  ) {
    return invalid(place.numberOfExtents.byte);
  }
  // The last extent may be cut by the volume's end, but it begins before it.
  const lba = checkedNumber(fields.logicalBlockAddress);
  if (lba === undefined || rangeIn(unit, lba, extents === 0 ? 0 : (extents - 1) * step + 1) === undefined) {
    return outOfRange();
  }
  if (lba % step !== 0) return invalid(place.logicalBlockAddress.byte);
  const catalogueOnly = fields.source === vendor.identifierSource.catalogueOnly;
  if (catalogueOnly && !catalogue) {
    return checkCondition("commandSequenceError", { information: lba });
  }
  return {
    lba,
    extentBlocks,
    extents,
    digest,
    initialValue,
    width: fields.width ? 16 : 8,
    fresh: fields.source === vendor.identifierSource.fresh,
    catalogueOnly,
    level,
  };
}

const isResult = (value: DigestWindow | ScsiResult): value is ScsiResult => "status" in value;

async function encode(unit: LogicalUnit, window: DigestWindow): Promise<Buffer> {
  if (window.extents === 0) return answer(window, nothing, { extents: 0, unreadable: undefined });
  const digests = await unit.volume.encodeDigests(window);
  return answer(window, digests.values.subarray(0, digests.extents * window.width), digests);
}

async function decode(unit: LogicalUnit, window: DigestWindow, values: Buffer): Promise<Buffer> {
  if (window.extents === 0) return answer(window, nothing, { extents: 0, unreadable: undefined });
  const digests = await unit.volume.decodeDigests(window, values);
  return answer(window, digests.values.subarray(0, digests.extents * window.width), digests);
}

async function compare(unit: LogicalUnit, window: DigestWindow, values: Buffer): Promise<Buffer> {
  if (window.extents === 0) return answer(window, nothing, { extents: 0, unreadable: undefined });
  const verdict = await unit.volume.compareDigests(window, values);
  const bitmap = Buffer.alloc(Math.ceil(verdict.extents / 8));
  for (let i = 0; i < verdict.extents; i++) {
    if (verdict.different[i]) bitmap[i >> 3]! |= 0x80 >> (i & 7);
  }
  return answer(window, bitmap, verdict);
}

async function encodeDigests(
  call: Call<WindowFields & { initialValue: bigint; allocationLength: number }>,
): Promise<ScsiResult> {
  const { unit, fields } = call;
  const initialValue = Buffer.alloc(16);
  initialValue.writeBigUInt64BE(fields.initialValue, 8);
  const window = windowOf(unit, fields, initialValue, vendor.encodeDigests32.fields, invalidCdbField);
  if (isResult(window)) return window;
  try {
    return dataInResult(await encode(unit, window), fields.allocationLength);
  } catch (error) {
    return notAnswered(error);
  }
}

const nowhere = 0xffff_ffff_ffff_ffffn;

/** FIND EXTENTS: where the catalogue has extents with these identifiers. */
function found(
  unit: LogicalUnit,
  fields: WindowFields & { readonly dataLength: number },
  data: Buffer,
): Submission | ScsiResult {
  const { fields: place } = vendor.parameterListHeader;
  const { catalogue } = unit.volume.traits;
  const digest = offeredDigests[fields.digest];
  if (!unit.volume.traits.findsExtents || !catalogue) return invalidParameter(place.function.byte);
  if (digest?.text !== catalogue.digest) return invalidParameter(place.digest.byte);
  if (2 ** fields.extentSize !== catalogue.extentBlocks) return invalidParameter(place.extentSize.byte);
  if (fields.level !== 0) return invalidParameter(place.level.byte);
  const count = fields.numberOfExtents;
  if (count > extentsMax) return invalidParameter(place.numberOfExtents.byte);
  if (fields.dataLength !== count * digest.identifierBytes) return invalidParameter(place.dataLength.byte);
  if (fields.logicalBlockAddress !== 0n) return invalidParameter(place.logicalBlockAddress.byte);
  const wanted = Buffer.from(data);
  return {
    bytes: 8 * count,
    work: async () => {
      const places = await unit.volume.findExtents(wanted);
      const values = Buffer.alloc(8 * count);
      places.forEach((lba, i) => {
        values.writeBigUInt64BE(lba === undefined ? nowhere : BigInt(lba), 8 * i);
      });
      return answer({ lba: 0, width: 8 }, values, { extents: count, unreadable: undefined });
    },
  };
}

/** What a SUBMIT asks for, and how long its result will be; or what is wrong with its list. */
function submission(unit: LogicalUnit, nexus: Nexus, list: Buffer): Submission | ScsiResult {
  const layout = vendor.parameterListHeader;
  const reserved = layout.reservedBitSet(list);
  if (reserved) return invalidParameter(reserved.byte, reserved.bit);
  const fields = layout.decode(list);
  const data = list.subarray(layout.bytes);
  if (fields.dataLength !== data.length) return invalidParameter(layout.fields.dataLength.byte);
  if (fields.function === vendor.vendorFunction.findExtents) return found(unit, fields, data);
  const whole = ofUnit(unit, nexus, fields, data);
  if (whole) return whole;
  // The list is the transport's buffer: what outlives the command is copied.
  const window = windowOf(unit, fields, Buffer.from(fields.initialValue), layout.fields, invalidParameter);
  if (isResult(window)) return window;
  // Nodes have no data of their own to decode with.
  const encodes = fields.function === vendor.vendorFunction.encodeDigests;
  if (fields.level > 0 && !encodes) return invalidParameter(layout.fields.level.byte);
  const { extents } = window;
  const width: ValueWidth = window.width;
  const lengthIs = (bytes: number) => fields.dataLength === bytes;
  const wrongLength = () => invalidParameter(layout.fields.dataLength.byte);
  switch (fields.function) {
    case vendor.vendorFunction.encodeDigests:
      if (!lengthIs(0)) return wrongLength();
      return { bytes: extents * width, work: () => encode(unit, window) };
    case vendor.vendorFunction.decodeDigests: {
      if (!lengthIs(16 * extents)) return wrongLength();
      const values = Buffer.from(data);
      return { bytes: extents * width, work: () => decode(unit, window, values) };
    }
    case vendor.vendorFunction.compareDigests: {
      if (!lengthIs(width * extents)) return wrongLength();
      const values = Buffer.from(data);
      return { bytes: Math.ceil(extents / 8), work: () => compare(unit, window, values) };
    }
    default:
      return invalidParameter(layout.fields.function.byte);
  }
}

function submit(listByte: number) {
  return ({
    unit,
    request,
    fields,
  }: Call<{ listIdentifier: number; parameterListLength: number }>): ScsiResult => {
    const held = unit.held(request.nexus);
    if (!held) return checkCondition("internalTargetFailure");
    const refuse = (result: ScsiResult) => {
      held.fail(fields.listIdentifier);
      return result;
    };
    const { parameterListLength } = fields;
    if (parameterListLength < vendor.parameterListHeader.bytes || parameterListLength > parameterBytesMax) {
      return refuse(checkCondition("parameterListLengthError"));
    }
    const list = joined(request.dataOut);
    if (list.length < parameterListLength) return refuse(checkCondition("parameterListLengthError"));
    let asked: ReturnType<typeof submission>;
    try {
      asked = submission(unit, request.nexus, list.subarray(0, parameterListLength));
    } catch (error) {
      if (!(error instanceof LayoutError)) throw error;
      return refuse(invalidParameter(error.byte, error.bit));
    }
    if ("status" in asked) return refuse(asked);
    const bytes = vendor.answerHeader.bytes + asked.bytes;
    switch (held.admit(fields.listIdentifier, bytes)) {
      case "in use":
        return checkCondition("conflictingListIdentifier", { fieldPointer: { cdb: true, byte: listByte } });
      case "full":
        return refuse(checkCondition("insufficientResources"));
      case "admitted":
        held.hold(fields.listIdentifier, bytes, asked.work());
        return good;
    }
  };
}

function receive(listByte: number) {
  return async ({
    unit,
    request,
    fields,
  }: Call<{ listIdentifier: number; allocationLength: number }>): Promise<ScsiResult> => {
    try {
      const result = await unit.held(request.nexus)?.take(fields.listIdentifier, request.signal);
      if (result === undefined) return invalidCdbField(listByte);
      return dataInResult(result, fields.allocationLength);
    } catch (error) {
      return notAnswered(error);
    }
  };
}

const listLength = {
  dataOutBytes: ({ parameterListLength }: { parameterListLength: number }) =>
    Math.min(parameterListLength, parameterBytesMax),
  strict: true,
  vendor: true,
};
const strict = { strict: true, vendor: true };
const listByte = (layout: { fields: { listIdentifier: { byte: number } } }) =>
  layout.fields.listIdentifier.byte;

export const digestCommands: readonly Command[] = [
  command(vendor.encodeDigests32, "read", encodeDigests, strict),
  command(vendor.submit32, "read", submit(listByte(vendor.submit32)), listLength),
  command(vendor.receive32, "read", receive(listByte(vendor.receive32)), strict),
  command(vendor.submit16, "read", submit(listByte(vendor.submit16)), listLength),
  command(vendor.receive16, "read", receive(listByte(vendor.receive16)), strict),
];
