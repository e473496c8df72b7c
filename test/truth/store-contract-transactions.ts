// What every store does with transactions; a part of store-contract.ts.
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { describe, expect, test } from "vitest";
import type { Lease, TruthStore } from "../../src/truth/store.ts";
import { coded, entryAt, identifiers, openStore, type Place, pageNumbered } from "./stores.ts";

/** `at` gives the store of the test that runs; `leased` makes a set of three members in it. */
export function transactionContract(
  at: () => { readonly place: Place; readonly store: TruthStore },
  leased: (name?: string) => Promise<Lease>,
): void {
  describe("transactions", () => {
    test("leave what they wrote", async () => {
      const lease = await leased();
      const last = pageNumbered(3, 3, 7);
      await at().store.write(lease, async (transaction) => {
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
          handedOutTo: 2,
        });
        await transaction.updateMember(2, {
          priority: 9,
          volumeUuid: "u",
          lastRunMs: 5,
          generation: 1,
          role: "source",
          split: true,
          baseUnknown: true,
          keptFirst: true,
          history: "h",
          unsettled: true,
        });
        await transaction.updateMember(3, {});
      });
      expect(await at().store.truth("vms", 0, 10)).toEqual([pageNumbered(0, 1), last]);
      expect(await at().store.truth("vms", 0, 3)).toEqual([pageNumbered(0, 1)]);
      expect(await at().store.truth("vms", 1, 2)).toEqual([]);
      expect(await at().store.truth("vms", 3, 1)).toEqual([last]);
      const of0 = [
        entryAt(0, 1, 1, "ADD", false),
        entryAt(1, 2, 2, "NO_CHANGE"),
        entryAt(60, 4, 3, "DELETE"),
      ];
      expect(await at().store.entries("vms", 2, 0, 4)).toEqual([...of0, entryAt(192, 7, 4)]);
      expect(await at().store.entries("vms", 2, 0, 3)).toEqual(of0);
      expect(await at().store.entries("vms", 2, 1, 3)).toEqual([entryAt(192, 7, 4)]);
      expect(await at().store.entries("vms", 3, 0, 4)).toEqual([]);
      expect(await at().store.pendingCounts("vms")).toEqual(
        new Map([0, 14, 0].map((count, i) => [i + 1, count])),
      );
      for (const [page, member, next] of [
        [0, undefined, 0],
        [1, undefined, 3],
        [1, 2, 3],
        [3, 2, 3],
        [4, undefined, undefined],
        [0, 3, undefined],
        [0, 9, undefined],
      ] as const)
        expect([page, member, await at().store.nextPending("vms", page, member)]).toEqual([
          page,
          member,
          next,
        ]);
      const { facts, members } = await at().store.set("vms");
      expect(facts).toMatchObject({
        blocks: 9,
        blockBytes: 4096,
        generation: 1,
        paused: true,
        maxChange: 0.5,
        handedOutTo: 2,
      });
      expect(members[1]).toMatchObject({
        priority: 9,
        volumeUuid: "u",
        lastRunMs: 5,
        generation: 1,
        name: "near",
        role: "source",
        split: true,
        baseUnknown: true,
        keptFirst: true,
        history: "h",
        unsettled: true,
      });
      await at().store.write(lease, (transaction) =>
        transaction.updateSet({ maxChange: undefined, paused: false, handedOutTo: undefined }),
      );
      expect((await at().store.set("vms")).facts).toMatchObject({
        maxChange: undefined,
        handedOutTo: undefined,
        paused: false,
        blocks: 9,
      });
    });

    test("replace the entries of a page, and pages, also twice and out of order", async () => {
      const lease = await leased();
      await at().store.write(lease, async (transaction) => {
        for (const page of [2, 1, 0, 1]) {
          await transaction.putTruth(pageNumbered(page, page));
          await transaction.putEntries(2, page, [entryAt(page * 64, 1, 1), entryAt(page * 64 + 9, 1, 1)]);
          await transaction.putEntries(3, page, [entryAt(page * 64, 1, 1)]);
        }
        await transaction.putTruth(pageNumbered(1, 11));
        await transaction.putEntries(2, 1, [entryAt(64 + 5, 59, 2)]);
        await transaction.putEntries(2, 0, []);
      });
      expect(await at().store.truth("vms", 0, 3)).toEqual([
        pageNumbered(0, 0),
        pageNumbered(1, 11),
        pageNumbered(2, 2),
      ]);
      const of2 = [entryAt(128, 1, 1), entryAt(137, 1, 1)];
      expect(await at().store.entries("vms", 2, 0, 3)).toEqual([entryAt(69, 59, 2), ...of2]);
      await at().store.write(lease, (transaction) => transaction.putEntries(2, 1, []));
      expect(await at().store.entries("vms", 2, 0, 3)).toEqual(of2);
      expect((await at().store.entries("vms", 3, 0, 3)).length).toBe(3);
    });

    test("keep nothing if the action throws, also when it has been writing for long", async () => {
      const lease = await leased();
      const refused = at().store.write(lease, async (transaction) => {
        for (let page = 0; page < 400; page++) {
          await transaction.putTruth(pageNumbered(page, 1));
          await transaction.putEntries(2, page, [entryAt(page * 64, 64, 1)]);
        }
        await transaction.updateSet({ generation: 1 });
        await transaction.updateMember(1, { lastResult: "no" });
        throw new Error("half-way");
      });
      await expect(refused).rejects.toThrow("half-way");
      expect(await at().store.truth("vms", 0, 400)).toEqual([]);
      expect(await at().store.entries("vms", 2, 0, 400)).toEqual([]);
      expect((await at().store.set("vms")).facts.generation).toBe(0);
      expect((await at().store.set("vms")).members[0]!.lastResult).toBeUndefined();
    });

    test("keep nothing if one of their calls failed, and the action did not mind", async () => {
      const lease = await leased();
      let after: unknown;
      const refused = at().store.write(lease, async (transaction) => {
        await transaction.putTruth(pageNumbered(0, 1));
        await transaction.updateMember(99, { lastResult: "x" }).catch(() => {});
        after = await transaction.putTruth(pageNumbered(1, 1)).catch((error) => error);
      });
      await expect(refused).rejects.toEqual(coded("not_known"));
      expect(after).toEqual(coded("not_known"));
      expect(await at().store.truth("vms", 0, 2)).toEqual([]);
      const noMember = at().store.write(lease, (transaction) =>
        transaction.putEntries(99, 0, [entryAt(0, 1, 1)]),
      );
      await expect(noMember).rejects.toEqual(coded("not_known"));
    });

    test("carry out calls that nobody waited for, and none that come too late", async () => {
      const lease = await leased();
      let late: (() => Promise<void>) | undefined;
      await at().store.write(lease, async (transaction) => {
        for (let page = 0; page < 300; page++) void transaction.putTruth(pageNumbered(page, page));
        late = () => transaction.putTruth(pageNumbered(900, 1));
      });
      expect((await at().store.truth("vms", 0, 1000)).length).toBe(300);
      await expect(late!()).rejects.toThrow("has ended");
    });

    test("keep what a buffer held when it was given", async () => {
      const lease = await leased();
      const whole = identifiers(64, 1);
      const page = { ...pageNumbered(0, 1), identifiers: Buffer.from(whole) };
      const entry = { ...entryAt(0, 64, 1), previous: Buffer.from(whole) };
      await at().store.write(lease, async (transaction) => {
        await transaction.putTruth(page);
        await transaction.putEntries(2, 0, [entry]);
        page.identifiers.fill(0);
        entry.previous.fill(0);
      });
      expect((await at().store.truth("vms", 0, 1))[0]!.identifiers).toEqual(whole);
      expect((await at().store.entries("vms", 2, 0, 1))[0]!.previous).toEqual(whole);
    });

    test("refuse what lies beyond its page", async () => {
      const lease = await leased();
      for (const entries of [
        [entryAt(63, 2, 1)],
        [entryAt(64, 1, 1)],
        [entryAt(5, 2, 1), entryAt(6, 1, 1)],
        [{ ...entryAt(0, 2, 1), sent: Buffer.alloc(1) }],
      ])
        await expect(at().store.write(lease, (t) => t.putEntries(2, 0, entries))).rejects.toThrow(/extent/);
      await expect(
        at().store.write(lease, (t) => t.putTruth({ ...pageNumbered(0, 1), origins: new Uint16Array(65) })),
      ).rejects.toThrow("65 extents");
    });

    test("of tens of thousands of pages need little memory, and leave the process to others", async () => {
      const lease = await leased();
      const pages = 20_000;
      let turns = 0;
      const timer = setInterval(() => turns++, 5);
      setFlagsFromString("--expose-gc");
      const collect = runInNewContext("gc") as () => void;
      /** What is still referred to. */
      const held = () => {
        collect();
        const { external, heapUsed } = process.memoryUsage();
        return external + heapUsed;
      };
      const before = held();
      let most = 0;
      await at().store.write(lease, async (transaction) => {
        for (let page = 0; page < pages; page++) {
          await transaction.putTruth(pageNumbered(page, page));
          if (page % 4 === 0) await transaction.putEntries(2, page, [entryAt(page * 64, 64, page)]);
          if (page % 2000 === 1999) most = Math.max(most, held() - before);
        }
      });
      clearInterval(timer);
      expect(turns).toBeGreaterThan(20);
      // All that is written is 63 MiB.
      expect(most).toBeLessThan(32 << 20);
      expect(await at().store.pendingCounts("vms")).toEqual(
        new Map([0, (pages / 4) * 64, 0].map((count, i) => [i + 1, count])),
      );
      let seen = 0;
      for (let page = 0; page < pages; page += 1000)
        for (const { number, identifiers: found } of await at().store.truth("vms", page, 1000)) {
          expect(number).toBe(seen++);
          if (number % 97 === 0) expect(found.equals(pageNumbered(number, number).identifiers)).toBe(true);
        }
      expect(seen).toBe(pages);
      await at().store.removeSet(lease);
    });

    test("are seen by others when they have ended, as a whole", async () => {
      await using other = await openStore(at().place.address);
      const lease = await leased();
      await at().store.write(lease, async (transaction) => {
        for (let page = 0; page < 300; page++) await transaction.putTruth(pageNumbered(page, 1));
        expect(await other.truth("vms", 0, 300)).toEqual([]);
        expect(await at().store.truth("vms", 0, 300)).toEqual([]);
        await transaction.updateSet({ generation: 1 });
        expect((await other.set("vms")).facts.generation).toBe(0);
      });
      expect((await other.truth("vms", 0, 300)).length).toBe(300);
      expect((await other.set("vms")).facts.generation).toBe(1);
    });

    test("of several stores come one after another", async () => {
      await using other = await openStore(at().place.address);
      const lease = await leased();
      const another = await leased("another");
      const add = (where: TruthStore, which: Lease) =>
        where.write(which, async (transaction) => {
          const { generation } = (await where.set(which.set)).facts;
          await transaction.updateSet({ generation: generation + 1 });
        });
      const all = Array.from({ length: 8 }, (_, i) => [
        add(i % 2 === 0 ? at().store : other, lease),
        add(i % 2 === 0 ? other : at().store, another),
      ]);
      await Promise.all(all.flat());
      expect((await at().store.sets()).map(({ generation }) => generation)).toEqual([8, 8]);
    });
  });
}
