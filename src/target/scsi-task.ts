// What a transport hands to the device server, and what it gets back.
import { lengthOf } from "../base/bytes.ts";
import { status } from "../scsi/command.ts";
import { type Condition, type Sense, sense } from "../scsi/sense.ts";
import type { Nexus } from "./nexus.ts";

export interface ScsiRequest {
  readonly nexus: Nexus;
  /** The eight bytes of the LUN field. */
  readonly lun: bigint;
  readonly cdb: Buffer;
  /** What arrived of the Data-Out. */
  readonly dataOut: readonly Buffer[];
  /** How much Data-Out the initiator announced; more than arrived where the command takes less. */
  readonly dataOutBytesAnnounced: number;
  /** The most Data-In that the initiator takes. */
  readonly dataInBytesMax: number;
  readonly signal: AbortSignal;
}

export interface ScsiResult {
  readonly status: number;
  readonly sense?: Sense;
  /** The sense goes out in descriptor format (D_SENSE of the control mode page). */
  readonly descriptorSense?: boolean;
  /** Everything that the command yields; the transport cuts it to what the initiator takes. */
  readonly dataIn?: readonly Buffer[];
  /** Bytes that the command would have transferred, where that is not what `dataIn` holds: for the residual. */
  readonly transferBytes?: number;
  /** Before the status is sent, the commands of these initiator ports for the unit are aborted. */
  readonly abortsCommandsOf?: readonly string[];
  /** Gives the buffers of `dataIn` back, once they are sent. */
  readonly release?: () => void;
}

export const good: ScsiResult = { status: status.good };

export function checkCondition(
  name: Condition,
  details: Omit<Sense, "key" | "asc" | "ascq"> = {},
): ScsiResult {
  return { status: status.checkCondition, sense: sense(name, details) };
}

/** INVALID FIELD IN CDB, pointing at a byte and, for fields of bits, at its most significant bit. */
export const invalidCdbField = (byte: number, bit?: number): ScsiResult =>
  checkCondition("invalidFieldInCdb", { fieldPointer: { cdb: true, byte, bit } });

export const invalidParameter = (byte: number, bit?: number): ScsiResult =>
  checkCondition("invalidFieldInParameterList", { fieldPointer: { cdb: false, byte, bit } });

/** Data-In, cut to the allocation length. */
export function dataInResult(data: Buffer, allocationLength: number): ScsiResult {
  return { status: status.good, dataIn: [data.subarray(0, allocationLength)] };
}

export const joined = (pieces: readonly Buffer[]): Buffer =>
  pieces.length === 1 ? pieces[0]! : Buffer.concat(pieces, lengthOf(pieces));
