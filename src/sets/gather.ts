// Gathering and deciding: every sync point that can be reached proves what it holds, and the rules say what becomes of
// the truth and of what is pending (docs/truth.md).
//
// Guarantees: nothing is written anywhere, neither to a volume nor to the database: what was decided is in the spool. An
// extent of the source that can't be read changes nothing. Memory is bounded by one window for each sync point.
import { together } from "../base/async.ts";
import { AgentError } from "../base/errors.ts";
import type { Random } from "../platform/random.ts";
import { decide, type Report, reportOf, reportOffline, type SyncPoint } from "../truth/decide.ts";
import { type Proof, proveExtents } from "../truth/extent-state.ts";
import { entryToKeep, entryToSend, type Pending, sameContent } from "../truth/pending.ts";
import { recover } from "../truth/recovery.ts";
import {
  type EntryRun,
  extentsOfPage,
  type Member,
  type TruthPage,
  type TruthStore,
} from "../truth/store.ts";
import { volumeIdentifiers } from "../volume/read-digests.ts";
import type { Volume } from "../volume/volume.ts";
import { leave, type Point } from "./points.ts";
import type { Spool } from "./spool.ts";
import { ask, encoded, extentsIn, provedBy, type Shape, unnamed, valueBytes, Zeros } from "./values.ts";

/** What is written down of one page. */
export interface PageNews {
  readonly page: number;
  readonly truth: TruthPage | undefined;
  /** Of members whose entries are not what they were. */
  readonly entries: readonly { readonly member: number; readonly runs: readonly EntryRun[] }[];
}

export interface Gathered {
  /** Extents whose truth is another one now. */
  changed: number;
  /** Extents of the source that can't be read. */
  unreadable: number;
  /** By member: extents that somebody else wrote to; the first of them. */
  readonly strayed: Map<number, { count: number; first: number[] }>;
}

const pagesOfWindow = 16;
const strayedNamedMax = 1000;

export interface GatherOptions {
  readonly set: string;
  readonly store: TruthStore;
  readonly shape: Shape;
  readonly source: Point & { readonly volume: Volume };
  /** In the order of their priorities. */
  readonly replicas: readonly Point[];
  readonly random: Random;
  readonly signal: AbortSignal;
  readonly reached: (extents: number) => void;
}

/** What a replica proved of each extent, and whether it holds there what the source does. */
interface Proved {
  readonly proofs: readonly Proof[];
  readonly asSource: (i: number) => boolean;
  /** It holds the truth everywhere. */
  readonly allEqual: boolean;
}

/** An entry of one extent. */
interface Entry extends Pending<Buffer> {}

const sameIdentifier = (a: Buffer, b: Buffer): boolean => a.equals(b);

function isSameEntry(a: Entry | undefined, b: Entry | undefined): boolean {
  if (a === undefined || b === undefined || a === b) return a === b;
  return (
    a.action === b.action &&
    sameContent(a.previous, b.previous, sameIdentifier) &&
    (a.sent === undefined) === (b.sent === undefined) &&
    sameContent(a.sent?.content, b.sent?.content, sameIdentifier)
  );
}

export async function gather(options: GatherOptions, spool: Spool<PageNews>): Promise<Gathered> {
  const gathered: Gathered = { changed: 0, unreadable: 0, strayed: new Map() };
  const total = extentsIn(options.shape);
  const pages = Math.ceil(total / extentsOfPage);
  for (let page = 0; page < pages; page += pagesOfWindow) {
    options.signal.throwIfAborted();
    const first = page * extentsOfPage;
    const count = Math.min(pagesOfWindow * extentsOfPage, total - first);
    await new Window(options, gathered, first, count).go(spool);
    options.reached(first + count);
  }
  return gathered;
}

class Window {
  readonly #options: GatherOptions;
  readonly #gathered: Gathered;
  readonly #first: number;
  readonly #count: number;
  readonly #zeros: Buffer;
  #truth!: Buffer;
  #origins!: Uint16Array;
  #held!: Buffer;

  constructor(options: GatherOptions, gathered: Gathered, first: number, count: number) {
    this.#options = options;
    this.#gathered = gathered;
    this.#first = first;
    this.#count = count;
    this.#zeros = new Zeros(options.shape).of(first, count);
  }

  async go(spool: Spool<PageNews>): Promise<void> {
    const { store, set, replicas } = this.#options;
    const firstPage = this.#first / extentsOfPage;
    const pages = Math.ceil(this.#count / extentsOfPage);
    this.#truth = Buffer.from(this.#zeros);
    this.#origins = new Uint16Array(this.#count);
    for (const page of await store.truth(set, firstPage, pages)) {
      const at = page.number * extentsOfPage - this.#first;
      page.identifiers.copy(this.#truth, at * this.#width);
      this.#origins.set(page.origins, at);
    }
    const tables = await Promise.all(
      replicas.map(({ member }) => store.entries(set, member.id, firstPage, pages)),
    );
    // Before the replicas: what they hold is compared with it, too.
    this.#held = await this.#heldBySource();
    const old = tables.map((runs) => this.#perExtent(runs));
    const proved = await together(replicas.map((point, i) => this.#prove(point, tables[i]!)));
    await this.#decide(old, proved, spool);
  }

  get #width(): number {
    return this.#options.shape.digest.identifierBytes;
  }

  #at(identifiers: Buffer, i: number): Buffer {
    return identifiers.subarray(i * this.#width, (i + 1) * this.#width);
  }

  /** Zeros are no record. */
  #content(identifier: Buffer, i: number): Buffer | undefined {
    return identifier.equals(this.#at(this.#zeros, i)) ? undefined : identifier;
  }

  #identifier(content: Buffer | undefined, i: number): Buffer {
    return content ?? this.#at(this.#zeros, i);
  }

  /** Identifiers of the source; where it can't be read, the truth's. */
  async #heldBySource(): Promise<Buffer> {
    const { source, shape, signal } = this.#options;
    const { extentBlocks, digest } = shape;
    const held = Buffer.from(this.#truth);
    this.#gathered.unreadable += await ask(source.volume, this.#first, this.#count, held, (at, extents) =>
      volumeIdentifiers(
        source.volume,
        { lba: at * extentBlocks, extentBlocks, extents, digest, fresh: false },
        signal,
      ),
    );
    return held;
  }

  #perExtent(runs: readonly EntryRun[]): Map<number, Entry> {
    const entries = new Map<number, Entry>();
    for (const { first, count, action, previous, sent } of runs) {
      for (let j = 0; j < count; j++) {
        const i = first + j - this.#first;
        entries.set(i, {
          action,
          previous: this.#content(this.#at(previous, j), i),
          ...(sent && { sent: { content: this.#content(this.#at(sent, j), i) } }),
        });
      }
    }
    return entries;
  }

  /** What a replica proves of each extent; undefined if it is offline. Who stops answering is offline from there on. */
  async #prove(point: Point, table: readonly EntryRun[]): Promise<Proved | undefined> {
    const { shape, random, signal } = this.#options;
    if (!point.volume) return undefined;
    const how = { fresh: false, random, signal };
    const answer = await provedBy(point.volume, shape, this.#first, this.#count, how).catch(
      (error: unknown) => {
        signal.throwIfAborted();
        if (!(error instanceof AgentError)) throw error;
        return error;
      },
    );
    if (answer instanceof AgentError) {
      await leave(point, answer.message);
      return undefined;
    }
    const { values: proved, initialValue } = answer;
    const encode = (first: number, identifiers: Buffer) => encoded(shape, first, identifiers, initialValue);
    const truth = encode(this.#first, this.#truth);
    const zeros = encode(this.#first, this.#zeros);
    const values = (buffer: Buffer, first: number, count: number) =>
      buffer.subarray((first - this.#first) * valueBytes, (first - this.#first + count) * valueBytes);
    const proofs = new Array<Proof>(this.#count);
    const take = (first: number, count: number, entry: EntryRun | undefined) => {
      if (count === 0) return;
      const part = {
        first,
        count,
        valueBytes,
        pending: entry?.action,
        truth: values(truth, first, count),
        proved: values(proved, first, count),
        zeros: values(zeros, first, count),
        ...(entry && { previous: encode(first, entry.previous) }),
        ...(entry?.sent && { sent: encode(first, entry.sent) }),
      };
      for (const { first: from, count: extents, ...proof } of proveExtents(part))
        for (let j = 0; j < extents; j++) proofs[from - this.#first + j] = proof;
    };
    let at = this.#first;
    for (const entry of table) {
      take(at, entry.first - at, undefined);
      take(entry.first, entry.count, entry);
      at = entry.first + entry.count;
    }
    take(at, this.#first + this.#count - at, undefined);
    const held = encode(this.#first, this.#held);
    const asSource = (i: number) =>
      proved.compare(held, i * valueBytes, (i + 1) * valueBytes, i * valueBytes, (i + 1) * valueBytes) === 0;
    return { proofs, asSource, allEqual: proved.equals(truth) };
  }

  async #decide(
    old: readonly Map<number, Entry>[],
    proved: readonly (Proved | undefined)[],
    spool: Spool<PageNews>,
  ): Promise<void> {
    const { source, replicas } = this.#options;
    const points: SyncPoint[] = [
      { name: source.member.name, changesTaken: true },
      ...replicas.map(({ member }) => ({ name: member.name, changesTaken: false })),
    ];
    const names = new Map(
      [source.member, ...replicas.map(({ member }) => member)].map((m) => [m.id, m.name]),
    );
    const isAsItWas =
      this.#held.equals(this.#truth) &&
      replicas.every((_, k) => old[k]!.size === 0 && (proved[k]?.allEqual ?? true));
    if (isAsItWas) return;
    const entries = old.map((each) => new Map(each));
    const truth = Buffer.from(this.#truth);
    for (let i = 0; i < this.#count; i++) {
      const before = this.#content(this.#at(this.#truth, i), i);
      const changed = !this.#at(this.#held, i).equals(this.#at(this.#truth, i));
      const isQuiet = replicas.every(
        (_, k) => !old[k]!.has(i) && (proved[k]?.proofs[i]?.outcome ?? "equal") === "equal",
      );
      if (!changed && isQuiet) continue;
      const now = this.#content(this.#at(this.#held, i), i);
      const reports: Report[] = [
        {
          ...reportOffline(undefined),
          actual: !changed
            ? "NO_CHANGE"
            : now === undefined
              ? "DELETED"
              : before === undefined
                ? "ADDED"
                : "UPDATED",
        },
        ...replicas.map(({ member }, k) => {
          const proof = proved[k]?.proofs[i];
          const pending = old[k]!.get(i)?.action;
          if (!proof) return reportOffline(pending);
          if (proof.outcome === "written" && !proved[k]!.asSource(i)) this.#stray(member, i, proof);
          return reportOf(proof, recover({ pending, state: proof.state }));
        }),
      ];
      const origin = names.get(this.#origins[i]!);
      const decision = decide(
        points,
        { there: before !== undefined, origin },
        reports,
        (a, b) => a === 0 && proved[b - 1]!.asSource(i),
        `extent ${this.#first + i}`,
      );
      if (decision.takes !== undefined) {
        this.#gathered.changed++;
        this.#at(this.#held, i).copy(truth, i * this.#width);
        this.#origins[i] = source.member.id;
      }
      const after = this.#content(this.#at(truth, i), i);
      replicas.forEach((_, k) => {
        const action = decision.actions[k + 1];
        const entry = old[k]!.get(i);
        const proof = proved[k]?.proofs[i];
        const next =
          action === undefined
            ? undefined
            : proof
              ? entryToSend(action, this.#holds(proof, entry, before), after)
              : entryToKeep(action, entry, before);
        if (next) entries[k]!.set(i, next);
        else entries[k]!.delete(i);
      });
    }
    for (let at = 0; at < this.#count; at += extentsOfPage) await this.#note(at, truth, old, entries, spool);
  }

  /** What a replica has proved to hold, by name. */
  #holds(proof: Proof, entry: Entry | undefined, truth: Buffer | undefined): Buffer | undefined {
    switch (proof.outcome) {
      case "equal":
        return truth;
      case "applied":
        return entry!.sent!.content;
      case "not_applied":
        return entry ? entry.previous : truth;
      case "written":
        return unnamed(this.#width);
    }
  }

  #stray(member: Member, i: number, { doubtful }: Proof): void {
    // What may be half of ours is nobody's; and who has just joined was nobody's replica.
    if (doubtful || member.generation === 0) return;
    const { strayed } = this.#gathered;
    const known = strayed.get(member.id) ?? { count: 0, first: [] };
    known.count++;
    if (known.first.length < strayedNamedMax) known.first.push(this.#first + i);
    strayed.set(member.id, known);
  }

  /** What one page's news are, if there are any. */
  async #note(
    at: number,
    truth: Buffer,
    old: readonly Map<number, Entry>[],
    entries: readonly Map<number, Entry>[],
    spool: Spool<PageNews>,
  ): Promise<void> {
    const count = Math.min(extentsOfPage, this.#count - at);
    const cut = (identifiers: Buffer) => identifiers.subarray(at * this.#width, (at + count) * this.#width);
    const page = (this.#first + at) / extentsOfPage;
    const isNew = !cut(truth).equals(cut(this.#truth));
    const changed = this.#options.replicas.flatMap(({ member }, k) => {
      const isSame = Array.from({ length: count }, (_, j) => at + j).every((i) =>
        isSameEntry(old[k]!.get(i), entries[k]!.get(i)),
      );
      return isSame ? [] : [{ member: member.id, runs: this.#runs(entries[k]!, at, count) }];
    });
    if (!isNew && changed.length === 0) return;
    await spool.add({
      page,
      truth: isNew
        ? { number: page, identifiers: Buffer.from(cut(truth)), origins: this.#origins.slice(at, at + count) }
        : undefined,
      entries: changed,
    });
  }

  /** Neighbours with the same action, as one run. */
  #runs(entries: ReadonlyMap<number, Entry>, at: number, count: number): EntryRun[] {
    const runs: EntryRun[] = [];
    for (let i = at; i < at + count; i++) {
      const entry = entries.get(i);
      if (!entry) continue;
      const { action } = entry;
      const previous = this.#identifier(entry.previous, i);
      const sent = entry.sent && this.#identifier(entry.sent.content, i);
      const last = runs.at(-1);
      const joins =
        last &&
        last.first + last.count === this.#first + i &&
        last.action === action &&
        (last.sent === undefined) === (sent === undefined);
      if (joins) runs.pop();
      runs.push({
        first: joins ? last.first : this.#first + i,
        count: joins ? last.count + 1 : 1,
        action,
        previous: joins ? Buffer.concat([last.previous, previous]) : Buffer.from(previous),
        sent: sent && (joins ? Buffer.concat([last.sent!, sent]) : Buffer.from(sent)),
      });
    }
    return runs;
  }
}
