// A logical unit: one volume behind a LUN, and what the unit remembers of each I_T nexus.
//
// Source: SAM-5, 5.14 (unit attention conditions). Attentions of one nexus are bounded: an equal one that is pending
// already is not queued again.
import type { Clock } from "../platform/clock.ts";
import { formatUuid, parseUuid } from "../scsi/inquiry-data.ts";
import { type Condition, type Sense, sense } from "../scsi/sense.ts";
import type { Volume } from "../volume/volume.ts";
import { type HeldLimits, HeldResults } from "./held-results.ts";
import type { Nexus } from "./nexus.ts";

interface NexusState {
  attentions: Sense[];
  readonly held: HeldResults;
}

const heldLimits: HeldLimits = { results: 8, bytes: 8 * 1024 * 1024, lifetimeMs: 60_000 };

export class LogicalUnit {
  readonly lun: number;
  readonly volume: Volume;
  readonly readonly: boolean;
  /** 16 bytes. */
  readonly uuid: Buffer;
  readonly #clock: Clock;
  readonly #nexuses = new Map<string, NexusState>();
  /** Nexuses that have been here since the unit was made: their next session is told of a nexus loss. */
  readonly #known = new Set<string>();

  constructor(lun: number, volume: Volume, options: { readonly: boolean; uuid: string; clock: Clock }) {
    this.lun = lun;
    this.volume = volume;
    this.readonly = options.readonly;
    this.uuid = parseUuid(options.uuid);
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
    this.#known.add(nexus.key);
    if (this.#known.size > 4096) this.#known.delete(this.#known.values().next().value!);
    this.#nexuses.set(nexus.key, {
      attentions: [sense(first)],
      held: new HeldResults(heldLimits, this.#clock),
    });
  }

  nexusEnded(nexus: Nexus): void {
    this.#nexuses.get(nexus.key)?.held.clear();
    this.#nexuses.delete(nexus.key);
  }

  held(nexus: Nexus): HeldResults | undefined {
    return this.#nexuses.get(nexus.key)?.held;
  }

  /** The attention that is reported next, which is then no longer pending. */
  takeAttention(nexus: Nexus): Sense | undefined {
    return this.#nexuses.get(nexus.key)?.attentions.shift();
  }

  /** Establishes a condition for every nexus but `except`. */
  raiseAttention(condition: Condition, except?: Nexus): void {
    const raised = sense(condition);
    for (const [key, state] of this.#nexuses) {
      if (key === except?.key) continue;
      if (raised.asc === 0x29) state.attentions = []; // a reset outranks what came before it (SAM-5, 5.14.2)
      const pending = state.attentions.some((each) => each.asc === raised.asc && each.ascq === raised.ascq);
      if (!pending) state.attentions.push(raised);
    }
  }
}
