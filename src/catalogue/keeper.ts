// Keeps the catalogue of a volume that this process owns: opens it, decides whether its entries may be believed, has
// digested what was written, and closes it.
//
// Guarantees: entries are believed at the start only if the catalogue is this volume's, in its present size, and nobody
// can be seen to have written since the last owner let go: closed in order, the volume's change mark must be the one
// noted then; left by a crash, the volume must not have been written to later than the owner was alive. What can't be
// seen, docs/formats/catalogue.md lists. Digesting goes on beside the work, for a quarter of the time at most.
import { createHash } from "node:crypto";
import { join } from "node:path";
import { AgentError, messageOf } from "../base/errors.ts";
import type { DigestSpec } from "../digest/spec.ts";
import { BlockFile } from "../platform/block-file.ts";
import type { Clock, Timer } from "../platform/clock.ts";
import { emptyFile, fileExists, makeFile, removeFile } from "../platform/durable-file.ts";
import type { Random } from "../platform/random.ts";
import type { Volume } from "../volume/volume.ts";
import { Catalogue } from "./catalogue.ts";
import { CataloguedVolume } from "./catalogued-volume.ts";
import { encodeHeader, type Header, newestHeader } from "./header.ts";
import { Histories } from "./history.ts";
import { historyFolder } from "./history-folder.ts";
import type { Storage } from "./page-store.ts";
import { type ScrubOptions, type ScrubProgress, scrub } from "./scrub.ts";
import { fanOut, headerBytes, TreeShape } from "./shape.ts";

const tickMs = 500;
const beatMs = 5_000;
/** How much later than the last beat a volume may have been written to by an owner that died. */
const beatSlackMs = 10_000;
const idleMs = 2_000;
const believedAtOnce = 256;
/** Regions that are digested in one go when nobody else asks for them. */
const sweepRegions = 16;
/** Of the time, for digesting in the background: one part in this many. */
const dutyParts = 4;

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
  #header: Header;
  #timer: Timer | undefined;
  #work: Promise<void> = Promise.resolve();
  #beaten = 0;
  #sweep = 0;
  #sweeping = true;
  #restUntilMs = 0;
  #stopped = false;
  readonly #stopping = new AbortController();

  private constructor(volume: CataloguedVolume, storage: Storage, header: Header, options: KeeperOptions) {
    this.volume = volume;
    this.#storage = storage;
    this.#header = header;
    this.#options = options;
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
      const mark = (await changeMarkOf(volume)) ?? "";
      const why = isNew ? "there was none" : await disbelief(found, expected, mark, options);
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
      const catalogue = Catalogue.over(file, extents, extentBytes, digest, clock);
      const catalogued = new CataloguedVolume(volume, catalogue, {
        extentBlocks,
        random: options.random,
        histories,
        log,
        discard: () => removeFile(path),
      });
      return new CatalogueKeeper(catalogued, file, header, options);
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
    options: Omit<ScrubOptions, "clock">,
    regions = Number.POSITIVE_INFINITY,
  ): Promise<ScrubProgress> {
    const all = this.volume.catalogue.shape.nodes[1]!;
    const first = this.#header.scrubNext < all ? this.#header.scrubNext : 0;
    const progress = await scrub(this.volume, first, Math.min(regions, all - first), {
      ...options,
      clock: this.#options.clock,
    });
    await this.#writeHeader(
      progress.done
        ? { scrubNext: 0, scrubbedMs: this.#options.clock.nowMs() }
        : { scrubNext: progress.next },
    );
    return progress;
  }

  /** Has been idle long enough for a scrub, or is in the middle of one. */
  get #scrubIsDue(): boolean {
    const { scrub: wanted, clock } = this.#options;
    if (!wanted || this.#sweeping) return false;
    return this.#header.scrubNext > 0 || clock.nowMs() - this.#header.scrubbedMs >= wanted.everyMs;
  }

  async #scrubOn(): Promise<void> {
    const { scrub: wanted, log } = this.#options;
    const begins = this.#header.scrubNext === 0;
    if (begins) log("info", `scrub of "${this.volume.name}" begins`);
    const { done } = await this.scrub(
      {
        bytesPerSecond: wanted!.bytesPerSecond,
        found: ({ kind, reason }) =>
          log(
            "error",
            `scrub of "${this.volume.name}": ${kind === "differs" ? reason : `unreadable: ${reason}`}`,
          ),
        signal: this.#stopping.signal,
      },
      1,
    );
    if (done) log("info", `scrub of "${this.volume.name}" has ended`);
  }

  /** Begins to digest in the background. */
  start(): void {
    this.#sweeping = this.#options.fill;
    this.#next();
  }

  #next(): void {
    if (this.#stopped) return;
    this.#timer = this.#options.clock.after(tickMs, () => {
      this.#work = this.tick()
        .catch((error: unknown) => {
          if (!this.#stopped) this.#options.log("warning", `the catalogue waits: ${messageOf(error)}`);
        })
        .finally(() => this.#next());
    });
  }

  /** One step of the work in the background. */
  async tick(): Promise<void> {
    const { clock } = this.#options;
    if (this.volume.catalogue.lost) return;
    const begunMs = clock.monotonicMs();
    await this.#beat();
    await this.settle(idleMs);
    if (this.#scrubIsDue) {
      await this.#scrubSteps();
      return;
    }
    if (begunMs < this.#restUntilMs || !this.#sweeping) return;
    await this.#sweepOn();
    const tookMs = clock.monotonicMs() - begunMs;
    this.#restUntilMs = clock.monotonicMs() + (dutyParts - 1) * tookMs;
  }

  /** For about as long as a tick; the rate keeps it from taking more than it may. */
  async #scrubSteps(): Promise<void> {
    const { clock } = this.#options;
    const begunMs = clock.monotonicMs();
    while (this.#scrubIsDue && !this.#stopped && clock.monotonicMs() - begunMs < tickMs)
      await this.#scrubOn();
  }

  /** Digests what has been idle for a while, and believes what is known as a whole. */
  async settle(forMs: number): Promise<void> {
    const { catalogue } = this.volume;
    for (const region of catalogue.ready(forMs).idle.slice(0, sweepRegions)) await this.#digest(region, 1);
    for (;;) {
      const whole = catalogue.ready(forMs).whole.slice(0, believedAtOnce);
      if (whole.length === 0) return;
      await catalogue.believe(whole, () => this.volume.flushForAll());
      if (this.#stopped || catalogue.lost) return;
      // What was written to meanwhile waits for the next time.
      if (catalogue.ready(forMs).whole.some((region) => whole.includes(region))) return;
    }
  }

  async #sweepOn(): Promise<void> {
    const { shape } = this.volume.catalogue;
    const regions = shape.nodes[1]!;
    for (let steps = 0; steps < sweepRegions && this.#sweep < regions; steps++) {
      const count = Math.min(sweepRegions, regions - this.#sweep);
      await this.#digest(this.#sweep, count);
      this.#sweep += count;
      if (this.#stopped) return;
      await this.settle(idleMs);
    }
    if (this.#sweep >= regions) this.#sweeping = false;
  }

  async #digest(region: number, regions: number): Promise<void> {
    const end = Math.min((region + regions) * fanOut, this.volume.catalogue.shape.nodes[0]!);
    for (let first = region * fanOut; first < end && !this.#stopped; ) {
      const { extents, unreadable } = await this.volume.digest(first, end - first);
      first += unreadable ? extents + 1 : extents;
    }
  }

  /** Digests all that is not known, without resting. */
  async fill(signal: AbortSignal): Promise<void> {
    const regions = this.volume.catalogue.shape.nodes[1]!;
    for (let region = 0; region < regions; region += sweepRegions) {
      signal.throwIfAborted();
      await this.#digest(region, Math.min(sweepRegions, regions - region));
      await this.settle(0);
    }
  }

  async #beat(): Promise<void> {
    const now = this.#options.clock.monotonicMs();
    if (now - this.#beaten < beatMs) return;
    this.#beaten = now;
    await this.#writeHeader({ beatMs: this.#options.clock.nowMs() });
  }

  async #writeHeader(changes: Partial<Header>): Promise<void> {
    this.#header = { ...this.#header, ...changes, sequence: this.#header.sequence + 1 };
    await this.#storage.write((this.#header.sequence % 2) * headerBytes, [encodeHeader(this.#header)]);
  }

  /** Lets go at once, as a crash does: what was not on the medium is not put there. */
  async abandon(): Promise<void> {
    this.#stopped = true;
    this.#stopping.abort();
    this.#timer?.cancel();
    await this.#work;
    this.volume.histories?.close();
    this.#storage.close();
  }

  /** Everything that is known is on the medium, and how the volume is now; the volume itself stays open. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#stopping.abort();
    this.#timer?.cancel();
    await this.#work;
    const { catalogue } = this.volume;
    try {
      if (catalogue.lost) return;
      const { whole } = catalogue.ready(0);
      for (let at = 0; at < whole.length; at += believedAtOnce) {
        await catalogue.believe(whole.slice(at, at + believedAtOnce), () => this.volume.flushForAll());
      }
      await catalogue.flush();
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

/** What a catalogue is bound to: the volume's name, and of a file the inode. */
function volumeName(volume: Volume): Buffer {
  const inode =
    volume.identity.keys
      .find((key) => key.startsWith("file:"))
      ?.split(":")
      .at(-1) ?? "";
  return createHash("sha256").update(`${volume.identity.uuid}\n${inode}`).digest();
}

/** A device counts its writes from the boot of the host: another boot tells nothing. */
async function changeMarkOf(volume: Volume): Promise<string | undefined> {
  const mark = await volume.changeMark();
  const device = volume.identity.keys.find((key) => key.startsWith("device:")) ?? "";
  return mark && `${mark} ${device}`;
}

async function readHeader(file: BlockFile): Promise<Header | undefined> {
  const bytes = Buffer.alloc(2 * headerBytes);
  await file.read(0, bytes);
  return newestHeader([bytes.subarray(0, headerBytes), bytes.subarray(headerBytes)]);
}

/** Why the entries are not to be believed; undefined if they are. */
async function disbelief(
  found: Header | undefined,
  expected: Pick<Header, "blockBytes" | "blocks" | "extentBytes" | "digest" | "volume">,
  mark: string,
  options: KeeperOptions,
): Promise<string | undefined> {
  if (!found) return "its header is damaged";
  if (!found.volume.equals(expected.volume)) return "it is of another volume";
  if (found.blocks !== expected.blocks || found.blockBytes !== expected.blockBytes)
    return "the volume has another size";
  if (found.extentBytes !== expected.extentBytes || found.digest !== expected.digest)
    return "it has other digests";
  if (found.closed) {
    return mark !== "" && found.mark === mark ? undefined : "the volume was written to since it was closed";
  }
  const changedMs = await options.changedMs();
  if (changedMs !== undefined && changedMs > found.beatMs + beatSlackMs)
    return "the volume was written to after its owner had died";
  return undefined;
}
