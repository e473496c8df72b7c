// What a volume's failure looks like to an initiator: AgentError → sense data.
//
// Source: SBC-3, 4.18 (errors while reading and writing); 07/27/07 for thin provisioning out of space (4.7.3.6).
import { AgentError } from "../base/errors.ts";
import { checkCondition, type ScsiResult } from "./scsi-task.ts";

/** The result of a command whose volume failed. Whatever is no AgentError is thrown on: it is a bug of ours. */
export function failedResult(error: unknown, doing: "read" | "write"): ScsiResult {
  if (!(error instanceof AgentError)) throw error;
  const information = error.lba === undefined ? {} : { information: error.lba };
  switch (error.code) {
    case "medium_error":
      return checkCondition(doing === "read" ? "unrecoveredReadError" : "writeError", information);
    case "no_space":
      return checkCondition("spaceAllocationFailed", information);
    case "volume_readonly":
      return checkCondition("writeProtected");
    default:
      return checkCondition("internalTargetFailure");
  }
}
