// A logical unit: one volume behind a LUN, the state of its medium, and what the unit remembers of each I_T nexus.
//
// Source: SAM-5, 5.14 (unit attention conditions). Attentions of one nexus are bounded: an equal one that is pending
// already is not queued again.
import { Semaphore } from "../base/async.ts";
import { AgentError } from "../base/errors.ts";
import type { Clock } from "../platform/clock.ts";
import { formatUuid, parseUuid } from "../scsi/inquiry-data.ts";
import { type Condition, isCondition, type Sense, sense } from "../scsi/sense.ts";
import type { RolledBack, Volume } from "../volume/volume.ts";
import type { AtomicJournal } from "./atomic-journal.ts";
import type { CopyStatus } from "./copy-commands.ts";
import type { ExposedPoints } from "./exposed-points.ts";
import { type HeldLimits, HeldResults } from "./held-results.ts";
import { ModeParameters } from "./mode-parameters.ts";
import type { Nexus } from "./nexus.ts";
import { UnitReservations } from "./unit-reservations.ts";
import { UnitVolume } from "./unit-volume.ts";

interface NexusState {
  attentions: Sense[];
  readonly held: HeldResults;
  /** EXTENDED COPYs by their list identifiers. */
  readonly copies: Map<number, CopyStatus>;
}

export interface SanitizeState {
  readonly state: "none" | "under way" | "failed";
  /** The unit may be used again after a failure (AUSE). */
  readonly exitAllowed: boolean;
}

const heldLimits: HeldLimits = { results: 8, bytes: 8 * 1024 * 1024, lifetimeMs: 60_000 };

export class LogicalUnit {
  readonly lun: number;
  readonly volume: UnitVolume;
  /** The host allows no writing, whatever initiators ask for. */
  readonly readonly: boolean;
  /** The medium can be ejected and loaded by START STOP UNIT. */
  readonly removable: boolean;
  readonly modes: ModeParameters;
  readonly reservations: UnitReservations;
  /** What makes WRITE ATOMIC all or nothing; without one the command is not offered. */
  readonly journal: AtomicJournal | undefined;
  /** 16 bytes. */
  readonly uuid: Buffer;
  /** Who finds that LUN finds this one. */
  readonly seenWith: number;
  /** Its restore points, where it keeps any. */
  points: ExposedPoints | undefined;
  readonly #clock: Clock;
  readonly #nexuses = new Map<string, NexusState>();
  /**
   * Nexuses that have been here since the unit was made: their next session is told of a nexus loss. Each with the count
   * of lost writes that it knows of.
   */
  readonly #known = new Map<string, number>();

  #loaded = true;
  sanitize: SanitizeState = { state: "none", exitAllowed: false };
  /** What goes on whatever becomes of the task that began it. */
  readonly #background = new Set<Promise<unknown>>();
  readonly #stopping = new AbortController();
  /** A roll back, until somebody was told of its end. */
  #rollBack: Promise<RolledBack> | undefined;
  /** One at a time looks at the volume's size, or changes it. */
  readonly #sizing = new Semaphore(1);
  /** Nexuses by which the removal of the medium is prevented. */
  readonly #preventing = new Set<string>();

  constructor(
    lun: number,
    volume: Volume,
    options: {
      readonly: boolean;
      removable?: boolean;
      journal?: AtomicJournal | undefined;
      reservations?: UnitReservations;
      uuid: string;
      clock: Clock;
      /** The LUN whose initiators find this one; absent: this one. */
      seenWith?: number;
    },
  ) {
    this.lun = lun;
    this.volume = new UnitVolume(volume);
    this.readonly = options.readonly;
    this.journal = options.journal;
    this.reservations = options.reservations ?? new UnitReservations();
    this.removable = options.removable ?? false;
    this.modes = new ModeParameters((writeCache) => {
      this.volume.writeCache = writeCache;
    });
    this.uuid = parseUuid(options.uuid);
    this.seenWith = options.seenWith ?? lun;
    this.#clock = options.clock;
  }

  get volumeUuid(): string {
    return formatUuid(this.uuid);
  }

  /** Names of what lies behind the unit, for an initiator on the same host. */
  get sameVolumeKeys(): readonly string[] {
    return this.volume.identity.keys.filter((key) => /^(within:)?same:/.test(key));
  }

  get serialNumber(): string {
    return this.uuid.toString("hex");
  }

  /** NAA 3h, locally assigned (SPC-4, 7.8.6.6.4): 8 bytes. */
  get naa(): Buffer {
    const naa = Buffer.from(this.uuid.subarray(0, 8));
    naa[0] = 0x30 | (naa[0]! & 0x0f);
    return naa;
  }

  static readonly heldLimits = heldLimits;

  nexusBegan(nexus: Nexus): void {
    const first: Condition = this.#known.has(nexus.key) ? "nexusLoss" : "powerOnOccurred";
    if (first === "powerOnOccurred") this.#known.set(nexus.key, this.#lostWrites);
    if (this.#known.size > 4096) this.#known.delete(this.#known.keys().next().value!);
    this.#nexuses.set(nexus.key, {
      attentions: [sense(first)],
      held: new HeldResults(heldLimits, this.#clock),
      copies: new Map(),
    });
  }

  nexusEnded(nexus: Nexus): void {
    this.#nexuses.get(nexus.key)?.held.clear();
    this.#nexuses.delete(nexus.key);
    this.#preventing.delete(nexus.key);
    this.reservations.release(nexus.key);
  }

  /** Initiator ports of an initiator that have been here. */
  knownPorts(initiatorName: string): string[] {
    return [...this.#known.keys()].filter((key) => key.startsWith(`${initiatorName},`));
  }

  copies(nexus: Nexus): Map<number, CopyStatus> {
    return this.#nexuses.get(nexus.key)?.copies ?? new Map();
  }

  held(nexus: Nexus): HeldResults | undefined {
    return this.#nexuses.get(nexus.key)?.held;
  }

  // --- the medium ---

  /** Why blocks can't be written; undefined if they can. */
  get writeProtection(): Condition | undefined {
    if (this.readonly) return "writeProtected";
    return this.modes.softwareWriteProtect ? "softwareWriteProtected" : undefined;
  }

  /** Why commands that need the medium can't be carried out; undefined if they can. */
  get notReady(): Condition | undefined {
    if (!this.#loaded) return "mediumNotPresent";
    if (this.sanitize.state === "none") return undefined;
    return this.sanitize.state === "failed" ? "sanitizeFailed" : "sanitizeInProgress";
  }

  preventRemoval(nexus: Nexus, prevent: boolean): void {
    if (prevent) this.#preventing.add(nexus.key);
    else this.#preventing.delete(nexus.key);
  }

  get removalPrevented(): boolean {
    return this.#preventing.size > 0;
  }

  /** Ejects the medium, or loads it: then other initiators are told that it may be another one. */
  load(loaded: boolean, by: Nexus): void {
    if (loaded && !this.#loaded) this.raiseAttention("mediumMayHaveChanged", by);
    this.#loaded = loaded;
  }

  /** Does what outlives the task that began it, until the signal or its own end. */
  inBackground<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const running = work(this.#stopping.signal).finally(() => this.#background.delete(running));
    this.#background.add(running);
    return running;
  }

  /** Ends what goes on in the background. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await Promise.allSettled(this.#background);
  }

  /** Looks at the size of the volume; initiators are told when it is another. */
  async remeasure(): Promise<boolean> {
    const leave = await this.#sizing.acquire();
    try {
      const changed = await this.volume.remeasure();
      if (changed) this.raiseAttention("capacityChanged");
      return changed;
    } finally {
      leave();
    }
  }

  /** Makes the volume at least that long; initiators are told, but for the one that asked. @throws AgentError */
  async grow(blocks: number, by: Nexus): Promise<void> {
    const leave = await this.#sizing.acquire();
    const before = this.volume.geometry.blocks;
    // Who asked and is refused does not know that the volume has grown all the same, but not enough.
    let asked: Nexus | undefined;
    try {
      await this.volume.grow(blocks);
      asked = by;
    } finally {
      if (this.volume.geometry.blocks !== before) this.raiseAttention("capacityChanged", asked);
      leave();
    }
  }

  /** Begins a run: what a roll back before it did is of no interest any more. @throws AgentError */
  async beginWhole(run: Buffer): Promise<void> {
    await this.volume.beginWhole(run);
    this.#rollBack = undefined;
  }

  /**
   * Rolls the volume back, or waits for the roll back that is under way already; undefined if that takes longer than
   * `waitMs`. Other initiators are told that the medium may have changed. @throws AgentError
   */
  async rollBack(force: boolean, by: Nexus, waitMs: number): Promise<RolledBack | undefined> {
    this.#rollBack ??= this.inBackground(async (signal) => {
      const leave = await this.#sizing.acquire();
      try {
        return await this.volume.rollBackWhole({ force }, signal);
      } finally {
        this.raiseAttention("mediumMayHaveChanged", by);
        leave();
      }
    });
    const running = this.#rollBack;
    running.catch(() => {}); // whoever asks next is told
    const waited = new AbortController();
    try {
      const done = await Promise.race([
        running,
        this.#clock.sleep(waitMs, waited.signal).then(() => undefined),
      ]);
      if (done) this.#rollBack = undefined;
      return done;
    } catch (error) {
      this.#rollBack = undefined;
      throw error;
    } finally {
      waited.abort();
    }
  }

  /**
   * Puts on the medium what was written. A failure is told to every nexus once, also to those that come after whoever the
   * kernel told first: they may have written what was lost. @throws AgentError what flushing gives, `medium_error`
   */
  async flush(nexus: Nexus): Promise<void> {
    const known = this.#known.get(nexus.key) ?? 0;
    try {
      await this.volume.flush();
    } finally {
      this.#known.set(nexus.key, this.#lostWrites);
    }
    if (this.#lostWrites > known)
      throw new AgentError(
        "medium_error",
        `Cannot put on the medium all that was written to "${this.volume.name}": a flush before this one failed`,
      );
  }

  get #lostWrites(): number {
    return this.volume.lostWrites ?? 0;
  }

  /** What a reset undoes (SAM-5, 6.3.3; SPC-4, 6.11 for mode parameters that are not saved). */
  reset(): void {
    this.#preventing.clear();
    this.modes.reset();
    this.reservations.reset();
    this.raiseAttention("deviceReset");
  }

  // --- unit attentions ---

  /** The attention that is reported next, which is then no longer pending. */
  takeAttention(nexus: Nexus): Sense | undefined {
    return this.#nexuses.get(nexus.key)?.attentions.shift();
  }

  /** The nexus has learnt it by itself. */
  dropAttention(nexus: Nexus, condition: Condition): void {
    const state = this.#nexuses.get(nexus.key);
    if (state) state.attentions = state.attentions.filter((each) => !isCondition(each, condition));
  }

  /** Establishes a condition for every nexus but `except`. */
  raiseAttention(condition: Condition, except?: Nexus): void {
    this.tell(
      [...this.#nexuses.keys()].filter((key) => key !== except?.key),
      condition,
    );
  }

  /** Establishes a condition for those of the initiator ports that are logged in. */
  tell(ports: readonly string[], condition: Condition): void {
    const raised = sense(condition);
    for (const port of ports) {
      const state = this.#nexuses.get(port);
      if (!state) continue;
      if (raised.asc === 0x29) state.attentions = []; // a reset outranks what came before it (SAM-5, 5.14.2)
      const pending = state.attentions.some((each) => each.asc === raised.asc && each.ascq === raised.ascq);
      if (!pending) state.attentions.push(raised);
    }
  }
}
