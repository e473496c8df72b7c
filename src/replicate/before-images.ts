// Before-images: what a synchronization overwrites is kept, so that it can be put back (mission row R7).
//
// Guarantees: an extent is overwritten only after its old content is on disk here, record and data, under checksums.
// A run that is cut off may leave torn records at the end, whose extents were not overwritten yet.
// Every pass over the volume, and what is trimmed behind it, has a file of its own, in which an extent occurs once.
//
// The format is docs/formats/before-images.md.
import { randomUUID } from "node:crypto";
import { type FileHandle, mkdir, open, rename } from "node:fs/promises";
import { dirname, join } from "node:path";
import { AgentError, messageOf } from "../base/errors.ts";
import type { Crc32c } from "../iscsi/framing.ts";
import { parseUuid } from "../scsi/inquiry-data.ts";
import type { Volume } from "../volume/volume.ts";
import {
  formatVersion,
  imageRecord,
  imagesHeader,
  imagesName,
  type Manifest,
  manifestName,
} from "./before-images-format.ts";

/** What the format needs of the platform. */
export interface ImageTools {
  readonly crc32c: Crc32c;
  readonly isZero: (data: Uint8Array) => boolean;
}

function failure(folder: string, error: unknown): unknown {
  if (error instanceof AgentError) return error;
  const code = (error as NodeJS.ErrnoException).code;
  const full = code === "ENOSPC" || code === "EDQUOT" || code === "EFBIG";
  return new AgentError(
    full ? "no_space" : "io_error",
    `Cannot keep before-images in "${folder}": ${messageOf(error)}; nothing of them was overwritten yet`,
    { cause: error },
  );
}

async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Replaces backup.json as a whole: after a crash it is the old one or the new one. */
export async function writeManifest(folder: string, manifest: Manifest): Promise<void> {
  const path = join(folder, manifestName);
  const handle = await open(`${path}.new`, "w", 0o600);
  try {
    await handle.writeFile(`${JSON.stringify(manifest, undefined, 2)}\n`);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(`${path}.new`, path);
  await syncFolder(folder);
}

export class BeforeImages {
  readonly #parent: string;
  readonly #tools: ImageTools;
  readonly #nowMs: () => number;
  #folder: string | undefined;
  #manifest: Manifest | undefined;
  #images: FileHandle | undefined;
  #pass = 0;
  #at = 0;
  #extents = 0;
  #failed = false;

  /** Folders of single runs are made under `parent` when there is something to keep. */
  constructor(parent: string, tools: ImageTools, nowMs: () => number) {
    this.#parent = parent;
    this.#tools = tools;
    this.#nowMs = nowMs;
  }

  /** Where this run's before-images are; undefined as long as nothing was overwritten. */
  get folder(): string | undefined {
    return this.#folder;
  }

  get extents(): number {
    return this.#extents;
  }

  /**
   * Keeps the content that the ranges have on the replica; when this resolves, it is on disk.
   * @throws AgentError `no_space`, `io_error`: nothing of the ranges may be overwritten then
   */
  async keep(
    replica: Volume,
    about: { source: string; extentBytes: number; pass: number },
    ranges: readonly { lba: number; blocks: number }[],
  ): Promise<void> {
    try {
      const images = await this.#open(replica, about);
      for (const { lba, blocks } of ranges)
        await this.#keepRange(images, replica, lba, blocks, about.extentBytes);
      await images.datasync();
      // Need not be on disk itself: it tells what is torn from what was damaged later (docs/formats).
      await this.#append(images, { lba: BigInt(this.#at), commit: true }, undefined);
    } catch (error) {
      this.#failed = true;
      throw failure(this.#folder ?? this.#parent, error);
    }
  }

  async #keepRange(
    images: FileHandle,
    replica: Volume,
    lba: number,
    blocks: number,
    extentBytes: number,
  ): Promise<void> {
    const { blockBytes } = replica.geometry;
    const buffer = Buffer.allocUnsafeSlow(blocks * blockBytes);
    try {
      await replica.read(lba, buffer);
    } catch (error) {
      if (!(error instanceof AgentError) || error.code !== "medium_error") throw error;
      const step = extentBytes / blockBytes;
      if (blocks > step) {
        for (let done = 0; done < blocks; done += step) {
          await this.#keepRange(images, replica, lba + done, Math.min(step, blocks - done), extentBytes);
        }
      } else await this.#append(images, { lba: BigInt(lba), blocks, unreadable: true }, undefined);
      return;
    }
    this.#extents += Math.ceil((blocks * blockBytes) / extentBytes);
    if (this.#tools.isZero(buffer))
      await this.#append(images, { lba: BigInt(lba), blocks, zeros: true }, undefined);
    else
      await this.#append(
        images,
        { lba: BigInt(lba), blocks, dataChecksum: this.#tools.crc32c(buffer) },
        buffer,
      );
  }

  async #append(
    images: FileHandle,
    values: Parameters<typeof imageRecord.encode>[0],
    data: Buffer | undefined,
  ): Promise<void> {
    const head = imageRecord.encode(values);
    head.writeUInt32BE(
      this.#tools.crc32c(head.subarray(0, imageRecord.fields.checksum.byte)),
      imageRecord.fields.checksum.byte,
    );
    for (const piece of data ? [head, data] : [head]) {
      for (let done = 0; done < piece.length; ) {
        const { bytesWritten } = await images.write(piece, done, piece.length - done, this.#at);
        done += bytesWritten;
        this.#at += bytesWritten;
      }
    }
  }

  async #open(
    replica: Volume,
    about: { source: string; extentBytes: number; pass: number },
  ): Promise<FileHandle> {
    if (this.#images && this.#pass === about.pass) return this.#images;
    await this.#images?.close();
    this.#images = undefined;
    const { blocks, blockBytes } = replica.geometry;
    if (this.#folder === undefined || this.#manifest === undefined) {
      const begun = new Date(this.#nowMs()).toISOString();
      const uuid = randomUUID();
      const folder = join(this.#parent, `${begun.replace(/[:.]/g, "-")}-${uuid.slice(0, 8)}`);
      await mkdir(folder, { recursive: true, mode: 0o700 });
      this.#folder = folder;
      this.#manifest = {
        format: "lunsync before-images",
        version: formatVersion,
        uuid,
        begun,
        source: about.source,
        replica: replica.name,
        replicaUuid: replica.identity.uuid,
        replicaKeys: replica.identity.keys,
        blockBytes,
        blocks,
        extentBytes: about.extentBytes,
      };
      await writeManifest(folder, this.#manifest);
      await syncFolder(dirname(folder));
    }
    this.#pass = about.pass;
    this.#at = 0;
    const images = await open(join(this.#folder, imagesName(about.pass)), "wx", 0o600);
    this.#images = images;
    const header = imagesHeader.encode({
      blockBytes,
      blocks: BigInt(blocks),
      backupUuid: parseUuid(this.#manifest.uuid),
      pass: about.pass,
    });
    const { byte } = imagesHeader.fields.checksum;
    header.writeUInt32BE(this.#tools.crc32c(header.subarray(0, byte)), byte);
    await images.write(header, 0, header.length, 0);
    this.#at = header.length;
    await syncFolder(this.#folder);
    return images;
  }

  /**
   * Closes the run's folder. The time of its end is noted there, unless something could not be kept: then it looks like
   * a run that was cut off, and its last records may be torn. Returns what went wrong with that, if anything: the
   * before-images are whole all the same.
   */
  async end(): Promise<string | undefined> {
    try {
      await this.#images?.close();
      this.#images = undefined;
      if (this.#failed || this.#folder === undefined || this.#manifest === undefined) return undefined;
      await writeManifest(this.#folder, { ...this.#manifest, ended: new Date(this.#nowMs()).toISOString() });
      return undefined;
    } catch (error) {
      return `Cannot note the end of the run in "${this.#folder}": ${messageOf(error)}`;
    }
  }
}
