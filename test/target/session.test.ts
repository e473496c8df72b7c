// A session in full-feature phase: order, data in every form, task management, reinstatement, small services.
import { readFile } from "node:fs/promises";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import * as codes from "../../src/iscsi/codes.ts";
import * as wire from "../../src/iscsi/pdu.ts";
import { read10, read16, write10, write16 } from "../../src/scsi/sbc-commands.ts";
import { reportSupportedOperationCodes } from "../../src/scsi/spc-commands.ts";
import { bytesOf, randomOf, volumeOf } from "../support/data.ts";
import { RawInitiator, textOf } from "../support/raw-initiator.ts";
import { TestTarget, targetName } from "../support/target.ts";

const content = volumeOf(randomOf(1), 1024 * 1024);
const isid = (last: number) => Buffer.from([0x80, 1, 2, 3, 4, last]);
const testUnitReady = Buffer.alloc(6);

async function ready(target: TestTarget, more: [string, string][] = [], id = isid(1)): Promise<RawInitiator> {
  const raw = await RawInitiator.login(target.port, targetName, more, id);
  await raw.settle();
  return raw;
}

/** Answers R2Ts with the data until the response comes. */
async function serveR2T(raw: RawInitiator, tag: number, data: Buffer, segment: number) {
  for (;;) {
    raw.pdus.unshift(await raw.next());
    if ((raw.pdus[0]!.header[0]! & 0x3f) !== codes.opcode.r2t) return raw.outcome();
    const r2t = wire.r2tPdu.decode(raw.pdus.shift()!.header);
    expect(r2t.initiatorTaskTag).toBe(tag);
    for (let done = 0, dataSN = 0; done < r2t.desiredDataTransferLength; dataSN++) {
      const bytes = Math.min(segment, r2t.desiredDataTransferLength - done);
      const at = r2t.bufferOffset + done;
      done += bytes;
      const final = done === r2t.desiredDataTransferLength;
      const { targetTransferTag } = r2t;
      raw.send(
        wire.dataOutPdu.encode({ final, initiatorTaskTag: tag, targetTransferTag, dataSN, bufferOffset: at }),
        data.subarray(at, at + bytes),
      );
    }
  }
}

test("writes arrive whole, however their data is sent", async () => {
  await using target = await TestTarget.serving([content]);
  await fc.assert(
    fc.asyncProperty(
      fc.record({
        blocks: fc.integer({ min: 1, max: 300 }),
        lba: fc.integer({ min: 0, max: 1700 }),
        immediate: fc.integer({ min: 0, max: 70_000 }),
        unsolicited: fc.integer({ min: 0, max: 70_000 }),
        segment: fc.integer({ min: 512, max: 8192 }),
        firstBurst: fc.constantFrom(512, 4096, 65_536),
        maxBurst: fc.constantFrom(65_536, 131_072),
        initialR2T: fc.boolean(),
        immediateData: fc.boolean(),
        seed: fc.integer(),
      }),
      async (shape) => {
        await using raw = await ready(target, [
          ["FirstBurstLength", `${shape.firstBurst}`],
          ["MaxBurstLength", `${shape.maxBurst}`],
          ["InitialR2T", shape.initialR2T ? "Yes" : "No"],
          ["ImmediateData", shape.immediateData ? "Yes" : "No"],
        ]);
        const data = bytesOf(randomOf(shape.seed), shape.blocks * 512);
        const immediate = shape.immediateData ? Math.min(shape.immediate, shape.firstBurst, data.length) : 0;
        const unsolicitedEnd = shape.initialR2T
          ? immediate
          : Math.min(data.length, shape.firstBurst, immediate + shape.unsolicited);
        const tag = raw.sendCommand(
          write10.encode({ logicalBlockAddress: shape.lba, transferLength: shape.blocks }),
          { write: true, final: unsolicitedEnd === immediate, expectedDataTransferLength: data.length },
          immediate > 0 ? data.subarray(0, immediate) : undefined,
        );
        for (let at = immediate, dataSN = 0; at < unsolicitedEnd; dataSN++) {
          const end = Math.min(unsolicitedEnd, at + shape.segment);
          const header = {
            final: end === unsolicitedEnd,
            initiatorTaskTag: tag,
            targetTransferTag: codes.noTag,
            dataSN,
            bufferOffset: at,
          };
          raw.send(wire.dataOutPdu.encode(header), data.subarray(at, end));
          at = end;
        }
        const outcome = await serveR2T(raw, tag, data, shape.segment);
        expect([outcome.status, outcome.residual]).toEqual([0, 0]);
        const back = await raw.command(
          read10.encode({ logicalBlockAddress: shape.lba, transferLength: shape.blocks }),
          data.length,
        );
        expect(back.dataIn.equals(data)).toBe(true);
      },
    ),
    { numRuns: 60 },
  );
  expect(target.log.filter((line) => line.startsWith("error"))).toEqual([]);
});

test("residual counts say what was not transferred, in both directions", async () => {
  await using target = await TestTarget.serving([content]);
  await using raw = await ready(target);
  const read = (blocks: number, bytes: number) =>
    raw.command(read16.encode({ logicalBlockAddress: 3n, transferLength: blocks }), bytes);
  const short = await read(2, 4096);
  expect([short.status, short.residual, short.dataIn.length]).toEqual([0, -3072, 1024]);
  const long = await read(8, 1000);
  expect([long.status, long.residual]).toEqual([0, 3096]);
  expect(long.dataIn.equals(content.subarray(1536, 2536))).toBe(true);
  const write = async (blocks: number, bytes: number) => {
    const data = Buffer.alloc(bytes, 0x77);
    const cdb = write16.encode({ logicalBlockAddress: 0n, transferLength: blocks });
    raw.sendCommand(cdb, { write: true, expectedDataTransferLength: bytes }, data);
    return raw.outcome();
  };
  expect((await write(1, 2048)).residual).toBe(-1536);
  expect((await write(4, 512)).residual).toBe(1536);
  const file = await readFile(target.files[0]!);
  expect(file.subarray(0, 512).equals(Buffer.alloc(512, 0x77))).toBe(true);
  expect(file.subarray(512, 2048).equals(content.subarray(512, 2048))).toBe(true);
});

test("a write that is said to read is refused, data in both directions after all of it has come", async () => {
  await using target = await TestTarget.serving([content]);
  await using raw = await ready(target, [["InitialR2T", "No"]]);
  const invalid = { key: 5, asc: 0x24 };
  const bytes = 4096;
  const asWritten = { read: true, expectedDataTransferLength: bytes };
  raw.sendCommand(write16.encode({ transferLength: 8 }), asWritten);
  expect((await raw.outcome()).sense).toMatchObject(invalid);
  for (const cdb of [read16, write16].map((layout) => layout.encode({ transferLength: 8 }))) {
    const initiatorTaskTag = raw.sendCommand(
      cdb,
      { read: true, write: true, final: false, expectedDataTransferLength: bytes },
      Buffer.alloc(512),
    );
    expect(await raw.silent(30)).toBe(true);
    const dataOut = { initiatorTaskTag, targetTransferTag: codes.noTag, bufferOffset: 512, final: true };
    raw.send(wire.dataOutPdu.encode(dataOut), Buffer.alloc(512));
    const outcome = await raw.outcome();
    expect(outcome.sense).toMatchObject(invalid);
    expect(outcome.dataIn.length).toBe(0);
  }
  expect((await raw.command(Buffer.alloc(6))).status).toBe(0);
  expect(await readFile(target.files[0]!)).toEqual(content);
});

describe("the order of commands", () => {
  test("what is outside the window, or came before, is ignored; what comes early waits for its turn", async () => {
    await using target = await TestTarget.serving([content]);
    await using raw = await ready(target);
    const due = raw.cmdSN;
    raw.sendCommand(testUnitReady, { cmdSN: due - 1, initiatorTaskTag: 1 });
    raw.sendCommand(testUnitReady, { cmdSN: due + 5000, initiatorTaskTag: 2 });
    expect(await raw.silent()).toBe(true);
    raw.sendCommand(testUnitReady, { cmdSN: due + 2, initiatorTaskTag: 12 });
    raw.sendCommand(testUnitReady, { cmdSN: due + 1, initiatorTaskTag: 11 });
    expect(await raw.silent()).toBe(true);
    raw.sendCommand(testUnitReady, { cmdSN: due, initiatorTaskTag: 10 });
    const tags = [];
    for (let i = 0; i < 3; i++)
      tags.push(wire.scsiResponsePdu.decode((await raw.next()).header).initiatorTaskTag);
    expect(tags).toEqual([10, 11, 12]);
  });

  test("MaxCmdSN never goes back, and sequence numbers wrap", async () => {
    await using target = await TestTarget.serving([content]);
    await using raw = await RawInitiator.connect(target.port);
    raw.cmdSN = 0xfffffffd;
    const names: [string, string][] = [
      ["InitiatorName", "iqn.2026-11.com.example:raw"],
      ["TargetName", targetName],
    ];
    raw.sendLogin(names, {
      transit: true,
      currentStage: 1,
      nextStage: 3,
      cmdSN: raw.cmdSN,
      expStatSN: 0xfffffffe,
    });
    await raw.next();
    let highest = 0;
    for (let i = 0; i < 12; i++) {
      raw.sendCommand(testUnitReady, { cmdSN: (0xfffffffd + i) >>> 0, initiatorTaskTag: 100 + i });
      const header = wire.scsiResponsePdu.decode((await raw.next()).header);
      expect(header.statSN).toBe((0xffffffff + i) >>> 0);
      expect(header.expCmdSN).toBe((0xfffffffe + i) >>> 0);
      const ahead = (header.maxCmdSN - 0xfffffffd) >>> 0;
      expect(ahead).toBeGreaterThanOrEqual(highest);
      highest = ahead;
    }
  });
});

describe("task management", () => {
  const manage = async (
    raw: RawInitiator,
    fields: Parameters<typeof wire.taskManagementRequestPdu.encode>[0],
  ) => {
    raw.send(
      wire.taskManagementRequestPdu.encode({
        immediate: true,
        initiatorTaskTag: 0x1000,
        cmdSN: raw.cmdSN,
        ...fields,
      }),
    );
    return wire.taskManagementResponsePdu.decode((await raw.next()).header).response;
  };

  test("a WRITE that waits for its data is aborted; what comes of it afterwards is ignored", async () => {
    await using target = await TestTarget.serving([content]);
    await using raw = await ready(target);
    const cmdSN = raw.cmdSN;
    const tag = raw.sendCommand(write10.encode({ transferLength: 8 }), {
      write: true,
      expectedDataTransferLength: 4096,
    });
    const r2t = wire.r2tPdu.decode((await raw.next()).header);
    expect(
      await manage(raw, { function: codes.taskFunction.abortTask, referencedTaskTag: tag, refCmdSN: cmdSN }),
    ).toBe(0);
    const { targetTransferTag } = r2t;
    raw.send(
      wire.dataOutPdu.encode({ final: true, initiatorTaskTag: tag, targetTransferTag }),
      Buffer.alloc(4096, 1),
    );
    expect(await raw.silent()).toBe(true);
    expect((await readFile(target.files[0]!)).equals(content)).toBe(true);
    // The tag is free again.
    raw.sendCommand(testUnitReady, { initiatorTaskTag: tag });
    expect((await raw.outcome()).status).toBe(0);
  });

  test("tasks, units and functions that do not exist", async () => {
    await using target = await TestTarget.serving([content]);
    await using raw = await ready(target);
    const refCmdSN = raw.cmdSN - 1;
    expect(await manage(raw, { function: 1, referencedTaskTag: 77, refCmdSN })).toBe(
      codes.taskResponse.taskDoesNotExist,
    );
    for (const func of [2, 4, 5]) {
      expect(await manage(raw, { function: func, lun: 9n << 48n })).toBe(codes.taskResponse.lunDoesNotExist);
    }
    expect(await manage(raw, { function: 8 })).toBe(codes.taskResponse.reassignNotSupported);
    expect(await manage(raw, { function: 99 })).toBe(codes.taskResponse.notSupported);
  });

  test("a logical unit reset is told to every session", async () => {
    await using target = await TestTarget.serving([content, content]);
    await using first = await ready(target, [], isid(1));
    await using second = await ready(target, [], isid(2));
    expect(await manage(first, { function: codes.taskFunction.logicalUnitReset })).toBe(0);
    for (const raw of [first, second]) {
      const told = await raw.command(testUnitReady);
      expect([told.status, told.sense?.key, told.sense?.asc, told.sense?.ascq]).toEqual([2, 6, 0x29, 3]);
      expect((await raw.command(testUnitReady)).status).toBe(0);
    }
    const other = await second.command(testUnitReady, 0, undefined, 1n << 48n);
    expect(other.sense?.ascq).toBe(0); // its first attention, not the other unit's reset
  });

  test("clearing the task set ends what others have there, and they are told", async () => {
    await using target = await TestTarget.serving([content]);
    await using first = await ready(target, [], isid(1));
    await using second = await ready(target, [], isid(2));
    second.sendCommand(write10.encode({ transferLength: 8 }), {
      write: true,
      expectedDataTransferLength: 4096,
    });
    await second.next(); // the R2T
    expect(await manage(first, { function: codes.taskFunction.clearTaskSet })).toBe(0);
    const told = await second.command(testUnitReady);
    expect([told.sense?.key, told.sense?.asc]).toEqual([6, 0x2f]);
    expect((await first.command(testUnitReady)).status).toBe(0);
  });

  test("a target reset ends the sessions", async () => {
    await using target = await TestTarget.serving([content]);
    await using first = await ready(target, [], isid(1));
    await using second = await ready(target, [], isid(2));
    expect(await manage(first, { function: codes.taskFunction.targetColdReset })).toBe(0);
    await Promise.all([first.ended(), second.ended()]);
    await using again = await RawInitiator.login(target.port, targetName, [], isid(2));
    expect((await again.command(testUnitReady)).sense?.key).toBe(6);
  });
});

test("the same initiator port logs in again: the old session ends, the new one is told of the loss", async () => {
  await using target = await TestTarget.serving([content]);
  await using old = await ready(target, [], isid(1));
  await using other = await ready(target, [], isid(2));
  await using again = await RawInitiator.login(target.port, targetName, [], isid(1));
  await old.ended();
  const told = await again.command(testUnitReady);
  expect([told.sense?.asc, told.sense?.ascq]).toEqual([0x29, 7]);
  expect((await other.command(testUnitReady)).status).toBe(0);
});

test("NOP-Out comes back, SendTargets names the target, a logout is answered", async () => {
  await using target = await TestTarget.serving([content]);
  for (const name of [targetName, undefined]) {
    await using raw = await RawInitiator.login(target.port, name);
    const nop = { immediate: true, initiatorTaskTag: 3, targetTransferTag: codes.noTag, cmdSN: raw.cmdSN };
    raw.send(wire.nopOutPdu.encode(nop), Buffer.from("are you there?"));
    expect((await raw.next()).data.toString()).toBe("are you there?");
    const ask = async (text: string) => {
      const header = {
        immediate: true,
        final: true,
        initiatorTaskTag: 4,
        targetTransferTag: codes.noTag,
        cmdSN: raw.cmdSN,
      };
      raw.send(wire.textRequestPdu.encode(header), Buffer.from(text));
      return textOf(await raw.next());
    };
    const here = [
      ["TargetName", targetName],
      ["TargetAddress", `127.0.0.1:${target.port},1`],
    ];
    expect(await ask(`SendTargets=${targetName}\0`)).toEqual(here);
    expect(await ask(name === undefined ? "SendTargets=All\0" : "SendTargets=\0")).toEqual(here);
    expect(await ask("SendTargets=iqn.2026-11.x:none\0")).toEqual([]);
    expect(await ask("X-org.example.Cosy=Yes\0")).toEqual([["X-org.example.Cosy", "NotUnderstood"]]);
    raw.send(wire.logoutRequestPdu.encode({ immediate: true, initiatorTaskTag: 5, cmdSN: raw.cmdSN }));
    expect(wire.logoutResponsePdu.decode((await raw.next()).header).response).toBe(0);
    await raw.ended();
  }
});

test("what REPORT SUPPORTED OPERATION CODES lists is there, and nothing else", async () => {
  await using target = await TestTarget.serving([content]);
  await using raw = await ready(target);
  const all = await raw.command(reportSupportedOperationCodes.encode({ allocationLength: 4096 }), 4096);
  const listed = new Map<number, number[]>();
  for (let at = 4; at < all.dataIn.length; at += 8) {
    const code = all.dataIn[at]!;
    listed.set(code, [...(listed.get(code) ?? []), all.dataIn.readUInt16BE(at + 2)]);
  }
  expect(listed.size).toBeGreaterThan(20);
  for (let code = 0; code < 256; code++) {
    const cdb = Buffer.alloc(16);
    cdb[0] = code;
    const outcome = await raw.command(cdb);
    const unknown = outcome.sense?.key === 5 && outcome.sense.asc === 0x20;
    expect([code, unknown]).toEqual([code, !listed.has(code)]);
    for (const action of listed.get(code) ?? []) {
      const one = reportSupportedOperationCodes.encode({
        reportingOptions: 3,
        requestedOperationCode: code,
        requestedServiceAction: action,
        allocationLength: 512,
      });
      const { dataIn } = await raw.command(one, 512);
      expect(dataIn[1]! & 7).toBe(3);
      expect(dataIn[4]).toBe(code);
      expect(dataIn.length).toBe(4 + dataIn.readUInt16BE(2));
    }
  }
});
