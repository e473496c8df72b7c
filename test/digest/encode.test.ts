// AES-128 on both paths and the encoding of identifiers: FIPS 197, node:crypto and the TypeScript reference.
import { createCipheriv } from "node:crypto";
import { describe, expect, test } from "vitest";
import { decodeWithIdentifier, encodeIdentifier } from "../../src/digest/encoding.ts";
import { aesBlocks, encodeIdentifiers } from "../../src/platform/native-digest.ts";
import { bytesFrom, numbersFrom } from "./reference.ts";

const fromHex = (hex: string): Buffer => Buffer.from(hex.replaceAll(" ", ""), "hex");

describe.each([
  { path: "the CPU's best path", portable: false },
  { path: "the portable path", portable: true },
])("$path", ({ portable }) => {
  test.each([
    // FIPS 197 appendix B and C.1
    [
      "2b7e151628aed2a6abf7158809cf4f3c",
      "3243f6a8885a308d313198a2e0370734",
      "3925841d02dc09fbdc118597196a0b32",
    ],
    [
      "000102030405060708090a0b0c0d0e0f",
      "00112233445566778899aabbccddeeff",
      "69c4e0d86a7b0430d8cdb78070b4c55a",
    ],
  ])("FIPS 197: key %s", (key, plain, cipher) => {
    for (const count of [1, 4, 5]) {
      const keys = fromHex(key.repeat(count));
      const encrypted = aesBlocks(keys, fromHex(plain.repeat(count)), false, portable);
      expect(encrypted.toString("hex")).toBe(cipher.repeat(count));
      expect(aesBlocks(keys, encrypted, true, portable).toString("hex")).toBe(plain.repeat(count));
    }
  });

  test("AES-128 with a key for each block", () => {
    const next = numbersFrom(3);
    for (let count = 0; count <= 40; count++) {
      const keys = bytesFrom(next, 16 * count);
      const blocks = bytesFrom(next, 16 * count);
      const expected = Buffer.alloc(16 * count);
      for (let at = 0; at < expected.length; at += 16) {
        const cipher = createCipheriv("aes-128-ecb", keys.subarray(at, at + 16), null).setAutoPadding(false);
        cipher.update(blocks.subarray(at, at + 16)).copy(expected, at);
      }
      expect(aesBlocks(keys, blocks, false, portable).equals(expected)).toBe(true);
      expect(aesBlocks(keys, expected, true, portable).equals(blocks)).toBe(true);
    }
  });

  test("encoding of identifiers of any width, as the reference has it", () => {
    const next = numbersFrom(5);
    for (const width of [4, 8, 16, 20, 32, 36, 64, 80, 1024]) {
      for (const count of [1, 3, 16, 65, 130]) {
        const identifiers = bytesFrom(next, width * count);
        const blocks = bytesFrom(next, 16 * count);
        const parts = Array.from({ length: count }, (_, i) => ({
          identifier: identifiers.subarray(i * width, (i + 1) * width),
          block: blocks.subarray(16 * i, 16 * i + 16),
        }));
        const encoded = Buffer.concat(parts.map((part) => encodeIdentifier(part.identifier, part.block)));
        const decoded = Buffer.concat(parts.map((part) => decodeWithIdentifier(part.identifier, part.block)));
        expect(encodeIdentifiers(identifiers, width, blocks, false, portable).equals(encoded)).toBe(true);
        expect(encodeIdentifiers(identifiers, width, blocks, true, portable).equals(decoded)).toBe(true);
        expect(encodeIdentifiers(identifiers, width, encoded, true, portable).equals(blocks)).toBe(true);
      }
    }
  });
});

test("what does not fit together is refused", () => {
  expect(() => aesBlocks(Buffer.alloc(16), Buffer.alloc(32), false)).toThrow(TypeError);
  expect(() => aesBlocks(Buffer.alloc(8), Buffer.alloc(8), false)).toThrow(TypeError);
  expect(() => encodeIdentifiers(Buffer.alloc(31), 16, Buffer.alloc(32), false)).toThrow(TypeError);
});
