// The small tools that everything stands on.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { orderedPipeline, Semaphore } from "../../src/base/async.ts";
import { BufferPool } from "../../src/base/buffer-pool.ts";
import { lengthOf, slicesOf } from "../../src/base/bytes.ts";
import {
  ascii,
  bits,
  constant,
  flag,
  LayoutError,
  layout,
  u8,
  u16,
  u32,
  u64,
} from "../../src/base/layout.ts";
import { formatBytes, formatDuration, parseSize } from "../../src/base/units.ts";

test("sizes as people write them", () => {
  expect(["0", "4096", "64K", "64KiB", "64kb", "1.5G", "2T"].map(parseSize)).toEqual([
    0,
    4096,
    65536,
    65536,
    65536,
    1.5 * 2 ** 30,
    2 ** 41,
  ]);
  for (const text of ["", "K", "-1", "1.0001K", "64X", "1e3", "9999999P", "0x10"])
    expect(parseSize(text)).toBeUndefined();
  expect([0, 1023, 65536, 1.5 * 2 ** 30, 5_000_000].map(formatBytes)).toEqual([
    "0 B",
    "1023 B",
    "64 KiB",
    "1.50 GiB",
    "4.77 MiB",
  ]);
  expect([0.123, 4.26, 42, 185, 7800].map(formatDuration)).toEqual([
    "0.12 s",
    "4.3 s",
    "42 s",
    "3 min 05 s",
    "2 h 10 min",
  ]);
});

describe("Semaphore", () => {
  test("never lets in more than fits, serves in order, and what is too large gets all of it", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.integer({ min: 1, max: 15 }), { maxLength: 40 }), async (wanted) => {
        const semaphore = new Semaphore(10);
        const admitted: number[] = [];
        let inside = 0;
        await Promise.all(
          wanted.map(async (units, i) => {
            const release = await semaphore.acquire(units);
            admitted.push(i);
            inside += Math.min(units, 10);
            expect(inside).toBeLessThanOrEqual(10);
            await new Promise((resolve) => setImmediate(resolve));
            inside -= Math.min(units, 10);
            release();
            release(); // a second time counts for nothing
          }),
        );
        expect(admitted).toEqual(wanted.map((_, i) => i));
        expect(semaphore.used).toBe(0);
      }),
      { numRuns: 50 },
    );
  });

  test("gives at once only what is free and what nobody waits for", async () => {
    const semaphore = new Semaphore(10);
    const first = semaphore.tryAcquire(6)!;
    expect(semaphore.tryAcquire(5)).toBeUndefined();
    const waiting = semaphore.acquire(10);
    expect(semaphore.tryAcquire(1)).toBeUndefined(); // not before the one that waits
    first();
    (await waiting)();
    const whole = semaphore.tryAcquire(99)!;
    expect(semaphore.used).toBe(10);
    whole();
    whole();
    expect(semaphore.used).toBe(0);
  });
});

describe("orderedPipeline", () => {
  const collect = async (pipeline: AsyncGenerator<number>) => {
    const results: number[] = [];
    for await (const result of pipeline) results.push(result);
    return results;
  };

  test("keeps the order, and no more under way than its depth", async () => {
    let underWay = 0;
    let most = 0;
    const pipeline = orderedPipeline(
      Array.from({ length: 30 }, (_, i) => i),
      4,
      async (i) => {
        most = Math.max(most, ++underWay);
        await new Promise((resolve) => setTimeout(resolve, (i * 7) % 5));
        underWay--;
        return i;
      },
    );
    expect(await collect(pipeline)).toEqual(Array.from({ length: 30 }, (_, i) => i));
    expect(most).toBe(4);
  });

  test("when one fails, or nobody wants more, what is under way is awaited", async () => {
    let underWay = 0;
    const work = async (i: number) => {
      underWay++;
      await new Promise((resolve) => setTimeout(resolve, 5));
      underWay--;
      if (i === 3) throw new Error("three");
      return i;
    };
    await expect(collect(orderedPipeline([1, 2, 3, 4, 5, 6], 3, work))).rejects.toThrow("three");
    expect(underWay).toBe(0);
    for await (const first of orderedPipeline([1, 2, 4, 5], 3, work)) {
      expect(first).toBe(1);
      break;
    }
    expect(underWay).toBe(0);
  });
});

test("slices are the bytes of the pieces, and nothing is copied", () => {
  fc.assert(
    fc.property(
      fc.array(fc.uint8Array({ maxLength: 9 }), { maxLength: 6 }),
      fc.nat(60),
      fc.nat(60),
      (arrays, offset, length) => {
        const pieces = arrays.map((array) => Buffer.from(array));
        const slices = slicesOf(pieces, offset, length);
        expect(Buffer.concat(slices)).toEqual(Buffer.concat(pieces).subarray(offset, offset + length));
        expect(lengthOf(slices)).toBe(Math.max(0, Math.min(length, lengthOf(pieces) - offset)));
        for (const slice of slices) expect(pieces.some((piece) => piece.buffer === slice.buffer)).toBe(true);
      },
    ),
  );
});

test("a buffer is lent to one at a time, and what lies idle is bounded", () => {
  const pool = new BufferPool(64 * 1024);
  const lent = Array.from({ length: 8 }, () => pool.borrow(16_000));
  expect(new Set(lent.map(({ buffer }) => buffer.buffer)).size).toBe(8);
  for (const { giveBack } of lent) {
    giveBack();
    giveBack();
  }
  const again = Array.from({ length: 8 }, () => pool.borrow(16_384));
  const old = new Set(lent.map(({ buffer }) => buffer.buffer));
  expect(new Set(again.map(({ buffer }) => buffer.buffer)).size).toBe(8);
  expect(again.filter(({ buffer }) => old.has(buffer.buffer)).length).toBe(4); // 64 KiB of them were kept
});

describe("layout", () => {
  const table = layout({
    name: "example",
    source: "this test",
    bytes: 24,
    fields: {
      code: constant(u8(0), 0x7f),
      high: bits(1, 7, 3),
      set: flag(1, 2),
      count: u16(2),
      word: u32(4),
      long: u64(8),
      text: ascii(16, 8),
    },
  });

  test("by hand", () => {
    const bytes = table.encode({
      high: 5,
      set: true,
      count: 0x1234,
      word: 0xdeadbeef,
      long: 0x0102030405060708n,
      text: "ab",
    });
    expect(bytes.toString("hex")).toBe("7fa41234deadbeef01020304050607086162202020202020");
    expect(table.decode(bytes)).toEqual({
      high: 5,
      set: true,
      count: 0x1234,
      word: 0xdeadbeef,
      long: 0x0102030405060708n,
      text: "ab",
    });
    expect(table.usage.toString("hex")).toBe(`ffe4${"ff".repeat(22)}`);
  });

  test("values that do not fit, constants that do not match, buffers that are short", () => {
    const bytes = table.encode({});
    for (const wrong of [
      { high: 8 },
      { high: -1 },
      { count: 65536 },
      { word: 1.5 },
      { long: 1n << 64n },
      { text: "nine char" },
      { text: "\n" },
    ]) {
      expect(() => table.encode(wrong)).toThrow(LayoutError);
    }
    expect(() => table.decode(bytes.subarray(0, 23))).toThrow(LayoutError);
    bytes[0] = 0x7e;
    expect(() => table.decode(bytes)).toThrow(expect.objectContaining({ byte: 0, bit: 7 }));
    bytes[1] = 0x18;
    expect(table.reservedBitSet(bytes)).toEqual({ byte: 1, bit: 4 });
  });

  test("fields that overlap or stick out are refused when they are declared", () => {
    const declare = (fields: Parameters<typeof layout>[0]["fields"]) => () =>
      layout({ name: "x", source: "", bytes: 4, fields });
    expect(declare({ a: u16(0), b: u8(1) })).toThrow(/overlaps/);
    expect(declare({ a: u32(1) })).toThrow(/outside/);
  });
});
