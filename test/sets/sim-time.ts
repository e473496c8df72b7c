// Simulated time: one queue of what is going to happen, in which the clock jumps from one thing to the next; and the
// processes to which that happens.
//
// Guarantees: one thing at a time; the next one happens when nothing can go on without it. So a seed replays a schedule
// exactly. Nothing here reads the system's clock.
import { AgentError } from "../../src/base/errors.ts";
import type { Clock, Timer } from "../../src/platform/clock.ts";
import { below } from "../support/data.ts";

export type Random = () => number;

interface Happening {
  atMs: number;
  readonly life: Life | undefined;
  readonly fn: () => void;
}

const epochMs = 1_700_000_000_000;

export class SimTime {
  readonly random: Random;
  nowMs = 0;
  /** What has happened so far. */
  steps = 0;
  /** For whoever looks into a finding: what happens, as it happens. */
  tell: (what: () => string) => void = () => {};
  #queue: Happening[] = [];
  #outside = 0;

  constructor(random: Random) {
    this.random = random;
  }

  /** `life`: whose it is; it does not happen to the dead, and to who is stopped it happens later. */
  after(ms: number, life: Life | undefined, fn: () => void): Timer {
    const happening = { atMs: this.nowMs + ms, life, fn };
    this.#insert(happening);
    return {
      cancel: () => {
        this.#queue = this.#queue.filter((each) => each !== happening);
      },
    };
  }

  #insert(happening: Happening): void {
    let at = this.#queue.length;
    while (at > 0 && this.#queue[at - 1]!.atMs > happening.atMs) at--;
    this.#queue.splice(at, 0, happening);
  }

  forget(life: Life): void {
    this.#queue = this.#queue.filter((each) => each.life !== life);
  }

  /** Something real is under way that time has to wait for; returns the call that ends it. */
  outside(): () => void {
    this.#outside++;
    let held = true;
    return () => {
      if (held) this.#outside--;
      held = false;
    };
  }

  /** A wait as the world has them: mostly short, sometimes very long. */
  delayMs(): number {
    const dice = this.random();
    if (dice < 0.9) return dice * 2;
    return dice < 0.995 ? 20 * this.random() : 3000 * this.random();
  }

  /** Lets the next thing happen, and everything that follows from it at once; false if there is none. */
  async step(untilMs = Number.POSITIVE_INFINITY): Promise<boolean> {
    await this.#calm();
    for (;;) {
      const next = this.#queue[0];
      if (!next || next.atMs > untilMs) return false;
      this.#queue.shift();
      this.nowMs = Math.max(this.nowMs, next.atMs);
      const stoppedMs = next.life?.stoppedUntilMs ?? 0;
      if (stoppedMs > this.nowMs) {
        // Whoever goes on after a stop finds everything due at once, in any order.
        this.#insert({ ...next, atMs: stoppedMs + this.random() });
        continue;
      }
      this.steps++;
      next.fn();
      await this.#calm();
      return true;
    }
  }

  /** Until nothing can go on by itself. */
  async #calm(): Promise<void> {
    do await new Promise((resolve) => setImmediate(resolve));
    while (this.#outside > 0);
  }
}

/** A process, until it dies. */
export class Life {
  readonly time: SimTime;
  readonly name: string;
  readonly clock: Clock;
  dead = false;
  /** It is stopped, and goes on then. */
  stoppedUntilMs = 0;
  readonly #death = Promise.withResolvers<never>();
  readonly #atDeath: (() => void)[] = [];

  constructor(time: SimTime, name: string) {
    this.time = time;
    this.name = name;
    this.#death.promise.catch(() => {});
    this.clock = {
      nowMs: () => Math.floor(epochMs + time.nowMs),
      monotonicMs: () => time.nowMs,
      after: (ms, fn) => time.after(ms, this, fn),
      sleep: (ms, signal) =>
        new Promise((resolve, reject) => {
          signal?.throwIfAborted();
          const timer = time.after(ms, this, resolve);
          signal?.addEventListener("abort", () => {
            timer.cancel();
            reject(signal.reason);
          });
        }),
    };
  }

  /** For the dead it takes for ever. */
  wait(ms: number): Promise<void> {
    return new Promise((resolve) => {
      if (!this.dead) this.time.after(ms, this, resolve);
    });
  }

  pause(): Promise<void> {
    return this.wait(this.time.delayMs());
  }

  stop(forMs: number): void {
    this.stoppedUntilMs = this.time.nowMs + forMs;
  }

  /** As somebody else sees it, who learns of the death. @throws AgentError `connection_lost` */
  seen<T>(work: Promise<T>): Promise<T> {
    return Promise.race([work, this.#death.promise]);
  }

  atDeath(fn: () => void): void {
    this.#atDeath.push(fn);
  }

  die(): void {
    if (this.dead) return;
    this.dead = true;
    this.time.forget(this);
    this.#death.reject(new AgentError("connection_lost", `${this.name} is dead`));
    for (const fn of this.#atDeath) fn();
  }
}

/** Whether something of this share of all cases is the case. */
export const chance = (random: Random, share: number): boolean => random() < share;
export { below };
