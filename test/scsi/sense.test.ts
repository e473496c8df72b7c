// Sense data by SPC-4's figures, and T10's words as sg3_utils has them.
import { execFileSync } from "node:child_process";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  decodeSense,
  describeSense,
  encodeSense,
  isCondition,
  type Sense,
  sense,
} from "../../src/scsi/sense.ts";

const hex = (value: Sense, descriptor: boolean) => encodeSense(value, descriptor).toString("hex");
const spaced = (text: string) => text.replaceAll(" ", "");

// SPC-4, 4.5.3 (fixed format) and 4.5.2 (descriptor format), byte by byte.
describe("by hand", () => {
  test.each<[string, Sense, string, string]>([
    [
      "a key and a code",
      sense("nexusLoss"),
      "70 00 06 00000000 0a 00000000 29 07 00 000000",
      "72 06 29 07 000000 00",
    ],
    [
      "INFORMATION",
      sense("unrecoveredReadError", { information: 0x01020304 }),
      "f0 00 03 01020304 0a 00000000 11 00 00 000000",
      "72 03 11 00 000000 0c 00 0a 80 00 0000000001020304",
    ],
    [
      "COMMAND-SPECIFIC INFORMATION",
      sense("miscompare", { information: 0x01020304, commandSpecific: 0x0506 }),
      "f0 00 0e 01020304 0a 00000506 1d 00 00 000000",
      "72 0e 1d 00 000000 18 00 0a 80 00 0000000001020304 01 0a 00 00 0000000000000506",
    ],
    [
      "a field of the CDB",
      sense("invalidFieldInCdb", { fieldPointer: { cdb: true, byte: 0x0102 } }),
      "70 00 05 00000000 0a 00000000 24 00 00 c00102",
      "72 05 24 00 000000 08 02 06 0000 c00102 00",
    ],
    [
      "a bit of the parameter list",
      sense("invalidFieldInParameterList", { fieldPointer: { cdb: false, byte: 7, bit: 5 } }),
      "70 00 05 00000000 0a 00000000 26 00 00 8d0007",
      "72 05 26 00 000000 08 02 06 0000 8d0007 00",
    ],
    [
      "a deferred error",
      sense("writeError", { deferred: true }),
      "71 00 03 00000000 0a 00000000 0c 00 00 000000",
      "73 03 0c 00 000000 00",
    ],
  ])("%s", (_what, value, fixed, descriptor) => {
    expect([hex(value, false), hex(value, true)]).toEqual([spaced(fixed), spaced(descriptor)]);
    for (const text of [fixed, descriptor])
      expect(decodeSense(Buffer.from(spaced(text), "hex"))).toMatchObject(value);
  });

  test("INFORMATION of more than 32 bits takes the descriptor format, whatever is asked for", () => {
    expect(hex(sense("unrecoveredReadError", { information: 2 ** 40 }), false)).toBe(
      spaced("72 03 11 00 000000 0c 00 0a 80 00 0000010000000000"),
    );
  });

  test("other descriptors are passed over; one that is cut off ends the list", () => {
    const vendor = "80 02 aaaa";
    const information = "00 0a 80 00 0000000000001000";
    const whole = Buffer.from(spaced(`72 03 11 00 000000 10 ${vendor} ${information}`), "hex");
    expect(decodeSense(whole)?.information).toBe(4096);
    expect(decodeSense(whole.subarray(0, -1))).toMatchObject({ key: 3, asc: 0x11, information: undefined });
  });

  test("filemark, EOM, ILI and SDAT_OVFL are no part of the key", () => {
    const bytes = Buffer.from(spaced("70 00 e5 00000000 0a 00000000 24 00 00 000000"), "hex");
    expect(decodeSense(bytes)).toMatchObject({ key: 5, asc: 0x24 });
  });
});

test("truncated to its key and code, either format still says why (REQUEST SENSE of few bytes)", () => {
  const value = sense("spaceAllocationFailed");
  expect(decodeSense(encodeSense(value, false).subarray(0, 14))).toMatchObject(value);
  expect(decodeSense(encodeSense(value, false).subarray(0, 3))).toMatchObject({ key: 7, asc: 0, ascq: 0 });
  for (const bytes of [4, 7, 8]) {
    expect(decodeSense(encodeSense(value, true).subarray(0, bytes))).toMatchObject(value);
  }
  expect(decodeSense(encodeSense(value, true).subarray(0, 3))).toBeUndefined();
  expect(decodeSense(Buffer.alloc(0))).toBeUndefined();
  for (const code of [0x00, 0x6f, 0x74, 0x7f]) expect(decodeSense(Buffer.alloc(18, code))).toBeUndefined();
});

test("a sense is a condition if key and both codes are", () => {
  const value = sense("nexusLoss");
  expect(isCondition(value, "nexusLoss")).toBe(true);
  for (const other of [{ key: 5 }, { asc: 0x2a }, { ascq: 0 }])
    expect(isCondition({ ...value, ...other }, "nexusLoss")).toBe(false);
  expect(isCondition(undefined, "nexusLoss")).toBe(false);
});

test("whatever bytes: what is decoded is encoded and decoded to the same", () => {
  const codes = fc.constantFrom(0x70, 0xf0, 0x71, 0xf1, 0x72, 0x73);
  fc.assert(
    fc.property(codes, fc.uint8Array({ maxLength: 60 }), fc.boolean(), (code, rest, descriptor) => {
      const bytes = Buffer.from([code, ...rest]);
      const value = decodeSense(bytes);
      if (!value) {
        expect(bytes.length).toBeLessThan(4);
        return;
      }
      if (value.fieldPointer) expect(value.key).toBe(5);
      expect(decodeSense(encodeSense(value, descriptor))).toEqual(value);
    }),
    { numRuns: 2000 },
  );
});

/** All codes that describeSense() has words for. */
const worded: [string, string][] = [];
for (let code = 0; code < 0x10000; code++) {
  const [, words] =
    /^ILLEGAL REQUEST, (.+) \(5\//.exec(describeSense({ key: 5, asc: code >> 8, ascq: code & 0xff })) ?? [];
  if (words !== undefined) worded.push([code.toString(16).padStart(4, "0"), words]);
}

test("the words for ASC and ASCQ are those of sg3_utils", () => {
  expect(worded.length).toBeGreaterThan(40);
  const plain = (text: string) =>
    text
      .toLowerCase()
      .replace(/[^a-z0-9]+/g, " ")
      .trim();
  const differing: string[] = [];
  for (const [code, words] of worded) {
    const bytes = ["72", "05", code.slice(0, 2), code.slice(2), "00", "00", "00", "00"];
    const [, theirs] = /Additional sense: (.+)/.exec(execFileSync("sg_decode_sense", bytes).toString()) ?? [];
    if (plain(words) !== plain(theirs ?? "")) differing.push(`${code}: ${words} / ${theirs}`);
  }
  expect(differing).toEqual([]);
});

test("INFORMATION and field pointers as sg_decode_sense reads them", () => {
  const read = (value: Sense, descriptor: boolean) =>
    execFileSync(
      "sg_decode_sense",
      [...encodeSense(value, descriptor)].map((byte) => byte.toString(16).padStart(2, "0")),
    ).toString();
  for (const descriptor of [false, true]) {
    expect(read(sense("unrecoveredReadError", { information: 0xabcdef }), descriptor)).toMatch(/abcdef/i);
    const pointer = { cdb: true, byte: 12, bit: 3 };
    expect(read(sense("invalidFieldInCdb", { fieldPointer: pointer }), descriptor)).toMatch(
      /Error in Command.*byte 12 bit 3/i,
    );
    const list = { cdb: false, byte: 300 };
    expect(read(sense("invalidFieldInParameterList", { fieldPointer: list }), descriptor)).toMatch(
      /Error in Data.*byte 300/i,
    );
  }
});
