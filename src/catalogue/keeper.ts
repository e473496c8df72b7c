// Keeps the catalogue of a volume that this process owns: opens it, says that its owner is alive, has it digested and
// scrubbed in the background, and closes it.
//
// Guarantees: what is found is believed only as far as trust.ts says. A catalogue has one keeper at a time, and all of it
// is on the medium when it is closed in order.
import { createHash } from "node:crypto";
import { join } from "node:path";
import { Semaphore } from "../base/async.ts";
import { AgentError, messageOf } from "../base/errors.ts";
import type { DigestSpec } from "../digest/spec.ts";
import { BlockFile } from "../platform/block-file.ts";
import type { Clock } from "../platform/clock.ts";
import { emptyFile, fileExists, makeFile, removeFile } from "../platform/durable-file.ts";
import { Loop } from "../platform/loop.ts";
import type { Random } from "../platform/random.ts";
import { changeMarkOf, volumeName } from "../volume/change-mark.ts";
import type { Volume } from "../volume/volume.ts";
import { Catalogue } from "./catalogue.ts";
import { CataloguedVolume } from "./catalogued-volume.ts";
import { encodeHeader, type Header } from "./header.ts";
import { Histories } from "./history.ts";
import { historyFolder } from "./history-folder.ts";
import type { Storage } from "./page-store.ts";
import { type ScrubOptions, type ScrubProgress, scrub } from "./scrub.ts";
import { headerBytes, TreeShape } from "./shape.ts";
import { disbelief, readHeader } from "./trust.ts";
import { Upkeep } from "./upkeep.ts";

const tickMs = 500;
const beatMs = 5_000;

export interface KeeperOptions {
  /** Where catalogues are kept. */
  readonly folder: string;
  readonly digest: DigestSpec;
  readonly extentBytes: number;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: (level: "info" | "warning" | "error", message: string) => void;
  /** Last change of the volume by the clock of this host, in ms since 1970; undefined where nobody can tell. */
  readonly changedMs: () => Promise<number | undefined>;
  /** Digest in the background what is not known. */
  readonly fill: boolean;
  /** Scrubs in the background: how often, and how fast; none if absent. */
  readonly scrub?: { readonly everyMs: number; readonly bytesPerSecond: number } | undefined;
}

/** The file of a volume's catalogue. */
export function cataloguePath(folder: string, volume: Volume): string {
  const { uuid, keys } = volume.identity;
  const name = uuid ?? createHash("sha256").update(keys.join("\n")).digest("hex").slice(0, 32);
  return join(folder, "catalogues", `${name}.catalogue`);
}

export class CatalogueKeeper implements AsyncDisposable {
  readonly volume: CataloguedVolume;
  readonly #storage: Storage;
  readonly #options: KeeperOptions;
  readonly #upkeep: Upkeep;
  readonly #loops: Loop[] = [];
  #header: Header;
  /** One at a time writes it: the two copies take turns. */
  readonly #headerTurn = new Semaphore(1);
  #stopped = false;
  readonly #stopping = new AbortController();

  private constructor(volume: CataloguedVolume, storage: Storage, header: Header, options: KeeperOptions) {
    this.volume = volume;
    this.#storage = storage;
    this.#header = header;
    this.#options = options;
    this.#upkeep = new Upkeep(volume, options.clock);
  }

  /** Takes over `volume` for as long as it is kept. @throws AgentError `io_error`, `volume_in_use`, `no_space` */
  static async open(volume: Volume, options: KeeperOptions): Promise<CatalogueKeeper> {
    const path = cataloguePath(options.folder, volume);
    try {
      return await CatalogueKeeper.#open(volume, path, options);
    } catch (error) {
      if (error instanceof AgentError) throw error;
      const code = (error as { code?: string }).code;
      throw new AgentError(
        code === "EAGAIN" ? "volume_in_use" : code === "ENOSPC" ? "no_space" : "io_error",
        `Cannot open the catalogue "${path}" of "${volume.name}": ${messageOf(error)}`,
        { cause: error },
      );
    }
  }

  static async #open(volume: Volume, path: string, options: KeeperOptions): Promise<CatalogueKeeper> {
    const { digest, extentBytes, clock, log } = options;
    const { blockBytes, blocks } = volume.geometry;
    const extentBlocks = extentBytes / blockBytes;
    const extents = Math.ceil(blocks / extentBlocks);
    const { fileBytes } = new TreeShape(extents, digest.identifierBytes);
    const expected = {
      blockBytes,
      blocks,
      extentBytes,
      digest: digest.text,
      volume: volumeName(volume),
    };
    const isNew = !fileExists(path);
    await makeFile(path, fileBytes);
    let file = await BlockFile.open(path, true);
    try {
      const found = isNew ? undefined : await readHeader(file);
      const why = isNew
        ? "there was none"
        : await disbelief(found, expected, await changeMarkOf(volume), options.changedMs);
      if (why !== undefined) {
        // Nothing of an old one may shine through: the file begins anew, as one hole.
        file.close();
        await emptyFile(path, fileBytes);
        file = await BlockFile.open(path, true);
        log(isNew ? "info" : "warning", `the catalogue of "${volume.name}" begins anew: ${why}`);
      }
      // Before the header can be believed: those of another life of the catalogue are gone by then.
      const histories = await Histories.open(
        historyFolder(path.replace(/\.catalogue$/, ".histories")),
        extents,
        why !== undefined,
        {
          dropped: (pair, error) =>
            log(
              "warning",
              `the history of "${volume.name}" with ${pair} could not be kept: ${messageOf(error)}`,
            ),
        },
      );
      const header: Header = {
        ...expected,
        sequence: (found?.sequence ?? 0) + 1,
        closed: false,
        generation: (found?.generation ?? 0) + (why === undefined ? 0 : 1),
        beatMs: clock.nowMs(),
        mark: "",
        scrubNext: why === undefined ? found!.scrubNext : 0,
        scrubbedMs: why === undefined ? found!.scrubbedMs : 0,
      };
      await file.write((header.sequence % 2) * headerBytes, [encodeHeader(header)]);
      await file.flush();
      const catalogue = new Catalogue(file, extents, extentBytes, digest, clock);
      const catalogued = new CataloguedVolume(volume, catalogue, {
        extentBlocks,
        random: options.random,
        histories,
        log,
        discard: () => removeFile(path),
        grow: (blocks) => keeper.#grow(path, blocks),
      });
      const keeper = new CatalogueKeeper(catalogued, file, header, options);
      return keeper;
    } catch (error) {
      file.close();
      throw error;
    }
  }

  /**
   * Looks at all that is believed, from where the last scrub stopped; `regions` of it at most.
   * @throws what reading the catalogue or its file gives
   */
  async scrub(
    options: Omit<ScrubOptions, "clock" | "reached">,
    regions = Number.POSITIVE_INFINITY,
  ): Promise<ScrubProgress> {
    const { clock } = this.#options;
    const all = this.volume.catalogue.shape.nodes[1]!;
    const first = this.#header.scrubNext < all ? this.#header.scrubNext : 0;
    return scrub(this.volume, first, Math.min(regions, all - first), {
      ...options,
      clock,
      reached: (next) =>
        this.#writeHeader(next === all ? { scrubNext: 0, scrubbedMs: clock.nowMs() } : { scrubNext: next }),
    });
  }

  /** Long enough after the last scrub, or in the middle of one. */
  get #scrubIsDue(): boolean {
    const { scrub: wanted, clock } = this.#options;
    if (!wanted || this.#upkeep.sweeping || !this.volume.catalogue.isKept) return false;
    return this.#header.scrubNext > 0 || clock.nowMs() - this.#header.scrubbedMs >= wanted.everyMs;
  }

  async #scrubOn(): Promise<void> {
    if (!this.#scrubIsDue) return;
    const { scrub: wanted, log } = this.#options;
    const { name } = this.volume;
    if (this.#header.scrubNext === 0) log("info", `scrub of "${name}" begins`);
    const { done } = await this.scrub({
      bytesPerSecond: wanted!.bytesPerSecond,
      found: ({ kind, reason }) =>
        log("error", `scrub of "${name}": ${kind === "differs" ? reason : `unreadable: ${reason}`}`),
      signal: this.#stopping.signal,
    });
    if (done) log("info", `scrub of "${name}" has ended`);
  }

  /** Begins to work in the background. */
  start(): void {
    const { clock, fill, log, scrub: wanted } = this.#options;
    if (fill) this.#upkeep.sweep();
    const loop = (everyMs: number, action: () => Promise<void>) =>
      new Loop(clock, everyMs, action, (error) =>
        log("warning", `the catalogue of "${this.volume.name}" waits: ${messageOf(error)}`),
      );
    // Each by itself: a medium that takes long to scrub does not keep its owner from saying that it is alive.
    const upkeep = loop(tickMs, () => this.#upkeep.step());
    this.volume.catalogue.onLearnt = () => upkeep.wake();
    this.#loops.push(
      loop(beatMs, () => this.#beat()),
      upkeep,
    );
    if (wanted) this.#loops.push(loop(tickMs, () => this.#scrubOn()));
  }

  /** Digests all that is not known, without resting. */
  fill(signal: AbortSignal): Promise<void> {
    return this.#upkeep.fill(signal);
  }

  /** The file has room for the catalogue of so many blocks, and says that it is of them. On the medium when it resolves. */
  async #grow(path: string, blocks: number): Promise<void> {
    const { digest, log } = this.#options;
    const { name, extentBlocks, geometry } = this.volume;
    const { fileBytes } = new TreeShape(Math.ceil(blocks / extentBlocks), digest.identifierBytes);
    await makeFile(path, fileBytes);
    await this.#writeHeader({ blocks });
    await this.#storage.flush();
    this.#upkeep.sweep();
    log("info", `the catalogue of "${name}" grows with it, from ${geometry.blocks} to ${blocks} blocks`);
  }

  async #beat(): Promise<void> {
    if (this.volume.catalogue.isKept) await this.#writeHeader({ beatMs: this.#options.clock.nowMs() });
  }

  async #writeHeader(changes: Partial<Header>): Promise<void> {
    const leave = await this.#headerTurn.acquire();
    try {
      this.#header = { ...this.#header, ...changes, sequence: this.#header.sequence + 1 };
      await this.#storage.write((this.#header.sequence % 2) * headerBytes, [encodeHeader(this.#header)]);
    } finally {
      leave();
    }
  }

  async #stop(): Promise<void> {
    this.#stopped = true;
    this.#stopping.abort();
    this.#upkeep.stop();
    for (const loop of this.#loops) await loop[Symbol.asyncDispose]();
  }

  /** Lets go at once, as a crash does: what was not on the medium is not put there. */
  async abandon(): Promise<void> {
    await this.#stop();
    this.volume.histories?.close();
    this.#storage.close();
  }

  /** Everything that is known is on the medium, and how the volume is now; the volume itself stays open. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#stopped) return;
    await this.#stop();
    try {
      if (!this.volume.catalogue.isKept) return;
      await this.#upkeep.finish();
      const mark = await changeMarkOf(this.volume);
      // Without a mark nobody could tell whether somebody has written since.
      if (mark === undefined) return;
      await this.#writeHeader({ closed: true, mark });
      await this.#storage.flush();
    } catch (error) {
      this.#options.log(
        "warning",
        `the catalogue of "${this.volume.name}" was not closed: ${messageOf(error)}`,
      );
    } finally {
      this.volume.histories?.close();
      this.#storage.close();
    }
  }
}
