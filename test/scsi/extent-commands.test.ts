// WRITE EXTENTS and COPY EXTENTS byte by byte, as docs/protocol.md has them.
import { describe, expect, test } from "vitest";
import * as extents from "../../src/scsi/extent-commands.ts";
import { decodeVendorPage, encodeVendorPage } from "../../src/scsi/inquiry-data.ts";
import { vendorPageHeader } from "../../src/scsi/vendor-commands.ts";
import { copied, copyList, dataRun, sha256, writeList, zeroRun } from "../support/extent-lists.ts";
import { blankPage } from "../support/vendor-page.ts";

const spaced = (text: string) => text.replace(/\s/g, "");

describe("CDBs by hand", () => {
  test.each([
    [
      "WRITE EXTENTS (16)",
      extents.writeExtents16.encode({ parameterListLength: 0x01020304 }),
      "d1 03 00 00 00 00 00 00  00 00 01 02 03 04 00 00",
    ],
    [
      "WRITE EXTENTS (32)",
      extents.writeExtents32.encode({ groupNumber: 5, parameterListLength: 0x01020304 }),
      "7f 00 00 00 00 00 05 18  f8 04 00 00 00 00 00 00 00 00 00 00 00 00 00 00  00 00 00 00 01 02 03 04",
    ],
    [
      "COPY EXTENTS (16)",
      extents.copyExtents16.encode({ parameterListLength: 0x58 }),
      "d1 04 00 00 00 00 00 00  00 00 00 00 00 58 00 00",
    ],
    [
      "COPY EXTENTS (32)",
      extents.copyExtents32.encode({ parameterListLength: 0x58 }),
      "7f 00 00 00 00 00 00 18  f8 05 00 00 00 00 00 00 00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 58",
    ],
  ])("%s", (_what, cdb, hex) => expect(cdb.toString("hex")).toBe(spaced(hex)));
});

describe("parameter lists by hand", () => {
  const block = Buffer.alloc(512, "a");

  test("of WRITE EXTENTS: a block as it is, then zeros", () => {
    const list = writeList([dataRun(0x1122334455, block), zeroRun(0x800, 0x40)]);
    const head = "01 04 02 00 00 00 00 00  00 02 00 00 00 00 02 50";
    const first = "00 00 00 11 22 33 44 55  00 00 00 01 00 00 00 00  00 00 02 00 00 00 00 00";
    const second = "00 00 00 00 00 00 08 00  00 00 00 40 02 00 00 00  00 00 00 00 00 00 00 00";
    expect(list.subarray(0, 64).toString("hex")).toBe(spaced(head + first + second));
    expect(list.subarray(64).equals(Buffer.concat([sha256(block), block]))).toBe(true);
  });

  test("of WRITE EXTENTS: what is compressed", () => {
    const list = writeList([dataRun(1, block, { compressed: true })]);
    expect(list[16 + 12]).toBe(1);
    // RFC 8878, 3.1.1: the magic number of a frame.
    expect(list.subarray(16 + 24 + 32, 16 + 24 + 36).toString("hex")).toBe("28b52ffd");
    expect(list.readUInt32BE(16 + 16)).toBe(list.length - 16 - 24 - 32);
  });

  test("of COPY EXTENTS", () => {
    const fields = { destinationLogicalBlockAddress: 0x0102030405060708n };
    const list = copyList([copied(0x1000, 0, 0x80, sha256(block), fields)]);
    const head = "01 05 02 00 00 00 00 00  00 01 00 00 00 00 00 38";
    const run = "00 00 00 00 00 00 10 00  01 02 03 04 05 06 07 08  00 00 00 80 00 00 00 00";
    expect(list.subarray(0, 40).toString("hex")).toBe(spaced(head + run));
    expect(list.subarray(40).equals(sha256(block))).toBe(true);
  });
});

test("page DBh announces both in bytes that were reserved, which a page of before has as zeros", () => {
  const bytes = encodeVendorPage({
    ...blankPage,
    writeExtents: true,
    copyExtents: true,
    mostListBytes: 8 * 1024 * 1024,
    mostRuns: 2048,
  });
  expect(bytes.subarray(60).toString("hex")).toBe(spaced("00 00 03 00 00 80 00 00 08 00 00 00"));
  expect(bytes[12]).toBe(1);
  const before = vendorPageHeader.encode({ protocolVersion: 1, pageLength: 68 });
  expect(decodeVendorPage(before)).toMatchObject({
    writeExtents: false,
    copyExtents: false,
    mostListBytes: 0,
    mostRuns: 0,
  });
});
