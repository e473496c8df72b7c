// Log lines about strangers, so few that a flood of them fills no disk.
//
// Guarantees: at most `linesMax` lines in each period; how many were left out is said once the period is over.
import type { Clock } from "../platform/clock.ts";

type Log = (level: "info" | "warning" | "error", message: string) => void;

const periodMs = 10_000;
const linesMax = 20;

export class RefusalLog {
  readonly #clock: Clock;
  readonly #log: Log;
  #lines = 0;
  #leftOut = 0;
  #running = false;

  constructor(clock: Clock, log: Log) {
    this.#clock = clock;
    this.#log = log;
  }

  add(level: "info" | "warning", message: string): void {
    if (!this.#running) {
      this.#running = true;
      this.#clock.after(periodMs, () => this.#period());
    }
    if (this.#lines++ < linesMax) this.#log(level, message);
    else this.#leftOut++;
  }

  #period(): void {
    if (this.#leftOut > 0)
      this.#log("warning", `${this.#leftOut} more refused connections in the last seconds`);
    this.#running = false;
    this.#lines = this.#leftOut = 0;
  }
}
