// A replication set in a world in which everything fails that can, by a schedule that a seed makes: two managers on two hosts,
// a source that goes on changing, replicas with and without a journal of their last whole generation, a database, a network.
//
// Engine, rules and stores are the real ones; time, network and disks are simulated (sim-time.ts, sim-session.ts, sim-disk.ts,
// sim-database.ts). What must hold is in sim-judge.ts, and is looked at after every step. In the end everything is mended:
// then one run, two at most, makes all equal, and the next one does nothing.
import "./sim-at-once.ts";
import { hash } from "node:crypto";
import { journalState } from "../../src/whole/format.ts";
import { below, bytesOf, oneOf, randomOf } from "../support/data.ts";
import { SimDatabase } from "./sim-database.ts";
import { SimDisk } from "./sim-disk.ts";
import { SimHost } from "./sim-host.ts";
import { Judge, SimulationError } from "./sim-judge.ts";
import { memberOf, SimManager, type Surroundings, setName } from "./sim-process.ts";
import { SimNetwork } from "./sim-session.ts";
import { chance, Life, type Random, SimTime } from "./sim-time.ts";
import { stranger, writer } from "./sim-writers.ts";

const blockBytes = 512;
const setUuid = "5e".repeat(16);
const endMs = 3_600_000;

/** Shapes of volumes: bytes of an extent, extents; the last two need several windows or several before-images. */
const shapes = [
  [1024, 12],
  [1024, 30],
  [512, 70],
  [1024, 140],
  [8192, 20],
  [4096, 40],
  [512, 1040],
] as const;

/** What goes wrong most. */
const moods = ["calm", "operators", "managers", "hosts", "database", "network", "disks"] as const;
type Mood = (typeof moods)[number];

export type Counts = Record<string, number>;

export class SetSimulation {
  readonly #random: Random;
  readonly #time: SimTime;
  readonly #database: SimDatabase;
  readonly #network: SimNetwork;
  readonly #source: SimHost;
  readonly #replicas: SimHost[] = [];
  readonly #judge: Judge;
  readonly #managers: readonly SimManager[];
  readonly #addresses = new Map<string, SimHost>();
  readonly #extentBytes: number;
  readonly #mood: Mood;
  readonly #counts = { powerCuts: 0, kills: 0, stops: 0, rollBacks: 0, swaps: 0, faults: 0 };

  /** `template`: an empty truth database. */
  constructor(seed: number, template: string) {
    const random = randomOf(seed);
    this.#random = random;
    this.#time = new SimTime(random);
    this.#network = new SimNetwork(random);
    this.#database = SimDatabase.make(template, random);
    const [extentBytes, extentsMax] = chance(random, 0.03) ? shapes[6] : oneOf(random, shapes.slice(0, 6));
    this.#extentBytes = extentBytes;
    this.#mood = oneOf(random, moods);
    const extents = extentsMax > 1000 ? extentsMax : 1 + below(random, extentsMax);
    const bytes =
      extents * extentBytes - (extents > 1 ? below(random, extentBytes / blockBytes) * blockBytes : 0);
    const content = bytesOf(random, bytes).fill(0, below(random, bytes));
    this.#source = this.#host("source", content, false);
    for (let i = 1 + below(random, 3); i > 0; i--) {
      const its = oneOf(random, ["zeros", "same", "other"] as const);
      const data = its === "zeros" ? Buffer.alloc(bytes) : its === "same" ? content : bytesOf(random, bytes);
      this.#replicas.push(this.#host(`replica-${i}`, data, chance(random, 0.5)));
    }
    const zeros = (extent: number) => {
      const length = Math.min(extentBytes, bytes - extent * extentBytes);
      return hash("sha256", Buffer.alloc(length), "buffer");
    };
    this.#judge = new Judge(
      this.#time,
      this.#database,
      this.#source,
      [this.#source, ...this.#replicas],
      zeros,
    );
    const world: Surroundings = {
      time: this.#time,
      random,
      network: this.#network,
      database: this.#database,
      judge: this.#judge,
      hosts: this.#addresses,
      mayLoseLeases: () =>
        this.#counts.stops + this.#database.counts.cuts + this.#database.counts.refused > 0,
    };
    this.#managers = [new SimManager(world, "one"), new SimManager(world, "two")];
  }

  /** What happens is told from here on. */
  set tell(tell: (line: string) => void) {
    this.#time.tell = (what) => tell(`${this.#time.nowMs.toFixed(1).padStart(10)} ${what()}`);
  }

  get counts(): Counts {
    const of = (name: "runs" | "ended" | "failed") =>
      this.#managers.reduce((sum, { counts }) => sum + counts[name], 0);
    const [runs, ended, failed] = [of("runs"), of("ended"), of("failed")];
    return {
      ...this.#counts,
      ...this.#judge.counts,
      ...this.#network.counts,
      ...this.#database.counts,
      steps: this.#time.steps,
      runs,
      ended,
      failed,
    };
  }

  #host(name: string, data: Buffer, keepsWhole: boolean): SimHost {
    const disk = new SimDisk(name, data, blockBytes, this.#extentBytes, this.#random);
    const host = new SimHost(this.#time, this.#random, disk, keepsWhole);
    this.#addresses.set(name, host);
    return host;
  }

  async run(): Promise<Counts> {
    try {
      await this.#create();
      const actions = 4 + below(this.#random, 16);
      for (let i = 0; i < actions; i++) {
        await this.#act();
        await this.#go();
      }
      await this.#mend();
      await this.#end();
      return this.counts;
    } finally {
      this.#database.close();
    }
  }

  // --- the schedule ---

  async #create(): Promise<void> {
    const life = new Life(this.#time, "operator");
    const made = (async () => {
      await using store = await this.#database.store(life);
      await store.createSet(
        {
          name: setName,
          uuid: setUuid,
          extentBytes: this.#extentBytes,
          blockBytes: 0,
          digest: "sha256",
          maxChange: undefined,
          createdMs: 0,
        },
        [this.#source, ...this.#replicas].map(memberOf),
      );
    })();
    await this.#until(made);
  }

  async #step(untilMs?: number): Promise<boolean> {
    const went = await this.#time.step(untilMs);
    this.#judge.check();
    for (const { failure } of this.#managers) if (failure !== undefined) throw failure;
    return went;
  }

  async #until<T>(work: Promise<T>): Promise<T> {
    let over = false;
    const end = () => {
      over = true;
    };
    work.then(end, end);
    while (!over) if (!(await this.#step()) && !over) throw new SimulationError("something waits for ever");
    return work;
  }

  /** Some time passes. */
  async #go(): Promise<void> {
    const random = this.#random;
    if (chance(random, 0.5)) {
      for (let n = below(random, oneOf(random, [3, 30, 300])); n > 0; n--) await this.#step();
      return;
    }
    // Until those who work have ended, or so.
    const untilMs = this.#time.nowMs + 100_000;
    while (this.#managers.some(({ busy }) => busy) && (await this.#step(untilMs)));
  }

  async #act(): Promise<void> {
    const random = this.#random;
    const manager = oneOf(random, this.#managers);
    const host = oneOf(random, this.#replicas);
    const fault = (fn: () => void) => () => {
      this.#counts.faults++;
      fn();
    };
    const odds: readonly (readonly [Mood, number, () => void])[] = [
      ["calm", 8, () => this.#start(manager)],
      ["calm", 4, () => writer(this.#time, random, this.#source.disk, oneOf(random, [1, 1, 20]))],
      ["calm", 1, () => stranger(random, host)],
      ["operators", 0.8, () => this.#operate(manager, host)],
      ["operators", 0.3, () => this.#rollBack(host)],
      ["operators", 0.3, fault(() => this.#swap(host))],
      ["managers", 1, () => this.#kill(manager)],
      ["managers", 0.6, () => this.#stop(manager)],
      ["managers", 0.3, fault(() => (manager.spoolFault = oneOf(random, ["full", "io", undefined])))],
      ["hosts", 1, () => this.#crash(host)],
      ["hosts", 0.3, () => this.#crash(this.#source)],
      ["hosts", 0.3, () => host.disk.evict()],
      ["database", 0.5, () => this.#cutDatabase()],
      ["database", 0.3, fault(() => (this.#database.fault = oneOf(random, ["full", "io", undefined])))],
      ["database", 0.2, () => this.#database.checkpoint()],
      ["network", 0.4, fault(() => (this.#network.lossy = oneOf(random, [0, 0.02, 0.2])))],
      ["network", 0.6, fault(() => this.#partition())],
      ["network", 0.4, fault(() => (host.offline = !host.offline))],
      ["disks", 0.3, fault(() => (host.disk.failsFlush = true))],
      ["disks", 0.3, fault(() => (host.disk.lies = true))],
      ["disks", 0.3, fault(() => this.#full(host))],
      ["disks", 0.3, fault(() => this.#badBlock(oneOf(random, [host, this.#source])))],
    ];
    // In every mood something of everything goes wrong, and more of one thing.
    const weighed = odds.map(
      ([mood, share, action]) => [mood === this.#mood ? 6 * share : share, action] as const,
    );
    let what = random() * weighed.reduce((sum, [share]) => sum + share, 0);
    for (const [share, action] of weighed) {
      what -= share;
      if (what > 0) continue;
      action();
      break;
    }
  }

  #start(manager: SimManager): void {
    if (manager.busy) return;
    const random = this.#random;
    manager.run(chance(random, 0.1) ? random() * 0.5 : undefined);
    // Whatever is to happen, it happens at any of its steps.
    const meanwhile: readonly (readonly [number, () => void])[] = [
      [0.25, () => this.#kill(manager)],
      [0.1, () => this.#stop(manager)],
      [0.15, () => stranger(random, oneOf(random, this.#replicas))],
      [0.15, () => writer(this.#time, random, this.#source.disk, 5)],
      [0.1, () => this.#crash(oneOf(random, this.#replicas))],
    ];
    for (const [share, action] of meanwhile)
      if (chance(random, share))
        this.#time.after(oneOf(random, [10, 100, 500]) * random(), undefined, action);
  }

  #kill(manager: SimManager): void {
    if (manager.busy) this.#counts.kills++;
    manager.kill();
  }

  #stop(manager: SimManager): void {
    if (manager.busy) this.#counts.stops++;
    manager.stop(oneOf(this.#random, [500, 10_000, 30_000, 90_000]));
  }

  #crash(host: SimHost): void {
    const power = chance(this.#random, 0.7);
    if (power) this.#counts.powerCuts++;
    host.crash({ power }, oneOf(this.#random, [1, 1000, 20_000]));
  }

  #cutDatabase(): void {
    if (chance(this.#random, 0.7)) this.#database.cutsCommit = true;
    else this.#database.powerCut();
  }

  #partition(): void {
    const random = this.#random;
    const { name } = oneOf(random, this.#managers);
    const host = oneOf(random, [this.#source, ...this.#replicas, ...this.#replicas]);
    this.#network.cutUntilMs.set(
      `${name} ${host.name}`,
      this.#time.nowMs + oneOf(random, [100, 5000, 40_000, 100_000]),
    );
  }

  #full({ disk, journalFile }: SimHost): void {
    if (journalFile && chance(this.#random, 0.5)) journalFile.full = !journalFile.full;
    else disk.room = below(this.#random, 20);
  }

  #badBlock({ disk }: SimHost): void {
    const lba = below(this.#random, disk.geometry.blocks);
    if (chance(this.#random, 0.5)) disk.damage(lba);
    else disk.unwritable.add(lba);
  }

  /** Another volume is served at a replica's address. */
  #swap(host: SimHost): void {
    if (!this.#judge.memberOf(host)) return; // nobody has seen it so far
    this.#counts.swaps++;
    const { cache } = host.disk;
    const other = this.#host(
      "other",
      chance(this.#random, 0.5) ? Buffer.from(cache) : Buffer.alloc(cache.length),
      false,
    );
    other.disk.onPut = () => this.#judge.foreign(other);
    this.#addresses.set(host.name, other);
  }

  /** An operator returns a replica to its last whole generation; a run that is under way finds that. */
  #rollBack(host: SimHost): void {
    const served = host.served;
    if (!served || host.offline) return;
    this.#counts.rollBacks++;
    const connection = host.login("an operator");
    void host.carryOut(connection, () => served.rollBackWhole()).catch(() => {});
  }

  #operate(manager: SimManager, host: SimHost): void {
    if (manager.busy) return;
    const random = this.#random;
    const what = oneOf(random, [
      "pause",
      "resume",
      "add",
      "add",
      "remove",
      "priorities",
      "max-change",
    ] as const);
    if (what === "pause" || what === "resume") manager.pause(what === "pause");
    else if (what === "add")
      for (const each of this.#replicas) this.#known(each) || manager.busy || manager.add(each);
    else if (what === "remove") manager.remove(host.name);
    else if (what === "priorities") manager.priorities();
    else manager.maxChange(chance(random, 0.5) ? undefined : random());
  }

  #known(host: SimHost): boolean {
    return this.#judge.state.members.some(({ name }) => name === host.name);
  }

  // --- the end ---

  async #mend(): Promise<void> {
    this.#network.lossy = 0;
    this.#network.cutUntilMs.clear();
    this.#database.fault = undefined;
    this.#database.cutsCommit = false;
    for (const manager of this.#managers) manager.spoolFault = undefined;
    for (const host of [this.#source, ...this.#replicas]) {
      this.#addresses.set(host.name, host);
      host.offline = false;
      const { disk, journalFile } = host;
      disk.room = Number.POSITIVE_INFINITY;
      disk.failsFlush = false;
      disk.lies = false;
      disk.unwritable.clear();
      if (host === this.#source) disk.readable();
      if (journalFile) Object.assign(journalFile, { full: false, failsFlush: false });
    }
    // Whoever sleeps wakes up, and what is late arrives.
    const untilMs = this.#time.nowMs + 200_000;
    while ((await this.#step(untilMs)) && this.#time.nowMs < endMs);
    if (this.#managers.some(({ busy }) => busy)) throw new SimulationError("a process does not end");
    for (const host of this.#replicas)
      if (chance(this.#random, 0.5) || this.#judge.strangeOf(host).size > 0) host.disk.evict();
  }

  /** What a manager does is done without failures. */
  async #calmly(manager: SimManager, what: () => void): Promise<void> {
    const errors = manager.errors.length;
    what();
    while (manager.busy)
      if (!(await this.#step()) && manager.busy) throw new SimulationError("a process waits for ever");
    const error = manager.errors[errors];
    if (error) throw new SimulationError(`nothing fails any more, but: ${error.message}`, { cause: error });
  }

  async #end(): Promise<void> {
    const [manager] = this.#managers as [SimManager];
    await this.#calmly(manager, () => manager.pause(false));
    for (const host of this.#replicas)
      if (!this.#known(host)) await this.#calmly(manager, () => manager.add(host));
    const isDone = () =>
      manager.results.at(-1)?.replicas.every(({ state, pending }) => state === "in step" && pending === 0);
    for (let runs = 0; runs < 2 && (runs === 0 || !isDone()); runs++)
      await this.#calmly(manager, () => manager.run(1));
    const last = manager.results.at(-1)!;
    const said = () =>
      JSON.stringify(last.replicas.map(({ name, state, reason, pending }) => [name, state, reason, pending]));
    if (!isDone()) throw new SimulationError(`two runs without failures do not do: ${said()}`);
    for (const { disk, name, served } of this.#replicas) {
      disk.evict();
      if (!disk.medium.equals(this.#source.disk.cache))
        throw new SimulationError(`"${name}" is not the source`);
      if (served && served.journal.header.state !== journalState.whole)
        throw new SimulationError(`"${name}" is no whole generation`);
    }
    await this.#calmly(manager, () => manager.run(0));
    const again = manager.results.at(-1)!;
    const idle = again.replicas.every(
      ({ carriedOut }) => carriedOut?.written === 0 && carriedOut.proved === 0,
    );
    if (!idle || again.changed > 0 || again.generation !== last.generation)
      throw new SimulationError("a run with nothing to do does something");
    if (this.#network.inFlightMax > 64)
      throw new SimulationError(`${this.#network.inFlightMax} commands in flight`);
  }
}
