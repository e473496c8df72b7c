// What the engine is asked to do, and what it says afterwards.
import type { AgentError } from "../base/errors.ts";
import type { ValueWidth } from "../digest/encoding.ts";
import type { DigestSpec } from "../digest/spec.ts";
import type { Clock } from "../platform/clock.ts";
import type { Random } from "../platform/random.ts";
import type { Volume } from "../volume/volume.ts";
import type { BeforeImages } from "./before-images.ts";
import type { RangeLog } from "./range-log.ts";

/**
 * How extents are compared (mission rows D1 to D3): `encode`, both sides encode and the source compares; `decode`, the
 * replica decodes what the source encoded; `verdict`, the replica compares.
 */
export const modes = ["encode", "decode", "verdict"] as const;
export type Mode = (typeof modes)[number];

/** What has been done so far; the engine counts, whoever shows progress reads. */
export class Counters {
  extents = 0;
  compared = 0;
  differing = 0;
  /** Extents given to be shipped, and those that are. */
  toShip = 0;
  shippedExtents = 0;
  shippedBytes = 0;
  /** Extents of the shipped ones that were zeroed instead of written. */
  zeroedExtents = 0;
  provedExtents = 0;
  /** Extents that the replica copied from another place of its own. */
  copiedExtents = 0;
  /** Extents and bytes that the replica has unmapped, because they are holes at the source. */
  trimmedExtents = 0;
  trimmedBytes = 0;
  pass = 1;
  phase: "comparing" | "proving" | "flushing" | "trimming" = "comparing";
}

export interface JobOptions {
  readonly source: Volume;
  readonly replica: Volume;
  readonly mode: Mode;
  readonly digest: DigestSpec;
  /** A power of two, a multiple of the block size. */
  readonly extentBytes: number;
  readonly width: ValueWidth;
  /** Both media are read, no cache. */
  readonly fresh: boolean;
  readonly clock: Clock;
  readonly random: Random;
  readonly counters: Counters;
  readonly signal?: AbortSignal;
  readonly onNotice?: (notice: string) => void;
}

export interface SynchronizeOptions extends JobOptions {
  /** Shipped extents are proved again, from the medium. */
  readonly verify: boolean;
  /** Keeps what is overwritten. */
  readonly beforeImages?: BeforeImages | undefined;
  /** Ships what the replica may have at another place, too. */
  readonly shipMoved?: boolean;
  /** Extents that differ are narrowed to pieces of so many bytes before they are shipped; whole if absent. */
  readonly narrowBytes?: number | undefined;
  /** Level of compression of what is shipped, 1 to 3, where the replica takes it; none if absent. */
  readonly compress?: number | undefined;
  /** Unmaps what is a hole at the source and mapped at the replica, when all is equal. */
  readonly trim?: boolean;
}

/** An extent that could not be dealt with. */
export interface BadExtent {
  readonly side: "source" | "replica";
  readonly action: "read" | "write" | "prove";
  /** The block that failed, where it is known; else the first of its extent. */
  readonly lba: number;
  readonly reason: string;
}

export interface Outcome {
  /**
   * `equal` and `different` are about all extents; `incomplete`: some could not be read, written or proved; `changed`:
   * the source was written to meanwhile; `interrupted`; `failed`: `failure` says why it ended early.
   */
  readonly verdict: "equal" | "different" | "incomplete" | "changed" | "interrupted" | "failed";
  readonly failure: AgentError | undefined;
  readonly extents: { readonly total: number; readonly compared: number; readonly differing: number };
  readonly shipped: { readonly extents: number; readonly bytes: number; readonly zeroed: number };
  readonly proved: number;
  /** Extents that the replica copied from another place of its own, instead of having them shipped. */
  readonly copied: number;
  /** What the replica has unmapped although it was equal, because it is a hole at the source. */
  readonly trimmed: { readonly extents: number; readonly bytes: number };
  /**
   * Whether what both sides have not changed since their generation in common was passed over, and whether they have a new
   * one now; undefined if one side keeps no histories.
   */
  readonly history: { readonly used: boolean; readonly committed: boolean } | undefined;
  readonly passes: number;
  /** Where the sides differed (at first, if they were synchronized); the caller closes it. */
  readonly ranges: RangeLog;
  /** The first of them; `badExtents` counts all. */
  readonly bad: readonly BadExtent[];
  readonly badExtents: number;
  readonly bytes: { readonly volume: number; readonly sent: number; readonly received: number };
  readonly seconds: number;
  /** False where nothing tells whether the source was written to (an iSCSI LUN). */
  readonly changesNoticed: boolean;
}
