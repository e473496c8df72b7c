// The parameter lists of WRITE EXTENTS and COPY EXTENTS: from bytes to runs that can be carried out.
//
// Guarantees: a list is checked as a whole before anything of it is done. Its runs lie in the unit, have at least one
// block each and together at most `listBytesMax`; each has its identifier and as much data as its form takes. What is
// wrong is told with the field that it is in. Nothing is copied but descriptors that lie in two pieces.
import { lengthOf, slicesOf } from "../base/bytes.ts";
import { LayoutError } from "../base/layout.ts";
import { MiB } from "../base/units.ts";
import { type DigestSpec, offeredDigests } from "../digest/spec.ts";
import { copyRun, extentListHeader as header, runForm, writeRun } from "../scsi/extent-commands.ts";
import { vendorFunction } from "../scsi/vendor-commands.ts";
import { outOfRange, rangeIn } from "./block-commands.ts";
import type { LogicalUnit } from "./logical-unit.ts";
import { checkCondition, invalidParameter, joined, type ScsiResult } from "./scsi-task.ts";

/** The most bytes of the unit that one list writes, zeros among them. */
export const listBytesMax = 8 * MiB;
export const runsMax = 2048;
const identifierBytesMax = Math.max(...offeredDigests.map(({ identifierBytes }) => identifierBytes));
/** The longest list that there can be: as many runs as may be, and nothing compressed. */
export const parameterBytesMax =
  header.bytes + runsMax * (writeRun.bytes + identifierBytesMax) + listBytesMax;

/** A run to be written. What reads as zeros has neither identifier nor data. */
export interface RunToWrite {
  readonly lba: number;
  readonly blocks: number;
  readonly form: number;
  readonly identifier: Buffer;
  readonly data: readonly Buffer[];
}

export interface RunToCopy {
  readonly from: number;
  readonly to: number;
  readonly blocks: number;
  readonly identifier: Buffer;
}

export interface ExtentList<R> {
  readonly digest: DigestSpec;
  readonly runs: readonly R[];
}

/** The head and the descriptors, which stand one after another behind it; what belongs to the runs follows them. */
interface Parts {
  readonly digest: DigestSpec;
  readonly count: number;
  readonly descriptors: Buffer;
  /** Takes the next bytes behind the descriptors; undefined if there are fewer. */
  take(bytes: number): readonly Buffer[] | undefined;
  /** Bytes that were not taken. */
  left(): number;
}

const isResult = (value: object): value is ScsiResult => "status" in value;

function partsOf(
  dataOut: readonly Buffer[],
  parameterListLength: number,
  func: number,
  descriptorBytes: number,
): Parts | ScsiResult {
  const total = Math.min(parameterListLength, lengthOf(dataOut));
  if (
    total < parameterListLength ||
    parameterListLength < header.bytes ||
    parameterListLength > parameterBytesMax
  ) {
    return checkCondition("parameterListLengthError");
  }
  const head = joined(slicesOf(dataOut, 0, header.bytes));
  const reserved = header.reservedBitSet(head);
  if (reserved) return invalidParameter(reserved.byte, reserved.bit);
  let fields: ReturnType<typeof header.decode>;
  try {
    fields = header.decode(head);
  } catch (error) {
    if (!(error instanceof LayoutError)) throw error;
    return invalidParameter(error.byte, error.bit);
  }
  const { numberOfRuns: count } = fields;
  if (fields.function !== func) return invalidParameter(header.fields.function.byte);
  if (fields.dataLength !== total - header.bytes) return invalidParameter(header.fields.dataLength.byte);
  const digest = offeredDigests[fields.digest];
  if (!digest) return invalidParameter(header.fields.digest.byte);
  let at = header.bytes + count * descriptorBytes;
  if (count > runsMax || at > total) return invalidParameter(header.fields.numberOfRuns.byte);
  return {
    digest,
    count,
    descriptors: count === 0 ? head : joined(slicesOf(dataOut, 0, at)),
    take(bytes) {
      if (bytes > total - at) return undefined;
      at += bytes;
      return slicesOf(dataOut, at - bytes, bytes);
    },
    left: () => total - at,
  };
}

/** Each run as `read` makes it of its descriptor, or what is wrong with the first that is no good. */
function runsOf<R extends object>(
  parts: Parts | ScsiResult,
  layout: Pick<typeof writeRun, "bytes" | "reservedBitSet">,
  read: (parts: Parts, at: number) => R | ScsiResult,
): ExtentList<R> | ScsiResult {
  if (isResult(parts)) return parts;
  const runs: R[] = [];
  for (let i = 0; i < parts.count; i++) {
    const at = header.bytes + i * layout.bytes;
    const reserved = layout.reservedBitSet(parts.descriptors, at);
    if (reserved) return invalidParameter(at + reserved.byte, reserved.bit);
    const run = read(parts, at);
    if (isResult(run)) return run;
    runs.push(run);
  }
  if (parts.left() > 0) return invalidParameter(header.fields.dataLength.byte);
  return { digest: parts.digest, runs };
}

/** Whether a run of `bytes` can have so much data. What is compressed to no less is sent as it is. */
function fits(form: number, dataLength: number, bytes: number): boolean {
  if (form === runForm.zeros) return dataLength === 0;
  return form === runForm.stored ? dataLength === bytes : dataLength > 0 && dataLength < bytes;
}

/** The list of a WRITE EXTENTS, or what is wrong with it. */
export function listToWrite(
  unit: LogicalUnit,
  dataOut: readonly Buffer[],
  parameterListLength: number,
): ExtentList<RunToWrite> | ScsiResult {
  const { blockBytes } = unit.volume.geometry;
  const { fields: places } = writeRun;
  let listBytes = 0;
  const parts = partsOf(dataOut, parameterListLength, vendorFunction.writeExtents, writeRun.bytes);
  return runsOf<RunToWrite>(parts, writeRun, ({ descriptors, digest, take }, at) => {
    const fields = writeRun.decode(descriptors, at);
    const { numberOfLogicalBlocks: blocks, form, dataLength } = fields;
    if (form > runForm.zeros) return invalidParameter(at + places.form.byte, places.form.msb);
    const bytes = blocks * blockBytes;
    listBytes += bytes;
    if (blocks === 0 || listBytes > listBytesMax)
      return invalidParameter(at + places.numberOfLogicalBlocks.byte);
    const lba = rangeIn(unit, fields.logicalBlockAddress, blocks);
    if (lba === undefined) return outOfRange();
    const identifier = take(form === runForm.zeros ? 0 : digest.identifierBytes);
    const data = fits(form, dataLength, bytes) ? take(dataLength) : undefined;
    if (!identifier || !data) return invalidParameter(at + places.dataLength.byte);
    return { lba, blocks, form, identifier: joined(identifier), data };
  });
}

/** The list of a COPY EXTENTS, or what is wrong with it. */
export function listToCopy(
  unit: LogicalUnit,
  dataOut: readonly Buffer[],
  parameterListLength: number,
): ExtentList<RunToCopy> | ScsiResult {
  const { blockBytes } = unit.volume.geometry;
  let listBytes = 0;
  const parts = partsOf(dataOut, parameterListLength, vendorFunction.copyExtents, copyRun.bytes);
  return runsOf<RunToCopy>(parts, copyRun, ({ descriptors, digest, take }, at) => {
    const fields = copyRun.decode(descriptors, at);
    const { numberOfLogicalBlocks: blocks } = fields;
    listBytes += blocks * blockBytes;
    if (blocks === 0 || listBytes > listBytesMax)
      return invalidParameter(at + copyRun.fields.numberOfLogicalBlocks.byte);
    const from = rangeIn(unit, fields.sourceLogicalBlockAddress, blocks);
    const to = rangeIn(unit, fields.destinationLogicalBlockAddress, blocks);
    if (from === undefined || to === undefined) return outOfRange();
    const identifier = take(digest.identifierBytes);
    if (!identifier) return invalidParameter(header.fields.dataLength.byte);
    return { from, to, blocks, identifier: joined(identifier) };
  });
}
