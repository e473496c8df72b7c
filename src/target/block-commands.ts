// The block commands: reading, writing, flushing, capacity (SBC-3).
//
// Guarantees: nothing outside the volume is touched; a WRITE with FUA and a SYNCHRONIZE CACHE have their data on the
// medium when they report GOOD. WCE is 1 and honest: an ordinary WRITE may be in the page cache.

import type { BufferPool } from "../base/buffer-pool.ts";
import { lengthOf, slicesOf } from "../base/bytes.ts";
import { checkedNumber, MiB } from "../base/units.ts";
import { status } from "../scsi/command.ts";
import * as sbc from "../scsi/sbc-commands.ts";
import { type Call, type Command, command } from "./command-table.ts";
import type { LogicalUnit } from "./logical-unit.ts";
import {
  checkCondition,
  dataInResult,
  good,
  invalidCdbField,
  type ScsiRequest,
  type ScsiResult,
} from "./scsi-task.ts";
import { failedResult } from "./volume-errors.ts";

/** The most bytes of one READ or WRITE (Block Limits VPD page). */
export const transferBytesMax = 8 * MiB;

export const outOfRange = (): ScsiResult => checkCondition("lbaOutOfRange");

/** The range as numbers if it lies in the volume. */
export function rangeIn(unit: LogicalUnit, lba: bigint | number, blocks: number): number | undefined {
  const start = typeof lba === "bigint" ? checkedNumber(lba) : lba;
  const capacity = unit.volume.geometry.blocks;
  return start === undefined || start > capacity || blocks > capacity - start ? undefined : start;
}

interface Transfer {
  readonly lba: bigint | number;
  readonly blocks: number;
  /** RDPROTECT or WRPROTECT: not zero is refused, as there is no protection information here. */
  readonly protect: number;
  readonly fua: boolean;
  /** Where TRANSFER LENGTH stands in the CDB. */
  readonly lengthByte: number;
}

function checkTransfer(unit: LogicalUnit, transfer: Transfer): number | ScsiResult {
  if (transfer.protect !== 0) return invalidCdbField(1, 7);
  const lba = rangeIn(unit, transfer.lba, transfer.blocks);
  if (lba === undefined) return outOfRange();
  if (transfer.blocks * unit.volume.geometry.blockBytes > transferBytesMax) {
    return invalidCdbField(transfer.lengthByte);
  }
  return lba;
}

function read(
  unit: LogicalUnit,
  request: ScsiRequest,
  transfer: Transfer,
  pool: BufferPool,
): ScsiResult | Promise<ScsiResult> {
  const lba = checkTransfer(unit, transfer);
  if (typeof lba !== "number") return lba;
  const { blockBytes } = unit.volume.geometry;
  const transferBytes = transfer.blocks * blockBytes;
  // No more is read than the initiator takes, in whole blocks.
  const bytes = Math.min(transferBytes, Math.ceil(request.dataInBytesMax / blockBytes) * blockBytes);
  if (bytes === 0) return { status: status.good, transferBytes };
  const { buffer, giveBack } = pool.borrow(bytes);
  const done = { status: status.good, dataIn: [buffer], transferBytes, release: giveBack };
  if (!transfer.fua && unit.volume.readNow(lba, buffer)) return done;
  return unit.volume.read(lba, buffer, { fresh: transfer.fua }).then(
    () => done,
    (error) => {
      giveBack();
      return failedResult(error, "read");
    },
  );
}

function write(
  unit: LogicalUnit,
  request: ScsiRequest,
  transfer: Transfer,
): ScsiResult | Promise<ScsiResult> {
  const lba = checkTransfer(unit, transfer);
  if (typeof lba !== "number") return lba;
  if (unit.writeProtection) return checkCondition(unit.writeProtection);
  const { blockBytes } = unit.volume.geometry;
  const transferBytes = transfer.blocks * blockBytes;
  const arrived = lengthOf(request.dataOut);
  // An initiator that announced less than its CDB says gets its whole blocks written, and a residual.
  const bytes = Math.min(transferBytes, arrived - (arrived % blockBytes));
  if (bytes === 0) return { status: status.good, transferBytes };
  const pieces = bytes === arrived ? request.dataOut : slicesOf(request.dataOut, 0, bytes);
  const done = { status: status.good, transferBytes };
  if (!transfer.fua && unit.volume.writeNow(lba, pieces)) return done;
  return unit.volume.write(lba, pieces, { durable: transfer.fua }).then(
    () => done,
    (error) => failedResult(error, "write"),
  );
}

async function flush(
  { unit, request }: Call<unknown>,
  lba: bigint | number,
  blocks: number,
): Promise<ScsiResult> {
  if (rangeIn(unit, lba, blocks) === undefined) return outOfRange();
  if (unit.readonly) return good;
  try {
    await unit.flush(request.nexus); // all of it, whatever the range; also with IMMED, which is honest at least
    return good;
  } catch (error) {
    return failedResult(error, "write");
  }
}

function readCapacity10({ unit, fields }: Call<{ logicalBlockAddress: number; pmi: boolean }>): ScsiResult {
  if (!fields.pmi && fields.logicalBlockAddress !== 0) return invalidCdbField(2);
  const { blocks, blockBytes } = unit.volume.geometry;
  const last = Math.min(blocks - 1, 0xffffffff);
  return dataInResult(
    sbc.readCapacity10Data.encode({ returnedLogicalBlockAddress: last, blockLength: blockBytes }),
    8,
  );
}

function readCapacity16({
  unit,
  fields,
}: Call<{ logicalBlockAddress: bigint; pmi: boolean; allocationLength: number }>): ScsiResult {
  if (!fields.pmi && fields.logicalBlockAddress !== 0n) return invalidCdbField(2);
  const { blocks, blockBytes } = unit.volume.geometry;
  const data = sbc.readCapacity16Data.encode({
    returnedLogicalBlockAddress: BigInt(blocks - 1),
    blockLength: blockBytes,
    logicalBlocksPerPhysicalBlockExponent: Math.log2(4096 / blockBytes),
    lbpme: unit.volume.traits.thin,
    lbprz: unit.volume.traits.thin,
  });
  return dataInResult(data, fields.allocationLength);
}

const read6Range = (fields: {
  logicalBlockAddressHigh: number;
  logicalBlockAddressLow: number;
  transferLength: number;
}) => ({
  lba: fields.logicalBlockAddressHigh * 0x10000 + fields.logicalBlockAddressLow,
  // 0 means 256 (SBC-3, 5.14).
  blocks: fields.transferLength === 0 ? 256 : fields.transferLength,
  protect: 0,
  fua: false,
  lengthByte: 4,
});

const bytesOf = (fields: { transferLength: number }, blockBytes: number) =>
  Math.min(transferBytesMax, fields.transferLength * blockBytes);
const bytesOf6 = (fields: { transferLength: number }, blockBytes: number) =>
  (fields.transferLength === 0 ? 256 : fields.transferLength) * blockBytes;

/** The entries; reads borrow their buffers from `pool`. */
export function blockCommands(pool: BufferPool): Command[] {
  const reading = (lengthByte: number) =>
    [
      (
        call: Call<{
          logicalBlockAddress: bigint | number;
          transferLength: number;
          rdprotect: number;
          fua: boolean;
        }>,
      ) => {
        const { logicalBlockAddress: lba, transferLength: blocks, rdprotect: protect, fua } = call.fields;
        return read(call.unit, call.request, { lba, blocks, protect, fua, lengthByte }, pool);
      },
      { dataInBytes: bytesOf },
    ] as const;
  const writing = (lengthByte: number) =>
    [
      (
        call: Call<{
          logicalBlockAddress: bigint | number;
          transferLength: number;
          wrprotect: number;
          fua: boolean;
        }>,
      ) => {
        const { logicalBlockAddress: lba, transferLength: blocks, wrprotect: protect, fua } = call.fields;
        return write(call.unit, call.request, { lba, blocks, protect, fua, lengthByte });
      },
      { dataOutBytes: bytesOf },
    ] as const;
  return [
    command(sbc.read6, "read", (call) => read(call.unit, call.request, read6Range(call.fields), pool), {
      dataInBytes: bytesOf6,
    }),
    command(sbc.read10, "read", ...reading(7)),
    command(sbc.read12, "read", ...reading(6)),
    command(sbc.read16, "read", ...reading(10)),
    command(sbc.write6, "write", (call) => write(call.unit, call.request, read6Range(call.fields)), {
      dataOutBytes: bytesOf6,
    }),
    command(sbc.write10, "write", ...writing(7)),
    command(sbc.write12, "write", ...writing(6)),
    command(sbc.write16, "write", ...writing(10)),
    command(sbc.synchronizeCache10, "write", (call) =>
      flush(call, call.fields.logicalBlockAddress, call.fields.numberOfLogicalBlocks),
    ),
    command(sbc.synchronizeCache16, "write", (call) =>
      flush(call, call.fields.logicalBlockAddress, call.fields.numberOfLogicalBlocks),
    ),
    command(sbc.readCapacity10, "free", readCapacity10),
    command(sbc.readCapacity16, "free", readCapacity16),
  ];
}
