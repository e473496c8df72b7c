// Tables over numbered records, as runs in order: what is said of a million records in a row is said once.
//
// Pure. Guarantees: a table is read once, from its beginning, and one run of each is in memory at a time; what comes out
// is in order again. A record is a number: an extent's number in its volume, a volume's number in its replication set.
import { assert } from "../base/assert.ts";
import type { Range } from "../base/ranges.ts";

/** A table that is read run by run. */
class Cursor<T extends Range> {
  readonly #rest: Iterator<T>;
  /** The run that is not past yet; undefined at the end of the table. */
  run: T | undefined;

  constructor(table: Iterable<T>) {
    this.#rest = table[Symbol.iterator]();
    this.#next(0);
  }

  #next(from: number): void {
    const { value, done } = this.#rest.next();
    this.run = done ? undefined : value;
    assert(
      !this.run || (this.run.first >= from && this.run.count > 0),
      `a table is out of order at record ${this.run?.first}`,
    );
  }

  /** The run that record `at` lies in. */
  at(at: number): T | undefined {
    return this.run && this.run.first <= at ? this.run : undefined;
  }

  /** Where what is said at `at` changes: the end of its run, or the beginning of the next. */
  boundary(at: number): number {
    if (!this.run) return Number.POSITIVE_INFINITY;
    return this.run.first > at ? this.run.first : this.run.first + this.run.count;
  }

  passTo(at: number): void {
    if (this.run && this.run.first + this.run.count <= at) this.#next(this.run.first + this.run.count);
  }
}

/** Records of which each table says one thing, or nothing (undefined). */
export interface Segment<A, B> extends Range {
  readonly one: A | undefined;
  readonly others: readonly (B | undefined)[];
}

/** Several tables side by side. What none of them names is left out. */
export function* sideBySide<A extends Range, B extends Range>(
  one: Iterable<A>,
  others: readonly Iterable<B>[],
): Generator<Segment<A, B>> {
  const first = new Cursor(one);
  const rest = others.map((table) => new Cursor(table));
  const all: readonly Cursor<Range>[] = [first, ...rest];
  for (let at = 0; ; ) {
    const end = Math.min(...all.map((cursor) => cursor.boundary(at)));
    if (end === Number.POSITIVE_INFINITY) return;
    const segment = {
      first: at,
      count: end - at,
      one: first.at(at),
      others: rest.map((cursor) => cursor.at(at)),
    };
    if (segment.one || segment.others.some((run) => run !== undefined)) yield segment;
    at = end;
    for (const cursor of all) cursor.passTo(at);
  }
}
