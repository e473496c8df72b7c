// What was decided comes back as it was, whatever the temporary file does with its calls; or it is said that it does not.
import { expect, test } from "vitest";
import { SystemError } from "../../src/platform/errno.ts";
import { Spool, type SpoolFile } from "../../src/sets/spool.ts";
import { below, bytesOf, randomOf } from "../support/data.ts";

const pieces = (random: () => number) =>
  Array.from({ length: 1 + below(random, 5) }, () => ({ bytes: bytesOf(random, below(random, 3000)) }));

async function back<T>(spool: Spool<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const piece of spool) found.push(piece);
  return found;
}

/** A file that does a part of what it is asked for. */
function lazyFile(random: () => number): SpoolFile & { bytes: Buffer } {
  const some = (length: number) => (length > 1 ? 1 + below(random, length) : length);
  return {
    bytes: Buffer.alloc(0),
    async write(buffer, offset, length, at) {
      const bytesWritten = some(length);
      const next = Buffer.alloc(Math.max(this.bytes.length, at + bytesWritten));
      this.bytes.copy(next);
      buffer.copy(next, at, offset, offset + bytesWritten);
      this.bytes = next;
      return { bytesWritten };
    },
    async read(buffer, offset, length, at) {
      return { bytesRead: this.bytes.copy(buffer, offset, at, at + some(length)) };
    },
    close: async () => {},
  };
}

test("comes back from the temporary folder, and from a file that does its work piece by piece", async () => {
  for (let seed = 1; seed <= 200; seed++) {
    const random = randomOf(seed);
    const file = lazyFile(random);
    for (const make of [undefined, async () => file]) {
      if (make === undefined && seed > 5) continue;
      await using spool = new Spool<{ bytes: Uint8Array }>(make);
      const added = pieces(random);
      for (const piece of added) await spool.add(piece);
      const found = await back(spool);
      expect([seed, found.map(({ bytes }) => Buffer.from(bytes))]).toEqual([
        seed,
        added.map(({ bytes }) => bytes),
      ]);
    }
  }
});

test("a medium that fails, and one that has lost or changed something, are told as such", async () => {
  const random = randomOf(1);
  const cases: readonly ((file: ReturnType<typeof lazyFile>) => void)[] = [
    (file) =>
      (file.read = async () => {
        throw new SystemError(5);
      }),
    (file) => (file.bytes = file.bytes.subarray(0, file.bytes.length - 1)),
    (file) => (file.bytes[5 + below(random, 100)]! ^= 1),
    (file) => file.bytes.fill(0),
  ];
  for (const [i, harm] of cases.entries()) {
    const file = lazyFile(random);
    await using spool = new Spool<unknown>(async () => file);
    await spool.add({ bytes: bytesOf(random, 300) });
    harm(file);
    const error = await back(spool).catch((thrown: unknown) => thrown);
    expect([i, error]).toEqual([
      i,
      expect.objectContaining({
        code: "io_error",
        message: expect.stringMatching(/Cannot read .* decided.*run again/s),
      }),
    ]);
  }
});
