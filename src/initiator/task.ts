// One command on its way: what is sent of its data, what has come of its answer.
//
// Guarantees: bytes of a peer are written only inside the command's own buffer, in order, and never past the length
// that was announced; anything else is a ProtocolViolation, which ends the connection.
import { lengthOf, slicesOf } from "../base/bytes.ts";
import type { ScsiCommand, ScsiOutcome } from "../scsi/command.ts";
import { decodeSense } from "../scsi/sense.ts";

/** The peer sent what it must not. Thrown into the connection, which ends. */
export class ProtocolViolation extends Error {
  override readonly name = "ProtocolViolation";
}

export class Task {
  readonly command: ScsiCommand;
  readonly resolve: (outcome: ScsiOutcome) => void;
  readonly reject: (reason: unknown) => void;
  readonly dataOutBytes: number;
  readonly dataIn: Buffer;
  initiatorTaskTag = 0;
  cmdSN = 0;
  /** Times that it was sent again after a lost connection. */
  repeats = 0;
  /** Set once somebody wants it gone; the reason that it is then rejected with. */
  abortReason: unknown;
  #received = 0;
  #nextDataSN = 0;

  constructor(
    command: ScsiCommand,
    resolve: (outcome: ScsiOutcome) => void,
    reject: (reason: unknown) => void,
  ) {
    this.command = command;
    this.resolve = resolve;
    this.reject = reject;
    this.dataOutBytes = lengthOf(command.dataOut ?? []);
    const wanted = command.dataInBytes ?? command.dataIn?.length ?? 0;
    this.dataIn =
      command.dataIn?.subarray(0, wanted) ?? (wanted === 0 ? nothing : Buffer.allocUnsafe(wanted));
  }

  get expectedDataTransferLength(): number {
    return this.dataOutBytes > 0 ? this.dataOutBytes : this.dataIn.length;
  }

  /** Forgets what came, before the command is sent again. */
  restart(): void {
    this.#received = 0;
    this.#nextDataSN = 0;
  }

  /** Where the data of a Data-In PDU goes. */
  placeDataIn(dataSN: number, bufferOffset: number, length: number): Buffer {
    if (dataSN !== this.#nextDataSN)
      throw new ProtocolViolation(`DataSN ${dataSN} where ${this.#nextDataSN} was due`);
    if (bufferOffset !== this.#received || bufferOffset + length > this.dataIn.length) {
      throw new ProtocolViolation(
        `Data-In at ${bufferOffset} + ${length} where ${this.#received} of ${this.dataIn.length} bytes had come`,
      );
    }
    this.#nextDataSN++;
    this.#received += length;
    return this.dataIn.subarray(bufferOffset, bufferOffset + length);
  }

  /** The Data-Out bytes from `offset`, as slices. */
  dataOutSlices(offset: number, length: number): Buffer[] {
    return slicesOf(this.command.dataOut ?? [], offset, length);
  }

  outcome(status: number, responseData: Buffer): ScsiOutcome {
    // RFC 7143, 11.4.7: two bytes of sense length, then the sense data.
    let sense: ScsiOutcome["sense"];
    if (responseData.length >= 2) {
      const length = responseData.readUInt16BE(0);
      if (length + 2 > responseData.length) throw new ProtocolViolation("sense data longer than its segment");
      sense = decodeSense(responseData.subarray(2, 2 + length));
    }
    return { status, sense, dataIn: this.dataIn.subarray(0, this.#received) };
  }
}

const nothing = Buffer.alloc(0);
