// The digest tree of a catalogue, as it is believed: what its pages and the regions that are written to say of extents and
// of the nodes above them.
//
// Guarantees: what is said is so until something else is awaited. A page that is damaged, or not the one that was believed,
// says nothing; whoever owns the tree is told of it. What changes nodes above the extents comes one after another: its
// callers see to it.
import { type DigestSpec, identifierOf } from "../digest/spec.ts";
import type { Page } from "./page.ts";
import type { PageStore } from "./page-store.ts";
import type { Regions } from "./regions.ts";
import { fanOut, regionOf, type TreeShape } from "./shape.ts";

/** Regions that are gone through before others have their turn. */
const yieldRegions = 256;
/** Pages that are read at a time. */
const pagesAhead = 16;
export const extentKnowledge = { unknown: 0, known: 1, suspect: 2 } as const;

export interface Lookup {
  /** Identifiers of the extents asked for; only those that are known mean something. */
  readonly identifiers: Buffer;
  readonly knowledge: Uint8Array;
}

export interface TreeOptions {
  readonly shape: TreeShape;
  readonly digest: DigestSpec;
  /** Of an extent of zeros. */
  readonly zeroIdentifier: Buffer;
  readonly store: PageStore;
  readonly regions: Regions;
  /** False: nothing is believed any more. */
  readonly isKept: () => boolean;
  /** Told of a region whose page is damaged. */
  readonly damaged: (region: number) => void;
}

export class DigestTree {
  shape: TreeShape;
  readonly #of: TreeOptions;
  readonly #store: PageStore;
  readonly #regions: Regions;
  /** Of a region of zeros. */
  readonly #zeroRegion: Buffer;

  constructor(of: TreeOptions) {
    this.#of = of;
    this.shape = of.shape;
    this.#store = of.store;
    this.#regions = of.regions;
    this.#zeroRegion = this.identifierOf(Buffer.concat(new Array<Buffer>(fanOut).fill(of.zeroIdentifier)));
  }

  /** What is known of extents. */
  async look(first: number, extents: number): Promise<Lookup> {
    const { identifierBytes } = this.shape;
    const identifiers = Buffer.alloc(extents * identifierBytes);
    const knowledge = new Uint8Array(extents);
    if (!this.#of.isKept()) return { identifiers, knowledge };
    const last = regionOf(first + extents - 1);
    for (let number = regionOf(first); number <= last; number++) {
      // Several on their way at a time.
      if ((number - regionOf(first)) % pagesAhead === 0) {
        const ahead = Array.from({ length: Math.min(pagesAhead, last + 1 - number) }, (_, i) => number + i);
        await Promise.all(ahead.map((each) => this.#store.page(0, each)));
      }
      const believed = await this.believedLeaves(number);
      const stored = believed ?? (await this.#store.page(0, number));
      // Nothing is awaited from here on: what is known now is known.
      const region = this.#regions.get(number);
      const page = region?.page ?? stored;
      const start = Math.max(first, number * fanOut);
      const end = Math.min(first + extents, (number + 1) * fanOut);
      for (let extent = start; extent < end; extent++) {
        const index = extent % fanOut;
        if (page.isSuspect(index)) knowledge[extent - first] = extentKnowledge.suspect;
        else if (region ? region.stamps[index] === 0 : believed) {
          page.identifier(index).copy(identifiers, (extent - first) * identifierBytes);
          knowledge[extent - first] = extentKnowledge.known;
        }
      }
    }
    return { identifiers, knowledge };
  }

  /** Identifiers of nodes above the extents; undefined for those that are not believed. */
  async nodes(level: number, first: number, count: number): Promise<(Buffer | undefined)[]> {
    const found: (Buffer | undefined)[] = [];
    for (let node = first; node < first + count; node++) {
      if (!this.#of.isKept()) {
        found.push(undefined);
        continue;
      }
      const page = await this.#store.page(level, regionOf(node));
      found.push(page.isValid(node % fanOut) ? Buffer.from(page.identifier(node % fanOut)) : undefined);
    }
    return found;
  }

  async isBelieved(number: number): Promise<boolean> {
    return (await this.#store.page(1, regionOf(number))).isValid(number % fanOut);
  }

  /**
   * The page of a region that is believed on the medium, undefined for others; what it says is so until something else
   * is awaited. A region of zeros needs no page on the medium. A page that is not the one that was believed is damaged.
   */
  async believedLeaves(number: number): Promise<Page | undefined> {
    for (;;) {
      const page = await this.#store.page(0, number);
      const parent = await this.#store.page(1, regionOf(number));
      const index = number % fanOut;
      if (this.#regions.has(number) || !parent.isValid(index)) return undefined;
      if (!this.#store.isCurrent(parent)) continue;
      // A page that had to make room for its parent may be of an earlier time: its identifiers have to be right.
      const isCurrent = this.#store.isCurrent(page);
      if (!page.stored && this.isZeroRegion(parent.identifier(index))) {
        for (let i = 0; i < fanOut; i++) page.setIdentifier(i, this.#of.zeroIdentifier);
      } else if (!page.verified || !isCurrent) {
        const found = this.identifierOf(page.identifiers(this.shape.nodesIn(0, number)));
        if (!found.equals(parent.identifier(index))) {
          if (isCurrent) this.#of.damaged(number);
          return undefined;
        }
      }
      page.verified = true;
      return page;
    }
  }

  isZeroRegion(identifier: Buffer): boolean {
    return identifier.equals(this.#zeroRegion);
  }

  /** The identifier of a node: the digest of its children's, one after another. */
  identifierOf(children: Buffer): Buffer {
    return identifierOf(this.#of.digest, children);
  }

  /** Regions that are believed, in order, but for those that are zeros. Others have their turn now and then. */
  async *believed(): AsyncGenerator<{ first: number; extents: number; page: Page }> {
    for (let number = 0; number < this.shape.nodes[1]! && this.#of.isKept(); number++) {
      if (number % yieldRegions === 0) await new Promise((resolve) => setImmediate(resolve));
      const parent = await this.#store.page(1, regionOf(number));
      const index = number % fanOut;
      if (!parent.isValid(index) || this.isZeroRegion(parent.identifier(index))) continue;
      const page = await this.believedLeaves(number);
      if (page) yield { first: number * fanOut, extents: this.shape.nodesIn(0, number), page };
    }
  }

  /** Regions that are not believed, in order: found from the root. */
  async *doubtful(level = this.shape.rootLevel, number = 0): AsyncGenerator<number> {
    const page = await this.#store.page(level, number);
    for (let index = 0; index < this.shape.nodesIn(level, number); index++) {
      if (page.isValid(index)) continue;
      const node = number * fanOut + index;
      if (level === 1) yield node;
      else yield* this.doubtful(level - 1, node);
    }
  }

  // --- changing nodes above the extents ---

  /** Takes back the belief in a region and in all nodes above it; true if there was any. */
  async takeBack(region: number): Promise<boolean> {
    let changed = false;
    for (let level = 1, node = region; level <= this.shape.rootLevel; level++, node = regionOf(node)) {
      const page = await this.#store.page(level, regionOf(node));
      if (!page.isValid(node % fanOut)) continue;
      page.setValid(node % fanOut, false);
      this.#store.changed(page);
      changed = true;
    }
    return changed;
  }

  /** Makes the nodes above complete pages of level 1. */
  async believeUpwards(changed: ReadonlySet<number>): Promise<void> {
    let numbers: ReadonlySet<number> = changed;
    for (let level = 1; level < this.shape.rootLevel && numbers.size > 0; level++) {
      const next = new Set<number>();
      for (const number of numbers) {
        const page = await this.#store.page(level, number);
        const count = this.shape.nodesIn(level, number);
        if (!page.allValid(count)) continue;
        const parent = await this.#store.page(level + 1, regionOf(number));
        parent.setIdentifier(number % fanOut, this.identifierOf(page.identifiers(count)));
        parent.setValid(number % fanOut, true);
        this.#store.changed(parent);
        next.add(regionOf(number));
      }
      numbers = next;
    }
  }
}
