// What became of a command that was handed to the kernel: delivered, to be repeated, or failed, in words.
//
// Pure. Host statuses: include/scsi/scsi_status.h of Linux (DID_…).
import { lengthOf } from "../base/bytes.ts";
import { AgentError } from "../base/errors.ts";
import { category, type PassThroughResult } from "../platform/pass-through.ts";
import { type ScsiCommand, type ScsiOutcome, status } from "../scsi/command.ts";

export const hostStatus = {
  ok: 0x00,
  noConnect: 0x01,
  busBusy: 0x02,
  timeOut: 0x03,
  badTarget: 0x04,
  abort: 0x05,
  error: 0x07,
  reset: 0x08,
  softError: 0x0b,
  immediateRetry: 0x0c,
  requeue: 0x0d,
  transportDisrupted: 0x0e,
  transportFailfast: 0x0f,
  // The unit has answered; older kernels class its answer so.
  targetFailure: 0x10,
  nexusFailure: 0x11,
  allocationFailure: 0x12,
  mediumError: 0x13,
  transportMarginal: 0x14,
} as const;

const delivered: readonly number[] = [
  hostStatus.ok,
  hostStatus.targetFailure,
  hostStatus.nexusFailure,
  hostStatus.allocationFailure,
  hostStatus.mediumError,
];
const passing: readonly number[] = [
  hostStatus.busBusy,
  hostStatus.error,
  hostStatus.reset,
  hostStatus.softError,
  hostStatus.immediateRetry,
  hostStatus.requeue,
  hostStatus.transportDisrupted,
  hostStatus.transportMarginal,
];

export type Verdict =
  | { readonly kind: "delivered"; readonly outcome: ScsiOutcome }
  /** May work the next time; `error` says why it did not. */
  | { readonly kind: "repeat"; readonly error: AgentError }
  | { readonly kind: "failed"; readonly error: AgentError };

export const describeCommand = ({ cdb }: ScsiCommand): string =>
  `command ${cdb[0]!.toString(16).padStart(2, "0")}h`;

/** The kernel or the host adapter does not take CDBs of that length: it never reached the unit. */
export function cdbRefused(result: PassThroughResult): boolean {
  const { osError, refused, hostStatus: host } = result;
  return (
    refused ||
    (osError !== undefined && ["EINVAL", "EMSGSIZE", "EPERM"].includes(osError.code)) ||
    host === hostStatus.abort ||
    host === hostStatus.error
  );
}

interface Circumstances {
  readonly name: string;
  readonly command: ScsiCommand;
  readonly timeoutMs: number;
  outcome(): ScsiOutcome;
}

/** @throws nothing: every result has its verdict */
export function judge(result: PassThroughResult, at: Circumstances): Verdict {
  const { name, command } = at;
  const what = `${describeCommand(command)} to ${name}`;
  const failed = (error: AgentError): Verdict => ({ kind: "failed", error });
  const late = () =>
    failed(
      new AgentError(
        "timeout",
        `${name} did not answer ${describeCommand(command)} in ${at.timeoutMs / 1000} s, and the kernel aborted it; ` +
          'look for its path in "dmesg", and run again when that works',
        { retry: "after_reconnect" },
      ),
    );
  if (result.osError) return ofSystem(result.osError.code, result, at, what);
  if (result.timedOut) return late();
  if (result.refused)
    return failed(new AgentError("command_failed", `Cannot send ${what}: the library refuses it`));

  if (!delivered.includes(result.hostStatus)) {
    const words = result.transportWords.replace(/\s+/g, " ").trim();
    switch (result.hostStatus) {
      case hostStatus.timeOut:
        return late();
      case hostStatus.noConnect:
      case hostStatus.badTarget:
      case hostStatus.transportFailfast:
        return failed(
          new AgentError(
            "connection_lost",
            `The kernel has lost the path to ${name} (${words}); bring it back, and run again`,
            { retry: "after_backoff" },
          ),
        );
      default: {
        const error = new AgentError("connection_lost", `The path to ${name} is disturbed (${words})`, {
          retry: "after_reconnect",
        });
        return passing.includes(result.hostStatus) ? { kind: "repeat", error } : failed(error);
      }
    }
  }
  if (result.category === category.transportError && result.status === status.good) {
    return failed(
      new AgentError("io_error", `Cannot carry out ${what}: ${result.transportWords.trim()}`, {
        retry: "after_backoff",
      }),
    );
  }
  const dataOutBytes = lengthOf(command.dataOut ?? []);
  if (result.status === status.good && dataOutBytes > 0 && result.residual > 0) {
    return failed(
      new AgentError(
        "protocol_error",
        `${name} said GOOD to ${describeCommand(command)} and took ${dataOutBytes - result.residual} of ${dataOutBytes} bytes`,
      ),
    );
  }
  return { kind: "delivered", outcome: at.outcome() };
}

/** The kernel did not take the command, or did not hand back a result. */
function ofSystem(code: string, result: PassThroughResult, at: Circumstances, what: string): Verdict {
  const cause = result.osError!;
  const failed = (error: AgentError): Verdict => ({ kind: "failed", error });
  switch (code) {
    case "ENOMEM":
    case "EAGAIN":
    case "EBUSY":
    case "EDOM": // sg's own queue is full
      return {
        kind: "delivered",
        outcome: { status: status.busy, sense: undefined, dataIn: Buffer.alloc(0) },
      };
    case "EINTR":
      return {
        kind: "repeat",
        error: new AgentError("connection_lost", `Sending ${what} was interrupted`, {
          retry: "after_reconnect",
          cause,
        }),
      };
    case "ENODEV":
    case "ENXIO":
    case "ENOENT":
    case "ESHUTDOWN":
    case "EBADFD":
      return failed(
        new AgentError(
          "connection_lost",
          `Cannot send ${what}: the kernel has given the device up (${cause.code}); bring its path back, and run again`,
          { retry: "after_backoff", cause },
        ),
      );
    case "EPERM":
    case "EACCES":
      return failed(
        new AgentError(
          "volume_unreadable",
          `Cannot send ${what}: the kernel does not let this user (${cause.message}); run as root (CAP_SYS_RAWIO)`,
          { cause },
        ),
      );
    case "EINVAL":
    case "EMSGSIZE":
      return failed(
        new AgentError(
          "command_failed",
          `Cannot send ${what}: the kernel does not take ${at.command.cdb.length} bytes of command with ` +
            `${lengthOf(at.command.dataOut ?? []) || at.command.dataInBytes || at.command.dataIn?.length || 0} bytes of data (${cause.message})`,
          { cause },
        ),
      );
    default:
      return failed(
        new AgentError("io_error", `Cannot send ${what}: ${cause.message}`, {
          retry: "after_backoff",
          cause,
        }),
      );
  }
}
