// Sizes and times in words, over their whole range; and a buffer that is given back twice.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { BufferPool } from "../../src/base/buffer-pool.ts";
import { checkedNumber, formatBytes, formatCount, formatDuration, parseSize } from "../../src/base/units.ts";

const units = ["", "K", "M", "G", "T", "P"];

describe("sizes", () => {
  test("are a number and a power of 1024, exactly or not at all", () => {
    const written = fc.tuple(
      fc.nat(99_999),
      fc.integer({ min: 0, max: 999 }),
      fc.nat(5),
      fc.constantFrom("", "B", "iB", "ib"),
    );
    fc.assert(
      fc.property(written, fc.boolean(), ([whole, thousandths, power, tail], lower) => {
        const fraction = String(thousandths).padStart(3, "0");
        const text = `${whole}.${fraction}${units[power]}${power === 0 ? "" : tail}`;
        const exact = BigInt(whole) * 1000n + BigInt(thousandths);
        const bytes = exact * 1024n ** BigInt(power);
        const whenWhole = bytes % 1000n === 0n ? checkedNumber(bytes / 1000n) : undefined;
        expect(parseSize(lower ? text.toLowerCase() : ` ${text}`)).toBe(whenWhole);
      }),
      { numRuns: 1000 },
    );
  });

  test("a fraction that a double can't hold is still a fraction", () => {
    expect(parseSize("4503599627370496.7")).toBeUndefined();
    expect(parseSize("1.00000000000000000001K")).toBeUndefined();
    expect(parseSize("9007199254740991")).toBe(Number.MAX_SAFE_INTEGER);
    expect(parseSize("9007199254740992")).toBeUndefined();
    expect(parseSize("8P")).toBeUndefined();
  });

  test("in words are close to what they are, and never 1024 of a unit that has a larger one", () => {
    const anySize = fc.oneof(
      fc.maxSafeNat(),
      fc
        .tuple(fc.integer({ min: 10, max: 50 }), fc.integer({ min: -2000, max: 2000 }))
        .map(([bits, off]) => 2 ** bits + off),
    );
    fc.assert(
      fc.property(
        anySize.filter((bytes) => bytes >= 0),
        (bytes) => {
          const text = formatBytes(bytes);
          const [, number, unit] = /^(\d+(?:\.\d+)?) (B|KiB|MiB|GiB|TiB|PiB)$/.exec(text) ?? [];
          expect(Number(number)).toBeLessThan(1024);
          const meant = Number(number) * 1024 ** ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].indexOf(unit!);
          expect(Math.abs(meant - bytes)).toBeLessThanOrEqual(bytes * 0.005);
        },
      ),
      { numRuns: 2000 },
    );
    expect([1024 ** 2 - 1, 1024 ** 3 - 1, 1023.4 * 1024].map(formatBytes)).toEqual([
      "1.00 MiB",
      "1.00 GiB",
      "1023 KiB",
    ]);
  });

  test("counts have their thousands apart; wide wire values are numbers or nothing", () => {
    expect([0, 999, 1000, 1_048_576].map(formatCount)).toEqual(["0", "999", "1,000", "1,048,576"]);
    expect([0n, 2n ** 53n - 1n, 2n ** 53n, 2n ** 64n - 1n].map(checkedNumber)).toEqual([
      0,
      Number.MAX_SAFE_INTEGER,
      undefined,
      undefined,
    ]);
  });
});

describe("times", () => {
  test("on both sides of every limit", () => {
    expect([0, 0.994, 0.996, 9.94, 9.96, 59.4, 59.6, 3599.4, 3599.6, 86_399].map(formatDuration)).toEqual([
      "0.00 s",
      "0.99 s",
      "1.0 s",
      "9.9 s",
      "10 s",
      "59 s",
      "1 min 00 s",
      "59 min 59 s",
      "1 h 00 min",
      "23 h 59 min",
    ]);
  });

  test("are close to what they are, and never 60 of anything", () => {
    fc.assert(
      fc.property(fc.double({ min: 0, max: 500_000, noNaN: true }), (seconds) => {
        const text = formatDuration(seconds);
        const [, h, m, s] =
          /^(?:(\d+) h )?(?:(\d+) min ?)?(?:(\d+(?:\.\d+)?) s)?$/.exec(text) ?? expect.unreachable(text);
        for (const part of [m, s]) if (part !== undefined) expect(Number(part)).toBeLessThan(60);
        const meant = Number(h ?? 0) * 3600 + Number(m ?? 0) * 60 + Number(s ?? 0);
        expect(Math.abs(meant - seconds)).toBeLessThanOrEqual(h === undefined ? 0.5 : 60);
      }),
      { numRuns: 1000 },
    );
  });
});

test("a buffer that found no room when it was given back stays out, however often it comes", () => {
  const pool = new BufferPool(4096);
  const [kept, dropped] = [pool.borrow(4096), pool.borrow(4096)];
  kept.giveBack();
  dropped.giveBack(); // there is room for one
  expect(pool.borrow(100).buffer.buffer).toBe(kept.buffer.buffer);
  dropped.giveBack();
  expect(pool.borrow(4096).buffer.buffer).not.toBe(dropped.buffer.buffer);
});
