// The pages of a catalogue in a file, some of them in memory.
//
// Guarantees: memory is bounded by `pagesMax`; what was changed and not yet written stays in memory until it is; write()
// resolves when all changes are with the kernel, flush() when they are on the medium.
import { Page } from "./page.ts";
import type { TreeShape } from "./shape.ts";

/** The file, or what stands for it in a simulation. */
export interface Storage {
  read(offset: number, buffer: Buffer): Promise<void>;
  write(offset: number, pieces: readonly Buffer[]): Promise<void>;
  flush(): Promise<void>;
  close(): void;
}

const pagesMaxDefault = 2048;
const writesInFlight = 32;

export class PageStore {
  readonly shape: TreeShape;
  readonly #storage: Storage;
  /** The least recently used first. */
  readonly #cache = new Map<number, Page>();
  /** Changed and not written. */
  readonly #changed = new Map<number, Page>();
  /** On their way to the kernel. */
  readonly #writing = new Map<number, Page>();
  readonly #loading = new Map<number, Promise<Page>>();

  readonly #decode: typeof Page.decode;
  readonly #pagesMax: number;

  constructor(shape: TreeShape, storage: Storage, decode = Page.decode, pagesMax = pagesMaxDefault) {
    this.#decode = decode;
    this.#pagesMax = pagesMax;
    this.shape = shape;
    this.#storage = storage;
  }

  async page(level: number, number: number): Promise<Page> {
    const key = this.shape.offsetOf(level, number);
    const known = this.#inMemory(key);
    if (known) {
      this.#keep(key, known);
      return known;
    }
    let loading = this.#loading.get(key);
    if (!loading) {
      loading = this.#load(key, level, number).finally(() => this.#loading.delete(key));
      this.#loading.set(key, loading);
    }
    return loading;
  }

  /** True if that is what page() would return without waiting. */
  isCurrent(page: Page): boolean {
    const key = this.shape.offsetOf(page.level, page.number);
    return this.#inMemory(key) === page;
  }

  #inMemory(key: number): Page | undefined {
    return this.#cache.get(key) ?? this.#changed.get(key) ?? this.#writing.get(key);
  }

  /** Its bytes are written by the next write(). */
  changed(page: Page): void {
    const key = this.shape.offsetOf(page.level, page.number);
    this.#changed.set(key, page);
    this.#keep(key, page);
  }

  /** One call at a time. */
  async write(): Promise<void> {
    const entries = [...this.#changed];
    for (let at = 0; at < entries.length; at += writesInFlight) {
      await Promise.all(
        entries.slice(at, at + writesInFlight).map(async ([key, page]) => {
          this.#changed.delete(key);
          this.#writing.set(key, page);
          try {
            await this.#storage.write(key, [page.encode()]);
            page.stored = true;
          } catch (error) {
            this.#changed.set(key, page);
            throw error;
          } finally {
            this.#writing.delete(key);
          }
        }),
      );
    }
  }

  flush(): Promise<void> {
    return this.#storage.flush();
  }

  async #load(key: number, level: number, number: number): Promise<Page> {
    const bytes = Buffer.alloc(this.shape.pageBytes);
    await this.#storage.read(key, bytes);
    const page = this.#decode(this.shape, level, number, bytes);
    this.#keep(key, page);
    return page;
  }

  #keep(key: number, page: Page): void {
    this.#cache.delete(key);
    this.#cache.set(key, page);
    for (const oldest of this.#cache.keys()) {
      if (this.#cache.size <= this.#pagesMax) break;
      this.#cache.delete(oldest);
    }
  }
}
