// INQUIRY data and VPD pages: as sg3_utils reads what the target says, and whatever bytes a stranger's device sends.
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  association,
  decodeDesignators,
  decodeVendorPage,
  decodeVpdPage,
  designatorType,
  encodeDesignators,
  encodeVendorPage,
  encodeVpdPage,
  formatUuid,
  parseUuid,
  type VendorPage,
} from "../../src/scsi/inquiry-data.ts";
import { allRights } from "../../src/target/access.ts";
import { LogicalUnit } from "../../src/target/logical-unit.ts";
import { standardInquiryData, vpdPage } from "../../src/target/vpd-pages.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { WorkFolder } from "../support/lunsync.ts";
import { MemoryVolume } from "../support/memory-volume.ts";

const names = { targetName: "iqn.2026-11.com.example:disks", portalGroupTag: 0x1f, revision: "0.1" };
const uuid = "00112233-4455-6677-8899-aabbccddeeff";
const unitOf = (blockBytes: number, thin: boolean) =>
  new LogicalUnit(3, new MemoryVolume("m", Buffer.alloc(64 * 4096), blockBytes, { thin }), {
    readonly: false,
    uuid,
    clock: new FakeClock(),
  });

let folder: WorkFolder;
beforeAll(async () => {
  folder = await WorkFolder.make();
});
afterAll(() => folder[Symbol.asyncDispose]());

/** What a program of sg3_utils says of `bytes`. */
function read(program: string, bytes: Buffer, ...more: string[]): string {
  writeFileSync(folder.file("page"), bytes.toString("hex").replace(/../g, "$& "));
  return execFileSync(program, [`--inhex=${folder.file("page")}`, ...more]).toString();
}
const page = (code: number, unit = unitOf(512, true)) => vpdPage(code, unit, names, allRights)!;

describe("what the target says, as sg_inq and sg_vpd read it", () => {
  test("standard INQUIRY data", () => {
    const words = read("sg_inq", standardInquiryData(names, unitOf(512, true)), "-d");
    expect(words).toMatch(/PQual=0.*PDT=0.*version=0x06/s);
    expect(words).toMatch(/HiSUP=1.*Resp_data_format=2/s);
    expect(words).toMatch(/CmdQue=1/);
    expect(words).toMatch(/TPGS=1 .*3PC=1/);
    expect(words).toMatch(/MultiP=0/);
    expect(words).toMatch(/length=96 \(0x60\).*Peripheral device type: disk/s);
    expect(words).toMatch(/Vendor identification: LUNSYNC/);
    expect(words).toMatch(/Product identification: VOLUME/);
    expect(words).toMatch(/Product revision level: 0\.1/);
    expect(words).toMatch(/SAM-5.*SPC-4.*SBC-3.*iSCSI/s);
    expect(read("sg_inq", standardInquiryData(names, undefined))).toMatch(/PQual=3/);
  });

  test("00h: all pages, in order, and each of them is there", () => {
    const codes = [...page(0).subarray(4)];
    expect(codes).toEqual([...codes].sort((a, b) => a - b));
    expect(codes).toEqual([0x00, 0x80, 0x83, 0x86, 0x87, 0x88, 0x8f, 0xb0, 0xb1, 0xb2, 0xdb]);
    for (const code of codes) {
      const bytes = page(code);
      expect([bytes[0], bytes[1], bytes.readUInt16BE(2)]).toEqual([0, code, bytes.length - 4]);
    }
    expect(vpdPage(0x89, unitOf(512, true), names, allRights)).toBeUndefined();
    expect(read("sg_vpd", page(0), "--page=sv")).toMatch(
      /Unit serial number.*Device identification.*Block limits.*Logical block provisioning/s,
    );
  });

  test("80h and 83h: serial number, NAA 3h, vendor text, ports, names", () => {
    expect(read("sg_vpd", page(0x80), "--page=sn")).toContain("00112233445566778899aabbccddeeff");
    const words = read("sg_vpd", page(0x83), "--page=di");
    expect(words).toMatch(/NAA, {2}code set: Binary\s+0x3011223344556677\s/);
    expect(words).toMatch(/vendor id: LUNSYNC\s+vendor specific: 00112233445566778899aabbccddeeff/);
    expect(words).toMatch(
      /Addressed logical unit:.*Target port:.*Relative target port: 0x1\s.*Target port group: 0x1\s.*Target device/s,
    );
    expect(words).toContain("transport: Internet SCSI (iSCSI)");
    expect(words).toMatch(/SCSI name string:\s+iqn\.2026-11\.com\.example:disks,t,0x001f/);
    expect(words).not.toMatch(/error|expected|bad|invalid/i);
  });

  test("86h: simple tasks alone, a volatile cache, and none of what takes more", () => {
    const words = read("sg_vpd", page(0x86), "--page=ei");
    const told = [...words.matchAll(/([A-Z_]+(?:_SUP|SUP|LUICLR))=(\d+)/g)].map(([, name, bit]) => [
      name,
      bit,
    ]);
    expect(told.filter(([, bit]) => bit !== "0")).toEqual([
      ["SIMPSUP", "1"],
      ["V_SUP", "1"],
    ]);
    expect(told.length).toBeGreaterThan(10);
  });

  test("87h and 88h: mode pages are shared; one port, by its iSCSI name", () => {
    expect(read("sg_vpd", page(0x87), "--page=mpp")).toMatch(
      /applies to all modes pages and subpages\s+MLUS=0,\s+Policy: shared/,
    );
    const ports = read("sg_vpd", page(0x88), "--page=sp");
    expect(ports.match(/Relative port/gi)).toHaveLength(1);
    expect(ports).toMatch(/Relative port=1/i);
    expect(ports).toMatch(/SCSI name string:\s+iqn\.2026-11\.com\.example:disks,t,0x001f/);
    for (const code of [0x86, 0x87, 0x88]) {
      expect(read("sg_vpd", page(code))).not.toMatch(/error|expected|bad|invalid|too short/i);
    }
  });

  test.each([
    [512, true],
    [4096, true],
    [512, false],
  ])("B0h, B1h and B2h: blocks of %i bytes, thin %s", (blockBytes, thin) => {
    const unit = unitOf(blockBytes, thin);
    const limits = read("sg_vpd", page(0xb0, unit), "--page=bl");
    const blocks = 4096 / blockBytes;
    expect(limits).toMatch(new RegExp(`Optimal transfer length granularity: ${blocks} blocks`));
    if (thin) {
      expect(limits).toMatch(/Maximum unmap LBA count: 262144/);
      expect(limits).toMatch(new RegExp(`Optimal unmap granularity: ${blocks} blocks`));
      expect(limits).toMatch(/Unmap granularity alignment valid: true/);
    } else expect(limits).toMatch(/Maximum unmap LBA count: 0/);
    expect(limits).toMatch(/Maximum write same length: (0xfff8|65528) blocks/);
    expect(read("sg_vpd", page(0xb1, unit), "--page=bdc")).toMatch(/Non-rotating medium/);
    const provisioning = read("sg_vpd", page(0xb2, unit), "--page=lbpv");
    const bit = thin ? 1 : 0;
    expect(provisioning).toMatch(
      new RegExp(`\\(LBPU\\): ${bit}\\s.*\\(LBPWS\\): ${bit}\\s.*\\(LBPWS10\\): ${bit}`, "s"),
    );
    expect(provisioning).toMatch(new RegExp(`\\(LBPRZ\\): ${bit}`));
    expect(provisioning).toMatch(
      thin ? /Provisioning type: 2/ : /Provisioning type: 0|not known or fully provisioned/,
    );
  });
});

const designator = fc.record({
  association: fc.nat(3),
  type: fc.nat(15),
  codeSet: fc.nat(15),
  designator: fc.uint8Array({ maxLength: 255 }).map((bytes) => Buffer.from(bytes)),
  protocol: fc.option(fc.nat(15), { nil: undefined }),
});

test("designators: there and back; a page that is cut gives those that are whole", () => {
  fc.assert(
    fc.property(fc.array(designator, { maxLength: 5 }), fc.nat(1400), (all, cut) => {
      const body = encodeDesignators(all);
      expect(decodeDesignators(body)).toEqual(all);
      const some = decodeDesignators(body.subarray(0, cut));
      expect(some).toEqual(all.slice(0, some.length));
    }),
  );
  // SPC-4, 7.8.6: PROTOCOL IDENTIFIER and CODE SET; PIV, ASSOCIATION and DESIGNATOR TYPE; reserved; length.
  const port = {
    association: association.targetPort,
    type: designatorType.relativeTargetPort,
    codeSet: 1,
    protocol: 5,
    designator: Buffer.from([0, 0, 0, 2]),
  };
  expect(encodeDesignators([port]).toString("hex")).toBe("5194000400000002");
});

test("a designator of more than 255 bytes is refused, not cut", () => {
  const long = { association: 0, type: 1, codeSet: 2, designator: Buffer.alloc(256) };
  expect(() => encodeDesignators([long])).toThrow();
});

const byte = fc.nat(255);
const vendorPage: fc.Arbitrary<VendorPage> = fc.record({
  modeEncode: fc.boolean(),
  modeDecode: fc.boolean(),
  modeVerdict: fc.boolean(),
  width8: fc.boolean(),
  width16: fc.boolean(),
  catalogueState: fc.nat(3),
  findExtents: fc.boolean(),
  histories: fc.boolean(),
  grow: fc.boolean(),
  whole: fc.boolean(),
  points: fc.boolean(),
  catalogueDigest: fc.nat(255),
  catalogueExtentSize: fc.nat(255),
  catalogueFanOut: fc.nat(7),
  catalogueRootLevel: fc.nat(31),
  smallestExtentSize: byte,
  largestExtentSize: byte,
  preferredExtentSize: byte,
  mostExtents: fc.nat(65535),
  mostBytes: fc.maxSafeNat(),
  mostCommands: fc.nat(65535),
  resultLifetimeMs: fc.nat(0xffffffff),
  volumeUuid: fc.uuid(),
  generation: fc.maxSafeNat(),
  writeExtents: fc.boolean(),
  copyExtents: fc.boolean(),
  mostListBytes: fc.nat(0xffffffff),
  mostRuns: fc.nat(65535),
  digests: fc.array(
    fc.record({
      index: byte,
      text: fc.stringMatching(/^[a-z0-9()+,-]{0,60}$/),
      identifierBytes: fc.nat(65535),
    }),
    { maxLength: 8 },
  ),
});

test("the vendor page: there and back; cut anywhere it is none, or has the digests that are whole", () => {
  fc.assert(
    fc.property(vendorPage, fc.nat(600), (sent, cut) => {
      const bytes = encodeVendorPage(sent);
      expect(bytes.readUInt16BE(2)).toBe(bytes.length - 4);
      const { digests, ...rest } = sent;
      expect(decodeVendorPage(bytes)).toMatchObject(sent);
      const some = decodeVendorPage(bytes.subarray(0, cut));
      if (cut < 72) expect(some).toBeUndefined();
      else {
        expect(some).toMatchObject(rest);
        expect(some!.digests).toEqual(digests.slice(0, some!.digests.length));
      }
    }),
  );
});

test("another signature or version, or another page, is no vendor page; wide numbers stay numbers", () => {
  const sent = encodeVendorPage(fc.sample(vendorPage, { numRuns: 1, seed: 1 })[0]!);
  for (const at of [1, 4, 11, 12]) {
    const other = Buffer.from(sent);
    other[at]! ^= 1;
    expect(decodeVendorPage(other)).toBeUndefined();
  }
  sent.fill(0xff, 24, 32); // the most bytes of a command
  sent.fill(0xff, 52, 60); // the generation
  expect(decodeVendorPage(sent)).toMatchObject({
    mostBytes: Number.MAX_SAFE_INTEGER,
    generation: Number.MAX_SAFE_INTEGER,
  });
});

test("whatever bytes: a page's body lies inside them, a list ends, nothing is thrown", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 400 }), byte, fc.boolean(), (random, code, signed) => {
      const bytes = Buffer.from(random);
      if (signed && bytes.length > 12) {
        bytes[1] = 0xdb;
        bytes.write("LUNSYNC ", 4, "latin1");
        bytes[12] = 1;
      }
      const body = decodeVpdPage(bytes, code);
      if (body) expect([bytes[1], body.length <= bytes.length - 4]).toEqual([code, true]);
      expect(decodeDesignators(bytes).length).toBeLessThanOrEqual(bytes.length / 4);
      const decoded = decodeVendorPage(bytes);
      if (decoded) expect(decoded.digests.length).toBeLessThanOrEqual((bytes.length - 72) / 4);
    }),
    { numRuns: 2000 },
  );
  expect(decodeVpdPage(encodeVpdPage(0x80, Buffer.from("abc")), 0x80)?.toString()).toBe("abc");
  expect(decodeVpdPage(encodeVpdPage(0x80, Buffer.from("abc")), 0x83)).toBeUndefined();
  expect(formatUuid(parseUuid(uuid))).toBe(uuid);
});
