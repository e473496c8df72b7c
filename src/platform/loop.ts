// Something that is done again and again.
//
// Guarantees: one turn at a time, with a pause before each; after turns that fail the pauses grow, up to a minute; after
// disposal nothing is under way.
import type { Clock, Timer } from "./clock.ts";

const pauseMaxMs = 60_000;

export class Loop implements AsyncDisposable {
  readonly #clock: Clock;
  readonly #pauseMs: number;
  readonly #action: () => Promise<void>;
  readonly #failed: (error: unknown) => void;
  #timer: Timer | undefined;
  #turn: Promise<void> = Promise.resolve();
  #failures = 0;
  #over = false;

  /** `failed` is told of turns that failed; not of one that disposal interrupts. */
  constructor(clock: Clock, pauseMs: number, action: () => Promise<void>, failed: (error: unknown) => void) {
    this.#clock = clock;
    this.#pauseMs = pauseMs;
    this.#action = action;
    this.#failed = failed;
    this.#next();
  }

  #next(): void {
    if (this.#over) return;
    const pauseMs = Math.min(this.#pauseMs * 2 ** this.#failures, Math.max(pauseMaxMs, this.#pauseMs));
    this.#timer = this.#clock.after(pauseMs, () => {
      this.#turn = this.#go();
    });
  }

  async #go(): Promise<void> {
    try {
      await this.#action();
      this.#failures = 0;
    } catch (error) {
      this.#failures++;
      if (!this.#over) this.#failed(error);
    }
    this.#next();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#over = true;
    this.#timer?.cancel();
    await this.#turn;
  }
}
