// The sequence numbers of a session: which command is due, how many more may come, which StatSN is next.
//
// Guarantees: MaxCmdSN never goes back, and leaves room for `window` commands that are outstanding.
//
// Source: RFC 7143, 4.2.2.
import { serialAdd, serialBefore } from "../iscsi/serial.ts";
import type { Numbers } from "./responses.ts";

export class SessionNumbers implements Numbers {
  readonly #window: number;
  readonly #outstanding: () => number;
  #expCmdSN: number;
  #maxCmdSN: number;
  /** The next StatSN; set once when the login ends. */
  statSN = 0;

  constructor(cmdSN: number, window: number, outstanding: () => number) {
    this.#window = window;
    this.#outstanding = outstanding;
    this.#expCmdSN = cmdSN;
    this.#maxCmdSN = serialAdd(cmdSN, window - 1);
  }

  nextStatSN(): number {
    const { statSN } = this;
    this.statSN = serialAdd(statSN, 1);
    return statSN;
  }

  get expCmdSN(): number {
    return this.#expCmdSN;
  }

  get maxCmdSN(): number {
    const free = Math.max(0, this.#window - this.#outstanding());
    const next = serialAdd(this.#expCmdSN, free - 1);
    if (serialBefore(this.#maxCmdSN, next)) this.#maxCmdSN = next;
    return this.#maxCmdSN;
  }

  /** Whether a command's turn has come; what is outside the window, or was seen before, is ignored (4.2.2.1). */
  turnOf(cmdSN: number): "now" | "early" | "ignored" {
    if (serialBefore(cmdSN, this.#expCmdSN) || serialBefore(this.maxCmdSN, cmdSN)) return "ignored";
    return cmdSN === this.#expCmdSN ? "now" : "early";
  }

  /** The command that is due was taken. */
  advance(): void {
    this.#expCmdSN = serialAdd(this.#expCmdSN, 1);
  }
}
