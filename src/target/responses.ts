// The answer to a SCSI command as PDUs: Data-In in segments and bursts, status, sense, residual counts.
//
// Source: RFC 7143, 11.4 (SCSI Response), 11.7 (Data-In); 4.2.5.2 for the residual counts.
import { lengthOf, slicesOf } from "../base/bytes.ts";
import { noTag } from "../iscsi/codes.ts";
import { dataInPdu, scsiResponsePdu } from "../iscsi/pdu.ts";
import { status } from "../scsi/command.ts";
import { encodeSense } from "../scsi/sense.ts";
import type { ScsiResult } from "./scsi-task.ts";
import type { TargetTask } from "./target-task.ts";

/** Sequence numbers of the moment a PDU is made; a PDU with status takes the next StatSN. */
export interface Numbers {
  nextStatSN(): number;
  readonly expCmdSN: number;
  readonly maxCmdSN: number;
}

export interface ResponseLimits {
  /** What the initiator declared as its MaxRecvDataSegmentLength. */
  readonly segmentBytesMax: number;
  readonly burstBytesMax: number;
}

type Send = (header: Buffer, data?: readonly Buffer[], onSent?: () => void) => void;

function residual(expected: number, actual: number) {
  return {
    residualOverflow: actual > expected,
    residualUnderflow: actual < expected,
    residualCount: Math.abs(actual - expected),
  };
}

/** Sends everything; `release` is called once the result's buffers are with the kernel. */
export function sendResult(
  task: TargetTask,
  result: ScsiResult,
  numbers: Numbers,
  limits: ResponseLimits,
  send: Send,
  release: () => void,
): void {
  const { initiatorTaskTag, read, expectedDataTransferLength: expected } = task.start;
  const isGood = result.status === status.good;
  const dataIn = isGood ? (result.dataIn ?? []) : [];
  const available = lengthOf(dataIn);
  const sendable = read ? Math.min(available, expected) : 0;
  const moved = isGood
    ? (result.transferBytes ?? (dataIn.length > 0 ? available : task.start.dataOutWanted))
    : 0;
  const residue = residual(expected, moved);
  let dataSN = 0;
  for (let at = 0; at < sendable; ) {
    const burstEnd = Math.min(sendable, at - (at % limits.burstBytesMax) + limits.burstBytesMax);
    const bytes = Math.min(limits.segmentBytesMax, burstEnd - at);
    const last = at + bytes === sendable;
    const header = dataInPdu.encode({
      final: at + bytes === burstEnd,
      hasStatus: last,
      initiatorTaskTag,
      targetTransferTag: noTag,
      expCmdSN: numbers.expCmdSN,
      maxCmdSN: numbers.maxCmdSN,
      dataSN: dataSN++,
      bufferOffset: at,
      status: last ? result.status : 0,
      statSN: last ? numbers.nextStatSN() : 0,
      residualOverflow: last && residue.residualOverflow,
      residualUnderflow: last && residue.residualUnderflow,
      residualCount: last ? residue.residualCount : 0,
    });
    send(header, bytes === available ? dataIn : slicesOf(dataIn, at, bytes), last ? release : undefined);
    at += bytes;
  }
  if (sendable > 0) return;
  release();
  let data: Buffer[] | undefined;
  if (result.sense) {
    const sense = encodeSense(result.sense, result.descriptorSense);
    const length = Buffer.alloc(2);
    length.writeUInt16BE(sense.length);
    data = [Buffer.concat([length, sense])];
  }
  const header = scsiResponsePdu.encode({
    status: result.status,
    initiatorTaskTag,
    statSN: numbers.nextStatSN(),
    expCmdSN: numbers.expCmdSN,
    maxCmdSN: numbers.maxCmdSN,
    expDataSN: task.r2tCount,
    ...residue,
  });
  send(header, data);
}
