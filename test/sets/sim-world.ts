// The world of a simulated replication set: hosts, a database, a network, two managers; how it goes on, how it is mended, and how it must end.
//
// Engine, rules and stores are the real ones; time, network and disks are simulated (sim-time.ts, sim-session.ts, sim-disk.ts,
// sim-database.ts). What must hold is in sim-judge.ts, and is looked at after every step. In the end everything is mended:
// then one run, two at most, makes all equal, and the next one does nothing.
import "./sim-at-once.ts";
import { hash } from "node:crypto";
import { ConflictError } from "../../src/sets/verdict.ts";
import { journalState } from "../../src/whole/format.ts";
import { oneOf } from "../support/data.ts";
import { newMember, newSet } from "../support/sets.ts";
import { SimDatabase } from "./sim-database.ts";
import { SimDisk } from "./sim-disk.ts";
import { SimHost } from "./sim-host.ts";
import { Judge, SimulationError } from "./sim-judge.ts";
import { SimManager, setName } from "./sim-process.ts";
import { leaderIn } from "./sim-roles.ts";
import { SimNetwork } from "./sim-session.ts";
import { chance, Life, type Random, SimTime } from "./sim-time.ts";
import { user } from "./sim-writers.ts";

export const blockBytes = 512;
const setUuid = "5e".repeat(16);
/** After everything was mended, whoever sleeps wakes up by then, and what is late arrives. */
const settlingMs = 200_000;
const inFlightMax = 64;

export interface Replica {
  readonly data: Buffer;
  readonly keepsWhole: boolean;
}

export class SimWorld {
  readonly random: Random;
  readonly time: SimTime;
  readonly database: SimDatabase;
  readonly network: SimNetwork;
  readonly source: SimHost;
  readonly replicas: readonly SimHost[];
  readonly judge: Judge;
  readonly managers: readonly [SimManager, SimManager];
  /** Where an address leads to. */
  readonly addresses = new Map<string, SimHost>();
  readonly #extentBytes: number;
  /** Somebody was stopped. */
  stopped = false;
  /** Members change their roles. */
  readonly roles: boolean;

  /** `template`: an empty truth database. */
  constructor(
    random: Random,
    template: string,
    extentBytes: number,
    content: Buffer,
    replicas: readonly Replica[],
    { roles = false, sourceKeepsWhole = false } = {},
  ) {
    this.roles = roles;
    this.random = random;
    this.time = new SimTime(random);
    this.network = new SimNetwork(random);
    this.database = SimDatabase.make(template, random);
    this.#extentBytes = extentBytes;
    this.source = this.host("source", content, sourceKeepsWhole);
    this.replicas = replicas.map(({ data, keepsWhole }, i) =>
      this.host(`replica-${i + 1}`, data, keepsWhole),
    );
    // Who keeps whole generations is a target of ours, which has reservations; a label alone shuts out no late run.
    if (roles) for (const host of [this.source, ...this.replicas]) if (host.journal) host.fences = true;
    const zeros = (extent: number) => {
      const length = Math.min(extentBytes, content.length - extent * extentBytes);
      return hash("sha256", Buffer.alloc(length), "buffer");
    };
    this.judge = new Judge(this.time, this.database, [this.source, ...this.replicas], zeros);
    const surroundings = {
      time: this.time,
      random,
      network: this.network,
      database: this.database,
      judge: this.judge,
      hosts: this.addresses,
      isAlone: (manager: SimManager) =>
        !this.managers.some((other) => other !== manager && other.busy) && this.network.lossy === 0,
      mayLoseLeases: () => this.stopped || this.database.counts.cuts + this.database.counts.refused > 0,
    };
    this.managers = [new SimManager(surroundings, "one"), new SimManager(surroundings, "two")];
  }

  /** A host at the address of its name. */
  host(name: string, data: Buffer, keepsWhole: boolean): SimHost {
    const disk = new SimDisk(name, data, blockBytes, this.#extentBytes, this.random);
    const host = new SimHost(this.time, this.random, disk, keepsWhole);
    this.addresses.set(name, host);
    return host;
  }

  /** Makes the set. */
  async create(): Promise<void> {
    const life = new Life(this.time, "operator");
    const made = (async () => {
      await using store = await this.database.store(life);
      await store.createSet(
        { ...newSet(setName, this.#extentBytes), uuid: setUuid },
        [this.source, ...this.replicas].map(({ name }, priority) => newMember(name, priority)),
      );
    })();
    await this.until(made);
  }

  /** Lets the next thing happen, and looks at what must hold. @throws SimulationError */
  async step(untilMs?: number): Promise<boolean> {
    const went = await this.time.step(untilMs);
    this.judge.check();
    for (const { failure } of this.managers) if (failure !== undefined) throw failure;
    return went;
  }

  async until<T>(work: Promise<T>): Promise<T> {
    let over = false;
    const end = () => {
      over = true;
    };
    work.then(end, end);
    while (!over) if (!(await this.step()) && !over) throw new SimulationError("something waits for ever");
    return work;
  }

  known(host: SimHost): boolean {
    return this.judge.state.members.some(({ name }) => name === host.name);
  }

  /** Nothing fails any more. */
  async mend(): Promise<void> {
    this.network.lossy = 0;
    this.network.cutUntilMs.clear();
    this.database.fault = undefined;
    this.database.cutsCommit = false;
    for (const manager of this.managers) manager.spoolFault = undefined;
    for (const host of [this.source, ...this.replicas]) {
      this.addresses.set(host.name, host);
      host.offline = false;
      const { disk, journal } = host;
      disk.room = Number.POSITIVE_INFINITY;
      disk.failsFlush = false;
      disk.lies = false;
      disk.unwritable.clear();
      if (this.judge.roles.isSide(host)) disk.readable();
      if (journal) Object.assign(journal.disk, { full: false, failsFlush: false });
    }
    const untilMs = this.time.nowMs + settlingMs;
    while (await this.step(untilMs));
    this.network.cutUntilMs.clear();
    if (this.managers.some(({ busy }) => busy)) throw new SimulationError("a process does not end");
    for (const host of this.replicas)
      if (chance(this.random, 0.5) || this.judge.strangeOf(host).size > 0) host.disk.evict();
  }

  /** What a manager does is done without failures. */
  async calmly(manager: SimManager, what: () => void): Promise<void> {
    const errors = manager.errors.length;
    what();
    await this.#ended(manager);
    const error = manager.errors[errors];
    if (error) throw new SimulationError(`nothing fails any more, but: ${error.message}`, { cause: error });
  }

  /** Those who have gone their own ways since failovers are brought together. @throws SimulationError */
  async together(): Promise<void> {
    const { roles } = this.judge;
    const [manager] = this.managers;
    // One after another; the last failback finds nothing to do, but for what an earlier one has not ended.
    for (let left = this.replicas.length + 2; left > 0; left--) {
      const { state } = this.judge;
      const isOver = state.handedOutTo === undefined && !this.apart;
      const source = state.members.find(({ role }) => role === "source")!.name;
      const prefer = oneOf(this.random, ["priority", leaderIn(state)!.name, source]);
      const isJudged = state.members.some(({ name, split }) => split && name === source);
      const how = { prefer: isJudged ? prefer : "priority", mix: chance(this.random, 0.3), to: undefined };
      const quietly = isOver || (left > this.replicas.length && chance(this.random, 0.3));
      const errors = manager.errors.length;
      manager.failBack(quietly ? { ...how, prefer: undefined } : how);
      await this.#ended(manager);
      const error = manager.errors[errors];
      const isMixed = how.mix && error?.code === "split_brain";
      if (error instanceof ConflictError && isMixed && !quietly)
        await this.calmly(manager, () => manager.failBack({ ...how, mix: false }));
      else if (error && !(error instanceof ConflictError && quietly))
        throw new SimulationError(`nothing fails any more, but: ${error.message}`, { cause: error });
      if (isOver) break;
    }
    if (this.judge.state.handedOutTo !== undefined || this.apart)
      throw new SimulationError(
        `failbacks do not bring all together: ${JSON.stringify(this.judge.state.members.map(({ name, role, split, keptFirst, entries }) => [name, role, split, keptFirst, entries.size]))}`,
      );
    const leader = roles.hostOf(leaderIn(this.judge.state))!;
    const writes = roles.counts.written;
    user(this, leader, 1);
    await this.until(new Promise<void>((resolve) => void this.time.after(10_000, undefined, resolve)));
    if (roles.counts.written === writes && this.#hasUser(leader))
      throw new SimulationError(`"${leader.name}", whom the set follows, takes no writes of its user`);
  }

  /** It takes writes of a user as far as the simulation has one for it. */
  #hasUser(host: SimHost): boolean {
    return host.fences || host.served?.journal.header.label !== undefined || !host.journal;
  }

  /** Somebody has gone his own way, or has something that has to be kept. */
  get apart(): boolean {
    const { state, roles } = this.judge;
    const isHandedOut = (host: SimHost) => roles.isSide(host) && !roles.leads(host);
    return (
      state.members.some(({ split, keptFirst }) => split || keptFirst) ||
      [this.source, ...this.replicas].some(isHandedOut)
    );
  }

  async #ended(manager: SimManager): Promise<void> {
    while (manager.busy)
      if (!(await this.step()) && manager.busy) throw new SimulationError("a process waits for ever");
  }

  /** All that there is becomes equal. @throws SimulationError */
  async end(): Promise<void> {
    const [manager] = this.managers;
    await this.calmly(manager, () => manager.pause(false));
    if (this.roles) await this.together();
    for (const host of this.replicas) {
      const found = this.judge.state.members.find(({ name }) => name === host.name);
      // Another volume was seen in its place first.
      const isOther = found?.uuid !== undefined && found.uuid !== host.uuid;
      if (isOther) await this.calmly(manager, () => manager.remove(host.name));
      if (!found || isOther) await this.calmly(manager, () => manager.add(host));
    }
    const isDone = () =>
      manager.results.at(-1)?.replicas.every(({ state, pending }) => state === "in step" && pending === 0);
    for (let runs = 0; runs < 2 && (runs === 0 || !isDone()); runs++)
      await this.calmly(manager, () => manager.run(1));
    const last = manager.results.at(-1)!;
    const said = () =>
      JSON.stringify(last.replicas.map(({ name, state, reason, pending }) => [name, state, reason, pending]));
    if (!isDone()) throw new SimulationError(`two runs without failures do not do: ${said()}`);
    const leader = this.judge.roles.hostOf(leaderIn(this.judge.state)) ?? this.source;
    for (const { disk, name, served } of [this.source, ...this.replicas].filter((host) => host !== leader)) {
      disk.evict();
      if (!disk.medium.equals(leader.disk.cache))
        throw new SimulationError(`"${name}" is not "${leader.name}"`);
      if (served && served.journal.header.state !== journalState.whole)
        throw new SimulationError(`"${name}" is no whole generation`);
    }
    await this.calmly(manager, () => manager.run(0));
    const again = manager.results.at(-1)!;
    const idle = again.replicas.every(
      ({ carriedOut }) => carriedOut?.written === 0 && carriedOut.proved === 0,
    );
    if (!idle || again.changed > 0 || again.generation !== last.generation)
      throw new SimulationError("a run with nothing to do does something");
    if (this.roles) this.judge.roles.atRest();
    if (this.network.inFlightMax > inFlightMax)
      throw new SimulationError(`${this.network.inFlightMax} commands in flight`);
  }

  close(): void {
    this.database.close();
  }
}
