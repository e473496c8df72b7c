// A volume as the commands of its logical unit use it: with exclusive ranges, and with a write cache that can be off.
//
// Guarantees: no command gets past exclusively(), since every one of them reads and writes through here; while
// `writeCache` is false (WCE of the caching mode page), what is written is on the medium before it is reported.
import { lengthOf } from "../base/bytes.ts";
import { AgentError } from "../base/errors.ts";
import { type Access, RangeLocks } from "../base/range-locks.ts";
import type {
  CommitOptions,
  CompareAnswer,
  DigestAnswer,
  DigestWindow,
  GenerationChanges,
  Geometry,
  ReadOptions,
  RollBackOptions,
  RolledBack,
  SetLabel,
  Volume,
  VolumeIdentity,
  VolumeTraits,
  WholeState,
  WriteOptions,
} from "../volume/volume.ts";

/** What an exclusive action does with the blocks that it has for itself. */
export type ExclusiveVolume = Pick<Volume, "read" | "write" | "zero">;

const nothingKept: WholeState = {
  state: "whole",
  keptExtents: 0,
  keptBytes: 0,
  sinceMs: 0,
  rollingBack: false,
  foreign: false,
};

export class UnitVolume implements Volume {
  writeCache = true;
  readonly #volume: Volume;
  readonly #locks = new RangeLocks();

  constructor(volume: Volume) {
    this.#volume = volume;
  }

  get name(): string {
    return this.#volume.name;
  }

  get geometry(): Geometry {
    return this.#volume.geometry;
  }

  get identity(): VolumeIdentity {
    return this.#volume.identity;
  }

  get traits(): VolumeTraits {
    return this.#volume.traits;
  }

  get traffic(): Volume["traffic"] {
    return this.#volume.traffic;
  }

  read(lba: number, buffer: Buffer, options?: ReadOptions, signal?: AbortSignal): Promise<void> {
    return this.#within("read", lba, buffer.length / this.geometry.blockBytes, () =>
      this.#volume.read(lba, buffer, options, signal),
    );
  }

  write(lba: number, pieces: readonly Buffer[], options?: WriteOptions, signal?: AbortSignal): Promise<void> {
    return this.#within("write", lba, lengthOf(pieces) / this.geometry.blockBytes, () =>
      this.#writeNow(lba, pieces, options, signal),
    );
  }

  // Done before anybody else can begin anything, so that it needs no entry among the ranges.

  readNow(lba: number, buffer: Buffer): boolean {
    return this.#locks.open && (this.#volume.readNow?.(lba, buffer) ?? false);
  }

  writeNow(lba: number, pieces: readonly Buffer[]): boolean {
    return this.writeCache && this.#locks.open && (this.#volume.writeNow?.(lba, pieces) ?? false);
  }

  zero(lba: number, blocks: number, options?: { unmap?: boolean }, signal?: AbortSignal): Promise<void> {
    return this.#within("write", lba, blocks, () => this.#zeroNow(lba, blocks, options, signal));
  }

  /**
   * Runs `action` while nobody else writes the range or begins to read it. It reads and writes by what it is given.
   */
  exclusively<T>(lba: number, blocks: number, action: (volume: ExclusiveVolume) => Promise<T>): Promise<T> {
    return this.#within("exclusive", lba, blocks, () =>
      action({
        read: (...request) => this.#volume.read(...request),
        write: (...request) => this.#writeNow(...request),
        zero: (...request) => this.#zeroNow(...request),
      }),
    );
  }

  get lostWrites(): number | undefined {
    return this.#volume.lostWrites;
  }

  flush(signal?: AbortSignal): Promise<void> {
    return this.#volume.flush(signal);
  }

  nextData(lba: number, blocks: number, signal?: AbortSignal): ReturnType<Volume["nextData"]> {
    return this.#volume.nextData(lba, blocks, signal);
  }

  encodeDigests(window: DigestWindow, signal?: AbortSignal): Promise<DigestAnswer> {
    return this.#volume.encodeDigests(window, signal);
  }

  decodeDigests(window: DigestWindow, values: Buffer, signal?: AbortSignal): Promise<DigestAnswer> {
    return this.#volume.decodeDigests(window, values, signal);
  }

  compareDigests(window: DigestWindow, values: Buffer, signal?: AbortSignal): Promise<CompareAnswer> {
    return this.#volume.compareDigests(window, values, signal);
  }

  async changesSince(pair: Buffer, signal?: AbortSignal): Promise<GenerationChanges | undefined> {
    return this.#volume.changesSince?.(pair, signal);
  }

  async beginGeneration(pair: Buffer, generation: Buffer, signal?: AbortSignal): Promise<void> {
    await this.#volume.beginGeneration?.(pair, generation, signal);
  }

  async commitGeneration(pair: Buffer, generation: Buffer, signal?: AbortSignal): Promise<void> {
    await this.#volume.commitGeneration?.(pair, generation, signal);
  }

  async findExtents(wanted: Buffer, signal?: AbortSignal): Promise<(number | undefined)[]> {
    return (await this.#volume.findExtents?.(wanted, signal)) ?? [];
  }

  changeMark(): Promise<string | undefined> {
    return this.#volume.changeMark();
  }

  async remeasure(): Promise<boolean> {
    return (await this.#volume.remeasure?.()) ?? false;
  }

  async grow(blocks: number, signal?: AbortSignal): Promise<void> {
    await this.#volume.grow?.(blocks, signal);
  }

  async beginWhole(run: Buffer, signal?: AbortSignal): Promise<void> {
    await this.#volume.beginWhole?.(run, signal);
  }

  async commitWhole(run: Buffer, options?: CommitOptions, signal?: AbortSignal): Promise<void> {
    await this.#volume.commitWhole?.(run, options, signal);
  }

  async labelWhole(label: SetLabel | undefined, signal?: AbortSignal): Promise<void> {
    await this.#volume.labelWhole?.(label, signal);
  }

  /** While nobody writes, or begins to read. @throws AgentError `internal` where it keeps nothing */
  rollBackWhole(options?: RollBackOptions, signal?: AbortSignal): Promise<RolledBack> {
    return this.#within("exclusive", 0, this.geometry.blocks, async () => {
      if (this.#volume.rollBackWhole) return this.#volume.rollBackWhole(options, signal);
      throw new AgentError("internal", `${this.name} keeps no before-images`);
    });
  }

  async wholeState(signal?: AbortSignal): Promise<WholeState> {
    return (await this.#volume.wholeState?.(signal)) ?? nothingKept;
  }

  [Symbol.asyncDispose](): PromiseLike<void> {
    return this.#volume[Symbol.asyncDispose]();
  }

  #writeNow(
    lba: number,
    pieces: readonly Buffer[],
    options?: WriteOptions,
    signal?: AbortSignal,
  ): Promise<void> {
    const durable = this.writeCache ? options : { ...options, durable: true };
    return this.#volume.write(lba, pieces, durable, signal);
  }

  async #zeroNow(
    lba: number,
    blocks: number,
    options?: { unmap?: boolean },
    signal?: AbortSignal,
  ): Promise<void> {
    await this.#volume.zero(lba, blocks, options, signal);
    if (!this.writeCache) await this.#volume.flush(signal);
  }

  async #within<T>(access: Access, lba: number, blocks: number, action: () => Promise<T>): Promise<T> {
    const entered = this.#locks.enter(lba, blocks, access);
    const leave = typeof entered === "function" ? entered : await entered;
    try {
      return await action();
    } finally {
      leave();
    }
  }
}
