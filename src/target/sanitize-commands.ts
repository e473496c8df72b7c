// SANITIZE: everything that the unit holds is destroyed.
//
// Guarantees: while it goes on, commands that need the medium are refused, and so they are after it failed, until
// another SANITIZE succeeds, or EXIT FAILURE MODE is sent where AUSE had allowed it; at the end the medium holds what
// it was overwritten with. CRYPTOGRAPHIC ERASE is not offered, as nothing is encrypted here. When the target stops, it
// ends between two pieces; it is not begun again.
//
// Source: SBC-3, 4.11 and 5.24.
import { MiB } from "../base/units.ts";
import * as sbc from "../scsi/sbc-medium-commands.ts";
import { type Call, type Command, command } from "./command-table.ts";
import { checkCondition, good, invalidCdbField, joined, type ScsiResult } from "./scsi-task.ts";
import type { ExclusiveVolume } from "./unit-volume.ts";
import { failedResult } from "./volume-errors.ts";

const pieceBytes = MiB;

interface Fields {
  readonly immed: boolean;
  readonly ause: boolean;
  readonly parameterListLength: number;
}

/** Calls `action` for one piece of the unit after another. @throws the signal's reason */
async function eachPiece(
  signal: AbortSignal,
  capacity: number,
  pieceBlocks: number,
  action: (lba: number, blocks: number) => Promise<void>,
): Promise<void> {
  for (let lba = 0; lba < capacity; lba += pieceBlocks) {
    signal.throwIfAborted();
    await action(lba, Math.min(pieceBlocks, capacity - lba));
  }
}

/** Destroys the data by `erase`, in the background where IMMED asks for it. */
async function sanitize(
  { unit, request, fields }: Call<Fields>,
  erase: (volume: ExclusiveVolume, signal: AbortSignal) => Promise<void>,
): Promise<ScsiResult> {
  if (unit.notReady && unit.sanitize.state !== "failed") return checkCondition(unit.notReady);
  if (unit.writeProtection) return checkCondition(unit.writeProtection);
  unit.sanitize = { state: "under way", exitAllowed: fields.ause };
  const work = unit.inBackground(async (stopping): Promise<ScsiResult> => {
    try {
      await unit.volume.exclusively(0, unit.volume.geometry.blocks, (volume) => erase(volume, stopping));
      await unit.volume.flush();
      unit.sanitize = { state: "none", exitAllowed: false };
      return good;
    } catch (error) {
      unit.sanitize = { state: "failed", exitAllowed: fields.ause };
      return stopping.aborted ? checkCondition("commandAborted") : failedResult(error, "write");
    }
  });
  if (fields.immed) return good;
  // Aborting the task ends the waiting for it, not the operation (SBC-3, 4.11.2).
  const aborted = new Promise<ScsiResult>((resolve) => {
    request.signal.addEventListener("abort", () => resolve(checkCondition("commandAborted")), { once: true });
  });
  return Promise.race([work, aborted]);
}

function blockErase(call: Call<Fields>): Promise<ScsiResult> | ScsiResult {
  if (call.fields.parameterListLength !== 0) return invalidCdbField(7);
  const { blocks, blockBytes } = call.unit.volume.geometry;
  return sanitize(call, (volume, signal) =>
    eachPiece(signal, blocks, (1024 * MiB) / blockBytes, (lba, count) =>
      volume.zero(lba, count, { unmap: true }),
    ),
  );
}

async function overwrite(call: Call<Fields>): Promise<ScsiResult> {
  const { unit, request, fields } = call;
  const { blocks, blockBytes } = unit.volume.geometry;
  const header = sbc.sanitizeOverwriteHeader;
  const listBytes = fields.parameterListLength;
  if (listBytes <= header.bytes || listBytes > header.bytes + blockBytes) return invalidCdbField(7);
  const list = joined(request.dataOut);
  if (list.length < listBytes) return checkCondition("parameterListLengthError");
  const { invert, overwriteCount, initializationPatternLength } = header.decode(list);
  const pattern = list.subarray(header.bytes, header.bytes + initializationPatternLength);
  // Both are fields of the parameter list; SBC-3, 5.24.2.2 wants INVALID FIELD IN CDB for them all the same.
  const wrongLength =
    initializationPatternLength === 0 || initializationPatternLength > listBytes - header.bytes;
  if (overwriteCount === 0 || wrongLength) return invalidCdbField(7);
  // The pattern begins anew in every block. It is copied at once: the list is lent until the task ends.
  const block = Buffer.alloc(blockBytes, pattern);
  const inverted = Buffer.from(block.map((byte) => byte ^ 0xff));
  return sanitize(call, async (volume, signal) => {
    const pieceBlocks = pieceBytes / blockBytes;
    for (let pass = 1; pass <= overwriteCount; pass++) {
      const piece = Buffer.alloc(pieceBytes, invert && pass % 2 === 0 ? inverted : block);
      await eachPiece(signal, blocks, pieceBlocks, (lba, count) =>
        volume.write(lba, [piece.subarray(0, count * blockBytes)]),
      );
      await unit.volume.flush(); // every pass reaches the medium
    }
  });
}

function exitFailureMode({ unit, fields }: Call<Fields>): ScsiResult {
  if (fields.parameterListLength !== 0) return invalidCdbField(7);
  if (unit.sanitize.state === "failed") {
    if (!unit.sanitize.exitAllowed) return checkCondition("sanitizeFailed");
    unit.sanitize = { state: "none", exitAllowed: false };
  }
  return good;
}

export const sanitizeCommands: readonly Command[] = [
  command(sbc.sanitizeOverwrite, "write", overwrite, {
    dataOutBytes: ({ parameterListLength }) => parameterListLength,
    withoutMedium: true,
    strict: true,
  }),
  command(sbc.sanitizeBlockErase, "write", blockErase, { withoutMedium: true, strict: true }),
  command(sbc.sanitizeExitFailureMode, "write", exitFailureMode, { withoutMedium: true, strict: true }),
];
