// A SCSI command as it is handed to whoever delivers it, and what comes back.
//
// Source: SAM-5, 5.1 Execute Command procedure call; status codes 5.3.1.
import type { Sense } from "./sense.ts";

export const status = {
  good: 0x00,
  checkCondition: 0x02,
  conditionMet: 0x04,
  busy: 0x08,
  reservationConflict: 0x18,
  taskSetFull: 0x28,
  acaActive: 0x30,
  taskAborted: 0x40,
} as const;

const statusWords: Record<number, string> = {
  [status.good]: "GOOD",
  [status.checkCondition]: "CHECK CONDITION",
  [status.conditionMet]: "CONDITION MET",
  [status.busy]: "BUSY",
  [status.reservationConflict]: "RESERVATION CONFLICT",
  [status.taskSetFull]: "TASK SET FULL",
  [status.acaActive]: "ACA ACTIVE",
  [status.taskAborted]: "TASK ABORTED",
};

export function describeStatus(code: number): string {
  return statusWords[code] ?? `status ${code.toString(16).padStart(2, "0")}h`;
}

export interface ScsiCommand {
  readonly cdb: Buffer;
  /** Data-Out, one after another; lent until the outcome. A command has Data-Out or Data-In, never both. */
  readonly dataOut?: readonly Buffer[];
  /** The most bytes of Data-In that are taken. */
  readonly dataInBytes?: number;
  /** Where the Data-In goes, `dataInBytes` long; a new buffer if absent. Lent until the outcome. */
  readonly dataIn?: Buffer;
  /** After this the command is aborted; the device's default if absent. */
  readonly timeoutMs?: number;
}

export interface ScsiOutcome {
  readonly status: number;
  readonly sense: Sense | undefined;
  /** What arrived of the Data-In. */
  readonly dataIn: Buffer;
}

/**
 * One logical unit at the far end of some transport. A command that the transport could not deliver is repeated
 * by the transport where that is safe, and otherwise throws AgentError; a status of the device is an outcome.
 */
export interface ScsiDevice extends AsyncDisposable {
  /** As it was given: a URL or a path. */
  readonly name: string;
  /** The longest CDB that the transport takes: 16, or 32 and more. */
  readonly cdbBytesMax: number;
  /** The most commands that make sense to have outstanding. */
  readonly queueDepth: number;
  /** The most bytes that one command should transfer, by what the transport negotiated. */
  readonly transferBytesPreferred: number;
  /** Keys by which the unit is recognized as a volume of this host, if the kernel has one of it. */
  readonly localKeys?: readonly string[];
  /** Bytes on the wire so far, headers included as far as they are known; zeros for a transport without a wire. */
  readonly traffic: { readonly sent: number; readonly received: number };
  execute(command: ScsiCommand, signal?: AbortSignal): Promise<ScsiOutcome>;
  /**
   * Called after a lost connection was made again, before any command is repeated; throwing ends the device.
   * The device server may have changed: whoever owns the device checks that it is still the same unit.
   */
  onReconnect(check: (execute: (command: ScsiCommand) => Promise<ScsiOutcome>) => Promise<void>): void;
}
