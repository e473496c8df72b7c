// The layers of a volume, one behind another: what it held when each of them was begun.
//
// Guarantees: what an extent held when a layer was begun is the first image of it in that layer or a newer one, else what the
// volume holds: also while layers are sealed, merged and removed. A layer is removed only when nothing older needs its images,
// or has them itself, on the medium; and it stays in the chain until its file is known to be gone, so that nobody merges into
// a file that a power cut takes away.
import { AgentError } from "../base/errors.ts";
import type { Volume } from "../volume/volume.ts";
import {
  beginsWith,
  cutImage,
  type ExtentImage,
  lengthOfExtent,
  readExtent,
  unreadableImage,
} from "./extent-images.ts";
import { extentBytes } from "./format.ts";
import type { LayerFolder } from "./journal-file.ts";
import type { Layer } from "./layer.ts";

/** Images that are merged at once: 4 MiB of them. */
const mergeExtentsMax = 64;

interface Shown {
  readonly image: ExtentImage | undefined;
  /** What images that are torn say that it is. */
  readonly torn: readonly { readonly crc: number; readonly bytes: number; readonly layer: Layer }[];
}

export class Chain {
  /** The layer that images go into now. */
  current: Layer | undefined;
  readonly #base: Volume;
  readonly #folder: LayerFolder;
  /** The oldest first. */
  #sealed: Layer[];
  /** To be removed, and perhaps gone: nothing is merged into them any more. */
  readonly #condemned = new Set<Layer>();
  /** By their ids in hexadecimal: they are shown to somebody. */
  readonly #pins = new Map<string, number>();

  constructor(base: Volume, folder: LayerFolder, sealed: readonly Layer[], current: Layer | undefined) {
    this.#base = base;
    this.#folder = folder;
    this.#sealed = [...sealed];
    this.current = current;
  }

  /** Layers that take no more images but by merging, the oldest first. */
  get sealed(): readonly Layer[] {
    return this.#sealed;
  }

  /** Those that are not about to go, and the current one. */
  get points(): readonly Layer[] {
    return this.#all.filter((layer) => !this.#condemned.has(layer));
  }

  get #all(): readonly Layer[] {
    return this.current ? [...this.#sealed, this.current] : this.#sealed;
  }

  /** What the images of all but the current one take. */
  get sealedBytes(): number {
    return this.#sealed.reduce((sum, { keptBytes }) => sum + keptBytes, 0);
  }

  has(layer: Layer): boolean {
    return this.#all.includes(layer) && !this.#condemned.has(layer);
  }

  find(id: Buffer): Layer | undefined {
    return this.points.find(({ head }) => head.id.equals(id));
  }

  // --- what they show ---

  /** The layers from this one on, with their files held open for the while. */
  async #since<T>(from: Layer, action: (layers: readonly Layer[]) => Promise<T>): Promise<T> {
    const at = this.#all.indexOf(from);
    if (at < 0) throw new AgentError("volume_missing", "it is not kept any more");
    const layers = this.#all.slice(at);
    for (const layer of layers) layer.hold();
    try {
      return await action(layers);
    } finally {
      for (const layer of layers) layer.release();
    }
  }

  #shown(from: Layer, extent: number): Promise<Shown> {
    return this.#since(from, async (layers) => {
      const torn: Shown["torn"][number][] = [];
      for (const layer of layers) {
        const found = await layer.imageOf(extent);
        if (!found) continue;
        if ("tornCrc" in found) {
          const bytes = lengthOfExtent(extent, layer.head.volumeBytes);
          torn.push({ crc: found.tornCrc, bytes, layer });
          continue;
        }
        for (const { crc, bytes, layer: older } of torn)
          if (!beginsWith(found, bytes, crc)) throw older.damage(extent);
        return { image: cutImage(found, from.head.volumeBytes), torn };
      }
      return { image: undefined, torn };
    });
  }

  /**
   * The image of an extent in a layer or a newer one; undefined where the volume still holds what it held; "torn" where
   * contentOf() has to be asked for it. @throws AgentError `state_damaged`, `volume_missing`
   */
  async imageAt(from: Layer, extent: number): Promise<ExtentImage | "torn" | undefined> {
    const { image, torn } = await this.#shown(from, extent);
    return image ?? (torn.length > 0 ? "torn" : undefined);
  }

  /** What an extent held when a layer was begun. @throws AgentError `state_damaged`, `volume_missing` */
  async contentOf(from: Layer, extent: number): Promise<ExtentImage> {
    const before = await this.#shown(from, extent);
    if (before.image) return before.image;
    const { volumeBytes } = from.head;
    const longest = Math.max(volumeBytes, ...before.torn.map(({ layer }) => layer.head.volumeBytes));
    const { blocks, blockBytes } = this.#base.geometry;
    if (extent * extentBytes + lengthOfExtent(extent, longest) > blocks * blockBytes)
      throw from.damage(extent);
    const now = await readExtent(this.#base, extent, longest);
    const since = await this.#shown(from, extent);
    if (since.image) return since.image;
    for (const { crc, bytes, layer } of before.torn)
      if (!beginsWith(now, bytes, crc)) throw layer.damage(extent);
    return cutImage(now, volumeBytes);
  }

  // --- how they change ---

  /** What the current layer has is complete. */
  seal(): void {
    if (this.current) this.#sealed.push(this.current);
    this.current = undefined;
  }

  /** It can't be removed, for as long as it is shown to somebody. */
  pin(id: Buffer): void {
    const name = id.toString("hex");
    this.#pins.set(name, (this.#pins.get(name) ?? 0) + 1);
  }

  unpin(id: Buffer): void {
    const name = id.toString("hex");
    const count = (this.#pins.get(name) ?? 0) - 1;
    if (count > 0) this.#pins.set(name, count);
    else this.#pins.delete(name);
  }

  isPinned({ head }: Layer): boolean {
    return this.#pins.has(head.id.toString("hex"));
  }

  isCondemned(layer: Layer): boolean {
    return this.#condemned.has(layer);
  }

  /** Removes a layer that nothing older needs. It is condemned, and may be asked for again, where that fails. */
  async remove(layer: Layer): Promise<void> {
    this.#condemned.add(layer);
    await this.#folder.remove(layer.head.epoch);
    this.#sealed = this.#sealed.filter((each) => each !== layer);
    if (this.current === layer) this.current = undefined;
    this.#condemned.delete(layer);
    layer.close();
  }

  /** Gives up the oldest layer, to make room; false if there is none that nobody is shown. @throws what removing gives */
  async giveUpOldest(): Promise<Layer | undefined> {
    const [oldest] = this.#sealed;
    if (!oldest || this.isPinned(oldest)) return undefined;
    await this.remove(oldest);
    return oldest;
  }

  /**
   * Puts the images of a layer into the next older one, where that has none; then the layer is removed. An image that
   * can't be read any more becomes one that says so. @throws what I/O gives: then the layer stays, as good as before
   */
  async merge(layer: Layer, signal?: AbortSignal): Promise<void> {
    const into = this.#sealed[this.#sealed.indexOf(layer) - 1];
    if (!into || this.#condemned.has(into))
      throw new AgentError("internal", "there is no layer to merge into");
    layer.hold();
    into.hold();
    try {
      let batch: number[] = [];
      for await (const { extent } of layer.images()) {
        signal?.throwIfAborted();
        if (extent >= into.extents) break;
        if (!(await into.isKept(extent))) batch.push(extent);
        if (batch.length < mergeExtentsMax) continue;
        await this.#adopt(layer, into, batch);
        batch = [];
      }
      await this.#adopt(layer, into, batch);
    } finally {
      layer.release();
      into.release();
    }
    // The older one may have been given up meanwhile, or this one be shown to somebody: then it is decided about anew.
    if (this.has(into) && !this.isPinned(layer)) await this.remove(layer);
  }

  async #adopt(layer: Layer, into: Layer, extents: readonly number[]): Promise<void> {
    const { volumeBytes } = into.head;
    await into.keep(extents, (first, count) =>
      Promise.all(
        Array.from({ length: count }, async (_, i) => {
          const extent = first + i;
          try {
            return cutImage(await this.contentOf(layer, extent), volumeBytes);
          } catch (error) {
            if (!(error instanceof AgentError) || error.code !== "state_damaged") throw error;
            return unreadableImage(extent, volumeBytes);
          }
        }),
      ),
    );
  }

  close(): void {
    for (const layer of this.#all) layer.close();
  }
}
