// Ports, groups, task management and logs: what a unit tells of them is true, and is what sg3_utils reads.
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { taskFunction, taskResponse } from "../../src/iscsi/codes.ts";
import * as wire from "../../src/iscsi/pdu.ts";
import { systemClock } from "../../src/platform/clock.ts";
import * as xcopy from "../../src/scsi/extended-copy.ts";
import { association, decodeDesignators, designatorType } from "../../src/scsi/inquiry-data.ts";
import * as pr from "../../src/scsi/persistent-reservation.ts";
import { startStopUnit } from "../../src/scsi/sbc-medium-commands.ts";
import * as spc from "../../src/scsi/spc-commands.ts";
import { DeviceServer } from "../../src/target/device-server.ts";
import { LogicalUnit } from "../../src/target/logical-unit.ts";
import type { Nexus } from "../../src/target/nexus.ts";
import { WorkFolder } from "../support/lunsync.ts";
import { MemoryVolume } from "../support/memory-volume.ts";
import { RawInitiator } from "../support/raw-initiator.ts";
import { TestTarget, targetName } from "../support/target.ts";
import { dataOf, nexusOf, reported, UnitUnderTest } from "../support/unit.ts";

const rtpg = (parameterDataFormat: number, allocationLength = 1024) =>
  spc.reportTargetPortGroups.encode({ parameterDataFormat, allocationLength });
const functions = (repd: boolean, allocationLength = 16) =>
  spc.reportSupportedTaskManagementFunctions.encode({ repd, allocationLength });
const log = (pageCode: number, more: Parameters<typeof spc.logSense.encode>[0] = {}) =>
  spc.logSense.encode({ pageControl: 1, pageCode, allocationLength: 1024, ...more });

const inquiryPage = (pageCode: number) =>
  spc.inquiry.encode({ evpd: true, pageCode, allocationLength: 4096 });

describe("REPORT TARGET PORT GROUPS", () => {
  // sg_rtpg 1.46 decodes these as: group 1, not preferred, active/optimized and no other state, port 1.
  const group = "00 01 0001 00 00 00 01 0000 0001";
  test.each([
    ["length only", 0, `0000000c ${group}`],
    ["extended", 1, `00000010 10 00 0000 ${group}`],
  ])("%s: one group, one port, active and optimized", async (_what, format, expected) => {
    const target = new UnitUnderTest();
    const nexus = target.nexus(1);
    const data = dataOf(await target.execute(nexus, rtpg(format)));
    expect(data.toString("hex")).toBe(expected.replaceAll(" ", ""));
    for (const length of [0, 3, 4, 11, data.length]) {
      const cut = dataOf(await target.execute(nexus, rtpg(format, length)));
      expect(cut.equals(data.subarray(0, length))).toBe(true);
    }
  });

  test("has no other format, and nobody sets states", async () => {
    const target = new UnitUnderTest();
    const nexus = target.nexus(1);
    for (let format = 2; format < 8; format++) {
      const result = await target.execute(nexus, rtpg(format));
      expect(reported(result)).toBe("invalidFieldInCdb");
      expect(result.sense!.fieldPointer).toEqual({ cdb: true, byte: 1, bit: 7 });
    }
    const setTargetPortGroups = Buffer.from("a40a00000000000000080000", "hex");
    const list = [Buffer.from("0000000000000001", "hex")];
    expect(reported(await target.execute(nexus, setTargetPortGroups, list))).toBe("invalidOperationCode");
  });

  test("names the port and the group of page 83h, and the port of page 88h; INQUIRY says implicit", async () => {
    const target = new UnitUnderTest();
    const nexus = target.nexus(1);
    const groups = dataOf(await target.execute(nexus, rtpg(0)));
    const page = dataOf(await target.execute(nexus, inquiryPage(0x83))).subarray(4);
    const ofPort = decodeDesignators(page).filter((each) => each.association === association.targetPort);
    const value = (type: number) => {
      const found = ofPort.filter((each) => each.type === type);
      expect(found.map(({ codeSet, protocol }) => [codeSet, protocol])).toEqual([[1, 5]]);
      return found[0]!.designator.readUInt32BE();
    };
    expect(value(designatorType.targetPortGroup)).toBe(groups.readUInt16BE(4 + 2));
    expect(value(designatorType.relativeTargetPort)).toBe(groups.readUInt16BE(4 + 8 + 2));
    const ports = dataOf(await target.execute(nexus, inquiryPage(0x88))).subarray(4);
    expect(ports.readUInt16BE(2)).toBe(groups.readUInt16BE(4 + 8 + 2));
    expect(ports.readUInt16BE(10)).toBe(ports.length - 12);
    const [name] = decodeDesignators(ports.subarray(12));
    expect(name).toEqual(ofPort.find((each) => each.type === designatorType.scsiNameString));
    const standard = dataOf(await target.execute(nexus, spc.inquiry.encode({ allocationLength: 96 })));
    expect((standard[5]! >> 4) & 3).toBe(1);
  });

  test("is answered while there is no medium", async () => {
    const target = new UnitUnderTest(256, { removable: true });
    const nexus = target.nexus(1);
    expect((await target.execute(nexus, startStopUnit.encode({ loej: true }))).status).toBe(0);
    expect(reported(await target.execute(nexus, spc.testUnitReady.encode({})))).toBe("mediumNotPresent");
    for (const cdb of [rtpg(1), functions(false), log(0x2f)]) {
      expect((await target.execute(nexus, cdb)).status).toBe(0);
    }
  });
});

describe("a reservation of another initiator", () => {
  async function send(target: UnitUnderTest, nexus: Nexus, layout: typeof pr.register, type: number) {
    const reservationKey = layout === pr.register ? 0n : 1n;
    const list = pr.parameterList.encode({ reservationKey, serviceActionReservationKey: 1n });
    const cdb = layout.encode({ type, parameterListLength: list.length });
    expect((await target.execute(nexus, cdb, [list])).status).toBe(0);
  }

  // SPC-4, table 67: the task management functions are told only where reading is allowed.
  test.each([
    ["Write Exclusive", pr.reservationType.writeExclusive, 0],
    ["Exclusive Access", pr.reservationType.exclusiveAccess, 0x18],
  ])("%s hides neither ports nor logs", async (_what, type, expected) => {
    const target = new UnitUnderTest();
    const [holder, other] = [target.nexus(1), target.nexus(2)];
    await send(target, holder, pr.register, 0);
    await send(target, holder, pr.reserve, type);
    const statusOf = async (cdb: Buffer) => (await target.execute(other, cdb)).status;
    expect([await statusOf(rtpg(0)), await statusOf(log(0)), await statusOf(functions(false))]).toEqual([
      0,
      0,
      expected,
    ]);
  });
});

describe("REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS", () => {
  test("lists what the target carries out, and nothing else", async () => {
    await using target = await TestTarget.serving([Buffer.alloc(64 * 1024)]);
    await using raw = await RawInitiator.login(target.port, targetName);
    await raw.settle();
    const { dataIn } = await raw.command(functions(false), 16);
    expect(dataIn.toString("hex")).toBe("da000000"); // ATS, ATSS, CTSS, LURS, TRS
    const long = (await raw.command(functions(true), 16)).dataIn;
    expect(long.toString("hex")).toBe(`da00000c${"00".repeat(12)}`);
    expect((await raw.command(functions(true, 3), 16)).sense).toMatchObject({ key: 5, asc: 0x24 });

    const reported: [func: number, byte: number, bit: number][] = [
      [taskFunction.abortTask, 0, 7],
      [taskFunction.abortTaskSet, 0, 6],
      [taskFunction.clearAca, 0, 5],
      [taskFunction.clearTaskSet, 0, 4],
      [taskFunction.logicalUnitReset, 0, 3],
      [taskFunction.targetWarmReset, 0, 1],
      // RFC 7144, 4.2: QUERY TASK, QUERY TASK SET, I_T NEXUS RESET, QUERY ASYNCHRONOUS EVENT
      [9, 0, 2],
      [10, 1, 1],
      [11, 1, 0],
      [12, 1, 2],
    ];
    for (const [func, byte, bit] of reported) {
      const cmdSN = raw.cmdSN;
      raw.send(
        wire.taskManagementRequestPdu.encode({
          immediate: true,
          function: func,
          initiatorTaskTag: 0x1000,
          referencedTaskTag: 0xffffffff,
          cmdSN,
          refCmdSN: cmdSN,
        }),
      );
      const { response } = wire.taskManagementResponsePdu.decode((await raw.next()).header);
      expect([func, response !== taskResponse.notSupported]).toEqual([
        func,
        (dataIn[byte]! & (1 << bit)) !== 0,
      ]);
    }
  });
});

describe("LOG SENSE", () => {
  async function read(bytes: Buffer): Promise<string> {
    await using folder = await WorkFolder.make();
    writeFileSync(folder.file("page"), bytes.toString("hex").replace(/../g, "$& "));
    return execFileSync("sg_logs", [`--in=${folder.file("page")}`, "--pdt=0"]).toString();
  }

  test("pages, as sg_logs reads them; those that are listed are there", async () => {
    const target = new UnitUnderTest();
    const nexus = target.nexus(1);
    const page = async (code: number, subpageCode = 0) =>
      dataOf(await target.execute(nexus, log(code, { subpageCode })));
    expect(await read(await page(0))).toMatch(/0x00 +Supported log pages.*0x2f +Informational exceptions/s);
    expect(await read(await page(0, 0xff))).toMatch(/0x00,0xff +Supported log pages and subpages/);
    const exceptions = await read(await page(0x2f));
    expect(exceptions).toMatch(/IE asc = 0x0, ascq = 0x0\s+Current temperature = <not available>/);
    const listed = (await page(0, 0xff)).subarray(4);
    for (let at = 0; at < listed.length; at += 2) {
      const bytes = await page(listed[at]!, listed[at + 1]!);
      expect([bytes[0]! & 0x3f, bytes[1], bytes.readUInt16BE(2)]).toEqual([
        listed[at],
        listed[at + 1],
        bytes.length - 4,
      ]);
      const cut = await target.execute(
        nexus,
        log(listed[at]!, { subpageCode: listed[at + 1]!, allocationLength: 5 }),
      );
      expect(dataOf(cut).equals(bytes.subarray(0, 5))).toBe(true);
    }
    expect([...(await page(0)).subarray(4)]).toEqual(
      [...listed].filter((_, i) => i % 2 === 0 && listed[i + 1] === 0),
    );
  });

  test.each([
    ["a page that is not here", log(0x0d), 2],
    ["a subpage that is not here", log(0x2f, { subpageCode: 0xff }), 3],
    ["a parameter behind the last", log(0x2f, { parameterPointer: 1 }), 5],
    ["saving", log(0x2f, { sp: true }), 1],
    ["what changed only", log(0x2f, { ppc: true }), 1],
  ])("refuses %s", async (_what, cdb, byte) => {
    const target = new UnitUnderTest();
    const result = await target.execute(target.nexus(1), cdb);
    expect(reported(result)).toBe("invalidFieldInCdb");
    expect(result.sense!.fieldPointer).toMatchObject({ cdb: true, byte });
  });
});

describe("two partitions of one disk", () => {
  const within = `within:same:${"5a".repeat(16)}`;
  const nexus = nexusOf(1);

  function partitions() {
    const units = [0, 1].map((lun) => {
      const volume = new MemoryVolume(`part${lun}`, Buffer.alloc(64 * 512, 0x10 + lun), 512);
      Object.assign(volume.identity, { keys: [`same:${`0${lun}`.repeat(16)}`, within] });
      const uuid = `0${lun}345678-9abc-4def-8123-456789abcdef`;
      return new LogicalUnit(lun, volume, { readonly: false, uuid, clock: systemClock });
    });
    const server = new DeviceServer(
      { targetName: "iqn.2026-11.com.example:disks", portalGroupTag: 1, revision: "0.1" },
      units,
    );
    server.nexusBegan(nexus);
    for (const unit of units) unit.takeAttention(nexus);
    const execute = (lun: number, cdb: Buffer, dataOut: Buffer[] = []) => {
      const whole = Buffer.alloc(16);
      cdb.copy(whole);
      return server.execute({
        nexus,
        lun: BigInt(lun) << 48n,
        cdb: whole,
        dataOut,
        dataOutBytesAnnounced: Buffer.concat(dataOut).length,
        dataInBytesMax: 65536,
        signal: new AbortController().signal,
      });
    };
    return { units, execute };
  }

  test("have no name in common; what they have in common is no name", async () => {
    const { execute } = partitions();
    const names: string[][] = [];
    for (const lun of [0, 1]) {
      const page = dataOf(await execute(lun, inquiryPage(0x83))).subarray(4);
      const ofUnit = decodeDesignators(page).filter((each) => each.association === association.logicalUnit);
      const isName = ({ type }: { type: number }) => type !== designatorType.vendorSpecific;
      names.push(ofUnit.filter(isName).map(({ designator }) => designator.toString("hex")));
      const rest = ofUnit
        .filter((each) => !isName(each))
        .map(({ designator }) => designator.toString("latin1"));
      expect(rest).toEqual([`LUNSYNC same:${`0${lun}`.repeat(16)}`, `LUNSYNC ${within}`]);
    }
    expect(names[0]).toHaveLength(2);
    expect(names[0]!.filter((name) => names[1]!.includes(name))).toEqual([]);
  });

  test("are not taken for each other by EXTENDED COPY", async () => {
    const { units, execute } = partitions();
    const serial = (lun: number) => Buffer.from(`LUNSYNC ${units[lun]!.serialNumber}`).subarray(0, 20);
    const copy = (type: number, [from, to]: [Buffer, Buffer]) => {
      const targets = [from, to].map((designator) =>
        xcopy.identificationTarget.encode({
          codeSet: 2,
          designatorType: type,
          designatorLength: designator.length,
          designator,
          blockBytes: 512,
        }),
      );
      const segment = xcopy.blockToBlockSegment.encode({ sourceIndex: 0, destinationIndex: 1, blocks: 1 });
      const list = Buffer.concat([
        xcopy.copyListHeader.encode({
          listIdentifier: 1,
          targetDescriptorListLength: Buffer.concat(targets).length,
          segmentDescriptorListLength: segment.length,
        }),
        ...targets,
        segment,
      ]);
      return execute(0, xcopy.extendedCopy.encode({ parameterListLength: list.length }), [list]);
    };
    const shared = Buffer.from(`LUNSYNC ${within}`).subarray(0, 20);
    for (const type of [designatorType.vendorSpecific, designatorType.t10VendorId]) {
      for (const names of [
        [shared, serial(1)],
        [serial(0), shared],
      ] as [Buffer, Buffer][]) {
        expect(reported(await copy(type, names))).toBe("copyTargetNotReachable");
      }
    }
    expect((await copy(designatorType.t10VendorId, [serial(0), serial(1)])).status).toBe(0);
    const block = Buffer.alloc(512);
    await units[1]!.volume.read(0, block);
    expect(block.every((byte) => byte === 0x10)).toBe(true);
    await units[1]!.volume.read(1, block);
    expect(block.every((byte) => byte === 0x11)).toBe(true);
  });
});
