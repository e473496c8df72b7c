// Functions of SUBMIT that are about a unit as a whole, asked until they are answered.
//
// Guarantees: a function is asked again after a reconnection, which a held result does not outlive: it does nothing twice. What
// the unit answers is checked; anything else is a `protocol_error`.
import { AgentError } from "../base/errors.ts";
import { checkedNumber } from "../base/units.ts";
import { status } from "../scsi/command.ts";
import { isCondition, type Sense } from "../scsi/sense.ts";
import { answerHeader } from "../scsi/vendor-commands.ts";
import type { ScsiDigests } from "./scsi-digests.ts";
import type { UnitCommands } from "./unit-commands.ts";

/** Not done: something else has to be done first. */
export type UnitAnswer = { readonly done: true; readonly data: Buffer } | { readonly done: false };

const refused = (sense: Sense) => isCondition(sense, "commandSequenceError");

export class UnitQuestions {
  readonly #name: string;
  readonly #about: string;
  readonly #digests: ScsiDigests;
  readonly #commands: UnitCommands;

  /** `about`: what the unit is asked about, for messages. */
  constructor(name: string, about: string, digests: ScsiDigests, commands: UnitCommands) {
    this.#name = name;
    this.#about = about;
    this.#digests = digests;
    this.#commands = commands;
  }

  /** SUBMIT and RECEIVE of at most so many bytes; a result that is held is gone after a reconnection. */
  async ask(func: number, data: readonly Buffer[], bytes: number, signal?: AbortSignal): Promise<UnitAnswer> {
    for (;;) {
      const { epoch } = this.#commands;
      try {
        const asked = { function: func };
        const outcome = await this.#digests.submit(asked, data, answerHeader.bytes + bytes, signal, refused);
        if (outcome.status !== status.good) return { done: false };
        return { done: true, data: outcome.dataIn.subarray(answerHeader.bytes) };
      } catch (error) {
        const lost =
          error instanceof AgentError && error.code === "command_failed" && epoch !== this.#commands.epoch;
        if (!lost) throw error;
      }
    }
  }

  violation(what: string): AgentError {
    return new AgentError("protocol_error", `${this.#name} answered wrongly about ${this.#about}: ${what}`);
  }

  decoded<T>(decode: () => T): T {
    try {
      return decode();
    } catch (error) {
      throw this.violation((error as Error).message);
    }
  }

  number(value: bigint): number {
    const number = checkedNumber(value);
    if (number === undefined) throw this.violation(`${value}`);
    return number;
  }
}
