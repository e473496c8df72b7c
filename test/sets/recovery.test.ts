// What each failure of a run leaves, and that the next run repairs it: the lines of docs/recovery.md, one by one. What must
// hold after every step (sim-judge.ts) is looked at here, too; thousands of schedules are in simulation.test.ts.
import { rmSync } from "node:fs";
import { dirname } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { AgentError } from "../../src/base/errors.ts";
import { systemClock } from "../../src/platform/clock.ts";
import { whileLeased } from "../../src/sets/lease.ts";
import type { ReplicaResult } from "../../src/sets/pass.ts";
import type { Lease, TruthStore } from "../../src/truth/store.ts";
import { journalState } from "../../src/whole/format.ts";
import { bytesOf, randomOf } from "../support/data.ts";
import type { SimHost } from "./sim-host.ts";
import type { SimManager } from "./sim-process.ts";
import { template } from "./sim-template.ts";
import { blockBytes, SimWorld } from "./sim-world.ts";

const extentBytes = 1024;
const extents = 100;

let empty: string;
beforeAll(async () => {
  empty = await template();
});
afterAll(() => rmSync(dirname(empty), { recursive: true, force: true }));

/** A set whose first run has ended, and whose source has changed since: extents 3, 4 and 70. */
class Changed implements AsyncDisposable {
  readonly world: SimWorld;
  /** What all replicas hold. */
  readonly before: Buffer;
  readonly #lines: string[] = [];
  #hooks: { readonly line: RegExp; readonly fn: () => void }[] = [];

  private constructor(world: SimWorld, before: Buffer) {
    this.world = world;
    this.before = before;
    world.time.tell = (what) => {
      const line = what();
      this.#lines.push(line);
      const due = this.#hooks.filter((hook) => hook.line.test(line));
      this.#hooks = this.#hooks.filter((hook) => !due.includes(hook));
      for (const { fn } of due) fn();
    };
  }

  /** replica-1 keeps its last whole generation, replica-2 does not. */
  static async make(seed = 1): Promise<Changed> {
    const random = randomOf(seed);
    const content = bytesOf(random, extents * extentBytes);
    const world = new SimWorld(random, empty, extentBytes, content, [
      { data: Buffer.alloc(content.length), keepsWhole: true },
      { data: Buffer.alloc(content.length), keepsWhole: false },
    ]);
    const changed = new Changed(world, content);
    await world.create();
    await world.calmly(world.managers[0], () => world.managers[0].run());
    expect(changed.replicas().map(({ state }) => state)).toEqual(["in step", "in step"]);
    for (const extent of [3, 4, 70])
      world.source.disk.put((extent * extentBytes) / blockBytes, bytesOf(random, extentBytes));
    return changed;
  }

  get whole(): SimHost {
    return this.world.replicas[0]!;
  }

  get plain(): SimHost {
    return this.world.replicas[1]!;
  }

  /** Does something in the middle of whatever tells a line like this. */
  when(line: RegExp, fn: () => void): void {
    this.#hooks.push({ line, fn });
  }

  /** Kills the manager there. */
  dies(line: RegExp): void {
    this.when(line, () => this.world.managers[0].kill());
  }

  /** A run that may fail; to its end. */
  async run(): Promise<void> {
    const [manager] = this.world.managers;
    manager.run();
    await this.ends(manager);
    expect(this.#hooks).toEqual([]); // what was to happen has happened
    // What was under way comes to its end.
    await this.pass(100);
  }

  async ends(manager: SimManager): Promise<void> {
    while (manager.busy) if (!(await this.world.step()) && manager.busy) throw new Error("it waits for ever");
  }

  /** Some time. */
  async pass(ms: number): Promise<void> {
    const untilMs = this.world.time.nowMs + ms;
    while (await this.world.step(untilMs));
    this.world.time.nowMs = untilMs;
  }

  replicas(): readonly ReplicaResult[] {
    return this.world.managers[0].results.at(-1)!.replicas;
  }

  replica(host: SimHost): ReplicaResult {
    return this.replicas().find(({ name }) => name === host.name)!;
  }

  pending(host: SimHost): number[] {
    return [...this.world.judge.memberOf(host)!.entries.keys()];
  }

  get generation(): number {
    return this.world.judge.state.generation;
  }

  said(line: RegExp): boolean {
    return this.#lines.some((each) => line.test(each));
  }

  isUntouched(host: SimHost): boolean {
    return host.disk.cache.equals(this.before) && host.disk.medium.equals(this.before);
  }

  /** Nothing fails any more: one run, two at most, makes all equal, and the next does nothing. */
  async recovers(): Promise<readonly ReplicaResult[]> {
    const [manager] = this.world.managers;
    const results = manager.results.length;
    await this.world.mend();
    await this.world.end();
    return manager.results[results]!.replicas;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.world.close();
  }
}

/** Something of this extent, and perhaps of others, gets into the cache. */
const writes = (replica: string, extent: number) =>
  new RegExp(`writes extents (\\d+,)*${extent}(,\\d+)* of "${replica}"`);

const isOpen = (host: SimHost): boolean => host.served!.journal.header.state === journalState.open;
const lastOf = (changed: Changed) => changed.world.managers[0].errors.at(-1);

describe("a manager that dies", () => {
  test("before it has asked anybody leaves nothing", async () => {
    await using changed = await Changed.make();
    changed.dies(/^source is asked/);
    await changed.run();
    expect([changed.generation, changed.isUntouched(changed.whole)]).toEqual([1, true]);
    await changed.recovers();
  });

  test("while it gathers leaves nothing", async () => {
    await using changed = await Changed.make();
    changed.dies(/^replica-2 is asked/);
    await changed.run();
    expect([changed.generation, changed.pending(changed.plain)]).toEqual([1, []]);
    expect(changed.world.replicas.every((host) => changed.isUntouched(host))).toBe(true);
    await changed.recovers();
  });

  test("after it has written down leaves what is to be done in the database", async () => {
    await using changed = await Changed.make();
    changed.dies(/commits generation 2/);
    await changed.run();
    expect([changed.generation, changed.pending(changed.plain), changed.pending(changed.whole)]).toEqual([
      2,
      [3, 4, 70],
      [3, 4, 70],
    ]);
    expect(changed.world.replicas.every((host) => changed.isUntouched(host))).toBe(true);
    await changed.recovers();
  });

  test("in the middle of an extent leaves half of it, which is nobody's writing", async () => {
    await using changed = await Changed.make();
    changed.when(writes("replica-2", 4), () => {
      changed.world.managers[0].kill();
      // Of what is in the cache, the first block gets to the medium.
      const { disk } = changed.plain;
      disk.put(
        (4 * extentBytes) / blockBytes,
        changed.world.source.disk.cache.subarray(4 * extentBytes, 4 * extentBytes + blockBytes),
      );
      void disk.flush();
    });
    await changed.run();
    const { disk } = changed.plain;
    const half = disk.medium.subarray(4 * extentBytes, 5 * extentBytes);
    expect(half.equals(changed.before.subarray(4 * extentBytes, 5 * extentBytes))).toBe(false);
    expect(changed.pending(changed.plain)).toEqual([3, 4, 70]);
    const next = await changed.recovers();
    expect(next.map(({ strayed }) => strayed)).toEqual([undefined, undefined]);
  });

  test("between the flush and the acknowledgement leaves it pending; it is proved, and not sent again", async () => {
    await using changed = await Changed.make();
    changed.dies(/^replica-2 is asked, of its medium/);
    await changed.run();
    const { disk } = changed.plain;
    expect(changed.pending(changed.plain)).toEqual([3, 4, 70]);
    expect(disk.medium.equals(changed.world.source.disk.cache)).toBe(true);
    const next = await changed.recovers();
    expect(next.find(({ name }) => name === disk.name)!.carriedOut).toMatchObject({ written: 0 });
  });

  test("after the last acknowledgement leaves the run of the replica open; the next one commits it", async () => {
    await using changed = await Changed.make();
    changed.dies(/commits generation 2.*replica-1: 1, *(;|$)/);
    await changed.run();
    const { whole } = changed;
    expect([isOpen(whole), whole.served!.journal.header.label!.generation]).toEqual([true, 1]);
    await whole.served!.wholeState();
    const next = await changed.recovers();
    expect(next.find(({ name }) => name === whole.name)!.carriedOut).toMatchObject({ written: 0 });
  });

  test("in the middle of its writes leaves a replica that is returned to its last generation at once", async () => {
    await using changed = await Changed.make();
    changed.dies(writes("replica-1", 70));
    await changed.run();
    const { whole, world } = changed;
    expect([isOpen(whole), changed.isUntouched(whole)]).toEqual([true, false]);
    await world.until(whole.carryOut(whole.login("an operator"), (served) => served.rollBackWhole!()));
    expect(changed.isUntouched(whole)).toBe(true);
    await changed.recovers();
  });
});

describe("a manager that lives", () => {
  test("and sleeps longer than its lease lasts finds that another has it, and writes nothing down", async () => {
    await using changed = await Changed.make();
    const [one, two] = changed.world.managers;
    changed.world.stopped = true;
    changed.when(/commits generation 2/, () => {
      one.stop(60_000);
      two.run();
    });
    await changed.run();
    await changed.ends(two);
    expect(lastOf(changed)).toMatchObject({
      code: "not_known",
      message: expect.stringMatching(/its lease was lost/),
    });
    expect(two.results.at(-1)!.replicas.map(({ state }) => state)).toEqual(["in step", "in step"]);
    await changed.recovers();
  });

  test("and reads truth and tables while another writes them is told that it has lost the set", async () => {
    const noStore = {} as TruthStore;
    for (const [isLost, code] of [
      [true, "not_known"],
      [false, "state_damaged"],
    ] as const) {
      const lease: Lease = {
        set: "set",
        fence: 1,
        renew: async () => {
          if (isLost) throw new AgentError("not_known", "its lease was lost");
        },
        release: async () => {},
      };
      const store = { ...noStore, acquire: async () => lease };
      const action = async () => {
        throw new AgentError("state_damaged", "the action table and the truth database are not of one state");
      };
      const options = { store, clock: systemClock, owner: "test" };
      await expect(whileLeased("set", options, action)).rejects.toMatchObject({ code });
    }
  });

  test("keeps another one out: that says who has the set", async () => {
    await using changed = await Changed.make();
    const [, two] = changed.world.managers;
    // Longer than a lease lasts: it is renewed.
    changed.world.network.cutUntilMs.set(`one ${changed.plain.name}`, changed.world.time.nowMs + 25_000);
    changed.world.time.after(1000, undefined, () => two.run());
    await changed.run();
    await changed.ends(two);
    expect(two.errors.map(({ code, message }) => [code, message])).toEqual([
      ["volume_in_use", expect.stringMatching(/in use by one, process/)],
    ]);
    await changed.recovers();
  });

  test("without room for what it decides, or with a medium that fails there, writes nothing", async () => {
    for (const fault of ["full", "io"] as const) {
      await using changed = await Changed.make();
      changed.world.managers[0].spoolFault = fault;
      await changed.run();
      expect(lastOf(changed)).toMatchObject({ code: fault === "full" ? "no_space" : "io_error" });
      expect([changed.generation, changed.world.replicas.every((host) => changed.isUntouched(host))]).toEqual(
        [1, true],
      );
      await changed.recovers();
    }
  });
});

describe("the database's host", () => {
  test("that loses its power in a COMMIT has all of the transaction, or nothing", async () => {
    const generations = new Set<number>();
    for (let seed = 1; seed <= 20; seed++) {
      await using changed = await Changed.make(seed);
      // Of the transaction that writes down: it is the first that there is between asking and writing.
      changed.when(/^replica-2 is asked/, () => {
        changed.world.database.cutsCommit = true;
      });
      await changed.run();
      expect(lastOf(changed)).toMatchObject({ code: "io_error" });
      generations.add(changed.generation);
      await changed.recovers();
    }
    expect([...generations].sort()).toEqual([1, 2]);
  });

  test("that loses its power between two transactions has what was there", async () => {
    await using changed = await Changed.make();
    changed.when(/^replica-2 is asked, of its medium/, () => changed.world.database.powerCut());
    await changed.run();
    expect([changed.generation, changed.pending(changed.plain)]).toEqual([2, [3, 4, 70]]);
    await changed.recovers();
  });

  test("without room, or with a medium that fails, keeps what it had; the run ends with that", async () => {
    for (const fault of ["full", "io"] as const) {
      await using changed = await Changed.make();
      const { database } = changed.world;
      // Some of the statements still succeed.
      for (let i = 0; i < 10 && changed.generation === 1; i++) {
        database.fault = fault;
        await changed.run();
        if (lastOf(changed)) break;
      }
      expect(lastOf(changed)).toMatchObject({ code: fault === "full" ? "no_space" : "io_error" });
      await changed.recovers();
    }
  });
});

describe("the link", () => {
  test("that is cut in the middle leaves that replica behind, and costs the others nothing", async () => {
    await using changed = await Changed.make();
    const { world, plain, whole } = changed;
    changed.when(writes("replica-2", 3), () => {
      world.network.cutUntilMs.set(`one ${plain.name}`, world.time.nowMs + 100_000);
    });
    await changed.run();
    expect([changed.replica(plain).state, changed.replica(whole).state]).toEqual(["behind", "in step"]);
    expect(changed.pending(plain)).toEqual([3, 4, 70]);
    await changed.recovers();
  });

  test("that loses an answer is made again, and what is not certain is proved in the next run", async () => {
    const reasons: (string | undefined)[] = [];
    for (let seed = 1; seed <= 10; seed++) {
      await using changed = await Changed.make(seed);
      changed.when(writes("replica-2", 3), () => {
        changed.world.network.lossy = 0.7;
      });
      changed.when(writes("replica-2", 70), () => {
        changed.world.network.lossy = 0;
      });
      await changed.run();
      reasons.push(changed.replica(changed.plain).reason);
      await changed.recovers();
    }
    expect(reasons).toContainEqual(expect.stringMatching(/reconnected before its writes were flushed/));
  });
});

describe("a replica's host", () => {
  test("that loses its power in the middle has lost or torn what was not flushed: it is pending", async () => {
    for (let seed = 1; seed <= 10; seed++) {
      await using changed = await Changed.make(seed);
      const { plain } = changed;
      changed.when(writes("replica-2", 70), () => plain.crash({ power: true }, 60_000));
      await changed.run();
      expect([changed.replica(plain).state, changed.pending(plain)]).toEqual(["behind", [3, 4, 70]]);
      const next = await changed.recovers();
      expect(next.map(({ strayed }) => strayed)).toEqual([undefined, undefined]);
    }
  });

  test("that loses its power in a run of a volume that keeps its last generation can return to that", async () => {
    for (let seed = 1; seed <= 10; seed++) {
      await using changed = await Changed.make(seed);
      const { whole, world } = changed;
      changed.when(writes("replica-1", 70), () => whole.crash({ power: true }, 20_000));
      await changed.run();
      while (!whole.up) await changed.pass(1000);
      expect(isOpen(whole)).toBe(true);
      await world.until(whole.carryOut(whole.login("an operator"), (served) => served.rollBackWhole!()));
      expect(changed.isUntouched(whole)).toBe(true);
      await changed.recovers();
    }
  });

  test("without room for before-images overwrites nothing that it could not keep", async () => {
    await using changed = await Changed.make();
    const { whole } = changed;
    whole.journal!.disk.full = true;
    await changed.run();
    expect(changed.replica(whole)).toMatchObject({
      state: "behind",
      reason: expect.stringMatching(/no space left/),
    });
    expect([changed.isUntouched(whole), changed.pending(whole)]).toEqual([true, [3, 4, 70]]);
    await changed.recovers();
  });

  test("with a full disk, a bad block, a flush that fails, or one that lies, leaves pending what is not proved", async () => {
    const faults: readonly ((host: SimHost) => void)[] = [
      ({ disk }) => {
        disk.room = 1;
      },
      ({ disk }) => disk.unwritable.add((70 * extentBytes) / blockBytes),
      (host) => {
        host.disk.failsFlush = true;
      },
      (host) => {
        host.disk.lies = true;
      },
    ];
    for (const fault of faults) {
      await using changed = await Changed.make();
      changed.when(/commits generation 2/, () => fault(changed.plain));
      await changed.run();
      expect(changed.replica(changed.plain).state).toBe("behind");
      expect(changed.pending(changed.plain).length).toBeGreaterThan(0);
      expect(changed.replica(changed.whole).state).toBe("in step");
      await changed.recovers();
    }
  });

  test("that is rolled back in the middle of a run takes no more of it, and is no mixture", async () => {
    await using changed = await Changed.make();
    const { whole } = changed;
    changed.when(writes("replica-1", 4), () => {
      const connection = whole.login("an operator");
      void whole.carryOut(connection, (served) => served.rollBackWhole!());
    });
    await changed.run();
    expect(changed.replica(whole)).toMatchObject({
      state: "behind",
      reason: expect.stringMatching(/rolled back/),
    });
    expect(changed.isUntouched(whole)).toBe(true);
    const next = await changed.recovers();
    expect(next.map(({ strayed }) => strayed)).toEqual([undefined, undefined]);
  });
});

describe("the source", () => {
  test("that loses its power has what its medium has; the next run brings the replicas to that", async () => {
    for (let seed = 1; seed <= 10; seed++) {
      await using changed = await Changed.make(seed);
      changed.when(/^replica-2 is asked, of its medium/, () =>
        changed.world.source.crash({ power: true }, 10_000),
      );
      await changed.run();
      await changed.recovers();
    }
  });

  test("with a block that can't be read changes nothing there; the replicas keep what they have of it", async () => {
    await using changed = await Changed.make();
    const { source } = changed.world;
    source.disk.damage((4 * extentBytes) / blockBytes);
    await changed.run();
    expect(changed.world.managers[0].results.at(-1)).toMatchObject({ changed: 2, unreadable: 1 });
    const kept = changed.plain.disk.medium.subarray(4 * extentBytes, 5 * extentBytes);
    expect(kept.equals(changed.before.subarray(4 * extentBytes, 5 * extentBytes))).toBe(true);
    await changed.recovers();
  });

  test("that goes on changing leaves what has changed since to the next run", async () => {
    await using changed = await Changed.make();
    const { source } = changed.world;
    changed.when(/commits generation 2/, () =>
      source.disk.put((70 * extentBytes) / blockBytes, Buffer.alloc(extentBytes, 7)),
    );
    await changed.run();
    expect([changed.replica(changed.plain).state, changed.pending(changed.plain)]).toEqual(["behind", [70]]);
    await changed.recovers();
  });
});

test("somebody who writes to a replica in the middle of a run is not overwritten unseen", async () => {
  await using changed = await Changed.make();
  const { plain } = changed;
  changed.when(/commits generation 2/, () =>
    plain.disk.put((70 * extentBytes) / blockBytes, Buffer.alloc(extentBytes, 8)),
  );
  await changed.run();
  expect(changed.replica(plain)).toMatchObject({ state: "behind", carriedOut: { refused: 1 } });
  const next = await changed.recovers();
  expect(next.find(({ name }) => name === plain.name)!.strayed).toMatchObject({ count: 1 });
});
