// Commands to a logical unit until it carries them out: what passes by itself is waited out.
//
// Guarantees: a busy unit is asked again `busyRetriesMax` times, at growing intervals; a unit attention repeats the
// command, `attentionRetriesMax` times. A unit that says that its capacity changed is a `size_mismatch`. Every reset
// and reconnection that is noticed changes `epoch`. Once the unit was lost to somebody else (loseAt), no command is sent, and
// none that is under way is waited for.
//
// Source: SAM-5, 5.3.1 (status), 5.14 (unit attention); SPC-4, 4.5 (sense data).
import { AgentError } from "../base/errors.ts";
import type { Clock } from "../platform/clock.ts";
import { type ScsiCommand, type ScsiDevice, type ScsiOutcome, status } from "../scsi/command.ts";
import { isCondition, type Sense } from "../scsi/sense.ts";
import { failureOf } from "./scsi-failure.ts";

const busyRetriesMax = 20;
const attentionRetriesMax = 8;

export class UnitCommands {
  readonly #device: ScsiDevice;
  readonly #clock: Clock;
  #epoch = 0;
  /** Makes of a RESERVATION CONFLICT what it means; by commands of which one may pass, or it would ask itself for ever. */
  whenRefused: ((error: AgentError) => Promise<AgentError>) | undefined;
  #loses: { readonly at: (sense: Sense) => boolean; readonly why: () => AgentError } | undefined;
  readonly #lost = new AbortController();
  /** The caller's signals, each with that of the loss. */
  readonly #signals = new WeakMap<AbortSignal, AbortSignal>();

  constructor(device: ScsiDevice, clock: Clock) {
    this.#device = device;
    this.#clock = clock;
  }

  /** Counts resets and reconnections; writes acknowledged before the last one are no longer certain. */
  get epoch(): number {
    return this.#epoch;
  }

  /** The connection is another one. */
  reconnected(): void {
    this.#epoch++;
  }

  /** The unit is held from here on, and lost at such a unit attention or a RESERVATION CONFLICT; without `at` it is not. */
  loseAt(at: undefined): void;
  loseAt(at: (sense: Sense) => boolean, why: () => AgentError): void;
  loseAt(at: ((sense: Sense) => boolean) | undefined, why?: () => AgentError): void {
    this.#loses = at && why && { at, why };
  }

  /** Nothing is sent any more, and what was sent is not waited for: the unit may not answer what it aborted. */
  #lose(): unknown {
    if (this.#loses) this.#lost.abort(this.#loses.why());
    return this.#lost.signal.reason;
  }

  #whileHeld(signal: AbortSignal | undefined): AbortSignal | undefined {
    if (!this.#loses) return signal;
    if (!signal) return this.#lost.signal;
    const both = this.#signals.get(signal) ?? AbortSignal.any([signal, this.#lost.signal]);
    this.#signals.set(signal, both);
    return both;
  }

  /**
   * One command that must end well, or with what is `expected`; or with a RESERVATION CONFLICT, if that may pass.
   * @throws AgentError as failureOf() has it; `size_mismatch`
   */
  async execute(
    command: ScsiCommand,
    given?: AbortSignal,
    expected?: (sense: Sense) => boolean,
    conflictPasses = false,
  ): Promise<ScsiOutcome> {
    const signal = this.#whileHeld(given);
    let busy = 0;
    let attentions = 0;
    for (;;) {
      signal?.throwIfAborted();
      const outcome = await this.#device.execute(command, signal);
      switch (outcome.status) {
        case status.good:
        case status.conditionMet:
          return outcome;
        case status.busy:
        case status.taskSetFull:
          if (busy++ === busyRetriesMax) throw failureOf(this.#device.name, command, outcome);
          await this.#clock.sleep(Math.min(20 * 2 ** busy, 1000), signal);
          continue;
        case status.checkCondition:
          if (outcome.sense?.key === 0x6 && attentions++ < attentionRetriesMax) {
            this.#attention(outcome.sense);
            continue;
          }
          if (outcome.sense && expected?.(outcome.sense)) return outcome;
          throw failureOf(this.#device.name, command, outcome);
        case status.reservationConflict: {
          if (conflictPasses) return outcome;
          if (this.#loses) throw this.#lose();
          const failure = failureOf(this.#device.name, command, outcome);
          throw (await this.whenRefused?.(failure)) ?? failure;
        }
        default:
          throw failureOf(this.#device.name, command, outcome);
      }
    }
  }

  /** One command as it ends, whatever that is. */
  async once(command: ScsiCommand, signal?: AbortSignal): Promise<ScsiOutcome> {
    const outcome = await this.#device.execute(command, signal);
    if (outcome.sense?.key === 0x6) this.#noticeReset(outcome.sense);
    return outcome;
  }

  /** After a power on or a reset its volatile cache may be gone. */
  #noticeReset(sense: Sense): void {
    if (sense.asc === 0x29) this.#epoch++;
  }

  #attention(sense: Sense): void {
    this.#noticeReset(sense);
    if (this.#loses?.at(sense)) throw this.#lose();
    if (isCondition(sense, "capacityChanged")) {
      throw new AgentError("size_mismatch", `${this.#device.name} changed its size while it was used`);
    }
  }
}
