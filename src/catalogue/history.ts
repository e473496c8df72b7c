// Histories: for each peer, which extents of a volume have changed since a generation that both have in common.
//
// Guarantees: an extent that is not named, in a region that the catalogue believes, holds what it held when the
// generation began; a damaged page names all of its extents. What a new generation has recorded becomes that of the pair
// in one step, or not at all. Histories of another life of the catalogue are removed, never used; so is one that could not
// be kept, and if that can't be done either, nothing that changes is believed any more.
//
// Source: docs/formats/catalogue.md, "Histories".
import { Semaphore } from "../base/async.ts";
import { AgentError } from "../base/errors.ts";
import { Page } from "./page.ts";
import { PageStore, type Storage } from "./page-store.ts";
import { fanOut, TreeShape } from "./shape.ts";

/** Where histories are kept; each name holds one. */
export interface HistoryFolder {
  list(): Promise<string[]>;
  /** Makes it, empty, or empties it. */
  create(name: string, bytes: number): Promise<Storage>;
  open(name: string): Promise<Storage>;
  rename(from: string, to: string): Promise<void>;
  remove(name: string): Promise<void>;
  /** Gives one of them this length, if it is shorter. */
  extend(name: string, bytes: number): Promise<void>;
}

const pairsMax = 16;
const pendingName = "pending";
/** Regions in doubt that are recorded at once: a new catalogue believes nothing of a volume of any size. */
const regionsAtOnce = 4096;

/** A set of extents in a file: pages without identifiers, whose valid bits say "changed", or "something below has". */
class ChangedSet {
  readonly #store: PageStore;
  #shape: TreeShape;
  readonly #storage: Storage;
  /** One at a time changes and writes. */
  readonly #turn = new Semaphore(1);
  /** What is on the medium is not known: a second flush would not tell. */
  #failure: unknown;

  constructor(shape: TreeShape, storage: Storage, pagesMax: number | undefined) {
    this.#shape = shape;
    this.#storage = storage;
    this.#store = new PageStore(shape, storage, Page.decodeChanges, pagesMax);
  }

  /** Adds extents, by region. On the medium when it resolves. */
  async add(changes: Iterable<readonly [region: number, indexes: readonly number[]]>): Promise<void> {
    const leave = await this.#turn.acquire();
    try {
      if (this.#failure !== undefined) throw this.#failure;
      for (const [region, indexes] of changes) await this.#addTo(region, indexes);
      await this.#store.write();
      await this.#store.flush();
    } catch (error) {
      this.#failure = error;
      throw error;
    } finally {
      leave();
    }
  }

  /** The tree has more extents. On the medium when it resolves. */
  async grow(shape: TreeShape): Promise<void> {
    const leave = await this.#turn.acquire();
    try {
      if (this.#failure !== undefined) throw this.#failure;
      // A new root leads to what the old one led to.
      for (let level = this.#shape.rootLevel + 1; level <= shape.rootLevel; level++) {
        const page = await this.#store.page(level, 0);
        page.setValid(0, true);
        this.#store.changed(page);
      }
      await this.#store.write();
      await this.#store.flush();
      this.#shape = shape;
    } catch (error) {
      this.#failure = error;
      throw error;
    } finally {
      leave();
    }
  }

  async #addTo(region: number, indexes: readonly number[]): Promise<void> {
    let bits = indexes;
    for (let level = 0, number = region; level <= this.#shape.rootLevel; level++) {
      const page = await this.#store.page(level, number);
      const news = bits.filter((index) => !page.isValid(index));
      if (news.length === 0) return;
      for (const index of news) page.setValid(index, true);
      this.#store.changed(page);
      bits = [number % fanOut];
      number = Math.floor(number / fanOut);
    }
  }

  /** Tells of every region in which something has changed, in order. */
  async *regions(level = this.#shape.rootLevel, number = 0): AsyncGenerator<{ region: number; page: Page }> {
    const page = await this.#store.page(level, number);
    for (let index = 0; index < this.#shape.nodesIn(level, number); index++) {
      if (!page.isValid(index)) continue;
      const below = number * fanOut + index;
      if (level === 1) yield { region: below, page: await this.#store.page(0, below) };
      else yield* this.regions(level - 1, below);
    }
  }

  close(): void {
    this.#storage.close();
  }
}

export interface HistoryOptions {
  /** Told of a pair whose history could not be kept. */
  readonly dropped?: (pair: string, why: unknown) => void;
  /** Pages of each history in memory. */
  readonly pagesMax?: number;
}

interface PairHistory {
  /** Hexadecimal; undefined if the pair has none in common yet. */
  generation: string | undefined;
  committed: ChangedSet | undefined;
  /** What was begun, and under which name it may be committed. */
  pending: { readonly generation: string; readonly changes: ChangedSet } | undefined;
}

export class Histories {
  readonly #folder: HistoryFolder;
  #shape: TreeShape;
  readonly #options: HistoryOptions;
  readonly #pairs = new Map<string, PairHistory>();
  /** One at a time begins or commits. */
  readonly #turn = new Semaphore(1);

  private constructor(folder: HistoryFolder, shape: TreeShape, options: HistoryOptions) {
    this.#folder = folder;
    this.#shape = shape;
    this.#options = options;
  }

  #changedSet(storage: Storage): ChangedSet {
    return new ChangedSet(this.#shape, storage, this.#options.pagesMax);
  }

  /** Those of the folder; with `anew` they are removed. Names are `PAIR-GENERATION`, in hexadecimal. */
  static async open(
    folder: HistoryFolder,
    extents: number,
    anew: boolean,
    options: HistoryOptions = {},
  ): Promise<Histories> {
    const shape = new TreeShape(extents, 0);
    const histories = new Histories(folder, shape, options);
    for (const name of await folder.list()) {
      const [pair, generation] = name.split("-");
      // What was pending belongs to a synchronization that never ended.
      if (anew || generation === pendingName || histories.#pairs.has(pair!)) await folder.remove(name);
      else
        histories.#pairs.set(pair!, {
          generation,
          committed: histories.#changedSet(await folder.open(name)),
          pending: undefined,
        });
    }
    return histories;
  }

  /** The generation that a pair has in common, as far as this side knows. */
  generation(pair: string): string | undefined {
    return this.#pairs.get(pair)?.generation;
  }

  /**
   * From here on changes are recorded for a new generation of the pair, too, instead of one that was begun before.
   * `doubtful` tells of regions that are not believed: they count as changed.
   */
  begin(pair: string, generation: string, doubtful: () => AsyncIterable<number>): Promise<void> {
    return this.#inTurn(() => this.#begin(pair, generation, doubtful));
  }

  async #inTurn(action: () => Promise<void>): Promise<void> {
    const leave = await this.#turn.acquire();
    try {
      await action();
    } finally {
      leave();
    }
  }

  async #begin(pair: string, generation: string, doubtful: () => AsyncIterable<number>): Promise<void> {
    const known = this.#pairs.get(pair);
    if (!known && this.#pairs.size >= pairsMax)
      throw new AgentError("not_known", `There are ${pairsMax} histories already`);
    known?.pending?.changes.close();
    if (known) known.pending = undefined;
    const name = `${pair}-${pendingName}`;
    const changes = this.#changedSet(await this.#folder.create(name, this.#shape.fileBytes));
    const pending = { generation, changes };
    // It records before it is looked what is in doubt: what is believed in between has been told of.
    this.#pairs.set(pair, { generation: undefined, committed: undefined, ...known, pending });
    let regions: [number, number[]][] = [];
    try {
      for await (const region of doubtful()) {
        if (regions.push([region, allOf(this.#shape, region)]) < regionsAtOnce) continue;
        await changes.add(regions);
        regions = [];
      }
      await changes.add(regions);
    } catch (error) {
      await this.#drop(pair, error);
      throw error;
    }
  }

  /** Within a turn. @throws if its files can't be removed */
  async #drop(pair: string, why: unknown): Promise<void> {
    const known = this.#pairs.get(pair);
    if (!known) return;
    for (const generation of [known.generation, pendingName])
      if (generation !== undefined) await this.#folder.remove(`${pair}-${generation}`);
    this.#pairs.delete(pair);
    known.committed?.close();
    known.pending?.changes.close();
    this.#options.dropped?.(pair, why);
  }

  /**
   * What was begun under this name is the pair's generation. @throws if it was not, or if another one was begun since: what
   * that one has recorded does not reach back far enough
   */
  commit(pair: string, generation: string): Promise<void> {
    return this.#inTurn(() => this.#commit(pair, generation));
  }

  async #commit(pair: string, generation: string): Promise<void> {
    const known = this.#pairs.get(pair);
    if (known?.pending?.generation !== generation)
      throw new AgentError("not_known", "This generation was not begun here, or another one since");
    const { pending, committed, generation: before } = known;
    // Without the old one first: two of them would be in doubt.
    this.#pairs.set(pair, { generation: undefined, committed: undefined, pending });
    committed?.close();
    if (before !== undefined) await this.#folder.remove(`${pair}-${before}`);
    await this.#folder.rename(`${pair}-${pendingName}`, `${pair}-${generation}`);
    this.#pairs.set(pair, { generation, committed: pending.changes, pending: undefined });
  }

  /** Extents of a region hold something else than before. On the medium when it resolves. */
  async changed(changes: ReadonlyMap<number, readonly number[]>): Promise<void> {
    for (const [pair, { committed, pending }] of this.#pairs) {
      try {
        for (const set of [committed, pending?.changes]) await set?.add(changes);
      } catch (error) {
        await this.#inTurn(() => this.#drop(pair, error));
      }
    }
  }

  /** The volume is about to have more extents. */
  grow(extents: number): Promise<void> {
    return this.#inTurn(async () => {
      const shape = new TreeShape(extents, 0);
      for (const [pair, { generation, committed, pending }] of this.#pairs) {
        try {
          for (const [name, set] of [
            [generation, committed],
            [pendingName, pending?.changes],
          ] as const) {
            if (!set) continue;
            await this.#folder.extend(`${pair}-${name}`, shape.fileBytes);
            await set.grow(shape);
          }
        } catch (error) {
          await this.#drop(pair, error);
        }
      }
      this.#shape = shape;
    });
  }

  /** What has changed since the pair's generation, by region, in order. */
  async *since(pair: string): AsyncGenerator<{ region: number; indexes: number[] }> {
    const set = this.#pairs.get(pair)?.committed;
    if (!set) return;
    for await (const { region, page } of set.regions()) {
      yield { region, indexes: allOf(this.#shape, region).filter((index) => page.isValid(index)) };
    }
  }

  close(): void {
    for (const { committed, pending } of this.#pairs.values()) {
      committed?.close();
      pending?.changes.close();
    }
    this.#pairs.clear();
  }
}

const allOf = (shape: TreeShape, region: number): number[] =>
  Array.from({ length: shape.nodesIn(0, region) }, (_, index) => index);
