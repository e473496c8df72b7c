// A restore point: a volume as it was when a layer of before-images was begun, the last whole generation of an open run
// among them.
//
// Guarantees: a read gives what the volume held then, whatever is written meanwhile: an extent is read from the volume only
// if it had no before-image when that read had ended, and an extent gets one before it is overwritten. When the point was given
// up, the view is over: nothing can be read any more. A before-image that is damaged is a medium error. It never changes,
// and can't be written to.
import { AgentError } from "../base/errors.ts";
import { digestByReading } from "../volume/read-digests.ts";
import {
  type CompareAnswer,
  checkRange,
  type DigestAnswer,
  type DigestWindow,
  differences,
  type Geometry,
  type Volume,
  type VolumeIdentity,
  type VolumeTraits,
} from "../volume/volume.ts";
import type { Chain } from "./chain.ts";
import { type ExtentImage, firstUnreadable } from "./extent-images.ts";
import { entryKind, extentBytes } from "./format.ts";
import type { Layer } from "./layer.ts";

/** Blocks of one extent. */
interface Part {
  readonly extent: number;
  /** Bytes within the extent, and all of them together. */
  readonly offset: number;
  readonly bytes: number;
}

export class PointView implements Volume {
  readonly name: string;
  readonly geometry: Geometry;
  readonly identity: VolumeIdentity;
  readonly traits: VolumeTraits;
  readonly traffic = { sent: 0, received: 0 };
  readonly #base: Volume;
  readonly #chain: Chain;
  readonly #layer: Layer;

  /** Of the volume underneath, as it was when `layer` was begun. */
  constructor(base: Volume, chain: Chain, layer: Layer) {
    const { blockBytes } = base.geometry;
    const { epoch, id, volumeBytes } = layer.head;
    this.#base = base;
    this.#chain = chain;
    this.#layer = layer;
    this.name = `restore point ${epoch} of ${base.name}`;
    this.geometry = { blockBytes, blocks: volumeBytes / blockBytes };
    // A volume of its own: nobody takes it for another path to the replica.
    this.identity = { uuid: undefined, keys: [`point:${id.toString("hex")}`], description: this.name };
    const { catalogue, findsExtents, keepsHistories, keepsWhole, grows, ...traits } = base.traits;
    this.traits = { ...traits, writable: false };
  }

  #over(): AgentError {
    return new AgentError("volume_missing", `Cannot read the ${this.name}: it is not kept any more`);
  }

  async read(lba: number, buffer: Buffer): Promise<void> {
    const { blockBytes } = this.geometry;
    checkRange(this, lba, buffer.length / blockBytes);
    let done = 0;
    for (const part of this.#parts(lba, buffer.length / blockBytes)) {
      await this.#readPart(part, buffer.subarray(done, done + part.bytes));
      done += part.bytes;
    }
  }

  *#parts(lba: number, blocks: number): Generator<Part> {
    const { blockBytes } = this.geometry;
    const end = (lba + blocks) * blockBytes;
    for (let at = lba * blockBytes; at < end; ) {
      const extent = Math.floor(at / extentBytes);
      const bytes = Math.min(end, (extent + 1) * extentBytes) - at;
      yield { extent, offset: at % extentBytes, bytes };
      at += bytes;
    }
  }

  async #readPart(part: Part, buffer: Buffer): Promise<void> {
    const image = await this.#shown(part.extent, () =>
      this.#base.read((part.extent * extentBytes + part.offset) / this.geometry.blockBytes, buffer),
    );
    if (!image) return;
    const bad = firstUnreadable(image, part.offset, part.bytes);
    if (bad !== undefined) {
      const lba = Math.floor((part.extent * extentBytes + bad) / this.geometry.blockBytes);
      throw new AgentError(
        "medium_error",
        `Cannot read LBA ${lba} of the ${this.name}: it could not be read before it was overwritten`,
        { lba },
      );
    }
    if (image.data) image.data.copy(buffer, 0, part.offset, part.offset + part.bytes);
    else buffer.fill(0);
  }

  /** The before-image of an extent; undefined if there was none when `look`, which looks at the volume, had ended. */
  async #shown(extent: number, look: () => Promise<unknown>): Promise<ExtentImage | undefined> {
    const before = await this.#imageOf(extent);
    if (before) return before;
    let failure: unknown;
    await look().catch((error: unknown) => {
      failure = error;
    });
    const since = await this.#imageOf(extent);
    if (!since && failure !== undefined) throw failure;
    return since;
  }

  async #imageOf(extent: number): Promise<ExtentImage | undefined> {
    if (!this.#chain.has(this.#layer)) throw this.#over();
    try {
      const image = await this.#chain.imageAt(this.#layer, extent);
      return image === "torn" ? await this.#chain.contentOf(this.#layer, extent) : image;
    } catch (error) {
      if (!(error instanceof AgentError) || error.code !== "state_damaged") throw error;
      const lba = (extent * extentBytes) / this.geometry.blockBytes;
      throw new AgentError("medium_error", `Cannot read LBA ${lba} of the ${this.name}: ${error.message}`, {
        lba,
        cause: error,
      });
    }
  }

  async nextData(lba: number, blocks: number): Promise<{ lba: number; blocks: number } | undefined> {
    const { blockBytes } = this.geometry;
    checkRange(this, lba, blocks);
    for (const { extent, offset, bytes } of this.#parts(lba, blocks)) {
      const first = (extent * extentBytes + offset) / blockBytes;
      let found: { lba: number; blocks: number } | undefined;
      const image = await this.#shown(extent, async () => {
        found = await this.#base.nextData(first, bytes / blockBytes);
      });
      if (image)
        found = image.kind === entryKind.hole ? undefined : { lba: first, blocks: bytes / blockBytes };
      if (found) return found;
    }
    return undefined;
  }

  encodeDigests(window: DigestWindow): Promise<DigestAnswer> {
    return digestByReading((lba, buffer) => this.read(lba, buffer), this.geometry, window, "encode");
  }

  decodeDigests(window: DigestWindow, values: Buffer): Promise<DigestAnswer> {
    return digestByReading((lba, buffer) => this.read(lba, buffer), this.geometry, window, "decode", values);
  }

  async compareDigests(window: DigestWindow, values: Buffer): Promise<CompareAnswer> {
    const own = await this.encodeDigests(window);
    const different = differences(own.values, values, own.extents, window.width);
    return { different, extents: own.extents, unreadable: own.unreadable };
  }

  #refused(): AgentError {
    return new AgentError("volume_readonly", `Cannot write to the ${this.name}: it never changes`);
  }

  async write(): Promise<void> {
    throw this.#refused();
  }

  async zero(): Promise<void> {
    throw this.#refused();
  }

  /** Nothing of it is anywhere but on the medium. */
  async flush(): Promise<void> {}

  /** It never changes. */
  async changeMark(): Promise<string> {
    return `point ${this.#layer.head.id.toString("hex")}`;
  }

  /** The volume itself is its owner's. */
  async [Symbol.asyncDispose](): Promise<void> {}
}
