// The journal of a volume's before-images: which run is open, and what the extents held before it.
//
// Guarantees: when keep() resolves, the before-images are on the medium; callers of one time share one flush. What an
// earlier owner wrote, or what was written before a flush that failed, is looked at on the medium before it counts. The
// state changes in one step, by a header of one sector; while nobody knows which one is on the medium, nothing goes on.
// Memory is bounded. docs/formats/whole.md is the reference.
import { Batch, Semaphore } from "../base/async.ts";
import { AgentError } from "../base/errors.ts";
import { crc32c } from "../platform/native-digest.ts";
import type { Random } from "../platform/random.ts";
import type { Volume } from "../volume/volume.ts";
import { type ExtentImage, lengthOfExtent, readExtent, takeImages } from "./extent-images.ts";
import {
  dataAt,
  decodeEntry,
  type Entry,
  encodeEntry,
  entriesOfPage,
  entryBytes,
  entryKind,
  extentBytes,
  type Header,
  journalState,
} from "./format.ts";
import type { JournalFile } from "./journal-file.ts";
import { JournalHeader, journalFailure } from "./journal-header.ts";
import { EntryTable } from "./table.ts";

/** Extents that are read at once, and how many such runs at a time. */
const runExtentsMax = 16;
const runsAtOnce = 4;

export interface JournalOptions {
  /** For messages. */
  readonly path: string;
  readonly random: Random;
  readonly nowMs: () => number;
  /** Whether somebody else has written to the volume since this header was written. */
  readonly isForeign: (found: Header) => Promise<boolean>;
  readonly pagesMax?: number;
}

export class Journal {
  readonly #file: JournalFile;
  readonly #base: Volume;
  readonly #options: JournalOptions;
  readonly #table: EntryTable;
  readonly #batch: Batch<number>;
  /** One at a time writes and flushes, so that nobody is told of what another one lost. */
  readonly #turn: Semaphore;
  readonly #state: JournalHeader;
  /** By whose entries this owner goes without looking at the medium. */
  #writer: Buffer;
  #slots = 0;
  #kept = 0;
  readonly #damaged = new Set<number>();

  private constructor(
    file: JournalFile,
    base: Volume,
    state: JournalHeader,
    turn: Semaphore,
    options: JournalOptions,
  ) {
    this.#file = file;
    this.#base = base;
    this.#state = state;
    this.#turn = turn;
    this.#options = options;
    this.#table = new EntryTable(file, options.pagesMax);
    this.#writer = options.random.bytes(8);
    this.#batch = new Batch((extents) => this.#take(extents));
  }

  /** `volume`: what the volume is named by. @throws AgentError `state_damaged`, `io_error` */
  static async open(
    file: JournalFile,
    base: Volume,
    volume: Buffer,
    options: JournalOptions,
  ): Promise<Journal> {
    const turn = new Semaphore(1);
    const state = await JournalHeader.open(file, options.path, volume, options.nowMs, turn);
    const journal = new Journal(file, base, state, turn, options);
    if (journal.isOpen) await journal.#count();
    // What was found may be in the page cache alone, and the medium may say something else. What others have written is
    // remembered by the same step that says that this owner is alive.
    if (state.now.sequence > 0) {
      const foreign = journal.isOpen && (state.now.foreign || (await options.isForeign(state.now)));
      await journal.note("take over what was kept", { foreign, volume });
    }
    return journal;
  }

  get header(): Header {
    return this.#state.now;
  }

  get isOpen(): boolean {
    return this.header.state !== journalState.whole;
  }

  /** Extents that before-images are kept of: those that the volume had when the run began. */
  get extents(): number {
    return Math.ceil(this.header.volumeBytes / extentBytes);
  }

  get keptExtents(): number {
    return this.#kept;
  }

  /** What the before-images take in the file. */
  get keptBytes(): number {
    return this.#slots * extentBytes;
  }

  get isSure(): boolean {
    return this.#state.isSure;
  }

  /** @throws AgentError while nobody knows what the medium says the state is */
  checkSure(): void {
    this.#state.checkSure();
  }

  // --- what is kept ---

  /** Whether the before-image is on the medium; undefined if that takes waiting. */
  isKeptNow(extent: number): boolean | undefined {
    const page = this.#table.resident(Math.floor(extent / entriesOfPage));
    return page && this.#counts(this.#entryOf(page, extent));
  }

  async isKept(extent: number): Promise<boolean> {
    return this.#counts(this.#entryOf(await this.#page(extent), extent));
  }

  #counts(entry: ReturnType<typeof decodeEntry>): boolean {
    return (
      typeof entry === "object" && entry.epoch === this.header.epoch && entry.writer.equals(this.#writer)
    );
  }

  #page(extent: number): Promise<Buffer> {
    return this.#table.page(Math.floor(extent / entriesOfPage));
  }

  #entryOf(page: Buffer, extent: number): ReturnType<typeof decodeEntry> {
    const at = (extent % entriesOfPage) * entryBytes;
    const entry = decodeEntry(page.subarray(at, at + entryBytes));
    return typeof entry === "object" && entry.epoch !== this.header.epoch ? "none" : entry;
  }

  /** Keeps what the extents hold. @throws AgentError `no_space`, `io_error`: none of them may be overwritten then */
  async keep(extents: readonly number[]): Promise<void> {
    try {
      this.checkSure();
      await this.#batch.want(extents);
    } catch (error) {
      throw this.#failure(`keep what "${this.#base.name}" holds`, error, "nothing was overwritten");
    }
    const damaged = extents.find((extent) => this.#damaged.has(extent));
    if (damaged !== undefined) throw this.#damage(damaged);
  }

  #damage(extent: number): AgentError {
    return new AgentError(
      "state_damaged",
      `The before-image of byte ${extent * extentBytes} of "${this.#base.name}" in "${this.#options.path}" is damaged; ` +
        "nothing was overwritten. Commit the run if the volume is right, or roll it back with --force",
    );
  }

  async #take(extents: readonly number[]): Promise<void> {
    const leave = await this.#turn.acquire();
    let written = false;
    try {
      const entries = new Map<number, Buffer>();
      const wanted: number[] = [];
      let fresh = 0;
      /** What an entry that was torn says of an extent that cannot have been overwritten since. */
      const expected = new Map<number, Entry>();
      for (const extent of [...extents].sort((a, b) => a - b)) {
        const entry = this.#entryOf(await this.#page(extent), extent);
        if (this.#counts(entry)) continue;
        if (entry === "damaged") this.#damaged.add(extent);
        else if (entry === "none") {
          wanted.push(extent);
          fresh++;
        } else if (entry.kind !== entryKind.data || (await this.#dataOf(extent, entry, true))) {
          entries.set(extent, encodeEntry({ ...entry, writer: this.#writer }));
        } else {
          expected.set(extent, entry);
          wanted.push(extent);
        }
      }
      await this.#store(wanted, expected, entries);
      if (entries.size === 0) return;
      written = true;
      await this.#table.write(entries, () => this.#file.flush());
      this.#kept += fresh;
    } catch (error) {
      // What is in the file by now is not known to be on the medium.
      if (written) this.#writer = this.#options.random.bytes(8);
      throw error;
    } finally {
      leave();
    }
  }

  /** Takes images of the extents, puts their data into the file, and notes their entries. */
  async #store(
    wanted: readonly number[],
    expected: ReadonlyMap<number, Entry>,
    entries: Map<number, Buffer>,
  ): Promise<void> {
    const runs: { first: number; count: number }[] = [];
    for (const extent of wanted) {
      const last = runs.at(-1);
      if (last && last.first + last.count === extent && last.count < runExtentsMax) last.count++;
      else runs.push({ first: extent, count: 1 });
    }
    const { volumeBytes, epoch } = this.header;
    for (let at = 0; at < runs.length; at += runsAtOnce) {
      const taken = await Promise.allSettled(
        runs.slice(at, at + runsAtOnce).map(async ({ first, count }) => {
          const images = await takeImages(this.#base, first, count, volumeBytes);
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
    return dataAt(this.header.volumeBytes) + (slot - 1) * extentBytes;
  }

  /** What the file has for an entry; undefined if that is not what the entry says. */
  async #dataOf(extent: number, { slot, dataCrc }: Entry, direct: boolean): Promise<Buffer | undefined> {
    const bytes = Buffer.allocUnsafeSlow(extentBytes);
    try {
      await this.#file.read(this.#slotAt(slot), bytes, { direct });
    } catch {
      return undefined; // a power cut may have left the file shorter
    }
    const data = bytes.subarray(0, lengthOfExtent(extent, this.header.volumeBytes));
    return crc32c(data) === dataCrc ? data : undefined;
  }

  // --- what was kept ---

  /** What an extent held before the run; undefined if it still holds that. @throws AgentError `state_damaged` */
  async imageOf(extent: number): Promise<ExtentImage | undefined> {
    return this.#imageOf(extent, this.#entryOf(await this.#page(extent), extent));
  }

  async #imageOf(extent: number, entry: ReturnType<typeof decodeEntry>): Promise<ExtentImage | undefined> {
    if (entry === "none") return undefined;
    if (entry === "damaged") throw this.#damage(extent);
    const { kind, dataCrc, unreadable } = entry;
    if (kind !== entryKind.data) return { extent, kind, dataCrc, unreadable };
    const data = await this.#dataOf(extent, entry, false);
    if (data) return { extent, kind, data, dataCrc, unreadable };
    // Torn: then nobody has overwritten the extent, and it holds what the entry says.
    const now = await readExtent(this.#base, extent, this.header.volumeBytes);
    if (now.data && now.dataCrc === dataCrc) return undefined;
    throw this.#damage(extent);
  }

  /** All images, in order; what is damaged is named. */
  async *images(): AsyncGenerator<{ extent: number; image: () => Promise<ExtentImage | undefined> }> {
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

  // --- the state ---

  /** Begins a run of a volume that is whole. */
  async begin(run: Buffer, volumeBytes: number): Promise<void> {
    await this.#change("begin a run", async () => {
      const epoch = this.header.sequence + 1;
      this.#table.clear();
      this.#damaged.clear();
      this.#slots = 0;
      this.#kept = 0;
      await this.#file.reset(dataAt(volumeBytes));
      const sinceMs = this.#options.nowMs();
      return { state: journalState.open, run, volumeBytes, epoch, sinceMs, foreign: false };
    });
  }

  /** Changes what the header says. On the medium when it resolves. @throws AgentError `io_error`, `no_space` */
  async note(doing: string, changes: Partial<Header>): Promise<void> {
    await this.#change(doing, async () => changes);
  }

  /** Ends the run: its before-images are gone. */
  async end(run: Buffer, label = this.header.label): Promise<void> {
    await this.#change("end the run", async () => ({
      state: journalState.whole,
      run,
      foreign: false,
      label,
    }));
    this.#table.clear();
    this.#slots = 0;
    this.#kept = 0;
    // Whatever becomes of that: entries of a run that has ended count no more.
    await this.#file.reset(dataAt(0)).catch(() => {});
  }

  async #change(doing: string, prepare: () => Promise<Partial<Header>>): Promise<void> {
    try {
      await this.#state.change(doing, prepare);
    } catch (error) {
      // The flush may have been told of what others wrote.
      this.#writer = this.#options.random.bytes(8);
      throw error;
    }
  }

  #failure(doing: string, cause: unknown, next: string): AgentError {
    return journalFailure(doing, this.#options.path, cause, next);
  }

  close(): void {
    this.#file.close();
  }
}

/** A slot's worth of bytes, so that slots lie at multiples of it. */
function whole(data: Buffer): Buffer {
  return data.length === extentBytes ? data : Buffer.concat([data, Buffer.alloc(extentBytes - data.length)]);
}
