// Keeps the before-images of a volume that this process owns: opens them, says that their owner is alive, and notes how
// the volume is when it lets go.
//
// Guarantees: a run that is found open goes on protecting. Whether somebody else has written to the volume since is looked
// at first, and remembered until the run ends; what can't be seen, docs/formats/whole.md lists.
import { messageOf } from "../base/errors.ts";
import type { Clock } from "../platform/clock.ts";
import { Loop } from "../platform/loop.ts";
import type { Random } from "../platform/random.ts";
import { changeMarkOf, volumeName } from "../volume/change-mark.ts";
import type { Volume } from "../volume/volume.ts";
import type { Header } from "./format.ts";
import type { Log } from "./found-layers.ts";
import { Journal } from "./journal.ts";
import {
  type JournalFile,
  journalPath,
  type LayerFolder,
  layerFolder,
  openJournalFile,
} from "./journal-file.ts";
import type { KeepPolicy } from "./keep-policy.ts";
import { WholeVolume } from "./whole-volume.ts";

const beatMs = 5_000;
const tidyMs = 1_000;
/** How much later than the last beat a volume may have been written to by an owner that died. */
const beatSlackMs = 10_000;
/** As much of a change mark as a header holds. */
const markBytesMax = 256;

export interface WholeOptions {
  /** The state directory. */
  readonly folder: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  /** Which restore points are kept; absent: those that there are, and no new ones. */
  readonly keep?: KeepPolicy | undefined;
  /** What they may take. */
  readonly keepBytes?: number | undefined;
  /** Last change of the volume by the clock of this host, in ms since 1970; undefined where nobody can tell. */
  readonly changedMs: () => Promise<number | undefined>;
}

/** Opens the before-images of `volume`, for as long as they are kept. @throws AgentError `volume_in_use`, `state_damaged`, … */
export async function openWhole(volume: Volume, options: WholeOptions): Promise<WholeKeeper> {
  const path = journalPath(options.folder, volume);
  const file = await openJournalFile(path, volume.name);
  return WholeKeeper.open(volume, file, layerFolder(options.folder, volume), path, options);
}

export class WholeKeeper implements AsyncDisposable {
  readonly volume: WholeVolume;
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #beats: Loop;
  #tidying: Loop | undefined;
  readonly #stopping = new AbortController();
  #stopped = false;

  private constructor(volume: WholeVolume, { clock, log }: Omit<WholeOptions, "folder">) {
    this.volume = volume;
    this.#log = log;
    this.#clock = clock;
    const { journal, name } = volume;
    this.#beats = new Loop(
      clock,
      beatMs,
      async () => {
        if (journal.isRecording || !journal.isSure) await journal.note("say that it is being kept", {});
      },
      (error) => log("warning", `the before-images of "${name}" wait: ${messageOf(error)}`),
    );
  }

  /** Takes over `file`. */
  static async open(
    volume: Volume,
    file: JournalFile,
    layers: LayerFolder,
    path: string,
    options: Omit<WholeOptions, "folder">,
  ): Promise<WholeKeeper> {
    try {
      const { random, clock, log, keep, keepBytes } = options;
      const name = volumeName(volume);
      const nowMs = () => clock.nowMs();
      let why: string | undefined;
      const isForeign = async (found: Header) => {
        why = await foreignSince(found, name, volume, options.changedMs);
        return why !== undefined;
      };
      const journal = await Journal.open(file, layers, volume, name, {
        path,
        random,
        nowMs,
        isForeign,
        log,
        keep,
        spaceBytes: keepBytes,
      });
      const { header } = journal;
      if (journal.isOpen) {
        const doubt = `; it can't be rolled back: ${why ?? "others have written to the volume since it began"}`;
        log(
          header.foreign ? "warning" : "info",
          `the run ${header.run.toString("hex")} of "${volume.name}" is open${header.foreign ? doubt : ""}`,
        );
      }
      if (why !== undefined && journal.chain.points.length > 0)
        log("warning", `restore points of "${volume.name}" can't be relied on any more: ${why}`);
      return new WholeKeeper(new WholeVolume(volume, journal), options);
    } catch (error) {
      file.close();
      throw error;
    }
  }

  /** Begins to give up the restore points that nobody wants. Those that are shown to somebody are known by then. */
  start(): void {
    const { name } = this.volume;
    this.#tidying ??= new Loop(
      this.#clock,
      tidyMs,
      () => this.volume.tidy(this.#stopping.signal),
      (error) => this.#log("warning", `restore points of "${name}" stay for now: ${messageOf(error)}`),
    );
  }

  async #stop(): Promise<void> {
    this.#stopped = true;
    this.#stopping.abort();
    await this.#tidying?.[Symbol.asyncDispose]();
    await this.#beats[Symbol.asyncDispose]();
  }

  /** Lets go at once, as a crash does. */
  async abandon(): Promise<void> {
    await this.#stop();
    this.volume.journal.close();
  }

  /** Notes how the volume is now, which stays open itself. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#stopped) return;
    await this.#stop();
    const { journal, name } = this.volume;
    try {
      if (!journal.isGuarding) return;
      const mark = await changeMarkOf(this.volume);
      if (mark !== undefined) await journal.note("let go of it", { closed: true, mark });
    } catch (error) {
      this.#log("warning", `the before-images of "${name}" were not closed: ${messageOf(error)}`);
    } finally {
      journal.close();
    }
  }
}

/** Why the volume counts as written to by somebody else; undefined if it does not. */
async function foreignSince(
  header: Header,
  name: Buffer,
  volume: Volume,
  changedMs: () => Promise<number | undefined>,
): Promise<string | undefined> {
  if (!header.volume.equals(name)) return "another file lies under its name";
  if (header.closed) {
    const now = Buffer.from((await changeMarkOf(volume)) ?? "", "utf8")
      .subarray(0, markBytesMax)
      .toString("utf8");
    // A device counts from the boot of the host: of another one nothing is known.
    const bootOf = (mark: string) => mark.slice(mark.lastIndexOf(" ") + 1);
    if (now === "" || header.mark === "" || bootOf(now) !== bootOf(header.mark)) return undefined;
    return now === header.mark ? undefined : "it was written to since it was closed";
  }
  const changed = await changedMs();
  if (changed !== undefined && changed > header.beatMs + beatSlackMs)
    return "it was written to after its owner had died";
  return undefined;
}
