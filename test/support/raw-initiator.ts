// An initiator that sends whatever a test wants, PDU by PDU, to a real target over a real socket.
import { connect, type Socket } from "node:net";
import * as codes from "../../src/iscsi/codes.ts";
import { type DigestSwitches, framePdu, type Pdu, PduDecoder } from "../../src/iscsi/framing.ts";
import * as wire from "../../src/iscsi/pdu.ts";
import { decodeText, encodeText, type TextPairs } from "../../src/iscsi/text.ts";
import { crc32c } from "../../src/platform/native-digest.ts";
import { decodeSense, type Sense } from "../../src/scsi/sense.ts";

const noDigests = { headerDigest: false, dataDigest: false };

export interface RawOutcome {
  readonly status: number;
  readonly sense: Sense | undefined;
  readonly dataIn: Buffer;
  /** Overflow is positive, underflow negative. */
  readonly residual: number;
}

export class RawInitiator implements AsyncDisposable {
  readonly socket: Socket;
  readonly pdus: Pdu[] = [];
  closed = false;
  cmdSN = 1;
  isid: Buffer = Buffer.from("800102030405", "hex");
  readonly #decoder = new PduDecoder(crc32c, 1 << 24);
  #digests = { ...noDigests };
  #waiting: (() => void) | undefined;

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.on("data", (chunk) => {
      this.#decoder.push(chunk, { pdu: (pdu) => this.pdus.push(pdu) });
      this.#waiting?.();
    });
    socket.on("error", () => {});
    socket.on("close", () => {
      this.closed = true;
      this.#waiting?.();
    });
  }

  static async connect(port: number): Promise<RawInitiator> {
    const socket = connect({ port, host: "127.0.0.1", noDelay: true });
    await new Promise((resolve, reject) => socket.once("connect", resolve).once("error", reject));
    return new RawInitiator(socket);
  }

  /** A session in full-feature phase. */
  static async login(
    port: number,
    targetName: string | undefined,
    more: TextPairs = [],
    isid?: Buffer,
    initiatorName = "iqn.2026-11.com.example:raw",
  ): Promise<RawInitiator> {
    const raw = await RawInitiator.connect(port);
    if (isid) raw.isid = isid;
    const names: TextPairs = [["InitiatorName", initiatorName]];
    if (targetName === undefined) names.push(["SessionType", "Discovery"]);
    else names.push(["TargetName", targetName]);
    raw.sendLogin([...names, ...more], { transit: true, currentStage: 1, nextStage: 3 });
    const response = wire.loginResponsePdu.decode((await raw.next()).header);
    if (response.statusClass !== 0)
      throw new Error(`login status ${response.statusClass}/${response.statusDetail}`);
    return raw;
  }

  sendLogin(pairs: TextPairs | Buffer, fields: Parameters<typeof wire.loginRequestPdu.encode>[0] = {}): void {
    const header = wire.loginRequestPdu.encode({
      immediate: true,
      isid: this.isid,
      cmdSN: this.cmdSN,
      ...fields,
    });
    this.send(header, Buffer.isBuffer(pairs) ? pairs : encodeText(pairs));
  }

  /** From here on PDUs have these digests: what the login that has just ended agreed on. */
  useDigests(digests: DigestSwitches): void {
    this.#digests = { ...digests };
    Object.assign(this.#decoder.digests, digests);
  }

  /** The bytes of a PDU, as it would be sent. */
  frame(header: Buffer, data?: Buffer, ahs?: Buffer): Buffer {
    return Buffer.concat(framePdu(crc32c, this.#digests, header, data ? [data] : [], ahs));
  }

  send(header: Buffer, data?: Buffer, ahs?: Buffer): void {
    this.sendBytes(this.frame(header, data, ahs));
  }

  sendBytes(bytes: Buffer): void {
    if (!this.closed) this.socket.write(bytes);
  }

  /** The next PDU; rejects if the connection ends first. */
  async next(timeoutMs = 5000): Promise<Pdu> {
    await this.#until(() => this.pdus.length > 0 || this.closed, timeoutMs);
    const pdu = this.pdus.shift();
    if (!pdu) throw new Error("the connection was closed");
    return pdu;
  }

  /** Waits for the target to close; what came before it is in `pdus`. */
  async ended(timeoutMs = 5000): Promise<void> {
    await this.#until(() => this.closed, timeoutMs);
  }

  /** True if nothing comes for a while. */
  async silent(ms = 150): Promise<boolean> {
    await this.#until(() => this.pdus.length > 0 || this.closed, ms).catch(() => {});
    return this.pdus.length === 0 && !this.closed;
  }

  async #until(done: () => boolean, timeoutMs: number): Promise<void> {
    const deadline = performance.now() + timeoutMs;
    while (!done()) {
      const left = deadline - performance.now();
      if (left <= 0) throw new Error(`nothing came in ${timeoutMs} ms`);
      let timer: NodeJS.Timeout | undefined;
      await new Promise<void>((resolve) => {
        this.#waiting = resolve;
        timer = setTimeout(resolve, left);
      });
      clearTimeout(timer);
    }
  }

  /** A command PDU with the next CmdSN. */
  sendCommand(
    cdb: Buffer,
    fields: Parameters<typeof wire.scsiCommandPdu.encode>[0] = {},
    data?: Buffer,
    ahs?: Buffer,
  ): number {
    const tag = fields.initiatorTaskTag ?? this.cmdSN + 1000;
    const padded = Buffer.alloc(16);
    cdb.copy(padded, 0, 0, 16);
    const header = wire.scsiCommandPdu.encode({
      final: true,
      attributes: 1,
      initiatorTaskTag: tag,
      cmdSN: fields.immediate ? this.cmdSN : this.cmdSN++,
      cdb: padded,
      ...fields,
    });
    this.send(header, data, ahs);
    return tag;
  }

  /** A command without Data-Out, to its end. */
  async command(cdb: Buffer, dataInBytes = 0, ahs?: Buffer, lun = 0n): Promise<RawOutcome> {
    this.sendCommand(
      cdb,
      { read: dataInBytes > 0, expectedDataTransferLength: dataInBytes, lun },
      undefined,
      ahs,
    );
    return this.outcome();
  }

  /** The answer to the command that is under way. */
  async outcome(): Promise<RawOutcome> {
    const pieces: Buffer[] = [];
    for (;;) {
      const pdu = await this.next();
      const opcode = pdu.header[0]! & 0x3f;
      if (opcode === codes.opcode.dataIn) {
        const header = wire.dataInPdu.decode(pdu.header);
        pieces.push(pdu.data);
        if (!header.hasStatus) continue;
        return {
          status: header.status,
          sense: undefined,
          dataIn: Buffer.concat(pieces),
          residual: residual(header),
        };
      }
      if (opcode !== codes.opcode.scsiResponse) throw new Error(`opcode ${opcode} where a response was due`);
      const header = wire.scsiResponsePdu.decode(pdu.header);
      const sense =
        pdu.data.length > 2 ? decodeSense(pdu.data.subarray(2, 2 + pdu.data.readUInt16BE(0))) : undefined;
      return { status: header.status, sense, dataIn: Buffer.concat(pieces), residual: residual(header) };
    }
  }

  /** Takes all unit attentions that are pending. */
  async settle(lun = 0n): Promise<void> {
    while ((await this.command(Buffer.alloc(6), 0, undefined, lun)).sense?.key === 0x6);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.socket.destroy();
    await this.ended().catch(() => {});
  }
}

function residual(header: {
  residualOverflow: boolean;
  residualUnderflow: boolean;
  residualCount: number;
}): number {
  return header.residualOverflow
    ? header.residualCount
    : header.residualUnderflow
      ? -header.residualCount
      : 0;
}

export const textOf = (pdu: Pdu): TextPairs => decodeText(pdu.data);
