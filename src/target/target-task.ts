// One SCSI command at the target's end: what has come of its Data-Out, and where it stands.
//
// Guarantees: Data-Out is taken in order, once, inside what was announced and asked for; anything else is a
// PduViolation, which ends the connection. No more is kept than the command wants.
//
// Source: RFC 7143, 4.2.5.4 (R2T), 11.7 (Data-Out).
import type { Pdu } from "../iscsi/framing.ts";
import { type dataOutPdu, noTag } from "../iscsi/pdu.ts";

/** The initiator sent what it must not: a Reject with this reason, and the connection is closed. */
export class PduViolation extends Error {
  override readonly name = "PduViolation";
  readonly reason: number;

  constructor(reason: number, message: string) {
    super(message);
    this.reason = reason;
  }
}

const protocolError = 0x04;
const violation = (message: string) => new PduViolation(protocolError, message);

/** Pieces that are smaller on average than this hold more memory than they fill: they are copied together. */
const pieceBytesMin = 1024;

interface Burst {
  readonly targetTransferTag: number;
  readonly end: number;
}

export interface TaskStart {
  readonly initiatorTaskTag: number;
  readonly lun: bigint;
  readonly cdb: Buffer;
  readonly read: boolean;
  readonly write: boolean;
  readonly expectedDataTransferLength: number;
  readonly cmdSN: number;
  /** Bytes of Data-Out that the command wants. */
  readonly dataOutWanted: number;
  /** Unsolicited Data-Out follows, up to this many bytes in all; 0 if none may come. */
  readonly unsolicitedBytesMax: number;
}

export class TargetTask {
  readonly start: TaskStart;
  readonly abort = new AbortController();
  /** Resolves when nothing is done for the task any more. */
  readonly settled: Promise<void>;
  readonly settle: () => void;
  state: "collecting" | "executing" | "settled" = "collecting";
  /** R2Ts that were sent. */
  r2tCount = 0;
  memory: (() => void) | undefined;
  readonly #keepBytes: number;
  #pieces: Buffer[] = [];
  #kept = 0;
  #received = 0;
  #unsolicited: boolean;
  #burst: Burst | undefined;
  #nextDataSN = 0;

  constructor(start: TaskStart) {
    this.start = start;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.settled = promise;
    this.settle = () => {
      this.state = "settled";
      this.memory?.();
      this.memory = undefined;
      this.#pieces = [];
      resolve();
    };
    this.#keepBytes = Math.min(start.dataOutWanted, start.write ? start.expectedDataTransferLength : 0);
    this.#unsolicited = start.unsolicitedBytesMax > 0;
  }

  get aborted(): boolean {
    return this.abort.signal.aborted;
  }

  get dataOut(): readonly Buffer[] {
    return this.#pieces;
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

  takeImmediate(data: readonly Buffer[], length: number): void {
    this.#take(data, length);
  }

  /** Begins a burst of at most `bytesMax`: where it starts and how long it is, for the R2T. */
  beginBurst(
    targetTransferTag: number,
    bytesMax: number,
  ): { bufferOffset: number; length: number; r2tSN: number } {
    const length = Math.min(bytesMax, this.missing);
    this.#burst = { targetTransferTag, end: this.#received + length };
    this.#nextDataSN = 0;
    return { bufferOffset: this.#received, length, r2tSN: this.r2tCount++ };
  }

  takeDataOut(header: ReturnType<typeof dataOutPdu.decode>, pdu: Pdu): void {
    const { targetTransferTag, bufferOffset, dataSN, final } = header;
    if (header.lun !== this.start.lun && targetTransferTag !== noTag)
      throw violation("Data-Out for another LUN");
    const end = bufferOffset + pdu.dataLength;
    if (bufferOffset !== this.#received) {
      throw violation(`Data-Out at ${bufferOffset} where ${this.#received} was due`);
    }
    if (dataSN !== this.#nextDataSN) throw violation(`DataSN ${dataSN} where ${this.#nextDataSN} was due`);
    if (targetTransferTag === noTag) {
      if (!this.#unsolicited) throw violation("unsolicited Data-Out that was not announced");
      if (end > this.start.unsolicitedBytesMax) throw violation("unsolicited Data-Out past FirstBurstLength");
      if (final) this.#unsolicited = false;
    } else {
      const burst = this.#burst;
      if (!burst || burst.targetTransferTag !== targetTransferTag)
        throw violation("Data-Out with an unknown tag");
      if (end > burst.end) throw violation("Data-Out past the end of its burst");
      if (final !== (end === burst.end)) throw violation("a burst of Data-Out that ends in the wrong place");
      if (final) this.#burst = undefined;
    }
    this.#nextDataSN++;
    if (final) this.#nextDataSN = 0;
    this.#take(pdu.data, pdu.dataLength);
  }

  #take(data: readonly Buffer[], length: number): void {
    this.#received += length;
    for (const piece of data) {
      const rest = this.#keepBytes - this.#kept;
      if (rest <= 0) return;
      const kept = piece.length > rest ? piece.subarray(0, rest) : piece;
      this.#pieces.push(kept);
      this.#kept += kept.length;
    }
    if (this.#pieces.length > 16 && this.#pieces.length > this.#kept / pieceBytesMin) {
      this.#pieces = [Buffer.concat(this.#pieces)];
    }
  }
}
