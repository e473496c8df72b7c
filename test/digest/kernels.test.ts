// Every kernel of every algorithm that this CPU can run: published vectors; node:crypto or the bitwise
// definition for any number of messages, any length and any slices.
import { describe, expect, test } from "vitest";
import { digestKernels, digestMessages } from "../../src/platform/native-digest.ts";
import { type AlgorithmName, algorithmNames, bytesFrom, numbersFrom, referenceDigest } from "./reference.ts";

const million = Buffer.alloc(1_000_000, "a");
const fips2 = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
const fips4 =
  "abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmn" +
  "hijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu";
const digits8 = "1234567890".repeat(8);

// RFC 1321 A.5; FIPS 180 examples; the "check" of the CRC catalogue.
const vectors: readonly (readonly [AlgorithmName, string | Buffer, string])[] = [
  ["md5", "", "d41d8cd98f00b204e9800998ecf8427e"],
  ["md5", "a", "0cc175b9c0f1b6a831c399e269772661"],
  ["md5", "abc", "900150983cd24fb0d6963f7d28e17f72"],
  ["md5", "message digest", "f96b697d7cb7938d525a2f31aaf161d0"],
  ["md5", "abcdefghijklmnopqrstuvwxyz", "c3fcd3d76192e4007dfb496cca67e13b"],
  [
    "md5",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
    "d174ab98d277d9f5a5611c2c9f419d9f",
  ],
  ["md5", digits8, "57edf4a22be3c955ac49da2e2107b67a"],
  ["sha1", "abc", "a9993e364706816aba3e25717850c26c9cd0d89d"],
  ["sha1", fips2, "84983e441c3bd26ebaae4aa1f95129e5e54670f1"],
  ["sha1", million, "34aa973cd4c4daa4f61eeb2bdbad27316534016f"],
  ["sha256", "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"],
  ["sha256", fips2, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"],
  ["sha256", million, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"],
  [
    "sha512",
    "abc",
    "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a" +
      "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
  ],
  [
    "sha512",
    fips4,
    "8e959b75dae313da8cf4f72814fc143f8f7779c6eb9f7fa17299aeadb6889018" +
      "501d289e4900f7e4331b99dec4b5433ac7d329eeb6dd26545e96e55b874be909",
  ],
  [
    "sha512",
    million,
    "e718483d0ce769644e2e42c7bc15b4638e1f98b13b2044285632a803afa973eb" +
      "de0ff244877ea60a4cb0432ce577c31beb009c5c2c49aa2e4eadb217ad8cc09b",
  ],
  ["crc32c", "123456789", "e3069283"],
  ["crc64", "123456789", "995dc9bbdf1939fa"],
];

const kernels = digestKernels();
const cases = kernels.flatMap((entry, number) =>
  entry.available.map((kernel) => ({ name: algorithmNames[number]!, number, kernel, lanes: entry.lanes })),
);

test("the addon has the algorithms in the order of their numbers, and every one a portable kernel", () => {
  expect(kernels.map((entry) => entry.algorithm)).toEqual([...algorithmNames]);
  for (const entry of kernels) {
    expect(entry.available.at(-1)).toBe("portable");
    expect(entry.available[0]).toBe(entry.chosen);
  }
  expect(kernels.map((entry) => entry.digestBytes)).toEqual([16, 20, 32, 64, 4, 8]);
});

describe.each(cases)("$name, $kernel", ({ name, number, kernel }) => {
  const isCrc = name.startsWith("crc");

  test("published vectors, in a lane alone and in all of them", () => {
    for (const [algorithm, text, digest] of vectors) {
      if (algorithm !== name) continue;
      const message = Buffer.from(text);
      for (const lanes of [1, 2, 19]) {
        const messages: Buffer[] = Array(lanes).fill(message);
        expect(digestMessages(number, kernel, messages, 65536).toString("hex")).toBe(digest.repeat(lanes));
      }
    }
  });

  test("every number of messages up to beyond two full registers", () => {
    const next = numbersFrom(1 + number);
    for (let lanes = 1; lanes <= (isCrc ? 3 : 70); lanes++) {
      const messages = Array.from({ length: lanes }, () => bytesFrom(next, 200));
      const expected = Buffer.concat(messages.map((message) => referenceDigest(name, message)));
      expect(digestMessages(number, kernel, messages, 128).equals(expected), `${lanes} messages`).toBe(true);
    }
  });

  test("every length around the blocks' and the folding steps' boundaries", () => {
    const next = numbersFrom(100 + number);
    const whole = [0, 1, 2].map(() => bytesFrom(next, 700));
    for (let length = 0; length <= 700; length++) {
      if (length > 300 && length < 500) continue;
      const messages = whole.map((message) => message.subarray(0, length));
      const expected = Buffer.concat(messages.map((message) => referenceDigest(name, message)));
      expect(digestMessages(number, kernel, messages, 8192).equals(expected), `${length} bytes`).toBe(true);
    }
  });

  test("random lengths, lanes, slices and alignments", () => {
    const next = numbersFrom(1000 + number);
    for (let round = 0; round < (isCrc ? 60 : 120); round++) {
      const lanes = 1 + next(isCrc ? 4 : 50);
      const length = next(isCrc ? 9000 : 6000);
      const slice = 128 * (1 + next(24));
      const messages = Array.from({ length: lanes }, () => {
        const shift = next(64);
        return bytesFrom(next, length + shift).subarray(shift);
      });
      const expected = Buffer.concat(messages.map((message) => referenceDigest(name, message)));
      expect(
        digestMessages(number, kernel, messages, slice).equals(expected),
        `${lanes} × ${length} in slices of ${slice}`,
      ).toBe(true);
    }
  });
});

test("what cannot be digested is refused", () => {
  const message = Buffer.alloc(8);
  expect(() => digestMessages(6, null, [message], 128)).toThrow(TypeError);
  expect(() => digestMessages(0, "no such kernel", [message], 128)).toThrow(TypeError);
  expect(() => digestMessages(0, null, [message], 100)).toThrow(TypeError);
  expect(() => digestMessages(0, null, [message, Buffer.alloc(9)], 128)).toThrow(TypeError);
  expect(digestMessages(0, null, [], 128).length).toBe(0);
});
