// The reservations of a logical unit in force: persistent ones, and the one of RESERVE.
//
// Guarantees: changes come one after another; one with APTPL is on the medium before it is in force and answered.
import { Semaphore } from "../base/async.ts";
import type { ReservationStore } from "./reservation-store.ts";
import {
  type Change,
  conflicts,
  noReservations,
  type Outcome,
  type PersistentState,
  type ReservationClass,
} from "./reservations.ts";

export class UnitReservations {
  readonly store: ReservationStore | undefined;
  #state: PersistentState;
  /** Who holds the unit by RESERVE. */
  #reservedBy: string | undefined;
  readonly #turn = new Semaphore(1);

  /** `state` as the store has it. Without a store there is no APTPL. */
  constructor(store?: ReservationStore, state: PersistentState = noReservations) {
    this.store = store;
    this.#state = state;
  }

  get state(): PersistentState {
    return this.#state;
  }

  /** True while a command may conflict: the quick question of every command. */
  get any(): boolean {
    return this.#state.reservation !== undefined || this.#reservedBy !== undefined;
  }

  get reservedBy(): string | undefined {
    return this.#reservedBy;
  }

  conflicts(port: string, access: ReservationClass): boolean {
    return conflicts(this.#state, port, access);
  }

  /** Takes an action; the outcome's state is in force when it is a change. @throws AgentError `io_error` */
  async act(action: (state: PersistentState) => Outcome): Promise<Outcome> {
    const leave = await this.#turn.acquire();
    try {
      const outcome = action(this.#state);
      if ("refused" in outcome) return outcome;
      await this.#keep(outcome);
      this.#state = outcome.state;
      return outcome;
    } finally {
      leave();
    }
  }

  async #keep({ state }: Change): Promise<void> {
    if (!this.store || state === this.#state) return;
    if (state.aptpl) await this.store.save(state);
    else if (this.#state.aptpl) await this.store.forget();
  }

  // --- RESERVE and RELEASE (SPC-2) ---

  /** False if somebody else holds the unit, or initiators have registered (CRH is 0). */
  reserve(port: string): boolean {
    if (this.#state.registrations.size > 0) return false;
    if (this.#reservedBy !== undefined && this.#reservedBy !== port) return false;
    this.#reservedBy = port;
    return true;
  }

  release(port: string): void {
    if (this.#reservedBy === port) this.#reservedBy = undefined;
  }

  /** A reset ends what RESERVE did; persistent reservations stay. */
  reset(): void {
    this.#reservedBy = undefined;
  }
}
