// Turns one after another, whatever becomes of them.
import { expect, test } from "vitest";
import { Loop } from "../../src/platform/loop.ts";
import { FakeClock } from "../support/fake-clock.ts";

const settled = () => new Promise((resolve) => setImmediate(resolve));

test("turns do not overlap, and pauses grow while they fail", async () => {
  const clock = new FakeClock();
  const begun: number[] = [];
  let turn = Promise.withResolvers<void>();
  const failures: unknown[] = [];
  const loop = new Loop(
    clock,
    1000,
    () => {
      begun.push(clock.monotonicMs());
      return turn.promise;
    },
    (error) => failures.push(error),
  );
  clock.advance(5000);
  expect(begun).toEqual([1000]); // it is still under way
  const end = async (error?: Error) => {
    const { resolve, reject } = turn;
    turn = Promise.withResolvers();
    if (error) reject(error);
    else resolve();
    await settled();
  };
  const pauses: number[] = [];
  const next = async (error?: Error) => {
    const before = clock.monotonicMs();
    await end(error);
    const count = begun.length;
    while (begun.length === count) clock.advance(500);
    pauses.push(begun.at(-1)! - before);
  };
  for (let i = 0; i < 8; i++) await next(new Error("EIO"));
  await next();
  expect(pauses).toEqual([2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000, 1000]);
  expect(failures).toHaveLength(8);

  let over = false;
  const ending = loop[Symbol.asyncDispose]().then(() => {
    over = true;
  });
  await settled();
  expect(over).toBe(false); // not before the turn has ended
  await end(new Error("interrupted"));
  await ending;
  expect([failures.length, clock.pending]).toEqual([8, 0]);
});

test("a turn that is woken for comes at once, or right after the one under way; after a failure it has to wait", async () => {
  const clock = new FakeClock();
  const begun: number[] = [];
  let turn = Promise.withResolvers<void>();
  const loop = new Loop(
    clock,
    1000,
    () => {
      begun.push(clock.monotonicMs());
      return turn.promise;
    },
    () => {},
  );
  const end = async (error?: Error) => {
    const { resolve, reject } = turn;
    turn = Promise.withResolvers();
    if (error) reject(error);
    else resolve();
    await settled();
  };
  loop.wake();
  loop.wake();
  clock.advance(0);
  expect(begun).toEqual([0]);
  loop.wake();
  clock.advance(100);
  expect(begun).toEqual([0]); // one at a time
  await end();
  clock.advance(0);
  expect(begun).toEqual([0, 100]);
  await end();
  clock.advance(999);
  expect(begun).toEqual([0, 100]); // what was wanted was done
  clock.advance(1);
  expect(begun).toEqual([0, 100, 1100]);
  loop.wake();
  await end(new Error("EIO"));
  loop.wake();
  clock.advance(1999);
  expect(begun).toEqual([0, 100, 1100]);
  clock.advance(1);
  expect(begun).toEqual([0, 100, 1100, 3100]);
  await end();
  await loop[Symbol.asyncDispose]();
  loop.wake();
  expect(clock.pending).toBe(0);
});
