// A logical unit that this host's kernel has attached, spoken to by SCSI pass-through: `sg:/dev/sg0`, `sg:/dev/sda`.
//
// Guarantees: execute() settles once for every command, and its buffers are untouched from then on: a command under way
// can't be called back, so an abort is answered when the kernel lets go of it. What the transport or this system
// refuses is an AgentError in words; what the unit answers is an outcome. The kernel makes lost connections again on its
// own; a unit that was removed stays gone for this device.
import { Semaphore } from "../base/async.ts";
import { lengthOf } from "../base/bytes.ts";
import { AgentError } from "../base/errors.ts";
import { SystemError } from "../platform/errno.ts";
import {
  blockDeviceOf,
  closePassThrough,
  openPassThrough,
  type PassThroughResult,
  passThrough,
  requestBytesMax,
  whyNoPassThrough,
} from "../platform/sg-pass-through.ts";
import { type ScsiCommand, type ScsiDevice, type ScsiOutcome, status } from "../scsi/command.ts";
import { decodeSense } from "../scsi/sense.ts";

const prefix = "sg:";
const queueDepth = 8;
const timeoutMsDefault = 60_000;
const transferBytesMax = 1024 * 1024;
const transferBytesDefault = 128 * 1024;

export const isSgAddress = (text: string): boolean => text.startsWith(prefix);
/** The device node of an address. */
export const sgPath = (address: string): string => address.slice(prefix.length);

export class SgDevice implements ScsiDevice {
  readonly name: string;
  /** What SG_IO takes (measured: 32 pass, 40 are refused). */
  readonly cdbBytesMax = 32;
  readonly queueDepth = queueDepth;
  readonly transferBytesPreferred: number;
  readonly traffic = { sent: 0, received: 0 };
  readonly #descriptor: number;
  readonly #slots = new Semaphore(queueDepth);
  #closed: Promise<void> | undefined;

  private constructor(name: string, descriptor: number, transferBytes: number) {
    this.name = name;
    this.#descriptor = descriptor;
    this.transferBytesPreferred = transferBytes;
  }

  /** @throws AgentError `volume_unsuitable`, `volume_missing`, `volume_unreadable` */
  static open(address: string, options: { writable: boolean }): SgDevice {
    const path = sgPath(address);
    const doing = `Cannot open "${address}"`;
    const missing = whyNoPassThrough();
    if (missing !== undefined) {
      throw new AgentError(
        "volume_unsuitable",
        `${doing}: the library of sg3_utils can't be used (${missing}); install the package sg3-utils`,
      );
    }
    const descriptor = openPassThrough(path, options.writable);
    if (descriptor < 0) throw openError(doing, new SystemError(-descriptor));
    const blockDevice = blockDeviceOf(path);
    const most = (blockDevice && requestBytesMax(blockDevice)) || transferBytesDefault;
    return new SgDevice(address, descriptor, Math.min(transferBytesMax, most));
  }

  /** The kernel connects again by itself; that the unit was reset is told by its unit attention. */
  onReconnect(): void {}

  async execute(command: ScsiCommand, signal?: AbortSignal): Promise<ScsiOutcome> {
    signal?.throwIfAborted();
    const leave = await this.#slots.acquire();
    try {
      if (this.#closed !== undefined) throw new AgentError("connection_lost", `${this.name} was closed`);
      signal?.throwIfAborted();
      const outcome = await this.#execute(command);
      signal?.throwIfAborted();
      return outcome;
    } finally {
      leave();
    }
  }

  async #execute(command: ScsiCommand): Promise<ScsiOutcome> {
    const { cdb, dataOut } = command;
    const sent = dataOut && lengthOf(dataOut) > 0 ? Buffer.concat(dataOut) : undefined;
    const wanted = command.dataIn ?? Buffer.alloc(command.dataInBytes ?? 0);
    const taken = sent || wanted.length === 0 ? undefined : wanted;
    const timeoutMs = command.timeoutMs ?? timeoutMsDefault;
    const result = await passThrough(this.#descriptor, cdb, sent, taken, timeoutMs);
    if (result.category === "transport" || result.category === "system") {
      throw this.#failure(result, cdb, timeoutMs);
    }
    const sense = result.sense.length > 0 ? decodeSense(result.sense) : undefined;
    const dataIn = taken ? taken.subarray(0, Math.max(0, taken.length - result.residual)) : Buffer.alloc(0);
    // With sense and no status of its own the command ended with CHECK CONDITION.
    const code = result.status === 0 && result.category === "sense" ? status.checkCondition : result.status;
    return { status: code & 0x7e, sense, dataIn };
  }

  #failure(result: PassThroughResult, cdb: Buffer, timeoutMs: number): AgentError {
    const command = `a command (${cdb[0]!.toString(16).padStart(2, "0")}h)`;
    if (result.category === "transport") {
      const words = result.transport.trim();
      if (/TIME_OUT|TIMEOUT/.test(words)) {
        return new AgentError(
          "timeout",
          `${this.name} did not answer ${command} in ${timeoutMs / 1000} s (${words})`,
        );
      }
      return new AgentError(
        "connection_lost",
        `${this.name} can't be reached for ${command}: ${words}; look at the kernel's log and at the state of its sessions`,
      );
    }
    const cause = new SystemError(result.osError);
    switch (cause.code) {
      case "ENOTTY":
        return new AgentError(
          "volume_unsuitable",
          `${this.name} is no SCSI device such as /dev/sg0 or /dev/sda`,
          { cause },
        );
      case "ENODEV":
      case "ENXIO":
        return new AgentError("connection_lost", `${this.name} was removed: ${cause.message}`, { cause });
      case "ETIMEDOUT":
        return new AgentError("timeout", `${this.name} did not answer ${command} in ${timeoutMs / 1000} s`, {
          cause,
        });
      case "EACCES":
      case "EPERM":
        return new AgentError(
          "volume_unreadable",
          `The kernel refuses ${command} to ${this.name}: ${cause.message}; run as root`,
          { cause },
        );
      default:
        return new AgentError(
          "io_error",
          `The kernel did not take ${command} for ${this.name}: ${cause.message}`,
          { cause },
        );
    }
  }

  /** Waits for what is under way. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed ??= (async () => {
      const leave = await this.#slots.acquire(queueDepth);
      closePassThrough(this.#descriptor);
      leave();
    })();
    await this.#closed;
  }
}

function openError(doing: string, cause: SystemError): AgentError {
  switch (cause.code) {
    case "ENOENT":
    case "ENODEV":
    case "ENXIO":
    case "ENOTDIR":
      return new AgentError("volume_missing", `${doing}: ${cause.message}`, { cause });
    case "EACCES":
    case "EPERM":
      return new AgentError(
        "volume_unreadable",
        `${doing}: ${cause.message}; run as root or give this user access`,
        { cause },
      );
    case "EBUSY":
      return new AgentError("volume_in_use", `${doing}: ${cause.message}; somebody has it open for himself`, {
        cause,
      });
    default:
      return new AgentError(
        "volume_unsuitable",
        `${doing}: ${cause.message}; it has to be a SCSI device such as /dev/sg0 or /dev/sda`,
        { cause },
      );
  }
}
