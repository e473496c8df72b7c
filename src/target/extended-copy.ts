// What an EXTENDED COPY asks for: its parameter list, checked and resolved to copies between units.
//
// Guarantees: a list with anything wrong in its descriptors moves no data; units are found only among those that the
// initiator may see, by the designators that they show in their Device Identification VPD page.
//
// Source: SPC-4, 6.3; SPC-3, 6.3 for the descriptors and their errors.
import { LayoutError } from "../base/layout.ts";
import { checkedNumber, MiB } from "../base/units.ts";
import * as xcopy from "../scsi/extended-copy.ts";
import type { LogicalUnit } from "./logical-unit.ts";
import { checkCondition, invalidParameter, type ScsiResult } from "./scsi-task.ts";

export const copyLimits = {
  targets: 16,
  segments: 256,
  /** Of all descriptors. */
  descriptorBytes: 16 * xcopy.targetDescriptorBytes + 256 * xcopy.blockToBlockSegment.bytes,
  segmentBytes: 256 * MiB,
  heldResults: 16,
} as const;

export const parameterListBytesMax = xcopy.copyListHeader.bytes + copyLimits.descriptorBytes;

export interface Segment {
  readonly source: LogicalUnit;
  readonly destination: LogicalUnit;
  readonly sourceLba: number;
  readonly destinationLba: number;
  readonly bytes: number;
}

export interface CopyPlan {
  /** Undefined where the initiator wants no status kept. */
  readonly listIdentifier: number | undefined;
  readonly keepsStatus: boolean;
  readonly segments: readonly Segment[];
}

/** A designator of a unit, as in its VPD page 83h. */
export interface Named {
  readonly unit: LogicalUnit;
  readonly codeSet: number;
  readonly type: number;
  readonly designator: Buffer;
}

const notReachable = checkCondition("copyTargetNotReachable");
const logicalUnitAssociation = 0;
/** What a target descriptor has room for. */
const designatorBytesMax = 20;

class Wrong extends Error {
  readonly result: ScsiResult;

  constructor(result: ScsiResult) {
    super("a wrong parameter list");
    this.result = result;
  }
}

/** The plan of a parameter list, or what is wrong with it. */
export function planCopy(list: Buffer, units: readonly Named[]): CopyPlan | ScsiResult {
  try {
    return plan(list, units);
  } catch (error) {
    if (error instanceof Wrong) return error.result;
    if (error instanceof LayoutError) return invalidParameter(error.byte, error.bit);
    throw error;
  }
}

function plan(list: Buffer, units: readonly Named[]): CopyPlan {
  const header = xcopy.copyListHeader;
  if (list.length < header.bytes) throw new Wrong(checkCondition("parameterListLengthError"));
  const head = header.decode(list);
  const { targetDescriptorListLength: targetBytes, segmentDescriptorListLength: segmentBytes } = head;
  if (head.inlineDataLength > 0) throw new Wrong(checkCondition("inlineDataLengthExceeded"));
  if (targetBytes % xcopy.targetDescriptorBytes !== 0) throw new Wrong(invalidParameter(2));
  if (header.bytes + targetBytes + segmentBytes > list.length) {
    throw new Wrong(checkCondition("parameterListLengthError"));
  }
  if (targetBytes / xcopy.targetDescriptorBytes > copyLimits.targets) {
    throw new Wrong(checkCondition("tooManyTargetDescriptors"));
  }
  const segmentsAt = header.bytes + targetBytes;
  const described = segmentsOf(list, segmentsAt, segmentsAt + segmentBytes);
  const targets: (LogicalUnit | undefined)[] = [];
  for (let at = header.bytes; at < segmentsAt; at += xcopy.targetDescriptorBytes) {
    targets.push(targetAt(list, at, units));
  }
  // LIST ID USAGE 11b: none is kept, and LIST IDENTIFIER is zero.
  const usage = head.listIdentifierUsage;
  if (usage === 1 || (usage === 3 && head.listIdentifier !== 0)) throw new Wrong(invalidParameter(1, 4));
  return {
    listIdentifier: usage === 3 ? undefined : head.listIdentifier,
    keepsStatus: usage === 0,
    segments: described.map((at) => segmentAt(list, at, targets)),
  };
}

/** Where the segment descriptors begin. */
function segmentsOf(list: Buffer, start: number, end: number): number[] {
  const all: number[] = [];
  for (let at = start; at < end; ) {
    if (list[at] !== xcopy.blockToBlockSegment.fields.typeCode.constant) {
      throw new Wrong(
        checkCondition("unsupportedSegmentDescriptor", { fieldPointer: { cdb: false, byte: at } }),
      );
    }
    if (at + xcopy.blockToBlockSegment.bytes > end)
      throw new Wrong(checkCondition("parameterListLengthError"));
    all.push(at);
    if (all.length > copyLimits.segments) throw new Wrong(checkCondition("tooManySegmentDescriptors"));
    at += xcopy.blockToBlockSegment.bytes;
  }
  return all;
}

/** The unit of a target descriptor; undefined for one that is null (NUL) or that nobody here has. */
function targetAt(list: Buffer, at: number, units: readonly Named[]): LogicalUnit | undefined {
  const { identificationTarget: layout } = xcopy;
  if (list[at] !== layout.fields.typeCode.constant) {
    throw new Wrong(
      checkCondition("unsupportedTargetDescriptor", { fieldPointer: { cdb: false, byte: at } }),
    );
  }
  const wanted = layout.decode(list, at);
  if (wanted.nul) return undefined;
  if (wanted.association !== logicalUnitAssociation || wanted.designatorLength > designatorBytesMax) {
    throw new Wrong(invalidParameter(at + 5));
  }
  const designator = wanted.designator.subarray(0, wanted.designatorLength);
  const like = units.filter((each) => each.type === wanted.designatorType && each.codeSet === wanted.codeSet);
  const exact = like.find((each) => each.designator.equals(designator));
  if (exact || designator.length < designatorBytesMax) return exact?.unit;
  // A longer designator than the descriptor has room for is named by its beginning, if no other unit's is the same.
  const begun = like.filter((each) => each.designator.subarray(0, designatorBytesMax).equals(designator));
  return new Set(begun.map(({ unit }) => unit)).size === 1 ? begun[0]!.unit : undefined;
}

function segmentAt(list: Buffer, at: number, targets: readonly (LogicalUnit | undefined)[]): Segment {
  const wanted = xcopy.blockToBlockSegment.decode(list, at);
  const [source, destination] = [targets[wanted.sourceIndex], targets[wanted.destinationIndex]];
  if (!source || !destination) throw new Wrong(notReachable);
  const count = wanted.destinationCount ? destination : source;
  const bytes = wanted.blocks * count.volume.geometry.blockBytes;
  return {
    source,
    destination,
    bytes,
    sourceLba: placeIn(source, wanted.sourceLba, bytes),
    destinationLba: placeIn(destination, wanted.destinationLba, bytes),
  };
}

function placeIn({ volume }: LogicalUnit, lba: bigint, bytes: number): number {
  const { blockBytes, blocks } = volume.geometry;
  const start = checkedNumber(lba);
  if (
    bytes % blockBytes !== 0 ||
    start === undefined ||
    start > blocks ||
    bytes / blockBytes > blocks - start
  ) {
    throw new Wrong(checkCondition("copyAborted"));
  }
  return start;
}
