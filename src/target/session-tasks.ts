// The SCSI commands of a session, from their PDU to their answer: data in and out, memory for it, executing, aborting.
//
// Guarantees: every command that is taken is answered once, unless it is aborted, and then never; it executes when all
// of its Data-Out has come, and no data is asked for that there is no memory for. What the initiator must not send is a
// PduViolation. After end() nothing is answered, and ended() waits for what still executes.
//
// Source: RFC 7143, 4.2.5 (data), 11.3 (SCSI Command), 11.7 (Data-Out), 11.8 (R2T).
import { noTag, rejectReason as reason } from "../iscsi/codes.ts";
import type { Pdu } from "../iscsi/framing.ts";
import { dataOutPdu, r2tPdu, scsiCommandPdu } from "../iscsi/pdu.ts";
import { type ResponseLimits, sendResult } from "./responses.ts";
import { checkCondition, type ScsiResult } from "./scsi-task.ts";
import type { TargetSession } from "./session.ts";
import { checkUnsolicited, PduViolation, TargetTask, TaskRequest, wholeCdb } from "./target-task.ts";

const abortedRememberedMax = 256;

export class SessionTasks {
  readonly #session: TargetSession;
  /** By their initiator task tags. */
  readonly #tasks = new Map<number, TargetTask>();
  /** Tasks whose late Data-Out is to be ignored. */
  readonly #aborted = new Set<number>();
  /** Immediate data of the PDU under way. */
  #immediate: { buffer: Buffer; giveBack: () => void } | undefined;
  #waste = Buffer.alloc(0);
  #over = false;
  /** Data-Out PDUs that were taken so far. */
  dataOutCount = 0;
  readonly #limits: ResponseLimits;
  readonly #send = (header: Buffer, data?: readonly Buffer[], onSent?: () => void) =>
    this.#session.send(header, data, onSent);

  constructor(session: TargetSession) {
    this.#session = session;
    const { parameters } = session.start;
    this.#limits = {
      segmentBytesMax: parameters.MaxRecvDataSegmentLength,
      burstBytesMax: parameters.MaxBurstLength,
    };
  }

  get size(): number {
    return this.#tasks.size;
  }

  /** The task with this initiator task tag. */
  get(initiatorTaskTag: number): TargetTask | undefined {
    return this.#tasks.get(initiatorTaskTag);
  }

  /** Those there are now. */
  all(): TargetTask[] {
    return [...this.#tasks.values()];
  }

  /** Nothing is answered from here on; all are aborted. */
  end(): void {
    this.#over = true;
    for (const task of this.all()) this.abort(task);
  }

  /** Resolves when nothing executes any more. */
  async ended(): Promise<void> {
    await Promise.all(this.all().map((task) => task.settled));
  }

  /** True while data was asked for that has not come, with memory kept for it. */
  get waitsForData(): boolean {
    for (const task of this.#tasks.values()) {
      if (task.state === "collecting" && task.memory !== undefined) return true;
    }
    return false;
  }

  // --- receiving ---

  /** Where immediate data goes: a buffer that the task of its command takes over. */
  placeImmediate(length: number): Buffer {
    const borrowed = this.#session.host.deviceServer.buffers.borrow(length);
    this.#immediate = borrowed;
    return borrowed.buffer;
  }

  /** Immediate data that no task has taken over is free again. */
  freeImmediate(): void {
    this.#immediate?.giveBack();
    this.#immediate = undefined;
  }

  /** Where the data of a Data-Out goes. @throws PduViolation */
  placeDataOut(header: Buffer, length: number): Buffer {
    const dataOut = dataOutPdu.decode(header);
    return (
      this.#dataOutTask(dataOut.initiatorTaskTag)?.placeDataOut(dataOut, length) ?? this.#discarded(length)
    );
  }

  /** Room for data that nobody wants. */
  #discarded(length: number): Buffer {
    if (this.#waste.length < length) this.#waste = Buffer.allocUnsafeSlow(length);
    return this.#waste.subarray(0, length);
  }

  /** Takes a command. @throws PduViolation */
  command(pdu: Pdu): void {
    const head = scsiCommandPdu.decode(pdu.header);
    const { parameters } = this.#session.start;
    if (this.#tasks.has(head.initiatorTaskTag) || head.initiatorTaskTag === noTag) {
      throw new PduViolation(reason.taskInProgress, `the task tag ${head.initiatorTaskTag} is in use`);
    }
    if (head.immediate && this.#tasks.size >= 2 * this.#session.start.window) {
      this.#session.reject(reason.immediateCommandReject, pdu.header);
      return;
    }
    const { expectedDataTransferLength: expected } = head;
    checkUnsolicited(head, pdu.data.length, parameters);
    const cdb = wholeCdb(pdu, head.cdb);
    const wanted = this.#session.host.deviceServer.transferOf(this.#session.nexus, head.lun, cdb);
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
      this.#session.host.deviceServer.buffers,
    );
    this.#tasks.set(head.initiatorTaskTag, task);
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
      const own = this.#session.start.memory.tryAcquire(bytes);
      const shared = own && this.#session.host.memory.tryAcquire(bytes);
      if (own && shared) this.#granted(task, own, shared);
      else {
        own?.();
        void this.#withMemory(task, bytes);
      }
    }
  }

  async #withMemory(task: TargetTask, bytes: number): Promise<void> {
    // The connection's share first: one that is at its limit must not hold up others.
    const own = await this.#session.start.memory.acquire(bytes);
    const shared = await this.#session.host.memory.acquire(bytes);
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
    const targetTransferTag = this.#session.transferTag();
    const { bufferOffset, length, r2tSN } = task.beginBurst(
      targetTransferTag,
      this.#session.start.parameters.MaxBurstLength,
    );
    this.#session.send(
      r2tPdu.encode({
        lun: task.start.lun,
        initiatorTaskTag: task.start.initiatorTaskTag,
        targetTransferTag,
        statSN: this.#session.numbers.statSN,
        expCmdSN: this.#session.numbers.expCmdSN,
        maxCmdSN: this.#session.numbers.maxCmdSN,
        r2tSN,
        bufferOffset,
        desiredDataTransferLength: length,
      }),
    );
  }

  /** The task that Data-Out is for; undefined if it was aborted and what still comes is to be ignored. */
  #dataOutTask(initiatorTaskTag: number): TargetTask | undefined {
    const task = this.#tasks.get(initiatorTaskTag);
    if (task && !task.aborted) return task;
    if (task || this.#aborted.has(initiatorTaskTag)) return undefined;
    throw new PduViolation(reason.protocolError, "Data-Out for a task that does not exist");
  }

  /** Takes a Data-Out whose data is in its place. @throws PduViolation */
  dataOut(pdu: Pdu): void {
    const header = dataOutPdu.decode(pdu.header);
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
      this.#session.host.log(
        "error",
        `a command failed by a fault of this program: ${(error as Error).stack}`,
      );
      return checkCondition("internalTargetFailure");
    };
    let result: ScsiResult | Promise<ScsiResult>;
    try {
      result = this.#session.host.deviceServer.execute(new TaskRequest(this.#session.nexus, task));
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
      // What such an initiator has sent may lie in a buffer on its way: it must not be carried out later, whatever becomes of
      // the reservation until then. Closing the connection aborts its tasks, too.
      await this.#session.host.endNexuses(ports);
    }
    this.#finish(task, result);
  }

  #finish(task: TargetTask, result: ScsiResult): void {
    this.#tasks.delete(task.start.initiatorTaskTag);
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
    sendResult(task, result, this.#session.numbers, this.#limits, this.#send, sent);
    task.settle();
  }

  /** The task is never answered; what it executes is left to end. */
  abort(task: TargetTask): void {
    task.abort();
    this.rememberAborted(task.start.initiatorTaskTag);
    if (task.state !== "collecting") return;
    this.#tasks.delete(task.start.initiatorTaskTag);
    task.settle();
  }

  /** What still comes of Data-Out for this task is ignored. */
  rememberAborted(initiatorTaskTag: number): void {
    this.#aborted.add(initiatorTaskTag);
    if (this.#aborted.size > abortedRememberedMax) this.#aborted.delete(this.#aborted.values().next().value!);
  }
}
