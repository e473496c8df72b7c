// Results of SUBMIT between SUBMIT and RECEIVE: whose they are, how many there may be, how long they stay.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { HeldResults } from "../../src/target/held-results.ts";
import { FakeClock } from "../support/fake-clock.ts";

/** Of a task that nobody aborts. */
const on = new AbortController().signal;

const limits = { results: 3, bytes: 100, lifetimeMs: 60_000 };
const make = () => {
  const clock = new FakeClock();
  return { clock, held: new HeldResults(limits, clock) };
};
const result = (text: string) => Promise.resolve(Buffer.from(text));

/** What a promise is by now: its value, or "waiting". */
const now = async <T>(promise: Promise<T>): Promise<T | "waiting"> => {
  await new Promise((resolve) => setImmediate(resolve));
  return Promise.race([promise, Promise.resolve("waiting" as const)]);
};

test("a result is received once", async () => {
  const { clock, held } = make();
  held.hold(7, 10, result("seven"));
  expect((await held.take(7, on))?.toString()).toBe("seven");
  expect(clock.pending).toBe(0);
  const again = held.take(7, on);
  expect(await now(again)).toBe("waiting");
  clock.advance(limits.lifetimeMs);
  expect(await again).toBeUndefined();
});

test("a RECEIVE that comes first waits for its SUBMIT, and for no other", async () => {
  const { clock, held } = make();
  const taken = held.take(7, on);
  held.hold(8, 1, result("eight"));
  expect(await now(taken)).toBe("waiting");
  held.hold(7, 1, result("seven"));
  expect((await taken)?.toString()).toBe("seven");
  expect((await held.take(8, on))?.toString()).toBe("eight");
  expect(clock.pending).toBe(0);
});

test("it waits as long as a result would be held, or until the SUBMIT failed", async () => {
  const { clock, held } = make();
  const [late, failed] = [held.take(1, on), held.take(2, on)];
  held.fail(2);
  expect(await failed).toBeUndefined();
  clock.advance(limits.lifetimeMs - 1);
  expect(await now(late)).toBe("waiting");
  clock.advance(1);
  expect(await late).toBeUndefined();
  held.fail(3); // nobody waits for it
});

test("a result under way is waited for; one that fails is given to its RECEIVE", async () => {
  const { held } = make();
  const { promise, resolve } = Promise.withResolvers<Buffer>();
  held.hold(1, 1, promise);
  const taken = held.take(1, on);
  expect(await now(taken)).toBe("waiting");
  resolve(Buffer.from("done"));
  expect((await taken)?.toString()).toBe("done");
  for (const first of ["hold", "take"] as const) {
    const waits = first === "take" ? held.take(2, on) : undefined;
    held.hold(2, 1, Promise.reject(new Error("bad sector")));
    await expect(waits ?? held.take(2, on)).rejects.toThrow("bad sector");
  }
});

test("one that nobody receives goes after its time, and frees its room; its failure troubles nobody", async () => {
  const { clock, held } = make();
  held.hold(1, 60, result("one"));
  clock.advance(1000);
  held.hold(2, 40, Promise.reject(new Error("nobody asked")));
  expect(held.admit(3, 1)).toBe("full");
  clock.advance(limits.lifetimeMs - 1000);
  expect(held.admit(3, 60)).toBe("admitted");
  expect(held.admit(3, 61)).toBe("full");
  clock.advance(1000);
  expect(held.admit(3, 100)).toBe("admitted");
  expect(clock.pending).toBe(0);
});

describe("bounds", () => {
  test("identifiers in use, too many results, too many bytes", () => {
    const { held } = make();
    held.hold(1, 10, result(""));
    expect(held.admit(1, 1)).toBe("in use");
    expect([held.admit(2, 90), held.admit(2, 91)]).toEqual(["admitted", "full"]);
    held.hold(2, 0, result(""));
    held.hold(3, 0, result(""));
    expect(held.admit(4, 0)).toBe("full");
  });

  test("no more RECEIVEs wait than there may be results, and one for each identifier", async () => {
    const { clock, held } = make();
    const waiting = [held.take(1, on), held.take(2, on), held.take(3, on)];
    expect(await held.take(1, on)).toBeUndefined();
    expect(await held.take(4, on)).toBeUndefined();
    held.clear();
    expect(await Promise.all(waiting)).toEqual([undefined, undefined, undefined]);
    expect(clock.pending).toBe(0);
  });
});

test("clear() lets go of everything", async () => {
  const { clock, held } = make();
  held.hold(1, 100, result("one"));
  const waiting = held.take(2, on);
  held.clear();
  expect(await waiting).toBeUndefined();
  expect([held.admit(1, 100), clock.pending]).toEqual(["admitted", 0]);
});

test("whatever comes in whatever order: each result to one RECEIVE or to none, and the bounds hold", async () => {
  const step = fc.oneof(
    fc.record({ kind: fc.constant("submit" as const), id: fc.nat(4), bytes: fc.nat(60) }),
    fc.record({ kind: fc.constant("receive" as const), id: fc.nat(4), bytes: fc.constant(0) }),
    fc.record({ kind: fc.constant("wait" as const), id: fc.nat(70_000), bytes: fc.constant(0) }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      const { clock, held } = make();
      const holding = new Map<number, { bytes: number; untilMs: number; serial: string }>();
      const waiting = new Map<number, number>();
      const expected: (string | undefined)[] = [];
      const got: Promise<Buffer | undefined>[] = [];
      const answers = new Map<number, number>();
      for (const [i, { kind, id, bytes }] of steps.entries()) {
        const room = [...holding.values()].reduce((sum, each) => sum - each.bytes, limits.bytes);
        if (kind === "submit") {
          const should = holding.has(id)
            ? "in use"
            : holding.size === 3 || bytes > room
              ? "full"
              : "admitted";
          expect(held.admit(id, bytes)).toBe(should);
          if (should !== "admitted") continue;
          held.hold(id, bytes, result(`${i}`));
          const at = answers.get(id);
          if (waiting.delete(id)) expected[at!] = `${i}`;
          else holding.set(id, { bytes, untilMs: clock.monotonicMs() + limits.lifetimeMs, serial: `${i}` });
        } else if (kind === "receive") {
          answers.set(id, waiting.has(id) ? answers.get(id)! : got.length);
          expected.push(holding.get(id)?.serial);
          got.push(held.take(id, on));
          if (!holding.delete(id) && !waiting.has(id) && waiting.size < 3)
            waiting.set(id, clock.monotonicMs() + limits.lifetimeMs);
        } else {
          await now(Promise.resolve()); // lets go of the timers of what was received
          clock.advance(id);
          for (const [key, { untilMs }] of holding) if (untilMs <= clock.monotonicMs()) holding.delete(key);
          for (const [key, untilMs] of waiting) if (untilMs <= clock.monotonicMs()) waiting.delete(key);
        }
      }
      await now(Promise.resolve());
      expect(clock.pending).toBe(holding.size + waiting.size);
      clock.advance(limits.lifetimeMs);
      expect((await Promise.all(got)).map((each) => each?.toString())).toEqual(expected);
    }),
    { numRuns: 400 },
  );
});
