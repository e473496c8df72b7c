// WRITE SAME, UNMAP and GET LBA STATUS: blocks that take no space (SBC-3, 4.7).
//
// Guarantees: every range of a parameter list is checked before the first of them is touched; unmapped blocks read as
// zeros afterwards (LBPRZ), also where the volume can't deallocate them.
import { MiB } from "../base/units.ts";
import * as sbc from "../scsi/sbc-commands.ts";
import { outOfRange, rangeIn } from "./block-commands.ts";
import { type Call, type Command, command } from "./command-table.ts";
import type { LogicalUnit } from "./logical-unit.ts";
import {
  checkCondition,
  dataInResult,
  good,
  invalidCdbField,
  invalidParameter,
  joined,
  type ScsiResult,
} from "./scsi-task.ts";
import { failedResult } from "./volume-errors.ts";

/** The most blocks of one UNMAP: 1 GiB of the larger block size. */
export const unmapBlocksMax = 262_144;
/** The most blocks of one WRITE SAME: a multiple of 4 KiB that WRITE SAME (10) can say. */
export const writeSameBlocksMax = 65_528;
export const unmapDescriptorsMax = 256;
const patternPieceBytes = MiB;

interface WriteSame {
  readonly logicalBlockAddress: number | bigint;
  readonly numberOfLogicalBlocks: number;
  readonly wrprotect: number;
  readonly anchor: boolean;
  readonly unmap: boolean;
  readonly ndob: boolean;
}

async function writeSame(
  { unit, request }: Call<unknown>,
  fields: WriteSame,
  lengthByte: number,
): Promise<ScsiResult> {
  if (fields.wrprotect !== 0) return invalidCdbField(1, 7);
  if (fields.anchor) return invalidCdbField(1, 4);
  const { blockBytes, blocks: capacity } = unit.volume.geometry;
  // WSNZ is 0: zero blocks mean all of them to the end of the medium.
  const start = rangeIn(unit, fields.logicalBlockAddress, 0);
  if (start === undefined) return outOfRange();
  const blocks = fields.numberOfLogicalBlocks === 0 ? capacity - start : fields.numberOfLogicalBlocks;
  if (rangeIn(unit, start, blocks) === undefined) return outOfRange();
  if (blocks > writeSameBlocksMax) return invalidCdbField(lengthByte);
  if (unit.writeProtection) return checkCondition(unit.writeProtection);
  if (blocks === 0) return good;
  const pattern = fields.ndob ? Buffer.alloc(blockBytes) : joined(request.dataOut);
  const wanted = fields.ndob ? 0 : blockBytes;
  if (pattern.length !== blockBytes || request.dataOutBytesAnnounced !== wanted)
    return checkCondition("invalidFieldInCdb");
  try {
    if (pattern.every((byte) => byte === 0)) await unit.volume.zero(start, blocks, { unmap: fields.unmap });
    else await writePattern(unit, start, blocks, pattern);
    return { ...good, transferBytes: fields.ndob ? 0 : blockBytes };
  } catch (error) {
    return failedResult(error, "write");
  }
}

async function writePattern(unit: LogicalUnit, lba: number, blocks: number, pattern: Buffer): Promise<void> {
  const pieceBlocks = Math.min(blocks, patternPieceBytes / pattern.length);
  const piece = Buffer.alloc(pieceBlocks * pattern.length, pattern);
  for (let done = 0; done < blocks; done += pieceBlocks) {
    const count = Math.min(pieceBlocks, blocks - done);
    await unit.volume.write(lba + done, [piece.subarray(0, count * pattern.length)]);
  }
}

async function unmap({
  unit,
  request,
  fields,
}: Call<{ anchor: boolean; parameterListLength: number }>): Promise<ScsiResult> {
  if (fields.anchor) return invalidCdbField(1, 0);
  if (unit.writeProtection) return checkCondition(unit.writeProtection);
  const { unmapParameterListHeader: header, unmapBlockDescriptor: descriptor } = sbc;
  if (fields.parameterListLength === 0) return good;
  const list = joined(request.dataOut).subarray(0, fields.parameterListLength);
  if (fields.parameterListLength < header.bytes || list.length < fields.parameterListLength) {
    return checkCondition("parameterListLengthError");
  }
  const { unmapDataLength, unmapBlockDescriptorDataLength } = header.decode(list);
  // A list that is cut off is an error; trailing bytes of half a descriptor are ignored (SBC-3, 5.28.2).
  if (unmapDataLength + 2 > list.length || unmapBlockDescriptorDataLength + 6 > unmapDataLength) {
    return invalidParameter(unmapDataLength + 2 > list.length ? 0 : 2);
  }
  const count = Math.floor(unmapBlockDescriptorDataLength / descriptor.bytes);
  if (count > unmapDescriptorsMax) return invalidParameter(2);
  const ranges: { lba: number; blocks: number }[] = [];
  let total = 0;
  for (let i = 0; i < count; i++) {
    const { logicalBlockAddress, numberOfLogicalBlocks } = descriptor.decode(
      list,
      header.bytes + i * descriptor.bytes,
    );
    const lba = rangeIn(unit, logicalBlockAddress, numberOfLogicalBlocks);
    if (lba === undefined) return outOfRange();
    total += numberOfLogicalBlocks;
    if (total > unmapBlocksMax) return invalidParameter(header.bytes + i * descriptor.bytes + 8);
    if (numberOfLogicalBlocks > 0) ranges.push({ lba, blocks: numberOfLogicalBlocks });
  }
  try {
    for (const { lba, blocks } of ranges) await unit.volume.zero(lba, blocks, { unmap: true });
    return good;
  } catch (error) {
    return failedResult(error, "write");
  }
}

const mapped = 0;
const deallocated = 1;

async function getLbaStatus({
  unit,
  fields,
}: Call<{ startingLogicalBlockAddress: bigint; allocationLength: number }>): Promise<ScsiResult> {
  const { blocks: capacity } = unit.volume.geometry;
  const start = rangeIn(unit, fields.startingLogicalBlockAddress, 1);
  if (start === undefined) return outOfRange();
  const descriptors: Buffer[] = [];
  const most = Math.max(
    1,
    Math.min(256, Math.floor((fields.allocationLength - 8) / sbc.lbaStatusDescriptor.bytes)),
  );
  const add = (lba: number, blocks: number, provisioningStatus: number) => {
    descriptors.push(
      sbc.lbaStatusDescriptor.encode({
        logicalBlockAddress: BigInt(lba),
        numberOfLogicalBlocks: Math.min(blocks, 0xffffffff),
        provisioningStatus,
      }),
    );
  };
  for (let lba = start; lba < capacity && descriptors.length < most; ) {
    let data: { lba: number; blocks: number } | undefined;
    try {
      data = await unit.volume.nextData(lba, capacity - lba);
    } catch (error) {
      return failedResult(error, "read");
    }
    if (data === undefined || data.lba > lba) {
      const end = data?.lba ?? capacity;
      add(lba, end - lba, deallocated);
      lba = end;
    }
    if (data === undefined || descriptors.length === most) break;
    add(lba, data.blocks, mapped);
    lba += data.blocks;
  }
  const body = Buffer.concat(descriptors);
  const head = Buffer.alloc(8);
  head.writeUInt32BE(body.length + 4, 0);
  return dataInResult(Buffer.concat([head, body]), fields.allocationLength);
}

export const provisioningCommands: readonly Command[] = [
  command(sbc.writeSame10, "write", (call) => writeSame(call, { ...call.fields, ndob: false }, 7), {
    dataOutBytes: (_, blockBytes) => blockBytes,
  }),
  command(sbc.writeSame16, "write", (call) => writeSame(call, call.fields, 10), {
    dataOutBytes: ({ ndob }, blockBytes) => (ndob ? 0 : blockBytes),
  }),
  command(sbc.unmap, "write", unmap, {
    dataOutBytes: ({ parameterListLength }) => parameterListLength,
    offered: (unit) => unit.volume.traits.thin,
  }),
  command(sbc.getLbaStatus, "read", getLbaStatus),
];
