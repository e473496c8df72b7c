// One layer of before-images: what extents of the volume held when the layer was begun, in a file of its own.
//
// Guarantees: when keep() or adopt() resolves, the images are on the medium; callers of one time share one flush. What an earlier
// owner wrote, or what was written before a flush that failed, is looked at on the medium before it counts. Memory is
// bounded. docs/formats/whole.md is the reference.
import { Batch, Semaphore } from "../base/async.ts";
import { AgentError } from "../base/errors.ts";
import { crc32c } from "../platform/native-digest.ts";
import type { Random } from "../platform/random.ts";
import { type ExtentImage, lengthOfExtent } from "./extent-images.ts";
import {
  dataAt,
  decodeEntry,
  decodeLayerHead,
  type Entry,
  encodeEntry,
  encodeLayerHead,
  entriesOfPage,
  entryBytes,
  entryKind,
  extentBytes,
  headerBytes,
  headerStep,
  type LayerHead,
} from "./format.ts";
import type { JournalFile, LayerFolder } from "./journal-file.ts";
import { EntryTable } from "./table.ts";

/** Extents that are read at once, and how many such runs at a time. */
const runExtentsMax = 16;
const runsAtOnce = 4;

/** What neighbouring extents are to be kept as. */
export type ImageSource = (first: number, count: number) => Promise<ExtentImage[]>;

/** What an entry of the table leads to. */
export type KeptImage = ExtentImage | TornImage | undefined;

/** An image that was never whole on the medium: nobody has overwritten the extent, which still has data of this CRC. */
export interface TornImage {
  readonly tornCrc: number;
}

export interface LayerOptions {
  readonly random: Random;
  /** Pages of the table in memory. */
  readonly pagesMax?: number | undefined;
}

export class Layer {
  readonly head: LayerHead;
  /** For messages. */
  readonly path: string;
  readonly #file: JournalFile;
  readonly #table: EntryTable;
  readonly #random: Random;
  /** One at a time writes and flushes, so that nobody is told of what another one lost. */
  readonly #turn = new Semaphore(1);
  /** By whose entries this owner goes without looking at the medium. */
  #writer: Buffer;
  #slots = 0;
  #kept = 0;
  readonly #damaged = new Set<number>();
  #users = 0;
  #retired = false;

  private constructor(file: JournalFile, path: string, head: LayerHead, { random, pagesMax }: LayerOptions) {
    this.#file = file;
    this.path = path;
    this.head = head;
    this.#random = random;
    this.#writer = random.bytes(8);
    this.#table = new EntryTable(file, pagesMax);
  }

  /** A layer without images, on the medium. */
  static async create(folder: LayerFolder, head: LayerHead, options: LayerOptions): Promise<Layer> {
    const file = await folder.create(head.epoch, dataAt(head.volumeBytes));
    try {
      const bytes = encodeLayerHead(head);
      for (const at of [0, headerStep]) await file.write(at, [bytes]);
      await file.flush();
      return new Layer(file, `${folder.path}/${head.epoch}`, head, options);
    } catch (error) {
      file.close();
      throw error;
    }
  }

  /** @throws AgentError `state_damaged` for a file that is none, or of another epoch than its name */
  static async open(folder: LayerFolder, epoch: number, options: LayerOptions): Promise<Layer> {
    const file = await folder.open(epoch);
    try {
      const path = `${folder.path}/${epoch}`;
      let head: LayerHead | undefined;
      for (const at of [0, headerStep]) {
        const bytes = Buffer.alloc(headerBytes);
        await file.read(at, bytes);
        head ??= decodeLayerHead(bytes);
      }
      if (head?.epoch !== epoch)
        throw new AgentError("state_damaged", `"${path}" is damaged: it is no layer of before-images`);
      const layer = new Layer(file, path, head, options);
      await layer.#count();
      return layer;
    } catch (error) {
      file.close();
      throw error;
    }
  }

  /** Its table takes no more memory than that. */
  limitPages(pagesMax: number): void {
    this.#table.limit(pagesMax);
  }

  /** Extents that the volume had when the layer was begun. */
  get extents(): number {
    return Math.ceil(this.head.volumeBytes / extentBytes);
  }

  get keptExtents(): number {
    return this.#kept;
  }

  /** What the images take in the file. */
  get keptBytes(): number {
    return this.#slots * extentBytes;
  }

  // --- what is kept ---

  /** Whether the image is on the medium; undefined if that takes waiting. */
  isKeptNow(extent: number): boolean | undefined {
    const page = this.#table.resident(Math.floor(extent / entriesOfPage));
    return page && this.#counts(this.#entryOf(page, extent));
  }

  async isKept(extent: number): Promise<boolean> {
    return this.#counts(this.#entryOf(await this.#page(extent), extent));
  }

  #counts(entry: ReturnType<typeof decodeEntry>): boolean {
    return typeof entry === "object" && entry.writer.equals(this.#writer);
  }

  #page(extent: number): Promise<Buffer> {
    return this.#table.page(Math.floor(extent / entriesOfPage));
  }

  #entryOf(page: Buffer, extent: number): ReturnType<typeof decodeEntry> {
    const at = (extent % entriesOfPage) * entryBytes;
    const entry = decodeEntry(page.subarray(at, at + entryBytes));
    return typeof entry === "object" && entry.epoch !== this.head.epoch ? "none" : entry;
  }

  /** What keeps the extents that come together. One for a layer. */
  batch(source: ImageSource): Batch<number> {
    return new Batch((extents) => this.keep(extents, source));
  }

  /** The first of the extents whose image is damaged. */
  damagedOf(extents: readonly number[]): number | undefined {
    return extents.find((extent) => this.#damaged.has(extent));
  }

  /** Keeps what the source says that the extents are, where they have no image; on the medium. @throws what I/O gives */
  async keep(extents: readonly number[], source: ImageSource): Promise<void> {
    const leave = await this.#turn.acquire();
    const slots = this.#slots;
    let written = false;
    try {
      const entries = new Map<number, Buffer>();
      const wanted: number[] = [];
      const fresh = new Set<number>();
      /** What an entry that was torn says of an extent that cannot have been overwritten since. */
      const expected = new Map<number, Entry>();
      for (const extent of [...extents].sort((a, b) => a - b)) {
        const entry = this.#entryOf(await this.#page(extent), extent);
        if (this.#counts(entry)) continue;
        if (entry === "damaged") this.#damaged.add(extent);
        else if (entry === "none") {
          wanted.push(extent);
          fresh.add(extent);
        } else if (entry.kind !== entryKind.data || (await this.#dataOf(extent, entry, true))) {
          entries.set(extent, encodeEntry({ ...entry, writer: this.#writer }));
        } else {
          expected.set(extent, entry);
          wanted.push(extent);
        }
      }
      await this.#store(wanted, source, expected, entries);
      if (entries.size === 0) return;
      written = true;
      await this.#table.write(entries, () => this.#file.flush());
      for (const extent of entries.keys()) if (fresh.has(extent)) this.#kept++;
    } catch (error) {
      // What is in the file by now is not known to be on the medium; or no entry names it, and it may be written over.
      if (written) this.#writer = this.#random.bytes(8);
      else this.#slots = slots;
      throw error;
    } finally {
      leave();
    }
  }

  /** Takes images of the extents, puts their data into the file, and notes their entries. */
  async #store(
    wanted: readonly number[],
    source: ImageSource,
    expected: ReadonlyMap<number, Entry>,
    entries: Map<number, Buffer>,
  ): Promise<void> {
    const runs: { first: number; count: number }[] = [];
    for (const extent of wanted) {
      const last = runs.at(-1);
      if (last && last.first + last.count === extent && last.count < runExtentsMax) last.count++;
      else runs.push({ first: extent, count: 1 });
    }
    const { epoch } = this.head;
    for (let at = 0; at < runs.length; at += runsAtOnce) {
      const taken = await Promise.allSettled(
        runs.slice(at, at + runsAtOnce).map(async ({ first, count }) => {
          const images = await source(first, count);
          const right = images.filter(({ extent, dataCrc }) => {
            const torn = expected.get(extent);
            if (!torn || torn.dataCrc === dataCrc) return true;
            this.#damaged.add(extent);
            return false;
          });
          const withData = right.filter((image) => image.data);
          const firstSlot = this.#slots + 1;
          this.#slots += withData.length;
          if (withData.length > 0)
            await this.#file.write(
              this.#slotAt(firstSlot),
              withData.map(({ data }) => whole(data!)),
            );
          let slot = firstSlot;
          for (const { extent, kind, data, dataCrc, unreadable } of right)
            entries.set(
              extent,
              encodeEntry({
                kind,
                epoch,
                writer: this.#writer,
                slot: data ? slot++ : 0,
                dataCrc,
                unreadable,
              }),
            );
        }),
      );
      for (const result of taken) if (result.status === "rejected") throw result.reason;
    }
  }

  #slotAt(slot: number): number {
    return dataAt(this.head.volumeBytes) + (slot - 1) * extentBytes;
  }

  /** What the file has for an entry; undefined if that is not what the entry says. */
  async #dataOf(extent: number, { slot, dataCrc }: Entry, direct: boolean): Promise<Buffer | undefined> {
    const bytes = Buffer.allocUnsafeSlow(extentBytes);
    try {
      await this.#file.read(this.#slotAt(slot), bytes, { direct });
    } catch {
      return undefined; // a power cut may have left the file shorter
    }
    const data = bytes.subarray(0, lengthOfExtent(extent, this.head.volumeBytes));
    return crc32c(data) === dataCrc ? data : undefined;
  }

  // --- what was kept ---

  /** The image of an extent, or that it is torn; undefined if it has none. @throws AgentError `state_damaged` */
  async imageOf(extent: number): Promise<KeptImage> {
    if (extent >= this.extents) return undefined;
    return this.#imageOf(extent, this.#entryOf(await this.#page(extent), extent));
  }

  async #imageOf(extent: number, entry: ReturnType<typeof decodeEntry>): Promise<KeptImage> {
    if (entry === "none") return undefined;
    if (entry === "damaged") throw this.damage(extent);
    const { kind, dataCrc, unreadable } = entry;
    if (kind !== entryKind.data) return { extent, kind, dataCrc, unreadable };
    const data = await this.#dataOf(extent, entry, false);
    return data ? { extent, kind, data, dataCrc, unreadable } : { tornCrc: dataCrc };
  }

  damage(extent: number): AgentError {
    return new AgentError(
      "state_damaged",
      `The before-image of byte ${extent * extentBytes} in "${this.path}" is damaged`,
    );
  }

  /** All images, in order; what is damaged is named. */
  async *images(): AsyncGenerator<{
    extent: number;
    image: () => Promise<KeptImage>;
  }> {
    for await (const { page, bytes } of this.#table.written(Math.ceil(this.extents / entriesOfPage))) {
      for (let i = 0; i < entriesOfPage; i++) {
        const extent = page * entriesOfPage + i;
        const entry = extent < this.extents ? this.#entryOf(bytes, extent) : "none";
        if (entry !== "none") yield { extent, image: () => this.#imageOf(extent, entry) };
      }
    }
  }

  async #count(): Promise<void> {
    for await (const { page, bytes } of this.#table.written(Math.ceil(this.extents / entriesOfPage))) {
      for (let i = 0; i < entriesOfPage; i++) {
        const entry = this.#entryOf(bytes, page * entriesOfPage + i);
        if (entry === "none") continue;
        this.#kept++;
        if (entry !== "damaged") this.#slots = Math.max(this.#slots, entry.slot);
      }
    }
  }

  // --- its file ---

  /** Keeps the file open, whatever becomes of its name, until release(). */
  hold(): void {
    this.#users++;
  }

  release(): void {
    this.#users--;
    if (this.#retired && this.#users === 0) this.#file.close();
  }

  /** Closes the file once nobody holds it. */
  close(): void {
    if (this.#retired) return;
    this.#retired = true;
    if (this.#users === 0) this.#file.close();
  }
}

/** A slot's worth of bytes, so that slots lie at multiples of it. */
function whole(data: Buffer): Buffer {
  return data.length === extentBytes ? data : Buffer.concat([data, Buffer.alloc(extentBytes - data.length)]);
}
