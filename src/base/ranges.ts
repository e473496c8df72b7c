// Ranges of whole numbers, in order and apart from each other.
//
// Pure. Guarantees: what is returned is in order, and no two of its ranges touch.
export interface Range {
  readonly first: number;
  readonly count: number;
}

/** Adds a range that begins no earlier than the last one does. */
export function append(ranges: Range[], first: number, count: number): void {
  const last = ranges.at(-1);
  if (!last || first > last.first + last.count) ranges.push({ first, count });
  else
    ranges[ranges.length - 1] = {
      first: last.first,
      count: Math.max(last.count, first + count - last.first),
    };
}

/** Everything that is in one of them. */
export function union(some: readonly Range[], others: readonly Range[]): Range[] {
  const all: Range[] = [];
  for (const { first, count } of [...some, ...others].sort((a, b) => a.first - b.first))
    append(all, first, count);
  return all;
}

/** Whether any of them, which are in order, has something from `first` up to `end`. */
export function overlaps(ranges: readonly Range[], first: number, end: number): boolean {
  let [low, high] = [0, ranges.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ranges[middle]!.first + ranges[middle]!.count <= first) low = middle + 1;
    else high = middle;
  }
  return low < ranges.length && ranges[low]!.first < end;
}

/** Everything below `total` that is in none of them. */
export function complement(ranges: readonly Range[], total: number): Range[] {
  const rest: Range[] = [];
  let at = 0;
  for (const { first, count } of [...ranges, { first: total, count: 0 }]) {
    if (first > at) rest.push({ first: at, count: first - at });
    at = first + count;
  }
  return rest;
}
