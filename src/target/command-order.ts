// The order of a session's numbered PDUs: each is handed on when its CmdSN is due, none twice.
//
// Guarantees: what comes before its turn waits for it, as far as the window reaches; what is outside the window or came
// before is ignored; a CmdSN that is forgone counts as received, and nothing of it is ever handed on.
//
// Source: RFC 7143, 4.2.2.1, 11.5.1.
import type { Pdu } from "../iscsi/framing.ts";
import { serialBefore } from "../iscsi/serial.ts";
import type { SessionNumbers } from "./sequence.ts";

export class CommandOrder {
  readonly #numbers: SessionNumbers;
  readonly #carryOut: (pdu: Pdu) => void;
  /** What came before its turn, by CmdSN; undefined where nothing is to be carried out when the turn comes. */
  readonly #early = new Map<number, Pdu | undefined>();
  /** What is carried out next: counted in ExpCmdSN already, since that says what has come. */
  readonly #due: Pdu[] = [];

  constructor(numbers: SessionNumbers, carryOut: (pdu: Pdu) => void) {
    this.#numbers = numbers;
    this.#carryOut = carryOut;
  }

  /** Commands that have come and are not under way. */
  get waiting(): number {
    return this.#early.size + this.#due.length;
  }

  clear(): void {
    this.#early.clear();
    this.#due.length = 0;
  }

  /** Takes a PDU that has a CmdSN of its own. */
  take(pdu: Pdu): void {
    const cmdSN = pdu.header.readUInt32BE(24);
    switch (this.#numbers.turnOf(cmdSN)) {
      case "ignored":
        return;
      case "early":
        // Its immediate data may lie in a buffer that is given back. One that came already stays (4.2.2.1).
        if (!this.#early.has(cmdSN)) this.#early.set(cmdSN, { ...pdu, data: Buffer.from(pdu.data) });
        return;
      case "now":
        this.#numbers.advance();
        if (this.#early.size === 0) this.#carryOut(pdu);
        else {
          this.#due.push(pdu);
          this.#takeDue();
        }
    }
  }

  /**
   * Takes `cmdSN` as received, so that its command is never carried out; false if it is not due before `end`, or
   * outside the window. The command, if it has come, is handed to `ended`.
   */
  forgo(cmdSN: number, end: number, ended: (pdu: Pdu) => void): boolean {
    if (this.#numbers.turnOf(cmdSN) === "ignored" || !serialBefore(cmdSN, end)) return false;
    const pdu = this.#early.get(cmdSN);
    if (pdu) ended(pdu);
    this.#early.set(cmdSN, undefined);
    this.#takeDue();
    return true;
  }

  /** Forgoes what waits for its turn before `end` and `which` is true for. */
  forgoEarly(end: number, which: (pdu: Pdu) => boolean, ended: (pdu: Pdu) => void): void {
    for (const [cmdSN, pdu] of this.#early) if (pdu && which(pdu)) this.forgo(cmdSN, end, ended);
  }

  /** Carries out what is due, and what came early and is due after it. */
  #takeDue(): void {
    for (let due = this.#numbers.expCmdSN; this.#early.has(due); due = this.#numbers.expCmdSN) {
      const next = this.#early.get(due);
      this.#early.delete(due);
      this.#numbers.advance();
      if (next) this.#due.push(next);
    }
    for (let next = this.#due.shift(); next; next = this.#due.shift()) this.#carryOut(next);
  }
}
