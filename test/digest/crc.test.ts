// crc32c() and isZero(), which every PDU and many blocks pass through.
import { describe, expect, test } from "vitest";
import { crc32c, isZero } from "../../src/platform/native-digest.ts";
import { bytesFrom, crc32cBitwise, numbersFrom } from "./reference.ts";

describe("crc32c", () => {
  // RFC 7143 A.4 (RFC 3720 B.4) writes the CRC as it stands on the wire, the least significant byte first.
  const onTheWire = (hex: string): number => Buffer.from(hex.replaceAll(" ", ""), "hex").readUInt32LE();

  test.each([
    ["32 bytes of zeros", Buffer.alloc(32), "aa 36 91 8a"],
    ["32 bytes of ones", Buffer.alloc(32, 0xff), "43 ab a8 62"],
    [
      "32 bytes counting up from 00h to 1Fh",
      Buffer.from(Array.from({ length: 32 }, (_, i) => i)),
      "4e 79 dd 46",
    ],
    [
      "32 bytes counting down from 1Fh to 00h",
      Buffer.from(Array.from({ length: 32 }, (_, i) => 31 - i)),
      "5c db 3f 11",
    ],
    [
      "an iSCSI READ (10) command PDU",
      Buffer.from(
        "01c00000000000000000000000000000140000000000040000000014000000182800000000000000" +
          "0200000000000000",
        "hex",
      ),
      "56 3a 96 d9",
    ],
  ])("%s", (_name, data, wire) => {
    expect(crc32c(data)).toBe(onTheWire(wire));
    expect(crc32cBitwise(data)).toBe(onTheWire(wire));
  });

  test("nothing, and the catalogue's check value", () => {
    expect(crc32c(Buffer.alloc(0))).toBe(0);
    expect(crc32c(Buffer.from("123456789"))).toBe(0xe3069283);
  });

  test("goes on from any place", () => {
    const next = numbersFrom(7);
    const data = bytesFrom(next, 20000);
    const whole = crc32cBitwise(data);
    for (let round = 0; round < 300; round++) {
      let crc: number | undefined;
      for (let at = 0; at < data.length; ) {
        const piece = round % 2 === 0 ? next(5000) : next(100);
        crc = crc32c(data.subarray(at, at + piece), crc);
        at += piece;
      }
      expect(crc).toBe(whole);
    }
    expect(crc32c(data, 0)).toBe(whole);
    expect(crc32c(data, undefined)).toBe(whole);
  });

  test("refuses what is no Uint8Array, and a seed that is no number", () => {
    expect(() => crc32c("text" as unknown as Uint8Array)).toThrow(TypeError);
    expect(() => crc32c(new Uint32Array(4) as unknown as Uint8Array)).toThrow(TypeError);
    expect(() => crc32c(Buffer.alloc(1), "1" as unknown as number)).toThrow(TypeError);
  });
});

describe("isZero", () => {
  test("finds one bit anywhere, in any length and alignment", () => {
    const data = Buffer.alloc(1500);
    for (let length = 0; length < 700; length += length < 70 ? 1 : 37) {
      for (const shift of [0, 1, 13]) {
        const part = data.subarray(shift, shift + length);
        expect(isZero(part)).toBe(true);
        for (let at = 0; at < length; at += length < 70 ? 1 : 11) {
          part[at] = 0x80;
          expect(isZero(part), `${at} of ${length}`).toBe(false);
          part[at] = 0;
        }
        data[shift + length] = 1; // behind the end does not matter
        expect(isZero(part)).toBe(true);
        data[shift + length] = 0;
      }
    }
  });

  test("refuses what is no Uint8Array", () => {
    expect(() => isZero([0] as unknown as Uint8Array)).toThrow(TypeError);
  });
});
