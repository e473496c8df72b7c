// A logical unit behind any SCSI transport as a volume.
//
// Guarantees: the unit's identity and size are checked again after every reconnection, before a command is repeated;
// another unit there is an `identity_mismatch` and nothing more is sent. Writes that a reset or a lost connection may
// have dropped from the unit's cache are not reported as flushed: flush() then throws `not_proved`.
import { together } from "../base/async.ts";
import { lengthOf, slicesOf } from "../base/bytes.ts";
import { AgentError } from "../base/errors.ts";
import { type DigestSpec, parseDigestSpec } from "../digest/spec.ts";
import type { Clock } from "../platform/clock.ts";
import type { ScsiCommand, ScsiDevice, ScsiOutcome } from "../scsi/command.ts";
import { read16, synchronizeCache10, synchronizeCache16, write16 } from "../scsi/sbc-commands.ts";
import { digestByReading } from "./read-digests.ts";
import { ScsiDigests } from "./scsi-digests.ts";
import { ScsiExtents } from "./scsi-extents.ts";
import { type Holder, ScsiFence } from "./scsi-fence.ts";
import { ScsiMapping } from "./scsi-mapping.ts";
import { ScsiPoints } from "./scsi-points.ts";
import { ScsiWhole } from "./scsi-whole.ts";
import { ScsiZeroing } from "./scsi-zeroing.ts";
import { UnitCommands } from "./unit-commands.ts";
import { readUnitFacts, type UnitFacts } from "./unit-facts.ts";
import { growUnit } from "./unit-growth.ts";
import { checkSameUnit, unitIdentity, unitTraits, unitTransferBlocksMax } from "./unit-traits.ts";
import {
  type CommitOptions,
  type CompareAnswer,
  checkRange,
  type DigestAnswer,
  type DigestWindow,
  differences,
  type ExtentCopy,
  type ExtentRun,
  type Fence,
  type FenceOptions,
  type GenerationChanges,
  type Geometry,
  type ReadOptions,
  type RollBackOptions,
  type RolledBack,
  type SetLabel,
  type Unreadable,
  type Volume,
  type VolumeIdentity,
  type VolumeTraits,
  type WholeState,
  type WriteExtentsOptions,
  type WriteOptions,
} from "./volume.ts";

const noAnswer = (unreadable: Unreadable): DigestAnswer => ({
  values: Buffer.alloc(0),
  extents: 0,
  unreadable,
});
const noVerdict = (unreadable: Unreadable): CompareAnswer => ({ different: [], extents: 0, unreadable });

export class ScsiVolume implements Volume {
  readonly name: string;
  readonly identity: VolumeIdentity;
  readonly #device: ScsiDevice;
  readonly #clock: Clock;
  readonly #commands: UnitCommands;
  readonly #digests: ScsiDigests | undefined;
  readonly #extents: ScsiExtents | undefined;
  readonly #mapping: ScsiMapping;
  readonly #fence: ScsiFence;
  readonly #zeroing: ScsiZeroing;
  readonly #transferBlocksMax: number;
  #unflushedSince: number | undefined;
  #facts: UnitFacts;
  #traits: VolumeTraits;
  /** The blocks that it was asked to have, while that is under way. */
  #growingTo: number | undefined;

  private constructor(device: ScsiDevice, facts: UnitFacts, clock: Clock) {
    this.#device = device;
    this.#clock = clock;
    this.#commands = new UnitCommands(device, clock);
    this.#facts = facts;
    this.name = device.name;
    this.identity = unitIdentity(facts, device.localKeys);
    const page = facts.vendorPage;
    const wide = device.cdbBytesMax >= 32;
    const { blockBytes } = facts;
    const commandBytes = device.transferBytesPreferred;
    this.#digests =
      page && new ScsiDigests(this.name, page, wide, (c, s, e) => this.#commands.execute(c, s, e));
    const transport = { wide, blockBytes, commandBytesMax: commandBytes };
    this.#extents =
      page &&
      new ScsiExtents(this.name, page, transport, (c, expected, s) => this.#commands.execute(c, s, expected));
    this.#mapping = new ScsiMapping(this.name, (c, s) => this.#commands.execute(c, s));
    this.#fence = new ScsiFence(this.name, this.#commands);
    this.#zeroing = new ScsiZeroing(this.#commands);
    this.#traits = unitTraits(facts, this.#extents, commandBytes);
    this.#transferBlocksMax = unitTransferBlocksMax(facts, commandBytes);
  }

  /** Takes over `device`. @throws AgentError `volume_missing`, `volume_unsuitable` */
  static async open(device: ScsiDevice, clock: Clock): Promise<ScsiVolume> {
    try {
      const facts = await readUnitFacts((command) => device.execute(command), device.name);
      const volume = new ScsiVolume(device, facts, clock);
      device.onReconnect((execute) => volume.#recognize(execute));
      return volume;
    } catch (error) {
      await device[Symbol.asyncDispose]();
      throw error;
    }
  }

  get facts(): UnitFacts {
    return this.#facts;
  }

  get geometry(): Geometry {
    const { blockBytes, blocks } = this.#facts;
    return { blockBytes, blocks };
  }

  get traits(): VolumeTraits {
    return this.#traits;
  }

  get traffic(): { sent: number; received: number } {
    return this.#device.traffic;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#device[Symbol.asyncDispose]();
  }

  async read(lba: number, buffer: Buffer, options: ReadOptions = {}, signal?: AbortSignal): Promise<void> {
    const { blockBytes, blocks } = { ...this.geometry, blocks: buffer.length / this.geometry.blockBytes };
    checkRange(this, lba, blocks);
    await this.#inSteps(blocks, async (done, count) => {
      const dataIn = buffer.subarray(done * blockBytes, (done + count) * blockBytes);
      const outcome = await this.#commands.execute(
        {
          cdb: read16.encode({
            fua: (options.fresh ?? false) && this.facts.forcesUnitAccess,
            logicalBlockAddress: BigInt(lba + done),
            transferLength: count,
          }),
          dataIn,
        },
        signal,
      );
      if (outcome.dataIn.length !== dataIn.length) {
        throw new AgentError(
          "protocol_error",
          `Cannot read ${count} blocks at LBA ${lba + done} of ${this.name}: ${outcome.dataIn.length} bytes came`,
        );
      }
    });
  }

  async write(
    lba: number,
    pieces: readonly Buffer[],
    options: WriteOptions = {},
    signal?: AbortSignal,
  ): Promise<void> {
    const { blockBytes } = this.geometry;
    const length = lengthOf(pieces);
    checkRange(this, lba, length / blockBytes);
    this.#unflushedSince ??= this.#commands.epoch;
    await this.#inSteps(length / blockBytes, async (done, count) => {
      await this.#commands.execute(
        {
          cdb: write16.encode({
            fua: (options.durable ?? false) && this.facts.forcesUnitAccess,
            logicalBlockAddress: BigInt(lba + done),
            transferLength: count,
          }),
          dataOut: slicesOf(pieces, done * blockBytes, count * blockBytes),
        },
        signal,
      );
    });
    if (options.durable && !this.facts.forcesUnitAccess) await this.flush(signal);
  }

  async zero(
    lba: number,
    blocks: number,
    options: { unmap?: boolean } = {},
    signal?: AbortSignal,
  ): Promise<void> {
    checkRange(this, lba, blocks);
    this.#unflushedSince ??= this.#commands.epoch;
    // Who asks afterwards is to be told what became of it.
    this.#mapping.forget(lba, blocks);
    let done = options.unmap ? await this.#zeroing.unmapped(this.facts, lba, blocks, signal) : 0;
    const zeros = Buffer.alloc(Math.min(blocks - done, this.#transferBlocksMax) * this.geometry.blockBytes);
    while (done < blocks) {
      const count = Math.min(blocks - done, this.#transferBlocksMax);
      await this.write(lba + done, [zeros.subarray(0, count * this.geometry.blockBytes)], {}, signal);
      done += count;
    }
  }

  async writeExtents(
    runs: readonly ExtentRun[],
    options: WriteExtentsOptions,
    signal?: AbortSignal,
  ): Promise<number> {
    for (const { lba, blocks } of runs) checkRange(this, lba, blocks);
    if (!this.#extents?.writes) throw this.#unable("WRITE EXTENTS");
    this.#unflushedSince ??= this.#commands.epoch;
    return this.#extents.write(runs, options, signal);
  }

  async changesSince(pair: Buffer, signal?: AbortSignal): Promise<GenerationChanges | undefined> {
    const { catalogue, keepsHistories } = this.traits;
    if (!this.#digests || !catalogue || !keepsHistories) return undefined;
    const extents = Math.ceil(this.geometry.blocks / catalogue.extentBlocks);
    return this.#digests.changes(parseDigestSpec(catalogue.digest), pair, extents, signal);
  }

  beginGeneration(pair: Buffer, generation: Buffer, signal?: AbortSignal): Promise<void> {
    return this.#setGeneration("begin", pair, generation, signal);
  }

  commitGeneration(pair: Buffer, generation: Buffer, signal?: AbortSignal): Promise<void> {
    return this.#setGeneration("commit", pair, generation, signal);
  }

  async #setGeneration(
    step: "begin" | "commit",
    pair: Buffer,
    generation: Buffer,
    signal?: AbortSignal,
  ): Promise<void> {
    const { catalogue } = this.traits;
    if (!catalogue) return;
    await this.#digests?.setGeneration(step, parseDigestSpec(catalogue.digest), pair, generation, signal);
  }

  async findExtents(wanted: Buffer, signal?: AbortSignal): Promise<(number | undefined)[]> {
    const { catalogue } = this.traits;
    if (!this.#digests || !catalogue || !this.traits.findsExtents) return [];
    const digest = parseDigestSpec(catalogue.digest);
    const step = digest.identifierBytes * Math.max(1, Math.min(4096, this.traits.windowExtentsMax));
    const places: (number | undefined)[] = [];
    for (let at = 0; at < wanted.length; at += step) {
      const some = wanted.subarray(at, at + step);
      places.push(...(await this.#digests.find({ ...catalogue, digest }, some, signal)));
    }
    return places;
  }

  async copyExtents(
    copies: readonly ExtentCopy[],
    digest: DigestSpec,
    signal?: AbortSignal,
  ): Promise<boolean[]> {
    for (const { from, to, blocks } of copies) {
      checkRange(this, from, blocks);
      checkRange(this, to, blocks);
    }
    if (!this.#extents?.copies) throw this.#unable("COPY EXTENTS");
    this.#unflushedSince ??= this.#commands.epoch;
    return this.#extents.copy(copies, digest, signal);
  }

  #unable(command: string): AgentError {
    return new AgentError("internal", `${this.name} does not have ${command}`);
  }

  async flush(signal?: AbortSignal): Promise<void> {
    const since = this.#unflushedSince;
    try {
      await this.#commands.execute({ cdb: synchronizeCache16.encode({}) }, signal);
    } catch (error) {
      if (!(error instanceof AgentError) || error.code !== "command_failed") throw error;
      await this.#flush10(signal);
    }
    this.#unflushedSince = undefined;
    if (since !== undefined && since !== this.#commands.epoch) {
      throw new AgentError(
        "not_proved",
        `Cannot be sure of the latest writes to ${this.name}: it was reset or reconnected before they were flushed`,
        { retry: "after_reconnect" },
      );
    }
  }

  async #flush10(signal?: AbortSignal): Promise<void> {
    try {
      await this.#commands.execute({ cdb: synchronizeCache10.encode({}) }, signal);
    } catch (error) {
      // A unit without the command has no cache to flush.
      if (!(error instanceof AgentError) || error.code !== "command_failed") throw error;
    }
  }

  async nextData(
    lba: number,
    blocks: number,
    signal?: AbortSignal,
  ): Promise<{ lba: number; blocks: number } | undefined> {
    checkRange(this, lba, blocks);
    // Only a unit that is ours is believed that its deallocated blocks read as zeros.
    if (!this.#digests || !this.traits.thin) return { lba, blocks };
    return this.#mapping.next(lba, blocks, signal);
  }

  encodeDigests(window: DigestWindow, signal?: AbortSignal): Promise<DigestAnswer> {
    if (this.#digests) return this.#ask(window, (digests) => digests.encode(window, signal), noAnswer);
    return digestByReading(this.#reader(window, signal), this.geometry, window, "encode");
  }

  decodeDigests(window: DigestWindow, values: Buffer, signal?: AbortSignal): Promise<DigestAnswer> {
    if (this.#digests)
      return this.#ask(window, (digests) => digests.decode(window, values, signal), noAnswer);
    return digestByReading(this.#reader(window, signal), this.geometry, window, "decode", values);
  }

  async compareDigests(window: DigestWindow, values: Buffer, signal?: AbortSignal): Promise<CompareAnswer> {
    if (this.#digests)
      return this.#ask(window, (digests) => digests.compare(window, values, signal), noVerdict);
    const own = await this.encodeDigests(window, signal);
    const different = differences(own.values, values, own.extents, window.width);
    return { different, extents: own.extents, unreadable: own.unreadable };
  }

  async grow(blocks: number, signal?: AbortSignal): Promise<void> {
    if (blocks <= this.geometry.blocks) return;
    const { name, facts } = this;
    this.#growingTo = blocks;
    try {
      const unit = { name, facts, commands: this.#commands, digests: this.#digests };
      this.#facts = await growUnit(unit, blocks, signal);
    } finally {
      this.#growingTo = undefined;
    }
    this.#traits = unitTraits(this.facts, this.#extents, this.#device.transferBytesPreferred);
  }

  async beginWhole(run: Buffer, signal?: AbortSignal): Promise<void> {
    return this.#whole.begin(run, signal);
  }

  async commitWhole(run: Buffer, options?: CommitOptions, signal?: AbortSignal): Promise<void> {
    return this.#whole.commit(run, options, signal);
  }

  async labelWhole(label: SetLabel | undefined, signal?: AbortSignal): Promise<void> {
    return this.#whole.label(label, signal);
  }

  async rollBackWhole(options?: RollBackOptions, signal?: AbortSignal): Promise<RolledBack> {
    return this.#whole.rollBack(options, signal);
  }

  async wholeState(signal?: AbortSignal): Promise<WholeState> {
    return this.#whole.state(signal);
  }

  /** @throws AgentError `volume_unsuitable` where its target keeps none */
  get points(): ScsiPoints {
    const page = this.facts.vendorPage;
    if (this.#digests && page?.points)
      return new ScsiPoints(this.name, page.volumeUuid, this.#digests, this.#commands);
    throw new AgentError(
      "volume_unsuitable",
      `${this.name} has no restore points: "lunsync serve --lun PATH,whole --keep 24h,7d,4w" keeps some`,
    );
  }

  get #whole(): ScsiWhole {
    const page = this.facts.vendorPage;
    if (!this.#digests || !page?.whole) throw this.#unable("BEGIN WHOLE and ROLL BACK");
    return new ScsiWhole(this.name, page.volumeUuid, this.#digests, this.#commands, this.#clock);
  }

  fence(run: Fence, options?: FenceOptions, signal?: AbortSignal): Promise<boolean> {
    return this.#fence.take(run, options, signal);
  }

  reservedBy(signal?: AbortSignal): Promise<Holder | undefined> {
    return this.#fence.holder(signal);
  }

  takeFence(signal?: AbortSignal): Promise<boolean> {
    return this.#fence.inherit(signal);
  }

  unfence(signal?: AbortSignal): Promise<void> {
    return this.#fence.give(signal);
  }

  async changeMark(): Promise<string | undefined> {
    return undefined; // nothing tells an initiator who else writes
  }

  #reader(window: DigestWindow, signal?: AbortSignal): (lba: number, buffer: Buffer) => Promise<void> {
    return (lba, buffer) => this.read(lba, buffer, { fresh: window.fresh }, signal);
  }

  /**
   * Asks the unit. Results that are held for RECEIVE are gone after a reconnection: the pair is sent again. A unit that
   * could not read the first extent answers with a medium error: that is an answer without values.
   */
  async #ask<T>(
    window: DigestWindow,
    action: (digests: ScsiDigests) => Promise<T>,
    nothing: (unreadable: Unreadable) => T,
  ): Promise<T> {
    for (;;) {
      const epoch = this.#commands.epoch;
      try {
        return await action(this.#digests!);
      } catch (error) {
        if (!(error instanceof AgentError)) throw error;
        if (error.code === "medium_error") {
          const lba = error.lba ?? window.lba;
          if (lba < window.lba || lba >= window.lba + window.extentBlocks) throw error;
          return nothing({ lba, reason: error.message });
        }
        if (error.code !== "command_failed" || epoch === this.#commands.epoch) throw error;
      }
    }
  }

  async #inSteps(blocks: number, step: (done: number, count: number) => Promise<void>): Promise<void> {
    if (blocks <= this.#transferBlocksMax) {
      await step(0, blocks);
      return;
    }
    const steps: Promise<void>[] = [];
    for (let done = 0; done < blocks; done += this.#transferBlocksMax) {
      steps.push(step(done, Math.min(this.#transferBlocksMax, blocks - done)));
    }
    // Buffers stay lent until the last of them is done.
    await together(steps);
  }

  async #recognize(execute: (command: ScsiCommand) => Promise<ScsiOutcome>): Promise<void> {
    this.#commands.reconnected();
    checkSameUnit(this.name, this.facts, await readUnitFacts(execute, this.name), this.#growingTo);
    await this.#fence.check(execute);
  }
}
