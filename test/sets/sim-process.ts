// What the processes of a simulation do: runs of the set, and the operator's commands; the real ones, on simulated time,
// network and disks.
import { AgentError } from "../../src/base/errors.ts";
import { SystemError } from "../../src/platform/errno.ts";
import { failBack } from "../../src/sets/failback.ts";
import { failOver, handOutAlone } from "../../src/sets/failover.ts";
import { whileLeased } from "../../src/sets/lease.ts";
import type { RunResult, SetOptions } from "../../src/sets/pass.ts";
import { runSet } from "../../src/sets/run.ts";
import type { SpoolFile } from "../../src/sets/spool.ts";
import { ConflictError, type Preference } from "../../src/sets/verdict.ts";
import type { Lease, TruthStore } from "../../src/truth/store.ts";
import type { Volume } from "../../src/volume/volume.ts";
import { bytesOf, oneOf } from "../support/data.ts";
import { newMember } from "../support/sets.ts";
import type { SimDatabase } from "./sim-database.ts";
import { identified } from "./sim-disk.ts";
import type { SimHost } from "./sim-host.ts";
import { type Judge, type RunFacts, SimulationError } from "./sim-judge.ts";
import { type SimNetwork, SimSession } from "./sim-session.ts";
import { Life, type Random, type SimTime } from "./sim-time.ts";

export const setName = "set";
const [eio, enospc] = [5, 28];

/** What a manager finds around it. */
export interface Surroundings {
  readonly time: SimTime;
  readonly random: Random;
  readonly network: SimNetwork;
  readonly database: SimDatabase;
  readonly judge: Judge;
  /** Where an address leads to. */
  readonly hosts: Map<string, SimHost>;
  /** Somebody was stopped, or the database has failed: a run may lose its lease although it goes on. */
  readonly mayLoseLeases: () => boolean;
  /** Nobody else does anything with the set. */
  readonly isAlone: (manager: SimManager) => boolean;
}

type Work = (store: TruthStore, life: Life, owner: string) => Promise<unknown>;

/** A host on which lunsync is started, one process at a time. */
export class SimManager {
  readonly name: string;
  /** Its temporary folder is full, or its medium fails. */
  spoolFault: "full" | "io" | undefined;
  readonly counts = { runs: 0, ended: 0, failed: 0, killed: 0, commands: 0 };
  readonly results: RunResult[] = [];
  readonly errors: AgentError[] = [];
  spoolBytesMax = 0;
  /** A failback is under way. */
  bringing = false;
  #world: Surroundings;
  #life: Life | undefined;
  #number = 0;
  #failure: unknown;

  constructor(world: Surroundings, name: string) {
    this.#world = world;
    this.name = name;
  }

  get busy(): boolean {
    return this.#life !== undefined;
  }

  get failure(): unknown {
    return this.#failure;
  }

  #start(work: Work): void {
    const { time, database } = this.#world;
    const life = new Life(time, this.name);
    this.#life = life;
    this.bringing = false;
    const owner = `${this.name}, process ${++this.#number}`;
    const going = async () => {
      await using store = await database.store(life);
      await work(store, life, owner);
    };
    going()
      .catch((error: unknown) => {
        // What can't be helped is told in words; anything else is a finding.
        const lost = error instanceof AgentError && /lease was lost/.test(error.message);
        const expected =
          error instanceof AgentError &&
          !["internal", "state_damaged"].includes(error.code) &&
          (!lost || this.#world.mayLoseLeases());
        time.tell(() => `${owner} failed: ${error}`);
        if (expected) this.errors.push(error);
        else this.#failure ??= error;
        if (error instanceof ConflictError) this.#world.judge.roles.refused(owner);
        this.counts.failed++;
      })
      .finally(() => {
        if (this.#life !== life) return;
        this.#life = undefined;
        this.bringing = false;
      });
  }

  /** What an engine finds around it. */
  #options(store: TruthStore, life: Life, owner: string): SetOptions {
    return {
      store,
      open: (address, writable) => this.#open(life, owner, address, writable),
      clock: life.clock,
      random: { bytes: (count) => bytesOf(this.#world.random, count) },
      owner,
      signal: new AbortController().signal,
      onNotice: () => {},
      spoolFile: async () => this.#spool(life),
    };
  }

  #begin(owner: string, facts: Omit<RunFacts, "owner" | "sinceMs">): void {
    this.#world.judge.begin({ owner, sinceMs: this.#world.time.nowMs, ...facts });
  }

  run(maxChange?: number): void {
    const { time, judge } = this.#world;
    this.counts.runs++;
    this.#start(async (store, life, owner) => {
      this.#begin(owner, { what: "run", maxChange });
      const paused = judge.state.paused;
      const result = await runSet(setName, { ...this.#options(store, life, owner), maxChange });
      if (paused && judge.state.paused) throw new SimulationError("a set that is paused was run");
      time.tell(
        () =>
          `${owner} ends: ${result.replicas.map(({ name, state, reason }) => `${name} ${state} ${reason}`)}`,
      );
      this.results.push(result);
      this.counts.ended++;
    });
  }

  failOver(replica: string, force: boolean): void {
    this.#world.time.tell(() => `${this.name} fails over to ${replica}${force ? ", by force" : ""}`);
    this.#start(async (store, life, owner) => {
      this.#begin(owner, { what: "failover", target: replica, force });
      await failOver(setName, { ...this.#options(store, life, owner), replica, force });
      this.#world.time.tell(() => `${owner} has handed out ${replica}`);
      if (this.#world.isAlone(this)) this.#world.judge.roles.taken(replica, owner);
    });
  }

  /** Without the truth database. */
  handOutAlone(host: SimHost): void {
    this.#world.time.tell(() => `${this.name} hands ${host.name} out alone`);
    this.#start(async (_store, life, owner) => {
      this.#begin(owner, { what: "alone", target: host.name });
      await using volume = await this.#open(life, owner, host.name, true);
      const label = await handOutAlone(volume, false);
      this.#world.judge.roles.handedOutAlone(host, label);
    });
  }

  failBack(how: Preference & { readonly to: string | undefined }): void {
    this.#world.time.tell(() => `${this.name} fails back, ${JSON.stringify(how)}`);
    this.#start(async (store, life, owner) => {
      this.bringing = true;
      this.#begin(owner, { what: "failback", target: how.to, prefer: how.prefer, mix: how.mix });
      const keep = (volume: Volume, lba: number, blocks: number) => this.#keep(volume, lba, blocks);
      const done = await failBack(setName, { ...this.#options(store, life, owner), ...how, keep });
      this.#world.time.tell(() => `${owner} has failed back: the set follows ${done.source}`);
      if (this.#world.isAlone(this)) this.#world.judge.roles.taken(done.source, owner);
    });
  }

  /** What is kept outlives everybody; what can't be read is missing there. */
  async #keep(volume: Volume, lba: number, blocks: number): Promise<void> {
    const { disk } = this.#world.hosts.get(volume.name)!;
    const data = Buffer.alloc(blocks * disk.geometry.blockBytes);
    try {
      await volume.read(lba, data);
    } catch (error) {
      if (!(error instanceof AgentError) || error.code !== "medium_error") throw error;
    }
    disk.extentsOf(lba, data.length).forEach((extent, j) => {
      const kept = data.subarray(j * disk.extentBytes, (j + 1) * disk.extentBytes);
      this.#world.judge.roles.keep(volume.name, extent, identified(kept));
    });
  }

  #open(life: Life, owner: string, address: string, writable: boolean): Promise<SimSession> {
    const { network, hosts } = this.#world;
    return SimSession.open(network, life, () => hosts.get(address)!, owner, writable);
  }

  #spool(life: Life): SpoolFile {
    let bytes = Buffer.alloc(0);
    const fail = () => {
      if (this.spoolFault === undefined) return;
      throw new SystemError(this.spoolFault === "full" ? enospc : eio);
    };
    return {
      write: async (buffer, offset, length, at) => {
        await life.pause();
        fail();
        // Now and then, less is written than was asked for.
        const some = length > 1 && this.#world.random() < 0.1 ? Math.ceil(length / 2) : length;
        const end = Buffer.alloc(Math.max(bytes.length, at + some));
        bytes.copy(end);
        buffer.copy(end, at, offset, offset + some);
        bytes = end;
        this.spoolBytesMax = Math.max(this.spoolBytesMax, bytes.length);
        return { bytesWritten: some };
      },
      read: async (buffer, offset, length, at) => {
        await life.pause();
        if (this.spoolFault === "io") fail();
        const some = length > 1 && this.#world.random() < 0.1 ? Math.ceil(length / 2) : length;
        return { bytesRead: bytes.copy(buffer, offset, at, at + some) };
      },
      close: async () => {},
    };
  }

  /** As "lunsync set" does it. */
  #command(action: (store: TruthStore, lease: Lease) => Promise<void>): void {
    this.counts.commands++;
    this.#start(async (store, life, owner) => {
      await whileLeased(setName, { store, owner, clock: life.clock }, (lease) => action(store, lease));
    });
  }

  pause(paused: boolean): void {
    this.#command((store, lease) => store.write(lease, (t) => t.updateSet({ paused })));
  }

  maxChange(maxChange: number | undefined): void {
    this.#command((store, lease) => store.write(lease, (t) => t.updateSet({ maxChange })));
  }

  add(host: SimHost): void {
    this.#command(async (store, lease) => {
      const { members } = await store.set(setName);
      if (members.some(({ name }) => name === host.name)) return;
      await store.addMember(lease, newMember(host.name, members.length + 1));
    });
  }

  remove(name: string): void {
    this.#command(async (store, lease) => {
      const found = (await store.set(setName)).members.find((member) => member.name === name);
      if (found?.role === "replica") await store.removeMember(lease, found.id);
    });
  }

  priorities(): void {
    const { random } = this.#world;
    this.#command(async (store, lease) => {
      const { members } = await store.set(setName);
      await store.write(lease, async (t) => {
        for (const { id, role } of members)
          if (role === "replica") await t.updateMember(id, { priority: oneOf(random, [1, 2, 3, 4]) });
      });
    });
  }

  /** It dies, wherever it is. */
  kill(): void {
    if (!this.#life) return;
    this.counts.killed++;
    this.#world.time.tell(() => `${this.name} is killed`);
    this.#life.die();
    this.#life = undefined;
    this.bringing = false;
  }

  /** It sleeps, wherever it is. */
  stop(forMs: number): void {
    this.#world.time.tell(() => `${this.name} sleeps for ${forMs} ms`);
    this.#life?.stop(forMs);
  }
}
