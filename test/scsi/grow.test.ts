// GROW byte by byte, as docs/protocol.md has it.
import { expect, test } from "vitest";
import { decodeVendorPage, encodeVendorPage, parseUuid } from "../../src/scsi/inquiry-data.ts";
import {
  growList,
  parameterListHeader,
  vendorFunction,
  vendorPageHeader,
} from "../../src/scsi/vendor-commands.ts";
import { blankPage } from "../support/vendor-page.ts";

const spaced = (text: string) => text.replace(/\s/g, "");

test("its parameter list by hand", () => {
  const data = growList.encode({
    volumeUuid: parseUuid("00112233-4455-6677-8899-aabbccddeeff"),
    numberOfBlocks: 0x0001020304050607n,
  });
  const head = parameterListHeader.encode({ function: vendorFunction.grow, dataLength: data.length });
  const expected = `
    01 0a 00 00 00 00 00 00  00 00 00 00 00 00 00 18
    00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00
    00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00
    00 11 22 33 44 55 66 77  88 99 aa bb cc dd ee ff
    00 01 02 03 04 05 06 07`;
  expect(Buffer.concat([head, data]).toString("hex")).toBe(spaced(expected));
  expect(growList.decode(Buffer.from(spaced(expected), "hex"), 48)).toEqual({
    volumeUuid: Buffer.from("00112233445566778899aabbccddeeff", "hex"),
    numberOfBlocks: 0x0001020304050607n,
  });
});

test("page DBh announces it in a bit that was reserved, which a page of before has as zero", () => {
  const bytes = encodeVendorPage({ ...blankPage, grow: true });
  expect(bytes.subarray(60).toString("hex")).toBe(spaced("00 00 10 00 00 00 00 00 00 00 00 00"));
  const before = vendorPageHeader.encode({ protocolVersion: 1, pageLength: 68 });
  expect(decodeVendorPage(before)).toMatchObject({ grow: false });
});
