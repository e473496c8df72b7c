// COMPARE AND WRITE, ORWRITE and WRITE ATOMIC: read, decide and write, with nobody in between.
//
// Guarantees: no write of the range, by whichever command, falls between the reading and the writing; COMPARE AND WRITE
// writes all of its blocks or, where one byte differs, none. It is what ESXi and cluster file systems lock by.
//
// Source: SBC-3, 5.2 and 5.7; SBC-4, 4.29 and 5.43.
import type { BufferPool } from "../base/buffer-pool.ts";
import { lengthOf, slicesOf } from "../base/bytes.ts";
import { status } from "../scsi/command.ts";
import * as sbc from "../scsi/sbc-verify-commands.ts";
import { atomicBytesMax } from "./atomic-journal.ts";
import { outOfRange, rangeIn, transferBytesMax } from "./block-commands.ts";
import { type Call, type Command, command } from "./command-table.ts";
import { checkCondition, good, invalidCdbField, joined, type ScsiResult } from "./scsi-task.ts";
import type { ExclusiveVolume } from "./unit-volume.ts";
import { firstDifference } from "./verify-commands.ts";
import { failedResult } from "./volume-errors.ts";

/** The most blocks of one COMPARE AND WRITE: what fits into its CDB (Block Limits VPD page). */
export const compareAndWriteBlocksMax = 255;

interface Fields {
  readonly logicalBlockAddress: bigint;
  readonly length: number;
  readonly protect: number;
  readonly fua: boolean;
}

/** Reads the blocks, lets `decide` look at them, and writes what it gives, or ends with its result. */
async function readThenWrite(
  { unit, fields }: Call<Fields>,
  pool: BufferPool,
  lba: number,
  decide: (found: Buffer) => { write: Buffer } | ScsiResult,
  transferBytes: number,
): Promise<ScsiResult> {
  const { buffer, giveBack } = pool.borrow(fields.length * unit.volume.geometry.blockBytes);
  const act = async (volume: ExclusiveVolume): Promise<ScsiResult> => {
    try {
      await volume.read(lba, buffer);
    } catch (error) {
      return failedResult(error, "read");
    }
    const decided = decide(buffer);
    if (!("write" in decided)) return decided;
    try {
      await volume.write(lba, [decided.write], { durable: fields.fua });
    } catch (error) {
      return failedResult(error, "write");
    }
    return { status: status.good, transferBytes };
  };
  try {
    return await unit.volume.exclusively(lba, fields.length, act);
  } finally {
    giveBack();
  }
}

/** The range if the command may go on. */
function checked({ unit, fields }: Call<Fields>, lengthByte: number, bytesMax: number): number | ScsiResult {
  if (fields.protect !== 0) return invalidCdbField(1, 7);
  const lba = rangeIn(unit, fields.logicalBlockAddress, fields.length);
  if (lba === undefined) return outOfRange();
  if (fields.length * unit.volume.geometry.blockBytes > bytesMax) return invalidCdbField(lengthByte);
  if (unit.writeProtection) return checkCondition(unit.writeProtection);
  return lba;
}

async function compareAndWrite(call: Call<Fields>, pool: BufferPool): Promise<ScsiResult> {
  const lba = checked(call, 13, transferBytesMax);
  if (typeof lba !== "number") return lba;
  const bytes = call.fields.length * call.unit.volume.geometry.blockBytes;
  // Two instances of the data: what is expected, then what is to be written. Any other amount is a mistake.
  const { dataOut, dataOutBytesAnnounced } = call.request;
  if (dataOutBytesAnnounced !== 2 * bytes || lengthOf(dataOut) !== 2 * bytes) return invalidCdbField(13);
  if (bytes === 0) return good;
  const verifyInstance = joined(slicesOf(dataOut, 0, bytes));
  const writeInstance = joined(slicesOf(dataOut, bytes, bytes));
  const decide = (found: Buffer) => {
    const at = firstDifference(found, verifyInstance);
    return at < 0 ? { write: writeInstance } : checkCondition("miscompare", { information: at });
  };
  return readThenWrite(call, pool, lba, decide, 2 * bytes);
}

async function orWrite(call: Call<Fields>, pool: BufferPool): Promise<ScsiResult> {
  const lba = checked(call, 10, transferBytesMax);
  if (typeof lba !== "number") return lba;
  const bytes = call.fields.length * call.unit.volume.geometry.blockBytes;
  if (bytes === 0) return good;
  if (lengthOf(call.request.dataOut) < bytes) return invalidCdbField(10);
  const sent = joined(slicesOf(call.request.dataOut, 0, bytes));
  const decide = (found: Buffer) => {
    for (let i = 0; i < bytes; i++) found[i]! |= sent[i]!;
    return { write: found };
  };
  return readThenWrite(call, pool, lba, decide, bytes);
}

/** All blocks or none of them, also when the power fails; they are on the medium then, FUA or not. */
async function writeAtomic(call: Call<Fields & { atomicBoundary: number }>): Promise<ScsiResult> {
  const { unit, request, fields } = call;
  const lba = checked(call, 12, atomicBytesMax);
  if (typeof lba !== "number") return lba;
  if (fields.atomicBoundary !== 0) return invalidCdbField(10);
  const bytes = fields.length * unit.volume.geometry.blockBytes;
  if (bytes === 0) return good;
  if (lengthOf(request.dataOut) < bytes) return invalidCdbField(12);
  const pieces = slicesOf(request.dataOut, 0, bytes);
  try {
    await unit.volume.exclusively(lba, fields.length, (volume) => unit.journal!.write(volume, lba, pieces));
    return { status: status.good, transferBytes: bytes };
  } catch (error) {
    return failedResult(error, "write");
  }
}

export function atomicCommands(pool: BufferPool): Command[] {
  const bytesOf = ({ length }: Fields, blockBytes: number) => Math.min(transferBytesMax, length * blockBytes);
  return [
    command(sbc.compareAndWrite, "write", (call) => compareAndWrite(call, pool), {
      dataOutBytes: ({ length }, blockBytes) => 2 * length * blockBytes,
    }),
    command(sbc.writeAtomic16, "write", writeAtomic, {
      dataOutBytes: bytesOf,
      offered: (unit) => unit.journal !== undefined,
    }),
    command(sbc.orWrite16, "write", (call) => orWrite(call, pool), { dataOutBytes: bytesOf }),
  ];
}
