// A regular file or a block device of this host as a volume.
//
// Guarantees: opening for writing takes the device exclusively, or locks the file; errors of the system become
// AgentErrors that name the volume, the LBA and what to do. After a flush that failed, digests are taken from the
// medium (the addon sees to it), since the page cache may hold what the medium does not.
import { randomUUID } from "node:crypto";
import { stat } from "node:fs/promises";
import { lengthOf } from "../base/bytes.ts";
import { AgentError } from "../base/errors.ts";
import { programOf } from "../digest/spec.ts";
import { BlockFile, type IdentifyRequest } from "../platform/block-file.ts";
import { SystemError } from "../platform/errno.ts";
import { deviceWriteCount, localIdentity, sameVolumeKey } from "../platform/local-volumes.ts";
import { Durability } from "./durability.ts";
import {
  type CompareAnswer,
  checkRange,
  type DigestAnswer,
  type DigestWindow,
  differences,
  type Geometry,
  type IdentifierWindow,
  type ReadOptions,
  type Volume,
  type VolumeIdentity,
  type VolumeTraits,
  volumeBytes,
  type WriteOptions,
  windowBlocks,
} from "./volume.ts";

const noTraffic = { sent: 0, received: 0 };

/** Longer than the tick that file times are taken from. */
const clockTickMs = 20;
const settlingMax = 10;

/** Logical blocks of a file where nobody says otherwise. */
export const fileBlockBytesDefault = 512;

export class FileVolume implements Volume {
  readonly name: string;
  readonly identity: VolumeIdentity;
  readonly traits: VolumeTraits;
  readonly traffic = noTraffic;
  readonly #file: BlockFile;
  readonly #durability: Durability;
  #geometry: Geometry;

  private constructor(name: string, file: BlockFile, geometry: Geometry, identity: VolumeIdentity) {
    this.name = name;
    this.#durability = new Durability(name);
    this.#geometry = geometry;
    this.identity = identity;
    this.#file = file;
    this.traits = {
      writable: file.writable,
      thin: file.canUnmap,
      digests: "own",
      digestsOffered: undefined,
      windowExtentsMax: 65535,
      windowBytesMax: 1024 * 1024 * 1024,
      windowsInFlight: 4,
      grows: file.writable,
    };
  }

  /**
   * Opens `path`. `blockBytes` applies to files; a device has its own.
   * @throws AgentError `volume_missing`, `volume_unreadable`, `volume_unsuitable`, `volume_in_use`, `volume_readonly`
   */
  static async open(path: string, options: { writable: boolean; blockBytes?: number }): Promise<FileVolume> {
    const { writable } = options;
    const doing = `Cannot open "${path}" for ${writable ? "writing" : "reading"}`;
    let file: BlockFile;
    try {
      file = await BlockFile.open(path, writable);
    } catch (error) {
      throw openError(doing, error);
    }
    try {
      const blockBytes = file.blockDevice
        ? file.logicalBlockBytes
        : (options.blockBytes ?? fileBlockBytesDefault);
      if (file.bytes === 0)
        throw new AgentError("volume_unsuitable", `${doing}: it is empty; a volume has at least one block`);
      if (file.bytes % blockBytes !== 0) {
        throw new AgentError(
          "volume_unsuitable",
          `${doing}: its ${file.bytes} bytes are no whole number of ${blockBytes}-byte logical blocks`,
        );
      }
      const geometry = { blockBytes, blocks: file.bytes / blockBytes };
      const { uuid, keys, description } = await localIdentity(path, file);
      const identity = { uuid, keys: [...keys, ...keys.map(sameVolumeKey)], description };
      return new FileVolume(path, file, geometry, identity);
    } catch (error) {
      file.close();
      throw error;
    }
  }

  get geometry(): Geometry {
    return this.#geometry;
  }

  /** Whole blocks count; a path where another file lies by now changes nothing. */
  async remeasure(): Promise<boolean> {
    let bytes: number;
    try {
      await using now = await BlockFile.open(this.name, false);
      if (now.device !== this.#file.device || now.inode !== this.#file.inode) return false;
      bytes = now.bytes;
    } catch (error) {
      if (error instanceof SystemError) return false;
      throw error;
    }
    const { blockBytes } = this.#geometry;
    const blocks = Math.floor(bytes / blockBytes);
    if (blocks === 0 || blocks === this.#geometry.blocks) return false;
    this.#geometry = { blockBytes, blocks };
    return true;
  }

  async grow(blocks: number): Promise<void> {
    await this.remeasure();
    const { blockBytes } = this.#geometry;
    if (blocks <= this.#geometry.blocks) return;
    const [from, to] = [volumeBytes(this.#geometry), blocks * blockBytes];
    const doing = `Cannot grow "${this.name}" from ${from} to ${to} bytes`;
    if (this.blockDevice) {
      throw new AgentError(
        "size_mismatch",
        `${doing}: the device has the size that was given to it; extend it with lvextend, or with what it was made by, and run it again`,
      );
    }
    try {
      await this.#file.grow(to);
      await this.#durability.run(() => this.#file.flush());
    } catch (error) {
      throw growthError(doing, error);
    }
    this.#geometry = { blockBytes, blocks };
  }

  get blockDevice(): boolean {
    return this.#file.blockDevice;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#file.close();
  }

  async read(lba: number, buffer: Buffer, options: ReadOptions = {}): Promise<void> {
    const blocks = buffer.length / this.geometry.blockBytes;
    checkRange(this, lba, blocks);
    await this.#doing("read", lba, blocks, () =>
      this.#file.read(lba * this.geometry.blockBytes, buffer, { direct: options.fresh ?? false }),
    );
  }

  readNow(lba: number, buffer: Buffer): boolean {
    const { blockBytes } = this.geometry;
    checkRange(this, lba, buffer.length / blockBytes);
    return this.#file.readNow(lba * blockBytes, buffer);
  }

  writeNow(lba: number, pieces: readonly Buffer[]): boolean {
    const { blockBytes } = this.geometry;
    checkRange(this, lba, lengthOf(pieces) / blockBytes);
    return this.#file.writeNow(lba * blockBytes, pieces);
  }

  async write(lba: number, pieces: readonly Buffer[], options: WriteOptions = {}): Promise<void> {
    const blocks = lengthOf(pieces) / this.geometry.blockBytes;
    checkRange(this, lba, blocks);
    const durable = options.durable ?? false;
    const action = () =>
      this.#doing("write", lba, blocks, () =>
        this.#file.write(lba * this.geometry.blockBytes, pieces, { durable }),
      );
    await (durable ? this.#durability.run(action) : action());
  }

  async zero(lba: number, blocks: number, options: { unmap?: boolean } = {}): Promise<void> {
    checkRange(this, lba, blocks);
    const { blockBytes } = this.geometry;
    await this.#doing("zero", lba, blocks, () =>
      this.#file.zero(lba * blockBytes, blocks * blockBytes, { unmap: options.unmap ?? false }),
    );
  }

  get lostWrites(): number {
    return this.#durability.lost;
  }

  flush(): Promise<void> {
    return this.#durability.run(() =>
      this.#file.flush().catch((error: unknown) => {
        throw this.#error("flush", undefined, undefined, error);
      }),
    );
  }

  async nextData(lba: number, blocks: number): Promise<{ lba: number; blocks: number } | undefined> {
    checkRange(this, lba, blocks);
    const { blockBytes } = this.geometry;
    const data = await this.#doing("find what is mapped of", lba, blocks, () =>
      this.#file.nextData(lba * blockBytes, blocks * blockBytes),
    );
    if (!data) return undefined;
    // A block that is data in part is data.
    const first = Math.floor(data.offset / blockBytes);
    const end = Math.ceil((data.offset + data.bytes) / blockBytes);
    return { lba: first, blocks: end - first };
  }

  identifiers(window: IdentifierWindow): Promise<DigestAnswer> {
    return this.#identify(window, "identifiers", undefined);
  }

  encodeDigests(window: DigestWindow): Promise<DigestAnswer> {
    return this.#identify(window, "encode", undefined);
  }

  decodeDigests(window: DigestWindow, values: Buffer): Promise<DigestAnswer> {
    return this.#identify(window, "decode", values);
  }

  async compareDigests(window: DigestWindow, values: Buffer): Promise<CompareAnswer> {
    const own = await this.encodeDigests(window);
    return {
      different: differences(own.values, values, own.extents, window.width),
      extents: own.extents,
      unreadable: own.unreadable,
    };
  }

  async changeMark(): Promise<string | undefined> {
    // Written back first: a page that is dirty already (by a mapping, or in a device's cache) could be changed again
    // without a trace. What the flush of another's data runs into is not this reader's error.
    await this.flush().catch(() => {});
    if (this.#file.blockDevice) return deviceWriteCount(this.#file.specialDevice);
    for (let i = 0; i < settlingMax; i++) {
      const { ino, dev, size, mtimeNs, ctimeNs } = await stat(this.#file.path, { bigint: true });
      const youngestMs = Number((mtimeNs > ctimeNs ? mtimeNs : ctimeNs) / 1_000_000n);
      const ageMs = Date.now() - youngestMs;
      // Two writes within one tick of the kernel's clock leave the same time.
      if (ageMs >= clockTickMs || ageMs < 0) return `${dev}:${ino}:${size}:${mtimeNs}:${ctimeNs}`;
      await new Promise((resolve) => setTimeout(resolve, clockTickMs));
    }
    return `written to all the time: ${randomUUID()}`; // equal to no other
  }

  async #identify(
    window: IdentifierWindow & Partial<Pick<DigestWindow, "width" | "initialValue">>,
    output: "encode" | "decode" | "identifiers",
    input: Buffer | undefined,
  ): Promise<DigestAnswer> {
    const blocks = windowBlocks(window, this.geometry);
    checkRange(this, window.lba, blocks);
    const { blockBytes } = this.geometry;
    const request: IdentifyRequest = {
      program: programOf(window.digest),
      offset: window.lba * blockBytes,
      bytes: blocks * blockBytes,
      extentBytes: window.extentBlocks * blockBytes,
      blockBytes,
      output,
      width: window.width ?? window.digest.identifierBytes,
      ...(window.initialValue && { initialValue: window.initialValue }),
      ...(input && { input }),
    };
    const result = await this.#file.identify(request, { direct: window.fresh });
    const { error } = result;
    return {
      values: result.values,
      extents: result.count,
      unreadable: error && {
        lba: Math.floor(
          (error.offsetBytes ?? (window.lba + result.count * window.extentBlocks) * blockBytes) / blockBytes,
        ),
        reason: error.message,
      },
    };
  }

  async #doing<T>(verb: string, lba: number, blocks: number, action: () => Promise<T>): Promise<T> {
    try {
      return await action();
    } catch (error) {
      throw this.#error(verb, lba, blocks, error);
    }
  }

  #error(verb: string, lba: number | undefined, blocks: number | undefined, cause: unknown): unknown {
    if (!(cause instanceof SystemError)) return cause;
    const at =
      cause.offsetBytes === undefined || lba === undefined
        ? lba
        : Math.floor(cause.offsetBytes / this.geometry.blockBytes);
    const what = lba === undefined ? "" : `${blocks} blocks at LBA ${lba} of `;
    const found = at === lba || at === undefined ? cause.message : `${cause.message} at LBA ${at}`;
    const details = { cause, ...(at !== undefined && { lba: at }) };
    switch (cause.code) {
      case "ENOSPC":
      case "EDQUOT":
      case "EFBIG":
        return new AgentError(
          "no_space",
          `Cannot ${verb} ${what}"${this.name}": ${found}; make room and run it again`,
          details,
        );
      case "EIO":
        return new AgentError(
          "medium_error",
          `Cannot ${verb} ${what}"${this.name}": ${found}; check the medium and the kernel log`,
          details,
        );
      case "EROFS":
      case "EPERM":
      case "EBADF":
        return new AgentError("volume_readonly", `Cannot ${verb} ${what}"${this.name}": ${found}`, details);
      default:
        return new AgentError("io_error", `Cannot ${verb} ${what}"${this.name}": ${found}`, details);
    }
  }
}

function growthError(doing: string, cause: unknown): unknown {
  if (!(cause instanceof SystemError)) return cause;
  switch (cause.code) {
    case "EFBIG":
      return new AgentError(
        "no_space",
        `${doing}: ${cause.message}; its file system, or a limit of the process (ulimit -f), takes no file of that size`,
        { cause },
      );
    case "ENOSPC":
    case "EDQUOT":
      return new AgentError("no_space", `${doing}: ${cause.message}; make room and run it again`, { cause });
    case "EROFS":
    case "EPERM":
    case "EINVAL": // it was opened for reading
      return new AgentError("volume_readonly", `${doing}: ${cause.message}`, { cause });
    default:
      return new AgentError("io_error", `${doing}: ${cause.message}`, { cause });
  }
}

function openError(doing: string, cause: unknown): unknown {
  if (!(cause instanceof SystemError)) return cause;
  switch (cause.code) {
    case "ENOENT":
    case "ENOTDIR":
    case "ENXIO":
    case "ENODEV":
    case "ENOMEDIUM":
      return new AgentError("volume_missing", `${doing}: ${cause.message}`, { cause });
    case "EACCES":
    case "EPERM":
      return new AgentError(
        "volume_unreadable",
        `${doing}: ${cause.message}; run as root or give this user access`,
        { cause },
      );
    case "EISDIR":
    case "EINVAL":
      return new AgentError(
        "volume_unsuitable",
        `${doing}: it is neither a regular file nor a block device; a SCSI generic device is named sg:/dev/sgN`,
        { cause },
      );
    case "EROFS":
      return new AgentError("volume_readonly", `${doing}: ${cause.message}`, { cause });
    case "EBUSY":
    case "EAGAIN":
      return new AgentError(
        "volume_in_use",
        `${doing}: it is in use (${cause.message}); unmount it or stop who uses it`,
        { cause },
      );
    default:
      return new AgentError("volume_unreadable", `${doing}: ${cause.message}`, { cause });
  }
}
