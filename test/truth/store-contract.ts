// What every store of the truth database does, whatever it keeps it in.
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Lease, TruthStore } from "../../src/truth/store.ts";
import { transactionContract } from "./store-contract-transactions.ts";
import {
  coded,
  entryAt,
  eventually,
  memberNamed,
  memberRead,
  openStore,
  type Place,
  pageNumbered,
  pause,
  setNamed,
} from "./stores.ts";

/** A process that holds a lease, and writes when it is told to. */
class Holder implements AsyncDisposable {
  readonly child: ChildProcess;
  readonly #lines: NodeJS.AsyncIterator<string>;

  constructor(address: string, set: string) {
    const script = new URL("./store-child.ts", import.meta.url).pathname;
    this.child = spawn(process.execPath, [script, address, "hold", set], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    this.#lines = createInterface({ input: this.child.stdout! })[Symbol.asyncIterator]();
  }

  async line(): Promise<string | undefined> {
    return (await this.#lines.next()).value;
  }

  tell(line: string): void {
    this.child.stdin!.write(`${line}\n`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = new Promise((resolve) => this.child.once("close", resolve));
    this.child.kill("SIGKILL");
    await ended;
  }
}

const ttlMs = 60_000;

export function storeContract(makePlace: () => Promise<Place>): void {
  let place: Place;
  let store: TruthStore;

  beforeEach(async () => {
    place = await makePlace();
    store = await openStore(place.address);
  });
  afterEach(async () => {
    await store[Symbol.asyncDispose]();
    await place[Symbol.asyncDispose]();
  });

  /** A set of a source and two replicas, and its lease. */
  async function leased(name = "vms"): Promise<Lease> {
    await store.createSet(setNamed(name), [
      memberNamed("source"),
      memberNamed("near", 1),
      memberNamed("far", 2),
    ]);
    return (await store.acquire(name, "me", ttlMs))!;
  }

  describe("sets and members", () => {
    test("are what they were made as", async () => {
      expect(await store.sets()).toEqual([]);
      const facts = { ...setNamed("vms"), maxChange: 0.25 };
      const odd = {
        ...memberNamed("near", -3),
        volumeUuid: "u",
        generation: 7,
        lastResult: "ok",
        lastRunMs: 1,
      };
      await store.createSet(facts, [memberNamed("source"), odd]);
      await store.createSet(setNamed("another"), []);
      const young = { blocks: 0, generation: 0, paused: false, handedOutTo: undefined };
      const made = { ...facts, ...young };
      const other = { ...setNamed("another"), ...young };
      expect(await store.sets()).toEqual([made, other]);
      expect(await store.set("vms")).toEqual({
        facts: made,
        members: [memberRead(1, memberNamed("source")), memberRead(2, odd)],
      });
      expect((await store.set("another")).members).toEqual([]);
    });

    test("have names of their own", async () => {
      await leased();
      await expect(store.createSet(setNamed("vms"), [])).rejects.toEqual(coded("usage"));
      await expect(
        store.createSet(setNamed("twins"), [memberNamed("near"), memberNamed("near")]),
      ).rejects.toEqual(coded("usage"));
      expect((await store.sets()).map(({ name }) => name)).toEqual(["vms"]);
    });

    test("that nobody knows are not known", async () => {
      const asked = [
        store.set("x"),
        store.acquire("x", "me", ttlMs),
        store.holder("x"),
        store.truth("x", 0, 1),
        store.entries("x", 1, 0, 1),
        store.pendingCounts("x"),
        store.set("x\0"),
        store.set("\ud800"),
      ];
      for (const result of await Promise.allSettled(asked))
        expect(result).toMatchObject({ status: "rejected", reason: coded("not_known") });
    });

    test("get numbers that are never given again", async () => {
      const lease = await leased();
      expect(await store.addMember(lease, memberNamed("late"))).toBe(4);
      await expect(store.addMember(lease, memberNamed("late"))).rejects.toEqual(coded("usage"));
      await store.removeMember(lease, 4);
      await expect(store.removeMember(lease, 4)).rejects.toEqual(coded("not_known"));
      expect(await store.addMember(lease, memberNamed("late"))).toBe(5);
      expect((await store.set("vms")).members.map(({ id }) => id)).toEqual([1, 2, 3, 5]);
    });

    test("keep the names and texts that they were given, whatever is in them", async () => {
      const names = [
        "'; drop table sets; --",
        '"quoted" \\ back',
        "$1 ? :a @b %s",
        "ünïcödé 日本語 🦊",
        "e\u0301 is not \u00e9",
        "\u00e9 is not e\u0301",
        "line\nbreak\ttab\r\u001b[31m",
        " spaces ",
        "Case",
        "case",
        "x".repeat(255),
        "🦊".repeat(127),
      ];
      for (const name of names) {
        await store.createSet({ ...setNamed(name), digest: name }, [
          { ...memberNamed(name), address: name, lastResult: name },
        ]);
        const lease = (await store.acquire(name, name, ttlMs))!;
        await store.write(lease, async (transaction) => {
          await transaction.updateMember(1, { address: `${name}!`, lastResult: name });
        });
        expect(await store.holder(name)).toMatchObject({ owner: name });
        const { facts, members } = await store.set(name);
        expect([facts.name, facts.digest]).toEqual([name, name]);
        expect(members[0]).toMatchObject({ name, address: `${name}!`, lastResult: name });
      }
      expect((await store.sets()).map(({ name }) => name)).toEqual(names);
      for (const name of ["", "x".repeat(256), "nul\0", "half \ud83e"])
        await expect(store.createSet(setNamed(name), [])).rejects.toEqual(coded("usage"));
      expect((await store.sets()).length).toBe(names.length);
    });

    test("go with all that belongs to them", async () => {
      const lease = await leased();
      const other = await leased("other");
      for (const each of [lease, other])
        await store.write(each, async (transaction) => {
          await transaction.putTruth(pageNumbered(5000, 1));
          await transaction.putEntries(2, 5000, [entryAt(320_000, 3, 1)]);
          await transaction.putEntries(3, 5000, [entryAt(320_001, 2, 1)]);
        });
      await store.removeMember(lease, 2);
      expect(await store.entries("vms", 2, 0, 9000)).toEqual([]);
      expect(await store.pendingCounts("vms")).toEqual(
        new Map([
          [1, 0],
          [3, 2],
        ]),
      );
      await store.removeSet(lease);
      await expect(store.set("vms")).rejects.toEqual(coded("not_known"));
      await expect(store.write(lease, async () => {})).rejects.toEqual(coded("not_known"));
      await expect(lease.renew()).rejects.toEqual(coded("not_known"));
      await lease.release();
      expect((await store.truth("other", 0, 9000)).length).toBe(1);
      // One of the same name is another one.
      const again = await leased();
      expect(again.fence).toBeGreaterThan(other.fence);
      expect(await store.truth("vms", 0, 9000)).toEqual([]);
      expect(await store.entries("vms", 2, 0, 9000)).toEqual([]);
      await expect(store.write(lease, async () => {})).rejects.toEqual(coded("not_known"));
      await store.write(again, async (transaction) => transaction.putTruth(pageNumbered(0, 1)));
    });
  });

  transactionContract(() => ({ place, store }), leased);

  describe("leases", () => {
    test("are one's until they are given back", async () => {
      await using other = await openStore(place.address);
      const lease = await leased();
      expect(await store.holder("vms")).toMatchObject({ owner: "me" });
      expect((await other.holder("vms"))!.untilMs).toBeGreaterThan(Date.now());
      expect(await store.acquire("vms", "me", ttlMs)).toBeUndefined();
      expect(await other.acquire("vms", "you", ttlMs)).toBeUndefined();
      await lease.renew();
      await lease.release();
      await lease.release();
      expect(await store.holder("vms")).toBeUndefined();
      const next = (await other.acquire("vms", "you", ttlMs))!;
      expect(next.fence).toBeGreaterThan(lease.fence);
      await expect(lease.renew()).rejects.toEqual(coded("not_known"));
      await lease.release();
      expect(await store.holder("vms")).toMatchObject({ owner: "you" });
      await next.renew();
    });

    test("that ran out are good until somebody takes them", async () => {
      await store.createSet(setNamed("vms"), [memberNamed("source")]);
      const lease = (await store.acquire("vms", "me", 1))!;
      await eventually("its end", async () => {
        const { untilMs } = (await store.holder("vms"))!;
        return untilMs < Date.now() - 5 ? true : undefined;
      });
      await store.write(lease, (transaction) => transaction.updateSet({ generation: 1 }));
      await lease.renew();
      const next = await eventually("the lease", () => store.acquire("vms", "you", ttlMs));
      await expect(lease.renew()).rejects.toEqual(coded("not_known"));
      let called = false;
      const late = store.write(lease, async () => {
        called = true;
      });
      await expect(late).rejects.toThrow(/Cannot write the set "vms": its lease was lost, "you" has it now/);
      expect(called).toBe(false);
      await expect(store.addMember(lease, memberNamed("x"))).rejects.toEqual(coded("not_known"));
      await expect(store.removeMember(lease, 1)).rejects.toEqual(coded("not_known"));
      await expect(store.removeSet(lease)).rejects.toEqual(coded("not_known"));
      await store.write(next, (transaction) => transaction.updateSet({ generation: 2 }));
    });

    test("can be renewed while a transaction of theirs is written, which renews them too", async () => {
      await store.createSet(setNamed("vms"), [memberNamed("source")]);
      await using other = await openStore(place.address);
      const lease = (await store.acquire("vms", "me", 400))!;
      let endMs = 0;
      await store.write(lease, async (transaction) => {
        await transaction.putTruth(pageNumbered(0, 1));
        await lease.renew();
        await pause(600);
        endMs = Date.now();
      });
      expect((await other.holder("vms"))!.untilMs).toBeGreaterThanOrEqual(endMs + 400);
      await lease.renew();
    });

    test("are had by one of many that ask at once", async () => {
      await store.createSet(setNamed("vms"), [memberNamed("source")]);
      await using other = await openStore(place.address);
      let fence = 0;
      for (let round = 0; round < 5; round++) {
        const asked = Array.from({ length: 6 }, (_, i) =>
          (i % 2 === 0 ? store : other).acquire("vms", `${i}`, ttlMs),
        );
        const had = (await Promise.all(asked)).filter((lease) => lease !== undefined);
        expect(had.length).toBe(1);
        expect(had[0]!.fence).toBeGreaterThan(fence);
        fence = had[0]!.fence;
        await had[0]!.release();
      }
    });

    test("of a process that was stopped and wakes up late are worth nothing", async () => {
      await store.createSet(setNamed("vms"), [memberNamed("source")]);
      await using paused = new Holder(place.address, "vms");
      const fence = Number((await paused.line())!.split(" ")[1]);
      paused.tell("1");
      expect(await paused.line()).toBe("done");
      paused.child.kill("SIGSTOP");
      const lease = await eventually("the lease", () => store.acquire("vms", "me", ttlMs));
      expect(lease.fence).toBeGreaterThan(fence);
      await store.write(lease, (transaction) => transaction.putTruth(pageNumbered(0, 2)));
      paused.tell("3");
      paused.tell("renew");
      paused.child.kill("SIGCONT");
      expect(await paused.line()).toBe("not_known");
      expect(await paused.line()).toBe("not_known");
      expect(await store.truth("vms", 0, 1)).toEqual([pageNumbered(0, 2)]);
      expect(await store.holder("vms")).toMatchObject({ owner: "me" });
    });
  });

  test("a store that is opened again has what was written", async () => {
    const lease = await leased();
    await store.write(lease, (transaction) => transaction.putTruth(pageNumbered(0, 1)));
    await store[Symbol.asyncDispose]();
    store = await openStore(place.address);
    expect(await store.truth("vms", 0, 1)).toEqual([pageNumbered(0, 1)]);
    expect(await store.acquire("vms", "me", ttlMs)).toBeUndefined();
  });

  test("a store that is closed ends what is under way, and does nothing after that", async () => {
    const lease = await leased();
    const written = store.write(lease, async (transaction) => {
      await transaction.putTruth(pageNumbered(0, 1));
      await pause(50);
      await transaction.putTruth(pageNumbered(1, 1));
    });
    await Promise.all([store[Symbol.asyncDispose](), store[Symbol.asyncDispose]()]);
    await written;
    await expect(store.sets()).rejects.toThrow();
    await expect(lease.renew()).rejects.toThrow();
    store = await openStore(place.address);
    expect((await store.truth("vms", 0, 2)).length).toBe(2);
  });

  test("many open a new database at once", async () => {
    await using fresh = await makePlace();
    const opened = await Promise.all(Array.from({ length: 4 }, () => openStore(fresh.address)));
    await opened[0]!.createSet(setNamed("vms"), [memberNamed("source")]);
    for (const each of opened) {
      expect((await each.sets()).length).toBe(1);
      await each[Symbol.asyncDispose]();
    }
  });
}
