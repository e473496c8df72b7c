// A session in full-feature phase: commands in their order, data, task management, and what keeps it bounded.
//
// Guarantees: commands are taken in the order of CmdSN, none twice; at most `window` are under way; every command that
// is taken is answered once, unless it is aborted, and then never. What the initiator must not send is rejected and
// ends the connection (error recovery level 0). After end() nothing is sent, and ended() waits for what still executes.
//
// Source: RFC 7143, 4.2.2 (numbering), 4.2.5 (data), 11.5 (task management).

import { LayoutError } from "../base/layout.ts";
import * as codes from "../iscsi/codes.ts";
import { FramingError, type Pdu } from "../iscsi/framing.ts";
import * as wire from "../iscsi/pdu.ts";
import { TextError } from "../iscsi/text.ts";
import { CommandOrder } from "./command-order.ts";
import type { LogicalUnit } from "./logical-unit.ts";
import type { Nexus } from "./nexus.ts";
import { type ResponseLimits, sendResult } from "./responses.ts";
import { checkCondition, type ScsiResult } from "./scsi-task.ts";
import { SessionNumbers } from "./sequence.ts";
import type { SessionHost, SessionLink, SessionStart } from "./session-host.ts";
import { logout, nopOut, textRequest } from "./session-services.ts";
import { checkUnsolicited, PduViolation, TargetTask, TaskRequest, wholeCdb } from "./target-task.ts";
import { manageTasks } from "./task-management.ts";

const abortedRememberedMax = 256;
const { rejectReason: reason } = codes;

export class TargetSession {
  readonly start: SessionStart;
  readonly tasks = new Map<number, TargetTask>();
  readonly host: SessionHost;
  readonly link: SessionLink;
  readonly numbers: SessionNumbers;
  #nextTransferTag = 1;
  #over = false;
  readonly #order: CommandOrder;
  /** Tasks whose late Data-Out is to be ignored. */
  readonly #aborted = new Set<number>();
  /** Text of a request that goes on in the next PDU. */
  text: Buffer[] = [];
  textBytes = 0;
  /** Data-Out PDUs that were taken so far. */
  dataOutCount = 0;
  /** Immediate data of the PDU under way. */
  #immediate: { buffer: Buffer; giveBack: () => void } | undefined;
  #waste = Buffer.alloc(0);
  readonly #limits: ResponseLimits;
  readonly #send = (header: Buffer, data?: readonly Buffer[], onSent?: () => void) =>
    this.send(header, data, onSent);

  constructor(start: SessionStart, host: SessionHost, link: SessionLink) {
    this.start = start;
    this.host = host;
    this.link = link;
    this.#limits = {
      segmentBytesMax: start.parameters.MaxRecvDataSegmentLength,
      burstBytesMax: start.parameters.MaxBurstLength,
    };
    const outstanding = () => this.tasks.size + (this.#order?.waiting ?? 0);
    this.numbers = new SessionNumbers(start.cmdSN, start.window, outstanding);
    this.#order = new CommandOrder(this.numbers, (pdu) => {
      this.#guarded(pdu.header, () => this.#carryOut(pdu.header[0]! & 0x3f, pdu));
    });
  }

  get nexus(): Nexus {
    return this.start.nexus;
  }

  /** Nothing is sent from here on; tasks are aborted. */
  end(): void {
    if (this.#over) return;
    this.#over = true;
    this.#order.clear();
    for (const task of [...this.tasks.values()]) this.abortTask(task);
  }

  /** The unit that a LUN field means in this session. */
  unitAt(lun: bigint): LogicalUnit | undefined {
    return this.host.deviceServer.unit(this.nexus, lun);
  }

  /** Resolves when nothing executes any more. */
  async ended(): Promise<void> {
    await Promise.all([...this.tasks.values()].map((task) => task.settled));
  }

  /** True while data was asked for that has not come, with memory kept for it. */
  get waitsForData(): boolean {
    for (const task of this.tasks.values()) {
      if (task.state === "collecting" && task.memory !== undefined) return true;
    }
    return false;
  }

  /** NOP-In that asks for an answer. */
  ping(): void {
    this.send(
      wire.nopInPdu.encode({
        initiatorTaskTag: codes.noTag,
        targetTransferTag: this.transferTag(),
        statSN: this.numbers.statSN, // not advanced (11.19.2)
        expCmdSN: this.numbers.expCmdSN,
        maxCmdSN: this.numbers.maxCmdSN,
      }),
    );
  }

  /** Where a PDU's data goes: Data-Out to its task, immediate data to a buffer that its task takes over. */
  place(header: Buffer, length: number): Buffer | undefined {
    return this.#guarded(header, () => {
      switch (header[0]! & 0x3f) {
        case codes.opcode.dataOut: {
          const dataOut = wire.dataOutPdu.decode(header);
          return (
            this.#dataOutTask(dataOut.initiatorTaskTag)?.placeDataOut(dataOut, length) ??
            this.#discarded(length)
          );
        }
        case codes.opcode.scsiCommand: {
          const borrowed = this.host.deviceServer.buffers.borrow(length);
          this.#immediate = borrowed;
          return borrowed.buffer;
        }
        default:
          return undefined;
      }
    });
  }

  /** Takes one PDU, whatever it holds. */
  receive(pdu: Pdu): void {
    this.#guarded(pdu.header, () => {
      if (!pdu.dataIntact) throw new PduViolation(reason.dataDigestError, "a wrong data digest");
      this.#dispatch(pdu);
    });
    // Not taken over by a task.
    this.#immediate?.giveBack();
    this.#immediate = undefined;
  }

  /** What must not be is rejected, and ends the connection. */
  #guarded<T>(header: Buffer, action: () => T): T | undefined {
    if (this.#over) return undefined;
    try {
      return action();
    } catch (error) {
      const why = this.#violationOf(error);
      if (!why) throw error;
      this.#reject(why.reason, header);
      this.link.finish(`it broke the protocol: ${why.message}`);
      return undefined;
    }
  }

  /** Room for data that nobody wants. */
  #discarded(length: number): Buffer {
    if (this.#waste.length < length) this.#waste = Buffer.allocUnsafeSlow(length);
    return this.#waste.subarray(0, length);
  }

  #violationOf(error: unknown): PduViolation | undefined {
    if (error instanceof PduViolation) return error;
    if (error instanceof LayoutError || error instanceof TextError) {
      return new PduViolation(reason.invalidPduField, error.message);
    }
    return error instanceof FramingError ? new PduViolation(reason.protocolError, error.message) : undefined;
  }

  // --- numbers ---

  transferTag(): number {
    const tag = this.#nextTransferTag;
    this.#nextTransferTag = tag === 0xfffffffe ? 1 : tag + 1;
    return tag;
  }

  send(header: Buffer, data?: readonly Buffer[], onSent?: () => void): void {
    if (this.#over) onSent?.();
    else this.link.send(header, data, onSent);
  }

  #reject(code: number, header: Buffer): void {
    this.send(
      wire.rejectPdu.encode({
        reason: code,
        statSN: this.numbers.nextStatSN(),
        expCmdSN: this.numbers.expCmdSN,
        maxCmdSN: this.numbers.maxCmdSN,
      }),
      [Buffer.from(header)],
    );
  }

  // --- receiving ---

  #dispatch(pdu: Pdu): void {
    const { header } = pdu;
    const opcode = header[0]! & 0x3f;
    if (opcode === codes.opcode.dataOut) {
      this.#dataOut(pdu);
      return;
    }
    if (opcode === codes.opcode.snackRequest) {
      this.#reject(reason.snackReject, header); // error recovery level 0 has none; it has no CmdSN (11.16)
      return;
    }
    if ((header[0]! & 0x40) !== 0)
      this.#carryOut(opcode, pdu); // immediate
    else this.#order.take(pdu);
  }

  #carryOut(opcode: number, pdu: Pdu): void {
    const discovery = this.start.targetName === undefined;
    switch (opcode) {
      case codes.opcode.scsiCommand:
        if (discovery) throw new PduViolation(reason.protocolError, "a SCSI command in a discovery session");
        this.#scsiCommand(pdu);
        return;
      case codes.opcode.taskManagementRequest:
        if (discovery) throw new PduViolation(reason.protocolError, "task management in a discovery session");
        void manageTasks(this, wire.taskManagementRequestPdu.decode(pdu.header)).then((response) => {
          this.#answerManagement(pdu.header.readUInt32BE(16), response);
        });
        return;
      case codes.opcode.nopOut:
        nopOut(this, pdu);
        return;
      case codes.opcode.textRequest:
        textRequest(this, pdu);
        return;
      case codes.opcode.logoutRequest:
        logout(this, pdu);
        return;
      case codes.opcode.loginRequest:
        throw new PduViolation(reason.protocolError, "a login request in full-feature phase");
      default:
        this.#reject(reason.commandNotSupported, pdu.header);
    }
  }

  #scsiCommand(pdu: Pdu): void {
    const head = wire.scsiCommandPdu.decode(pdu.header);
    const { parameters } = this.start;
    if (this.tasks.has(head.initiatorTaskTag) || head.initiatorTaskTag === codes.noTag) {
      throw new PduViolation(reason.taskInProgress, `the task tag ${head.initiatorTaskTag} is in use`);
    }
    if (head.immediate && this.tasks.size >= 2 * this.start.window) {
      this.#reject(reason.immediateCommandReject, pdu.header);
      return;
    }
    const { expectedDataTransferLength: expected } = head;
    checkUnsolicited(head, pdu.data.length, parameters);
    const cdb = wholeCdb(pdu, head.cdb);
    const wanted = this.host.deviceServer.transferOf(this.nexus, head.lun, cdb);
    const { read, write } = head;
    const astray = (read && write) || (read && wanted.dataOut > 0);
    const transfer = astray ? { dataOut: 0, dataIn: 0 } : wanted;
    const task = new TargetTask(
      {
        ...head,
        cdb,
        astray,
        dataOutWanted: transfer.dataOut,
        unsolicitedBytesMax: head.final ? 0 : Math.min(parameters.FirstBurstLength, expected),
      },
      this.host.deviceServer.buffers,
    );
    this.tasks.set(head.initiatorTaskTag, task);
    this.#aborted.delete(head.initiatorTaskTag);
    if (pdu.data.length > 0) {
      const owned = this.#immediate?.buffer === pdu.data ? this.#immediate : undefined;
      task.takeImmediate(pdu.data, owned?.giveBack);
      if (owned) this.#immediate = undefined;
    }
    const dataIn = head.read ? Math.min(transfer.dataIn, expected) : 0;
    const bytes = dataIn + task.missing;
    if (bytes === 0) this.#advance(task);
    else {
      const own = this.start.memory.tryAcquire(bytes);
      const shared = own && this.host.memory.tryAcquire(bytes);
      if (own && shared) this.#granted(task, own, shared);
      else {
        own?.();
        void this.#withMemory(task, bytes);
      }
    }
  }

  async #withMemory(task: TargetTask, bytes: number): Promise<void> {
    // The connection's share first: one that is at its limit must not hold up others.
    const own = await this.start.memory.acquire(bytes);
    const shared = await this.host.memory.acquire(bytes);
    this.#granted(task, own, shared);
  }

  #granted(task: TargetTask, own: () => void, shared: () => void): void {
    const release = () => {
      shared();
      own();
    };
    if (task.state === "settled") release();
    else {
      task.memory = release;
      this.#advance(task);
    }
  }

  /** Goes on with a task: asks for data that is missing, or executes. */
  #advance(task: TargetTask): void {
    if (task.state !== "collecting" || task.aborted) return;
    if (task.broken) {
      this.#finish(task, checkCondition("protocolServiceCrcError"));
      return;
    }
    if (task.complete) {
      this.#execute(task);
      return;
    }
    if (!task.quiet || task.missing === 0) return;
    if (task.memory === undefined) return; // it will be granted
    const targetTransferTag = this.transferTag();
    const { bufferOffset, length, r2tSN } = task.beginBurst(
      targetTransferTag,
      this.start.parameters.MaxBurstLength,
    );
    this.send(
      wire.r2tPdu.encode({
        lun: task.start.lun,
        initiatorTaskTag: task.start.initiatorTaskTag,
        targetTransferTag,
        statSN: this.numbers.statSN,
        expCmdSN: this.numbers.expCmdSN,
        maxCmdSN: this.numbers.maxCmdSN,
        r2tSN,
        bufferOffset,
        desiredDataTransferLength: length,
      }),
    );
  }

  /** The task that Data-Out is for; undefined if it was aborted and what still comes is to be ignored. */
  #dataOutTask(initiatorTaskTag: number): TargetTask | undefined {
    const task = this.tasks.get(initiatorTaskTag);
    if (task && !task.aborted) return task;
    if (task || this.#aborted.has(initiatorTaskTag)) return undefined;
    throw new PduViolation(reason.protocolError, "Data-Out for a task that does not exist");
  }

  #dataOut(pdu: Pdu): void {
    const header = wire.dataOutPdu.decode(pdu.header);
    const task = this.#dataOutTask(header.initiatorTaskTag);
    if (!task) return;
    if (pdu.data.length === 0) task.placeDataOut(header, 0);
    task.dataOutTaken(header);
    this.dataOutCount++;
    this.#advance(task);
  }

  // --- executing and answering ---

  #execute(task: TargetTask): void {
    if (task.start.astray) {
      this.#finish(task, checkCondition("invalidFieldInCdb"));
      return;
    }
    task.state = "executing";
    const faulty = (error: unknown) => {
      this.host.log("error", `a command failed by a fault of this program: ${(error as Error).stack}`);
      return checkCondition("internalTargetFailure");
    };
    let result: ScsiResult | Promise<ScsiResult>;
    try {
      result = this.host.deviceServer.execute(new TaskRequest(this.nexus, task));
    } catch (error) {
      result = faulty(error);
    }
    if (!(result instanceof Promise) && !result.abortsCommandsOf) this.#finish(task, result);
    else
      void Promise.resolve(result)
        .catch(faulty)
        .then((later) => this.#executed(task, later));
  }

  async #executed(task: TargetTask, result: ScsiResult): Promise<void> {
    const { abortsCommandsOf: ports } = result;
    if (ports) {
      const unit = this.unitAt(task.start.lun);
      await this.host.abortTasks(
        (session, each) =>
          each !== task && ports.includes(session.nexus.key) && session.unitAt(each.start.lun) === unit,
      );
    }
    this.#finish(task, result);
  }

  #finish(task: TargetTask, result: ScsiResult): void {
    this.tasks.delete(task.start.initiatorTaskTag);
    if (task.aborted || this.#over) {
      result.release?.();
      task.settle();
      return;
    }
    // Memory of Data-In is free when the kernel has taken it.
    const { memory } = task;
    const { release } = result;
    task.memory = undefined;
    const sent = () => {
      release?.();
      memory?.();
    };
    sendResult(task, result, this.numbers, this.#limits, this.#send, sent);
    task.settle();
  }

  /** The task is never answered; what it executes is left to end. */
  abortTask(task: TargetTask): void {
    task.abort();
    this.#rememberAborted(task.start.initiatorTaskTag);
    if (task.state !== "collecting") return;
    this.tasks.delete(task.start.initiatorTaskTag);
    task.settle();
  }

  #answerManagement(initiatorTaskTag: number, response: number): void {
    this.send(
      wire.taskManagementResponsePdu.encode({
        response,
        initiatorTaskTag,
        statSN: this.numbers.nextStatSN(),
        expCmdSN: this.numbers.expCmdSN,
        maxCmdSN: this.numbers.maxCmdSN,
      }),
    );
  }

  /**
   * Takes `cmdSN` as received, so that its command is never carried out; false if it is not due before `end`, or
   * outside the window (11.5.1).
   */
  forgo(cmdSN: number, end: number): boolean {
    return this.#order.forgo(cmdSN, end, (pdu) => this.#rememberAborted(pdu.header.readUInt32BE(16)));
  }

  /** Aborts commands that came before their turn, up to the CmdSN of the function that wants it. */
  abortEarly(end: number, which: (lun: bigint) => boolean): void {
    const concerned = ({ header }: Pdu) =>
      (header[0]! & 0x3f) === codes.opcode.scsiCommand && which(header.readBigUInt64BE(8));
    this.#order.forgoEarly(end, concerned, (pdu) => this.#rememberAborted(pdu.header.readUInt32BE(16)));
  }

  #rememberAborted(initiatorTaskTag: number): void {
    this.#aborted.add(initiatorTaskTag);
    if (this.#aborted.size > abortedRememberedMax) this.#aborted.delete(this.#aborted.values().next().value!);
  }
}
