// What is pending for single extents of a window, and the runs in which the truth database keeps it.
//
// Pure. Guarantees: an extent of zeros is no record (`undefined`) on its way in, and the identifier of zeros on its way out.
import type { Pending } from "../truth/pending.ts";
import { sameContent } from "../truth/pending.ts";
import type { EntryRun } from "../truth/store.ts";

/** What is pending for one extent; contents are identifiers. */
export interface Entry extends Pending<Buffer> {}

export const sameIdentifier = (a: Buffer, b: Buffer): boolean => a.equals(b);

export function isSameEntry(a: Entry | undefined, b: Entry | undefined): boolean {
  if (a === undefined || b === undefined || a === b) return a === b;
  return (
    a.action === b.action &&
    sameContent(a.previous, b.previous, sameIdentifier) &&
    (a.sent === undefined) === (b.sent === undefined) &&
    sameContent(a.sent?.content, b.sent?.content, sameIdentifier)
  );
}

/** Identifiers of neighbouring extents from `first` on, and which of them stand for a record. */
export class Contents {
  readonly #first: number;
  readonly #width: number;
  readonly #zeros: Buffer;

  /** `zeros`: the identifiers that extents of zeros have, one for each. */
  constructor(first: number, identifierBytes: number, zeros: Buffer) {
    this.#first = first;
    this.#width = identifierBytes;
    this.#zeros = zeros;
  }

  at(identifiers: Buffer, i: number): Buffer {
    return identifiers.subarray(i * this.#width, (i + 1) * this.#width);
  }

  /** Zeros are no record. */
  of(identifiers: Buffer, i: number): Buffer | undefined {
    return this.#content(this.at(identifiers, i), i);
  }

  #content(identifier: Buffer, i: number): Buffer | undefined {
    return identifier.equals(this.at(this.#zeros, i)) ? undefined : identifier;
  }

  #identifier(content: Buffer | undefined, i: number): Buffer {
    return content ?? this.at(this.#zeros, i);
  }

  /** By the extent's place in the window. */
  entries(runs: readonly EntryRun[]): Map<number, Entry> {
    const entries = new Map<number, Entry>();
    for (const { first, count, action, previous, sent } of runs) {
      for (let j = 0; j < count; j++) {
        const i = first + j - this.#first;
        entries.set(i, {
          action,
          previous: this.#content(this.at(previous, j), i),
          ...(sent && { sent: { content: this.#content(this.at(sent, j), i) } }),
        });
      }
    }
    return entries;
  }

  /** Those of `count` extents from place `from` on; neighbours with the same action are one run. */
  runs(entries: ReadonlyMap<number, Entry>, from: number, count: number): EntryRun[] {
    const runs: { first: number; action: Entry["action"]; previous: Buffer[]; sent: Buffer[] | undefined }[] =
      [];
    for (let i = from; i < from + count; i++) {
      const entry = entries.get(i);
      if (!entry) continue;
      const previous = this.#identifier(entry.previous, i);
      const sent = entry.sent && this.#identifier(entry.sent.content, i);
      const last = runs.at(-1);
      const joins =
        last &&
        last.first + last.previous.length === this.#first + i &&
        last.action === entry.action &&
        (last.sent === undefined) === (sent === undefined);
      if (joins) {
        last.previous.push(previous);
        if (sent) last.sent!.push(sent);
      } else {
        runs.push({
          first: this.#first + i,
          action: entry.action,
          previous: [previous],
          sent: sent && [sent],
        });
      }
    }
    return runs.map(({ first, action, previous, sent }) => ({
      first,
      count: previous.length,
      action,
      previous: Buffer.concat(previous),
      sent: sent && Buffer.concat(sent),
    }));
  }
}
