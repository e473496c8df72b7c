// A volume with before-images, over media that lose and tear what was not flushed, by a schedule that a seed makes:
// begins, writes, zeros, views, crashes of the process, cuts of the power, failing flushes, full disks, commits, roll backs.
//
// What it demands: after a roll back the volume holds the last whole generation, on the medium, to the byte; after a commit
// the medium holds what the volume held, and nothing brings it back; a view shows the last whole generation all the time.
import { AgentError } from "../../src/base/errors.ts";
import { SystemError } from "../../src/platform/errno.ts";
import { extentBytes, journalState } from "../../src/whole/format.ts";
import { Journal } from "../../src/whole/journal.ts";
import { WholeView } from "../../src/whole/whole-view.ts";
import { WholeVolume } from "../../src/whole/whole-volume.ts";
import { Life, type Random, Schedule, SimVolume } from "../catalogue/sim-media.ts";
import { below, bytesOf, oneOf, randomOf, volumeOf } from "../support/data.ts";
import { SimJournalFile } from "./sim-journal.ts";

const blockBytes = 512;
const extentBlocks = extentBytes / blockBytes;
const name = Buffer.alloc(32, 7);

export interface SimOptions {
  /** The before-images are never flushed: a program that does so must be found out. */
  readonly withoutFlush?: boolean;
  readonly alter?: (host: WholeVolume) => WholeVolume;
}

export class WholeSimulation {
  readonly random: Random;
  readonly counts = { writes: 0, crashes: 0, rollBacks: 0, commits: 0, views: 0, refused: 0, resumed: 0 };
  readonly #schedule: Schedule;
  readonly #volume: SimVolume;
  readonly #file = new SimJournalFile();
  readonly #options: SimOptions;
  #life!: Life;
  #host!: WholeVolume;
  #run: Buffer = Buffer.alloc(16);
  /** What the volume held when a journal was begun, by its epoch. */
  readonly #generations = new Map<number, Buffer>();
  /** Runs that have ended, as their callers were told; and those of which somebody has tried to write it down. */
  readonly #ended = new Set<number>();
  #over = new Set<number>([0]);
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
    this.#file.flushes = !options.withoutFlush;
    this.#file.onHeader = (header) => {
      const begins = header.state !== journalState.whole && !this.#generations.has(header.epoch);
      const ends = header.state === journalState.whole && !this.#over.has(header.epoch);
      if (begins || ends)
        this.#demand(this.#volume.cache.equals(this.#volume.medium), "what is whole is on the medium");
      if (begins) this.#generations.set(header.epoch, Buffer.from(this.#volume.cache));
      else if (ends) this.#over.add(header.epoch);
    };
  }

  async run(steps: number): Promise<void> {
    await this.#start();
    for (let step = 0; step < steps; step++) {
      await this.#act();
      for (let n = below(this.random, 12); n > 0; n--) await this.#schedule.step();
      if (this.#failure !== undefined) throw this.#failure;
    }
    // At last, everything that went wrong is over.
    await this.#settle();
    this.#file.full = false;
    this.#file.failsFlush = false;
    this.#volume.failsFlush = false;
    await this.#drive(this.#rollBack());
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
    const isForeign = async () => false;
    const options = {
      path: "sim.journal",
      random,
      nowMs: () => 1,
      isForeign,
      pagesMax: oneOf(this.random, [0, 0, 1, 8]),
    };
    const journal = await this.#drive(this.#opened(() => Journal.open(file, this.#volume, name, options)));
    if (journal.isOpen) {
      const { epoch } = journal.header;
      this.#demand(this.#generations.has(epoch), "an open run was begun");
      this.#demand(!this.#ended.has(epoch), "a run that has ended is not open");
      this.counts.resumed++;
    } else {
      // A begin of which the medium knows nothing did not take place; its number is given again.
      this.#generations.clear();
      this.#over = new Set([journal.header.epoch]);
    }
    const host = new WholeVolume(this.#volume, journal);
    this.#host = this.#options.alter?.(host) ?? host;
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
            [
              "no_space",
              "io_error",
              "medium_error",
              "not_proved",
              "backup_mismatch",
              "volume_missing",
            ].includes(error.code));
        if (known) this.counts.refused++;
        else this.#failure ??= error;
      })
      .finally(() => this.#underWay.delete(going));
    // What a dead process was about is never heard of again.
    this.#underWay.add(going);
  }

  #range(): [lba: number, blocks: number] {
    const { blocks } = this.#volume.geometry;
    const count = Math.min(blocks, oneOf(this.random, [1, 3, 50, extentBlocks, 2 * extentBlocks + 5]));
    return [below(this.random, blocks - count + 1), count];
  }

  async #act(): Promise<void> {
    const host = this.#host;
    const dice = this.random();
    if (dice < 0.42) {
      const [lba, blocks] = this.#range();
      this.counts.writes++;
      const data = bytesOf(this.random, blocks * blockBytes);
      const kind = this.random();
      if (kind < 0.2) host.writeNow(lba, [data]);
      else if (kind < 0.4) this.#go(() => host.zero(lba, blocks, { unmap: true }));
      else this.#go(() => host.write(lba, [data]));
    } else if (dice < 0.5) this.#go(() => host.flush());
    else if (dice < 0.6) this.#go(() => this.#begin());
    else if (dice < 0.66) this.#go(() => this.#commit());
    else if (dice < 0.72) this.#go(() => this.#rollBack());
    else if (dice < 0.8) this.#go(() => this.#view());
    else if (dice < 0.82) this.#file.full = !this.#file.full;
    else if (dice < 0.84) this.#file.failsFlush = true;
    else if (dice < 0.86) this.#volume.failsFlush = true;
    else if (dice < 0.88) this.#go(() => host.journal.note("say that it is kept", {}));
    else if (dice < 0.95) await this.#crash();
    else await this.#settle();
  }

  async #crash(): Promise<void> {
    this.counts.crashes++;
    this.#life.die();
    this.#underWay = new Set();
    this.#volume.failsFlush = false;
    if (this.random() < 0.6) {
      this.#volume.powerCut(this.random);
      this.#file.powerCut(this.random);
    }
    await this.#start();
  }

  async #begin(): Promise<void> {
    if (this.random() < 0.5) this.#run = bytesOf(this.random, 16);
    await this.#host.beginWhole(this.#run);
  }

  async #commit(): Promise<void> {
    const { journal } = this.#host;
    const before = journal.header;
    await this.#host.commitWhole(this.#run);
    this.counts.commits++;
    if (before.state === journalState.whole) return;
    this.#ended.add(before.epoch);
  }

  async #rollBack(): Promise<void> {
    const { journal } = this.#host;
    const { extents } = await this.#host.rollBackWhole();
    const { epoch } = journal.header;
    if (extents === 0) return;
    this.counts.rollBacks++;
    this.#ended.add(epoch);
    const generation = this.#generations.get(epoch)!;
    this.#demand(this.#volume.cache.equals(generation), "what was rolled back is the last whole generation");
    this.#demand(this.#volume.medium.equals(generation), "and it is on the medium");
  }

  async #view(): Promise<void> {
    if (!this.#host.journal.isOpen) return;
    const view = new WholeView(this.#host);
    const generation = this.#generations.get(this.#host.journal.header.epoch)!;
    const [lba, blocks] = this.#range();
    const buffer = Buffer.alloc(blocks * blockBytes);
    await view.read(lba, buffer);
    this.counts.views++;
    const right = generation.subarray(lba * blockBytes, (lba + blocks) * blockBytes);
    this.#demand(buffer.equals(right), `a view shows the last whole generation, at LBA ${lba}`);
  }
}
