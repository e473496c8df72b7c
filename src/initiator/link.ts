// A session's connection in full-feature phase: tasks out and in, sequence numbers, task management, keepalive.
//
// Guarantees: commands are numbered in the order in which they are sent and stay within the target's window; what the
// target sends is believed only as far as it belongs to a task and fits it, and anything else ends the connection. A
// target that is silent for long is asked, and given up if it does not answer.
//
// Source: RFC 7143, 4.2.2 (numbering), 11 (PDUs).
import { AgentError } from "../base/errors.ts";
import { noTag, opcode, taskFunction } from "../iscsi/codes.ts";
import { extendedCdbAhs, type Pdu } from "../iscsi/framing.ts";
import type { Parameters } from "../iscsi/negotiation.ts";
import {
  asyncMessagePdu,
  dataInPdu,
  dataOutPdu,
  logoutRequestPdu,
  nopInPdu,
  nopOutPdu,
  r2tPdu,
  rejectPdu,
  scsiCommandPdu,
  scsiResponsePdu,
  taskManagementRequestPdu,
  taskManagementResponsePdu,
} from "../iscsi/pdu.ts";
import { serialAdd, serialBefore } from "../iscsi/serial.ts";
import type { Clock, Timer } from "../platform/clock.ts";
import type { Connection } from "./connection.ts";
import { ProtocolViolation, type Task } from "./task.ts";

export interface LinkEvents {
  /** Something came: the window may be open again. */
  progress(): void;
  /** Called once; no task is answered any more. */
  lost(reason: AgentError): void;
}

/** After this much silence the target is asked, and after as much again given up. */
const silenceMs = 5000;
const watchMs = 1000;
const abortTimeoutMs = 10_000;
const logoutTimeoutMs = 1000;
const noData = Buffer.alloc(0);

export class Link {
  readonly #connection: Connection;
  readonly #name: string;
  readonly #lun: bigint;
  readonly #clock: Clock;
  readonly #events: LinkEvents;
  readonly #parameters: Parameters;
  readonly #active = new Map<number, Task>();
  /** Task management under way: ITT → what to do with the response. */
  readonly #management = new Map<number, (response: number) => void>();
  #nextTag = 1;
  #cmdSN: number;
  #maxCmdSN: number;
  #expStatSN: number;
  #lastHeardMs: number;
  #pingSent = false;
  #watch: Timer | undefined;
  #loggedOut: (() => void) | undefined;

  /** `lun`: the LUN field. Begins to receive. */
  constructor(connection: Connection, unit: { name: string; lun: bigint }, clock: Clock, events: LinkEvents) {
    const { login } = connection;
    this.#connection = connection;
    this.#name = unit.name;
    this.#lun = unit.lun;
    this.#clock = clock;
    this.#events = events;
    this.#parameters = login.parameters;
    this.#cmdSN = login.expCmdSN;
    this.#maxCmdSN = login.maxCmdSN;
    this.#expStatSN = serialAdd(login.statSN, 1);
    this.#lastHeardMs = clock.monotonicMs();
    connection.start({
      place: (header, length) => this.#place(header, length),
      pdu: (pdu) => this.#receive(pdu),
      closed: (reason) => {
        this.#watch?.cancel();
        this.#loggedOut?.();
        events.lost(reason);
      },
    });
    this.#watchSilence();
  }

  get traffic(): { sent: number; received: number } {
    return { sent: this.#connection.bytesSent, received: this.#connection.bytesReceived };
  }

  /** Tasks that were sent and not answered. */
  get tasks(): readonly Task[] {
    return [...this.#active.values()];
  }

  get taskCount(): number {
    return this.#active.size;
  }

  /** False while the target takes no more commands. */
  get windowOpen(): boolean {
    return !serialBefore(this.#maxCmdSN, this.#cmdSN);
  }

  drop(reason: string): void {
    this.#connection.drop(reason);
  }

  /** Takes leave, as far as the target answers within a second, and closes. */
  async logout(): Promise<void> {
    this.#watch?.cancel();
    const header = logoutRequestPdu.encode({
      immediate: true,
      initiatorTaskTag: this.#tag(),
      cmdSN: this.#cmdSN,
      expStatSN: this.#expStatSN,
    });
    await new Promise<void>((resolve) => {
      this.#loggedOut = resolve;
      this.#clock.after(logoutTimeoutMs, resolve);
      this.#connection.send(header);
    });
    this.drop("it was closed");
  }

  // --- sending ---

  #tag(): number {
    const tag = this.#nextTag;
    this.#nextTag = tag === 0xfffffffe ? 1 : tag + 1;
    return tag;
  }

  send(task: Task): void {
    const parameters = this.#parameters;
    const { cdb } = task.command;
    task.initiatorTaskTag = this.#tag();
    task.cmdSN = this.#cmdSN;
    this.#cmdSN = serialAdd(this.#cmdSN, 1);
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
      expStatSN: this.#expStatSN,
      cdb: cdb.subarray(0, 16),
    });
    const ahs = cdb.length > 16 ? extendedCdbAhs(cdb.subarray(16)) : undefined;
    this.#connection.send(header, immediate > 0 ? task.dataOutSlices(0, immediate) : undefined, ahs);
    if (unsolicited > immediate) this.#sendDataOut(task, immediate, unsolicited - immediate, noTag);
  }

  #sendDataOut(task: Task, offset: number, length: number, targetTransferTag: number): void {
    const segmentMax = this.#parameters.MaxRecvDataSegmentLength;
    let dataSN = 0;
    for (let done = 0; done < length; ) {
      const bytes = Math.min(segmentMax, length - done);
      const header = dataOutPdu.encode({
        final: done + bytes === length,
        lun: this.#lun,
        initiatorTaskTag: task.initiatorTaskTag,
        targetTransferTag,
        expStatSN: this.#expStatSN,
        dataSN: dataSN++,
        bufferOffset: offset + done,
      });
      this.#connection.send(header, task.dataOutSlices(offset + done, bytes));
      done += bytes;
    }
  }

  /** Ends a task early: it is rejected with `reason` once the target has let go of it. */
  abort(task: Task, reason: unknown): void {
    if (task.abortReason !== undefined || this.#active.get(task.initiatorTaskTag) !== task) return;
    task.abortReason = reason;
    const tag = this.#tag();
    const timer = this.#clock.after(abortTimeoutMs, () => this.#connection.drop("an abort was not answered"));
    this.#management.set(tag, () => {
      timer.cancel();
      if (this.#active.delete(task.initiatorTaskTag)) task.reject(reason);
      this.#events.progress();
    });
    this.#connection.send(
      taskManagementRequestPdu.encode({
        immediate: true,
        function: taskFunction.abortTask,
        lun: this.#lun,
        initiatorTaskTag: tag,
        referencedTaskTag: task.initiatorTaskTag,
        cmdSN: this.#cmdSN,
        expStatSN: this.#expStatSN,
        refCmdSN: task.cmdSN,
      }),
    );
  }

  #watchSilence(): void {
    this.#watch = this.#clock.after(watchMs, () => {
      const silentMs = this.#clock.monotonicMs() - this.#lastHeardMs;
      if (this.#pingSent && silentMs >= 2 * silenceMs) {
        this.drop(`the target was silent for ${Math.round(silentMs / 1000)} s`);
        return;
      }
      if (!this.#pingSent && silentMs >= silenceMs) {
        this.#pingSent = true;
        this.#connection.send(
          nopOutPdu.encode({
            immediate: true,
            initiatorTaskTag: this.#tag(),
            targetTransferTag: noTag,
            cmdSN: this.#cmdSN,
            expStatSN: this.#expStatSN,
          }),
        );
      }
      this.#watchSilence();
    });
  }

  // --- receiving ---

  #receive(pdu: Pdu): void {
    this.#lastHeardMs = this.#clock.monotonicMs();
    this.#pingSent = false;
    if (!pdu.dataIntact) throw new ProtocolViolation("a wrong data digest");
    const { header } = pdu;
    switch (header[0]! & 0x3f) {
      case opcode.dataIn:
        this.#dataIn(pdu);
        break;
      case opcode.scsiResponse:
        this.#response(pdu);
        break;
      case opcode.r2t:
        this.#readyToTransfer(header);
        break;
      case opcode.nopIn:
        this.#nopIn(pdu);
        break;
      case opcode.taskManagementResponse: {
        const response = taskManagementResponsePdu.decode(header);
        this.#numbers(response, true);
        const waiting = this.#management.get(response.initiatorTaskTag);
        this.#management.delete(response.initiatorTaskTag);
        waiting?.(response.response);
        break;
      }
      case opcode.logoutResponse:
        this.#loggedOut?.();
        break;
      case opcode.asyncMessage:
        this.#asyncMessage(header);
        break;
      case opcode.reject:
        throw new ProtocolViolation(`it rejected a PDU of ours (reason ${rejectPdu.decode(header).reason})`);
      default:
        throw new ProtocolViolation(`a PDU with the unexpected opcode ${header[0]! & 0x3f}`);
    }
    this.#events.progress();
  }

  /** The sequence numbers that every PDU of a target carries. */
  #numbers(pdu: { statSN: number; expCmdSN: number; maxCmdSN: number }, hasStatus: boolean): void {
    if (hasStatus) {
      if (pdu.statSN !== this.#expStatSN) {
        throw new ProtocolViolation(`StatSN ${pdu.statSN} where ${this.#expStatSN} was due`);
      }
      this.#expStatSN = serialAdd(pdu.statSN, 1);
    }
    if (serialBefore(pdu.maxCmdSN, serialAdd(pdu.expCmdSN, -1))) return; // RFC 7143, 4.2.2.1: ignore both
    if (serialBefore(this.#maxCmdSN, pdu.maxCmdSN)) this.#maxCmdSN = pdu.maxCmdSN;
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

  #dataIn(pdu: Pdu): void {
    const dataIn = dataInPdu.decode(pdu.header);
    this.#numbers(dataIn, dataIn.hasStatus);
    const task = this.#task(dataIn.initiatorTaskTag);
    if (pdu.data.length === 0) task.placeDataIn(dataIn.dataSN, dataIn.bufferOffset, 0);
    if (dataIn.hasStatus) this.#finish(task, dataIn.status, noData);
  }

  #response(pdu: Pdu): void {
    const response = scsiResponsePdu.decode(pdu.header);
    this.#numbers(response, true);
    const task = this.#task(response.initiatorTaskTag);
    if (response.response !== 0) {
      this.#active.delete(task.initiatorTaskTag);
      task.reject(
        task.abortReason ??
          new AgentError(
            "command_failed",
            `${this.#name} could not deliver a command (iSCSI response ${response.response})`,
            {
              retry: "after_backoff",
            },
          ),
      );
      return;
    }
    this.#finish(task, response.status, pdu.data);
  }

  #readyToTransfer(header: Buffer): void {
    const r2t = r2tPdu.decode(header);
    this.#numbers(r2t, false);
    const task = this.#active.get(r2t.initiatorTaskTag);
    if (task?.abortReason !== undefined) return; // it will see the abort
    if (!task) throw new ProtocolViolation("an R2T for a task that does not exist");
    const { bufferOffset, desiredDataTransferLength: length } = r2t;
    if (
      length === 0 ||
      bufferOffset + length > task.dataOutBytes ||
      length > this.#parameters.MaxBurstLength
    ) {
      throw new ProtocolViolation(`an R2T for ${bufferOffset} + ${length} of ${task.dataOutBytes} bytes`);
    }
    this.#sendDataOut(task, bufferOffset, length, r2t.targetTransferTag);
  }

  #nopIn(pdu: Pdu): void {
    const nop = nopInPdu.decode(pdu.header);
    this.#numbers(nop, nop.initiatorTaskTag !== noTag);
    if (nop.targetTransferTag === noTag) return;
    this.#connection.send(
      nopOutPdu.encode({
        immediate: true,
        lun: nop.lun,
        initiatorTaskTag: noTag,
        targetTransferTag: nop.targetTransferTag,
        cmdSN: this.#cmdSN,
        expStatSN: this.#expStatSN,
      }),
    );
  }

  #asyncMessage(header: Buffer): void {
    const message = asyncMessagePdu.decode(header);
    this.#numbers(message, true);
    // 0 is a SCSI event (the next command's unit attention tells it again); 255 is the vendor's own.
    if (message.asyncEvent >= 1 && message.asyncEvent <= 4) {
      this.#connection.drop(`the target asked for it (asynchronous event ${message.asyncEvent})`);
    }
  }
}
