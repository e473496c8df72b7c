// One window of a volume: what every sync point that can be reached holds there, and what the rules make of it.
//
// Guarantees: nothing is written anywhere: what was decided is in the spool. What can't be read changes nothing. A side that
// restates the truth has its way everywhere; other sides change it where they have changed.
import { together } from "../base/async.ts";
import { overlaps } from "../base/ranges.ts";
import { actionBetween } from "../truth/actions.ts";
import { decide, type Report, reportOf, reportOffline, type SyncPoint } from "../truth/decide.ts";
import { type Proof, prove, states } from "../truth/extent-state.ts";
import { entryToKeep, entryToSend } from "../truth/pending.ts";
import { recover } from "../truth/recovery.ts";
import { type EntryRun, extentsOfPage } from "../truth/store.ts";
import { Contents, type Entry, isSameEntry, sameIdentifier } from "./entries.ts";
import type { GatherOptions, PageNews, Side, Tally } from "./gather.ts";
import { type Named, namesOf, type Proved, proofOf, proofOfTruth, unlessItFails } from "./holdings.ts";
import { leave, leaveLate, type OnlinePoint, type Point } from "./points.ts";
import { punctual } from "./punctual.ts";
import type { Sink } from "./spool.ts";
import { unnamed, Zeros } from "./values.ts";

export class Window {
  readonly #options: GatherOptions;
  readonly #tally: Tally;
  readonly #first: number;
  readonly #count: number;
  readonly #zeros: Buffer;
  readonly #contents: Contents;
  /** Sides, then replicas that follow: as `decide` numbers them. */
  readonly #points: readonly Point[];
  #truth!: Buffer;
  #origins!: Uint16Array;
  #gone!: readonly (readonly EntryRun[])[];
  #old!: readonly ReadonlyMap<number, Entry>[];
  #named!: readonly Named[];
  #proved!: readonly (Proved | undefined)[];

  constructor(options: GatherOptions, tally: Tally, first: number, count: number) {
    this.#options = options;
    this.#tally = tally;
    this.#first = first;
    this.#count = count;
    this.#zeros = new Zeros(options.shape).of(first, count);
    this.#contents = new Contents(first, this.#width, this.#zeros);
    this.#points = [...options.sides.map(({ point }) => point), ...options.followers];
  }

  /** Asks everybody. Windows may do that side by side. */
  async ask(): Promise<void> {
    const { store, set, sides, followers, dropped } = this.#options;
    const firstPage = this.#first / extentsOfPage;
    const pages = Math.ceil(this.#count / extentsOfPage);
    this.#truth = Buffer.from(this.#zeros);
    this.#origins = new Uint16Array(this.#count);
    for (const page of await store.truth(set, firstPage, pages)) {
      const at = page.number * extentsOfPage - this.#first;
      page.identifiers.copy(this.#truth, at * this.#width);
      this.#origins.set(page.origins, at);
    }
    const tableOf = (member: number) => store.entries(set, member, firstPage, pages);
    const tables = await together(this.#points.map(({ member }) => tableOf(member.id)));
    this.#gone = await together(dropped.map(tableOf));
    this.#old = tables.map((runs) => this.#contents.entries(runs));
    const naming = together(sides.map(({ point }, k) => this.#name(point, tables[k]!)));
    naming.catch(() => {}); // observed where it is awaited
    const proved = new Map<Point, Proved | undefined>();
    const online = followers
      .map((point, k) => ({ point, table: tables[sides.length + k]! }))
      .filter(({ point }) => point.volume);
    const proving = online.map(({ point, table }) => this.#prove(point, table));
    const answers = await punctual(proving, naming, this.#options.patience, (k) => {
      leaveLate(online[k]!.point);
      return undefined;
    });
    answers.forEach((answer, k) => {
      proved.set(online[k]!.point, answer);
    });
    this.#named = await naming;
    this.#proved = followers.map((point) => proved.get(point));
  }

  get #width(): number {
    return this.#options.shape.digest.identifierBytes;
  }

  #question(table: readonly EntryRun[]) {
    const { shape, random, signal } = this.#options;
    return { shape, first: this.#first, truth: this.#truth, table, random, signal };
  }

  /** Nothing is pending for it, and its host knows that it holds what it held when it was in step. */
  #holdsTruth(point: Point, table: readonly EntryRun[]): boolean {
    const changed = this.#options.changedOf?.(point);
    const [first, end] = [this.#first, this.#first + this.#count];
    return table.length === 0 && changed !== undefined && !overlaps(changed, first, end);
  }

  async #name(point: OnlinePoint, table: readonly EntryRun[]): Promise<Named> {
    return this.#holdsTruth(point, table)
      ? { identifiers: this.#truth, unreadable: new Set() }
      : namesOf(point.volume, this.#question(table));
  }

  /** Undefined if it is offline. Who stops answering is offline from there on. */
  async #prove(point: Point, table: readonly EntryRun[]): Promise<Proved | undefined> {
    const { volume } = point;
    if (!volume) return undefined;
    if (this.#holdsTruth(point, table)) return proofOfTruth(this.#truth, this.#width);
    return unlessItFails(proofOf(volume, this.#question(table), this.#zeros), this.#options.signal, (error) =>
      leave(point, error.message),
    );
  }

  /** One window after another, in their order. */
  async decide(sink: Sink<PageNews>): Promise<void> {
    const { sides, followers, dropped } = this.#options;
    const gone = this.#gone;
    this.#tally.unreadable += this.#named[0]?.unreadable.size ?? 0;
    const isAsItWas =
      gone.every((runs) => runs.length === 0) &&
      this.#named.every(({ identifiers }) => identifiers.equals(this.#truth)) &&
      this.#points.every((_, k) => this.#old[k]!.size === 0) &&
      this.#proved.every((proved) => proved?.allEqual ?? true);
    if (isAsItWas) return;
    const points: SyncPoint[] = [
      ...sides.map(({ point, taken }) => ({ name: point.member.name, changesTaken: taken })),
      ...followers.map(({ member }) => ({ name: member.name, changesTaken: false })),
    ];
    const holds = sides.map((_, side) =>
      this.#proved.map((proved) => proved?.holds(this.#named[side]!.identifiers)),
    );
    const entries = this.#old.map((each) => new Map(each));
    const truth = Buffer.from(this.#truth);
    const origins = Uint16Array.from(this.#origins);
    for (let i = 0; i < this.#count; i++) {
      if (this.#isQuiet(i)) continue;
      const before = this.#contents.of(this.#truth, i);
      const proofs = this.#points.map((_, k) => this.#proofAt(k, i, before));
      const reports = this.#points.map((_, k) => this.#report(k, i, proofs[k], before));
      const same = (a: number, b: number): boolean =>
        b < sides.length
          ? this.#contents
              .at(this.#named[a]!.identifiers, i)
              .equals(this.#contents.at(this.#named[b]!.identifiers, i))
          : (holds[a]?.[b - sides.length]?.(i) ?? false);
      this.#tell(i, same, proofs);
      const origin = this.#originOf(this.#origins[i]!);
      const what = `extent ${this.#first + i}`;
      const decision = decide(points, { there: before !== undefined, origin }, reports, same, what);
      if (decision.takes !== undefined) {
        const winner = sides.findIndex(({ point }) => point.member.name === decision.takes);
        this.#tally.changed++;
        this.#contents.at(this.#named[winner]!.identifiers, i).copy(truth, i * this.#width);
        origins[i] = sides[winner]!.point.member.id;
      }
      this.#tellLost(i, proofs, truth);
      const after = this.#contents.of(truth, i);
      this.#points.forEach((_, k) => {
        const action = decision.actions[k];
        const [entry, proof] = [this.#old[k]!.get(i), proofs[k]];
        const next =
          action === undefined
            ? undefined
            : proof
              ? entryToSend(action, this.#holds(k, i, proof, entry, before), after)
              : entryToKeep(action, entry, before);
        if (next) entries[k]!.set(i, next);
        else entries[k]!.delete(i);
      });
    }
    for (let at = 0; at < this.#count; at += extentsOfPage) {
      const page = (this.#first + at) / extentsOfPage;
      const isGone = (k: number) => gone[k]!.some((run) => Math.floor(run.first / extentsOfPage) === page);
      const emptied = dropped.filter((_, k) => isGone(k)).map((member) => ({ member, runs: [] }));
      await this.#note(at, truth, origins, entries, emptied, sink);
    }
  }

  /** Nobody has changed anything, and nothing is pending. */
  #isQuiet(i: number): boolean {
    const truth = this.#contents.at(this.#truth, i);
    return (
      this.#named.every(({ identifiers }) => this.#contents.at(identifiers, i).equals(truth)) &&
      this.#points.every((_, k) => !this.#old[k]!.has(i)) &&
      this.#proved.every((proved) => (proved?.proofs[i]?.outcome ?? "equal") === "equal")
    );
  }

  /** What a sync point proves of an extent; undefined if nobody knows what it holds. */
  #proofAt(k: number, i: number, truth: Buffer | undefined): Proof | undefined {
    const { sides } = this.#options;
    if (k >= sides.length) return this.#proved[k - sides.length]?.proofs[i];
    const { identifiers, unreadable } = this.#named[k]!;
    if (unreadable.has(i)) return undefined;
    return prove(truth, this.#old[k]!.get(i), this.#contents.of(identifiers, i), sameIdentifier);
  }

  #report(k: number, i: number, proof: Proof | undefined, truth: Buffer | undefined): Report {
    const side: Side | undefined = this.#options.sides[k];
    const pending = this.#old[k]!.get(i)?.action;
    if (!proof) return reportOffline(side?.restates ? undefined : pending);
    if (!side?.restates) {
      const recovered = recover({ pending, state: proof.state });
      // A side that was left competes with what the truth has deleted since, too.
      if (!side || !recovered.overruled || this.#options.sides.length === 1)
        return reportOf(proof, recovered);
      return { actual: proof.state, pending: undefined, unseen: true, doubtful: proof.doubtful };
    }
    // Whatever was pending for it: what it holds is what the truth shall be.
    if (proof.outcome === "equal") return reportOffline(undefined);
    const held = this.#contents.of(this.#named[k]!.identifiers, i);
    const actual = states[actionBetween(truth !== undefined, held !== undefined)];
    return { ...reportOffline(undefined), actual };
  }

  /** What a sync point has proved to hold, by name. */
  #holds(
    k: number,
    i: number,
    proof: Proof,
    entry: Entry | undefined,
    truth: Buffer | undefined,
  ): Buffer | undefined {
    if (k < this.#options.sides.length) return this.#contents.of(this.#named[k]!.identifiers, i);
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

  /** Whose change the truth has; of two sides, that of earlier leaders is the leader's. */
  #originOf(member: number): string | undefined {
    const { sides } = this.#options;
    const isSides = sides.some(({ point }) => point.member.id === member);
    const leader = sides.find(({ leads }) => leads);
    if (sides.length > 1 && !isSides) return leader?.point.member.name;
    return this.#points.find((point) => point.member.id === member)?.member.name;
  }

  /** Which sides have changed an extent since they parted, and who wrote to a replica that only follows. */
  #tell(i: number, same: (a: number, b: number) => boolean, proofs: readonly (Proof | undefined)[]): void {
    const { sides } = this.#options;
    const extent = this.#first + i;
    const [one, other] = proofs;
    if (sides.length > 1) {
      // Where the truth has gone on since, it was by the first side.
      const hasGoneOn = this.#old[1]!.has(i) && other?.outcome !== "equal";
      const [first, second] = [one?.outcome === "written" || hasGoneOn, other?.outcome === "written"];
      if (first && second) this.#tally.map.add(same(0, 1) ? "alike" : "both", extent);
      else if (first || second) this.#tally.map.add(first ? "first" : "second", extent);
    } else if (sides.length > 0 && !this.#holdsNow(0, i)) this.#tally.map.add("first", extent);
    for (let k = sides.length; k < this.#points.length; k++) {
      if (proofs[k]?.outcome !== "written" || sides.some((_, side) => same(side, k))) continue;
      const { member, rolledBack, lengthened } = this.#points[k]!;
      // What may be half of ours is nobody's, as is what a roll back put back; and who has just joined was nobody's replica.
      const isNobodys = rolledBack || member.generation === 0 || lengthened === extent;
      if (!proofs[k]!.doubtful && !isNobodys) this.#tally.strayed.add(member.id, extent);
    }
  }

  /** Whether a side holds what the truth was until now. */
  #holdsNow(side: number, i: number): boolean {
    return this.#contents.at(this.#named[side]!.identifiers, i).equals(this.#contents.at(this.#truth, i));
  }

  /** What sides have written, and the truth has not taken. */
  #tellLost(i: number, proofs: readonly (Proof | undefined)[], truth: Buffer): void {
    this.#options.sides.forEach(({ point }, k) => {
      const isLost = !this.#contents.at(this.#named[k]!.identifiers, i).equals(this.#contents.at(truth, i));
      if (proofs[k]?.outcome === "written" && isLost) this.#tally.lost.add(point.member.id, this.#first + i);
    });
  }

  /** What one page's news are, if there are any. */
  async #note(
    at: number,
    truth: Buffer,
    origins: Uint16Array,
    entries: readonly ReadonlyMap<number, Entry>[],
    emptied: PageNews["entries"],
    sink: Sink<PageNews>,
  ): Promise<void> {
    const count = Math.min(extentsOfPage, this.#count - at);
    const cut = (identifiers: Buffer) => identifiers.subarray(at * this.#width, (at + count) * this.#width);
    const page = (this.#first + at) / extentsOfPage;
    const isNew = !cut(truth).equals(cut(this.#truth));
    const changed = this.#points.flatMap(({ member }, k) => {
      const isSame = Array.from({ length: count }, (_, j) => at + j).every((i) =>
        isSameEntry(this.#old[k]!.get(i), entries[k]!.get(i)),
      );
      return isSame ? [] : [{ member: member.id, runs: this.#contents.runs(entries[k]!, at, count) }];
    });
    if (!isNew && changed.length + emptied.length === 0) return;
    await sink.add({
      page,
      truth: isNew
        ? { number: page, identifiers: Buffer.from(cut(truth)), origins: origins.slice(at, at + count) }
        : undefined,
      entries: [...changed, ...emptied],
    });
  }
}
