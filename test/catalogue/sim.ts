// One or two hosts with catalogues, driven by a schedule that a seed makes: writes in flight, digests, flushes that fail,
// scrubs, sizes that change, crashes of the process and of the power, writes past the owner's back, synchronizations of
// one host with the other.
//
// Every wait of storage or volume ends when the schedule says so, so that a seed replays a run exactly.
import { AgentError } from "../../src/base/errors.ts";
import { synchronize } from "../../src/replicate/engine.ts";
import { Counters } from "../../src/replicate/job.ts";
import { below, bytesOf, oneOf, randomOf } from "../support/data.ts";
import { FakeClock } from "../support/fake-clock.ts";
import {
  blockBytes,
  digest,
  extentBlocks,
  extentBytes,
  SimHost,
  SimulationError,
  type World,
} from "./sim-host.ts";
import { type Life, type Random, Schedule } from "./sim-media.ts";

/** Synchronizing more of them takes too many steps. */
const extentsToSync = 200;

export class Simulation {
  readonly counts = {
    writes: 0,
    crashes: 0,
    closings: 0,
    anew: 0,
    grown: 0,
    believed: 0,
    known: 0,
    nodes: 0,
    unchanged: 0,
    lost: 0,
    synchronized: 0,
    proved: 0,
    passedOver: 0,
  };
  readonly #random: Random;
  readonly #schedule: Schedule;
  readonly #hosts: SimHost[] = [];
  readonly #underWay = new Map<Promise<unknown>, Life>();
  #failure: unknown;
  #synchronizing = false;

  constructor(seed: number) {
    const random = randomOf(seed);
    this.#random = random;
    this.#schedule = new Schedule(random);
    const extents = oneOf(random, [3, 64, 100, 130, 64 * 65]);
    const blocks = extents * extentBlocks - below(random, extentBlocks);
    const data = Buffer.alloc(blocks * blockBytes);
    if (random() < 0.5) bytesOf(random, data.length / 2).copy(data);
    const world: World = {
      random,
      schedule: this.#schedule,
      clock: new FakeClock(),
      pagesMax: oneOf(random, [1, 3, 2048]),
      counts: this.counts,
      go: (work, life) => this.#go(work, life),
      calm: () => this.#calm(),
      settled: (work) => this.#settled(work),
    };
    this.#hosts.push(new SimHost(world, "one", data));
    if (extents <= extentsToSync && random() < 0.5) this.#hosts.push(new SimHost(world, "two", data));
  }

  async run(steps: number): Promise<void> {
    for (const host of this.#hosts) await host.open();
    const random = this.#random;
    // Half of the runs see more of generations, and less of trouble.
    const quiet = random() < 0.5;
    const host = () => oneOf(random, this.#hosts);
    const odds: readonly (readonly [number, () => Promise<void> | void])[] = [
      [0.35, () => this.#step(1)],
      [0.2, () => host().write()],
      [0.1, () => host().digestSome()],
      [0.15, () => host().believe()],
      [0.02, () => host().flush()],
      [quiet ? 0.004 : 0.02, () => host().crash()],
      [quiet ? 0.004 : 0.01, () => this.#closeOne()],
      [0.01, () => this.#resize()],
      [quiet ? 0.06 : 0.02, () => host().nextGeneration()],
      [quiet ? 0.04 : 0.02, () => host().askForChanges()],
      [quiet ? 0.05 : 0.005, () => host().knowAll()],
      [quiet ? 0.05 : 0.02, () => this.#checked()],
      [this.#hosts.length > 1 ? 0.06 : 0, () => this.#synchronize()],
      [0.1, () => this.#step(10)],
    ];
    const sum = odds.reduce((total, [share]) => total + share, 0);
    for (let step = 0; step < steps; step++) {
      if (this.#failure) throw this.#failure;
      let what = random() * sum;
      for (const [share, action] of odds) {
        what -= share;
        if (what > 0) continue;
        await action();
        break;
      }
    }
    await this.#checked();
  }

  async #step(times: number): Promise<void> {
    for (let i = 0; i < times; i++) await this.#schedule.step();
  }

  async #checked(): Promise<void> {
    await this.#calm();
    for (const host of this.#hosts) await host.check();
  }

  async #closeOne(): Promise<void> {
    await this.#calm();
    await oneOf(this.#random, this.#hosts).close();
  }

  /** Of all hosts alike: others can't be synchronized. */
  #resize(): void {
    const blocks = this.#hosts[0]!.otherSize();
    for (const host of this.#hosts) host.resize(blocks);
  }

  /** While others go on, on both sides. */
  #synchronize(): void {
    const [source, replica] = this.#hosts as [SimHost, SimHost];
    if (this.#synchronizing || source.extents > extentsToSync) return;
    this.#synchronizing = true;
    const before = [source.writes, replica.writes];
    const wasQuiet = source.writing + replica.writing === 0;
    const random = this.#random;
    const work = async () => {
      const outcome = await synchronize({
        source: source.seenWith(replica),
        replica: replica.seenWith(source),
        mode: "encode",
        digest,
        extentBytes,
        width: 8,
        fresh: false,
        verify: false,
        clock: new FakeClock(),
        random: { bytes: (count) => bytesOf(random, count) },
        counters: new Counters(),
      });
      await outcome.ranges[Symbol.asyncDispose]();
      this.counts.synchronized++;
      if (outcome.failure?.code === "internal") throw outcome.failure;
      if (outcome.history?.used) this.counts.passedOver++;
      const isQuiet = wasQuiet && source.writes === before[0] && replica.writes === before[1];
      if (outcome.verdict !== "equal" || !isQuiet) return;
      this.counts.proved++;
      const theirs = replica.truth();
      source.truth().forEach((identifier, i) => {
        if (!identifier.equals(theirs[i]!))
          throw new SimulationError(`extent ${i} was proved equal, and differs`);
      });
    };
    // It ends when one of the hosts dies: whose life it is does not matter.
    this.#go(
      work().finally(() => {
        this.#synchronizing = false;
      }),
      source.life,
    );
  }

  #go(work: Promise<unknown>, life: Life): void {
    const guarded: Promise<unknown> = work
      .catch((error) => {
        // What a medium or a host that is gone runs into is no finding.
        const expected = error instanceof AgentError && error.code !== "internal";
        if (!life.dead && !expected) this.#failure ??= error;
      })
      .finally(() => this.#underWay.delete(guarded));
    this.#underWay.set(guarded, life);
  }

  async #settled<T>(work: Promise<T>): Promise<T> {
    let over = false;
    const end = () => {
      over = true;
    };
    work.then(end, end);
    for (await this.#schedule.turns(); !over; ) await this.#schedule.step();
    return work;
  }

  async #calm(): Promise<void> {
    for (;;) {
      for (const [work, life] of this.#underWay) if (life.dead) this.#underWay.delete(work);
      if (this.#failure) throw this.#failure;
      if (this.#underWay.size === 0) return;
      if (await this.#schedule.step()) continue;
      // Until everybody who can has come to where he waits.
      await new Promise((resolve) => setImmediate(resolve));
      if (!(await this.#schedule.step()) && this.#underWay.size > 0)
        throw new SimulationError("something waits for ever");
    }
  }
}
