// The Volume interface: what everything that compares, ships or serves shares, local or remote.
//
// Guarantees asked of every adapter (test/volume/contract.test.ts runs them all):
// - A read fills the whole buffer or throws; a write has written everything when it resolves, and is durable only
//   after a flush() that resolved (or with `durable`).
// - A range that ends past the volume's end is refused before anything is done.
// - Digests of a window answer for its extents from the first on; where a block can't be read, the answer ends before
//   its extent and names the block. An answer never contains a value for an extent that was not read whole.
// - Buffers are lent until the promise settles.
import { AgentError } from "../base/errors.ts";
import type { ValueWidth } from "../digest/encoding.ts";
import type { DigestSpec } from "../digest/spec.ts";

export interface Geometry {
  /** Bytes of a logical block: 512 or 4096. */
  readonly blockBytes: number;
  readonly blocks: number;
}

export interface VolumeIdentity {
  /** RFC 9562 UUID of a volume that an agent or target of ours serves; undefined for a stranger's. */
  readonly uuid: string | undefined;
  /** Names by which two openings of one volume are recognized: equal strings mean the same volume. */
  readonly keys: readonly string[];
  /** Vendor, product and serial, or the kind of file: for people. */
  readonly description: string;
}

/** A catalogue that a volume's own host keeps: which identifiers can be had without reading. */
export interface CatalogueOffer {
  /** Canonical text of the digest specification. */
  readonly digest: string;
  readonly extentBlocks: number;
  /** Nodes of one level that one node of the next stands for. */
  readonly fanOut: number;
  /** The level whose only node stands for the whole volume. */
  readonly rootLevel: number;
}

export interface VolumeTraits {
  readonly writable: boolean;
  /** zero() can deallocate, and deallocated blocks read as zeros. */
  readonly thin: boolean;
  /** "own": its own host digests its data; "read": the data is read from it and digested here. */
  readonly digests: "own" | "read";
  /** Canonical texts of the digest specifications that it can give; undefined: every one. */
  readonly digestsOffered: readonly string[] | undefined;
  /** The most extents and bytes of one window. */
  readonly windowExtentsMax: number;
  readonly windowBytesMax: number;
  /** Windows that are worth having under way at once. */
  readonly windowsInFlight: number;
  /** What it has a catalogue of; absent if it has none. */
  readonly catalogue?: CatalogueOffer | undefined;
  /** writeExtents() is there and its peer has it, and likewise copyExtents(); absent: no. */
  readonly writesExtents?: boolean;
  readonly copiesExtents?: boolean;
  /** findExtents() is there, for what the catalogue is of. */
  readonly findsExtents?: boolean;
  /** changesSince(), beginGeneration() and commitGeneration() are there, for extents as the catalogue has them. */
  readonly keepsHistories?: boolean;
  /** grow() is there, and its peer has it; absent: no. */
  readonly grows?: boolean;
  /** beginWhole(), commitWhole(), rollBackWhole() and wholeState() are there; absent: no. */
  readonly keepsWhole?: boolean;
}

export interface ReadOptions {
  /** From the medium, past any cache that this host has of it. */
  readonly fresh?: boolean;
}

export interface WriteOptions {
  /** On the medium when the promise resolves. */
  readonly durable?: boolean;
}

/** A run of extents, aligned to the extent size; the volume's last one may be shorter. */
export interface DigestWindow {
  readonly lba: number;
  readonly extentBlocks: number;
  readonly extents: number;
  readonly digest: DigestSpec;
  /** 16 random bytes. */
  readonly initialValue: Buffer;
  readonly width: ValueWidth;
  /** Read the medium; neither catalogue nor page cache. */
  readonly fresh: boolean;
  /**
   * 0 or absent: extents. Above, for encodeDigests() of a volume with a catalogue: `extents` nodes of that level of its
   * digest tree, the first of them at `lba`. A node that the catalogue does not believe has a value that equals nothing.
   */
  readonly level?: number;
  /** Nothing is read: what the catalogue does not believe is an AgentError `not_known`. */
  readonly catalogueOnly?: boolean;
}

/** Extents whose identifiers themselves are asked for, which only their own host may see. */
export type IdentifierWindow = Pick<DigestWindow, "lba" | "extentBlocks" | "extents" | "digest" | "fresh">;

/** Where an answer ended before its window did. */
export interface Unreadable {
  readonly lba: number;
  readonly reason: string;
}

export interface DigestAnswer {
  /** `width` bytes for each of the first `extents` extents of the window. */
  readonly values: Buffer;
  readonly extents: number;
  readonly unreadable: Unreadable | undefined;
}

export interface CompareAnswer {
  /** One flag for each of the first `extents` extents: true where the values differ. */
  readonly different: readonly boolean[];
  readonly extents: number;
  readonly unreadable: Unreadable | undefined;
}

/** A run of blocks to be written: its data, or zeros where there is none. */
export interface ExtentRun {
  readonly lba: number;
  readonly blocks: number;
  readonly data?: Buffer;
}

export interface WriteExtentsOptions {
  /** What the data is proved by where it arrives. */
  readonly digest: DigestSpec;
  /** Of zstd: 1 to 3; 0 leaves the data as it is. */
  readonly level: number;
}

/** Ranges of extents in order: those that have changed, or those that have not, whichever are fewer. */
export interface GenerationChanges {
  /** 16 bytes. */
  readonly generation: Buffer;
  readonly names: "changed" | "unchanged";
  readonly ranges: readonly { readonly first: number; readonly count: number }[];
}

/** Of which replication set a volume is a replica, as its own host remembers it. */
export interface SetLabel {
  /** 16 bytes. */
  readonly set: Buffer;
  /** The last generation that it was told to hold as a whole. */
  readonly generation: number;
  /** It was handed out to be written to: it goes its own way, and no run of the set may write to it. */
  readonly handedOut: boolean;
}

/** Whether a volume is a whole generation, and what is kept of its last one while it is not. */
export interface WholeState {
  readonly state: "whole" | "open";
  /** Absent: of none. */
  readonly label?: SetLabel;
  /** 16 bytes: the run that is open. */
  readonly run?: Buffer;
  readonly keptExtents: number;
  /** What the before-images take. */
  readonly keptBytes: number;
  /** When the first run since the last whole generation began: ms since 1970; 0 where none is open. */
  readonly sinceMs: number;
  /** A roll back was begun, and has not ended. */
  readonly rollingBack: boolean;
  /** Somebody else has written to the volume since: the before-images are no generation of it. */
  readonly foreign: boolean;
}

export interface CommitOptions {
  readonly label?: Omit<SetLabel, "handedOut">;
}

/** What a roll back did. */
export interface RolledBack {
  /** Extents that are as they were; 0 where no run was open. */
  readonly extents: number;
  readonly bytes: number;
  /** Extents of which some blocks could not be read before they were overwritten: those are as the run left them. */
  readonly unreadable: number;
  /** Extents whose before-image was lost: they are as the run left them. */
  readonly lost: number;
}

export interface FenceOptions {
  readonly force?: boolean;
  readonly ifFenced?: boolean;
}

/** Which run of a replication set this is. */
export interface Fence {
  /** The set's UUID. */
  readonly set: string;
  /** Of its lease: the later the run, the higher. */
  readonly number: number;
}

export interface RollBackOptions {
  /** Also where somebody else has written since, and past before-images that are damaged. */
  readonly force?: boolean;
  /** Whoever has to know of writes before they begin makes each of them. */
  readonly noted?: (lba: number, blocks: number, action: () => Promise<void>) => Promise<void>;
}

/** Blocks that the volume may have already, in another place. */
export interface ExtentCopy {
  readonly from: number;
  readonly to: number;
  readonly blocks: number;
  /** The digest of all of their data: what is there now is copied only if it has this one. */
  readonly identifier: Buffer;
}

export interface Volume extends AsyncDisposable {
  /** As it was given, without secrets. */
  readonly name: string;
  /** As it was when the volume was opened, or measured last. */
  readonly geometry: Geometry;
  readonly identity: VolumeIdentity;
  readonly traits: VolumeTraits;
  /** Bytes on the wire so far; zeros for a local volume. */
  readonly traffic: { readonly sent: number; readonly received: number };

  /** Fills `buffer`, a whole number of blocks. @throws AgentError `medium_error` with the LBA */
  read(lba: number, buffer: Buffer, options?: ReadOptions, signal?: AbortSignal): Promise<void>;

  /**
   * Fills `buffer` before it returns, if that takes no waiting for a device or a peer; returns false otherwise, and for
   * everything that goes wrong: read() will say what. The buffer then holds anything.
   */
  readNow?(lba: number, buffer: Buffer): boolean;

  /** Likewise for write(); where it returns false, a part of the pieces may have been written. */
  writeNow?(lba: number, pieces: readonly Buffer[]): boolean;

  /** Writes the pieces one after another; together a whole number of blocks. @throws AgentError `no_space`, … */
  write(lba: number, pieces: readonly Buffer[], options?: WriteOptions, signal?: AbortSignal): Promise<void>;

  /** Makes a range read as zeros; deallocates it where `unmap` asks for it and the volume can. */
  zero(lba: number, blocks: number, options?: { unmap?: boolean }, signal?: AbortSignal): Promise<void>;

  /**
   * Writes runs, in their order, each proved by its digest where it arrives and before anything of it is written; zeros
   * are deallocated where the volume can. Resolves with the bytes that it took to send them. Where it throws, runs
   * from some one on are not written. @throws AgentError as write(); `io_error` for what arrived damaged again and again
   */
  writeExtents?(
    runs: readonly ExtentRun[],
    options: WriteExtentsOptions,
    signal?: AbortSignal,
  ): Promise<number>;

  /**
   * What has changed since the generation that a pair of volumes has in common, as far as this side knows; undefined if
   * it knows of none. Nothing is read for it. `pair` has 16 bytes.
   */
  changesSince?(pair: Buffer, signal?: AbortSignal): Promise<GenerationChanges | undefined>;

  /**
   * Records changes for a new generation of the pair, of 16 bytes, from here on. What is recorded since the one in common
   * goes on; one that was begun before and not committed is dropped.
   */
  beginGeneration?(pair: Buffer, generation: Buffer, signal?: AbortSignal): Promise<void>;

  /** The generation that was begun is the one in common from here on. @throws AgentError if another was begun since */
  commitGeneration?(pair: Buffer, generation: Buffer, signal?: AbortSignal): Promise<void>;

  /**
   * Where extents with these identifiers may lie, by the catalogue: the LBA of one for each, or undefined. `wanted` holds
   * `identifierBytes` each. What was found may have been overwritten since: a copy of it has to be proved.
   */
  findExtents?(wanted: Buffer, signal?: AbortSignal): Promise<(number | undefined)[]>;

  /**
   * Copies runs within the volume, in their order, where its host has what their identifiers say: one flag for each
   * tells whether it was copied. What was not has to be written.
   */
  copyExtents?(copies: readonly ExtentCopy[], digest: DigestSpec, signal?: AbortSignal): Promise<boolean[]>;

  /**
   * Everything written before is on the medium when this resolves. @throws AgentError `not_proved` if writes since
   * the last flush may have been lost (a connection or a device was reset in between): they must be proved again
   */
  flush(signal?: AbortSignal): Promise<void>;

  /**
   * How often some of what was written could not be put on the medium, as far as anybody was told: by a flush, or by a
   * write that was to be durable. Up to date when a flush has ended. One caller is told of each time: whoever flushes for
   * several compares. Absent where everybody is told.
   */
  readonly lostWrites?: number | undefined;

  /**
   * The first run of mapped blocks at or behind `lba` within `blocks`; undefined if all of it is a hole, and reads as zeros.
   * A volume that does not know its holes says that all is mapped.
   */
  nextData(
    lba: number,
    blocks: number,
    signal?: AbortSignal,
  ): Promise<{ lba: number; blocks: number } | undefined>;

  /** Encode mode: AES-128(K, B) of each extent, `width` bytes each. */
  encodeDigests(window: DigestWindow, signal?: AbortSignal): Promise<DigestAnswer>;

  /** Decode mode: AES-128⁻¹(K, value), from 16 bytes an extent to `width` bytes each. */
  decodeDigests(window: DigestWindow, values: Buffer, signal?: AbortSignal): Promise<DigestAnswer>;

  /** Verdict: which extents' encoded values differ from `values`, `width` bytes each. */
  compareDigests(window: DigestWindow, values: Buffer, signal?: AbortSignal): Promise<CompareAnswer>;

  /** The identifiers of a window: `digest.identifierBytes` each. Absent where they must be had by reading. */
  identifiers?(window: IdentifierWindow, signal?: AbortSignal): Promise<DigestAnswer>;

  /** Looks whether the volume has grown or shrunk, which `geometry` tells then; absent where nobody serves it. */
  remeasure?(): Promise<boolean>;

  /**
   * Makes the volume at least `blocks` long, which `geometry` tells then; it is never made shorter. What is new of a file reads
   * as zeros. The new size is on the medium when this resolves. @throws AgentError `no_space`; `size_mismatch` for what
   * somebody else has to extend first
   */
  grow?(blocks: number, signal?: AbortSignal): Promise<void>;

  /**
   * From here on what is overwritten is kept, until the run (16 bytes) is committed. One that is open goes on, whoever began
   * it: its before-images are of the last whole generation. @throws AgentError `no_space`, `io_error`; `split_brain` for a
   * volume that was handed out
   */
  beginWhole?(run: Buffer, signal?: AbortSignal): Promise<void>;

  /**
   * The volume is a whole generation, on the medium; what was kept is gone. In the same step it is that generation of its
   * set, where a label says which. @throws AgentError `backup_mismatch` if another run is open; `not_proved` if writes of
   * it were lost
   */
  commitWhole?(run: Buffer, options?: CommitOptions, signal?: AbortSignal): Promise<void>;

  /**
   * The volume is again the last whole generation, on the medium; nothing happens where it is one. What was cut off is gone
   * through again. @throws AgentError `backup_mismatch` if somebody else has written to it; `backup_damaged`, `size_mismatch`
   */
  rollBackWhole?(options?: RollBackOptions, signal?: AbortSignal): Promise<RolledBack>;

  wholeState?(signal?: AbortSignal): Promise<WholeState>;

  /**
   * Its host remembers that from here on, on the medium; undefined: it is a replica of no set. @throws AgentError `not_whole`
   * if it is to be handed out while a run is open
   */
  labelWhole?(label: SetLabel | undefined, signal?: AbortSignal): Promise<void>;

  /**
   * From here on the volume takes writes of this run of a replication set alone, whatever earlier ones have sent or go on
   * sending; also after this volume was closed, until a later run takes it, or it is given up. False where its host has no
   * means for that. `force`: takes it from whoever has it. `ifFenced`: only where an earlier run has it; it stays everybody's
   * otherwise, and the answer is false. @throws AgentError `volume_in_use` if a later run has it, or
   * somebody else; likewise from anything that is asked for after somebody else has taken it
   */
  fence?(run: Fence, options?: FenceOptions, signal?: AbortSignal): Promise<boolean>;

  /**
   * Takes the place of the run that has fenced the volume, if one has: nothing that it sends is taken any more, and a later one
   * takes the volume as it would have from that. For who does to a replica what its administrator wants, beside all runs.
   */
  takeFence?(signal?: AbortSignal): Promise<boolean>;

  /** Gives up what fence() or takeFence() took: everybody may write. */
  unfence?(signal?: AbortSignal): Promise<void>;

  /** Something that changes whenever the volume may have been written to, or undefined where that can't be told. */
  changeMark(): Promise<string | undefined>;
}

export const volumeBytes = (geometry: Geometry): number => geometry.blocks * geometry.blockBytes;

/** Blocks of a window: its extents, cut at the volume's end. */
export function windowBlocks(
  window: Pick<DigestWindow, "lba" | "extentBlocks" | "extents">,
  geometry: Geometry,
): number {
  return Math.min(window.extents * window.extentBlocks, geometry.blocks - window.lba);
}

/** @throws AgentError `internal` for a range outside the volume: callers plan within it */
export function checkRange(volume: Pick<Volume, "name" | "geometry">, lba: number, blocks: number): void {
  if (lba >= 0 && blocks >= 1 && lba + blocks <= volume.geometry.blocks) return;
  throw new AgentError(
    "internal",
    `Cannot access ${blocks} blocks at LBA ${lba} of ${volume.name}: it has ${volume.geometry.blocks}`,
  );
}

/** Which of the values differ; both hold `width` bytes an extent. */
export function differences(ours: Buffer, theirs: Buffer, extents: number, width: number): boolean[] {
  const different = new Array<boolean>(extents).fill(false);
  if (ours.compare(theirs, 0, extents * width, 0, extents * width) === 0) return different;
  for (let i = 0; i < extents; i++) {
    different[i] = ours.compare(theirs, i * width, (i + 1) * width, i * width, (i + 1) * width) !== 0;
  }
  return different;
}
