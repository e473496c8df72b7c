// One SCSI command at the target's end: what has come of its Data-Out, and where it stands.
//
// Guarantees: Data-Out is taken in order, once, inside what was announced and asked for; anything else is a
// PduViolation, which ends the connection. No more is kept than the command wants. A buffer is given back only when
// nothing goes into it any more.
//
// Source: RFC 7143, 4.2.5.4 (R2T), 11.7 (Data-Out).
import { type Deferred, deferred } from "../base/async.ts";
import type { BufferPool } from "../base/buffer-pool.ts";
import { slicesOf } from "../base/bytes.ts";
import { noTag, rejectReason } from "../iscsi/codes.ts";
import { additionalHeaders, ahsTypeExtendedCdb, type Pdu } from "../iscsi/framing.ts";
import type { Parameters } from "../iscsi/negotiation.ts";
import type { dataOutPdu, scsiCommandPdu } from "../iscsi/pdu.ts";
import type { Nexus } from "./nexus.ts";
import type { ScsiRequest } from "./scsi-task.ts";

/** The initiator sent what it must not: a Reject with this reason, and the connection is closed. */
export class PduViolation extends Error {
  override readonly name = "PduViolation";
  readonly reason: number;

  constructor(reason: number, message: string) {
    super(message);
    this.reason = reason;
  }
}

const violation = (message: string) => new PduViolation(rejectReason.protocolError, message);

/** @throws PduViolation for data that a command brings or announces and that was not agreed upon (RFC 7143, 13.10 to 13.14) */
export function checkUnsolicited(
  { write, final, expectedDataTransferLength: expected }: ReturnType<typeof scsiCommandPdu.decode>,
  immediateBytes: number,
  parameters: Parameters,
): void {
  if (immediateBytes > 0 && !(write && parameters.ImmediateData)) {
    throw violation("immediate data that was not agreed upon");
  }
  if (immediateBytes > Math.min(parameters.FirstBurstLength, expected)) {
    throw violation("more immediate data than FirstBurstLength or than expected");
  }
  if (!final && !(write && !parameters.InitialR2T)) {
    throw violation("unsolicited data is announced that was not agreed upon");
  }
}

/** The CDB with what an additional header brings of it. */
export function wholeCdb(pdu: Pdu, cdb: Buffer): Buffer {
  let whole = cdb;
  for (const { type, specific } of additionalHeaders(pdu.ahs)) {
    if (type !== ahsTypeExtendedCdb)
      throw new PduViolation(rejectReason.invalidPduField, `an AHS of type ${type}`);
    if (whole !== cdb) throw new PduViolation(rejectReason.invalidPduField, "two extended CDBs");
    whole = Buffer.concat([cdb, specific.subarray(1)]);
  }
  return whole === cdb ? Buffer.from(cdb) : whole;
}

interface Burst {
  readonly targetTransferTag: number;
  readonly start: number;
  readonly end: number;
  readonly buffer: Buffer;
}

export interface TaskStart {
  readonly initiatorTaskTag: number;
  readonly lun: bigint;
  readonly cdb: Buffer;
  readonly read: boolean;
  readonly write: boolean;
  readonly expectedDataTransferLength: number;
  readonly cmdSN: number;
  /**
   * A command that writes and brings no data, or data in both directions: it is refused when all has come that was
   * announced. One that reads and is said to write is carried out, and its residual tells (as libiscsi's suite wants).
   */
  readonly astray: boolean;
  /** Bytes of Data-Out that the command wants. */
  readonly dataOutWanted: number;
  /** Unsolicited Data-Out follows, up to this many bytes in all; 0 if none may come. */
  readonly unsolicitedBytesMax: number;
}

export class TargetTask {
  readonly start: TaskStart;
  aborted = false;
  /** Made for who asks for its signal or its promise: most tasks end before anybody does. */
  #abort: AbortController | undefined;
  #settled: Deferred<void> | undefined;
  state: "collecting" | "executing" | "settled" = "collecting";
  /** R2Ts that were sent. */
  r2tCount = 0;
  memory: (() => void) | undefined;
  readonly #keepBytes: number;
  readonly #pool: BufferPool;
  #pieces: Buffer[] = [];
  #giveBack: (() => void)[] = [];
  #received = 0;
  #unsolicited: boolean;
  #burst: Burst | undefined;
  #nextDataSN = 0;
  /** Between the header of a Data-Out and the last byte of its data. */
  #filling = false;
  /** A Data-Out was out of sequence: what still comes is thrown away, and the command fails when its burst ends. */
  #outOfSequence = false;

  constructor(start: TaskStart, pool: BufferPool) {
    this.#pool = pool;
    this.start = start;
    this.#keepBytes = Math.min(start.dataOutWanted, start.write ? start.expectedDataTransferLength : 0);
    this.#unsolicited = start.unsolicitedBytesMax > 0;
  }

  /** Nothing is done for the task any more. */
  settle(): void {
    this.state = "settled";
    this.memory?.();
    this.memory = undefined;
    this.#pieces = [];
    const giveBacks = this.#giveBack;
    this.#giveBack = [];
    // The rest of a Data-Out that is under way still goes into its buffer: nobody else may have that.
    if (!this.#filling) for (const giveBack of giveBacks) giveBack();
    this.#settled?.resolve();
  }

  /** Resolves when nothing is done for the task any more. */
  get settled(): Promise<void> {
    this.#settled ??= deferred();
    if (this.state === "settled") this.#settled.resolve();
    return this.#settled.promise;
  }

  abort(): void {
    this.aborted = true;
    this.#abort?.abort();
  }

  /** Tells who executes the task that it was aborted. */
  get signal(): AbortSignal {
    this.#abort ??= new AbortController();
    if (this.aborted) this.#abort.abort();
    return this.#abort.signal;
  }

  get dataOut(): readonly Buffer[] {
    return this.#received > this.#keepBytes ? slicesOf(this.#pieces, 0, this.#keepBytes) : this.#pieces;
  }

  /** Data was lost or doubled on its way: the command can't be carried out (RFC 7143, 7.9). */
  get broken(): boolean {
    return this.#outOfSequence && this.quiet;
  }

  /** All Data-Out that the command can have is here. */
  get complete(): boolean {
    return !this.#unsolicited && this.#received >= this.#keepBytes;
  }

  /** The initiator may send nothing more unless it is asked to. */
  get quiet(): boolean {
    return !this.#unsolicited && this.#burst === undefined;
  }

  /** Bytes that are still to be asked for. */
  get missing(): number {
    return Math.max(0, this.#keepBytes - this.#received);
  }

  /** Immediate data, in a buffer that is the task's from here on. */
  takeImmediate(data: Buffer, giveBack: (() => void) | undefined): void {
    this.#received += data.length;
    this.#pieces.push(data);
    if (giveBack) this.#giveBack.push(giveBack);
  }

  /** Begins a burst of at most `bytesMax`: where it starts and how long it is, for the R2T. */
  beginBurst(
    targetTransferTag: number,
    bytesMax: number,
  ): { bufferOffset: number; length: number; r2tSN: number } {
    const length = Math.min(bytesMax, this.missing);
    const { buffer, giveBack } = this.#pool.borrow(length);
    this.#pieces.push(buffer);
    this.#giveBack.push(giveBack);
    this.#burst = { targetTransferTag, start: this.#received, end: this.#received + length, buffer };
    this.#nextDataSN = 0;
    return { bufferOffset: this.#received, length, r2tSN: this.r2tCount++ };
  }

  /**
   * Where the data of a Data-Out goes; nothing is taken before its header was found right. Undefined for what is thrown
   * away.
   */
  placeDataOut(header: ReturnType<typeof dataOutPdu.decode>, length: number): Buffer | undefined {
    const { targetTransferTag, bufferOffset, dataSN, final } = header;
    const end = bufferOffset + length;
    if (dataSN !== this.#nextDataSN) this.#outOfSequence = true;
    if (this.#outOfSequence) return undefined;
    if (bufferOffset !== this.#received) {
      throw violation(`Data-Out at ${bufferOffset} where ${this.#received} was due`);
    }
    if (targetTransferTag === noTag) return this.#placeUnsolicited(end, length);
    if (header.lun !== this.start.lun) throw violation("Data-Out for another LUN");
    const burst = this.#burst;
    if (!burst || burst.targetTransferTag !== targetTransferTag)
      throw violation("Data-Out with an unknown tag");
    if (end > burst.end) throw violation("Data-Out past the end of its burst");
    if (final !== (end === burst.end)) throw violation("a burst of Data-Out that ends in the wrong place");
    this.#received = end;
    this.#filling = true;
    return burst.buffer.subarray(bufferOffset - burst.start, end - burst.start);
  }

  #placeUnsolicited(end: number, length: number): Buffer {
    if (!this.#unsolicited) throw violation("unsolicited Data-Out that was not announced");
    if (end > this.start.unsolicitedBytesMax) throw violation("unsolicited Data-Out past FirstBurstLength");
    this.#received = end;
    this.#filling = true;
    if (length === 0) return nothing;
    const { buffer, giveBack } = this.#pool.borrow(length);
    this.#pieces.push(buffer);
    this.#giveBack.push(giveBack);
    return buffer;
  }

  /** A Data-Out whose data is in its place. */
  dataOutTaken(header: ReturnType<typeof dataOutPdu.decode>): void {
    this.#filling = false;
    this.#nextDataSN++;
    if (!header.final) return;
    this.#nextDataSN = 0;
    if (header.targetTransferTag === noTag) this.#unsolicited = false;
    else this.#burst = undefined;
  }
}

/** A task as the device server sees it. */
export class TaskRequest implements ScsiRequest {
  readonly nexus: Nexus;
  readonly lun: bigint;
  readonly cdb: Buffer;
  readonly dataOut: readonly Buffer[];
  readonly dataOutBytesAnnounced: number;
  readonly dataInBytesMax: number;
  readonly #task: TargetTask;

  constructor(nexus: Nexus, task: TargetTask) {
    const { lun, cdb, read, write, expectedDataTransferLength } = task.start;
    this.nexus = nexus;
    this.lun = lun;
    this.cdb = cdb;
    this.dataOut = task.dataOut;
    this.dataOutBytesAnnounced = write ? expectedDataTransferLength : 0;
    this.dataInBytesMax = read ? expectedDataTransferLength : 0;
    this.#task = task;
  }

  get signal(): AbortSignal {
    return this.#task.signal;
  }
}

const nothing = Buffer.alloc(0);
