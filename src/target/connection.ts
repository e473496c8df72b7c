// One TCP connection to a portal: framing, the login, then its session; and the clocks that bound it.
//
// Guarantees: whatever bytes come, the connection ends in an orderly way, with one line in the log, and frees what it
// held. A login has `loginMs`, a peer that takes nothing of what is queued has `stuckMs`, and one that is silent is
// asked (NOP-In) and dropped when it does not answer. One that was asked for data has `dataMs` for each PDU of it: it
// keeps memory from others meanwhile. No more than `queuedBytesMax` waits for a peer that asks faster
// than it takes.
import type { Socket } from "node:net";
import { messageOf } from "../base/errors.ts";
import { MiB } from "../base/units.ts";
import { opcode } from "../iscsi/codes.ts";
import { type Crc32c, FramingError, framePdu, type Pdu, PduDecoder, type PduSink } from "../iscsi/framing.ts";
import type { Clock, Timer } from "../platform/clock.ts";
import { Outbox } from "../platform/outbox.ts";
import { acceptTcp } from "../platform/tcp.ts";
import { type LoginAgreement, type LoginHost, type LoginReply, TargetLogin } from "./login.ts";
import type { TargetSession } from "./session.ts";
import type { SessionLink } from "./session-host.ts";

export interface ConnectionHost {
  readonly login: LoginHost;
  readonly clock: Clock;
  readonly crc32c: Crc32c;
  /** Makes the session, once an older one of the same initiator port has ended; or says with what status not. */
  begin(
    agreement: LoginAgreement,
    link: TargetConnection,
  ): Promise<TargetSession | { status: number; why: string }>;
  /** The connection is over; its session, if it had one, has been told. */
  ended(connection: TargetConnection, session: TargetSession | undefined): void;
  /** Logs the end of a connection that never logged in. */
  refused(message: string): void;
  log(level: "info" | "warning" | "error", message: string): void;
}

const loginMs = 15_000;
const stuckMs = 30_000;
const silentMs = 20_000;
const dataMs = 60_000;
const watchMs = 5_000;
const finishMs = 2_000;
const loginSegmentMax = 8192;
/** Well above the memory that a connection's commands have in flight. */
const queuedBytesMax = 64 * MiB;
/** What this side declares as MaxRecvDataSegmentLength. */
export const receiveSegmentBytes = 256 * 1024;

export class TargetConnection implements SessionLink {
  readonly peer: string;
  readonly socket: Socket;
  readonly #host: ConnectionHost;
  readonly #decoder: PduDecoder;
  readonly #outbox: Outbox;
  #login: TargetLogin | undefined;
  #session: TargetSession | undefined;
  #digests = { headerDigest: false, dataDigest: false };
  #state: "login" | "agreed" | "full" | "finishing" | "closed" = "login";
  #timer: Timer;
  #heardMs: number;
  #pingedMs: number | undefined;
  #progressMs: number;
  #taken = 0;
  #dataMs: number;
  #dataOutCount = 0;
  readonly #sink: PduSink = {
    place: (header, length) => (this.#state === "full" ? this.#session!.place(header, length) : undefined),
    pdu: (pdu) => this.#pdu(pdu),
  };

  /** Takes over a socket that was accepted and is paused. */
  constructor(accepted: Socket, host: ConnectionHost) {
    const socket = acceptTcp(accepted, (bytes) => this.#receive(bytes));
    this.socket = socket;
    this.#host = host;
    this.peer = `${socket.remoteAddress}:${socket.remotePort}`;
    this.#decoder = new PduDecoder(host.crc32c, loginSegmentMax);
    this.#outbox = new Outbox(socket);
    this.#login = new TargetLogin(host.login);
    this.#heardMs = this.#progressMs = this.#dataMs = host.clock.monotonicMs();
    this.#timer = host.clock.after(loginMs, () => this.close(`it did not log in within ${loginMs / 1000} s`));
    socket.on("error", (error) => this.close(error.message));
    socket.on("close", () =>
      this.close(this.#decoder.partial ? "it was cut in the middle of a PDU" : "the initiator closed it"),
    );
  }

  /** For the log: the address, and the initiator's name once it is known. */
  get description(): string {
    const name = this.#session?.nexus.initiatorName ?? this.#login?.initiatorName;
    return name === undefined ? this.peer : `${this.peer} (${name})`;
  }

  send(header: Buffer, data?: readonly Buffer[], onSent?: () => void): void {
    if (this.#state === "closed") {
      onSent?.();
      return;
    }
    this.#outbox.write(framePdu(this.#host.crc32c, this.#digests, header, data), onSent);
    const { queuedBytes } = this.#outbox;
    if (queuedBytes > queuedBytesMax)
      this.close(`it takes too little of what it asks for: ${queuedBytes} bytes wait`);
  }

  /** Sends what is queued, then closes; takes nothing more in. */
  finish(why: string): void {
    if (this.#state === "closed" || this.#state === "finishing") return;
    this.#log(why);
    this.#state = "finishing";
    this.#session?.end();
    this.#outbox.flush();
    this.socket.end();
    this.#timer.cancel();
    this.#timer = this.#host.clock.after(finishMs, () => this.close(why));
  }

  /** Closes at once. */
  close(why: string): void {
    if (this.#state === "closed") return;
    if (this.#state !== "finishing") this.#log(why);
    this.#state = "closed";
    this.#timer.cancel();
    this.#session?.end();
    this.socket.destroy();
    this.#outbox.flush(); // gives back what was lent
    this.#host.ended(this, this.#session);
  }

  #log(why: string): void {
    if (!this.#session) {
      this.#host.refused(`connection from ${this.description} ended: ${why}`);
      return;
    }
    const expected = /logged out|closed it|is stopping/.test(why);
    this.#host.log(expected ? "info" : "warning", `connection from ${this.description} ended: ${why}`);
  }

  #receive(chunk: Buffer): void {
    if (this.#state === "closed" || this.#state === "finishing") return;
    this.#heardMs = this.#host.clock.monotonicMs();
    this.#pingedMs = undefined;
    try {
      this.#outbox.batch(() => this.#decoder.push(chunk, this.#sink));
    } catch (error) {
      if (error instanceof FramingError) this.finish(`it broke the protocol: ${error.message}`);
      else {
        this.#host.log("error", `a fault of this program: ${(error as Error).stack}`);
        this.close(`a fault of this program: ${messageOf(error)}`);
      }
    }
  }

  #pdu(pdu: Pdu): void {
    switch (this.#state) {
      case "full":
        this.#session!.receive(pdu);
        return;
      case "agreed":
        throw new FramingError("a PDU before the login was answered");
      case "login":
        this.#loginPdu(pdu);
        return;
      default: // what else came with the PDU that ended it
    }
  }

  #loginPdu(pdu: Pdu): void {
    if ((pdu.header[0]! & 0x3f) !== opcode.loginRequest) throw new FramingError("it is no login request");
    const step = this.#login!.step(pdu.header, pdu.data);
    if ("reply" in step) {
      this.#reply(step.reply);
      return;
    }
    this.#state = "agreed";
    void this.#begin(step.agreement);
  }

  #reply(reply: LoginReply): void {
    this.send(reply.header, reply.data.length > 0 ? [reply.data] : undefined);
    if (reply.failure !== undefined) this.finish(`the login failed: ${reply.failure}`);
  }

  async #begin(agreement: LoginAgreement): Promise<void> {
    const login = this.#login!;
    let begun: Awaited<ReturnType<ConnectionHost["begin"]>>;
    try {
      begun = await this.#host.begin(agreement, this);
    } catch (error) {
      this.close(`a fault of this program: ${messageOf(error)}`);
      return;
    }
    if ("status" in begun) {
      if (this.#state === "agreed") this.#reply(login.refuse(begun.status, begun.why));
      return;
    }
    this.#session = begun;
    if (this.#state !== "agreed") {
      begun.end();
      this.#host.ended(this, begun);
      return;
    }
    const { numbers } = begun;
    const reply = login.accept(begun.start.tsih, numbers.expCmdSN, numbers.maxCmdSN);
    numbers.statSN = reply.statSN;
    this.#reply(reply);
    const { parameters } = agreement;
    this.#digests = {
      headerDigest: parameters.HeaderDigest === "CRC32C",
      dataDigest: parameters.DataDigest === "CRC32C",
    };
    this.#decoder.digests.headerDigest = this.#digests.headerDigest;
    this.#decoder.digests.dataDigest = this.#digests.dataDigest;
    this.#decoder.dataSegmentLengthMax = receiveSegmentBytes;
    this.#login = undefined;
    this.#state = "full";
    this.#timer.cancel();
    this.#watch();
    const where = begun.start.targetName ?? "discovery";
    this.#host.log("info", `${this.description} logged in: ${where}`);
  }

  /** Looks every few seconds whether the peer is alive and takes what is queued for it. */
  #watch(): void {
    this.#timer = this.#host.clock.after(watchMs, () => {
      const now = this.#host.clock.monotonicMs();
      const taken = this.#outbox.takenBytes;
      if (taken !== this.#taken || this.#outbox.queuedBytes === 0) {
        this.#taken = taken;
        this.#progressMs = now;
      }
      if (now - this.#progressMs >= stuckMs) {
        this.close(`it took nothing of ${this.#outbox.queuedBytes} bytes in ${stuckMs / 1000} s`);
        return;
      }
      const session = this.#session!;
      if (!session.tasks.waitsForData || session.tasks.dataOutCount !== this.#dataOutCount) {
        this.#dataOutCount = session.tasks.dataOutCount;
        this.#dataMs = now;
      }
      if (now - this.#dataMs >= dataMs) {
        this.close(`it sent nothing of the data that it was asked for in ${dataMs / 1000} s`);
        return;
      }
      if (this.#pingedMs !== undefined && now - this.#pingedMs >= silentMs) {
        this.close(
          `it was silent for ${Math.round((now - this.#heardMs) / 1000)} s and did not answer a NOP-In`,
        );
        return;
      }
      if (this.#pingedMs === undefined && now - this.#heardMs >= silentMs) {
        this.#pingedMs = now;
        session.ping();
      }
      this.#watch();
    });
  }
}
