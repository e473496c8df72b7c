// The entries of a layer of before-images, in pages of its file, some of them in memory.
//
// Guarantees: memory is bounded by `pagesMax`, whatever the volume's size. What is being written to the file is seen by
// nobody before whoever writes it says that it is on the medium.
import { entryBytes, pageBytes, tableAt } from "./format.ts";
import type { JournalFile } from "./journal-file.ts";

const pagesMaxDefault = 2048;
/** Of the file, read at once to go through all of it. */
const stepBytes = 256 * pageBytes;

export class EntryTable {
  readonly #file: JournalFile;
  #pagesMax: number;
  /** The least recently used first. */
  readonly #cache = new Map<number, Buffer>();
  readonly #loading = new Map<number, Promise<Buffer>>();
  /** Being written: the file may hold more than what counts already. */
  readonly #held = new Map<number, Buffer>();

  constructor(file: JournalFile, pagesMax = pagesMaxDefault) {
    this.#file = file;
    this.#pagesMax = pagesMax;
  }

  /** No more pages than that stay in memory. */
  limit(pagesMax: number): void {
    this.#pagesMax = Math.min(this.#pagesMax, pagesMax);
    this.#shrink();
  }

  /** A page as far as it counts, if that takes no waiting. */
  resident(page: number): Buffer | undefined {
    return this.#held.get(page) ?? this.#cache.get(page);
  }

  /** A page as far as it counts; it is changed by whoever writes. */
  async page(page: number): Promise<Buffer> {
    const known = this.resident(page);
    if (known) {
      this.#keep(page, known);
      return known;
    }
    let loading = this.#loading.get(page);
    if (!loading) {
      loading = this.#load(page).finally(() => {
        if (this.#loading.get(page) === loading) this.#loading.delete(page);
      });
      this.#loading.set(page, loading);
    }
    return loading;
  }

  async #load(page: number): Promise<Buffer> {
    const bytes = Buffer.alloc(pageBytes);
    await this.#file.read(tableAt + page * pageBytes, bytes);
    const newer = this.resident(page);
    if (newer) return newer;
    this.#keep(page, bytes);
    return bytes;
  }

  #keep(page: number, bytes: Buffer): void {
    this.#cache.delete(page);
    this.#cache.set(page, bytes);
    this.#shrink();
  }

  #shrink(): void {
    for (const oldest of this.#cache.keys()) {
      if (this.#cache.size <= this.#pagesMax) break;
      this.#cache.delete(oldest);
    }
  }

  /**
   * Writes entries, by their places in the table, and calls `settle`, which is to put them on the medium. They count from
   * then on; not at all if it throws. One call at a time.
   */
  async write(entries: ReadonlyMap<number, Buffer>, settle: () => Promise<void>): Promise<void> {
    const perPage = pageBytes / entryBytes;
    const pages = new Map<number, Buffer>();
    try {
      for (const place of entries.keys()) {
        const page = Math.floor(place / perPage);
        if (!pages.has(page)) {
          const bytes = await this.page(page);
          this.#held.set(page, bytes);
          pages.set(page, Buffer.from(bytes));
        }
      }
      for (const [place, bytes] of entries)
        bytes.copy(pages.get(Math.floor(place / perPage))!, (place % perPage) * entryBytes);
      await Promise.all(
        [...pages].map(([page, bytes]) => this.#file.write(tableAt + page * pageBytes, [bytes])),
      );
      await settle();
      for (const [page, bytes] of pages) bytes.copy(this.#held.get(page)!);
    } finally {
      for (const page of pages.keys()) {
        const counts = this.#held.get(page);
        this.#held.delete(page);
        if (counts) this.#keep(page, counts);
      }
    }
  }

  /** The pages that have been written, in order, as the file has them; of the first `pages`. */
  async *written(pages: number): AsyncGenerator<{ page: number; bytes: Buffer }> {
    const end = tableAt + pages * pageBytes;
    for (let at = tableAt; at < end; ) {
      const data = await this.#file.nextData(at, end - at);
      if (!data) return;
      const from = data.offset - ((data.offset - tableAt) % pageBytes);
      const to = Math.min(end, data.offset + data.bytes, from + stepBytes);
      const bytes = Buffer.alloc(Math.ceil((to - from) / pageBytes) * pageBytes);
      await this.#file.read(from, bytes);
      for (let done = 0; done < bytes.length; done += pageBytes)
        yield { page: (from + done - tableAt) / pageBytes, bytes: bytes.subarray(done, done + pageBytes) };
      at = from + bytes.length;
    }
  }
}
