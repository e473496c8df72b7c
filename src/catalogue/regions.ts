// The regions of a catalogue that are not believed on its medium: who writes to them, and what is known of them since.
//
// Guarantees: nothing here is awaited. An extent is known here only if no write of it began or ended since its digest was
// begun. What is forgotten, to keep within `regionsMax`, is unknown as a whole, and nobody writes to it.
import type { Clock } from "../platform/clock.ts";
import type { Page } from "./page.ts";
import { fanOut, regionOf, type TreeShape } from "./shape.ts";

/** More than all writes under way may touch. */
const regionsMax = 8192;
/** The most regions that one write may touch: whoever writes more does it in steps. */
export const regionsOfWriteMax = 256;

export interface Region {
  readonly number: number;
  /** For each extent 0 where it is known, or when it was written to last, in ticks. */
  readonly stamps: Float64Array;
  /** Writes under way. */
  active: number;
  /** Of the last write. */
  tick: number;
  touchedMs: number;
  /** Not to be digested before, unless it is written to. */
  waitUntilMs: number;
  /**
   * Extents that were written to since the region was believed last, or may have been. What they were written back to does
   * not matter: somebody may have seen what they held in between.
   */
  readonly changed: Uint8Array;
  /** Of its extents: what is known of it and not on the medium is there. */
  readonly page: Page;
}

/** A write that has begun. */
export interface Ticket {
  readonly first: number;
  readonly last: number;
}

/** A plain loop: it is asked of all regions again and again, and every() makes a number on the heap of each stamp. */
export function isKnown({ stamps }: Region): boolean {
  for (let i = 0; i < fanOut; i++) if (stamps[i] !== 0) return false;
  return true;
}

export class Regions {
  #shape: TreeShape;
  readonly #clock: Clock;
  /** Those that were made first come first. */
  readonly #regions = new Map<number, Region>();
  #tick = 0;
  /** Something was forgotten since this was set to false. */
  forgotten = false;

  constructor(shape: TreeShape, clock: Clock) {
    this.#shape = shape;
    this.#clock = clock;
  }

  get(number: number): Region | undefined {
    return this.#regions.get(number);
  }

  has(number: number): boolean {
    return this.#regions.has(number);
  }

  /** It is believed on the medium. */
  delete(number: number): void {
    this.#regions.delete(number);
  }

  /** One that is not believed any more. `known`: it was until now, and `page` has what was believed. */
  add(number: number, page: Page, known: boolean): Region {
    const region: Region = {
      number,
      stamps: new Float64Array(fanOut),
      active: 0,
      tick: this.#tick,
      touchedMs: this.#clock.monotonicMs(),
      waitUntilMs: 0,
      changed: new Uint8Array(fanOut).fill(known ? 0 : 1),
      page,
    };
    if (!known) region.stamps.fill(++this.#tick, 0, this.#shape.nodesIn(0, number));
    this.#regions.set(number, region);
    for (const [oldest, { active }] of this.#regions) {
      if (this.#regions.size <= regionsMax) break;
      if (active > 0) continue;
      this.#regions.delete(oldest);
      this.forgotten = true;
    }
    return region;
  }

  /** A write begins, if all of its regions are here. */
  enter({ first, last }: Ticket): boolean {
    for (let number = regionOf(first); number <= regionOf(last); number++) {
      if (!this.#regions.has(number)) return false;
    }
    this.#stamp(first, last, 1);
    return true;
  }

  /** A write that entered has ended. */
  leave({ first, last }: Ticket): void {
    this.#stamp(first, last, -1);
  }

  /** Nothing that was digested here counts any more: what was read may never have come to the volume's medium. */
  doubt(): void {
    for (const region of this.#regions.values()) this.#doubt(region);
  }

  #doubt(region: Region): void {
    region.tick = ++this.#tick;
    region.stamps.fill(region.tick, 0, this.#shape.nodesIn(0, region.number));
    region.changed.fill(1);
  }

  /** The tree has more extents, from within or behind the region that was the last one: nothing is known of that. */
  grow(shape: TreeShape, last: number): void {
    this.#shape = shape;
    const region = this.#regions.get(last);
    if (region) this.#doubt(region);
  }

  /** Something of it can't be digested now. */
  postpone(number: number, forMs: number): void {
    const region = this.#regions.get(number);
    if (region) region.waitUntilMs = this.#clock.monotonicMs() + forMs;
  }

  #stamp(first: number, last: number, writes: number): void {
    const tick = ++this.#tick;
    const now = this.#clock.monotonicMs();
    for (let number = regionOf(first); number <= regionOf(last); number++) {
      const region = this.#regions.get(number);
      if (!region) continue;
      region.tick = tick;
      region.touchedMs = now;
      region.waitUntilMs = 0;
      region.active += writes;
      const base = number * fanOut;
      const [from, to] = [Math.max(0, first - base), Math.min(fanOut, last + 1 - base)];
      region.stamps.fill(tick, from, to);
      region.changed.fill(1, from, to);
    }
  }

  /** Those that nobody writes to: of which everything is known, and others that have been idle for a while. */
  ready(idleMs: number): { whole: number[]; idle: number[] } {
    const now = this.#clock.monotonicMs();
    const whole: number[] = [];
    const idle: number[] = [];
    for (const region of this.#regions.values()) {
      if (region.active > 0 || region.page.anySuspect(fanOut)) continue;
      if (isKnown(region)) whole.push(region.number);
      else if (now - region.touchedMs >= idleMs && now >= region.waitUntilMs) idle.push(region.number);
    }
    return { whole, idle };
  }
}
