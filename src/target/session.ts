// A session in full-feature phase: each PDU in its turn, and who takes it; SCSI commands go to session-tasks.ts.
//
// Guarantees: commands are taken in the order of CmdSN, none twice; at most `window` are under way. What the initiator
// must not send is rejected and ends the connection (error recovery level 0). After end() nothing is sent, and ended()
// waits for what still executes.
//
// Source: RFC 7143, 4.2.2 (numbering), 11.5 (task management), 11.17 (Reject).
import { LayoutError } from "../base/layout.ts";
import { noTag, opcode, rejectReason as reason } from "../iscsi/codes.ts";
import { FramingError, type Pdu } from "../iscsi/framing.ts";
import * as wire from "../iscsi/pdu.ts";
import { TextError } from "../iscsi/text.ts";
import { CommandOrder } from "./command-order.ts";
import type { LogicalUnit } from "./logical-unit.ts";
import type { Nexus } from "./nexus.ts";
import { SessionNumbers } from "./sequence.ts";
import type { SessionHost, SessionLink, SessionStart } from "./session-host.ts";
import { logout, nopOut, textRequest } from "./session-services.ts";
import { SessionTasks } from "./session-tasks.ts";
import { PduViolation } from "./target-task.ts";
import { manageTasks } from "./task-management.ts";

export class TargetSession {
  readonly start: SessionStart;
  readonly host: SessionHost;
  readonly link: SessionLink;
  readonly numbers: SessionNumbers;
  readonly tasks: SessionTasks;
  #nextTransferTag = 1;
  #over = false;
  readonly #order: CommandOrder;
  /** Text of a request that goes on in the next PDU. */
  text: Buffer[] = [];
  textBytes = 0;

  constructor(start: SessionStart, host: SessionHost, link: SessionLink) {
    this.start = start;
    this.host = host;
    this.link = link;
    this.tasks = new SessionTasks(this);
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
    this.tasks.end();
  }

  /** The unit that a LUN field means in this session. */
  unitAt(lun: bigint): LogicalUnit | undefined {
    return this.host.deviceServer.unit(this.nexus, lun);
  }

  /** Resolves when nothing executes any more. */
  ended(): Promise<void> {
    return this.tasks.ended();
  }

  /** NOP-In that asks for an answer. */
  ping(): void {
    this.send(
      wire.nopInPdu.encode({
        initiatorTaskTag: noTag,
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
        case opcode.dataOut:
          return this.tasks.placeDataOut(header, length);
        case opcode.scsiCommand:
          return this.tasks.placeImmediate(length);
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
    this.tasks.freeImmediate();
  }

  /** What must not be is rejected, and ends the connection. */
  #guarded<T>(header: Buffer, action: () => T): T | undefined {
    if (this.#over) return undefined;
    try {
      return action();
    } catch (error) {
      const why = this.#violationOf(error);
      if (!why) throw error;
      this.reject(why.reason, header);
      this.link.finish(`it broke the protocol: ${why.message}`);
      return undefined;
    }
  }

  #violationOf(error: unknown): PduViolation | undefined {
    if (error instanceof PduViolation) return error;
    if (error instanceof LayoutError || error instanceof TextError) {
      return new PduViolation(reason.invalidPduField, error.message);
    }
    return error instanceof FramingError ? new PduViolation(reason.protocolError, error.message) : undefined;
  }

  // --- sending ---

  transferTag(): number {
    const tag = this.#nextTransferTag;
    this.#nextTransferTag = tag === 0xfffffffe ? 1 : tag + 1;
    return tag;
  }

  send(header: Buffer, data?: readonly Buffer[], onSent?: () => void): void {
    if (this.#over) onSent?.();
    else this.link.send(header, data, onSent);
  }

  /** Rejects the PDU with this header; `code` is a reason. */
  reject(code: number, header: Buffer): void {
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
    const kind = header[0]! & 0x3f;
    if (kind === opcode.dataOut) {
      this.tasks.dataOut(pdu);
      return;
    }
    if (kind === opcode.snackRequest) {
      this.reject(reason.snackReject, header); // error recovery level 0 has none; it has no CmdSN (11.16)
      return;
    }
    if ((header[0]! & 0x40) !== 0)
      this.#carryOut(kind, pdu); // immediate
    else this.#order.take(pdu);
  }

  #carryOut(kind: number, pdu: Pdu): void {
    const discovery = this.start.targetName === undefined;
    switch (kind) {
      case opcode.scsiCommand:
        if (discovery) throw new PduViolation(reason.protocolError, "a SCSI command in a discovery session");
        this.tasks.command(pdu);
        return;
      case opcode.taskManagementRequest:
        if (discovery) throw new PduViolation(reason.protocolError, "task management in a discovery session");
        void manageTasks(this, wire.taskManagementRequestPdu.decode(pdu.header)).then((response) => {
          this.#answerManagement(pdu.header.readUInt32BE(16), response);
        });
        return;
      case opcode.nopOut:
        nopOut(this, pdu);
        return;
      case opcode.textRequest:
        textRequest(this, pdu);
        return;
      case opcode.logoutRequest:
        logout(this, pdu);
        return;
      case opcode.loginRequest:
        throw new PduViolation(reason.protocolError, "a login request in full-feature phase");
      default:
        this.reject(reason.commandNotSupported, pdu.header);
    }
  }

  // --- task management ---

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
    return this.#order.forgo(cmdSN, end, (pdu) => this.tasks.rememberAborted(pdu.header.readUInt32BE(16)));
  }

  /** Aborts commands that came before their turn, up to the CmdSN of the function that wants it. */
  abortEarly(end: number, which: (lun: bigint) => boolean): void {
    const concerned = ({ header }: Pdu) =>
      (header[0]! & 0x3f) === opcode.scsiCommand && which(header.readBigUInt64BE(8));
    this.#order.forgoEarly(end, concerned, (pdu) => this.tasks.rememberAborted(pdu.header.readUInt32BE(16)));
  }
}
