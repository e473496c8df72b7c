// A replication set in a world in which everything fails that can, by a schedule that a seed makes: two managers on two hosts,
// a source that goes on changing, replicas with and without a journal of their last whole generation, a database, a network.
//
// The world is in sim-world.ts, and what must hold in it in sim-judge.ts.
import { below, bytesOf, oneOf, randomOf } from "../support/data.ts";
import type { SimHost } from "./sim-host.ts";
import { operator } from "./sim-judge.ts";
import type { SimManager } from "./sim-process.ts";
import { leaderIn } from "./sim-roles.ts";
import { chance, type Random } from "./sim-time.ts";
import { blockBytes, SimWorld } from "./sim-world.ts";
import { stranger, user, writer } from "./sim-writers.ts";

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

/** In one of so many schedules members change their roles. */
const rolesEvery = 3;

export type Counts = Record<string, number>;

export class SetSimulation {
  readonly #random: Random;
  readonly #world: SimWorld;
  readonly #mood: Mood;
  readonly #counts = { powerCuts: 0, kills: 0, stops: 0, rollBacks: 0, swaps: 0, faults: 0 };

  /** `template`: an empty truth database. */
  constructor(seed: number, template: string) {
    const random = randomOf(seed);
    this.#random = random;
    this.#mood = oneOf(random, moods);
    const [extentBytes, extentsMax] = chance(random, 0.03) ? shapes[6] : oneOf(random, shapes.slice(0, 6));
    const extents = extentsMax > 1000 ? extentsMax : 1 + below(random, extentsMax);
    const bytes =
      extents * extentBytes - (extents > 1 ? below(random, extentBytes / blockBytes) * blockBytes : 0);
    const content = bytesOf(random, bytes).fill(0, below(random, bytes));
    const replicas = Array.from({ length: 1 + below(random, 3) }, () => {
      const its = oneOf(random, ["zeros", "same", "other"] as const);
      const data = its === "zeros" ? Buffer.alloc(bytes) : its === "same" ? content : bytesOf(random, bytes);
      return { data, keepsWhole: chance(random, 0.5) };
    });
    const roles = seed % rolesEvery === 0;
    const how = { roles, sourceKeepsWhole: roles && chance(random, 0.4) };
    this.#world = new SimWorld(random, template, extentBytes, content, replicas, how);
    if (this.#mood === "network") this.#world.network.lossy = oneOf(random, [0, 0.005, 0.02]);
  }

  /** What happens is told from here on. */
  set tell(tell: (line: string) => void) {
    this.#world.time.tell = (what) => tell(`${this.#world.time.nowMs.toFixed(1).padStart(10)} ${what()}`);
  }

  get counts(): Counts {
    const of = (name: "runs" | "ended" | "failed") =>
      this.#world.managers.reduce((sum, { counts }) => sum + counts[name], 0);
    const [runs, ended, failed] = [of("runs"), of("ended"), of("failed")];
    return {
      ...this.#counts,
      fenced: this.#world.replicas.reduce((sum, { refused }) => sum + refused, 0),
      ...this.#world.judge.counts,
      ...this.#world.judge.roles.counts,
      ...this.#world.network.counts,
      ...this.#world.database.counts,
      steps: this.#world.time.steps,
      runs,
      ended,
      failed,
    };
  }

  async run(): Promise<Counts> {
    try {
      await this.#world.create();
      // Who has never held a generation is not handed out.
      if (this.#world.roles && chance(this.#random, 0.7)) {
        this.#world.managers[0].run();
        await this.#go();
      }
      const actions = 4 + below(this.#random, 16);
      for (let i = 0; i < actions; i++) {
        await this.#act();
        await this.#go();
      }
      await this.#world.mend();
      await this.#world.end();
      return this.counts;
    } finally {
      this.#world.close();
    }
  }

  // --- the schedule ---

  /** Some time passes. */
  async #go(): Promise<void> {
    const random = this.#random;
    if (chance(random, 0.5)) {
      for (let n = below(random, oneOf(random, [3, 30, 300])); n > 0; n--) await this.#world.step();
      return;
    }
    // Until those who work have ended, or so.
    const untilMs = this.#world.time.nowMs + 100_000;
    while (this.#world.managers.some(({ busy }) => busy) && (await this.#world.step(untilMs)));
  }

  async #act(): Promise<void> {
    const random = this.#random;
    const manager = oneOf(random, this.#world.managers);
    const host = oneOf(random, this.#world.replicas);
    const { roles } = this.#world;
    const fault = (fn: () => void) => () => {
      this.#counts.faults++;
      fn();
    };
    const odds: readonly (readonly [Mood, number, () => void])[] = [
      ["calm", 8, () => this.#start(manager)],
      ["calm", 4, () => this.#write(oneOf(random, [1, 1, 20]))],
      ["calm", 1, () => stranger(random, host)],
      ["operators", 0.8, () => this.#operate(manager, host)],
      ["operators", 0.3, () => this.#rollBack(host)],
      ["operators", roles ? 0 : 0.3, fault(() => this.#swap(host))],
      ["operators", roles ? 4 : 0, () => this.#failOver(manager, host)],
      ["operators", roles ? 5 : 0, () => this.#failBack(manager)],
      [
        "operators",
        roles ? 1 : 0,
        () => manager.busy || this.#during(manager, () => manager.handOutAlone(host)),
      ],
      ["managers", 1, () => this.#kill(manager)],
      ["managers", 0.6, () => this.#stop(manager)],
      ["managers", 0.3, fault(() => (manager.spoolFault = oneOf(random, ["full", "io", undefined])))],
      ["hosts", 1, () => this.#crash(host)],
      ["hosts", 0.3, () => this.#crash(this.#world.source)],
      ["hosts", 0.3, () => host.disk.evict()],
      ["hosts", 0.2, () => oneOf(random, [host, this.#world.source]).disk.histories?.forget()],
      ["database", 0.5, () => this.#cutDatabase()],
      ["database", 0.3, fault(() => (this.#world.database.fault = oneOf(random, ["full", "io", undefined])))],
      ["database", 0.2, () => this.#world.database.checkpoint()],
      ["network", 0.4, fault(() => (this.#world.network.lossy = oneOf(random, [0, 0.02, 0.2])))],
      ["network", 0.6, fault(() => this.#partition())],
      ["network", 0.4, fault(() => (host.offline = !host.offline))],
      ["disks", 0.3, fault(() => (host.disk.failsFlush = true))],
      ["disks", 0.3, fault(() => (host.disk.lies = true))],
      ["disks", 0.3, fault(() => this.#full(host))],
      ["disks", 0.3, fault(() => this.#badBlock(oneOf(random, [host, this.#world.source])))],
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
    this.#during(manager, () => manager.run(chance(random, 0.1) ? random() * 0.5 : undefined));
  }

  /** Users write: of the source, or of whoever is a side. */
  #write(times: number): void {
    const { time, source, replicas, judge, roles } = this.#world;
    const sides = [source, ...replicas].filter((host) => judge.roles.isSide(host));
    if (!roles) writer(time, this.#random, source.disk, times);
    else if (sides.length > 0) user(this.#world, oneOf(this.#random, sides), times);
  }

  #failOver(manager: SimManager, host: SimHost): void {
    if (manager.busy) return;
    const random = this.#random;
    // Who lacks what a failback was cut off with is handed out by force alone.
    const { members } = this.#world.judge.state;
    const lacks = members.some(({ name, keptFirst }) => name === host.name && keptFirst);
    const force = chance(random, lacks ? 0.5 : 0.1);
    const begin = () => this.#during(manager, () => manager.failOver(host.name, force));
    const other = this.#world.managers.find((each) => each !== manager)!;
    if (other.busy || chance(random, 0.5)) {
      begin();
      return;
    }
    // Whoever runs the set dies in the middle, and the source with him or not.
    this.#write(5);
    other.run();
    this.#world.time.after(oneOf(random, [200, 500, 1000]) * random(), undefined, () => {
      this.#kill(other);
      if (chance(random, 0.5)) this.#crash(this.#world.source);
      if (!manager.busy) begin();
    });
  }

  #failBack(manager: SimManager): void {
    if (manager.busy) return;
    const random = this.#random;
    const { judge, replicas } = this.#world;
    const names = ["source", ...replicas.map(({ name }) => name)];
    const leader = leaderIn(judge.state)?.name ?? "source";
    const how = {
      prefer: oneOf(random, [undefined, undefined, "priority", leader, "source", oneOf(random, names)]),
      mix: chance(random, 0.4),
      to: chance(random, 0.25) ? oneOf(random, names) : undefined,
    };
    this.#during(manager, () => manager.failBack(how));
  }

  /** Begins something, and lets something happen at any of its steps. */
  #during(manager: SimManager, begin: () => void): void {
    const random = this.#random;
    const { roles } = this.#world;
    begin();
    const meanwhile: readonly (readonly [number, () => void])[] = [
      [0.25, () => this.#kill(manager)],
      [0.1, () => this.#stop(manager)],
      [0.1, () => this.#overtaken(manager)],
      [0.15, () => stranger(random, oneOf(random, this.#world.replicas))],
      [roles ? 0.4 : 0.15, () => this.#write(roles ? 10 : 5)],
      [0.1, () => this.#crash(oneOf(random, this.#world.replicas))],
      [roles ? 0.15 : 0, () => this.#crash(this.#world.source)],
      [roles ? 0.15 : 0, () => this.#partition()],
    ];
    for (const [share, action] of meanwhile)
      if (chance(random, share))
        this.#world.time.after(oneOf(random, [20, 300, 1000, 3000]) * random(), undefined, action);
  }

  #kill(manager: SimManager): void {
    if (manager.busy) this.#counts.kills++;
    manager.kill();
  }

  /** It sleeps, and the other one takes the set meanwhile. */
  #overtaken(manager: SimManager): void {
    if (!manager.busy) return;
    this.#counts.stops++;
    this.#world.stopped = true;
    manager.stop(16_000 + 4000 * this.#random());
    for (const other of this.#world.managers) if (other !== manager && !other.busy) other.run();
  }

  #stop(manager: SimManager): void {
    if (manager.busy) this.#counts.stops++;
    this.#world.stopped = true;
    manager.stop(oneOf(this.#random, [500, 10_000, 30_000, 90_000]));
  }

  #crash(host: SimHost): void {
    const power = chance(this.#random, 0.7);
    if (power) this.#counts.powerCuts++;
    host.crash({ power }, oneOf(this.#random, [1, 1000, 20_000]));
  }

  #cutDatabase(): void {
    if (chance(this.#random, 0.7)) this.#world.database.cutsCommit = true;
    else this.#world.database.powerCut();
  }

  #partition(): void {
    const random = this.#random;
    const { name } = oneOf(random, this.#world.managers);
    const host = oneOf(random, [this.#world.source, ...this.#world.replicas, ...this.#world.replicas]);
    this.#world.network.cutUntilMs.set(
      `${name} ${host.name}`,
      this.#world.time.nowMs + oneOf(random, [100, 5000, 40_000, 100_000]),
    );
  }

  #full({ disk, journal }: SimHost): void {
    if (journal && chance(this.#random, 0.5)) journal.disk.full = !journal.disk.full;
    else disk.room = below(this.#random, 20);
  }

  #badBlock(host: SimHost): void {
    const { disk } = host;
    const { judge } = this.#world;
    const lba = below(this.#random, disk.geometry.blocks);
    // What nobody can read of a side is in no truth.
    const extents = judge.roles.isSide(host) ? disk.extentsOf(lba, blockBytes) : [];
    if (chance(this.#random, 0.5)) {
      for (const extent of extents) judge.strangeOf(host).add(extent);
      disk.damage(lba);
    } else disk.unwritable.add(lba);
  }

  /** Another volume is served at a replica's address. */
  #swap(host: SimHost): void {
    if (!this.#world.judge.memberOf(host)) return; // nobody has seen it so far
    this.#counts.swaps++;
    const { cache } = host.disk;
    const other = this.#world.host(
      "other",
      chance(this.#random, 0.5) ? Buffer.from(cache) : Buffer.alloc(cache.length),
      false,
    );
    other.disk.onPut = () => this.#world.judge.foreign(other);
    this.#world.addresses.set(host.name, other);
  }

  /** An operator returns a replica to its last whole generation; a run that is under way finds that. */
  #rollBack(host: SimHost): void {
    const served = host.served;
    if (!served || host.offline) return;
    this.#counts.rollBacks++;
    const connection = host.login(operator);
    const rollBack = async () => {
      await host.take(connection);
      await served.rollBackWhole();
    };
    void host.carryOut(connection, rollBack).catch(() => {});
  }

  #operate(manager: SimManager, host: SimHost): void {
    if (manager.busy) return;
    const random = this.#random;
    const ways = ["pause", "resume", "add", "add", "remove", "priorities", "max-change"] as const;
    const what = oneOf(random, this.#world.roles ? (["resume", "priorities", "max-change"] as const) : ways);
    if (what === "pause" || what === "resume") manager.pause(what === "pause");
    else if (what === "add")
      for (const each of this.#world.replicas) this.#world.known(each) || manager.busy || manager.add(each);
    else if (what === "remove") manager.remove(host.name);
    else if (what === "priorities") manager.priorities();
    else manager.maxChange(chance(random, 0.5) ? undefined : random());
  }
}
