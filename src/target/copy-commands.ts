// EXTENDED COPY and RECEIVE COPY RESULTS: data is copied between units without passing the initiator.
//
// Guarantees: memory is one piece a command; a source and a destination that overlap come out as if all had been read
// first; reservations hold for both; the copy is as durable as an ordinary WRITE; an abort ends it between two pieces.
//
// Source: SPC-4, 6.3 and 6.24.
import type { BufferPool } from "../base/buffer-pool.ts";
import { AgentError } from "../base/errors.ts";
import { MiB } from "../base/units.ts";
import * as xcopy from "../scsi/extended-copy.ts";
import { type Call, type Command, command } from "./command-table.ts";
import { copyLimits, type Named, parameterListBytesMax, planCopy, type Segment } from "./extended-copy.ts";
import type { LogicalUnit } from "./logical-unit.ts";
import type { Nexus } from "./nexus.ts";
import { checkCondition, dataInResult, good, invalidCdbField, joined, type ScsiResult } from "./scsi-task.ts";

const pieceBytes = MiB;

/** What is kept of a copy for COPY STATUS. */
export interface CopyStatus {
  state: "under way" | "completed" | "failed";
  segments: number;
  bytes: number;
}

interface Surroundings {
  /** The designators of the units that this initiator may see. */
  named(nexus: Nexus): readonly Named[];
}

function refusedBy(segment: Segment, { key }: Nexus): ScsiResult | undefined {
  const { source, destination } = segment;
  const reserved = (unit: LogicalUnit, access: "read" | "write") =>
    unit.reservations.conflicts(key, access) ||
    (unit.reservations.reservedBy !== undefined && unit.reservations.reservedBy !== key);
  const unusable = source.notReady ?? destination.notReady ?? destination.writeProtection;
  if (reserved(source, "read") || reserved(destination, "write") || unusable !== undefined) {
    return checkCondition("copyThirdPartyFailure");
  }
  return undefined;
}

async function copySegment(
  segment: Segment,
  buffer: Buffer,
  signal: AbortSignal,
  status: CopyStatus,
): Promise<void> {
  const { source, destination, bytes } = segment;
  const [sourceBytes, destinationBytes] = [
    source.volume.geometry.blockBytes,
    destination.volume.geometry.blockBytes,
  ];
  // Where the destination begins within the source, the last piece goes first.
  const backwards = source === destination && segment.destinationLba > segment.sourceLba;
  const pieces = Math.ceil(bytes / pieceBytes);
  for (let i = 0; i < pieces && !signal.aborted; i++) {
    const offset = (backwards ? pieces - 1 - i : i) * pieceBytes;
    const piece = buffer.subarray(0, Math.min(pieceBytes, bytes - offset));
    await source.volume.read(segment.sourceLba + offset / sourceBytes, piece);
    await destination.volume.write(segment.destinationLba + offset / destinationBytes, [piece]);
    status.bytes += piece.length;
  }
}

async function extendedCopy(
  { unit, request, fields }: Call<{ parameterListLength: number }>,
  around: Surroundings,
  pool: BufferPool,
): Promise<ScsiResult> {
  if (fields.parameterListLength === 0) return good;
  if (fields.parameterListLength > parameterListBytesMax)
    return tooLong(request.dataOut, fields.parameterListLength);
  const list = joined(request.dataOut).subarray(0, fields.parameterListLength);
  if (list.length < fields.parameterListLength) return checkCondition("parameterListLengthError");
  const plan = planCopy(list, around.named(request.nexus));
  if ("status" in plan) return plan;
  const copies = unit.copies(request.nexus);
  const status: CopyStatus = { state: "under way", segments: 0, bytes: 0 };
  if (plan.listIdentifier !== undefined) {
    if (copies.get(plan.listIdentifier)?.state === "under way")
      return checkCondition("conflictingListIdentifier");
    copies.delete(plan.listIdentifier);
    for (const [id, each] of copies) {
      if (copies.size >= copyLimits.heldResults && each.state !== "under way") copies.delete(id);
    }
    if (copies.size >= copyLimits.heldResults) return checkCondition("insufficientResources");
    copies.set(plan.listIdentifier, status);
  }
  const result = await carryOut(plan.segments, request.nexus, request.signal, status, pool);
  status.state = result === good ? "completed" : "failed";
  if (plan.listIdentifier !== undefined && !plan.keepsStatus && result === good)
    copies.delete(plan.listIdentifier);
  return result;
}

/** A list that is longer than any that can be right: too many descriptors, or just too long. */
function tooLong(dataOut: readonly Buffer[], length: number): ScsiResult {
  const head = joined(dataOut);
  if (head.length < xcopy.copyListHeader.bytes) return checkCondition("parameterListLengthError");
  const { targetDescriptorListLength, segmentDescriptorListLength } = xcopy.copyListHeader.decode(head);
  const targets = targetDescriptorListLength / xcopy.targetDescriptorBytes > copyLimits.targets;
  const segments = segmentDescriptorListLength / xcopy.blockToBlockSegment.bytes > copyLimits.segments;
  if (targets !== segments && length <= parameterListBytesMax + xcopy.targetDescriptorBytes) {
    return checkCondition(targets ? "tooManyTargetDescriptors" : "tooManySegmentDescriptors");
  }
  return checkCondition("parameterListLengthError");
}

async function carryOut(
  segments: readonly Segment[],
  nexus: Nexus,
  signal: AbortSignal,
  status: CopyStatus,
  pool: BufferPool,
): Promise<ScsiResult> {
  const { buffer, giveBack } = pool.borrow(pieceBytes);
  try {
    for (const segment of segments) {
      const refused = refusedBy(segment, nexus);
      if (refused) return refused;
      await copySegment(segment, buffer, signal, status);
      if (signal.aborted) return checkCondition("commandAborted");
      status.segments++;
    }
    return good;
  } catch (error) {
    if (error instanceof AgentError) return checkCondition("copyThirdPartyFailure");
    throw error;
  } finally {
    giveBack();
  }
}

function copyStatus({
  unit,
  request,
  fields,
}: Call<{ listIdentifier: number; allocationLength: number }>): ScsiResult {
  const found = unit.copies(request.nexus).get(fields.listIdentifier);
  if (!found) return invalidCdbField(2);
  const states = { "under way": 0, completed: 1, failed: 2 } as const;
  const data = xcopy.copyStatusData.encode({
    copyManagerStatus: states[found.state],
    segmentsProcessed: found.segments,
    transferCountUnits: 1,
    transferCount: Math.floor(found.bytes / 1024),
  });
  return dataInResult(data, fields.allocationLength);
}

function operatingParameters({ fields }: Call<{ allocationLength: number }>): ScsiResult {
  const descriptors = Buffer.from([0x02, 0xe4]);
  const { bytes } = xcopy.operatingParametersData;
  const head = xcopy.operatingParametersData.encode({
    availableData: bytes - 4 + descriptors.length,
    snlid: true,
    maximumTargetDescriptorCount: copyLimits.targets,
    maximumSegmentDescriptorCount: copyLimits.segments,
    maximumDescriptorListLength: copyLimits.descriptorBytes,
    maximumSegmentLength: copyLimits.segmentBytes,
    totalConcurrentCopies: copyLimits.heldResults,
    maximumConcurrentCopies: copyLimits.heldResults,
    dataSegmentGranularity: 9,
    implementedDescriptorListLength: descriptors.length,
  });
  return dataInResult(Buffer.concat([head, descriptors]), fields.allocationLength);
}

export function copyCommands(around: Surroundings, pool: BufferPool): Command[] {
  return [
    command(xcopy.extendedCopy, "write", (call) => extendedCopy(call, around, pool), {
      // One more descriptor than there may be is still fetched, to say so.
      dataOutBytes: ({ parameterListLength }) => Math.min(parameterListLength, 2 * parameterListBytesMax),
    }),
    command(xcopy.copyStatus, "free", copyStatus),
    command(xcopy.operatingParameters, "free", operatingParameters),
  ];
}

/** Third-party Copy VPD page, without its head (SPC-4, 7.8.17). */
export function thirdPartyCopyPage(): Buffer {
  const descriptor = (type: number, body: Buffer) => {
    const padded = Buffer.alloc(4 * Math.ceil(body.length / 4));
    body.copy(padded);
    const head = Buffer.alloc(4);
    head.writeUInt16BE(type, 0);
    head.writeUInt16BE(padded.length, 2);
    return Buffer.concat([head, padded]);
  };
  const commands = Buffer.from([0x83, 1, 0x00, 0x84, 2, 0x00, 0x03]);
  const parameters = Buffer.alloc(28);
  parameters.writeUInt16BE(copyLimits.targets, 4);
  parameters.writeUInt16BE(copyLimits.segments, 6);
  parameters.writeUInt32BE(copyLimits.descriptorBytes, 8);
  const general = Buffer.alloc(32);
  general.writeUInt32BE(copyLimits.heldResults, 0);
  general.writeUInt32BE(copyLimits.heldResults, 4);
  general.writeUInt32BE(copyLimits.segmentBytes, 8);
  general[12] = 9; // DATA SEGMENT GRANULARITY: 512 bytes
  return Buffer.concat([
    descriptor(0x0001, Buffer.concat([Buffer.from([commands.length]), commands])),
    descriptor(0x0004, parameters),
    descriptor(0x0008, Buffer.from([2, 0x02, 0xe4])),
    descriptor(0x000c, Buffer.from([0, 0])),
    descriptor(0x8001, general),
  ]);
}
