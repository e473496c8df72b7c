// Restore points of a volume, as whoever lists and shows them sees them: what it was, at some times before now.
import type { SetLabel, Volume } from "./volume.ts";

export interface RestorePoint {
  /** 16 bytes: its UUID. */
  readonly id: Buffer;
  /** Rises with time. */
  readonly number: number;
  /** When the volume became that: ms since 1970. */
  readonly madeMs: number;
  /** The run that made it so, 16 bytes; absent where others have written to it since that run. */
  readonly run?: Buffer;
  /** Which generation of which replication set it is. */
  readonly label?: Omit<SetLabel, "handedOut">;
  /** Of the volume then. */
  readonly volumeBytes: number;
  /** What it takes by itself. */
  readonly keptExtents: number;
  readonly keptBytes: number;
  /** The last whole generation: the volume is written to now, or was. */
  readonly last: boolean;
  /** Somebody else may have written to the volume since. */
  readonly doubtful: boolean;
}

/** Where restore points come from. */
export interface PointSource {
  /** The oldest first. */
  list(): Promise<RestorePoint[]>;
  /**
   * A volume that never changes, and can't be written to; it is kept until it is disposed. Without an id it is the last whole
   * generation: of a volume that is whole, what it holds now. @throws AgentError `volume_missing`; `backup_mismatch` for one
   * that is doubtful, unless by force
   */
  open(id: Buffer | undefined, options?: { readonly force?: boolean }): Promise<ShownPoint>;
}

export interface ShownPoint {
  readonly point: RestorePoint;
  readonly volume: Volume;
}
