// Something that is done again and again.
//
// Guarantees: one turn at a time, with a pause before each that wake() ends; after turns that fail the pauses grow, up to a
// minute, and nobody ends them; after disposal nothing is under way.
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
  /** During a turn: the next one comes without a pause. */
  #wanted = false;

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
    const long = Math.min(this.#pauseMs * 2 ** this.#failures, Math.max(pauseMaxMs, this.#pauseMs));
    this.#timer = this.#clock.after(this.#wanted && this.#failures === 0 ? 0 : long, () => {
      this.#timer = undefined;
      this.#turn = this.#go();
    });
  }

  /** The next turn comes now, or right after the one that is under way. */
  wake(): void {
    if (this.#wanted) return;
    this.#wanted = true;
    if (!this.#timer || this.#failures > 0) return;
    this.#timer.cancel();
    this.#next();
  }

  async #go(): Promise<void> {
    this.#wanted = false;
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
