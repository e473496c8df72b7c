// An initiator that keeps the rules, whatever commands it sends, and checks that the target does.
//
// Source: RFC 7143, 4.2.2 (numbers), 4.2.5 (data), 11.4 (residuals), 11.7 (Data-In), 11.8 (R2T).
import * as codes from "../../src/iscsi/codes.ts";
import type { Pdu } from "../../src/iscsi/framing.ts";
import { extendedCdbAhs } from "../../src/iscsi/framing.ts";
import * as wire from "../../src/iscsi/pdu.ts";
import { serialAdd, serialBefore } from "../../src/iscsi/serial.ts";
import { below } from "../support/data.ts";
import type { RawInitiator } from "../support/raw-initiator.ts";
import type { FuzzedCommand } from "./commands.ts";
import { chance, type Random } from "./mutate.ts";

/** What the target did that it must not do. */
export class Finding extends Error {
  override readonly name = "Finding";
}

export function demand(holds: boolean, what: () => string): asserts holds {
  if (!holds) throw new Finding(what());
}

interface Outstanding {
  readonly command: FuzzedCommand;
  readonly lun: bigint;
  readonly write: boolean;
  readonly read: boolean;
  readonly expected: number;
  /** Data-Out that was sent so far. */
  sent: number;
  received: number;
  nextDataSN: number;
  nextR2tSN: number;
}

export interface SessionLimits {
  readonly firstBurstBytes: number;
  readonly maxBurstBytes: number;
  readonly immediateData: boolean;
  readonly initialR2t: boolean;
  /** What this side declared. */
  readonly segmentBytes: number;
}

export class CheckedSession {
  readonly raw: RawInitiator;
  readonly #random: Random;
  readonly #limits: SessionLimits;
  readonly #outstanding = new Map<number, Outstanding>();
  /** Task management, NOP and text that is not answered yet, by tag; with what happens then. */
  readonly #asked = new Map<number, (pdu: Pdu) => void>();
  #nextTag = 1;
  #statSN: number | undefined;
  #maxCmdSN: number;
  answered = 0;

  constructor(random: Random, raw: RawInitiator, limits: SessionLimits) {
    this.#random = random;
    this.raw = raw;
    this.#limits = limits;
    this.#maxCmdSN = raw.cmdSN;
  }

  get outstanding(): number {
    return this.#outstanding.size;
  }

  /** True if the target takes one more command now. */
  get room(): boolean {
    return !serialBefore(this.#maxCmdSN, this.raw.cmdSN);
  }

  /** The PDUs of a command and of its unsolicited data, for sending in this order. */
  begin(command: FuzzedCommand, lun: bigint, immediate: boolean): Buffer[] {
    const { cdb, dataOut, dataInBytes } = command;
    const write = dataOut.length > 0;
    const random = this.#random;
    const expected = write ? dataOut.length : dataInBytes;
    const limits = this.#limits;
    const initiatorTaskTag = this.#tag();
    const first = Math.min(expected, limits.firstBurstBytes);
    const along = write && limits.immediateData ? below(random, first + 1) & ~3 : 0;
    const unsolicited = write && !limits.initialR2t && along < first && chance(random, 0.5);
    const task: Outstanding = {
      command,
      lun,
      write,
      read: !write && dataInBytes > 0,
      expected,
      sent: along,
      received: 0,
      nextDataSN: 0,
      nextR2tSN: 0,
    };
    this.#outstanding.set(initiatorTaskTag, task);
    const padded = Buffer.alloc(16);
    cdb.copy(padded, 0, 0, 16);
    const header = wire.scsiCommandPdu.encode({
      immediate,
      final: !unsolicited,
      read: task.read,
      write,
      attributes: below(random, 5),
      lun,
      initiatorTaskTag,
      expectedDataTransferLength: expected,
      cmdSN: this.raw.cmdSN,
      cdb: padded,
    });
    if (!immediate) this.raw.cmdSN = serialAdd(this.raw.cmdSN, 1);
    const ahs = cdb.length > 16 ? extendedCdbAhs(cdb.subarray(16)) : undefined;
    const pdus = [this.raw.frame(header, along > 0 ? dataOut.subarray(0, along) : undefined, ahs)];
    if (unsolicited) pdus.push(...this.#burst(initiatorTaskTag, task, codes.noTag, first));
    return pdus;
  }

  /** Asks for `fields.function`. Tasks that it ends are forgotten when the answer comes. */
  manage(fields: { function: number; lun: bigint; referencedTaskTag?: number; refCmdSN?: number }): void {
    const initiatorTaskTag = this.#tag();
    const one = fields.function === codes.taskFunction.abortTask;
    const ended = [...this.#outstanding].filter(([tag, task]) =>
      one ? tag === fields.referencedTaskTag : task.lun === fields.lun,
    );
    this.#asked.set(initiatorTaskTag, (pdu) => {
      const { response } = wire.taskManagementResponsePdu.decode(pdu.header);
      if (response !== codes.taskResponse.functionComplete) return;
      for (const [tag] of ended) this.#outstanding.delete(tag);
    });
    this.raw.send(
      wire.taskManagementRequestPdu.encode({
        immediate: true,
        initiatorTaskTag,
        cmdSN: this.raw.cmdSN,
        ...fields,
      }),
    );
  }

  /** A tag of a command that is under way. */
  someTag(): number | undefined {
    return [...this.#outstanding.keys()][below(this.#random, this.#outstanding.size)];
  }

  ping(data: Buffer): void {
    const initiatorTaskTag = this.#tag();
    this.#asked.set(initiatorTaskTag, (pdu) => {
      demand(
        (pdu.header[0]! & 0x3f) === codes.opcode.nopIn,
        () => "a NOP-Out was answered by something else",
      );
      const taken = Math.min(data.length, this.#limits.segmentBytes);
      demand(pdu.data.equals(data.subarray(0, taken)), () => "a NOP-In has other data than its NOP-Out");
    });
    this.raw.send(
      wire.nopOutPdu.encode({
        immediate: true,
        initiatorTaskTag,
        targetTransferTag: codes.noTag,
        cmdSN: this.raw.cmdSN,
      }),
      data,
    );
  }

  /** Takes what has come, and answers what asks for data. */
  takeAll(): void {
    for (const pdu of this.raw.pdus.splice(0)) this.#take(pdu);
  }

  /** Waits until nothing is owed any more. */
  async settled(timeoutMs: number): Promise<void> {
    const deadline = performance.now() + timeoutMs;
    this.takeAll();
    while (this.#outstanding.size > 0 || this.#asked.size > 0) {
      demand(!this.raw.closed, () => "the target closed a session that kept the rules");
      demand(performance.now() < deadline, () => {
        const names = [...this.#outstanding.values()].map(
          ({ command, expected }) => `${command.name} ${command.cdb.toString("hex")} (${expected} bytes)`,
        );
        return `no answer in ${timeoutMs} ms to ${[...names, `${this.#asked.size} requests`].join(", ")}`;
      });
      await this.raw.silent(20);
      this.takeAll();
    }
  }

  #tag(): number {
    return this.#nextTag++;
  }

  #take(pdu: Pdu): void {
    const { header } = pdu;
    const opcode = header[0]! & 0x3f;
    const tag = header.readUInt32BE(16);
    const max = header.readUInt32BE(32);
    demand(!serialBefore(max, this.#maxCmdSN), () => "MaxCmdSN went back");
    this.#maxCmdSN = max;
    const numbered =
      opcode === codes.opcode.dataIn
        ? wire.dataInPdu.decode(header).hasStatus
        : opcode !== codes.opcode.r2t && !(opcode === codes.opcode.nopIn && tag === codes.noTag);
    if (numbered) {
      const statSN = header.readUInt32BE(24);
      demand(this.#statSN === undefined || statSN === this.#statSN, () => `StatSN ${statSN} is not the next`);
      this.#statSN = serialAdd(statSN, 1);
    }
    const asked = this.#asked.get(tag);
    if (asked) {
      this.#asked.delete(tag);
      asked(pdu);
      this.answered++;
      return;
    }
    switch (opcode) {
      case codes.opcode.dataIn:
        this.#dataIn(tag, pdu);
        return;
      case codes.opcode.r2t:
        this.#r2t(tag, pdu);
        return;
      case codes.opcode.scsiResponse: {
        const response = wire.scsiResponsePdu.decode(header);
        const task = this.#owed(tag, "a response");
        this.#outstanding.delete(tag);
        this.answered++;
        demand(response.response === 0, () => "an iSCSI service response other than 0");
        this.#checkResidual(task, response);
        return;
      }
      case codes.opcode.asyncMessage:
        return;
      case codes.opcode.nopIn:
        demand(tag === codes.noTag, () => "a NOP-In that nobody asked for");
        return;
      case codes.opcode.reject: {
        const { reason } = wire.rejectPdu.decode(header);
        throw new Finding(`a Reject, reason ${reason}, of ${pdu.data.toString("hex")}`);
      }
      default:
        throw new Finding(`opcode ${opcode.toString(16)}h, tag ${tag}, to a session that kept the rules`);
    }
  }

  #owed(tag: number, what: string): Outstanding {
    const task = this.#outstanding.get(tag);
    demand(task !== undefined, () => `${what} for tag ${tag}, which is not outstanding`);
    return task;
  }

  #dataIn(tag: number, pdu: Pdu): void {
    const data = wire.dataInPdu.decode(pdu.header);
    const task = this.#owed(tag, "Data-In");
    const about = () =>
      `${task.command.name}: Data-In ${data.dataSN} at ${data.bufferOffset}, ${pdu.data.length} bytes`;
    demand(task.read, () => `${about()} for a command that reads nothing`);
    demand(data.dataSN === task.nextDataSN++, () => `${about()}: DataSN`);
    demand(data.bufferOffset === task.received, () => `${about()}: ${task.received} was due`);
    demand(
      pdu.data.length <= this.#limits.segmentBytes,
      () => `${about()}: more than MaxRecvDataSegmentLength`,
    );
    task.received += pdu.data.length;
    demand(task.received <= task.expected, () => `${about()}: past the expected ${task.expected}`);
    if (!data.hasStatus) return;
    this.#outstanding.delete(tag);
    this.answered++;
    this.#checkResidual(task, data);
  }

  #checkResidual(
    task: Outstanding,
    found: { status: number; residualOverflow: boolean; residualUnderflow: boolean; residualCount: number },
  ): void {
    const { name } = task.command;
    demand(!(found.residualOverflow && found.residualUnderflow), () => `${name}: both residuals`);
    if (!task.read) return;
    const said = task.expected - (found.residualUnderflow ? found.residualCount : 0);
    demand(task.received === said, () => `${name}: ${task.received} bytes came, the residual says ${said}`);
  }

  #r2t(tag: number, pdu: Pdu): void {
    const r2t = wire.r2tPdu.decode(pdu.header);
    const task = this.#owed(tag, "an R2T");
    const { bufferOffset: offset, desiredDataTransferLength: bytes } = r2t;
    const about = () => `${task.command.name}: R2T for ${bytes} bytes at ${offset}`;
    demand(task.write && bytes > 0 && bytes <= this.#limits.maxBurstBytes, about);
    demand(
      offset === task.sent && offset + bytes <= task.expected,
      () => `${about()}: ${task.sent} were sent`,
    );
    demand(r2t.r2tSN === task.nextR2tSN++, () => `${about()}: R2TSN`);
    demand(r2t.targetTransferTag !== codes.noTag, () => `${about()}: a reserved tag`);
    for (const each of this.#burst(tag, task, r2t.targetTransferTag, offset + bytes))
      this.raw.sendBytes(each);
  }

  /** Data-Out up to `end`, in pieces of any size. */
  #burst(initiatorTaskTag: number, task: Outstanding, targetTransferTag: number, end: number): Buffer[] {
    const pdus: Buffer[] = [];
    for (let dataSN = 0; task.sent < end; dataSN++) {
      const next = Math.min(
        end,
        task.sent + 4 * (1 + below(this.#random, chance(this.#random, 0.5) ? 64 : 16384)),
      );
      const header = wire.dataOutPdu.encode({
        final: next === end,
        lun: task.lun,
        initiatorTaskTag,
        targetTransferTag,
        dataSN,
        bufferOffset: task.sent,
      });
      pdus.push(this.raw.frame(header, task.command.dataOut.subarray(task.sent, next)));
      task.sent = next;
    }
    return pdus;
  }
}
