// What every store of the truth database does, whatever it keeps it in.
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Lease, TruthStore } from "../../src/truth/store.ts";
import {
  entryAt,
  eventually,
  identifiers,
  memberNamed,
  openStore,
  pageNumbered,
  pause,
  setNamed,
} from "./stores.ts";

/** A database of its own for each test. */
export interface Place extends AsyncDisposable {
  readonly address: string;
}

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
const coded = (code: string) => expect.objectContaining({ name: "AgentError", code });

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
      const made = { ...facts, blocks: 0, generation: 0, paused: false };
      const other = { ...setNamed("another"), blocks: 0, generation: 0, paused: false };
      expect(await store.sets()).toEqual([made, other]);
      expect(await store.set("vms")).toEqual({
        facts: made,
        members: [
          { id: 1, ...memberNamed("source") },
          { id: 2, ...odd },
        ],
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

  describe("transactions", () => {
    test("leave what they wrote", async () => {
      const lease = await leased();
      const last = pageNumbered(3, 3, 7);
      await store.write(lease, async (transaction) => {
        await transaction.putTruth(pageNumbered(0, 1));
        await transaction.putTruth(last);
        await transaction.putEntries(2, 0, [
          entryAt(0, 1, 1, "ADD", false),
          entryAt(1, 2, 2, "NO_CHANGE"),
          entryAt(60, 4, 3, "DELETE"),
        ]);
        await transaction.putEntries(2, 3, [entryAt(192, 7, 4)]);
        await transaction.updateSet({
          blocks: 9,
          blockBytes: 4096,
          generation: 1,
          paused: true,
          maxChange: 0.5,
        });
        await transaction.updateMember(2, { priority: 9, volumeUuid: "u", lastRunMs: 5, generation: 1 });
        await transaction.updateMember(3, {});
      });
      expect(await store.truth("vms", 0, 10)).toEqual([pageNumbered(0, 1), last]);
      expect(await store.truth("vms", 0, 3)).toEqual([pageNumbered(0, 1)]);
      expect(await store.truth("vms", 1, 2)).toEqual([]);
      expect(await store.truth("vms", 3, 1)).toEqual([last]);
      const of0 = [
        entryAt(0, 1, 1, "ADD", false),
        entryAt(1, 2, 2, "NO_CHANGE"),
        entryAt(60, 4, 3, "DELETE"),
      ];
      expect(await store.entries("vms", 2, 0, 4)).toEqual([...of0, entryAt(192, 7, 4)]);
      expect(await store.entries("vms", 2, 0, 3)).toEqual(of0);
      expect(await store.entries("vms", 2, 1, 3)).toEqual([entryAt(192, 7, 4)]);
      expect(await store.entries("vms", 3, 0, 4)).toEqual([]);
      expect(await store.pendingCounts("vms")).toEqual(new Map([0, 14, 0].map((count, i) => [i + 1, count])));
      const { facts, members } = await store.set("vms");
      expect(facts).toMatchObject({
        blocks: 9,
        blockBytes: 4096,
        generation: 1,
        paused: true,
        maxChange: 0.5,
      });
      expect(members[1]).toMatchObject({
        priority: 9,
        volumeUuid: "u",
        lastRunMs: 5,
        generation: 1,
        name: "near",
      });
      await store.write(lease, (transaction) =>
        transaction.updateSet({ maxChange: undefined, paused: false }),
      );
      expect((await store.set("vms")).facts).toMatchObject({
        maxChange: undefined,
        paused: false,
        blocks: 9,
      });
    });

    test("replace the entries of a page, and pages, also twice and out of order", async () => {
      const lease = await leased();
      await store.write(lease, async (transaction) => {
        for (const page of [2, 1, 0, 1]) {
          await transaction.putTruth(pageNumbered(page, page));
          await transaction.putEntries(2, page, [entryAt(page * 64, 1, 1), entryAt(page * 64 + 9, 1, 1)]);
          await transaction.putEntries(3, page, [entryAt(page * 64, 1, 1)]);
        }
        await transaction.putTruth(pageNumbered(1, 11));
        await transaction.putEntries(2, 1, [entryAt(64 + 5, 59, 2)]);
        await transaction.putEntries(2, 0, []);
      });
      expect(await store.truth("vms", 0, 3)).toEqual([
        pageNumbered(0, 0),
        pageNumbered(1, 11),
        pageNumbered(2, 2),
      ]);
      const of2 = [entryAt(128, 1, 1), entryAt(137, 1, 1)];
      expect(await store.entries("vms", 2, 0, 3)).toEqual([entryAt(69, 59, 2), ...of2]);
      await store.write(lease, (transaction) => transaction.putEntries(2, 1, []));
      expect(await store.entries("vms", 2, 0, 3)).toEqual(of2);
      expect((await store.entries("vms", 3, 0, 3)).length).toBe(3);
    });

    test("keep nothing if the action throws, also when it has been writing for long", async () => {
      const lease = await leased();
      const refused = store.write(lease, async (transaction) => {
        for (let page = 0; page < 400; page++) {
          await transaction.putTruth(pageNumbered(page, 1));
          await transaction.putEntries(2, page, [entryAt(page * 64, 64, 1)]);
        }
        await transaction.updateSet({ generation: 1 });
        await transaction.updateMember(1, { lastResult: "no" });
        throw new Error("half-way");
      });
      await expect(refused).rejects.toThrow("half-way");
      expect(await store.truth("vms", 0, 400)).toEqual([]);
      expect(await store.entries("vms", 2, 0, 400)).toEqual([]);
      expect((await store.set("vms")).facts.generation).toBe(0);
      expect((await store.set("vms")).members[0]!.lastResult).toBeUndefined();
    });

    test("keep nothing if one of their calls failed, and the action did not mind", async () => {
      const lease = await leased();
      let after: unknown;
      const refused = store.write(lease, async (transaction) => {
        await transaction.putTruth(pageNumbered(0, 1));
        await transaction.updateMember(99, { lastResult: "x" }).catch(() => {});
        after = await transaction.putTruth(pageNumbered(1, 1)).catch((error) => error);
      });
      await expect(refused).rejects.toEqual(coded("not_known"));
      expect(after).toEqual(coded("not_known"));
      expect(await store.truth("vms", 0, 2)).toEqual([]);
      const noMember = store.write(lease, (transaction) => transaction.putEntries(99, 0, [entryAt(0, 1, 1)]));
      await expect(noMember).rejects.toEqual(coded("not_known"));
    });

    test("carry out calls that nobody waited for, and none that come too late", async () => {
      const lease = await leased();
      let late: (() => Promise<void>) | undefined;
      await store.write(lease, async (transaction) => {
        for (let page = 0; page < 300; page++) void transaction.putTruth(pageNumbered(page, page));
        late = () => transaction.putTruth(pageNumbered(900, 1));
      });
      expect((await store.truth("vms", 0, 1000)).length).toBe(300);
      await expect(late!()).rejects.toThrow("has ended");
    });

    test("keep what a buffer held when it was given", async () => {
      const lease = await leased();
      const whole = identifiers(64, 1);
      const page = { ...pageNumbered(0, 1), identifiers: Buffer.from(whole) };
      const entry = { ...entryAt(0, 64, 1), previous: Buffer.from(whole) };
      await store.write(lease, async (transaction) => {
        await transaction.putTruth(page);
        await transaction.putEntries(2, 0, [entry]);
        page.identifiers.fill(0);
        entry.previous.fill(0);
      });
      expect((await store.truth("vms", 0, 1))[0]!.identifiers).toEqual(whole);
      expect((await store.entries("vms", 2, 0, 1))[0]!.previous).toEqual(whole);
    });

    test("refuse what lies beyond its page", async () => {
      const lease = await leased();
      for (const entries of [
        [entryAt(63, 2, 1)],
        [entryAt(64, 1, 1)],
        [entryAt(5, 2, 1), entryAt(6, 1, 1)],
        [{ ...entryAt(0, 2, 1), sent: Buffer.alloc(1) }],
      ])
        await expect(store.write(lease, (t) => t.putEntries(2, 0, entries))).rejects.toThrow(/extent/);
      await expect(
        store.write(lease, (t) => t.putTruth({ ...pageNumbered(0, 1), origins: new Uint16Array(65) })),
      ).rejects.toThrow("65 extents");
    });

    test("of tens of thousands of pages need little memory, and leave the process to others", async () => {
      const lease = await leased();
      const pages = 20_000;
      let turns = 0;
      const timer = setInterval(() => turns++, 5);
      const before = process.memoryUsage();
      let most = 0;
      await store.write(lease, async (transaction) => {
        for (let page = 0; page < pages; page++) {
          await transaction.putTruth(pageNumbered(page, page));
          if (page % 4 === 0) await transaction.putEntries(2, page, [entryAt(page * 64, 64, page)]);
          if (page % 500 === 0) {
            const { external, heapUsed } = process.memoryUsage();
            most = Math.max(most, external + heapUsed - before.external - before.heapUsed);
          }
        }
      });
      clearInterval(timer);
      expect(turns).toBeGreaterThan(20);
      // All that is written is 63 MiB, and comes in copies.
      expect(most).toBeLessThan(50 << 20);
      expect(await store.pendingCounts("vms")).toEqual(
        new Map([0, (pages / 4) * 64, 0].map((count, i) => [i + 1, count])),
      );
      let seen = 0;
      for (let page = 0; page < pages; page += 1000)
        for (const { number, identifiers: found } of await store.truth("vms", page, 1000)) {
          expect(number).toBe(seen++);
          if (number % 97 === 0) expect(found.equals(pageNumbered(number, number).identifiers)).toBe(true);
        }
      expect(seen).toBe(pages);
      await store.removeSet(lease);
    });

    test("are seen by others when they have ended, as a whole", async () => {
      await using other = await openStore(place.address);
      const lease = await leased();
      await store.write(lease, async (transaction) => {
        for (let page = 0; page < 300; page++) await transaction.putTruth(pageNumbered(page, 1));
        expect(await other.truth("vms", 0, 300)).toEqual([]);
        expect(await store.truth("vms", 0, 300)).toEqual([]);
        await transaction.updateSet({ generation: 1 });
        expect((await other.set("vms")).facts.generation).toBe(0);
      });
      expect((await other.truth("vms", 0, 300)).length).toBe(300);
      expect((await other.set("vms")).facts.generation).toBe(1);
    });

    test("of several stores come one after another", async () => {
      await using other = await openStore(place.address);
      const lease = await leased();
      const another = await leased("another");
      const add = (where: TruthStore, which: Lease) =>
        where.write(which, async (transaction) => {
          const { generation } = (await where.set(which.set)).facts;
          await transaction.updateSet({ generation: generation + 1 });
        });
      const all = Array.from({ length: 8 }, (_, i) => [
        add(i % 2 === 0 ? store : other, lease),
        add(i % 2 === 0 ? other : store, another),
      ]);
      await Promise.all(all.flat());
      expect((await store.sets()).map(({ generation }) => generation)).toEqual([8, 8]);
    });
  });

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
