// Nobody waits long for one of several: that of which others have to wait goes on by itself.
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { expect, test } from "vitest";
import { punctual } from "../../src/sets/punctual.ts";
import { openSqliteStore } from "../../src/truth/sqlite-store.ts";
import type { DigestWindow } from "../../src/volume/volume.ts";
import { bytesOf, randomOf } from "../support/data.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { WorkFolder } from "../support/lunsync.ts";
import { made, run } from "./fixture.ts";

test("what is late is known a while after another one was done, and after what is needed", async () => {
  const clock = new FakeClock();
  const [needed, first, second] = [0, 1, 2].map(() => Promise.withResolvers<string>());
  const late: number[] = [];
  const all = punctual([first!.promise, second!.promise], needed!.promise, { clock, ms: 100 }, (k) => {
    late.push(k);
    return "late";
  });
  const settle = () => new Promise((resolve) => setImmediate(resolve));
  first!.resolve("first");
  await settle();
  clock.advance(1000);
  await settle();
  expect(late).toEqual([]); // what is needed is not there yet
  needed!.resolve("");
  await settle();
  clock.advance(99);
  await settle();
  expect(late).toEqual([]);
  clock.advance(1);
  expect(await all).toEqual(["first", "late"]);
  expect(late).toEqual([1]);
});

test("a single one is waited for, and so are all without patience", async () => {
  const clock = new FakeClock();
  const one = Promise.withResolvers<string>();
  const alone = punctual([one.promise], Promise.resolve(), { clock, ms: 1 }, () => "late");
  const both = punctual([one.promise, Promise.resolve("two")], Promise.resolve(), undefined, () => "late");
  await new Promise((resolve) => setImmediate(resolve));
  clock.advance(1000);
  one.resolve("one");
  expect([await alone, await both]).toEqual([["one"], ["one", "two"]]);
  await expect(
    punctual([Promise.reject(new Error("x")), Promise.resolve(1)], Promise.resolve(), undefined, () => 2),
  ).rejects.toThrow("x");
});

test("a replica that hangs while it is asked does not keep the others, and gets what it lacks when they are done", async () => {
  await using folder = await WorkFolder.make();
  await using store = await openSqliteStore(join(folder.path, "truth.sqlite"));
  const world = await made(randomOf(9), store); // of several replicas
  await run(world);
  world.source.change(0, bytesOf(randomOf(10), world.source.cache.length));
  const [slow, ...others] = world.replicas;
  expect(others.length).toBeGreaterThan(0);
  const holds = (replica: (typeof world.replicas)[number]) => replica.medium.equals(world.source.cache);
  let wasWaitedFor: boolean | undefined;
  const hangs = async () => {
    while (!others.every(holds)) await pause(5);
    wasWaitedFor = false;
  };
  const encode = slow!.encodeDigests.bind(slow);
  let asked = 0;
  slow!.encodeDigests = async (window: DigestWindow) => {
    if (asked++ === 0) await hangs();
    return encode(window);
  };
  const result = await run(world);
  expect(wasWaitedFor).toBe(false);
  expect(result.replicas.map(({ state, pending }) => [state, pending])).toEqual(
    world.replicas.map(() => ["in step", 0]),
  );
  expect(world.replicas.every(holds)).toBe(true);
});
