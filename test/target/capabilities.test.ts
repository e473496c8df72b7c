// What a unit says that it can do is what it does: operation codes, pages, provisioning; by sg3_utils' eyes as well.
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { lengthOf } from "../../src/base/bytes.ts";
import { systemClock } from "../../src/platform/clock.ts";
import * as sbc from "../../src/scsi/sbc-commands.ts";
import { condition } from "../../src/scsi/sense.ts";
import * as spc from "../../src/scsi/spc-commands.ts";
import { allRights } from "../../src/target/access.ts";
import { DeviceServer } from "../../src/target/device-server.ts";
import { LogicalUnit } from "../../src/target/logical-unit.ts";
import type { ScsiResult } from "../../src/target/scsi-task.ts";
import { bytesOf, randomOf } from "../support/data.ts";
import { WorkFolder } from "../support/lunsync.ts";
import { MemoryVolume } from "../support/memory-volume.ts";

const names = { targetName: "iqn.2026-11.com.example:disks", portalGroupTag: 1, revision: "0.1" };
const uuid = "12345678-9abc-4def-8123-456789abcdef";
const nexus = { key: "one", initiatorName: "iqn.2026-11.x:one", rights: allRights, from: "here" };
const blocks = 4096;

const volumes = new WeakMap<DeviceServer, MemoryVolume>();

function serverOf(thin: boolean, readonly = false): DeviceServer {
  const volume = new MemoryVolume("memory", bytesOf(randomOf(1), blocks * 512), 512, { thin });
  const server = new DeviceServer(names, [
    new LogicalUnit(0, volume, { readonly, uuid, clock: systemClock }),
  ]);
  volumes.set(server, volume);
  server.nexusBegan(nexus);
  server.unit(nexus, 0n)!.takeAttention(nexus);
  return server;
}

const volumeOf = (server: DeviceServer) => volumes.get(server)!;

async function execute(server: DeviceServer, cdb: Buffer, dataOut: Buffer[] = [], dataInBytesMax = 65536) {
  const whole = Buffer.alloc(Math.max(16, cdb.length));
  cdb.copy(whole);
  const { signal } = new AbortController();
  const dataOutBytesAnnounced = lengthOf(dataOut);
  return server.execute({
    nexus,
    lun: 0n,
    cdb: whole,
    dataOut,
    dataOutBytesAnnounced,
    dataInBytesMax,
    signal,
  });
}

const dataOf = (result: ScsiResult) => {
  expect(result.status).toBe(0);
  return Buffer.concat(result.dataIn ?? []);
};
const why = ({ sense }: ScsiResult) => sense && [sense.key, sense.asc, sense.ascq];

interface Listed {
  readonly code: number;
  readonly action: number | undefined;
  readonly cdbBytes: number;
}

async function listedBy(server: DeviceServer, rctd = false): Promise<Listed[]> {
  const cdb = spc.reportSupportedOperationCodes.encode({ rctd, allocationLength: 65536 });
  const data = dataOf(await execute(server, cdb));
  expect(data.readUInt32BE(0)).toBe(data.length - 4);
  const listed: Listed[] = [];
  for (let at = 4; at < data.length; at += rctd ? 20 : 8) {
    const action = (data[at + 5]! & 1) === 1 ? data.readUInt16BE(at + 2) : undefined;
    expect(data[at + 5]! & 2).toBe(rctd ? 2 : 0);
    if (rctd) expect(data.readUInt16BE(at + 8)).toBe(10); // the timeouts descriptor's own length
    listed.push({ code: data[at]!, action, cdbBytes: data.readUInt16BE(at + 6) });
  }
  return listed;
}

const oneOf = (code: number, action: number, reportingOptions: number) =>
  spc.reportSupportedOperationCodes.encode({
    reportingOptions,
    requestedOperationCode: code,
    requestedServiceAction: action,
    allocationLength: 512,
  });

const actionCodes = [0x48, 0x5e, 0x5f, 0x83, 0x84, 0x7f, 0x9e, 0x9f, 0xa3, 0xa4, 0xd1];
/** RECEIVE waits for its SUBMIT. */
const waits = (code: number, action: number | undefined) =>
  (code === 0xd1 && action === 2) || (code === 0x7f && action === 0xf803);

function cdbOf(code: number, action: number | undefined): Buffer {
  const cdb = Buffer.alloc(code === 0x7f ? 32 : 16);
  cdb[0] = code;
  if (code === 0x7f) {
    cdb[7] = 0x18;
    cdb.writeUInt16BE(action!, 8);
  } else if (action !== undefined) cdb[1] = action;
  return cdb;
}

describe.each([
  ["thin", true],
  ["thick", false],
])("a %s unit", (_what, thin) => {
  test("lists the commands that it has, with and without timeouts", async () => {
    const server = serverOf(thin);
    const listed = await listedBy(server);
    expect(await listedBy(server, true)).toEqual(listed);
    expect(new Set(listed.map(({ code, action }) => `${code}/${action}`)).size).toBe(listed.length);
    expect(listed.some(({ code }) => code === 0x42)).toBe(thin); // UNMAP
    expect(listed).toContainEqual({ code: 0x28, action: undefined, cdbBytes: 10 });
    expect(listed).toContainEqual({ code: 0x9e, action: 0x10, cdbBytes: 16 });
    for (const action of [0xf801, 0xf804, 0xf805])
      expect(listed).toContainEqual({ code: 0x7f, action, cdbBytes: 32 });
    for (const action of [3, 4]) expect(listed).toContainEqual({ code: 0xd1, action, cdbBytes: 16 });
  });

  test("answers ILLEGAL REQUEST to every operation code and service action that it does not list", async () => {
    const server = serverOf(thin);
    const listed = await listedBy(server);
    const isListed = (code: number, action?: number) =>
      listed.some((each) => each.code === code && each.action === action);
    const all = Array.from({ length: 256 }, (_, code) => code).flatMap((code): [number, number?][] => {
      if (!actionCodes.includes(code)) return [[code]];
      const actions =
        code === 0x7f ? [0, 9, 0xf800, 0xf801, 0xf802, 0xf803, 0xf804, 0xf805, 0xf806, 0xffff] : undefined;
      return (actions ?? Array.from({ length: code === 0xd1 ? 256 : 32 }, (_, i) => i)).map((action) => [
        code,
        action,
      ]);
    });
    let refused = 0;
    for (const [code, action] of all) {
      const known = isListed(code, action);
      const hasCode = listed.some((each) => each.code === code);
      const option = !hasCode ? 3 : action === undefined ? 1 : 2;
      const reported = await execute(server, oneOf(code, action ?? 0, option));
      expect([code, action, dataOf(reported)[1]! & 7]).toEqual([code, action, known ? 3 : 1]);
      if (known && waits(code, action)) continue;
      const found = why(await execute(server, cdbOf(code, action)));
      if (known)
        expect([code, action, found]).not.toEqual([code, action, [...condition.invalidOperationCode]]);
      else {
        refused++;
        const expected = hasCode ? condition.invalidFieldInCdb : condition.invalidOperationCode;
        expect([code, action, found]).toEqual([code, action, [...expected]]);
      }
    }
    expect(refused).toBeGreaterThan(500);
  });

  test("gives usage data with the operation code, the service action, and the bits of the CDB", async () => {
    const server = serverOf(thin);
    for (const { code, action, cdbBytes } of await listedBy(server)) {
      const data = dataOf(await execute(server, oneOf(code, action ?? 0, action === undefined ? 1 : 2)));
      expect([data.readUInt16BE(2), data[4], data.length]).toEqual([cdbBytes, code, 4 + cdbBytes]);
      const usage = data.subarray(4);
      if (code === 0x7f) expect(usage.readUInt16BE(8)).toBe(action);
      else if (action !== undefined) expect(usage[1]! & (code === 0xd1 ? 0xff : 0x1f)).toBe(action);
    }
    const read16 = dataOf(await execute(server, oneOf(0x88, 0, 1))).subarray(4);
    expect(read16.toString("hex")).toBe("88fcffffffffffffffffffffffff1fff");
  });

  test("unmaps if its pages say so", async () => {
    const server = serverOf(thin);
    const list = unmapList([8n, 8]);
    const result = await execute(server, sbc.unmap.encode({ parameterListLength: list.length }), [list]);
    expect(why(result)).toEqual(thin ? undefined : [...condition.invalidOperationCode]);
    const page = await pageOf(server, 0xb2);
    expect((page[5]! & 0x80) !== 0).toBe(thin);
    if (!thin) return;
    const cdb = sbc.read16.encode({ logicalBlockAddress: 7n, transferLength: 10 });
    const read = dataOf(await execute(server, cdb));
    expect(read.subarray(512, 9 * 512).every((byte) => byte === 0)).toBe(true);
    expect(read.subarray(0, 512).some((byte) => byte !== 0)).toBe(true);
    expect(read.subarray(9 * 512).some((byte) => byte !== 0)).toBe(true);
  });
});

const pageOf = async (server: DeviceServer, pageCode: number) =>
  dataOf(await execute(server, spc.inquiry.encode({ evpd: true, pageCode, allocationLength: 4096 })));

function unmapList(...ranges: [lba: bigint, count: number][]): Buffer {
  const bytes = 16 * ranges.length;
  return Buffer.concat([
    sbc.unmapParameterListHeader.encode({
      unmapDataLength: 6 + bytes,
      unmapBlockDescriptorDataLength: bytes,
    }),
    ...ranges.map(([logicalBlockAddress, numberOfLogicalBlocks]) =>
      sbc.unmapBlockDescriptor.encode({ logicalBlockAddress, numberOfLogicalBlocks }),
    ),
  ]);
}

describe("ranges that reach past the end, or past 2^64", () => {
  const last = BigInt(blocks - 1);
  const most = 0xffff_ffff_ffff_ffffn;
  test.each([
    [last, 2],
    [BigInt(blocks), 1],
    [most, 1],
    [most, 0xffffffff],
    [most - 1n, 2],
    [1n << 53n, 1],
    [1n << 32n, 1],
    [0n, blocks + 1],
  ])("at LBA %s, %i blocks", async (logicalBlockAddress, count) => {
    const server = serverOf(true);
    const before = Buffer.from(volumeOf(server).cache);
    const data = Buffer.alloc(Math.min(count, 8192) * 512, 1);
    const range = { logicalBlockAddress, transferLength: count };
    const many = { logicalBlockAddress, numberOfLogicalBlocks: count };
    const list = unmapList([logicalBlockAddress, count]);
    for (const [cdb, dataOut] of [
      [sbc.read16.encode(range)],
      [sbc.write16.encode(range), data],
      [sbc.writeSame16.encode(many), Buffer.alloc(512)],
      [sbc.writeSame16.encode({ ...many, unmap: true }), Buffer.alloc(512)],
      [sbc.writeSame16.encode({ ...many, ndob: true })],
      [sbc.synchronizeCache16.encode(many)],
      [sbc.unmap.encode({ parameterListLength: 24 }), list],
    ] as [Buffer, Buffer?][]) {
      const result = await execute(server, cdb, dataOut ? [dataOut] : []);
      expect([cdb[0], why(result)]).toEqual([cdb[0], [...condition.lbaOutOfRange]]);
    }
    expect(volumeOf(server).cache.equals(before)).toBe(true);
  });

  test("one bad range of an UNMAP list, and none is touched", async () => {
    const server = serverOf(true);
    const before = Buffer.from(volumeOf(server).cache);
    const cdb = sbc.unmap.encode({ parameterListLength: 40 });
    const result = await execute(server, cdb, [unmapList([0n, 8], [last, 2])]);
    expect(why(result)).toEqual([...condition.lbaOutOfRange]);
    expect(volumeOf(server).cache.equals(before)).toBe(true);
  });
});

test("any CDB and any data end in a status, and what is read-only stays as it is", async () => {
  const server = serverOf(true, true);
  const before = Buffer.from(volumeOf(server).cache);
  const commands = (await listedBy(server)).filter(({ code, action }) => !waits(code, action));
  const seen = new Set<number>();
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...commands),
      fc.uint8Array({ minLength: 32, maxLength: 32 }),
      fc.boolean(),
      fc.uint8Array({ maxLength: 600 }),
      async ({ code, action, cdbBytes }, bytes, calm, data) => {
        const cdb = Buffer.from(bytes.subarray(0, Math.max(16, cdbBytes)));
        if (calm) for (let i = 1; i < cdb.length; i++) cdb[i]! &= i % 3 === 0 ? 0x03 : 0;
        const fixed = cdbOf(code, action);
        if (code === 0x7f) fixed.copy(cdb, 7, 7, 10);
        else if (code === 0xd1) cdb[1] = action!;
        else if (action !== undefined) cdb[1] = (cdb[1]! & 0xe0) | action;
        cdb[0] = code;
        const wanted = server.transferOf(nexus, 0n, cdb);
        expect(wanted.dataOut + wanted.dataIn).toBeLessThanOrEqual(16 * 1024 * 1024);
        const result = await execute(server, cdb, [Buffer.from(data)], data.length);
        seen.add(result.status);
        if (result.status === 0) result.release?.();
        else if (result.status !== 0x18) {
          // MISCOMPARE and COPY ABORTED among them.
          expect([result.status, [2, 5, 6, 7, 0xa, 0xe].includes(result.sense!.key)]).toEqual([2, true]);
        }
      },
    ),
    { numRuns: 3000 },
  );
  expect([...seen].sort()).toEqual([0, 2, 0x18]);
  expect(volumeOf(server).cache.equals(before)).toBe(true);
});

describe("by sg3_utils' eyes", () => {
  async function seen(tool: string, data: Buffer, ...more: string[]): Promise<string> {
    await using folder = await WorkFolder.make();
    writeFileSync(folder.file("hex"), data.toString("hex").replace(/../g, "$& "));
    return execFileSync(tool, [`--inhex=${folder.file("hex")}`, ...more]).toString();
  }

  test("standard INQUIRY data", async () => {
    const data = dataOf(await execute(serverOf(true), spc.inquiry.encode({ allocationLength: 255 })));
    const text = await seen("sg_inq", data);
    for (const part of [/PQual=0 .*PDT=0/, /version=0x06\s+\[SPC-4\]/, /CmdQue=1/, /length=96 /, /disk/]) {
      expect(text).toMatch(part);
    }
    expect(text).toMatch(/Vendor identification: LUNSYNC\s+Product identification: VOLUME\s+.*level: 0\.1/);
  });

  test("every VPD page that page 00h lists", async () => {
    const server = serverOf(true);
    const list = await pageOf(server, 0);
    const codes = [...list.subarray(4)];
    expect(codes).toEqual([...codes].sort((a, b) => a - b));
    const supported = await seen("sg_vpd", list, "--page=sv");
    expect(supported).toContain("Supported VPD pages");
    expect(supported).toContain("Device identification [di]");
    for (const code of codes) expect((await pageOf(server, code))[1]).toBe(code);
    const serial = await seen("sg_vpd", await pageOf(server, 0x80), "--page=sn");
    expect(serial).toContain(uuid.replaceAll("-", ""));
    const identification = await seen("sg_vpd", await pageOf(server, 0x83), "--page=di");
    for (const part of [
      "0x323456789abc4def",
      "vendor id: LUNSYNC",
      "Relative target port: 0x1",
      `${names.targetName},t,0x0001`,
      "transport: Internet SCSI (iSCSI)",
    ]) {
      expect(identification).toContain(part);
    }
    const limits = await seen("sg_vpd", await pageOf(server, 0xb0), "--page=bl");
    expect(limits).toMatch(/Maximum transfer length: 16384 blocks/);
    expect(limits).toMatch(/Maximum unmap LBA count: 262144/);
    expect(limits).toMatch(/Maximum unmap block descriptor count: 256/);
    expect(limits).toMatch(/Optimal transfer length: 2048 blocks/);
    const device = await seen("sg_vpd", await pageOf(server, 0xb1), "--page=bdc");
    expect(device).toMatch(/Non-rotating medium/);
    const provisioning = await seen("sg_vpd", await pageOf(server, 0xb2), "--page=lbpv");
    expect(provisioning).toMatch(/Unmap command supported \(LBPU\): 1/);
    expect(provisioning).toMatch(/Provisioning type: 2 \(thin provisioned\)/);
  });

  test("GET LBA STATUS", async () => {
    const server = serverOf(true);
    volumeOf(server).cache.fill(0, 16 * 512, 48 * 512);
    volumeOf(server).holes = true;
    const cdb = sbc.getLbaStatus.encode({ startingLogicalBlockAddress: 8n, allocationLength: 4096 });
    const text = await seen("sg_get_lba_status", dataOf(await execute(server, cdb)), "--maxlen=4096");
    const rows = [...text.matchAll(/LBA: 0x([0-9a-f]+)\s+blocks:\s+(\d+)\s+(\w+)/g)];
    expect(rows.map(([, lba, count, state]) => [Number.parseInt(lba!, 16), Number(count), state])).toEqual([
      [8, 8, "mapped"],
      [16, 32, "deallocated"],
      [48, blocks - 48, "mapped"],
    ]);
  });
});
