// Every key of RFC 7143, section 13: its default, its range, its result function, in both roles.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  defaultParameters,
  Negotiation,
  NegotiationError,
  type OperationalKey,
  type Wishes,
} from "../../src/iscsi/negotiation.ts";
import {
  decodeText,
  decodeTextList,
  encodeText,
  parseBinary,
  parseNumber,
  TextError,
  type TextPairs,
} from "../../src/iscsi/text.ts";

// Written from RFC 7143, 13 (and RFC 7144 for the last two of the numbers), not from the code.
const numbers: Record<string, { range: [number, number]; initial: number; result: "min" | "max" }> = {
  MaxConnections: { range: [1, 65535], initial: 1, result: "min" },
  MaxBurstLength: { range: [512, 2 ** 24 - 1], initial: 262144, result: "min" },
  FirstBurstLength: { range: [512, 2 ** 24 - 1], initial: 65536, result: "min" },
  MaxOutstandingR2T: { range: [1, 65535], initial: 1, result: "min" },
  DefaultTime2Wait: { range: [0, 3600], initial: 2, result: "max" },
  DefaultTime2Retain: { range: [0, 3600], initial: 20, result: "min" },
  ErrorRecoveryLevel: { range: [0, 2], initial: 0, result: "min" },
  iSCSIProtocolLevel: { range: [0, 31], initial: 1, result: "min" },
};
const booleans: Record<string, { initial: boolean; result: "and" | "or" }> = {
  InitialR2T: { initial: true, result: "or" },
  ImmediateData: { initial: true, result: "and" },
  DataPDUInOrder: { initial: true, result: "or" },
  DataSequenceInOrder: { initial: true, result: "or" },
};
const yesNo = (value: boolean) => (value ? "Yes" : "No");
const combine = (key: string, a: boolean, b: boolean) => (booleans[key]!.result === "and" ? a && b : a || b);
const wish = (key: string, value: unknown) => ({ [key]: value }) as Wishes;
const agreed = (side: Negotiation, key: string) => side.parameters[key as OperationalKey];

test("defaults", () => {
  const expected = Object.fromEntries(
    [...Object.entries(numbers), ...Object.entries(booleans)].map(([key, { initial }]) => [key, initial]),
  );
  expect(defaultParameters()).toEqual({
    ...expected,
    HeaderDigest: "None",
    DataDigest: "None",
    MaxRecvDataSegmentLength: 8192,
    TaskReporting: "RFC3720",
    IFMarker: false,
    OFMarker: false,
  });
});

describe.each(Object.entries(numbers))("%s", (key, { range: [least, most], initial, result }) => {
  const value = fc.oneof(fc.integer({ min: least, max: most }), fc.constantFrom(least, most));

  test("the responder computes the result, of its wish or of the default", () => {
    fc.assert(
      fc.property(value, fc.option(value, { nil: undefined }), fc.boolean(), (theirs, ours, asHex) => {
        const side = new Negotiation(ours === undefined ? {} : wish(key, ours));
        const right = Math[result](theirs, ours ?? initial);
        expect(side.receive([[key, asHex ? `0x${theirs.toString(16)}` : String(theirs)]])).toEqual([
          [key, String(right)],
        ]);
        expect(agreed(side, key)).toBe(right);
      }),
    );
  });

  test("the offering side takes what the function allows, and nothing else", () => {
    fc.assert(
      fc.property(value, value, (ours, answer) => {
        const side = new Negotiation(wish(key, ours));
        expect(side.offers()).toEqual([[key, String(ours)]]);
        const allowed = result === "min" ? answer <= ours : answer >= ours;
        if (!allowed) expect(() => side.receive([[key, String(answer)]])).toThrow(NegotiationError);
        else {
          expect(side.receive([[key, String(answer)]])).toEqual([]);
          expect(agreed(side, key)).toBe(answer);
        }
      }),
    );
  });

  test("numbers out of range, and what is none", () => {
    for (const text of [
      `${least - 1}`,
      `${most + 1}`,
      "",
      "1.5",
      "1e3",
      " 1",
      "0x",
      "many",
      "4294967296",
      "99999999999999999999",
    ]) {
      expect(() => new Negotiation({}).receive([[key, text]])).toThrow(NegotiationError);
    }
  });
});

describe.each(Object.entries(booleans))("%s", (key, { initial }) => {
  test.each([
    [true, true],
    [true, false],
    [false, true],
    [false, false],
    [true, undefined],
    [false, undefined],
  ])("offered %s, wished %s", (theirs, ours) => {
    const side = new Negotiation(ours === undefined ? {} : wish(key, ours));
    const right = combine(key, theirs, ours ?? initial);
    expect(side.receive([[key, yesNo(theirs)]])).toEqual([[key, yesNo(right)]]);
    expect(agreed(side, key)).toBe(right);
  });

  test("the offering side takes what the function allows, and nothing else", () => {
    for (const ours of [true, false]) {
      for (const answer of [true, false]) {
        const side = new Negotiation(wish(key, ours));
        side.offers();
        const possible = [true, false].some((theirs) => combine(key, ours, theirs) === answer);
        if (!possible) expect(() => side.receive([[key, yesNo(answer)]])).toThrow(NegotiationError);
        else {
          side.receive([[key, yesNo(answer)]]);
          expect(agreed(side, key)).toBe(answer);
        }
      }
    }
    for (const text of ["yes", "1", "", "Yes,No"])
      expect(() => new Negotiation({}).receive([[key, text]])).toThrow(NegotiationError);
  });
});

describe("lists", () => {
  test.each([
    ["CRC32C,None", ["None", "CRC32C"], "CRC32C"], // the offering side's order counts
    ["None,CRC32C", ["CRC32C", "None"], "None"],
    ["CRC32C", ["None"], "Reject"],
    ["X-md5,CRC32C", ["CRC32C"], "CRC32C"],
    ["CRC32C,None", undefined, "None"],
    ["", ["None"], "Reject"],
  ])("%s offered, %j here: %s", (offered, ours, answer) => {
    for (const key of ["HeaderDigest", "DataDigest"] as const) {
      const side = new Negotiation(ours ? { [key]: ours } : {});
      expect(side.receive([[key, offered]])).toEqual([[key, answer]]);
      expect(side.parameters[key]).toBe(answer === "Reject" ? "None" : answer);
    }
  });
});

test.each(["NotUnderstood", "Irrelevant", "Reject"])("%s leaves every key at its default", (answer) => {
  const wishes: Wishes = {
    MaxBurstLength: 65536,
    DefaultTime2Wait: 7,
    InitialR2T: false,
    ImmediateData: false,
    DataDigest: ["CRC32C", "None"],
  };
  const side = new Negotiation(wishes);
  expect(side.receive(side.offers().map(([key]) => [key, answer]))).toEqual([]);
  expect(side.finish()).toEqual(defaultParameters());
});

test("markers are answered No, unknown keys NotUnderstood, NotUnderstood nothing", () => {
  const offered: TextPairs = [
    ["IFMarker", "Yes"],
    ["OFMarker", "Yes"],
    ["OFMarkInt", "1~2048"],
    ["X-com.example.Fast", "Yes"],
    ["X#what", "NotUnderstood"],
  ];
  expect(new Negotiation({}).receive(offered)).toEqual([
    ["IFMarker", "No"],
    ["OFMarker", "No"],
    ["OFMarkInt", "NotUnderstood"],
    ["X-com.example.Fast", "NotUnderstood"],
  ]);
});

test("FirstBurstLength never passes MaxBurstLength, whatever was agreed on", () => {
  const side = new Negotiation({ MaxBurstLength: 4096, FirstBurstLength: 65536 });
  side.receive([
    ["FirstBurstLength", "65536"],
    ["MaxBurstLength", "8192"],
  ]);
  expect(side.finish()).toMatchObject({ MaxBurstLength: 4096, FirstBurstLength: 4096 });
});

describe("text", () => {
  test("as RFC 7143, 6.1 writes it", () => {
    expect(
      encodeText([
        ["InitiatorName", "iqn.x"],
        ["Empty", ""],
      ]).toString("latin1"),
    ).toBe("InitiatorName=iqn.x\0Empty=\0");
    expect(decodeText(Buffer.from("A=1\0\0\0B=x=y,z\0\0"))).toEqual([
      ["A", "1"],
      ["B", "x=y,z"],
    ]);
    expect(decodeText(Buffer.alloc(0))).toEqual([]);
    expect(decodeText(Buffer.from(`${"K".repeat(63)}=1\0`))).toHaveLength(1);
    for (const text of [
      "A=1",
      "A\0",
      "=1\0",
      "a=1\0",
      "A b=1\0",
      "A=1\0A=2\0",
      `${"K".repeat(64)}=1\0`,
      "A=1\n\0",
      "A=\u001b[0m\0",
      "A\u0007=1\0",
    ]) {
      expect(() => decodeText(Buffer.from(text))).toThrow(TextError);
    }
  });

  test("a list may have a key several times; it may be hostile all the same", () => {
    expect(decodeTextList(Buffer.from("TargetName=a\0TargetAddress=1\0TargetAddress=2\0"))).toEqual([
      ["TargetName", "a"],
      ["TargetAddress", "1"],
      ["TargetAddress", "2"],
    ]);
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => {
        for (const decode of [decodeText, decodeTextList]) {
          try {
            for (const pair of decode(Buffer.from(bytes))) expect(pair.join("")).not.toMatch(/\p{Cc}/u);
          } catch (error) {
            expect(error).toBeInstanceOf(TextError);
            expect((error as Error).message).not.toMatch(/\p{Cc}/u);
          }
        }
      }),
      { numRuns: 2000 },
    );
  });

  test("numbers and binary values", () => {
    expect(["0", "4294967295", "0xffffffff", "0X1f"].map(parseNumber)).toEqual([
      0, 4294967295, 4294967295, 31,
    ]);
    for (const text of ["", "-1", "+1", "0x", "0x100000000", "12345678901", "1_0", "1.0"])
      expect(parseNumber(text)).toBeUndefined();
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1, maxLength: 70 }), (array) => {
        const bytes = Buffer.from(array);
        expect(parseBinary(`0x${bytes.toString("hex")}`)).toEqual(bytes);
        expect(parseBinary(`0B${bytes.toString("base64")}`)).toEqual(bytes);
      }),
    );
    expect(parseBinary("0x123")).toEqual(Buffer.from([0x01, 0x23]));
    for (const text of ["", "0x", "0b", "12", "0xzz", "0b!!", "0x12 "])
      expect(parseBinary(text)).toBeUndefined();
  });
});
