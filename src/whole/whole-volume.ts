// A volume that is always one whole generation, or can be returned to it: while a run is open, what it overwrites is kept.
//
// Guarantees: in a run no block is overwritten before its extent's before-image is on the medium; where that fails, the
// write fails and nothing is overwritten. A run is committed only when what it wrote is on the medium. A roll back that
// was cut off is gone through again, with the same end. Runs begin and end between writes, never within one. Whoever keeps
// something about the volume's content (a catalogue) stands above, and has `noted` called around what a roll back writes.
// What is labelled a generation of a replication set is written to in a run only, or when it was handed out: so a run that
// goes on after a roll back makes no mixture of it.
import { lengthOf } from "../base/bytes.ts";
import { AgentError } from "../base/errors.ts";
import { type Leave, RangeLocks } from "../base/range-locks.ts";
import {
  type CommitOptions,
  type CompareAnswer,
  checkRange,
  type DigestAnswer,
  type DigestWindow,
  type Geometry,
  type IdentifierWindow,
  type ReadOptions,
  type RollBackOptions,
  type RolledBack,
  type SetLabel,
  type Volume,
  type VolumeIdentity,
  type VolumeTraits,
  volumeBytes,
  type WholeState,
  type WriteOptions,
} from "../volume/volume.ts";
import { extentBytes, journalState } from "./format.ts";
import type { Journal } from "./journal.ts";
import type { Layer } from "./layer.ts";
import { checkRollBack, putAllBack } from "./roll-back.ts";

/** What of a long range is kept, and then written, at once. */
const stepBytes = 64 * extentBytes;

export class WholeVolume implements Volume {
  readonly volume: Volume;
  readonly journal: Journal;
  /** Writes share it; what begins or ends a run has it alone. */
  readonly #gate = new RangeLocks();
  /** Writes that were lost before this run was begun, or taken up. */
  #lostBefore: number;

  constructor(volume: Volume, journal: Journal) {
    this.volume = volume;
    this.journal = journal;
    this.#lostBefore = volume.lostWrites ?? 0;
    if (volume.identifiers) {
      this.identifiers = (window, signal) => volume.identifiers!(window, signal);
    }
  }

  readonly identifiers?: (window: IdentifierWindow, signal?: AbortSignal) => Promise<DigestAnswer>;

  get name(): string {
    return this.volume.name;
  }

  get geometry(): Geometry {
    return this.volume.geometry;
  }

  get identity(): VolumeIdentity {
    return this.volume.identity;
  }

  get traits(): VolumeTraits {
    return { ...this.volume.traits, keepsWhole: true };
  }

  get traffic(): Volume["traffic"] {
    return this.volume.traffic;
  }

  get lostWrites(): number | undefined {
    return this.volume.lostWrites;
  }

  read(lba: number, buffer: Buffer, options?: ReadOptions, signal?: AbortSignal): Promise<void> {
    return this.volume.read(lba, buffer, options, signal);
  }

  readNow(lba: number, buffer: Buffer): boolean {
    return this.volume.readNow?.(lba, buffer) ?? false;
  }

  writeNow(lba: number, pieces: readonly Buffer[]): boolean {
    const { isSure, mustRecord, isRecording } = this.journal;
    if (!this.volume.writeNow || !this.#gate.open || !isSure || mustRecord || !this.#mayWrite) return false;
    if (isRecording) {
      const [first, end] = this.#extentsOf(lba, lengthOf(pieces) / this.geometry.blockBytes);
      for (let extent = first; extent < end; extent++) if (!this.journal.isKeptNow(extent)) return false;
    }
    return this.volume.writeNow(lba, pieces);
  }

  async write(
    lba: number,
    pieces: readonly Buffer[],
    options?: WriteOptions,
    signal?: AbortSignal,
  ): Promise<void> {
    const blocks = lengthOf(pieces) / this.geometry.blockBytes;
    checkRange(this, lba, blocks);
    await this.#within(lba, blocks, async () => {
      await this.#keep(lba, blocks);
      await this.volume.write(lba, pieces, options, signal);
    });
  }

  async zero(
    lba: number,
    blocks: number,
    options?: { unmap?: boolean },
    signal?: AbortSignal,
  ): Promise<void> {
    checkRange(this, lba, blocks);
    await this.#within(lba, blocks, async () => {
      if (!this.journal.isRecording) {
        this.journal.checkSure();
        return this.volume.zero(lba, blocks, options, signal);
      }
      const step = stepBytes / this.geometry.blockBytes;
      for (let done = 0; done < blocks; ) {
        const at = lba + done;
        const count = Math.min(blocks - done, step - (at % step));
        await this.#keep(at, count);
        await this.volume.zero(at, count, options, signal);
        done += count;
      }
    });
  }

  flush(signal?: AbortSignal): Promise<void> {
    return this.volume.flush(signal);
  }

  nextData(lba: number, blocks: number, signal?: AbortSignal): ReturnType<Volume["nextData"]> {
    return this.volume.nextData(lba, blocks, signal);
  }

  encodeDigests(window: DigestWindow, signal?: AbortSignal): Promise<DigestAnswer> {
    return this.volume.encodeDigests(window, signal);
  }

  decodeDigests(window: DigestWindow, values: Buffer, signal?: AbortSignal): Promise<DigestAnswer> {
    return this.volume.decodeDigests(window, values, signal);
  }

  compareDigests(window: DigestWindow, values: Buffer, signal?: AbortSignal): Promise<CompareAnswer> {
    return this.volume.compareDigests(window, values, signal);
  }

  changeMark(): Promise<string | undefined> {
    return this.volume.changeMark();
  }

  async remeasure(): Promise<boolean> {
    const { blocks } = this.geometry;
    const changed = (await this.volume.remeasure?.()) ?? false;
    // What was cut off is gone, whatever size the volume gets later.
    if (this.geometry.blocks < blocks && this.journal.isGuarding) await this.journal.doubt();
    return changed;
  }

  async grow(blocks: number, signal?: AbortSignal): Promise<void> {
    try {
      await this.volume.grow?.(blocks, signal);
    } finally {
      // The file was changed, and by nobody else. Where that can't be said, points are in doubt after a crash.
      if (this.journal.isGuarding) await this.journal.note("say that it has grown", {}).catch(() => {});
    }
  }

  [Symbol.asyncDispose](): PromiseLike<void> {
    return this.volume[Symbol.asyncDispose]();
  }

  // --- runs ---

  /**
   * What the volume holds now is kept from here on, if it is not yet, whoever writes to it: by the layer that `found` is
   * called with before anything else happens to it.
   */
  async record(found: (layer: Layer) => void = () => {}): Promise<Layer> {
    return this.#alone(async () => {
      if (!this.journal.keepsAll) {
        await this.volume.flush();
        await this.journal.keepOutside(volumeBytes(this.geometry));
      }
      const layer = this.journal.chain.current!;
      found(layer);
      return layer;
    });
  }

  /** Gives up what nobody wants any more. @throws what I/O gives, or the signal's reason */
  async tidy(signal?: AbortSignal): Promise<void> {
    await this.journal.tidy.run(signal);
    if (this.journal.keepsInVain) await this.#alone(() => this.journal.stopKeeping("nobody wants it"));
  }

  async beginWhole(run: Buffer): Promise<void> {
    await this.#alone(async () => {
      if (this.journal.header.label?.handedOut) {
        throw new AgentError(
          "split_brain",
          `Cannot begin a run on "${this.name}": it was handed out by a failover, and what was written to it since would be ` +
            'lost; "lunsync failback" brings both sides together',
        );
      }
      if (this.journal.isOpen) {
        await this.journal.note("take up the run", { state: journalState.open, run });
      } else {
        // What is on the medium now is what a roll back returns to.
        await this.volume.flush();
        await this.journal.begin(run, volumeBytes(this.geometry));
      }
      this.#lostBefore = this.volume.lostWrites ?? 0;
    });
  }

  async commitWhole(run: Buffer, { label }: CommitOptions = {}): Promise<void> {
    await this.#alone(async () => {
      const { header, isOpen } = this.journal;
      const doing = `Cannot commit the run ${run.toString("hex")} of "${this.name}"`;
      if (!header.run.equals(run)) {
        const found = isOpen ? `the run ${header.run.toString("hex")} is open` : "no run is open";
        throw new AgentError(
          "backup_mismatch",
          `${doing}: ${found}; it was begun, or rolled back, by somebody else since. Begin again, and compare`,
        );
      }
      if (!isOpen) return this.#settle(); // already, and labelled in the same step
      if (header.state === journalState.rollingBack) {
        throw new AgentError(
          "backup_mismatch",
          `${doing}: a roll back of it was begun and has not ended. Roll back again, or begin again and compare`,
        );
      }
      await this.volume.flush();
      if ((this.volume.lostWrites ?? 0) !== this.#lostBefore) {
        throw new AgentError(
          "not_proved",
          `${doing}: some of what it wrote could not be put on the medium. Begin again, and compare`,
        );
      }
      await this.journal.commit(run, label && { ...label, handedOut: false });
    });
  }

  async labelWhole(label: SetLabel | undefined): Promise<void> {
    await this.#alone(async () => {
      if (label?.handedOut && this.journal.isOpen) {
        throw new AgentError(
          "not_whole",
          `Cannot hand out "${this.name}": a run is open, and it is a mixture of two generations; roll it back first`,
        );
      }
      // What was written outside of a run before is on the medium, if it is to count as the generation.
      await this.volume.flush();
      await this.journal.note("label it", { label });
    });
  }

  async rollBackWhole(options: RollBackOptions = {}, signal?: AbortSignal): Promise<RolledBack> {
    const nothing = { extents: 0, bytes: 0, unreadable: 0, lost: 0 };
    return this.#alone(async () => {
      if (!this.journal.isOpen) {
        await this.#settle();
        return nothing;
      }
      checkRollBack(this, this.journal, options.force ?? false);
      await this.journal.note("roll back", { state: journalState.rollingBack });
      const lostBefore = this.volume.lostWrites ?? 0;
      const done = await putAllBack(this.volume, this.journal, options, signal);
      await this.volume.flush();
      if ((this.volume.lostWrites ?? 0) !== lostBefore) {
        throw new AgentError(
          "medium_error",
          `Cannot put on the medium all that was put back onto "${this.name}"; run it once more`,
        );
      }
      await this.journal.rolledBack(done.unreadable + done.lost === 0 && !this.journal.header.foreign);
      return done;
    });
  }

  /** What the medium says is known. */
  async #settle(): Promise<void> {
    if (!this.journal.isSure) await this.journal.note("say that the volume is whole", {});
  }

  async wholeState(): Promise<WholeState> {
    const { header, isOpen, chain } = this.journal;
    const label = header.label && { label: header.label };
    if (!isOpen)
      return {
        state: "whole",
        ...label,
        keptExtents: 0,
        keptBytes: 0,
        sinceMs: 0,
        rollingBack: false,
        foreign: false,
      };
    return {
      state: "open",
      ...label,
      run: header.run,
      keptExtents: chain.current!.keptExtents,
      keptBytes: chain.current!.keptBytes,
      sinceMs: header.sinceMs,
      rollingBack: header.state === journalState.rollingBack,
      foreign: header.foreign,
    };
  }

  // --- before a write ---

  /** The extents of a range that the volume had when the run began. */
  #extentsOf(lba: number, blocks: number): [first: number, end: number] {
    const { blockBytes } = this.geometry;
    const end = Math.ceil(((lba + blocks) * blockBytes) / extentBytes);
    return [Math.floor((lba * blockBytes) / extentBytes), Math.min(end, this.journal.extents)];
  }

  async #keep(lba: number, blocks: number): Promise<void> {
    this.journal.checkSure();
    if (!this.journal.isRecording) return;
    const [first, end] = this.#extentsOf(lba, blocks);
    const missing: number[] = [];
    for (let extent = first; extent < end; extent++)
      if (!(this.journal.isKeptNow(extent) ?? (await this.journal.isKept(extent)))) missing.push(extent);
    if (missing.length > 0) await this.journal.keep(missing);
  }

  /** A generation of a set is not written to: somebody relies on its being whole. */
  get #mayWrite(): boolean {
    const { label } = this.journal.header;
    return this.journal.isOpen || label === undefined || label.handedOut;
  }

  /** @throws AgentError `volume_readonly` */
  #checkMayWrite(): void {
    if (this.#mayWrite) return;
    throw new AgentError(
      "volume_readonly",
      `Cannot write to "${this.name}": it is generation ${this.journal.header.label!.generation} of a replication set, as a whole, ` +
        "and no run is open (one that was, was rolled back). A run of the set begins one; to use the volume: lunsync failover",
    );
  }

  async #within(lba: number, blocks: number, action: () => Promise<void>): Promise<void> {
    for (;;) {
      if (this.journal.mustRecord) await this.record();
      const entered = this.#gate.enter(lba, blocks, "write");
      const leave: Leave = entered instanceof Promise ? await entered : entered;
      try {
        this.#checkMayWrite();
        if (!this.journal.mustRecord) return await action();
      } finally {
        leave();
      }
    }
  }

  async #alone<T>(action: () => Promise<T>): Promise<T> {
    const entered = this.#gate.enter(0, Number.MAX_SAFE_INTEGER, "exclusive");
    const leave: Leave = entered instanceof Promise ? await entered : entered;
    try {
      return await action();
    } finally {
      leave();
    }
  }
}
