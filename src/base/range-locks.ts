// Which blocks of a unit may be written now: writes share, an exclusive action (COMPARE AND WRITE, ORWRITE) is alone.
//
// Guarantees: an exclusive action on a range runs while no write of an overlapping range is under way, and no write or
// read of one begins before it has ended; requests that conflict take their turns in the order in which they came, so
// that nobody waits for ever. While nothing is exclusive, entering costs an entry in a set and nothing else.
export type Access = "read" | "write" | "exclusive";

interface Entry {
  readonly start: number;
  readonly end: number;
  readonly access: Access;
}

interface Waiting extends Entry {
  grant(): void;
}

export type Leave = () => void;

const nothingToLeave: Leave = () => {};

function conflict(one: Entry, other: Entry): boolean {
  if (one.access !== "exclusive" && other.access !== "exclusive") return false;
  return one.start < other.end && other.start < one.end;
}

export class RangeLocks {
  readonly #held = new Set<Entry>();
  #waiting: Waiting[] = [];
  /** Exclusive actions that run or wait. */
  #exclusive = 0;

  /** Nothing is exclusive, so that nobody would have to wait. */
  get open(): boolean {
    return this.#exclusive === 0;
  }

  /** The call that leaves the range; a promise of it where others are before. */
  enter(start: number, blocks: number, access: Access): Leave | Promise<Leave> {
    if (access === "read" && this.#exclusive === 0) return nothingToLeave;
    const entry: Entry = { start, end: start + blocks, access };
    if (access === "exclusive") this.#exclusive++;
    if (this.#exclusive === 0 || this.#isFree(entry, this.#waiting.length)) return this.#hold(entry);
    return new Promise((resolve) => {
      this.#waiting.push({ ...entry, grant: () => resolve(this.#hold(entry)) });
    });
  }

  #hold(entry: Entry): Leave {
    this.#held.add(entry);
    return () => {
      if (!this.#held.delete(entry)) return;
      if (entry.access === "exclusive") this.#exclusive--;
      if (this.#waiting.length > 0) this.#admit();
    };
  }

  /** True if neither a holder nor one of the first `before` that wait is in the way. */
  #isFree(entry: Entry, before: number): boolean {
    for (const held of this.#held) if (conflict(entry, held)) return false;
    for (let i = 0; i < before; i++) if (conflict(entry, this.#waiting[i]!)) return false;
    return true;
  }

  #admit(): void {
    for (let i = 0; i < this.#waiting.length; ) {
      const next = this.#waiting[i]!;
      if (this.#isFree(next, i)) {
        this.#waiting.splice(i, 1);
        next.grant();
      } else i++;
    }
  }
}
