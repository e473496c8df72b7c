// What SUBMIT and ENCODE DIGESTS have in common with whatever they begin: the work, its answer, and why there is none.
import { AgentError, type ErrorCode } from "../base/errors.ts";
import * as vendor from "../scsi/vendor-commands.ts";
import type { DigestAnswer, DigestWindow } from "../volume/volume.ts";
import { checkCondition, type ScsiResult } from "./scsi-task.ts";
import { failedResult } from "./volume-errors.ts";

/** What a SUBMIT asks for, once its list is checked. */
export interface Submission {
  /** Of the values that will answer it. */
  readonly bytes: number;
  readonly work: () => Promise<Buffer>;
}

/** What of the head of a list counts for functions that are about the unit as a whole. */
export interface ListHead {
  readonly function: number;
  readonly dataLength: number;
}

export const nothing: Buffer = Buffer.alloc(0);

/** The answer of such a function. */
export const answered = (values: Buffer = nothing): Buffer =>
  answer({ lba: 0, width: 8 }, values, { extents: 0, unreadable: undefined });

/** Head and values. @throws AgentError `medium_error` if there is no value at all */
export function answer(
  window: Pick<DigestWindow, "lba" | "width">,
  values: Buffer,
  digests: Omit<DigestAnswer, "values">,
): Buffer {
  const { extents, unreadable } = digests;
  if (unreadable && extents === 0) {
    throw new AgentError("medium_error", unreadable.reason, { lba: unreadable.lba });
  }
  const head = vendor.answerHeader.encode({
    availableLength: vendor.answerHeader.bytes - 4 + values.length,
    partial: unreadable !== undefined,
    width: window.width === 16,
    numberOfExtents: extents,
    logicalBlockAddress: BigInt(window.lba),
    unreadableLogicalBlockAddress: BigInt(unreadable?.lba ?? 0),
  });
  return Buffer.concat([head, values]);
}

/**
 * What has to be done first by somebody else: the volume behind the unit extended; another run ended, or rolled back; one
 * that was handed out taken back; the restore points listed anew.
 */
const outOfSequence: ReadonlySet<string> = new Set<ErrorCode>([
  "size_mismatch",
  "backup_mismatch",
  "not_whole",
  "volume_missing",
  "split_brain",
]);

/** The result where there is no answer. */
export function notAnswered(error: unknown): ScsiResult {
  if (error instanceof AgentError) {
    // Only the catalogue was wanted, and does not know.
    if (error.code === "not_known")
      return checkCondition("commandSequenceError", { information: error.lba ?? 0 });
    if (outOfSequence.has(error.code)) return checkCondition("commandSequenceError");
    if (error.code === "backup_damaged") return checkCondition("unrecoveredReadError");
  }
  return failedResult(error, "read");
}
