// A volume with before-images, over media that lose and tear what was not flushed, by a schedule that a seed makes:
// begins, writes, zeros, views, crashes of the process, cuts of the power, failing flushes, full disks, removals that fail,
// commits, roll backs, restore points that are kept, merged, given up and shown.
//
// What it demands: after a roll back the volume holds the last whole generation, on the medium, to the byte; after a commit
// the medium holds what the volume held, and nothing brings it back; every restore point that is listed, the last whole
// generation among them, is at any time what the volume was when its layer was begun; one that is shown is never given up.
import { AgentError } from "../../src/base/errors.ts";
import { SystemError } from "../../src/platform/errno.ts";
import type { Volume } from "../../src/volume/volume.ts";
import { extentBytes, type Header, journalState } from "../../src/whole/format.ts";
import { Journal } from "../../src/whole/journal.ts";
import type { KeepPolicy } from "../../src/whole/keep-policy.ts";
import { PointView } from "../../src/whole/point-view.ts";
import { WholePoints } from "../../src/whole/points.ts";
import { WholeVolume } from "../../src/whole/whole-volume.ts";
import { Life, type Random, Schedule, SimVolume } from "../catalogue/sim-media.ts";
import { below, bytesOf, oneOf, randomOf, volumeOf } from "../support/data.ts";
import { SimDisk, SimJournalFile, SimLayerFolder } from "./sim-journal.ts";
import { type Action, policies, type Weights, weights } from "./sim-weights.ts";

const blockBytes = 512;
const extentBlocks = extentBytes / blockBytes;
const name = Buffer.alloc(32, 7);
const noCounts = {
  writes: 0,
  crashes: 0,
  rollBacks: 0,
  commits: 0,
  views: 0,
  refused: 0,
  resumed: 0,
  points: 0,
  merges: 0,
  drops: 0,
  grown: 0,
};
export type SimCounts = typeof noCounts;

export interface SimOptions {
  /** The before-images are never flushed: a program that does so must be found out. */
  readonly withoutFlush?: boolean;
  readonly alter?: (host: WholeVolume) => WholeVolume;
}

export class WholeSimulation {
  readonly random: Random;
  readonly counts: SimCounts = { ...noCounts };
  readonly #schedule: Schedule;
  readonly #volume: SimVolume;
  readonly #disk = new SimDisk();
  readonly #file = new SimJournalFile(this.#disk);
  readonly #layers = new SimLayerFolder(this.#disk);
  #keep: KeepPolicy | undefined;
  readonly #spaceBytes: number | undefined;
  readonly #weights: Weights;
  #nowMs = 1;
  readonly #options: SimOptions;
  #life!: Life;
  #host!: WholeVolume;
  #run: Buffer = Buffer.alloc(16);
  /** What the volume held when a layer was begun, by its epoch. */
  readonly #generations = new Map<number, Buffer>();
  /** What it held when a run was begun that is kept in a layer. */
  readonly #starts = new Map<number, Buffer>();
  /** Runs that have ended, as their callers were told. */
  readonly #ended = new Set<string>();
  /** The process looks what it finds. */
  #opening = true;
  /** What is shown to somebody. */
  #shown: { id: Buffer; epoch: number; volume: Volume }[] = [];
  #underWay = new Set<Promise<void>>();
  #failure: unknown;

  constructor(seed: number, options: SimOptions = {}) {
    this.random = randomOf(seed);
    this.#options = options;
    this.#schedule = new Schedule(this.random);
    const extents = oneOf(this.random, [1, 2, 2, 3, 3, 3, 4, 4, 5, 6, 66]);
    const blocks = extents * extentBlocks - oneOf(this.random, [0, 0, 1, 100]);
    const data = volumeOf(this.random, blocks * blockBytes);
    this.#volume = new SimVolume("sim", data, blockBytes, this.random);
    this.#volume.holes = this.random() < 0.5;
    this.#keep = oneOf(this.random, policies);
    this.#weights = oneOf(this.random, weights);
    this.#spaceBytes = this.random() < 0.2 ? 3 * extentBytes : undefined;
    this.#disk.flushes = !options.withoutFlush;
    this.#file.onHeader = (header) => this.#headerWritten(header);
  }

  /** Somebody tries to write it down. */
  #headerWritten(header: Header): void {
    if (this.#opening) return;
    const known = this.#host.journal.header;
    const isRecording = ({ state, keeping }: Header) => state !== journalState.whole || keeping;
    const begins = isRecording(header) && !(isRecording(known) && known.epoch === header.epoch);
    const ends = header.state === journalState.whole && known.state !== journalState.whole;
    if (begins || ends)
      this.#demand(this.#volume.cache.equals(this.#volume.medium), "what is whole is on the medium");
    if (begins) this.#generations.set(header.epoch, Buffer.from(this.#volume.cache));
    if (header.state !== journalState.whole && known.state === journalState.whole)
      this.#starts.set(header.epoch, Buffer.from(this.#volume.cache));
  }

  async run(steps: number): Promise<void> {
    await this.#start();
    for (let step = 0; step < steps; step++) {
      await this.#act();
      for (let n = below(this.random, 20); n > 0; n--) await this.#schedule.step();
      if (this.#failure !== undefined) throw this.#failure;
    }
    // At last, everything that went wrong is over.
    await this.#settle();
    this.#disk.full = false;
    this.#disk.failsFlush = false;
    this.#disk.failsRemoval = false;
    this.#volume.failsFlush = false;
    await this.#drive(this.#rollBack());
    for (const shown of this.#shown.splice(0)) await shown.volume[Symbol.asyncDispose]();
    await this.#drive(this.#host.tidy());
    this.#demand(this.#host.journal.tidy.next() === undefined, "nothing is left that nobody wants");
    await this.#drive(this.#lookAtAll());
    if (this.#failure !== undefined) throw this.#failure;
  }

  #demand(holds: boolean, what: string): void {
    if (!holds) this.#failure ??= new Error(`not so: ${what}`);
  }

  /** Lets everybody go on until `work` has ended. */
  async #drive<T>(work: Promise<T>): Promise<T> {
    let over = false;
    const end = () => {
      over = true;
    };
    work.then(end, end);
    for (let turns = 0; !over; turns++) {
      if (!(await this.#schedule.step()) && turns > 100_000) throw new Error("nobody goes on");
    }
    return work;
  }

  async #settle(): Promise<void> {
    while (this.#underWay.size > 0) await this.#drive(Promise.all(this.#underWay));
  }

  async #start(): Promise<void> {
    this.#life = new Life(this.#schedule);
    this.#volume.life = this.#life;
    this.#volume.orphaned();
    const random = { bytes: (count: number) => bytesOf(this.random, count) };
    const file = this.#file.over(this.#life);
    const layers = this.#layers.over(this.#life);
    // Administrators change their minds.
    if (this.random() < 0.1) this.#keep = oneOf(this.random, policies);
    const options = {
      path: "sim.journal",
      random,
      nowMs: () => this.#nowMs,
      isForeign: async () => false,
      log: () => {},
      pagesMax: oneOf(this.random, [0, 0, 1, 8]),
      keep: this.#keep,
      spaceBytes: this.#spaceBytes,
    };
    this.#opening = true;
    const journal = await this.#drive(
      this.#opened(() => Journal.open(file, layers, this.#volume, name, options)),
    );
    this.#opening = false;
    if (journal.isOpen) {
      this.#demand(!this.#ended.has(runName(journal.header)), "a run that has ended is not open");
      this.counts.resumed++;
    }
    for (const { head } of journal.chain.points)
      this.#demand(this.#generations.has(head.epoch), "what is a point was begun");
    const host = new WholeVolume(this.#volume, journal);
    this.#host = this.#options.alter?.(host) ?? host;
    // What was shown is shown again, before anything is given up.
    const shown = this.#shown.splice(0);
    for (const { id } of shown) await this.#drive(this.#show(id));
    if (this.random() < 0.3) await this.#drive(this.#lookAtAll());
  }

  /** A medium that fails is tried again, by an administrator. */
  async #opened(open: () => Promise<Journal>): Promise<Journal> {
    try {
      return await open();
    } catch (error) {
      if (!(error instanceof AgentError) || error.code !== "io_error") throw error;
      return open();
    }
  }

  #go(work: () => Promise<void>): void {
    const life = this.#life;
    const going = work()
      .catch((error) => {
        if (life.dead) return;
        const known =
          error instanceof SystemError ||
          (error instanceof AgentError &&
            ["no_space", "io_error", "medium_error", "not_proved", "backup_mismatch"].includes(error.code));
        if (known) this.counts.refused++;
        else this.#failure ??= error;
      })
      .finally(() => this.#underWay.delete(going));
    // What a dead process was about is never heard of again.
    this.#underWay.add(going);
  }

  #range(blocks = this.#volume.geometry.blocks): [lba: number, blocks: number] {
    const count = Math.min(blocks, oneOf(this.random, [1, 3, 50, extentBlocks, 2 * extentBlocks + 5]));
    return [below(this.random, blocks - count + 1), count];
  }

  async #act(): Promise<void> {
    await this.#actions[this.#next()]();
    this.#nowMs += below(this.random, 3);
  }

  #next(): Action {
    const all = Object.entries(this.#weights) as [Action, number][];
    let left = this.random() * all.reduce((sum, [, weight]) => sum + weight, 0);
    for (const [action, weight] of all) {
      if (left < weight) return action;
      left -= weight;
    }
    return "look";
  }

  readonly #actions: Readonly<Record<Action, () => unknown>> = {
    write: () => {
      const host = this.#host;
      const [lba, blocks] = this.#range();
      this.counts.writes++;
      const data = bytesOf(this.random, blocks * blockBytes);
      const kind = this.random();
      if (kind < 0.2) host.writeNow(lba, [data]);
      else if (kind < 0.4) this.#go(() => host.zero(lba, blocks, { unmap: true }));
      else this.#go(() => host.write(lba, [data]));
    },
    flush: () => this.#go(() => this.#host.flush()),
    begin: () => this.#go(() => this.#begin()),
    wholeRun: () => this.#go(() => this.#wholeRun()),
    commit: () => this.#go(() => this.#commit()),
    rollBack: () => this.#go(() => this.#rollBack()),
    view: () => this.#go(() => this.#view()),
    tidy: () => this.#go(() => this.#tidy()),
    show: () => this.#go(() => this.#show(this.#anyPoint())),
    withdraw: () => this.#go(() => this.#withdraw()),
    grow: () => this.#go(() => this.#grow()),
    full: () => {
      this.#disk.full = !this.#disk.full;
    },
    failsFlush: () => {
      this.#disk.failsFlush = true;
    },
    volumeFailsFlush: () => {
      this.#volume.failsFlush = true;
    },
    failsRemoval: () => {
      this.#disk.failsRemoval = true;
    },
    note: () => this.#go(() => this.#host.journal.note("say that it is kept", {})),
    crash: () => this.#crash(),
    look: async () => {
      await this.#settle();
      await this.#drive(this.#lookAtAll());
    },
  };

  async #grow(): Promise<void> {
    const { blocks } = this.#volume.geometry;
    if (blocks > 8 * extentBlocks) return;
    await this.#host.grow(blocks + oneOf(this.random, [1, 50, extentBlocks]));
    this.counts.grown++;
  }

  async #crash(): Promise<void> {
    this.counts.crashes++;
    this.#life.die();
    this.#underWay = new Set();
    this.#volume.failsFlush = false;
    if (this.random() < 0.6) {
      this.#volume.powerCut(this.random);
      this.#file.powerCut(this.random);
      this.#layers.powerCut(this.random);
    }
    await this.#start();
  }

  async #begin(): Promise<void> {
    if (this.random() < 0.5) this.#run = bytesOf(this.random, 16);
    await this.#host.beginWhole(this.#run);
  }

  async #wholeRun(): Promise<void> {
    const host = this.#host;
    await this.#begin();
    for (let writes = 1 + below(this.random, 3); writes > 0; writes--) {
      const [lba, blocks] = this.#range();
      await host.write(lba, [bytesOf(this.random, blocks * blockBytes)]);
    }
    await this.#commit();
  }

  async #commit(): Promise<void> {
    const { journal } = this.#host;
    const before = journal.header;
    await this.#host.commitWhole(this.#run);
    this.counts.commits++;
    if (before.state !== journalState.whole) this.#ended.add(runName(before));
  }

  async #rollBack(): Promise<void> {
    const { journal } = this.#host;
    const { epoch } = journal.header;
    const { extents } = await this.#host.rollBackWhole();
    if (extents === 0 || journal.header.epoch !== epoch) return;
    this.counts.rollBacks++;
    // What it has grown by since is zeros.
    const generation = Buffer.alloc(this.#volume.cache.length);
    this.#starts.get(epoch)!.copy(generation);
    // Somebody may be about to write.
    if (journal.isRecording) return;
    this.#demand(this.#volume.cache.equals(generation), "what was rolled back is the last whole generation");
    this.#demand(this.#volume.medium.equals(generation), "and it is on the medium");
  }

  async #tidy(): Promise<void> {
    const { chain } = this.#host.journal;
    const before = chain.sealed.length;
    const merges = this.#host.journal.tidy.next()?.action === "merge";
    await this.#host.tidy();
    this.counts[merges ? "merges" : "drops"] += before - chain.sealed.length;
  }

  #anyPoint(): Buffer | undefined {
    const { points } = this.#host.journal.chain;
    return points.length === 0 || this.random() < 0.3 ? undefined : oneOf(this.random, points).head.id;
  }

  async #show(id: Buffer | undefined): Promise<void> {
    const { point, volume } = await new WholePoints(this.#host).open(id);
    this.#shown.push({ id: point.id, epoch: point.number, volume });
  }

  async #withdraw(): Promise<void> {
    const shown = this.#shown.pop();
    await shown?.volume[Symbol.asyncDispose]();
  }

  async #view(): Promise<void> {
    const { chain } = this.#host.journal;
    const shown = this.#shown.at(below(this.random, 2));
    if (!shown && chain.points.length === 0) return;
    const layer = oneOf(this.random, chain.points);
    const [view, epoch] = shown
      ? [shown.volume, shown.epoch]
      : [new PointView(this.#volume, chain, layer), layer.head.epoch];
    await this.#look(view, epoch, "a view").catch((error) => {
      // It was given up, or withdrawn, meanwhile.
      const isOver = error instanceof AgentError && error.code === "volume_missing";
      if (!isOver || (shown && this.#shown.includes(shown))) throw error;
    });
  }

  /** Every point that is listed, from end to end. */
  async #lookAtAll(): Promise<void> {
    const { chain } = this.#host.journal;
    for (const layer of chain.points) {
      const view = new PointView(this.#volume, chain, layer);
      const buffer = Buffer.alloc(view.geometry.blocks * blockBytes);
      await view.read(0, buffer);
      this.counts.points++;
      // It may have grown in the very instant.
      const generation = this.#generations.get(layer.head.epoch)!.subarray(0, buffer.length);
      this.#demand(buffer.equals(generation), `the restore point ${layer.head.epoch} is what it was`);
    }
  }

  async #look(view: Volume, epoch: number, what: string): Promise<void> {
    const [lba, blocks] = this.#range(view.geometry.blocks);
    const buffer = Buffer.alloc(blocks * blockBytes);
    await view.read(lba, buffer);
    this.counts.views++;
    const generation = this.#generations.get(epoch)!;
    const right = generation.subarray(lba * blockBytes, (lba + blocks) * blockBytes);
    this.#demand(buffer.equals(right), `${what} shows the volume as it was, at LBA ${lba}`);
  }
}

const runName = ({ epoch, run }: Header): string => `${epoch} ${run.toString("hex")}`;
