// The catalogue of a volume: the identifiers of its extents and the digest tree above them, believed where nobody can
// have written since.
//
// Guarantees (docs/formats/catalogue.md has the argument):
// - Before a write begins, it is on the catalogue's medium that the region it touches (64 extents) is not to be
//   believed. An extent is known again only by a digest that was begun after the last write of it had begun and was not
//   overlapped by one, and a region is believed again, by whoever opens the catalogue, only after the volume was flushed.
// - Whatever the instant at which everything stops, no entry that is believed afterwards is wrong.
// - Memory is bounded: pages are cached, and what is known of regions that are being written can be forgotten.
import { Batch, Semaphore } from "../base/async.ts";
import { type DigestSpec, identifierOf } from "../digest/spec.ts";
import type { Clock } from "../platform/clock.ts";
import type { Page } from "./page.ts";
import { PageStore, type Storage } from "./page-store.ts";
import { isKnown, Regions, type Ticket } from "./regions.ts";
import { fanOut, regionOf, TreeShape } from "./shape.ts";
import { DigestTree, type Lookup } from "./tree.ts";

/** What has become known is kept in memory until it is believed: of a catalogue that is being made, all of the volume. */
const learntMax = 512;

/** Identifiers of extents, computed from the data. */
export type Digester = () => Promise<{ identifiers: Buffer; extents: number }>;

export class Catalogue {
  readonly digest: DigestSpec;
  readonly #store: PageStore;
  /** One at a time changes nodes above the extents. */
  readonly #turn = new Semaphore(1);
  readonly #regions: Regions;
  readonly #tree: DigestTree;
  /** Regions that writes wait for: all of them are marked with one flush. */
  readonly #marks = new Batch<number>((regions) => this.#inTurn(() => this.#disbelieve(regions)));
  /** What the medium says is not known, or not true any more. */
  #failure: unknown;
  /** Told, by region, of extents that have changed, before that is believed. */
  onChanged: ((changes: ReadonlyMap<number, readonly number[]>) => Promise<void>) | undefined;
  /** Told when so many regions have become known that it is time to believe them. */
  onLearnt: (() => void) | undefined;
  /** Regions that have become known since. */
  #learnt = 0;
  /** Once set, nothing is believed and nothing is kept. */
  #lost: Error | undefined;

  /** `pagesMax`: how many pages are kept in memory. */
  constructor(
    storage: Storage,
    extents: number,
    extentBytes: number,
    digest: DigestSpec,
    clock: Clock,
    pagesMax?: number,
  ) {
    const shape = new TreeShape(extents, digest.identifierBytes);
    this.digest = digest;
    this.#store = new PageStore(shape, storage, undefined, pagesMax);
    this.#regions = new Regions(shape, clock);
    this.#tree = new DigestTree({
      shape,
      digest,
      zeroIdentifier: identifierOf(digest, Buffer.alloc(extentBytes)),
      store: this.#store,
      regions: this.#regions,
      isKept: () => this.isKept,
      // If that fails: nobody believes it, and it is found again.
      damaged: (region) => void this.#inTurn(() => this.#disbelieve([region])).catch(() => {}),
    });
  }

  get shape(): TreeShape {
    return this.#tree.shape;
  }

  async #inTurn<T>(action: () => Promise<T>): Promise<T> {
    const leave = await this.#turn.acquire();
    try {
      return await action();
    } finally {
      leave();
    }
  }

  get lost(): Error | undefined {
    return this.#lost;
  }

  /** Nothing is believed from here on, and no write may begin that is not marked already, until the file has gone. */
  fail(why: unknown): void {
    this.#failure ??= why;
  }

  /** The file has gone: there is nothing that writes have to be marked in. */
  lose(why: Error): void {
    this.#lost ??= why;
  }

  /** What it says is believed, and what is learnt is kept. */
  get isKept(): boolean {
    return this.#lost === undefined && this.#failure === undefined;
  }

  // --- writes ---

  /** Notes that a write of these extents begins; end() it. Resolves when it may begin. @throws what the storage throws */
  begin(first: number, last: number): Ticket | Promise<Ticket> {
    const ticket = { first, last };
    if (this.#lost || this.#regions.enter(ticket)) return ticket;
    return this.#beginLater(ticket);
  }

  async #beginLater(ticket: Ticket): Promise<Ticket> {
    while (!this.#lost && !this.#regions.enter(ticket)) {
      if (this.#failure !== undefined) throw this.#failure;
      const missing: number[] = [];
      for (let region = regionOf(ticket.first); region <= regionOf(ticket.last); region++)
        if (!this.#regions.has(region)) missing.push(region);
      await this.#marks.want(missing);
    }
    return ticket;
  }

  /** Notes a write that ends before anything else happens; false if it has to begin() and wait. */
  beginNow(first: number, last: number): boolean {
    const ticket = { first, last };
    if (this.#lost) return true;
    if (!this.#regions.enter(ticket)) return false;
    this.end(ticket);
    return true;
  }

  end(ticket: Ticket): void {
    if (!this.#lost) this.#regions.leave(ticket);
  }

  /**
   * Writing or flushing the volume has failed. The kernel tells that once, and a flush that succeeds afterwards says nothing of
   * what was lost: whatever was digested since it was believed last has to be digested again.
   */
  doubt(): void {
    this.#regions.doubt();
  }

  /** Takes the belief in regions back, on the medium, and makes their entries. Within a turn. */
  async #disbelieve(numbers: readonly number[]): Promise<void> {
    const known = new Map<number, Page>();
    let changed = false;
    for (const number of numbers) {
      if (this.#regions.has(number)) continue;
      const page = await this.#tree.believedLeaves(number);
      if (page) known.set(number, page);
      if (await this.#tree.takeBack(number)) changed = true;
    }
    if (this.#failure !== undefined) throw this.#failure;
    if (changed) {
      try {
        await this.#writeDown();
      } catch (error) {
        // What was cleared in memory may still be set on the medium, and a second flush would not tell.
        this.fail(error);
        throw error;
      }
    }
    for (const number of numbers) {
      if (this.#regions.has(number)) continue;
      const page = known.get(number) ?? (await this.#store.page(0, number));
      if (!this.#regions.has(number)) this.#regions.add(number, page, known.has(number));
    }
  }

  // --- reading ---

  look(first: number, extents: number): Promise<Lookup> {
    return this.#tree.look(first, extents);
  }

  nodes(level: number, first: number, count: number): Promise<(Buffer | undefined)[]> {
    return this.#tree.nodes(level, first, count);
  }

  believed(): ReturnType<DigestTree["believed"]> {
    return this.#tree.believed();
  }

  doubtful(): AsyncGenerator<number> {
    return this.#tree.doubtful();
  }

  // --- what was digested ---

  /**
   * Has extents digested, and keeps what comes of it where no write has touched them meanwhile. The digest of what
   * changes while it is read is returned all the same: it answers for that moment.
   */
  async learn(first: number, extents: number, digester: Digester): Promise<Awaited<ReturnType<Digester>>> {
    if (!this.isKept) return digester();
    const end = first + extents;
    // Not believed on the medium, or they would not have to be digested.
    const missing: number[] = [];
    for (let number = regionOf(first); number <= regionOf(end - 1); number++)
      if (!this.#regions.has(number)) missing.push(number);
    if (missing.length > 0) await this.#rememberUnlessBelieved(missing);
    const stamps = new Float64Array(extents);
    for (let extent = first; extent < end; extent++)
      stamps[extent - first] = this.#regions.get(regionOf(extent))?.stamps[extent % fanOut] ?? -1;
    const learnt = await digester();
    const { identifierBytes } = this.shape;
    for (let number = regionOf(first); number <= regionOf(end - 1) && this.isKept; number++) {
      const region = this.#regions.get(number);
      if (!region) continue;
      const { page } = region;
      const from = Math.max(first, number * fanOut);
      const to = Math.min(first + learnt.extents, (number + 1) * fanOut);
      for (let extent = from; extent < to; extent++) {
        const index = extent % fanOut;
        const stamp = region.stamps[index]!;
        if (stamp === 0 || stamp !== stamps[extent - first] || page.isSuspect(index)) continue;
        const at = (extent - first) * identifierBytes;
        const identifier = learnt.identifiers.subarray(at, at + identifierBytes);
        page.setIdentifier(index, identifier);
        region.stamps[index] = 0;
      }
      if (isKnown(region)) this.#learnt++;
    }
    if (this.#learnt >= learntMax) {
      this.#learnt = 0;
      this.onLearnt?.();
    }
    return learnt;
  }

  /**
   * Writes of what is remembered here are not marked any more: nothing above it may be believed on the medium. It may be so
   * after a power cut, which keeps one page and loses another.
   */
  #rememberUnlessBelieved(numbers: readonly number[]): Promise<void> {
    return this.#inTurn(async () => {
      const unknown: number[] = [];
      for (const number of numbers) if (!(await this.#tree.isBelieved(number))) unknown.push(number);
      await this.#disbelieve(unknown).catch(() => {}); // then nothing is kept
    });
  }

  /** Regions that nobody writes to: of which everything is known, and others that have been idle for a while. */
  ready(idleMs: number): { whole: number[]; idle: number[] } {
    return this.isKept ? this.#regions.ready(idleMs) : { whole: [], idle: [] };
  }

  /** Something of a region can't be digested: it is not ready for so long, unless it is written to. */
  postpone(number: number, forMs: number): void {
    this.#regions.postpone(number, forMs);
  }

  /** True once after what was known of regions had to be forgotten. */
  takeForgotten(): boolean {
    const { forgotten } = this.#regions;
    this.#regions.forgotten = false;
    return forgotten;
  }

  /** Has `flush` put the volume's data on its medium, then believes the regions that nobody has written to since. */
  async believe(numbers: readonly number[], flush: () => Promise<void>): Promise<void> {
    if (!this.isKept || numbers.length === 0) return;
    const before = numbers.map((number) => this.#regions.get(number)?.tick);
    const untouched = (number: number, i: number) => {
      const region = this.#regions.get(number);
      return region !== undefined && region.active === 0 && region.tick === before[i] && isKnown(region);
    };
    await flush(); // writers go on meanwhile
    await this.#inTurn(async () => {
      const identifiers = numbers.map((number, i) => {
        if (!untouched(number, i)) return undefined;
        const { page } = this.#regions.get(number)!;
        const count = this.shape.nodesIn(0, number);
        if (page.anySuspect(count)) return undefined;
        const identifier = this.#tree.identifierOf(page.identifiers(count));
        // Zeros that were never written down need not be written now.
        if (page.stored || count < fanOut || !this.#tree.isZeroRegion(identifier)) this.#store.changed(page);
        return identifier;
      });
      await this.#tellOfChanges(numbers.filter((_, i) => identifiers[i] !== undefined));
      await this.#store.write();
      await this.#store.flush();
      const parents = new Set<number>();
      const pages = new Map<number, Page>();
      for (const number of numbers) pages.set(number, await this.#store.page(1, regionOf(number)));
      // Nothing is awaited between the last look at a region and its end: a write that comes now has to mark it anew.
      numbers.forEach((number, i) => {
        const identifier = identifiers[i];
        if (!identifier || !untouched(number, i)) return;
        const page = pages.get(number)!;
        page.setIdentifier(number % fanOut, identifier);
        page.setValid(number % fanOut, true);
        this.#store.changed(page);
        this.#regions.get(number)!.page.verified = true;
        this.#regions.delete(number);
        parents.add(regionOf(number));
      });
      await this.#tree.believeUpwards(parents);
      await this.#store.write();
    });
  }

  /** Before what has changed is believed, whoever keeps histories has it on his medium. */
  async #tellOfChanges(numbers: readonly number[]): Promise<void> {
    if (!this.onChanged) return;
    const changes = new Map<number, number[]>();
    for (const number of numbers) {
      const { changed } = this.#regions.get(number)!;
      const indexes: number[] = [];
      for (let index = 0; index < this.shape.nodesIn(0, number); index++)
        if (changed[index]) indexes.push(index);
      if (indexes.length > 0) changes.set(number, indexes);
    }
    if (changes.size > 0) await this.onChanged(changes);
  }

  // --- growth ---

  /**
   * The volume is about to have more extents, and the last one it has may get longer. `between` is called when it is on the
   * medium that the last region is not believed, and before anything is known of the new ones.
   */
  grow(extents: number, between: () => Promise<void>): Promise<void> {
    return this.#inTurn(async () => {
      const last = regionOf(this.shape.nodes[0]! - 1);
      await this.#disbelieve([last]);
      await between();
      this.#tree.shape = new TreeShape(extents, this.shape.identifierBytes);
      this.#regions.grow(this.shape, last);
    });
  }

  // --- bit rot ---

  /** Extents whose medium differs from what was written: not to be believed until they are written anew. */
  suspect(extents: readonly number[]): Promise<void> {
    return this.#inTurn(async () => {
      await this.#disbelieve([...new Set(extents.map(regionOf))]);
      for (const extent of extents) {
        const stored = await this.#store.page(0, regionOf(extent));
        const page = this.#regions.get(regionOf(extent))?.page ?? stored;
        page.setSuspect(extent % fanOut, true);
        this.#store.changed(page);
      }
      await this.#writeDown();
    });
  }

  /** A write has replaced all of these extents: whatever was wrong with them is gone. */
  replaced(first: number, last: number): void {
    for (let number = regionOf(first); number <= regionOf(last); number++) {
      const page = this.#regions.get(number)?.page;
      if (!page?.anySuspect(fanOut)) continue;
      const base = number * fanOut;
      for (let index = Math.max(0, first - base); index <= Math.min(fanOut - 1, last - base); index++) {
        page.setSuspect(index, false);
      }
      this.#store.changed(page);
    }
  }

  /** Everything that was changed is on the catalogue's medium. */
  flush(): Promise<void> {
    return this.#inTurn(() => this.#writeDown());
  }

  async #writeDown(): Promise<void> {
    await this.#store.write();
    await this.#store.flush();
  }
}
