// A volume with a catalogue: what is known of it is not read again, and every write is noted before it begins.
//
// Guarantees: reads and writes are those of the volume underneath; digests that are asked for fresh are too. Others are
// the catalogue's where it believes them, and are digested, and remembered, where not. An extent that a scrub found to
// differ from what was written is answered for like one that can't be read, until it has been written anew. A write
// goes on without the catalogue where that fails and can be thrown away; else it fails.
import { lengthOf } from "../base/bytes.ts";
import { AgentError, messageOf } from "../base/errors.ts";
import type { Random } from "../platform/random.ts";
import { volumeIdentifiers } from "../volume/read-digests.ts";
import {
  type CatalogueOffer,
  type CommitOptions,
  type CompareAnswer,
  checkRange,
  type DigestAnswer,
  type DigestWindow,
  differences,
  type GenerationChanges,
  type Geometry,
  type IdentifierWindow,
  type ReadOptions,
  type RollBackOptions,
  type RolledBack,
  type SetLabel,
  type Unreadable,
  type Volume,
  type VolumeIdentity,
  type VolumeTraits,
  type WholeState,
  type WriteOptions,
} from "../volume/volume.ts";
import { Answers } from "./answers.ts";
import type { Catalogue } from "./catalogue.ts";
import { changesSince } from "./changes.ts";
import { findExtents } from "./find.ts";
import type { Histories } from "./history.ts";
import { regionsOfWriteMax, type Ticket } from "./regions.ts";
import { fanOut } from "./shape.ts";

export interface CataloguedOptions {
  readonly extentBlocks: number;
  readonly random: Random;
  /** Throws the catalogue away, so that nobody believes it later. @throws if that can't be done */
  readonly discard: () => Promise<void>;
  /** Makes the catalogue one of a volume of so many blocks; it has to begin anew if absent. */
  readonly grow?: (blocks: number) => Promise<void>;
  /** What has changed since generations that peers have, too. */
  readonly histories?: Histories | undefined;
  readonly log: (level: "info" | "warning" | "error", message: string) => void;
}

export class CataloguedVolume implements Volume {
  readonly catalogue: Catalogue;
  readonly volume: Volume;
  readonly histories: Histories | undefined;
  readonly #options: CataloguedOptions;
  readonly #answers: Answers;
  /** What of the volume can be used: no more of it than the catalogue has. */
  #geometry: Geometry;
  /** The blocks of which the catalogue is. */
  #fitted: number;
  #discarding: Promise<void> | undefined;
  /** As of the last look. */
  #lostWrites: number;

  constructor(volume: Volume, catalogue: Catalogue, options: CataloguedOptions) {
    this.volume = volume;
    this.#answers = new Answers({ catalogue, volume, ...options });
    this.#geometry = volume.geometry;
    this.#fitted = volume.geometry.blocks;
    this.#lostWrites = volume.lostWrites ?? 0;
    this.catalogue = catalogue;
    this.#options = options;
    this.histories = options.histories;
    catalogue.onChanged = this.histories && ((changes) => this.histories!.changed(changes));
  }

  get name(): string {
    return this.volume.name;
  }

  get geometry(): Geometry {
    return this.#geometry;
  }

  get identity(): VolumeIdentity {
    return this.volume.identity;
  }

  get traits(): VolumeTraits {
    const catalogue = this.offer;
    return {
      ...this.volume.traits,
      catalogue,
      findsExtents: catalogue !== undefined,
      keepsHistories: catalogue !== undefined && this.histories !== undefined,
    };
  }

  get traffic(): Volume["traffic"] {
    return this.volume.traffic;
  }

  get extentBlocks(): number {
    return this.#options.extentBlocks;
  }

  get offer(): CatalogueOffer | undefined {
    if (!this.catalogue.isKept) return undefined;
    const { digest, shape } = this.catalogue;
    return { digest: digest.text, extentBlocks: this.extentBlocks, fanOut, rootLevel: shape.rootLevel };
  }

  async read(lba: number, buffer: Buffer, options?: ReadOptions, signal?: AbortSignal): Promise<void> {
    checkRange(this, lba, buffer.length / this.geometry.blockBytes);
    return this.volume.read(lba, buffer, options, signal);
  }

  readNow(lba: number, buffer: Buffer): boolean {
    checkRange(this, lba, buffer.length / this.geometry.blockBytes);
    return this.volume.readNow?.(lba, buffer) ?? false;
  }

  writeNow(lba: number, pieces: readonly Buffer[]): boolean {
    if (!this.volume.writeNow) return false;
    const blocks = lengthOf(pieces) / this.geometry.blockBytes;
    checkRange(this, lba, blocks);
    const [first, last] = this.#extentsOf(lba, blocks);
    if (!this.catalogue.beginNow(first, last) || !this.volume.writeNow(lba, pieces)) return false;
    this.#replaced(lba, blocks);
    return true;
  }

  async write(
    lba: number,
    pieces: readonly Buffer[],
    options?: WriteOptions,
    signal?: AbortSignal,
  ): Promise<void> {
    const blocks = lengthOf(pieces) / this.geometry.blockBytes;
    checkRange(this, lba, blocks);
    await this.#noted(lba, blocks, () => this.volume.write(lba, pieces, options, signal));
  }

  async zero(
    lba: number,
    blocks: number,
    options?: { unmap?: boolean },
    signal?: AbortSignal,
  ): Promise<void> {
    checkRange(this, lba, blocks);
    const step = regionsOfWriteMax * fanOut * this.extentBlocks;
    for (let done = 0; done < blocks; ) {
      const at = lba + done;
      // To the end of a region, so that no step touches more of them than it may.
      const count = Math.min(blocks - done, step - (at % (fanOut * this.extentBlocks)));
      await this.#noted(at, count, () => this.volume.zero(at, count, options, signal));
      done += count;
    }
  }

  async flush(signal?: AbortSignal): Promise<void> {
    await this.#durably(() => this.volume.flush(signal));
  }

  get lostWrites(): number | undefined {
    return this.volume.lostWrites;
  }

  /** What could not be put on the medium puts in doubt all that was written before, whoever was told of it. */
  async #durably<T>(action: () => Promise<T>): Promise<T> {
    try {
      return await action();
    } finally {
      const lost = this.volume.lostWrites ?? 0;
      if (lost !== this.#lostWrites) this.catalogue.doubt();
      this.#lostWrites = lost;
    }
  }

  async nextData(lba: number, blocks: number, signal?: AbortSignal): ReturnType<Volume["nextData"]> {
    checkRange(this, lba, blocks);
    return this.volume.nextData(lba, blocks, signal);
  }

  async encodeDigests(window: DigestWindow, signal?: AbortSignal): Promise<DigestAnswer> {
    if ((window.level ?? 0) > 0) return this.#answers.nodes(window);
    if (!this.#covers(window)) return this.volume.encodeDigests(window, signal);
    return this.#answers.encoded(window, undefined, signal);
  }

  async decodeDigests(window: DigestWindow, values: Buffer, signal?: AbortSignal): Promise<DigestAnswer> {
    if (!this.#covers(window)) return this.volume.decodeDigests(window, values, signal);
    return this.#answers.encoded(window, values, signal);
  }

  async compareDigests(window: DigestWindow, values: Buffer, signal?: AbortSignal): Promise<CompareAnswer> {
    if (!this.#covers(window)) return this.volume.compareDigests(window, values, signal);
    const own = await this.encodeDigests(window, signal);
    const different = differences(own.values, values, own.extents, window.width);
    return { different, extents: own.extents, unreadable: own.unreadable };
  }

  async identifiers(window: IdentifierWindow, signal?: AbortSignal): Promise<DigestAnswer> {
    if (!this.#covers(window)) return volumeIdentifiers(this.volume, window, signal);
    const found = await this.#answers.identify(window.lba / window.extentBlocks, window.extents, signal);
    return { values: found.identifiers, extents: found.extents, unreadable: found.unreadable };
  }

  async findExtents(wanted: Buffer): Promise<(number | undefined)[]> {
    const places = await findExtents(this.catalogue, wanted);
    return places.map((extent) => (extent === undefined ? undefined : extent * this.extentBlocks));
  }

  // --- histories ---

  async changesSince(pair: Buffer): Promise<GenerationChanges | undefined> {
    return this.histories && changesSince(this.catalogue, this.histories, pair.toString("hex"));
  }

  async beginGeneration(pair: Buffer, generation: Buffer): Promise<void> {
    const names = [pair.toString("hex"), generation.toString("hex")] as const;
    await this.#histories().begin(...names, () => this.catalogue.doubtful());
  }

  async commitGeneration(pair: Buffer, generation: Buffer): Promise<void> {
    await this.#histories().commit(pair.toString("hex"), generation.toString("hex"));
  }

  #histories(): Histories {
    if (this.histories && this.catalogue.isKept) return this.histories;
    throw new AgentError("internal", `${this.name} keeps no histories`);
  }

  // --- the last whole generation, which is kept below ---

  async beginWhole(run: Buffer, signal?: AbortSignal): Promise<void> {
    await this.#durably(async () => this.volume.beginWhole?.(run, signal));
  }

  async commitWhole(run: Buffer, options?: CommitOptions, signal?: AbortSignal): Promise<void> {
    await this.#durably(async () => this.volume.commitWhole?.(run, options, signal));
  }

  async labelWhole(label: SetLabel | undefined, signal?: AbortSignal): Promise<void> {
    await this.#durably(async () => this.volume.labelWhole?.(label, signal));
  }

  /** What it writes is noted like any other write. */
  async rollBackWhole(options?: RollBackOptions, signal?: AbortSignal): Promise<RolledBack> {
    const { volume } = this;
    if (!volume.rollBackWhole) throw new AgentError("internal", `${this.name} keeps no before-images`);
    const noted: RollBackOptions["noted"] = (lba, blocks, action) => this.#noted(lba, blocks, action);
    return this.#durably(() => volume.rollBackWhole!({ ...options, noted }, signal));
  }

  async wholeState(signal?: AbortSignal): Promise<WholeState> {
    if (this.volume.wholeState) return this.volume.wholeState(signal);
    throw new AgentError("internal", `${this.name} keeps no before-images`);
  }

  changeMark(): Promise<string | undefined> {
    return this.#durably(() => this.volume.changeMark());
  }

  /** The catalogue of a volume that has grown grows with it; of one that has shrunk it is made anew at the next start. */
  async remeasure(): Promise<boolean> {
    await this.volume.remeasure?.();
    const { blocks } = this.volume.geometry;
    const before = this.#geometry.blocks;
    // First of all, nobody uses more than there is; last of all, more than the catalogue has.
    if (blocks < before) this.#geometry = this.volume.geometry;
    if (blocks !== this.#fitted && !this.catalogue.lost) await this.#fit(blocks);
    this.#fitted = blocks;
    this.#geometry = this.volume.geometry;
    return blocks !== before;
  }

  /** The volume first, then its catalogue, as when somebody else has extended it. */
  async grow(blocks: number, signal?: AbortSignal): Promise<void> {
    try {
      await this.volume.grow?.(blocks, signal);
    } finally {
      await this.remeasure(); // also where it has grown, but not enough
    }
  }

  async #fit(blocks: number): Promise<void> {
    const { grow } = this.#options;
    const extents = Math.ceil(blocks / this.extentBlocks);
    try {
      if (blocks < this.#fitted || !grow) throw new Error("the volume has another size");
      await this.catalogue.grow(extents, async () => {
        await this.histories?.grow(extents);
        await grow(blocks);
      });
    } catch (error) {
      this.catalogue.fail(error);
      await this.#discard(error);
    }
  }

  [Symbol.asyncDispose](): PromiseLike<void> {
    return this.volume[Symbol.asyncDispose]();
  }

  /** Digests what is not known of some extents, and remembers it; the extents before the first that can't be read. */
  async digest(
    first: number,
    extents: number,
    signal?: AbortSignal,
  ): Promise<{ extents: number; unreadable: Unreadable | undefined }> {
    const { extents: done, unreadable } = await this.#answers.identify(first, extents, signal);
    return { extents: done, unreadable };
  }

  /** @throws AgentError `internal` for a window that is not within the volume, as the catalogue has it */
  #covers(window: IdentifierWindow): boolean {
    checkRange(this, window.lba, (window.extents - 1) * window.extentBlocks + 1);
    return (
      !window.fresh &&
      this.catalogue.isKept &&
      window.digest.text === this.catalogue.digest.text &&
      window.extentBlocks === this.extentBlocks
    );
  }

  #extentsOf(lba: number, blocks: number): [first: number, last: number] {
    return [Math.floor(lba / this.extentBlocks), Math.floor((lba + blocks - 1) / this.extentBlocks)];
  }

  /** A write, with the catalogue told before and after. */
  async #noted(lba: number, blocks: number, action: () => Promise<void>): Promise<void> {
    const [first, last] = this.#extentsOf(lba, blocks);
    let ticket: Ticket;
    try {
      const begun = this.catalogue.begin(first, last);
      ticket = begun instanceof Promise ? await begun : begun;
    } catch (error) {
      await this.#discard(error);
      return action();
    }
    try {
      await this.#durably(action);
    } finally {
      this.catalogue.end(ticket);
    }
    this.#replaced(lba, blocks);
  }

  /** Tells of extents that a write has replaced from end to end. */
  #replaced(lba: number, blocks: number): void {
    const { extentBlocks } = this;
    const end = lba + blocks;
    const first = Math.ceil(lba / extentBlocks);
    const last =
      (end === this.geometry.blocks ? Math.ceil(end / extentBlocks) : Math.floor(end / extentBlocks)) - 1;
    if (first <= last) this.catalogue.replaced(first, last);
  }

  /** The catalogue can't be kept: it must not be believed by anybody. */
  #discard(cause: unknown): Promise<void> {
    const { discard, log } = this.#options;
    const why = new AgentError(
      "io_error",
      `The catalogue of "${this.name}" can't be kept: ${messageOf(cause)}`,
      { cause },
    );
    this.#discarding ??= discard().then(
      () => {
        this.catalogue.lose(why);
        log("error", `${why.message}; it was thrown away, and is made anew at the next start`);
      },
      (error) => {
        this.#discarding = undefined;
        throw new AgentError("io_error", `${why.message}, nor thrown away: ${messageOf(error)}`, { cause });
      },
    );
    return this.#discarding;
  }
}
