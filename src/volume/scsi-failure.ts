// What the failure of a command means for whoever uses the unit: status and sense data → AgentError.
import { AgentError } from "../base/errors.ts";
import { describeStatus, type ScsiCommand, type ScsiOutcome, status } from "../scsi/command.ts";
import { describeSense, isCondition } from "../scsi/sense.ts";

/** Why a command failed that had to end well; `name` is the unit's. */
export function failureOf(
  name: string,
  command: ScsiCommand,
  { status: code, sense }: ScsiOutcome,
): AgentError {
  const found = sense ? describeSense(sense) : describeStatus(code);
  const message = `Command ${command.cdb[0]!.toString(16).padStart(2, "0")}h failed at ${name}: ${found}`;
  const lba = sense?.information;
  const options = lba === undefined ? {} : { lba };
  if (code === status.reservationConflict) {
    return new AgentError("volume_in_use", `${message}; another initiator holds a reservation`);
  }
  switch (sense?.key) {
    case 0x3:
    case 0x4:
      return new AgentError("medium_error", message, options);
    case 0x7:
      if (isCondition(sense, "spaceAllocationFailed"))
        return new AgentError("no_space", `${message}; make room at the target`);
      return new AgentError("volume_readonly", message);
    case 0x5:
      if (isCondition(sense, "logicalUnitNotSupported")) return new AgentError("volume_missing", message);
      return new AgentError("command_failed", message);
    default:
      return new AgentError("io_error", message, { retry: "after_backoff" });
  }
}
