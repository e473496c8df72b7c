// PDU headers by others' eyes: a capture that tshark dissected, headers put together by hand, RFC 3720's checksums.
import { describe, expect, test } from "vitest";
import type { Field, Layout } from "../../src/base/layout.ts";
import * as codes from "../../src/iscsi/codes.ts";
import { framePdu, PduDecoder } from "../../src/iscsi/framing.ts";
import * as wire from "../../src/iscsi/pdu.ts";
import { crc32c } from "../support/crc32c.ts";
import { capturedPdus } from "./captured-pdus.ts";

type AnyLayout = Layout<Record<string, Field<unknown>>>;
const layoutOf = (name: string) => (wire as unknown as Record<string, AnyLayout>)[name]!;

/** As tshark has them: the LUN as its number, the ISID in hexadecimal. */
function shown(decoded: Record<string, unknown>): Record<string, unknown> {
  const { lun, isid, ...rest } = decoded;
  return {
    ...rest,
    ...(typeof lun === "bigint" && { lunNumber: Number(lun >> 48n) }),
    ...(Buffer.isBuffer(isid) && { isid: isid.toString("hex") }),
  };
}

describe("what libiscsi and tgt sent is what tshark reads", () => {
  test.each(capturedPdus.map((each, i) => [`${each.layout} (${i})`, each] as const))("%s", (_what, each) => {
    const layout = layoutOf(each.layout);
    const header = Buffer.from(each.header, "hex");
    const decoded = layout.decode(header);
    const read = shown(decoded);
    // The F bit is a constant of some layouts; tshark shows it all the same.
    const { final, ...fields } = each.fields;
    if ("final" in read) expect(read.final).toBe(final);
    expect(Object.keys(fields).filter((key) => !(key in read))).toEqual([]);
    expect(read).toMatchObject(fields);
    expect(layout.encode(decoded).toString("hex")).toBe(each.header);
    expect(layout.reservedBitSet(header)).toBeUndefined();
  });

  test("every PDU that a session without errors has is among them", () => {
    expect([...new Set(capturedPdus.map(({ layout }) => layout))].sort()).toEqual([
      "dataInPdu",
      "dataOutPdu",
      "loginRequestPdu",
      "loginResponsePdu",
      "logoutRequestPdu",
      "logoutResponsePdu",
      "r2tPdu",
      "scsiCommandPdu",
      "scsiResponsePdu",
      "taskManagementRequestPdu",
      "taskManagementResponsePdu",
      "textRequestPdu",
      "textResponsePdu",
    ]);
  });
});

// Four bytes a word, as the figures of RFC 7143, section 11 draw them.
const words = (...hex: string[]) => {
  const bytes = Buffer.from(hex.join("").replaceAll(" ", ""), "hex");
  expect(bytes.length).toBe(48);
  return bytes;
};
const zero = "00000000";
const lun = ["00050000", zero];

describe("by hand, after the figures of RFC 7143", () => {
  test("11.18 NOP-Out: immediate, F, LUN, ITT, TTT, CmdSN, ExpStatSN", () => {
    const header = words(
      "40 80 0000",
      "00 000004",
      ...lun,
      "01020304",
      "ffffffff",
      "0a0b0c0d",
      "11121314",
      ...Array(4).fill(zero),
    );
    expect(wire.nopOutPdu.decode(header)).toEqual({
      immediate: true,
      totalAhsLength: 0,
      dataSegmentLength: 4,
      lun: 5n << 48n,
      initiatorTaskTag: 0x01020304,
      targetTransferTag: codes.noTag,
      cmdSN: 0x0a0b0c0d,
      expStatSN: 0x11121314,
    });
  });

  test("11.19 NOP-In: no I bit; StatSN, ExpCmdSN, MaxCmdSN", () => {
    const fields = {
      lun: 5n << 48n,
      initiatorTaskTag: codes.noTag,
      targetTransferTag: 7,
      statSN: 8,
      expCmdSN: 9,
      maxCmdSN: 10,
    };
    const header = words(
      "20 80 0000",
      zero,
      ...lun,
      "ffffffff",
      "00000007",
      "00000008",
      "00000009",
      "0000000a",
      ...Array(3).fill(zero),
    );
    expect(wire.nopInPdu.encode(fields).toString("hex")).toBe(header.toString("hex"));
  });

  test("11.9 Asynchronous Message: event, vendor code, three parameters", () => {
    const header = words(
      "32 80 0000",
      zero,
      ...lun,
      "ffffffff",
      zero,
      "00000001",
      "00000002",
      "00000003",
      "02 00 0001",
      "0002 0003",
      zero,
    );
    expect(wire.asyncMessagePdu.decode(header)).toMatchObject({
      statSN: 1,
      expCmdSN: 2,
      maxCmdSN: 3,
      asyncEvent: 2,
      asyncVCode: 0,
      parameter1: 1,
      parameter2: 2,
      parameter3: 3,
    });
  });

  test("11.17 Reject: reason, a task tag of ones, DataSN", () => {
    const header = words(
      "3f 80 04 00",
      "00 000030",
      ...Array(2).fill(zero),
      "ffffffff",
      zero,
      "00000001",
      "00000002",
      "00000003",
      "00000009",
      ...Array(2).fill(zero),
    );
    const fields = { reason: 4, dataSegmentLength: 48, statSN: 1, expCmdSN: 2, maxCmdSN: 3, dataSN: 9 };
    expect(wire.rejectPdu.encode(fields).toString("hex")).toBe(header.toString("hex"));
  });

  test("11.4 SCSI Response: the four residual bits, SNACK tag, both counts", () => {
    const header = words(
      "21 9e 01 02",
      zero,
      ...Array(2).fill(zero),
      "00000001",
      "00000002",
      "00000003",
      "00000004",
      "00000005",
      "00000006",
      "00000007",
      "00000008",
    );
    expect(wire.scsiResponsePdu.decode(header)).toMatchObject({
      bidirectionalReadResidualOverflow: true,
      bidirectionalReadResidualUnderflow: true,
      residualOverflow: true,
      residualUnderflow: true,
      response: 1,
      status: 2,
      snackTag: 2,
      expDataSN: 6,
      bidirectionalReadResidualCount: 7,
      residualCount: 8,
    });
    header[1] = 0x84; // "U" and "O" are bits 1 and 2, "u" and "o" bits 3 and 4
    expect(wire.scsiResponsePdu.decode(header)).toMatchObject({
      residualOverflow: true,
      residualUnderflow: false,
    });
    header[1] = 0x90;
    expect(wire.scsiResponsePdu.decode(header)).toMatchObject({
      bidirectionalReadResidualOverflow: true,
      bidirectionalReadResidualUnderflow: false,
      residualOverflow: false,
    });
  });

  test("11.15 Logout Response: Time2Wait before Time2Retain", () => {
    const header = words(
      "26 80 01 00",
      zero,
      ...Array(2).fill(zero),
      "00000001",
      zero,
      "00000002",
      "00000003",
      "00000004",
      zero,
      "0002 0014",
      zero,
    );
    expect(
      wire.logoutResponsePdu.encode({
        response: 1,
        initiatorTaskTag: 1,
        statSN: 2,
        expCmdSN: 3,
        maxCmdSN: 4,
        time2Wait: 2,
        time2Retain: 20,
      }),
    ).toEqual(header);
  });

  test("11.12 Login Request: T, C, stages, versions, ISID, TSIH, CID", () => {
    const header = words(
      "43 c6 01 00",
      "00 000200",
      "80 0001",
      "02 0003 1234",
      "00000009",
      "0077 0000",
      "00000001",
      "00000002",
      ...Array(4).fill(zero),
    );
    expect(wire.loginRequestPdu.decode(header)).toMatchObject({
      immediate: true,
      transit: true,
      continue: true,
      currentStage: 1,
      nextStage: 2,
      versionMax: 1,
      versionMin: 0,
      dataSegmentLength: 512,
      isid: Buffer.from("800001020003", "hex"),
      tsih: 0x1234,
      cid: 0x77,
    });
  });

  test("11.13 Login Response: status class and detail", () => {
    const header = words(
      "23 00 00 00",
      zero,
      "800001020003 0000",
      zero,
      zero,
      "00000001",
      "00000002",
      "00000003",
      "02 01 0000",
      ...Array(2).fill(zero),
    );
    expect(wire.loginResponsePdu.decode(header)).toMatchObject({
      statusClass: 2,
      statusDetail: 1,
      statSN: 1,
    });
    expect(codes.loginStatus.authenticationFailure).toBe(0x0201);
  });

  test("missing F bits and wrong opcodes are named by their place", () => {
    const header = wire.logoutRequestPdu.encode({});
    header[1] = 0;
    expect(() => wire.logoutRequestPdu.decode(header)).toThrow(expect.objectContaining({ byte: 1, bit: 7 }));
    expect(() => wire.nopOutPdu.decode(header)).toThrow(expect.objectContaining({ byte: 0, bit: 5 }));
  });
});

test("the numbers of section 11", () => {
  // 11.1.1.2 opcodes; 11.5.1 functions; 11.6.1 responses; 11.17.1 reasons; 11.13.5 login status, as the RFC lists them.
  expect(Object.values(codes.opcode)).toEqual([
    0, 1, 2, 3, 4, 5, 6, 0x10, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x31, 0x32, 0x3f,
  ]);
  expect(codes.taskFunction).toMatchObject({
    abortTask: 1,
    clearTaskSet: 4,
    logicalUnitReset: 5,
    targetColdReset: 7,
    taskReassign: 8,
  });
  expect(codes.taskResponse).toMatchObject({
    taskDoesNotExist: 1,
    lunDoesNotExist: 2,
    reassignNotSupported: 4,
    notSupported: 5,
    rejected: 255,
  });
  expect(codes.rejectReason).toMatchObject({
    dataDigestError: 2,
    protocolError: 4,
    commandNotSupported: 5,
    taskInProgress: 7,
    invalidPduField: 9,
  });
  expect(codes.loginStatus).toMatchObject({
    notFound: 0x203,
    tooManyConnections: 0x206,
    missingParameter: 0x207,
    sessionDoesNotExist: 0x20a,
  });
});

describe("digests of RFC 3720, B.4", () => {
  const rfc: [string, Buffer, string][] = [
    ["zeros", Buffer.alloc(32), "aa36918a"],
    ["ones", Buffer.alloc(32, 0xff), "43aba862"],
    ["counting up", Buffer.from(Array.from({ length: 32 }, (_, i) => i)), "4e79dd46"],
    ["counting down", Buffer.from(Array.from({ length: 32 }, (_, i) => 31 - i)), "5cdb3f11"],
  ];
  const on = { headerDigest: true, dataDigest: true };

  test.each(rfc)("32 bytes of %s as a data segment", (_what, data, digest) => {
    const wireBytes = Buffer.concat(framePdu(crc32c, on, Buffer.alloc(48), [data]));
    expect(wireBytes.subarray(-4).toString("hex")).toBe(digest);
  });

  test("a SCSI Read (10) Command PDU as a header", () => {
    const header = words(
      "01c00000",
      zero,
      zero,
      zero,
      "14000000",
      "00000400",
      "00000014",
      "00000018",
      "28000000",
      zero,
      "02000000",
      zero,
    );
    const wireBytes = Buffer.concat(framePdu(crc32c, on, header));
    expect(wireBytes.subarray(48).toString("hex")).toBe("563a96d9");
    const heads: Buffer[] = [];
    const decoder = new PduDecoder(crc32c, 8192);
    decoder.digests.headerDigest = true;
    decoder.push(wireBytes, { pdu: (pdu) => heads.push(pdu.header) });
    expect(wire.scsiCommandPdu.decode(heads[0]!)).toMatchObject({
      final: true,
      read: true,
      write: false,
      initiatorTaskTag: 0x14000000,
      expectedDataTransferLength: 1024,
      cmdSN: 20,
      expStatSN: 24,
    });
  });

  test("padding is counted in, and comes between data and digest", () => {
    const padded = Buffer.concat(framePdu(crc32c, on, Buffer.alloc(48), [Buffer.alloc(29)]));
    expect(padded.length).toBe(48 + 4 + 32 + 4);
    expect(padded.subarray(-4).toString("hex")).toBe("aa36918a");
  });
});
