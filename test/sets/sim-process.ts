// What the processes of a simulation do: runs of the set, and the operator's commands; the real ones, on simulated time,
// network and disks.
import { AgentError } from "../../src/base/errors.ts";
import { SystemError } from "../../src/platform/errno.ts";
import { whileLeased } from "../../src/sets/lease.ts";
import type { RunResult } from "../../src/sets/pass.ts";
import { runSet } from "../../src/sets/run.ts";
import type { SpoolFile } from "../../src/sets/spool.ts";
import type { Lease, NewMember, TruthStore } from "../../src/truth/store.ts";
import { bytesOf, oneOf } from "../support/data.ts";
import type { SimDatabase } from "./sim-database.ts";
import type { SimHost } from "./sim-host.ts";
import { type Judge, SimulationError } from "./sim-judge.ts";
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
}

export const memberOf = (host: SimHost, priority: number): NewMember => ({
  name: host.name,
  address: host.name,
  role: priority === 0 ? "source" : "replica",
  priority,
  volumeUuid: undefined,
  generation: 0,
  lastResult: undefined,
  lastRunMs: undefined,
});

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
        this.counts.failed++;
      })
      .finally(() => {
        if (this.#life === life) this.#life = undefined;
      });
  }

  run(maxChange?: number): void {
    const { time, random, judge } = this.#world;
    this.counts.runs++;
    this.#start(async (store, life, owner) => {
      judge.begin({ owner, sinceMs: time.nowMs, maxChange });
      const paused = judge.state.paused;
      const result = await runSet(setName, {
        store,
        open: (address, writable) => this.#open(life, owner, address, writable),
        clock: life.clock,
        random: { bytes: (count) => bytesOf(random, count) },
        owner,
        maxChange,
        signal: new AbortController().signal,
        onNotice: () => {},
        spoolFile: async () => this.#spool(life),
      });
      if (paused && judge.state.paused) throw new SimulationError("a set that is paused was run");
      time.tell(
        () =>
          `${owner} ends: ${result.replicas.map(({ name, state, reason }) => `${name} ${state} ${reason}`)}`,
      );
      this.results.push(result);
      this.counts.ended++;
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
      await store.addMember(lease, memberOf(host, members.length + 1));
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
  }

  /** It sleeps, wherever it is. */
  stop(forMs: number): void {
    this.#world.time.tell(() => `${this.name} sleeps for ${forMs} ms`);
    this.#life?.stop(forMs);
  }
}
