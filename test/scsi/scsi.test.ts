// SCSI formats: every layout there and back, and by the eyes of sg3_utils.
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Field, Layout } from "../../src/base/layout.ts";
import * as pdu from "../../src/iscsi/pdu.ts";
import * as images from "../../src/replicate/before-images-format.ts";
import * as extents from "../../src/scsi/extent-commands.ts";
import * as inquiryData from "../../src/scsi/inquiry-data.ts";
import * as sbc from "../../src/scsi/sbc-commands.ts";
import {
  condition,
  decodeSense,
  describeSense,
  encodeSense,
  sense,
  senseKeys,
} from "../../src/scsi/sense.ts";
import * as spc from "../../src/scsi/spc-commands.ts";
import * as vendor from "../../src/scsi/vendor-commands.ts";
import { randomOf } from "../support/data.ts";
import { WorkFolder } from "../support/lunsync.ts";
import { blankPage } from "../support/vendor-page.ts";

type AnyLayout = Layout<Record<string, Field<unknown>>>;
const layouts = [pdu, images, inquiryData, sbc, spc, vendor, extents].flatMap((module) =>
  Object.values(module).filter(
    (value): value is AnyLayout => typeof value === "object" && value !== null && "usage" in value,
  ),
);

test("there are many of them", () => expect(layouts.length).toBeGreaterThan(55));

test.each(layouts.map((each) => [each.name, each] as const))(
  "%s: there and back, and nothing in reserved bits",
  (_name, each) => {
    const random = randomOf(each.bytes);
    for (let i = 0; i < 50; i++) {
      const values = each.sample(random);
      const bytes = each.encode(values);
      expect(bytes.length).toBe(each.bytes);
      expect(each.decode(bytes)).toEqual(values);
      expect(each.reservedBitSet(bytes)).toBeUndefined();
      expect(() => each.decode(bytes.subarray(1))).toThrow();
    }
  },
);

describe("CDBs by hand", () => {
  test.each([
    [
      "INQUIRY, VPD page 83h",
      spc.inquiry.encode({ evpd: true, pageCode: 0x83, allocationLength: 255 }),
      "12018300ff00",
    ],
    [
      "MODE SENSE (6), all pages",
      spc.modeSense6.encode({ dbd: true, pageCode: 0x3f, allocationLength: 192 }),
      "1a083f00c000",
    ],
    [
      "READ (10), FUA",
      sbc.read10.encode({ fua: true, logicalBlockAddress: 0x01020304, transferLength: 8 }),
      "28080102030400000800",
    ],
    [
      "WRITE (16)",
      sbc.write16.encode({ logicalBlockAddress: 0x0102030405060708n, transferLength: 0x10 }),
      "8a000102030405060708000000100000",
    ],
    [
      "READ CAPACITY (16)",
      sbc.readCapacity16.encode({ allocationLength: 32 }),
      "9e100000000000000000000000200000",
    ],
    [
      "WRITE SAME (16), UNMAP",
      sbc.writeSame16.encode({ unmap: true, logicalBlockAddress: 1n, numberOfLogicalBlocks: 2 }),
      "93080000000000000001000000020000",
    ],
    ["SYNCHRONIZE CACHE (10)", sbc.synchronizeCache10.encode({}), "35000000000000000000"],
    ["REPORT LUNS", spc.reportLuns.encode({ allocationLength: 16 }), "a00000000000000000100000"],
    [
      "ENCODE DIGESTS (32)",
      vendor.encodeDigests32.encode({
        digest: 2,
        source: 1,
        width: true,
        extentSize: 7,
        numberOfExtents: 512,
        logicalBlockAddress: 0x10000n,
        initialValue: 0x1122334455667788n,
        allocationLength: 0x2020,
      }),
      "7f00020907000018f80102000000000000010000112233445566778800002020",
    ],
  ])("%s", (_what, bytes, hex) => {
    // WRITE (16) and its like have 16 bytes.
    expect(bytes.toString("hex")).toBe(hex.padEnd(bytes.length * 2, "0"));
  });
});

describe("sense data", () => {
  const names = Object.keys(condition) as (keyof typeof condition)[];

  test.each(names)("%s is what sg_decode_sense reads, in both formats", (name) => {
    const value = sense(name);
    for (const descriptor of [false, true]) {
      const bytes = encodeSense(value, descriptor);
      expect(decodeSense(bytes)).toMatchObject({ key: value.key, asc: value.asc, ascq: value.ascq });
      const words = execFileSync(
        "sg_decode_sense",
        [...bytes].map((byte) => byte.toString(16).padStart(2, "0")),
      ).toString();
      const keyWords = senseKeys[value.key]!.toLowerCase();
      expect(words.toLowerCase()).toContain(`sense key: ${keyWords}`);
      expect(words).toMatch(descriptor ? /Descriptor format/ : /Fixed format/);
      if (value.asc !== 0) expect(words).toMatch(/Additional sense: .+/);
    }
  });

  test("INFORMATION, field pointers and deferred errors survive", () => {
    const value = fc.record({
      key: fc.integer({ min: 0, max: 14 }),
      asc: fc.nat(255),
      ascq: fc.nat(255),
      information: fc.option(fc.nat(Number.MAX_SAFE_INTEGER), { nil: undefined }),
      deferred: fc.boolean(),
    });
    fc.assert(
      fc.property(value, fc.boolean(), (sent, descriptor) => {
        expect(decodeSense(encodeSense(sent, descriptor))).toMatchObject(sent);
      }),
    );
    const pointed = sense("invalidFieldInCdb", { fieldPointer: { cdb: true, byte: 12, bit: 3 } });
    for (const descriptor of [false, true])
      expect(decodeSense(encodeSense(pointed, descriptor))?.fieldPointer).toEqual(pointed.fieldPointer);
    expect(describeSense(pointed)).toBe("ILLEGAL REQUEST, INVALID FIELD IN CDB (5/24/00), CDB byte 12 bit 3");
  });

  test("any bytes are sense data or undefined", () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 64 }),
        fc.constantFrom(0x70, 0x71, 0x72, 0x73, undefined),
        (bytes, code) => {
          const buffer = Buffer.from(bytes);
          if (code !== undefined && buffer.length > 0) buffer[0] = code;
          const value = decodeSense(buffer);
          if (value) expect(describeSense(value).length).toBeGreaterThan(5);
        },
      ),
      { numRuns: 2000 },
    );
  });
});

test("designators and limits, as sg_vpd reads them", async () => {
  await using folder = await WorkFolder.make();
  const read = (page: Buffer, name: string) => {
    writeFileSync(folder.file("page"), page.toString("hex").replace(/../g, "$& "));
    return execFileSync("sg_vpd", [`--inhex=${folder.file("page")}`, `--page=${name}`]).toString();
  };
  const { association, designatorType } = inquiryData;
  const naa = Buffer.from("3507ba6b43008a20", "hex");
  const body = inquiryData.encodeDesignators([
    { association: association.logicalUnit, type: designatorType.naa, codeSet: 1, designator: naa },
    {
      association: association.targetPort,
      type: designatorType.relativeTargetPort,
      codeSet: 1,
      protocol: 5,
      designator: Buffer.from([0, 0, 0, 1]),
    },
  ]);
  const di = read(inquiryData.encodeVpdPage(0x83, body), "di");
  expect(di).toContain("0x3507ba6b43008a20");
  expect(di).toMatch(/Relative target port: 0x1/i);
  expect(inquiryData.decodeDesignators(body)).toMatchObject([{ designator: naa }, { protocol: 5 }]);
  const limits = sbc.blockLimits.encode({
    maximumTransferLength: 16384,
    maximumUnmapLbaCount: 262144,
    maximumWriteSameLength: 5n,
  });
  const bl = read(limits, "bl");
  expect(bl).toMatch(/Maximum transfer length: 16384 blocks/);
  expect(bl).toMatch(/Maximum unmap LBA count: 262144/);
  expect(bl).toMatch(/Maximum write same length: 0x5|Maximum write same length: 5/);
});

test("the vendor page: there and back, and any bytes are a page or undefined", () => {
  const page = {
    ...blankPage,
    modeEncode: true,
    modeVerdict: true,
    width8: true,
    catalogueState: 2,
    largestExtentSize: 15,
    preferredExtentSize: 7,
    mostExtents: 1000,
    mostBytes: 2 ** 40,
    mostCommands: 4,
    resultLifetimeMs: 60_000,
    volumeUuid: "00112233-4455-6677-8899-aabbccddeeff",
    generation: 42,
    writeExtents: true,
    mostListBytes: 2 ** 23,
    mostRuns: 2048,
    digests: [{ index: 3, text: "crc32c(md5)", identifierBytes: 4 }],
  };
  const bytes = inquiryData.encodeVendorPage(page);
  expect(inquiryData.decodeVendorPage(bytes)).toMatchObject(page);
  fc.assert(
    fc.property(fc.nat(bytes.length - 1), fc.nat(255), fc.nat(bytes.length), (at, byte, length) => {
      const damaged = Buffer.from(bytes);
      damaged[at] = byte;
      const decoded = inquiryData.decodeVendorPage(damaged.subarray(0, length));
      if (decoded) expect(decoded.digests.length).toBeLessThanOrEqual(1);
    }),
    { numRuns: 3000 },
  );
});
