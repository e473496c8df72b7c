// Peers that send what they must not: an orderly reject or close, and everybody else is served as before.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import * as codes from "../../src/iscsi/codes.ts";
import { extendedCdbAhs } from "../../src/iscsi/framing.ts";
import * as wire from "../../src/iscsi/pdu.ts";
import type { TextPairs } from "../../src/iscsi/text.ts";
import { read10, write10 } from "../../src/scsi/sbc-commands.ts";
import { below, bytesOf, randomOf, volumeOf } from "../support/data.ts";
import { RawInitiator } from "../support/raw-initiator.ts";
import { TestTarget, targetName } from "../support/target.ts";

const content = volumeOf(randomOf(1), 512 * 1024);
let target: TestTarget;
let healthy: RawInitiator;

beforeAll(async () => {
  target = await TestTarget.serving([content]);
  healthy = await RawInitiator.login(target.port, targetName, [], Buffer.from("80aaaaaaaaaa", "hex"));
  await healthy.settle();
});
afterAll(async () => {
  await healthy[Symbol.asyncDispose]();
  await target[Symbol.asyncDispose]();
});

/** The other session reads what it always read. */
async function othersAreServed(): Promise<void> {
  const outcome = await healthy.command(read10.encode({ logicalBlockAddress: 7, transferLength: 3 }), 1536);
  expect(outcome.status).toBe(0);
  expect(outcome.dataIn.equals(content.subarray(7 * 512, 10 * 512))).toBe(true);
  expect(target.log.filter((line) => line.startsWith("error"))).toEqual([]);
}

const login = (more: TextPairs = []) => RawInitiator.login(target.port, targetName, more);
const writes = { write: true, final: true, expectedDataTransferLength: 4096 };
const writeCdb = write10.encode({ logicalBlockAddress: 0, transferLength: 8 });

describe("before the login is over", () => {
  const named: TextPairs = [
    ["InitiatorName", "iqn.2026-11.com.example:raw"],
    ["TargetName", targetName],
  ];
  const cases: [string, (raw: RawInitiator) => void][] = [
    ["a SCSI command first", (raw) => raw.sendCommand(Buffer.alloc(6))],
    ["nothing but noise", (raw) => raw.sendBytes(bytesOf(randomOf(2), 4096))],
    [
      "an HTTP request",
      (raw) => raw.sendBytes(Buffer.from("GET / HTTP/1.1\r\nHost: storage.example.com\r\n\r\n")),
    ],
    ["a data segment that is too long", (raw) => raw.sendLogin(Buffer.alloc(9000, 0x41))],
    ["a key without =", (raw) => raw.sendLogin(Buffer.from("InitiatorName\0"), { currentStage: 1 })],
    ["text without NUL", (raw) => raw.sendLogin(Buffer.from("InitiatorName=iqn.x"), { currentStage: 1 })],
    ["a key of 64 characters", (raw) => raw.sendLogin([["K".repeat(64), "x"]], { currentStage: 1 })],
    [
      "a key twice",
      (raw) =>
        raw.sendLogin([...named, ["MaxBurstLength", "512"], ["MaxBurstLength", "1024"]], { currentStage: 1 }),
    ],
    ["no InitiatorName", (raw) => raw.sendLogin([["TargetName", targetName]], { currentStage: 1 })],
    ["no TargetName", (raw) => raw.sendLogin(named.slice(0, 1), { currentStage: 1 })],
    [
      "an unknown target",
      (raw) => raw.sendLogin([named[0]!, ["TargetName", "iqn.2026-11.x:none"]], { currentStage: 1 }),
    ],
    [
      "a number out of its range",
      (raw) => raw.sendLogin([...named, ["MaxBurstLength", "1"]], { currentStage: 1 }),
    ],
    [
      "T and C at once",
      (raw) => raw.sendLogin(named, { transit: true, continue: true, currentStage: 1, nextStage: 3 }),
    ],
    [
      "a stage that goes backwards",
      (raw) => raw.sendLogin(named, { transit: true, currentStage: 1, nextStage: 0 }),
    ],
    ["the reserved stage", (raw) => raw.sendLogin(named, { transit: true, currentStage: 1, nextStage: 2 })],
    [
      "an unknown TSIH",
      (raw) => raw.sendLogin(named, { transit: true, currentStage: 1, nextStage: 3, tsih: 77 }),
    ],
    [
      "a version of the future",
      (raw) => raw.sendLogin(named, { versionMin: 1, versionMax: 1, currentStage: 1 }),
    ],
    [
      "a session type of the future",
      (raw) => raw.sendLogin([...named, ["SessionType", "Cosy"]], { currentStage: 1 }),
    ],
    [
      "a name of 300 bytes",
      (raw) => raw.sendLogin([["InitiatorName", `iqn.${"x".repeat(300)}`]], { currentStage: 1 }),
    ],
  ];

  test.each(cases)("%s", async (_what, send) => {
    await using raw = await RawInitiator.connect(target.port);
    send(raw);
    await raw.ended();
    // What came before the end, if anything, is a login response with a failure status.
    for (const pdu of raw.pdus) expect(wire.loginResponsePdu.decode(pdu.header).statusClass).toBe(2);
    await othersAreServed();
  });

  test("64 KiB of text and more, in pieces", async () => {
    await using raw = await RawInitiator.connect(target.port);
    for (let i = 0; i < 12 && !raw.closed; i++) {
      raw.sendLogin(Buffer.from(`X-${i}=${"y".repeat(8000)}\0`), { continue: true, currentStage: 1 });
      await raw.next().catch(() => {});
    }
    await raw.ended();
    await othersAreServed();
  });

  test("a login that never ends", async () => {
    await using raw = await RawInitiator.connect(target.port);
    for (let i = 0; i < 40 && !raw.closed; i++) {
      raw.sendLogin(i === 0 ? named : [], { currentStage: 1 });
      await raw.next().catch(() => {});
    }
    await raw.ended();
    await othersAreServed();
  });
});

describe("in full-feature phase", () => {
  const aborted = (raw: RawInitiator) => {
    const last = raw.pdus.at(-1);
    return last === undefined ? undefined : wire.rejectPdu.decode(last.header).reason;
  };
  const cases: [string, (raw: RawInitiator) => void, TextPairs?][] = [
    ["a login request", (raw) => raw.sendLogin([])],
    [
      "a data segment past MaxRecvDataSegmentLength",
      (raw) => raw.sendCommand(writeCdb, writes, Buffer.alloc(300 * 1024)),
    ],
    [
      "immediate data past FirstBurstLength",
      (raw) => raw.sendCommand(writeCdb, { ...writes, expectedDataTransferLength: 4096 }, Buffer.alloc(4096)),
      [["FirstBurstLength", "512"]],
    ],
    [
      "immediate data past the expected length",
      (raw) => raw.sendCommand(writeCdb, writes, Buffer.alloc(8192)),
    ],
    [
      "immediate data that was not agreed upon",
      (raw) => raw.sendCommand(writeCdb, writes, Buffer.alloc(512)),
      [["ImmediateData", "No"]],
    ],
    [
      "immediate data for a command that reads",
      (raw) =>
        raw.sendCommand(Buffer.alloc(6), { read: true, expectedDataTransferLength: 512 }, Buffer.alloc(512)),
    ],
    [
      "unsolicited data that was not agreed upon",
      (raw) => raw.sendCommand(writeCdb, { ...writes, final: false }),
    ],
    [
      "Data-Out for no task",
      (raw) =>
        raw.send(
          wire.dataOutPdu.encode({ final: true, initiatorTaskTag: 4711, targetTransferTag: codes.noTag }),
          Buffer.alloc(512),
        ),
    ],
    [
      "Data-Out with an unknown transfer tag",
      (raw) => {
        const initiatorTaskTag = raw.sendCommand(writeCdb, writes);
        raw.send(
          wire.dataOutPdu.encode({ final: true, initiatorTaskTag, targetTransferTag: 0x7777 }),
          Buffer.alloc(4096),
        );
      },
    ],
    [
      "Data-Out in the wrong place",
      (raw) => {
        const initiatorTaskTag = raw.sendCommand(writeCdb, { ...writes, final: false });
        raw.send(
          wire.dataOutPdu.encode({ initiatorTaskTag, targetTransferTag: codes.noTag, bufferOffset: 1024 }),
          Buffer.alloc(512),
        );
      },
      [["InitialR2T", "No"]],
    ],
    [
      "Data-Out that overlaps",
      (raw) => {
        const initiatorTaskTag = raw.sendCommand(writeCdb, { ...writes, final: false }, Buffer.alloc(1024));
        raw.send(
          wire.dataOutPdu.encode({ initiatorTaskTag, targetTransferTag: codes.noTag, bufferOffset: 512 }),
          Buffer.alloc(512),
        );
      },
      [["InitialR2T", "No"]],
    ],
    [
      "Data-Out past the expected length",
      (raw) => {
        const initiatorTaskTag = raw.sendCommand(writeCdb, { ...writes, final: false }, Buffer.alloc(4096));
        raw.send(
          wire.dataOutPdu.encode({
            final: true,
            initiatorTaskTag,
            targetTransferTag: codes.noTag,
            bufferOffset: 4096,
          }),
          Buffer.alloc(512),
        );
      },
      [["InitialR2T", "No"]],
    ],
    [
      "a task tag that is in use",
      (raw) => {
        raw.sendCommand(writeCdb, { ...writes, initiatorTaskTag: 5 });
        raw.sendCommand(writeCdb, { ...writes, initiatorTaskTag: 5 });
      },
      [["ImmediateData", "No"]],
    ],
    [
      "an AHS of an unknown type",
      (raw) =>
        raw.sendCommand(Buffer.alloc(16), {}, undefined, Buffer.from("0001070000000000".slice(0, 8), "hex")),
    ],
    [
      "an AHS longer than its PDU",
      (raw) => raw.sendCommand(Buffer.alloc(16), {}, undefined, Buffer.from("ffff0100", "hex")),
    ],
    [
      "an AHS of length 0",
      (raw) => raw.sendCommand(Buffer.alloc(16), {}, undefined, Buffer.from("00000100", "hex")),
    ],
    [
      "two extended CDBs",
      (raw) =>
        raw.sendCommand(
          Buffer.alloc(16),
          {},
          undefined,
          Buffer.concat([extendedCdbAhs(Buffer.alloc(16)), extendedCdbAhs(Buffer.alloc(16))]),
        ),
    ],
    [
      "text that is F and C at once",
      (raw) =>
        raw.send(
          wire.textRequestPdu.encode({ immediate: true, final: true, continue: true, initiatorTaskTag: 1 }),
          Buffer.from("A=b\0"),
        ),
    ],
    [
      "text without NUL",
      (raw) =>
        raw.send(
          wire.textRequestPdu.encode({ immediate: true, final: true, initiatorTaskTag: 1 }),
          Buffer.from("SendTargets=All"),
        ),
    ],
  ];

  test.each(cases)("%s", async (_what, send, more) => {
    await using raw = await login(more);
    raw.pdus.length = 0;
    send(raw);
    await raw.ended();
    const reason = aborted(raw);
    if (reason !== undefined) expect([2, 4, 7, 9]).toContain(reason);
    await othersAreServed();
  });

  test("data out of sequence fails its command, and the session goes on", async () => {
    await using raw = await login([["InitialR2T", "No"]]);
    const initiatorTaskTag = raw.sendCommand(writeCdb, { ...writes, final: false });
    const dataOut = { initiatorTaskTag, targetTransferTag: codes.noTag };
    raw.send(wire.dataOutPdu.encode({ ...dataOut, dataSN: 3 }), Buffer.alloc(256));
    raw.send(
      wire.dataOutPdu.encode({ ...dataOut, dataSN: 4, bufferOffset: 256, final: true }),
      Buffer.alloc(256),
    );
    const outcome = await raw.outcome();
    expect(outcome.sense).toMatchObject({ key: 0xb, asc: 0x47, ascq: 5 });
    await othersAreServed();
  });

  test("wrong digests end the connection", async () => {
    for (const key of ["HeaderDigest", "DataDigest"]) {
      await using raw = await login([[key, "CRC32C"]]);
      const header = wire.nopOutPdu.encode({
        immediate: true,
        initiatorTaskTag: 9,
        targetTransferTag: codes.noTag,
      });
      header.writeUIntBE(4, 5, 3);
      raw.sendBytes(Buffer.concat([header, Buffer.from("abcdWRNG")]));
      await raw.ended();
      await othersAreServed();
    }
  });

  test("opcodes that nobody knows are rejected, and the session goes on", async () => {
    await using raw = await login();
    for (const opcode of [0x07, 0x0f, 0x1c, 0x1f]) {
      const header = Buffer.alloc(48);
      header[0] = 0x40 | opcode;
      header[1] = 0x80;
      raw.send(header);
      expect(wire.rejectPdu.decode((await raw.next()).header).reason).toBe(
        codes.rejectReason.commandNotSupported,
      );
    }
    await raw.settle();
  });

  test("variable-length CDBs of any claimed length get a status", async () => {
    await using raw = await login();
    await raw.settle();
    for (const [length, bytes] of [
      [0x18, 0],
      [0x18, 8],
      [0xff, 16],
      [0, 16],
      [0x17, 16],
      [0x18, 240],
    ] as const) {
      const cdb = Buffer.alloc(16);
      cdb[0] = 0x7f;
      cdb[7] = length;
      cdb.writeUInt16BE(0xf801, 8);
      const outcome = await raw.command(
        cdb,
        512,
        bytes === 0 ? undefined : extendedCdbAhs(Buffer.alloc(bytes)),
      );
      expect([outcome.status, outcome.sense?.key, outcome.sense?.asc]).toEqual([2, 5, 0x24]);
    }
  });
});

test("streams of PDUs with random damage: the target lives, and the others do not notice", async () => {
  const random = randomOf(99);
  for (let round = 0; round < 150; round++) {
    const raw =
      random() < 0.3 ? await RawInitiator.connect(target.port) : await login([["InitialR2T", "No"]]);
    const headers = [
      wire.scsiCommandPdu.encode({
        final: true,
        read: true,
        expectedDataTransferLength: 4096,
        initiatorTaskTag: 1,
        cmdSN: 1,
        cdb: read10.encode({ transferLength: 8 }),
      }),
      wire.nopOutPdu.encode({ immediate: true, initiatorTaskTag: 2, targetTransferTag: codes.noTag }),
      wire.taskManagementRequestPdu.encode({
        immediate: true,
        function: 1 + below(random, 8),
        initiatorTaskTag: 3,
      }),
      wire.textRequestPdu.encode({ immediate: true, final: true, initiatorTaskTag: 4 }),
      wire.dataOutPdu.encode({ final: true, initiatorTaskTag: 1, targetTransferTag: codes.noTag }),
    ];
    for (let i = 0; i < 6; i++) {
      const header = Buffer.from(headers[below(random, headers.length)]!);
      const data = bytesOf(random, below(random, 3) * 64);
      header.writeUIntBE(data.length, 5, 3);
      for (let damage = below(random, 4); damage > 0; damage--)
        header[below(random, 48)] = below(random, 256);
      raw.sendBytes(Buffer.concat([header, data]));
    }
    if (random() < 0.3) raw.socket.end();
    await raw.silent(5);
    await raw[Symbol.asyncDispose]();
  }
  // A target reset among them has ended every session: as any initiator does, log in again.
  await healthy[Symbol.asyncDispose]();
  healthy = await RawInitiator.login(target.port, targetName, [], Buffer.from("80aaaaaaaaaa", "hex"));
  await healthy.settle();
  await othersAreServed();
});
