// A session with one logical unit: commands in flight, the command window, and recovery at error recovery level 0.
//
// Guarantees: execute() settles once for every command, and its buffers are untouched from then on. A lost connection
// is made again, its unit checked by the owner, and what was under way is repeated in order; when that does not work
// within `reconnectMs`, everything fails with `connection_lost`. The number of commands outstanding is bounded by the
// target's window and by `queueDepth`.
//
// Repeating is safe: the new login reinstates the session (same ISID), so the target has ended the old tasks before it
// answers, and every command that is sent here gives the same result twice.
import { AgentError, messageOf } from "../base/errors.ts";
import { type Crc32c, extendedCdbAhs, type Pdu } from "../iscsi/framing.ts";
import type { Parameters, Wishes } from "../iscsi/negotiation.ts";
import {
  asyncMessagePdu,
  dataInPdu,
  dataOutPdu,
  logoutRequestPdu,
  nopInPdu,
  nopOutPdu,
  noTag,
  opcode,
  r2tPdu,
  rejectPdu,
  scsiCommandPdu,
  scsiResponsePdu,
  taskFunction,
  taskManagementRequestPdu,
  taskManagementResponsePdu,
} from "../iscsi/pdu.ts";
import { serialAdd, serialBefore, serialDistance } from "../iscsi/serial.ts";
import type { Clock, Timer } from "../platform/clock.ts";
import type { Random } from "../platform/random.ts";
import type { ScsiCommand, ScsiDevice, ScsiOutcome } from "../scsi/command.ts";
import { formatAddress, type IscsiAddress } from "./address.ts";
import { Connection } from "./connection.ts";
import { ProtocolViolation, Task } from "./task.ts";

export interface SessionOptions {
  readonly initiatorName: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly crc32c: Crc32c;
  /** How long a lost connection is tried to be made again. */
  readonly reconnectMs?: number;
  readonly openTimeoutMs?: number;
  readonly commandTimeoutMs?: number;
  /** The most commands outstanding. */
  readonly queueDepth?: number;
  /** Told when the connection is lost and when it is there again. */
  readonly onNotice?: (notice: string) => void;
}

const queueDepthDefault = 32;
const repeatsMax = 5;
const silenceMs = 5000;
const abortTimeoutMs = 10_000;
const receiveSegmentBytes = 256 * 1024;

const lunField = (lun: number): bigint =>
  // SAM-5, 4.7.7: peripheral addressing up to 255, flat addressing above.
  BigInt(lun < 256 ? lun : 0x4000 | lun) << 48n;

/** A session that is open, and the state that lasts only as long as its connection. */
interface Link {
  readonly connection: Connection;
  readonly parameters: Parameters;
  cmdSN: number;
  maxCmdSN: number;
  expStatSN: number;
  lastHeardMs: number;
  pingSent: boolean;
  /** Task management under way: ITT → what to do with the response. */
  readonly management: Map<number, (response: number) => void>;
}

export class IscsiSession implements ScsiDevice {
  readonly name: string;
  readonly cdbBytesMax = 260;
  readonly queueDepth: number;
  readonly address: IscsiAddress;
  readonly #options: SessionOptions;
  readonly #isid: Buffer;
  readonly #lun: bigint;
  readonly #active = new Map<number, Task>();
  #queue: Task[] = [];
  #link: Link | undefined;
  #nextTag = 1;
  #state: "up" | "down" | "failed" | "closed" = "down";
  #failure: AgentError | undefined;
  #check: ((execute: (command: ScsiCommand) => Promise<ScsiOutcome>) => Promise<void>) | undefined;
  #watch: Timer | undefined;
  #sentBefore = 0;
  #receivedBefore = 0;
  readonly #closing = new AbortController();

  private constructor(address: IscsiAddress, options: SessionOptions) {
    this.address = address;
    this.name = formatAddress(address);
    this.#options = options;
    this.queueDepth = options.queueDepth ?? queueDepthDefault;
    this.#lun = lunField(address.lun);
    // RFC 7143, 11.12.5: type "random", so that two processes never share an ISID.
    this.#isid = Buffer.concat([Buffer.from([0x80]), options.random.bytes(5)]);
  }

  /** @throws AgentError `connection_refused`, `login_refused`, `protocol_error`, `timeout` */
  static async open(
    address: IscsiAddress,
    options: SessionOptions,
    signal?: AbortSignal,
  ): Promise<IscsiSession> {
    const session = new IscsiSession(address, options);
    session.#begin(await session.#connect(signal));
    session.#state = "up";
    return session;
  }

  get traffic(): { sent: number; received: number } {
    const connection = this.#link?.connection;
    return {
      sent: this.#sentBefore + (connection?.bytesSent ?? 0),
      received: this.#receivedBefore + (connection?.bytesReceived ?? 0),
    };
  }

  get transferBytesPreferred(): number {
    return 1024 * 1024;
  }

  onReconnect(check: (execute: (command: ScsiCommand) => Promise<ScsiOutcome>) => Promise<void>): void {
    this.#check = check;
  }

  execute(command: ScsiCommand, signal?: AbortSignal): Promise<ScsiOutcome> {
    return new Promise((resolve, reject) => {
      if (this.#failure) {
        reject(this.#failure);
        return;
      }
      if (signal?.aborted) {
        reject(signal.reason);
        return;
      }
      let timer: Timer | undefined;
      const onAbort = () => this.#abort(task, signal?.reason);
      const settle = () => {
        timer?.cancel();
        signal?.removeEventListener("abort", onAbort);
      };
      const task: Task = new Task(
        command,
        (outcome) => {
          settle();
          resolve(outcome);
        },
        (reason) => {
          settle();
          reject(reason);
        },
      );
      const timeoutMs = command.timeoutMs ?? this.#options.commandTimeoutMs ?? 60_000;
      timer = this.#options.clock.after(timeoutMs, () =>
        this.#abort(
          task,
          new AgentError("timeout", `${this.name} did not answer a command in ${timeoutMs / 1000} s`, {
            retry: "after_reconnect",
          }),
        ),
      );
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#queue.push(task);
      this.#pump();
    });
  }

  /** Logs out if it can. What is still under way fails. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#state === "closed") return;
    const link = this.#link;
    this.#state = "closed";
    this.#closing.abort(new AgentError("connection_lost", `${this.name} was closed`));
    this.#watch?.cancel();
    if (link) {
      const header = logoutRequestPdu.encode({
        immediate: true,
        initiatorTaskTag: this.#tag(),
        cmdSN: link.cmdSN,
        expStatSN: link.expStatSN,
      });
      const answered = new Promise<void>((resolve) => {
        this.#loggedOut = resolve;
        this.#options.clock.after(1000, resolve);
      });
      link.connection.send(header);
      await answered;
      link.connection.drop("it was closed");
    }
    this.#failAll(new AgentError("connection_lost", `${this.name} was closed`));
  }
  #loggedOut: (() => void) | undefined;

  // --- making and losing connections ---

  #connect(signal?: AbortSignal): Promise<Connection> {
    const { initiatorName, random, clock, crc32c } = this.#options;
    const digest = (wanted: boolean) => (wanted ? ["CRC32C"] : ["None", "CRC32C"]);
    const wishes: Wishes = {
      HeaderDigest: digest(this.address.headerDigest),
      DataDigest: digest(this.address.dataDigest),
      MaxRecvDataSegmentLength: receiveSegmentBytes,
      InitialR2T: false,
      ImmediateData: true,
      MaxBurstLength: 16_776_192,
      FirstBurstLength: 262_144,
      MaxOutstandingR2T: 1,
      MaxConnections: 1,
      DefaultTime2Wait: 0,
      DefaultTime2Retain: 0,
      DataPDUInOrder: true,
      DataSequenceInOrder: true,
      ErrorRecoveryLevel: 0,
    };
    return Connection.open(
      {
        portal: { host: this.address.host, port: this.address.port },
        peer: this.name,
        initiatorName,
        targetName: this.address.targetName,
        chap: this.address.chap,
        chapTarget: this.address.chapTarget,
        wishes,
        isid: this.#isid,
        random,
        clock,
        crc32c,
        openTimeoutMs: this.#options.openTimeoutMs ?? 10_000,
      },
      signal,
    );
  }

  #begin(connection: Connection): Link {
    const { login } = connection;
    const link: Link = {
      connection,
      parameters: login.parameters,
      cmdSN: login.expCmdSN,
      maxCmdSN: login.maxCmdSN,
      expStatSN: serialAdd(login.statSN, 1),
      lastHeardMs: this.#options.clock.monotonicMs(),
      pingSent: false,
      management: new Map(),
    };
    this.#link = link;
    connection.start({
      place: (header, length) => this.#place(header, length),
      pdu: (pdu) => this.#receive(link, pdu),
      closed: (reason) => this.#lost(link, reason),
    });
    this.#watchSilence(link);
    return link;
  }

  #watchSilence(link: Link): void {
    this.#watch?.cancel();
    this.#watch = this.#options.clock.after(silenceMs, () => {
      if (this.#link !== link) return;
      const silentMs = this.#options.clock.monotonicMs() - link.lastHeardMs;
      if (silentMs >= silenceMs && link.pingSent) {
        link.connection.drop(`the target was silent for ${Math.round(silentMs / 1000)} s`);
        return;
      }
      if (silentMs >= silenceMs && !link.pingSent) {
        link.pingSent = true;
        link.connection.send(
          nopOutPdu.encode({
            immediate: true,
            initiatorTaskTag: this.#tag(),
            targetTransferTag: noTag,
            cmdSN: link.cmdSN,
            expStatSN: link.expStatSN,
          }),
        );
      }
      this.#watchSilence(link);
    });
  }

  #lost(link: Link, reason: AgentError): void {
    if (this.#link !== link) return;
    this.#link = undefined;
    this.#watch?.cancel();
    this.#sentBefore += link.connection.bytesSent;
    this.#receivedBefore += link.connection.bytesReceived;
    if (this.#state === "closed" || this.#state === "failed") return;
    // Sent once already: again, before everything that waits, in the order of their CmdSN.
    const repeated = [...this.#active.values()].sort((a, b) => serialDistance(b.cmdSN, a.cmdSN));
    this.#active.clear();
    const survivors: Task[] = [];
    for (const task of repeated) {
      if (task.abortReason !== undefined) task.reject(task.abortReason);
      else if (task.repeats >= repeatsMax) task.reject(reason);
      else {
        task.repeats++;
        task.restart();
        survivors.push(task);
      }
    }
    this.#queue = [...survivors, ...this.#queue];
    if (this.#state === "down") return; // the check after a reconnection was cut; the loop below goes on
    this.#state = "down";
    this.#options.onNotice?.(`${reason.message}; connecting again`);
    void this.#reconnect(reason);
  }

  async #reconnect(reason: AgentError): Promise<void> {
    const { clock } = this.#options;
    const deadlineMs = clock.monotonicMs() + (this.#options.reconnectMs ?? 15_000);
    let backoffMs = 100;
    let latest: unknown = reason;
    while (this.#state === "down") {
      try {
        await clock.sleep(backoffMs, this.#closing.signal);
        backoffMs = Math.min(backoffMs * 2, 2000);
        const link = this.#begin(await this.#connect(this.#closing.signal));
        if (this.#check) await this.#check((command) => this.#executeOn(link, command));
        if (this.#link !== link) throw reason;
        this.#state = "up";
        this.#options.onNotice?.(`The connection to ${this.name} is there again`);
        this.#pump();
        return;
      } catch (error) {
        latest = error;
        const hopeless = error instanceof AgentError && error.retry === "never";
        this.#link?.connection.drop("the unit could not be checked");
        if (this.#state !== "down") return;
        if (hopeless || clock.monotonicMs() >= deadlineMs) break;
      }
    }
    if (this.#state !== "down") return;
    this.#state = "failed";
    const final =
      latest instanceof AgentError && latest.code !== "connection_refused" && latest.code !== "timeout";
    this.#failAll(
      final
        ? (latest as AgentError)
        : new AgentError(
            "connection_lost",
            `${reason.message}, and could not be made again: ${messageOf(latest)}`,
            {
              retry: "after_backoff",
              cause: latest,
            },
          ),
    );
  }

  #failAll(reason: AgentError): void {
    this.#failure = reason;
    const tasks = [...this.#active.values(), ...this.#queue];
    this.#active.clear();
    this.#queue = [];
    for (const task of tasks) task.reject(task.abortReason ?? reason);
  }

  // --- sending ---

  #tag(): number {
    const tag = this.#nextTag;
    this.#nextTag = tag === 0xfffffffe ? 1 : tag + 1;
    return tag;
  }

  #pump(): void {
    const link = this.#link;
    if (!link || this.#state !== "up") return;
    while (this.#queue.length > 0 && this.#active.size < this.queueDepth) {
      if (serialBefore(link.maxCmdSN, link.cmdSN)) return; // the window is closed
      this.#send(link, this.#queue.shift()!);
    }
  }

  /** Past the queue, for the check after a reconnection. */
  #executeOn(link: Link, command: ScsiCommand): Promise<ScsiOutcome> {
    return new Promise((resolve, reject) => {
      if (this.#link !== link) {
        reject(
          new AgentError("connection_lost", `The connection to ${this.name} was lost`, {
            retry: "after_reconnect",
          }),
        );
        return;
      }
      const task = new Task(command, resolve, reject);
      task.repeats = repeatsMax; // never repeated on its own
      this.#send(link, task);
    });
  }

  #send(link: Link, task: Task): void {
    const { parameters } = link;
    const { cdb } = task.command;
    task.initiatorTaskTag = this.#tag();
    task.cmdSN = link.cmdSN;
    link.cmdSN = serialAdd(link.cmdSN, 1);
    this.#active.set(task.initiatorTaskTag, task);

    const out = task.dataOutBytes;
    const segmentMax = parameters.MaxRecvDataSegmentLength;
    const immediate =
      out > 0 && parameters.ImmediateData ? Math.min(out, segmentMax, parameters.FirstBurstLength) : 0;
    const unsolicited =
      out > 0 && !parameters.InitialR2T ? Math.min(out, parameters.FirstBurstLength) : immediate;
    const header = scsiCommandPdu.encode({
      final: unsolicited <= immediate,
      read: task.dataIn.length > 0,
      write: out > 0,
      attributes: 1, // SIMPLE
      lun: this.#lun,
      initiatorTaskTag: task.initiatorTaskTag,
      expectedDataTransferLength: task.expectedDataTransferLength,
      cmdSN: task.cmdSN,
      expStatSN: link.expStatSN,
      cdb: cdb.subarray(0, 16),
    });
    const ahs = cdb.length > 16 ? extendedCdbAhs(cdb.subarray(16)) : undefined;
    link.connection.send(header, immediate > 0 ? task.dataOutSlices(0, immediate) : undefined, ahs);
    if (unsolicited > immediate) this.#sendDataOut(link, task, immediate, unsolicited - immediate, noTag);
  }

  #sendDataOut(link: Link, task: Task, offset: number, length: number, targetTransferTag: number): void {
    const segmentMax = link.parameters.MaxRecvDataSegmentLength;
    let dataSN = 0;
    for (let done = 0; done < length; ) {
      const bytes = Math.min(segmentMax, length - done);
      const header = dataOutPdu.encode({
        final: done + bytes === length,
        lun: this.#lun,
        initiatorTaskTag: task.initiatorTaskTag,
        targetTransferTag,
        expStatSN: link.expStatSN,
        dataSN: dataSN++,
        bufferOffset: offset + done,
      });
      link.connection.send(header, task.dataOutSlices(offset + done, bytes));
      done += bytes;
    }
  }

  /** Ends one task early: a timeout, or the caller's signal. It is rejected once the target has let go of it. */
  #abort(task: Task, reason: unknown): void {
    const queued = this.#queue.indexOf(task);
    if (queued >= 0) {
      this.#queue.splice(queued, 1);
      task.reject(reason);
      return;
    }
    const link = this.#link;
    if (task.abortReason !== undefined || !link || this.#active.get(task.initiatorTaskTag) !== task) return;
    task.abortReason = reason;
    const tag = this.#tag();
    const timer = this.#options.clock.after(abortTimeoutMs, () =>
      link.connection.drop("an abort was not answered"),
    );
    link.management.set(tag, () => {
      timer.cancel();
      if (this.#active.delete(task.initiatorTaskTag)) task.reject(reason);
      this.#pump();
    });
    link.connection.send(
      taskManagementRequestPdu.encode({
        immediate: true,
        function: taskFunction.abortTask,
        lun: this.#lun,
        initiatorTaskTag: tag,
        referencedTaskTag: task.initiatorTaskTag,
        cmdSN: link.cmdSN,
        expStatSN: link.expStatSN,
        refCmdSN: task.cmdSN,
      }),
    );
  }

  // --- receiving ---

  #receive(link: Link, pdu: Pdu): void {
    link.lastHeardMs = this.#options.clock.monotonicMs();
    link.pingSent = false;
    if (!pdu.dataIntact) throw new ProtocolViolation("a wrong data digest");
    const { header } = pdu;
    switch (header[0]! & 0x3f) {
      case opcode.dataIn:
        this.#dataIn(link, pdu);
        break;
      case opcode.scsiResponse:
        this.#response(link, pdu);
        break;
      case opcode.r2t:
        this.#readyToTransfer(link, header);
        break;
      case opcode.nopIn:
        this.#nopIn(link, pdu);
        break;
      case opcode.taskManagementResponse: {
        const response = taskManagementResponsePdu.decode(header);
        this.#numbers(link, response, true);
        const waiting = link.management.get(response.initiatorTaskTag);
        link.management.delete(response.initiatorTaskTag);
        waiting?.(response.response);
        break;
      }
      case opcode.logoutResponse:
        this.#loggedOut?.();
        break;
      case opcode.asyncMessage:
        this.#asyncMessage(link, header);
        break;
      case opcode.reject:
        throw new ProtocolViolation(`it rejected a PDU of ours (reason ${rejectPdu.decode(header).reason})`);
      default:
        throw new ProtocolViolation(`a PDU with the unexpected opcode ${header[0]! & 0x3f}`);
    }
    this.#pump();
  }

  /** The sequence numbers that every PDU of a target carries. */
  #numbers(
    link: Link,
    pdu: { statSN: number; expCmdSN: number; maxCmdSN: number },
    hasStatus: boolean,
  ): void {
    if (hasStatus) {
      if (pdu.statSN !== link.expStatSN) {
        throw new ProtocolViolation(`StatSN ${pdu.statSN} where ${link.expStatSN} was due`);
      }
      link.expStatSN = serialAdd(pdu.statSN, 1);
    }
    if (serialBefore(pdu.maxCmdSN, serialAdd(pdu.expCmdSN, -1))) return; // RFC 7143, 4.2.2.1: ignore both
    if (serialBefore(link.maxCmdSN, pdu.maxCmdSN)) link.maxCmdSN = pdu.maxCmdSN;
  }

  #task(initiatorTaskTag: number): Task {
    const task = this.#active.get(initiatorTaskTag);
    if (!task)
      throw new ProtocolViolation(`an answer to a task that does not exist (tag ${initiatorTaskTag})`);
    return task;
  }

  #finish(task: Task, status: number, responseData: Buffer): void {
    const outcome = task.outcome(status, responseData);
    this.#active.delete(task.initiatorTaskTag);
    if (task.abortReason !== undefined) task.reject(task.abortReason);
    else task.resolve(outcome);
  }

  /** The data of a Data-In goes to its command's own buffer; it is checked before a byte of it is written there. */
  #place(header: Buffer, length: number): Buffer | undefined {
    if ((header[0]! & 0x3f) !== opcode.dataIn) return undefined;
    const { initiatorTaskTag, dataSN, bufferOffset } = dataInPdu.decode(header);
    const task = this.#task(initiatorTaskTag);
    if (task.dataOutBytes > 0) throw new ProtocolViolation("Data-In for a command that writes");
    return task.placeDataIn(dataSN, bufferOffset, length);
  }

  #dataIn(link: Link, pdu: Pdu): void {
    const dataIn = dataInPdu.decode(pdu.header);
    this.#numbers(link, dataIn, dataIn.hasStatus);
    const task = this.#task(dataIn.initiatorTaskTag);
    if (pdu.data.length === 0) task.placeDataIn(dataIn.dataSN, dataIn.bufferOffset, 0);
    if (dataIn.hasStatus) this.#finish(task, dataIn.status, noData);
  }

  #response(link: Link, pdu: Pdu): void {
    const response = scsiResponsePdu.decode(pdu.header);
    this.#numbers(link, response, true);
    const task = this.#task(response.initiatorTaskTag);
    if (response.response !== 0) {
      this.#active.delete(task.initiatorTaskTag);
      task.reject(
        task.abortReason ??
          new AgentError(
            "command_failed",
            `${this.name} could not deliver a command (iSCSI response ${response.response})`,
            {
              retry: "after_backoff",
            },
          ),
      );
      return;
    }
    this.#finish(task, response.status, pdu.data);
  }

  #readyToTransfer(link: Link, header: Buffer): void {
    const r2t = r2tPdu.decode(header);
    this.#numbers(link, r2t, false);
    const task = this.#active.get(r2t.initiatorTaskTag);
    if (task?.abortReason !== undefined) return; // it will see the abort
    if (!task) throw new ProtocolViolation("an R2T for a task that does not exist");
    const { bufferOffset, desiredDataTransferLength: length } = r2t;
    if (
      length === 0 ||
      bufferOffset + length > task.dataOutBytes ||
      length > link.parameters.MaxBurstLength
    ) {
      throw new ProtocolViolation(`an R2T for ${bufferOffset} + ${length} of ${task.dataOutBytes} bytes`);
    }
    this.#sendDataOut(link, task, bufferOffset, length, r2t.targetTransferTag);
  }

  #nopIn(link: Link, pdu: Pdu): void {
    const nop = nopInPdu.decode(pdu.header);
    this.#numbers(link, nop, nop.initiatorTaskTag !== noTag);
    if (nop.targetTransferTag === noTag) return;
    link.connection.send(
      nopOutPdu.encode({
        immediate: true,
        lun: nop.lun,
        initiatorTaskTag: noTag,
        targetTransferTag: nop.targetTransferTag,
        cmdSN: link.cmdSN,
        expStatSN: link.expStatSN,
      }),
    );
  }

  #asyncMessage(link: Link, header: Buffer): void {
    const message = asyncMessagePdu.decode(header);
    this.#numbers(link, message, true);
    // 0 is a SCSI event (the next command's unit attention tells it again); 255 is the vendor's own.
    if (message.asyncEvent >= 1 && message.asyncEvent <= 4) {
      link.connection.drop(`the target asked for it (asynchronous event ${message.asyncEvent})`);
    }
  }
}

const noData = Buffer.alloc(0);
