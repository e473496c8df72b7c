// One TCP connection to a target portal, logged in: PDUs out, PDUs in, and one notice when it is over.
//
// Guarantees: open() gives a connection in full-feature phase or throws, within its time limit, and leaves no socket
// behind; every PDU is handed over whole; `closed` is called exactly once, and no PDU comes after it.
import type { Socket } from "node:net";
import { AgentError, messageOf } from "../base/errors.ts";
import { LayoutError } from "../base/layout.ts";
import { opcode } from "../iscsi/codes.ts";
import { type Crc32c, FramingError, framePdu, type Pdu, PduDecoder, type PduSink } from "../iscsi/framing.ts";
import type { Clock } from "../platform/clock.ts";
import { Outbox } from "../platform/outbox.ts";
import { connectTcp } from "../platform/tcp.ts";
import { Login, type LoginOptions, LoginRedirect, type LoginResult } from "./login.ts";

export interface Portal {
  readonly host: string;
  readonly port: number;
}

export interface ConnectionOptions extends LoginOptions {
  readonly portal: Portal;
  readonly clock: Clock;
  readonly crc32c: Crc32c;
  /** TCP connect and login together. */
  readonly openTimeoutMs: number;
}

export interface ConnectionEvents extends PduSink {
  closed(reason: AgentError): void;
}

const redirectsMax = 3;
const finishMs = 1000;
const earlyMax = 16;
const loginSegmentMax = 8192;

/** What {@link Connection.open} hands over to the connection that it made. */
interface OpenSocket {
  readonly socket: Socket;
  readonly decoder: PduDecoder;
  readonly outbox: Outbox;
  readonly login: LoginResult;
  readonly portal: Portal;
  /** PDUs that came right behind the last login response. */
  readonly early: Pdu[];
  /** Set to take over what comes. */
  receiver: { take: (bytes: Buffer) => void };
}

export class Connection {
  readonly login: LoginResult;
  readonly portal: Portal;
  readonly #options: ConnectionOptions;
  readonly #socket: Socket;
  readonly #decoder: PduDecoder;
  readonly #outbox: Outbox;
  readonly #early: Pdu[];
  readonly #receiver: OpenSocket["receiver"];
  #events: ConnectionEvents | undefined;
  #closed: AgentError | undefined;

  private constructor(open: OpenSocket, options: ConnectionOptions) {
    this.#socket = open.socket;
    this.#decoder = open.decoder;
    this.#outbox = open.outbox;
    this.#early = open.early;
    this.#receiver = open.receiver;
    this.login = open.login;
    this.portal = open.portal;
    this.#options = options;
  }

  /** @throws AgentError `connection_refused`, `login_refused`, `protocol_error`, `timeout` */
  static async open(options: ConnectionOptions, signal?: AbortSignal): Promise<Connection> {
    let portal = options.portal;
    for (let redirects = 0; ; redirects++) {
      try {
        return new Connection(await openSocket(portal, options, signal), options);
      } catch (error) {
        if (!(error instanceof LoginRedirect)) throw error;
        if (redirects === redirectsMax) {
          throw new AgentError(
            "protocol_error",
            `Cannot log in to ${options.peer}: redirected more than ${redirectsMax} times`,
          );
        }
        portal = parsePortal(error.address, options.peer);
      }
    }
  }

  /** Bytes on the wire so far. */
  get bytesSent(): number {
    return this.#outbox.bytesSent;
  }

  get bytesReceived(): number {
    return this.#socket.bytesRead;
  }

  /** Bytes that wait to be sent. */
  get queuedBytes(): number {
    return this.#outbox.queuedBytes;
  }

  /** Begins to hand over PDUs. Called once. */
  start(events: ConnectionEvents): void {
    this.#events = events;
    const socket = this.#socket;
    socket.removeAllListeners();
    this.#receiver.take = (bytes) => this.#receive(() => this.#decoder.push(bytes, events));
    socket.on("error", (error) => this.#end(error.message));
    socket.on("close", () =>
      this.#end(this.#decoder.partial ? "it was cut in the middle of a PDU" : "the target closed it"),
    );
    this.#receive(() => {
      for (const pdu of this.#early.splice(0)) events.pdu(pdu);
    });
    if (socket.destroyed) this.#end("the target closed it");
  }

  #receive(take: () => void): void {
    if (this.#closed) return;
    try {
      take();
    } catch (error) {
      const broken = error instanceof FramingError || error instanceof LayoutError;
      const reason = broken ? `the target broke the protocol: ${error.message}` : messageOf(error);
      this.#end(reason, "protocol_error");
    }
  }

  /** Queues one PDU. `onSent` is called once its data is free again. */
  send(header: Buffer, data?: readonly Buffer[], ahs?: Buffer, onSent?: () => void): void {
    if (this.#closed) {
      onSent?.();
      return;
    }
    const digests = {
      headerDigest: this.login.parameters.HeaderDigest === "CRC32C",
      dataDigest: this.login.parameters.DataDigest === "CRC32C",
    };
    this.#outbox.write(framePdu(this.#options.crc32c, digests, header, data, ahs), onSent);
  }

  /** Drops the connection; `closed` is called with this reason. */
  drop(reason: string): void {
    this.#end(reason);
  }

  /** Sends what is queued, then closes. */
  finish(): void {
    this.#outbox.flush();
    this.#socket.end();
    this.#options.clock.after(finishMs, () => this.#socket.destroy());
  }

  #end(what: string, code: "connection_lost" | "protocol_error" = "connection_lost"): void {
    if (this.#closed) return;
    this.#closed = new AgentError(code, `The connection to ${this.#options.peer} was lost: ${what}`, {
      retry: "after_reconnect",
    });
    this.#socket.destroy();
    this.#outbox.flush(); // frees what was lent
    this.#events?.closed(this.#closed);
  }
}

/** Connects and logs in. Whatever goes wrong, no socket is left behind. */
async function openSocket(
  portal: Portal,
  options: ConnectionOptions,
  signal?: AbortSignal,
): Promise<OpenSocket> {
  signal?.throwIfAborted();
  const { peer, clock, crc32c } = options;
  const receiver = { take: (_bytes: Buffer): void => {} };
  const socket = connectTcp(portal.host, portal.port, (bytes) => receiver.take(bytes));
  const login = new Login(options);
  const decoder = new PduDecoder(crc32c, loginSegmentMax);
  const outbox = new Outbox(socket);
  const { promise, resolve, reject } = Promise.withResolvers<OpenSocket>();
  const where = `${portal.host}:${portal.port}`;
  const timer = clock.after(options.openTimeoutMs, () =>
    reject(
      new AgentError(
        "timeout",
        `Cannot log in to ${peer}: no answer from ${where} in ${options.openTimeoutMs / 1000} s`,
        {
          retry: "after_backoff",
        },
      ),
    ),
  );
  const onAbort = () => reject(signal?.reason);
  signal?.addEventListener("abort", onAbort, { once: true });
  const noDigests = { headerDigest: false, dataDigest: false };
  const send = ({ header, data }: { header: Buffer; data: Buffer }) => {
    // A login segment is at most 8192 bytes; our keys are far fewer.
    outbox.write(framePdu(crc32c, noDigests, header, data.length > 0 ? [data] : []));
  };

  socket.on("connect", () => send(login.begin()));
  socket.on("error", (error) =>
    reject(
      new AgentError(
        "connection_refused",
        `Cannot connect to ${peer} at ${where}: ${error.message}; is the target running there?`,
        {
          cause: error,
          retry: "after_backoff",
        },
      ),
    ),
  );
  socket.on("close", () =>
    reject(
      new AgentError("connection_refused", `Cannot log in to ${peer}: ${where} closed the connection`, {
        retry: "after_backoff",
      }),
    ),
  );
  let done = false;
  const early: Pdu[] = [];
  const onPdu = (pdu: Pdu) => {
    if (done) {
      if (early.push(pdu) > earlyMax) throw new FramingError("more came before it was asked for anything");
      return;
    }
    if ((pdu.header[0]! & 0x3f) !== opcode.loginResponse) throw new FramingError("it is no login response");
    const step = login.step(pdu.header, pdu.data);
    if ("next" in step) {
      send(step.next);
      return;
    }
    const { parameters } = step.result;
    decoder.digests.headerDigest = parameters.HeaderDigest === "CRC32C";
    decoder.digests.dataDigest = parameters.DataDigest === "CRC32C";
    decoder.dataSegmentLengthMax = options.wishes.MaxRecvDataSegmentLength ?? loginSegmentMax;
    done = true;
    resolve({ socket, decoder, outbox, login: step.result, portal, early, receiver });
  };
  receiver.take = (bytes) => {
    try {
      decoder.push(bytes, { pdu: onPdu });
    } catch (error) {
      if (error instanceof AgentError || error instanceof LoginRedirect) reject(error);
      else {
        reject(
          new AgentError(
            "protocol_error",
            `Cannot log in to ${peer}: ${where} does not speak iSCSI: ${messageOf(error)}`,
            {
              cause: error,
            },
          ),
        );
      }
    }
  };
  try {
    return await promise;
  } catch (error) {
    socket.removeAllListeners();
    socket.on("error", () => {});
    socket.destroy();
    throw error;
  } finally {
    timer.cancel();
    signal?.removeEventListener("abort", onAbort);
  }
}

/** `host:port[,tag]` or `[v6]:port[,tag]`. */
function parsePortal(address: string, peer: string): Portal {
  const match = /^(\[[0-9a-fA-F:.]+\]|[^:,[\]]+)(?::(\d{1,5}))?(?:,\d+)?$/.exec(address);
  if (!match)
    throw new AgentError(
      "protocol_error",
      `Cannot log in to ${peer}: redirected to "${address.slice(0, 80)}"`,
    );
  return { host: match[1]!.replace(/^\[|\]$/g, ""), port: match[2] === undefined ? 3260 : Number(match[2]) };
}
