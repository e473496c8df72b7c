// Has digested what was written to a volume, and what is not known of it for other reasons, and has it believed.
//
// Guarantees: beside other work it takes a quarter of the time at most. What can't be read is left for a while, unless it
// is written anew, and keeps nothing else from being digested.
import type { Range } from "../base/ranges.ts";
import type { Clock } from "../platform/clock.ts";
import type { CataloguedVolume } from "./catalogued-volume.ts";
import { fanOut, regionOf } from "./shape.ts";

/** Regions that were not written to for so long are digested. */
const idleMs = 2_000;
const believedAtOnce = 256;
/** Regions that are digested in one go when nobody else asks for them. */
const regionsAtOnce = 16;
/** Of sweeping, before others have their turn. */
const stepMs = 500;
/** Of the time, for sweeping: one part in this many. */
const dutyParts = 4;
const unreadableRetryMs = 600_000;

export class Upkeep {
  readonly #volume: CataloguedVolume;
  readonly #clock: Clock;
  /** Of all that was not believed when it began. */
  #sweep: AsyncGenerator<Range> | undefined;
  #restUntilMs = 0;
  #stopped = false;

  constructor(volume: CataloguedVolume, clock: Clock) {
    this.#volume = volume;
    this.#clock = clock;
  }

  get sweeping(): boolean {
    return this.#sweep !== undefined;
  }

  /** Begins to look through the whole catalogue for what is not believed. */
  sweep(): void {
    this.#sweep = this.#doubtful();
  }

  /** Nothing new is begun. */
  stop(): void {
    this.#stopped = true;
  }

  /** What is to be done now, for about half a second. @throws what reading or flushing gives */
  async step(): Promise<void> {
    const { catalogue } = this.#volume;
    if (!catalogue.isKept) return;
    await this.settle(idleMs);
    // What had to be forgotten is found again by looking through all of it.
    if (catalogue.takeForgotten() && !this.sweeping) this.sweep();
    const begunMs = this.#clock.monotonicMs();
    if (begunMs < this.#restUntilMs) return;
    const goesOn = () => this.sweeping && !this.#stopped && this.#clock.monotonicMs() - begunMs < stepMs;
    while (goesOn()) {
      for (let digested = 0; goesOn() && digested < believedAtOnce; ) digested += await this.#sweepOn();
      await this.settle(idleMs);
    }
    const nowMs = this.#clock.monotonicMs();
    this.#restUntilMs = nowMs + (dutyParts - 1) * (nowMs - begunMs);
  }

  /** Returns how many regions it digested. */
  async #sweepOn(): Promise<number> {
    const { value, done } = await this.#sweep!.next();
    if (done) {
      this.#sweep = undefined;
      return 0;
    }
    await this.#digest(value);
    return value.count;
  }

  /** Regions that are not believed, as many as are digested in one go. */
  async *#doubtful(): AsyncGenerator<Range> {
    let run = { first: 0, count: 0 };
    for await (const region of this.#volume.catalogue.doubtful()) {
      if (region === run.first + run.count && run.count < regionsAtOnce) run.count++;
      else {
        if (run.count > 0) yield run;
        run = { first: region, count: 1 };
      }
    }
    if (run.count > 0) yield run;
  }

  /** Digests what nobody has written to for so long, and believes what is known as a whole. */
  async settle(forMs: number): Promise<void> {
    const { catalogue } = this.#volume;
    for (const region of catalogue.ready(forMs).idle.slice(0, regionsAtOnce))
      await this.#digest({ first: region, count: 1 });
    for (;;) {
      const whole = catalogue.ready(forMs).whole.slice(0, believedAtOnce);
      if (whole.length === 0) return;
      await this.#believe(whole);
      if (this.#stopped || !catalogue.isKept) return;
      // What was written to meanwhile waits for the next time.
      if (catalogue.ready(forMs).whole.some((region) => whole.includes(region))) return;
    }
  }

  /** Believes all that is known as a whole, and has it on the catalogue's medium. */
  async finish(): Promise<void> {
    const { catalogue } = this.#volume;
    const { whole } = catalogue.ready(0);
    for (let at = 0; at < whole.length; at += believedAtOnce)
      await this.#believe(whole.slice(at, at + believedAtOnce));
    await catalogue.flush();
  }

  /** Digests all that is not believed, without resting. */
  async fill(signal: AbortSignal): Promise<void> {
    let digested = 0;
    for await (const { first, count } of this.#doubtful()) {
      signal.throwIfAborted();
      await this.#digest({ first, count });
      digested += count;
      // To believe costs three flushes, however much it is.
      if (digested < believedAtOnce) continue;
      await this.settle(0);
      digested = 0;
    }
    await this.settle(0);
  }

  #believe(regions: readonly number[]): Promise<void> {
    return this.#volume.catalogue.believe(regions, () => this.#volume.flush());
  }

  async #digest(regions: Range): Promise<void> {
    const { catalogue } = this.#volume;
    const end = Math.min((regions.first + regions.count) * fanOut, catalogue.shape.nodes[0]!);
    for (let first = regions.first * fanOut; first < end && !this.#stopped; ) {
      const { extents, unreadable } = await this.#volume.digest(first, end - first);
      first += extents;
      if (!unreadable) continue;
      catalogue.postpone(regionOf(first), unreadableRetryMs);
      first++;
    }
  }
}
