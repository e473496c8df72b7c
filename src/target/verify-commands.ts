// VERIFY and WRITE AND VERIFY: is it on the medium, and is it what was sent.
//
// Guarantees: what is verified is read from the medium, past the page cache; memory is bounded by pieces, whatever the
// length; a miscompare names the first byte that differs.
//
// Source: SBC-3, 5.29 to 5.31, 5.36 to 5.38.
import type { BufferPool } from "../base/buffer-pool.ts";
import { lengthOf, slicesOf } from "../base/bytes.ts";
import { MiB } from "../base/units.ts";
import { status } from "../scsi/command.ts";
import * as sbc from "../scsi/sbc-verify-commands.ts";
import { outOfRange, rangeIn, transferBytesMax } from "./block-commands.ts";
import { type Call, type Command, command } from "./command-table.ts";
import type { LogicalUnit } from "./logical-unit.ts";
import { checkCondition, good, invalidCdbField, joined, type ScsiResult } from "./scsi-task.ts";
import { failedResult } from "./volume-errors.ts";

const pieceBytes = MiB;
const compareNothing = 0;
const compareAll = 1;
const compareOneBlock = 3;

interface Fields {
  readonly logicalBlockAddress: number | bigint;
  readonly length: number;
  readonly protect: number;
  readonly bytchk: number;
}

/** The offset of the first byte that differs; both have one length. */
export function firstDifference(one: Buffer, other: Buffer): number {
  if (one.equals(other)) return -1;
  let at = 0;
  while (one[at] === other[at]) at++;
  return at;
}

/** Reads a range and hands it on in pieces, until one of them gives a result. */
async function eachPiece(
  unit: LogicalUnit,
  lba: number,
  blocks: number,
  pool: BufferPool,
  signal: AbortSignal,
  look: (piece: Buffer, offset: number) => ScsiResult | undefined,
): Promise<ScsiResult | undefined> {
  const { blockBytes } = unit.volume.geometry;
  const pieceBlocks = Math.min(blocks, pieceBytes / blockBytes);
  const { buffer, giveBack } = pool.borrow(pieceBlocks * blockBytes);
  try {
    for (let done = 0; done < blocks && !signal.aborted; done += pieceBlocks) {
      const piece = buffer.subarray(0, Math.min(pieceBlocks, blocks - done) * blockBytes);
      await unit.volume.read(lba + done, piece, { fresh: true });
      const result = look(piece, done * blockBytes);
      if (result) return result;
    }
    return undefined;
  } finally {
    giveBack();
  }
}

/** What was sent, as it should lie at `offset`. */
function expected(dataOut: Buffer, offset: number, bytes: number): Buffer {
  return dataOut.subarray(offset, offset + bytes);
}

async function verify({ unit, request, fields }: Call<Fields>, pool: BufferPool, lengthByte: number) {
  if (fields.protect !== 0) return invalidCdbField(1, 7);
  const { length: blocks, bytchk } = fields;
  if (bytchk === 2) return invalidCdbField(1, 2);
  const lba = rangeIn(unit, fields.logicalBlockAddress, blocks);
  if (lba === undefined) return outOfRange();
  const { blockBytes } = unit.volume.geometry;
  if (bytchk === compareAll && blocks * blockBytes > transferBytesMax) return invalidCdbField(lengthByte);
  if (blocks === 0) return good;
  const wanted = bytchk === compareAll ? blocks * blockBytes : bytchk === compareOneBlock ? blockBytes : 0;
  const dataOut = joined(slicesOf(request.dataOut, 0, Math.min(wanted, lengthOf(request.dataOut))));
  if (dataOut.length < wanted) return invalidCdbField(lengthByte);
  const look = (piece: Buffer, offset: number): ScsiResult | undefined => {
    const sent =
      bytchk === compareAll ? expected(dataOut, offset, piece.length) : Buffer.alloc(piece.length, dataOut);
    const at = firstDifference(piece, sent);
    return at < 0 ? undefined : checkCondition("miscompare", { information: offset + at });
  };
  try {
    const nothing = bytchk === compareNothing;
    const found = await eachPiece(unit, lba, blocks, pool, request.signal, nothing ? () => undefined : look);
    return found ?? { status: status.good, transferBytes: wanted };
  } catch (error) {
    return failedResult(error, "read");
  }
}

async function writeAndVerify({ unit, request, fields }: Call<Fields>, pool: BufferPool, lengthByte: number) {
  if (fields.protect !== 0) return invalidCdbField(1, 7);
  const { length: blocks, bytchk } = fields;
  if (bytchk > compareAll) return invalidCdbField(1, 2);
  const lba = rangeIn(unit, fields.logicalBlockAddress, blocks);
  if (lba === undefined) return outOfRange();
  const transferBytes = blocks * unit.volume.geometry.blockBytes;
  if (transferBytes > transferBytesMax) return invalidCdbField(lengthByte);
  if (unit.writeProtection) return checkCondition(unit.writeProtection);
  // As for WRITE: of less than the CDB says, the whole blocks are written and verified.
  const arrived = Math.min(transferBytes, lengthOf(request.dataOut));
  const written = Math.floor(arrived / unit.volume.geometry.blockBytes);
  if (written === 0) return { status: status.good, transferBytes };
  const pieces = slicesOf(request.dataOut, 0, written * unit.volume.geometry.blockBytes);
  try {
    await unit.volume.write(lba, pieces, { durable: true });
  } catch (error) {
    return failedResult(error, "write");
  }
  const dataOut = bytchk === compareAll ? joined(pieces) : undefined;
  try {
    const found = await eachPiece(unit, lba, written, pool, request.signal, (piece, offset) => {
      const at = dataOut ? firstDifference(piece, expected(dataOut, offset, piece.length)) : -1;
      return at < 0 ? undefined : checkCondition("miscompare", { information: offset + at });
    });
    return found ?? { status: status.good, transferBytes };
  } catch (error) {
    return failedResult(error, "read");
  }
}

export function verifyCommands(pool: BufferPool): Command[] {
  const verifyBytes = ({ bytchk, length }: Fields, blockBytes: number) =>
    bytchk === compareAll
      ? Math.min(transferBytesMax, length * blockBytes)
      : bytchk === compareOneBlock && length > 0
        ? blockBytes
        : 0;
  const writeBytes = ({ length }: Fields, blockBytes: number) =>
    Math.min(transferBytesMax, length * blockBytes);
  const verifying = { dataOutBytes: verifyBytes };
  const writing = { dataOutBytes: writeBytes };
  return [
    command(sbc.verify10, "read", (call) => verify(call, pool, 7), verifying),
    command(sbc.verify12, "read", (call) => verify(call, pool, 6), verifying),
    command(sbc.verify16, "read", (call) => verify(call, pool, 10), verifying),
    command(sbc.writeAndVerify10, "write", (call) => writeAndVerify(call, pool, 7), writing),
    command(sbc.writeAndVerify12, "write", (call) => writeAndVerify(call, pool, 6), writing),
    command(sbc.writeAndVerify16, "write", (call) => writeAndVerify(call, pool, 10), writing),
  ];
}
