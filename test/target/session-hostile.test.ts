// What one session does while others are at work: nobody gets another's bytes, memory or turn.
import { readFile } from "node:fs/promises";
import { describe, expect, test, vi } from "vitest";
import * as codes from "../../src/iscsi/codes.ts";
import * as wire from "../../src/iscsi/pdu.ts";
import { read10, write10, write16 } from "../../src/scsi/sbc-commands.ts";
import { receive16 } from "../../src/scsi/vendor-commands.ts";
import { bytesOf, randomOf, volumeOf } from "../support/data.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { RawInitiator } from "../support/raw-initiator.ts";
import { TestTarget, targetName } from "../support/target.ts";

const content = volumeOf(randomOf(1), 1024 * 1024);
const isid = (last: number) => Buffer.from([0x80, 1, 2, 3, 4, last]);
const KiB = 1024;
const MiB = 1024 * KiB;

async function ready(target: TestTarget, last: number, more: [string, string][] = []): Promise<RawInitiator> {
  const raw = await RawInitiator.login(target.port, targetName, more, isid(last));
  await raw.settle();
  return raw;
}

/** A WRITE that waits for all of its data: its tag, and that of the R2T. */
async function waitingWrite(raw: RawInitiator, lba: number, bytes: number) {
  const initiatorTaskTag = raw.sendCommand(
    write10.encode({ logicalBlockAddress: lba, transferLength: bytes / 512 }),
    { write: true, expectedDataTransferLength: bytes },
  );
  const { targetTransferTag } = wire.r2tPdu.decode((await raw.next()).header);
  return { initiatorTaskTag, targetTransferTag };
}

async function manage(
  raw: RawInitiator,
  fields: Parameters<typeof wire.taskManagementRequestPdu.encode>[0],
): Promise<number> {
  const common = { immediate: true, initiatorTaskTag: 0x1000, cmdSN: raw.cmdSN };
  raw.send(wire.taskManagementRequestPdu.encode({ ...common, ...fields }));
  return wire.taskManagementResponsePdu.decode((await raw.next()).header).response;
}

test("data that is still coming for an aborted WRITE reaches nobody else's buffer", async () => {
  await using target = await TestTarget.serving([content]);
  await using slow = await ready(target, 1);
  await using resetter = await ready(target, 2);
  await using writer = await ready(target, 3);
  const bytes = 64 * KiB;
  // The slow one sends the head of its Data-Out and a little of the data.
  const aborted = await waitingWrite(slow, 0, bytes);
  const header = wire.dataOutPdu.encode({ final: true, ...aborted });
  header.writeUIntBE(bytes, 5, 3);
  slow.sendBytes(Buffer.concat([header, Buffer.alloc(512, 0xee)]));
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect(await manage(resetter, { function: codes.taskFunction.logicalUnitReset })).toBe(0);
  await writer.settle();
  // Another WRITE of the same size gets half of its data; then the rest of the aborted one's comes.
  const data = bytesOf(randomOf(2), bytes);
  const task = await waitingWrite(writer, 1000, bytes);
  writer.send(wire.dataOutPdu.encode(task), data.subarray(0, bytes / 2));
  expect((await writer.command(read10.encode({ transferLength: 1 }), 512)).status).toBe(0);
  slow.sendBytes(Buffer.alloc(bytes - 512, 0xee));
  await slow.settle();
  writer.send(
    wire.dataOutPdu.encode({ final: true, dataSN: 1, bufferOffset: bytes / 2, ...task }),
    data.subarray(bytes / 2),
  );
  expect((await writer.outcome()).status).toBe(0);
  const file = await readFile(target.files[0]!);
  expect(file.subarray(1000 * 512, 1000 * 512 + bytes).equals(data)).toBe(true);
  expect(file.subarray(0, bytes).equals(content.subarray(0, bytes))).toBe(true);
});

test("Data-Out for another LUN than its command's ends the connection, and is written nowhere", async () => {
  await using target = await TestTarget.serving([content, content]);
  await using raw = await ready(target, 1);
  const task = await waitingWrite(raw, 0, 4096);
  const lun = 1n << 48n;
  raw.send(wire.dataOutPdu.encode({ final: true, lun, ...task }), Buffer.alloc(4096, 0xee));
  await raw.ended();
  for (const file of target.files) expect(await readFile(file)).toEqual(content);
});

describe("a command that came before its turn", () => {
  const early = async (raw: RawInitiator) => {
    const cmdSN = raw.cmdSN + 1;
    const initiatorTaskTag = raw.sendCommand(
      write10.encode({ transferLength: 8 }),
      { write: true, expectedDataTransferLength: 4096, cmdSN, initiatorTaskTag: 0x77 },
      Buffer.alloc(4096, 0xdd),
    );
    expect(await raw.silent(50)).toBe(true);
    return { initiatorTaskTag, cmdSN, due: cmdSN - 1 };
  };

  test.each([
    ["ABORT TASK", codes.taskFunction.abortTask],
    ["ABORT TASK SET", codes.taskFunction.abortTaskSet],
    ["CLEAR TASK SET", codes.taskFunction.clearTaskSet],
    ["LOGICAL UNIT RESET", codes.taskFunction.logicalUnitReset],
    ["TARGET WARM RESET", codes.taskFunction.targetWarmReset],
  ])("is ended by %s, and takes its turn without being carried out", async (_what, func) => {
    await using target = await TestTarget.serving([content]);
    await using raw = await ready(target, 1);
    const { initiatorTaskTag, cmdSN, due } = await early(raw);
    const fields = { function: func, referencedTaskTag: initiatorTaskTag, refCmdSN: cmdSN };
    expect(await manage(raw, { ...fields, cmdSN: due + 2 })).toBe(0);
    raw.sendCommand(Buffer.alloc(6), { cmdSN: due });
    const answer = wire.scsiResponsePdu.decode((await raw.next()).header);
    expect(answer.expCmdSN).toBe(due + 2);
    raw.cmdSN = due + 2;
    await raw.settle();
    expect((await readFile(target.files[0]!)).equals(content)).toBe(true);
  });

  test("is carried out where a management function names another one, or a later one", async () => {
    await using target = await TestTarget.serving([content]);
    await using raw = await ready(target, 1);
    const { initiatorTaskTag, cmdSN, due } = await early(raw);
    const fields = { function: codes.taskFunction.abortTask, referencedTaskTag: initiatorTaskTag };
    const none = codes.taskResponse.taskDoesNotExist;
    expect(await manage(raw, { ...fields, refCmdSN: cmdSN, cmdSN })).toBe(none); // not before its own CmdSN
    expect(await manage(raw, { ...fields, refCmdSN: due - 1, cmdSN: due + 2 })).toBe(none);
    expect(await manage(raw, { ...fields, refCmdSN: due + 5000, cmdSN: due + 5001 })).toBe(none);
    expect(await manage(raw, { function: codes.taskFunction.abortTaskSet, cmdSN: due })).toBe(0);
    raw.sendCommand(Buffer.alloc(6), { cmdSN: due });
    expect((await raw.outcome()).status).toBe(0);
    expect((await raw.outcome()).status).toBe(0);
    expect((await readFile(target.files[0]!)).subarray(0, 4096).equals(Buffer.alloc(4096, 0xdd))).toBe(true);
  });

  test("that never came counts as received once it is aborted (RFC 7143, 11.5.1)", async () => {
    await using target = await TestTarget.serving([content]);
    await using raw = await ready(target, 1);
    const refCmdSN = raw.cmdSN++;
    const fields = { function: codes.taskFunction.abortTask, referencedTaskTag: 0x99, refCmdSN };
    expect(await manage(raw, { ...fields, cmdSN: raw.cmdSN })).toBe(0);
    expect((await raw.command(Buffer.alloc(6))).status).toBe(0);
  });
});

test("a SNACK, which has no CmdSN, takes nobody's turn and is rejected", async () => {
  await using target = await TestTarget.serving([content]);
  await using raw = await ready(target, 1);
  for (const cmdSN of [0, raw.cmdSN]) {
    const header = Buffer.alloc(48);
    header[0] = codes.opcode.snackRequest;
    header[1] = 0x80;
    header.writeUInt32BE(cmdSN, 24); // reserved there
    raw.send(header);
    expect(wire.rejectPdu.decode((await raw.next()).header).reason).toBe(codes.rejectReason.snackReject);
  }
  await raw.settle();
});

test("a RECEIVE that waits for its SUBMIT is aborted at once", async () => {
  await using target = await TestTarget.serving([content]);
  await using raw = await ready(target, 1);
  const receive = receive16.encode({ listIdentifier: 5, allocationLength: 512 });
  const refCmdSN = raw.cmdSN;
  const referencedTaskTag = raw.sendCommand(receive, { read: true, expectedDataTransferLength: 512 });
  expect(await raw.silent(50)).toBe(true);
  expect(await manage(raw, { function: codes.taskFunction.abortTask, referencedTaskTag, refCmdSN })).toBe(0);
  // What it waited for can be waited for anew.
  raw.sendCommand(receive, { read: true, expectedDataTransferLength: 512 });
  expect(await raw.silent(50)).toBe(true);
  expect(await manage(raw, { function: codes.taskFunction.logicalUnitReset })).toBe(0);
});

test("a discovery session of the same initiator port leaves the normal session alone", async () => {
  await using target = await TestTarget.serving([content]);
  await using normal = await ready(target, 1);
  await using discovery = await RawInitiator.login(target.port, undefined, [], isid(1));
  await using again = await RawInitiator.login(target.port, undefined, [], isid(1));
  await discovery.ended();
  const read = await normal.command(read10.encode({ transferLength: 1 }), 512);
  expect(read.dataIn.equals(content.subarray(0, 512))).toBe(true);
  expect(again.closed).toBe(false);
});

describe("an initiator that announces data and does not send it", () => {
  test("holds up others for a minute at most, however alive it looks", async () => {
    const clock = new FakeClock();
    await using target = await TestTarget.serving([content], { clock });
    await using healthy = await ready(target, 1);
    const silent: RawInitiator[] = [];
    for (let i = 0; i < 4; i++) {
      const raw = await ready(target, 2 + i);
      silent.push(raw);
      for (let each = 0; each < 2; each++) {
        const cdb = write16.encode({ transferLength: (8 * MiB) / 512 });
        raw.sendCommand(cdb, { write: true, expectedDataTransferLength: 8 * MiB });
        expect(wire.r2tPdu.decode((await raw.next()).header).desiredDataTransferLength).toBe(256 * KiB);
      }
    }
    // All the memory for data in flight is promised; a READ waits for some of it.
    healthy.sendCommand(read10.encode({ transferLength: 8 }), {
      read: true,
      expectedDataTransferLength: 4096,
    });
    expect(await healthy.silent(50)).toBe(true);
    const nop = { immediate: true, targetTransferTag: codes.noTag };
    for (let seconds = 0; seconds < 70 && healthy.pdus.length === 0; seconds += 5) {
      for (const raw of [...silent, healthy])
        raw.send(wire.nopOutPdu.encode({ ...nop, initiatorTaskTag: codes.noTag, cmdSN: raw.cmdSN }));
      await new Promise((resolve) => setTimeout(resolve, 20));
      clock.advance(5000);
      if (seconds < 40) expect(silent.map((raw) => raw.closed)).toEqual([false, false, false, false]);
    }
    const { dataIn } = await healthy.outcome();
    expect(dataIn.equals(content.subarray(0, 4096))).toBe(true);
    await Promise.all(silent.map((raw) => raw.ended()));
    expect(healthy.closed).toBe(false);
  });
});

describe("an initiator that asks and does not take the answers", () => {
  test("is closed before its answers fill the memory", async () => {
    await using target = await TestTarget.serving([content]);
    await using healthy = await ready(target, 1);
    await using greedy = await ready(target, 2, [["MaxRecvDataSegmentLength", "262144"]]);
    greedy.socket.pause();
    const nop = wire.nopOutPdu.encode({
      immediate: true,
      initiatorTaskTag: 9,
      targetTransferTag: codes.noTag,
    });
    nop.writeUIntBE(256 * KiB, 5, 3);
    const pdu = Buffer.concat([nop, Buffer.alloc(256 * KiB)]);
    for (let sent = 0; sent < 256 * MiB && !target.log.some((line) => /takes too little/.test(line)); ) {
      greedy.sendBytes(pdu);
      sent += pdu.length;
      await new Promise((resolve) => setImmediate(resolve));
    }
    await vi.waitFor(() => expect(target.log.join("\n")).toMatch(/warning.*takes too little/), 10_000);
    const read = await healthy.command(read10.encode({ transferLength: 1 }), 512);
    expect(read.dataIn.equals(content.subarray(0, 512))).toBe(true);
  });
});

test("text that goes on and on without a byte costs nothing, and its limit holds for what has bytes", async () => {
  await using target = await TestTarget.serving([content]);
  await using raw = await ready(target, 1);
  const request = { immediate: true, continue: true, initiatorTaskTag: 7, targetTransferTag: codes.noTag };
  const go = async (data?: Buffer) => {
    raw.send(wire.textRequestPdu.encode({ ...request, cmdSN: raw.cmdSN }), data);
    return wire.textResponsePdu.decode((await raw.next()).header);
  };
  for (let i = 0; i < 300; i++) expect((await go()).final).toBe(false);
  for (let i = 0; i < 8; i++) await go(Buffer.alloc(8000, 0x41));
  await expect(go(Buffer.alloc(8000, 0x41)).then((response) => response.final)).rejects.toThrow();
});
