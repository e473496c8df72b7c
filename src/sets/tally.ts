// Extents that a run has to tell about: how many there are, the first of them, and where they lie.
//
// Guarantees: memory is bounded, whatever is told: `namedMax` ranges by name, and a map of `cellsOfMap` cells.
import { append, type Range } from "../base/ranges.ts";

const namedMax = 1000;
export const cellsOfMap = 64;

/** How many extents, and the first of them as ranges in order. */
export class Extents {
  count = 0;
  readonly ranges: Range[] = [];

  /** In order. */
  add(extent: number): void {
    this.count++;
    const last = this.ranges.at(-1);
    const joins = last !== undefined && last.first + last.count === extent;
    if (joins || this.ranges.length < namedMax) append(this.ranges, extent, 1);
  }
}

/** By member. */
export class ExtentsByMember {
  readonly #members = new Map<number, Extents>();

  add(member: number, extent: number): void {
    const extents = this.#members.get(member) ?? new Extents();
    extents.add(extent);
    this.#members.set(member, extents);
  }

  /** Undefined: none. */
  of(member: number): Extents | undefined {
    return this.#members.get(member);
  }
}

/** Who has changed an extent: one of two sides, both to the same, or both. */
export type Changed = "first" | "second" | "alike" | "both";

/** What two sides have changed, and where. */
export class ChangeMap {
  readonly #total: number;
  readonly #extents: Readonly<Record<Changed, Extents>> = {
    first: new Extents(),
    second: new Extents(),
    alike: new Extents(),
    both: new Extents(),
  };
  readonly #cells: Set<Changed>[] = Array.from({ length: cellsOfMap }, () => new Set());

  /** `total`: extents of the volume. */
  constructor(total: number) {
    this.#total = total;
  }

  add(who: Changed, extent: number): void {
    this.#extents[who].add(extent);
    this.#cells[Math.floor((extent * cellsOfMap) / this.#total)]!.add(who);
  }

  of(who: Changed): Extents {
    return this.#extents[who];
  }

  /** A line of cells, from the volume's beginning to its end: what of it has changed where. */
  text(letters: Readonly<Record<"first" | "second" | "both", string>>): string {
    return this.#cells
      .map((cell) => {
        if (cell.has("both") || (cell.has("first") && cell.has("second"))) return letters.both;
        if (cell.has("first")) return letters.first;
        if (cell.has("second")) return letters.second;
        return cell.size > 0 ? "=" : ".";
      })
      .join("");
  }
}
