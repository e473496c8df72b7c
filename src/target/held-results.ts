// Results of SUBMIT that wait for their RECEIVE.
//
// Bounded in number, size and age, for each I_T nexus on its own: nobody can fill another's room. A RECEIVE that comes
// before its SUBMIT waits for it, at most as long as a result would be held, and not after it is aborted.
import { type Deferred, deferred } from "../base/async.ts";
import type { Clock, Timer } from "../platform/clock.ts";

export interface HeldLimits {
  readonly results: number;
  readonly bytes: number;
  readonly lifetimeMs: number;
}

interface Held {
  readonly result: Promise<Buffer>;
  readonly bytes: number;
  readonly timer: Timer;
}

export class HeldResults {
  readonly #limits: HeldLimits;
  readonly #clock: Clock;
  readonly #held = new Map<number, Held>();
  readonly #waiting = new Map<number, Deferred<Promise<Buffer> | undefined>>();
  #bytes = 0;

  constructor(limits: HeldLimits, clock: Clock) {
    this.#limits = limits;
    this.#clock = clock;
  }

  /** Whether a result of `bytes` may be begun under that identifier. */
  admit(listIdentifier: number, bytes: number): "admitted" | "in use" | "full" {
    if (this.#held.has(listIdentifier)) return "in use";
    if (this.#held.size >= this.#limits.results || this.#bytes + bytes > this.#limits.bytes) return "full";
    return "admitted";
  }

  /** Holds a result under way. Its rejection is given to the RECEIVE. */
  hold(listIdentifier: number, bytes: number, result: Promise<Buffer>): void {
    result.catch(() => {}); // it is awaited by RECEIVE, or expires
    const waiting = this.#waiting.get(listIdentifier);
    if (waiting) {
      this.#waiting.delete(listIdentifier);
      waiting.resolve(result);
      return;
    }
    const timer = this.#clock.after(this.#limits.lifetimeMs, () => this.#drop(listIdentifier));
    this.#held.set(listIdentifier, { result, bytes, timer });
    this.#bytes += bytes;
  }

  /** Tells a RECEIVE that already waits that its SUBMIT failed. */
  fail(listIdentifier: number): void {
    this.#waiting.get(listIdentifier)?.resolve(undefined);
    this.#waiting.delete(listIdentifier);
  }

  /**
   * The result, which is then no longer held; undefined if there is none under that identifier, nothing came, or
   * `signal` ended the waiting.
   */
  async take(listIdentifier: number, signal: AbortSignal): Promise<Buffer | undefined> {
    const held = this.#held.get(listIdentifier);
    if (held) {
      this.#drop(listIdentifier);
      return held.result;
    }
    if (this.#waiting.size >= this.#limits.results || this.#waiting.has(listIdentifier)) return undefined;
    const waiting = deferred<Promise<Buffer> | undefined>();
    this.#waiting.set(listIdentifier, waiting);
    const giveUp = () => this.fail(listIdentifier);
    const timer = this.#clock.after(this.#limits.lifetimeMs, giveUp);
    signal.addEventListener("abort", giveUp, { once: true });
    if (signal.aborted) giveUp();
    try {
      return await waiting.promise;
    } finally {
      timer.cancel();
      signal.removeEventListener("abort", giveUp);
    }
  }

  clear(): void {
    for (const listIdentifier of [...this.#held.keys()]) this.#drop(listIdentifier);
    for (const listIdentifier of [...this.#waiting.keys()]) this.fail(listIdentifier);
  }

  #drop(listIdentifier: number): void {
    const held = this.#held.get(listIdentifier);
    if (!held) return;
    this.#held.delete(listIdentifier);
    this.#bytes -= held.bytes;
    held.timer.cancel();
  }
}
