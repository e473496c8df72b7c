// The journal of a volume's before-images: which run is open, which layer takes images now, and which older ones there are.
//
// Guarantees: when keep() resolves, the before-images are on the medium. The state changes in one step, by a header of one
// sector; while nobody knows which one is on the medium, nothing goes on. A layer that was begun is known by that header, and
// what was made without it is made anew. While there are older layers, what is written outside of a run is kept too. Where room is
// wanting, the oldest layers are given up, and never the open run's. docs/formats/whole.md is the reference.
import { type Batch, Semaphore } from "../base/async.ts";
import { AgentError, messageOf } from "../base/errors.ts";
import { type Random, randomUuid } from "../platform/random.ts";
import type { SetLabel, Volume } from "../volume/volume.ts";
import { Chain } from "./chain.ts";
import { takeImages } from "./extent-images.ts";
import { extentBytes, type Header, journalState, type LayerHead } from "./format.ts";
import { findLayers, isRecording, type Log } from "./found-layers.ts";
import type { JournalFile, LayerFolder } from "./journal-file.ts";
import { JournalHeader, journalFailure } from "./journal-header.ts";
import type { KeepPolicy } from "./keep-policy.ts";
import { Layer } from "./layer.ts";
import { Tidy } from "./tidy.ts";

/** Of each layer but the current one: so that all of them together take no more than some of it. */
const sealedPagesMax = 32;
const nobody = Buffer.alloc(16);
/** What is written outside of a run is not kept. */
const nothingKept = { keeping: false, madeMs: 0, madeRun: nobody };

export interface JournalOptions {
  /** For messages. */
  readonly path: string;
  readonly random: Random;
  readonly nowMs: () => number;
  /** Whether somebody else has written to the volume since this header was written. */
  readonly isForeign: (found: Header) => Promise<boolean>;
  readonly log: Log;
  readonly pagesMax?: number;
  /** Which restore points are kept; absent: those that there are, and no new ones. */
  readonly keep?: KeepPolicy | undefined;
  /** What they may take. */
  readonly spaceBytes?: number | undefined;
}

const isFull = (error: unknown): boolean =>
  ["ENOSPC", "EDQUOT", "no_space"].includes((error as { code?: string }).code ?? "");

export class Journal {
  readonly chain: Chain;
  readonly tidy: Tidy;
  readonly #file: JournalFile;
  readonly #folder: LayerFolder;
  readonly #base: Volume;
  readonly #options: JournalOptions;
  readonly #state: JournalHeader;
  /** Of the current layer. */
  #batch: Batch<number> | undefined;
  /** One at a time makes room. */
  readonly #room = new Semaphore(1);
  /** How often that was done. */
  #rooms = 0;

  private constructor(
    file: JournalFile,
    folder: LayerFolder,
    base: Volume,
    state: JournalHeader,
    chain: Chain,
    options: JournalOptions,
  ) {
    this.#file = file;
    this.#folder = folder;
    this.#base = base;
    this.#state = state;
    this.#options = options;
    this.chain = chain;
    this.tidy = new Tidy(chain, options);
    this.#batchOf(chain.current);
  }

  /** `volume`: what the volume is named by. @throws AgentError `state_damaged`, `io_error` */
  static async open(
    file: JournalFile,
    folder: LayerFolder,
    base: Volume,
    volume: Buffer,
    options: JournalOptions,
  ): Promise<Journal> {
    const state = await JournalHeader.open(file, options.path, volume, options.nowMs);
    const found = state.now;
    const { layers, left, ...known } = await findLayers(folder, found, { ...options, sealedPagesMax });
    try {
      const { epoch } = known;
      let { doubtEpoch } = known;
      const current = isRecording(found) ? layers.find(({ head }) => head.epoch === epoch) : undefined;
      const isOpen = found.state !== journalState.whole;
      if (isOpen && !current) {
        throw new AgentError(
          "state_damaged",
          `Cannot open "${options.path}": the before-images of the open run in "${folder.path}/${epoch}" are gone or ` +
            "damaged. Compare the volume with its source, and remove the file and the folder",
        );
      }
      const lost = found.keeping && !current;
      if (lost) doubtEpoch = epoch;
      const sealed = layers.filter((layer) => layer !== current);
      const chain = new Chain(base, folder, sealed, current);
      const journal = new Journal(file, folder, base, state, chain, options);
      const isNew = found.sequence === 0 && epoch === 0;
      // What was found may be in the page cache alone, and the medium may say something else. What others have written is
      // remembered by the same step that says that this owner is alive.
      const foreign = journal.#isGuarding && (await options.isForeign(found));
      if (foreign) doubtEpoch = epoch;
      const unknown = foreign || lost || !journal.#mayShow;
      if (!isNew)
        await journal.note("take over what was kept", {
          epoch,
          doubtEpoch,
          foreign: isOpen && (found.foreign || foreign),
          keeping: found.keeping && !lost,
          volume,
          ...(unknown && { madeMs: 0, madeRun: nobody }),
        });
      // Not before: the medium may have said that a run is open in one of them.
      for (const each of left) await folder.remove(each).catch(() => {}); // or it is made anew
      return journal;
    } catch (error) {
      for (const layer of layers) layer.close();
      throw error;
    }
  }

  get header(): Header {
    return this.#state.now;
  }

  /** A run is open. */
  get isOpen(): boolean {
    return this.header.state !== journalState.whole;
  }

  /** What is overwritten is kept: of a run, or of whatever is written while older layers need it. */
  get isRecording(): boolean {
    return isRecording(this.header);
  }

  /** What the volume holds now, or held when the open run began, is kept by a layer that stays. */
  get keepsAll(): boolean {
    const { current } = this.chain;
    return this.isRecording && current !== undefined && !this.chain.isCondemned(current);
  }

  /** Before anything is written, keepOutside() is to be called. */
  get mustRecord(): boolean {
    return !this.isRecording && this.#isGuarding;
  }

  /** Somebody's points rely on every write being kept. */
  get #isGuarding(): boolean {
    return this.isRecording || this.chain.sealed.length > 0 || this.header.madeMs !== 0;
  }

  get #wantsPoints(): boolean {
    return (this.#options.keep?.length ?? 0) > 0;
  }

  /** What is kept from here on may be shown as a point. */
  get #mayShow(): boolean {
    const { current, sealed } = this.chain;
    return this.#wantsPoints || sealed.length > 0 || (current !== undefined && this.chain.isPinned(current));
  }

  /** Others' writes are to be noticed. */
  get isGuarding(): boolean {
    return this.#isGuarding;
  }

  /** Extents that before-images are kept of: those that the volume had when the layer was begun. */
  get extents(): number {
    return this.chain.current?.extents ?? 0;
  }

  get volumeBytes(): number {
    return this.chain.current?.head.volumeBytes ?? 0;
  }

  get isSure(): boolean {
    return this.#state.isSure;
  }

  /** @throws AgentError while nobody knows what the medium says the state is */
  checkSure(): void {
    this.#state.checkSure();
  }

  /** Somebody else may have written to the volume since the layer was begun. */
  isDoubtful({ head }: Layer): boolean {
    return head.epoch <= this.header.doubtEpoch || !head.volume.equals(this.header.volume);
  }

  /** What there is by now can't be relied on any more. */
  async doubt(): Promise<void> {
    const { epoch } = this.header;
    await this.note("doubt what was kept", {
      doubtEpoch: epoch,
      madeMs: 0,
      madeRun: nobody,
      foreign: this.isOpen,
    });
  }

  // --- what is kept ---

  /** Whether the before-image is on the medium; undefined if that takes waiting. */
  isKeptNow(extent: number): boolean | undefined {
    return this.chain.current?.isKeptNow(extent);
  }

  async isKept(extent: number): Promise<boolean> {
    return (await this.chain.current?.isKept(extent)) ?? false;
  }

  /** Keeps what the extents hold. @throws AgentError `no_space`, `io_error`: none of them may be overwritten then */
  async keep(extents: readonly number[]): Promise<void> {
    for (;;) {
      const rooms = this.#rooms;
      try {
        this.checkSure();
        if (!this.isRecording) return; // given up, for want of room
        if (this.#batch) {
          await this.#batch.want(extents);
          break;
        }
        await this.#settleKeeping();
      } catch (error) {
        if (isFull(error) && (await this.#makeRoom(rooms))) continue;
        throw this.#failure(`keep what "${this.#base.name}" holds`, error, "nothing was overwritten");
      }
    }
    const damaged = this.chain.current?.damagedOf(extents);
    if (damaged !== undefined) throw this.damage(damaged);
    while (this.tidy.isOverfull && (await this.#giveUp("they take more than they may"))) {}
  }

  damage(extent: number): AgentError {
    return new AgentError(
      "state_damaged",
      `The before-image of byte ${extent * extentBytes} of "${this.#base.name}" in "${this.chain.current?.path}" is damaged; ` +
        "nothing was overwritten. Commit the run if the volume is right, or roll it back with --force",
    );
  }

  /** Gives up what is worth least, unless somebody has since `rooms`; false if nothing may be. */
  async #makeRoom(rooms: number): Promise<boolean> {
    const leave = await this.#room.acquire();
    try {
      // Many wait for one image, and all of them are told of one failure.
      if (this.#rooms !== rooms) return true;
      const why = "there is no room for before-images";
      if (await this.#giveUp(why)) return true;
      const { current, sealed } = this.chain;
      if (this.isOpen || !current || sealed.length > 0 || this.chain.isPinned(current)) return false;
      // Nobody's run: what is written goes before what it was.
      await this.stopKeeping(why);
      return true;
    } finally {
      leave();
    }
  }

  /** Nobody will be shown what is kept of a volume that is whole. */
  get keepsInVain(): boolean {
    return this.header.keeping && this.chain.current !== undefined && !this.#mayShow;
  }

  /** Keeps no more what a volume that is whole held. @throws what I/O gives */
  async stopKeeping(why: string): Promise<void> {
    const { current } = this.chain;
    if (this.isOpen || !current || this.chain.isPinned(current)) return;
    this.#batch = undefined;
    await this.chain.remove(current);
    this.#rooms++;
    await this.note("keep nothing any more", nothingKept);
    this.#options.log("info", `what "${this.#base.name}" held is not kept as a restore point: ${why}`);
  }

  /** Where giving up what is kept was cut off. */
  async #settleKeeping(): Promise<void> {
    const leave = await this.#room.acquire();
    try {
      if (this.#batch || !this.isRecording) return;
      if (this.chain.current) this.#batchOf(this.chain.current);
      else await this.note("keep nothing any more", nothingKept);
    } finally {
      leave();
    }
  }

  async #giveUp(why: string): Promise<boolean> {
    try {
      const layer = await this.chain.giveUpOldest();
      if (!layer) return false;
      this.#rooms++;
      this.#options.log(
        "warning",
        `the restore point ${layer.head.epoch} of "${this.#base.name}" was given up: ${why}`,
      );
      return true;
    } catch (error) {
      this.#options.log("error", `a restore point of "${this.#base.name}" stays: ${messageOf(error)}`);
      return false;
    }
  }

  #batchOf(layer: Layer | undefined): void {
    this.#batch = layer?.batch((first, count) =>
      takeImages(this.#base, first, count, layer.head.volumeBytes),
    );
  }

  // --- the state ---

  /** Begins a run of a volume that is whole, and on the medium. */
  async begin(run: Buffer, volumeBytes: number): Promise<void> {
    const doing = "begin a run";
    const changes = {
      state: journalState.open,
      keeping: false,
      run,
      sinceMs: this.#options.nowMs(),
      foreign: false,
    };
    const { current } = this.chain;
    const isFresh =
      this.keepsAll &&
      current?.keptExtents === 0 &&
      current.head.volumeBytes === volumeBytes &&
      !this.isDoubtful(current);
    if (isFresh) await this.note(doing, changes);
    else await this.#beginLayer(doing, volumeBytes, changes);
  }

  /** Begins to keep what is written to a volume that is whole, and on the medium. */
  async keepOutside(volumeBytes: number): Promise<void> {
    await this.#beginLayer("keep what is written", volumeBytes, { keeping: true });
  }

  async #beginLayer(doing: string, volumeBytes: number, changes: Partial<Header>): Promise<void> {
    const { madeMs, madeRun, label, volume, epoch } = this.header;
    // What was written meanwhile made another one of it.
    const isMade = madeMs !== 0 && !this.isRecording;
    const head: LayerHead = {
      epoch: epoch + 1,
      volumeBytes,
      madeMs: isMade ? madeMs : this.#options.nowMs(),
      run: isMade ? madeRun : nobody,
      label: isMade ? label : undefined,
      volume,
      id: randomUuid(this.#options.random),
      isPoint: this.#wantsPoints,
    };
    // The medium may name a layer of that epoch, which is about to be made anew.
    if (!this.isSure) await this.note(doing, {});
    const layer = await this.#create(doing, head);
    try {
      await this.note(doing, { ...changes, epoch: head.epoch });
    } catch (error) {
      layer.close();
      throw error;
    }
    this.#seal();
    this.chain.current = layer;
    this.#batchOf(layer);
  }

  #seal(): void {
    this.chain.current?.limitPages(sealedPagesMax);
    this.chain.seal();
    this.#batch = undefined;
  }

  async #create(doing: string, head: LayerHead): Promise<Layer> {
    const { random, pagesMax } = this.#options;
    for (;;) {
      try {
        return await Layer.create(this.#folder, head, { random, pagesMax });
      } catch (error) {
        if (isFull(error) && (await this.#giveUp("there is no room for before-images"))) continue;
        throw this.#failure(doing, error, "try again once there is room");
      }
    }
  }

  /** Changes what the header says. On the medium when it resolves. @throws AgentError `io_error`, `no_space` */
  async note(doing: string, changes: Partial<Header>): Promise<void> {
    await this.#state.change(doing, changes);
  }

  /** The run is committed: its before-images are a restore point, if anybody wants it. */
  async commit(run: Buffer, label: SetLabel | undefined = this.header.label): Promise<void> {
    const madeMs = this.#mayShow ? this.#options.nowMs() : 0;
    await this.#end({ run, label, madeMs, madeRun: run });
  }

  /**
   * The run is rolled back: `complete` if the volume holds again all that it did when it began. If it does not, it is no
   * generation: that of its label is 0.
   */
  async rolledBack(complete: boolean): Promise<void> {
    const { current } = this.chain;
    const madeMs = complete && this.#mayShow ? current!.head.madeMs : 0;
    const { label } = this.header;
    const none = complete || !label ? {} : { label: { ...label, generation: 0 } };
    await this.#end({ run: nobody, madeMs, madeRun: current!.head.run, ...none }, complete);
  }

  async #end(changes: Partial<Header>, isRedundant = false): Promise<void> {
    const state = { state: journalState.whole, keeping: false, foreign: false };
    await this.note("end the run", { ...state, ...changes });
    const { current } = this.chain;
    this.#seal();
    if (isRedundant) this.tidy.redundant(current!);
    // Whatever becomes of that: the run has ended.
    await this.tidy.drop().catch((error: unknown) => {
      this.#options.log("warning", `before-images of "${this.#base.name}" stay: ${messageOf(error)}`);
    });
  }

  #failure(doing: string, cause: unknown, next: string): AgentError {
    return journalFailure(doing, this.#options.path, cause, next);
  }

  close(): void {
    this.chain.close();
    this.#file.close();
  }
}
