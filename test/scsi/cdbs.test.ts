// CDBs and parameter data by the figures of SPC-4 and SBC-3, every field another value; and as libiscsi sent them.
import { describe, expect, test } from "vitest";
import type { Field, Layout } from "../../src/base/layout.ts";
import * as xcopy from "../../src/scsi/extended-copy.ts";
import * as persistent from "../../src/scsi/persistent-reservation.ts";
import * as sbc from "../../src/scsi/sbc-commands.ts";
import * as medium from "../../src/scsi/sbc-medium-commands.ts";
import * as verify from "../../src/scsi/sbc-verify-commands.ts";
import * as spc from "../../src/scsi/spc-commands.ts";

type AnyLayout = Layout<Record<string, Field<unknown>>>;
type Vector = readonly [layout: unknown, bytes: string, fields: Record<string, unknown>];
const any = (layout: unknown) => layout as AnyLayout;

const lba32 = { logicalBlockAddress: 0x01020304 };
const lba64 = { logicalBlockAddress: 0x0102030405060708n };

// Put together by hand. tshark 4.0.17 reads the same fields, as far as it shows them; of the 21 bits of an LBA in
// READ (6) and WRITE (6) it shows 20, where SBC-3 has five in byte 1.
const byHand: Vector[] = [
  [spc.testUnitReady, "00 00000000 00", {}],
  [spc.requestSense, "03 01 0000 fc 00", { desc: true, allocationLength: 252 }],
  [spc.inquiry, "12 01 83 0102 00", { evpd: true, pageCode: 0x83, allocationLength: 0x102 }],
  [
    spc.modeSense6,
    "1a 08 4a 02 c0 00",
    { dbd: true, pageControl: 1, pageCode: 10, subpageCode: 2, allocationLength: 0xc0 },
  ],
  [
    spc.modeSense10,
    "5a 18 8a 02 000000 0102 00",
    { llbaa: true, dbd: true, pageControl: 2, pageCode: 10, subpageCode: 2, allocationLength: 0x102 },
  ],
  [spc.reportLuns, "a0 00 02 000000 00001000 00 00", { selectReport: 2, allocationLength: 4096 }],
  [
    spc.reportSupportedOperationCodes,
    "a3 0c 82 9e 0012 00000400 00 00",
    {
      rctd: true,
      reportingOptions: 2,
      requestedOperationCode: 0x9e,
      requestedServiceAction: 0x12,
      allocationLength: 1024,
    },
  ],
  [
    spc.reportTargetPortGroups,
    "a3 2a 00000000 00000400 00 00",
    { parameterDataFormat: 1, allocationLength: 1024 },
  ],
  [
    spc.reportSupportedTaskManagementFunctions,
    "a3 0d 80 000000 00000010 00 00",
    { repd: true, allocationLength: 16 },
  ],
  [
    spc.logSense,
    "4d 03 6f ff 00 0102 0400 00",
    {
      ppc: true,
      sp: true,
      pageControl: 1,
      pageCode: 0x2f,
      subpageCode: 0xff,
      parameterPointer: 0x102,
      allocationLength: 1024,
    },
  ],
  [spc.modeSelect6, "15 11 0000 18 00", { pf: true, sp: true, parameterListLength: 24 }],
  [spc.modeSelect10, "55 12 0000000000 0123 00", { pf: true, rtd: true, parameterListLength: 0x123 }],
  ...(
    [
      [persistent.readKeys, 0x00],
      [persistent.readReservation, 0x01],
      [persistent.reportCapabilities, 0x02],
      [persistent.readFullStatus, 0x03],
    ] as const
  ).map(
    ([layout, action]): Vector => [layout, `5e 0${action} 0000000000 0102 00`, { allocationLength: 0x102 }],
  ),
  ...(
    [
      [persistent.register, 0x00],
      [persistent.reserve, 0x01],
      [persistent.release, 0x02],
      [persistent.clear, 0x03],
      [persistent.preempt, 0x04],
      [persistent.preemptAndAbort, 0x05],
      [persistent.registerAndIgnore, 0x06],
      [persistent.registerAndMove, 0x07],
    ] as const
  ).map(
    ([layout, action]): Vector => [
      layout,
      `5f 0${action} 25 0000 01020304 00`,
      { scope: 2, type: 5, parameterListLength: 0x1020304 },
    ],
  ),
  [persistent.reserve6, "16 00 000000 00", {}],
  [persistent.release6, "17 00 000000 00", {}],
  [persistent.reserve10, "56 00 0000000000 0102 00", { parameterListLength: 0x102 }],
  [persistent.release10, "57 00 0000000000 0102 00", { parameterListLength: 0x102 }],
  [xcopy.extendedCopy, "83 00 0000000000000000 01020304 00 00", { parameterListLength: 0x1020304 }],
  [
    xcopy.copyStatus,
    "84 00 05 00000000000000 01020304 00 00",
    { listIdentifier: 5, allocationLength: 0x1020304 },
  ],
  [
    xcopy.operatingParameters,
    "84 03 05 00000000000000 01020304 00 00",
    { listIdentifier: 5, allocationLength: 0x1020304 },
  ],
  [
    sbc.writeSame10,
    "41 28 01020304 05 0607 00",
    { wrprotect: 1, unmap: true, ...lba32, groupNumber: 5, numberOfLogicalBlocks: 0x607 },
  ],
  [
    verify.verify10,
    "2f 32 01020304 05 0607 00",
    { protect: 1, dpo: true, bytchk: 1, ...lba32, groupNumber: 5, length: 0x607 },
  ],
  [
    verify.verify12,
    "af 06 01020304 05060708 09 00",
    { bytchk: 3, ...lba32, length: 0x5060708, groupNumber: 9 },
  ],
  [
    verify.verify16,
    "8f 02 0102030405060708 090a0b0c 0d 00",
    { bytchk: 1, ...lba64, length: 0x90a0b0c, groupNumber: 13 },
  ],
  [
    verify.writeAndVerify10,
    "2e 02 01020304 05 0607 00",
    { bytchk: 1, ...lba32, groupNumber: 5, length: 0x607 },
  ],
  [
    verify.writeAndVerify12,
    "ae 10 01020304 05060708 09 00",
    { dpo: true, ...lba32, length: 0x5060708, groupNumber: 9 },
  ],
  [
    verify.writeAndVerify16,
    "8e e0 0102030405060708 090a0b0c 0d 00",
    { protect: 7, ...lba64, length: 0x90a0b0c, groupNumber: 13 },
  ],
  [
    verify.compareAndWrite,
    "89 18 0102030405060708 000000 0c 0d 00",
    { dpo: true, fua: true, ...lba64, length: 12, groupNumber: 13 },
  ],
  [
    verify.orWrite16,
    "8b 08 0102030405060708 090a0b0c 0d 00",
    { fua: true, ...lba64, length: 0x90a0b0c, groupNumber: 13 },
  ],
  [
    verify.writeAtomic16,
    "9c 08 0102030405060708 090a 0b0c 0d 00",
    { fua: true, ...lba64, atomicBoundary: 0x90a, length: 0xb0c, groupNumber: 13 },
  ],
  [medium.preFetch10, "34 02 01020304 05 0607 00", { immed: true, ...lba32, groupNumber: 5, length: 0x607 }],
  [
    medium.preFetch16,
    "90 02 0102030405060708 090a0b0c 0d 00",
    { immed: true, ...lba64, length: 0x90a0b0c, groupNumber: 13 },
  ],
  [
    medium.readDefectData10,
    "37 00 1d 00000000 0123 00",
    { reqPlist: true, reqGlist: true, defectListFormat: 5, allocationLength: 0x123 },
  ],
  [
    medium.readDefectData12,
    "b7 0c 01020304 05060708 00 00",
    { reqGlist: true, defectListFormat: 4, addressDescriptorIndex: 0x1020304, allocationLength: 0x5060708 },
  ],
  [medium.sanitizeOverwrite, "48 81 0000000000 0204 00", { immed: true, parameterListLength: 0x204 }],
  [medium.sanitizeBlockErase, "48 22 0000000000 0000 00", { ause: true }],
  [medium.sanitizeExitFailureMode, "48 1f 0000000000 0000 00", {}],
  [medium.preventAllowMediumRemoval, "1e 000000 01 00", { prevent: 1 }],
  [
    sbc.read6,
    "08 12 3456 07 00",
    { logicalBlockAddressHigh: 0x12, logicalBlockAddressLow: 0x3456, transferLength: 7 },
  ],
  [
    sbc.write6,
    "0a 1f ffff ff 00",
    { logicalBlockAddressHigh: 0x1f, logicalBlockAddressLow: 0xffff, transferLength: 255 },
  ],
  [
    sbc.read10,
    "28 18 01020304 05 0607 00",
    { dpo: true, fua: true, ...lba32, groupNumber: 5, transferLength: 0x607 },
  ],
  [
    sbc.write10,
    "2a 28 01020304 1f 0607 00",
    { wrprotect: 1, fua: true, ...lba32, groupNumber: 31, transferLength: 0x607 },
  ],
  [
    sbc.read12,
    "a8 0c 01020304 05060708 09 00",
    { fua: true, rarc: true, ...lba32, transferLength: 0x05060708, groupNumber: 9 },
  ],
  [
    sbc.write12,
    "aa 10 01020304 05060708 09 00",
    { dpo: true, ...lba32, transferLength: 0x05060708, groupNumber: 9 },
  ],
  [
    sbc.read16,
    "88 e8 0102030405060708 090a0b0c 0d 00",
    { rdprotect: 7, fua: true, ...lba64, transferLength: 0x090a0b0c, groupNumber: 13 },
  ],
  [
    sbc.write16,
    "8a 08 0102030405060708 090a0b0c 00 04",
    { fua: true, ...lba64, transferLength: 0x090a0b0c, control: 4 },
  ],
  [
    sbc.writeSame16,
    "93 09 0102030405060708 00000800 00 00",
    { unmap: true, ndob: true, ...lba64, numberOfLogicalBlocks: 2048 },
  ],
  [
    sbc.writeSame16,
    "93 50 0102030405060708 00000800 1f 00",
    { wrprotect: 2, anchor: true, ...lba64, numberOfLogicalBlocks: 2048, groupNumber: 31 },
  ],
  [sbc.unmap, "42 01 00000000 03 0018 00", { anchor: true, groupNumber: 3, parameterListLength: 24 }],
  [
    sbc.synchronizeCache10,
    "35 02 01020304 05 0607 00",
    { immed: true, ...lba32, groupNumber: 5, numberOfLogicalBlocks: 0x607 },
  ],
  [
    sbc.synchronizeCache16,
    "91 02 0102030405060708 090a0b0c 0d 00",
    { immed: true, ...lba64, numberOfLogicalBlocks: 0x090a0b0c, groupNumber: 13 },
  ],
  [sbc.readCapacity10, "25 00 01020304 0000 01 00", { ...lba32, pmi: true }],
  [
    sbc.readCapacity16,
    "9e 10 0102030405060708 00000020 01 00",
    { ...lba64, allocationLength: 32, pmi: true },
  ],
  [
    sbc.getLbaStatus,
    "9e 12 0102030405060708 00000218 00 00",
    { startingLogicalBlockAddress: 0x0102030405060708n, allocationLength: 0x218 },
  ],
  [
    medium.startStopUnit,
    "1b 01 00 02 37 00",
    { immed: true, powerConditionModifier: 2, powerCondition: 3, noFlush: true, loej: true, start: true },
  ],
];

// Origin: libiscsi 1.19 (iscsi-inq, iscsi-test-cu) against tgt 1.0.85, captured by tshark 4.0.17.
const captured: Vector[] = [
  [spc.inquiry, "1201b100ff00", { evpd: true, pageCode: 0xb1, allocationLength: 255 }],
  [spc.modeSense6, "1a003f00ff00", { pageCode: 0x3f, allocationLength: 255 }],
  [spc.reportSupportedOperationCodes, "a30c800000000000ffff0000", { rctd: true, allocationLength: 65535 }],
  [sbc.read16, "88000000000000001fb40000004c0000", { logicalBlockAddress: 8116n, transferLength: 76 }],
  [sbc.read10, "28000000001200000100", { logicalBlockAddress: 18, transferLength: 1 }],
  [sbc.read12, "a80000000000000000020000", { transferLength: 2 }],
  [sbc.write12, "aa0000000000000000010000", { transferLength: 1 }],
  [sbc.write16, "8a000000000000000000000000010000", { transferLength: 1 }],
  [sbc.readCapacity16, "9e100000000000000000000000200000", { allocationLength: 32 }],
];

// Parameter data: UNMAP's from the same capture, the rest after SBC-3.
const parameters: Vector[] = [
  [
    sbc.unmapParameterListHeader,
    "0016 0010 00000000",
    { unmapDataLength: 22, unmapBlockDescriptorDataLength: 16 },
  ],
  [sbc.unmapBlockDescriptor, "0000000000000000 00000001 00000000", { numberOfLogicalBlocks: 1 }],
  [
    sbc.lbaStatusDescriptor,
    "0102030405060708 00000800 01 000000",
    { ...lba64, numberOfLogicalBlocks: 2048, provisioningStatus: 1 },
  ],
  [sbc.readCapacity10Data, "00001fff 00000200", { returnedLogicalBlockAddress: 8191, blockLength: 512 }],
  [
    sbc.readCapacity16Data,
    `0000000000001fff 00000200 05 13 c102 ${"00".repeat(16)}`,
    {
      returnedLogicalBlockAddress: 8191n,
      blockLength: 512,
      pType: 2,
      protEn: true,
      piExponent: 1,
      logicalBlocksPerPhysicalBlockExponent: 3,
      lbpme: true,
      lbprz: true,
      lowestAlignedHigh: 1,
      lowestAlignedLow: 2,
    },
  ],
  [spc.lunListHeader, "00000010 00000000", { lunListLength: 16 }],
  [
    persistent.parameterList,
    "0102030405060708 1112131415161718 00000000 0d 00 0000",
    {
      reservationKey: 0x0102030405060708n,
      serviceActionReservationKey: 0x1112131415161718n,
      specIPt: true,
      allTgPt: true,
      aptpl: true,
    },
  ],
  [
    persistent.moveParameterList,
    "0102030405060708 1112131415161718 00 03 0203 00000018",
    {
      reservationKey: 0x0102030405060708n,
      serviceActionReservationKey: 0x1112131415161718n,
      unreg: true,
      aptpl: true,
      relativeTargetPort: 0x203,
      transportIdLength: 24,
    },
  ],
  [persistent.reservationHeader, "01020304 00000010", { generation: 0x1020304, additionalLength: 16 }],
  [
    persistent.reservationDescriptor,
    "0102030405060708 00000000 00 06 0000",
    { reservationKey: 0x0102030405060708n, type: 6 },
  ],
  [
    persistent.capabilitiesData,
    "0008 1d 91 ea 01 0000",
    {
      crh: true,
      sipC: true,
      atpC: true,
      ptplC: true,
      tmv: true,
      allowCommands: 1,
      ptplA: true,
      writeExclusiveAllRegistrants: true,
      exclusiveAccessRegistrantsOnly: true,
      writeExclusiveRegistrantsOnly: true,
      exclusiveAccess: true,
      writeExclusive: true,
      exclusiveAccessAllRegistrants: true,
    },
  ],
  [
    persistent.fullStatusDescriptor,
    "0102030405060708 00000000 03 05 00000000 0002 00000034",
    {
      reservationKey: 0x0102030405060708n,
      allTgPt: true,
      rHolder: true,
      type: 5,
      relativeTargetPort: 2,
      additionalDescriptorLength: 0x34,
    },
  ],
  [
    xcopy.copyListHeader,
    "07 33 0040 00000000 00000038 00000010",
    {
      listIdentifier: 7,
      sequentialStriped: true,
      listIdentifierUsage: 2,
      priority: 3,
      targetDescriptorListLength: 64,
      segmentDescriptorListLength: 56,
      inlineDataLength: 16,
    },
  ],
  [
    xcopy.blockToBlockSegment,
    "02 02 0018 0001 0002 0000 0304 0102030405060708 1112131415161718",
    {
      destinationCount: true,
      sourceIndex: 1,
      destinationIndex: 2,
      blocks: 0x304,
      sourceLba: 0x0102030405060708n,
      destinationLba: 0x1112131415161718n,
    },
  ],
  [
    xcopy.copyStatusData,
    "00000008 02 0102 01 01020304",
    { copyManagerStatus: 2, segmentsProcessed: 0x102, transferCountUnits: 1, transferCount: 0x1020304 },
  ],
];

/** What a field holds that is not mentioned. */
const zeroOf = (field: Field<unknown>) => (field.kind === "flag" ? false : field.kind === "u64" ? 0n : 0);

describe.each([
  ["by hand", byHand],
  ["captured", captured],
  ["parameter data", parameters],
] as const)("%s", (_origin, vectors) => {
  test.each(
    vectors.map(
      ([layout, text, fields]) => [any(layout).name, any(layout), text.replaceAll(" ", ""), fields] as const,
    ),
  )("%s", (_name, layout, hex, fields) => {
    expect(layout.encode(fields).toString("hex")).toBe(hex);
    const all = Object.entries(layout.fields).filter(([, field]) => field.constant === undefined);
    const rest = Object.fromEntries(all.map(([key, field]) => [key, zeroOf(field)]));
    expect(layout.decode(Buffer.from(hex, "hex"))).toEqual({ ...rest, ...fields });
    expect(layout.reservedBitSet(Buffer.from(hex, "hex"))).toBeUndefined();
  });
});

test("every CDB of SPC and SBC has a vector", () => {
  const cdbs = [spc, sbc, medium, verify, persistent, xcopy]
    .flatMap((each) => Object.values(each) as AnyLayout[])
    .filter((each) => each.fields?.operationCode !== undefined);
  const seen = new Set(byHand.map(([layout]) => layout));
  expect(cdbs.filter((each) => !seen.has(each)).map((each) => each.name)).toEqual([]);
});

test("reserved bits are known: every bit that is no field's", () => {
  // READ CAPACITY (16): byte 1 has the service action, byte 14 PMI.
  for (const [byte, reserved] of [
    [1, 0xe0],
    [14, 0xfe],
  ] as const) {
    for (let bit = 0; bit < 8; bit++) {
      const bytes = Buffer.alloc(16);
      bytes[byte] = 1 << bit;
      expect(sbc.readCapacity16.reservedBitSet(bytes)).toEqual(
        reserved & (1 << bit) ? { byte, bit } : undefined,
      );
    }
  }
});
