// Runs written and copied by the vendor commands: what the initiator sends, what it makes of failures, and the whole of
// it over a socket.
import { readFile, stat } from "node:fs/promises";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { lengthOf } from "../../src/base/bytes.ts";
import { AgentError } from "../../src/base/errors.ts";
import { openVolume } from "../../src/cli/volumes.ts";
import { parseDigestSpec } from "../../src/digest/spec.ts";
import { systemClock } from "../../src/platform/clock.ts";
import type { ScsiCommand } from "../../src/scsi/command.ts";
import * as extents from "../../src/scsi/extent-commands.ts";
import { ScsiVolume } from "../../src/volume/scsi-volume.ts";
import { throttled } from "../../src/volume/throttled.ts";
import type { ExtentCopy, ExtentRun } from "../../src/volume/volume.ts";
import { bytesOf, randomOf } from "../support/data.ts";
import { sha256 } from "../support/extent-lists.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { TestTarget, targetName } from "../support/target.ts";
import { UnitUnderTest } from "../support/unit.ts";
import { UnitDevice } from "../support/unit-device.ts";

const digest = parseDigestSpec("sha256");
const stored = { digest, level: 0 };
const compressed = { digest, level: 1 };
const random = randomOf(6);

async function opened(blocks = 256, options: ConstructorParameters<typeof UnitDevice>[1] = {}) {
  const target = new UnitUnderTest(blocks);
  bytesOf(randomOf(2), target.volume.cache.length).copy(target.volume.cache);
  const device = new UnitDevice(target, options);
  const volume = await ScsiVolume.open(device, systemClock);
  return { device, volume, memory: target.volume, target };
}

const runOf = (lba: number, data: Buffer): ExtentRun => ({ lba, blocks: data.length / 512, data });

async function failure(pending: Promise<unknown>): Promise<[code: string, lba: number | undefined]> {
  try {
    await pending;
  } catch (error) {
    if (error instanceof AgentError) return [error.code, error.lba];
    throw error;
  }
  return ["none", undefined];
}

describe("writing", () => {
  test.each([16, 32])("goes by lists that the unit takes, with CDBs of %i bytes", async (cdbBytesMax) => {
    const { device, volume, memory } = await opened(8192, { cdbBytesMax, transferBytesPreferred: 100_000 });
    const model = Buffer.from(memory.cache);
    // More than one command takes, at once and in pieces, and runs that overlap.
    const large = bytesOf(random, 300 * 512);
    const runs = [
      runOf(0, large),
      { lba: 290, blocks: 20 },
      ...Array.from({ length: 300 }, (_, i) => runOf(400 + 3 * i, bytesOf(random, 2 * 512))),
      runOf(300, Buffer.alloc(200 * 512, "small ")),
    ];
    for (const { lba, blocks, data } of runs) (data ?? Buffer.alloc(blocks * 512)).copy(model, lba * 512);
    const sent = await volume.writeExtents(runs, compressed);
    expect(memory.cache.equals(model)).toBe(true);
    const layout = cdbBytesMax === 16 ? extents.writeExtents16 : extents.writeExtents32;
    const lists = device.sent(layout.encode({}));
    expect(lists.length).toBeGreaterThan(4);
    expect(lists.length).toBeLessThan(20);
    const lengths = lists.map(({ dataOut }) => lengthOf(dataOut!));
    expect(Math.max(...lengths)).toBeLessThanOrEqual(100_000);
    expect(sent).toBe(lengths.reduce((sum, length) => sum + length, 0));
  });

  test("compresses what becomes smaller by it, and sends the rest as it is", async () => {
    const { device, volume } = await opened();
    const soft = Buffer.alloc(64 * 512, "soft ");
    const hard = bytesOf(random, 64 * 512);
    expect(await volume.writeExtents([runOf(0, soft)], compressed)).toBeLessThan(200);
    expect(await volume.writeExtents([runOf(0, soft)], stored)).toBe(16 + 24 + 32 + soft.length);
    expect(await volume.writeExtents([runOf(0, hard)], compressed)).toBe(16 + 24 + 32 + hard.length);
    expect(await volume.writeExtents([{ lba: 0, blocks: 9 }], compressed)).toBe(16 + 24);
    expect(await volume.writeExtents([], compressed)).toBe(0);
    const forms = device.sent(extents.writeExtents32.encode({})).map(({ dataOut }) => {
      const [, descriptor] = dataOut!;
      return extents.writeRun.decode(descriptor!).form;
    });
    expect(forms).toEqual([1, 0, 0, 2]);
  });

  test("any runs, in any lists, come out as if they were written one after another", async () => {
    const run = fc.record({
      lba: fc.nat(200),
      blocks: fc.integer({ min: 1, max: 56 }),
      kind: fc.constantFrom("soft", "hard", "zeros"),
    });
    const limits = fc.record({
      cdbBytesMax: fc.constantFrom(16, 32),
      transferBytesPreferred: fc.integer({ min: 4096 + 512, max: 60_000 }),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(run, { maxLength: 20 }), limits, fc.nat(3), async (runs, options, level) => {
        const { volume, memory } = await opened(256, options);
        const model = Buffer.from(memory.cache);
        const made = runs.map(({ lba, blocks, kind }, i): ExtentRun => {
          if (kind === "zeros") return { lba, blocks };
          return runOf(
            lba,
            kind === "soft" ? Buffer.alloc(blocks * 512, `${i} `) : bytesOf(random, blocks * 512),
          );
        });
        for (const { lba, blocks, data } of made) (data ?? Buffer.alloc(blocks * 512)).copy(model, lba * 512);
        await volume.writeExtents(made, { digest, level });
        expect(memory.cache.equals(model)).toBe(true);
      }),
      { numRuns: 150 },
    );
  });

  /** Damages the data of the run at an LBA, so many times. */
  function damaging(device: UnitDevice, lba: number, times: number): void {
    let left = times;
    device.before = (command: ScsiCommand) => {
      if (command.cdb.readUInt16BE(8) !== 0xf804 || left === 0) return command;
      const list = Buffer.concat(command.dataOut!);
      const count = list.readUInt16BE(8);
      let at = 16 + 24 * count;
      for (let i = 0; i < count; i++) {
        const run = extents.writeRun.decode(list, 16 + 24 * i);
        at += run.form === 2 ? 0 : 32 + run.dataLength;
        if (run.logicalBlockAddress === BigInt(lba)) {
          list[at - 1]! ^= 1;
          left--;
        }
      }
      return { ...command, dataOut: [list] };
    };
  }

  test("what is damaged on its way is sent again, from the run on that it was in", async () => {
    const { device, volume, memory } = await opened();
    const model = Buffer.from(memory.cache);
    const runs = [
      runOf(3, bytesOf(random, 1024)),
      runOf(9, bytesOf(random, 512)),
      runOf(20, bytesOf(random, 512)),
    ];
    for (const { lba, data } of runs) data!.copy(model, lba * 512);
    damaging(device, 9, 2);
    await volume.writeExtents(runs, stored);
    expect(memory.cache.equals(model)).toBe(true);
    const counts = device
      .sent(extents.writeExtents32.encode({}))
      .map(({ dataOut }) => dataOut![0]!.readUInt16BE(8));
    expect(counts).toEqual([3, 2, 2]);
  });

  test("what is damaged again and again is not written, nor what comes behind it", async () => {
    const { device, volume, memory } = await opened();
    const model = Buffer.from(memory.cache);
    const runs = [
      runOf(3, bytesOf(random, 1024)),
      runOf(9, bytesOf(random, 512)),
      runOf(20, bytesOf(random, 512)),
    ];
    runs[0]!.data!.copy(model, 3 * 512);
    damaging(device, 9, Number.POSITIVE_INFINITY);
    expect(await failure(volume.writeExtents(runs, stored))).toEqual(["io_error", 9]);
    expect(memory.cache.equals(model)).toBe(true);
  });

  test("a block that can't be written, no room, a range outside: as for write()", async () => {
    const { volume, memory } = await opened();
    memory.unwritable.add(10);
    expect(await failure(volume.writeExtents([runOf(9, Buffer.alloc(1024, 1))], stored))).toEqual([
      "medium_error",
      10,
    ]);
    memory.room = 0;
    expect((await failure(volume.writeExtents([{ lba: 0, blocks: 1 }], stored)))[0]).toBe("no_space");
    expect((await failure(volume.writeExtents([{ lba: 255, blocks: 2 }], stored)))[0]).toBe("internal");
    const strange = { digest: parseDigestSpec("sha512(md5+crc64)"), level: 0 };
    expect((await failure(volume.writeExtents([runOf(9, Buffer.alloc(512, 1))], strange)))[0]).toBe(
      "digest_unknown",
    );
  });

  test("writes that a reset may have dropped are not proved by the next flush", async () => {
    for (const act of [
      (volume: ScsiVolume) => volume.writeExtents([{ lba: 0, blocks: 1 }], stored),
      (volume: ScsiVolume) => volume.copyExtents([], digest),
    ]) {
      const { volume, target } = await opened();
      await volume.flush();
      await act(volume);
      target.unit.reset();
      expect((await failure(volume.flush()))[0]).toBe("not_proved");
    }
  });
});

describe("copying", () => {
  const copyOf = (content: Buffer, from: number, to: number, blocks: number): ExtentCopy => ({
    from,
    to,
    blocks,
    identifier: sha256(content.subarray(from * 512, (from + blocks) * 512)),
  });

  test.each([16, 32])(
    "tells what was copied and what was not, with CDBs of %i bytes",
    async (cdbBytesMax) => {
      const { volume, memory } = await opened(256, { cdbBytesMax });
      const model = Buffer.from(memory.cache);
      memory.unreadable.add(70);
      memory.unwritable.add(131);
      const copies = [
        copyOf(model, 0, 100, 8),
        { ...copyOf(model, 0, 120, 8), from: 1 },
        copyOf(model, 9, 200, 1),
        copyOf(model, 69, 210, 4),
        copyOf(model, 0, 130, 4),
        copyOf(model, 20, 230, 2),
      ];
      const copied = await volume.copyExtents(copies, digest);
      expect(copied).toEqual([true, false, true, false, false, true]);
      copies.forEach(({ from, to, blocks }, i) => {
        if (copied[i]) model.copy(model, to * 512, from * 512, (from + blocks) * 512);
      });
      expect(memory.cache.equals(model)).toBe(true);
    },
  );

  test("goes by lists that the unit takes; what is larger than any list is left to be shipped", async () => {
    const { device, volume, memory } = await opened(40_000, { transferBytesPreferred: 5000 });
    const content = Buffer.from(memory.cache);
    const small = Array.from({ length: 300 }, (_, i) => copyOf(content, i, 20_000 + i, 1));
    const large = copyOf(content, 0, 20_000, 16_385);
    const whole = copyOf(content, 0, 21_000, 16_384);
    const copied = await volume.copyExtents([...small, large, whole], digest);
    expect(copied).toEqual([...new Array(300).fill(true), false, true]);
    expect(
      memory.cache.subarray(21_000 * 512, (21_000 + 16_384) * 512).equals(content.subarray(0, 8 << 20)),
    ).toBe(true);
    for (const { dataOut } of device.sent(extents.copyExtents32.encode({})))
      expect(lengthOf(dataOut!)).toBeLessThanOrEqual(5000);
  });

  test("where hardly anything is there the rest is left to be shipped", async () => {
    const { device, volume, memory } = await opened();
    const before = Buffer.from(memory.cache);
    const wrong = { from: 0, to: 100, blocks: 1, identifier: Buffer.alloc(32) };
    expect(await volume.copyExtents(new Array(200).fill(wrong), digest)).toEqual(new Array(200).fill(false));
    expect(device.sent(extents.copyExtents32.encode({})).length).toBe(16);
    expect(memory.cache.equals(before)).toBe(true);
  });

  test("an identifier of another length is a mistake of ours; a full disk concerns all", async () => {
    const { volume, memory } = await opened();
    const wrong = { from: 0, to: 100, blocks: 1, identifier: Buffer.alloc(16) };
    expect((await failure(volume.copyExtents([wrong], digest)))[0]).toBe("internal");
    memory.room = 0;
    expect((await failure(volume.copyExtents([copyOf(memory.cache, 0, 9, 1)], digest)))[0]).toBe("no_space");
  });
});

test("a unit that claims to have done more runs than there are is not believed", async () => {
  const { device, volume } = await opened();
  device.after = (outcome) => ({
    ...outcome,
    status: 2,
    sense: { key: 0xe, asc: 0x1d, ascq: 0, information: 0, commandSpecific: 1 },
  });
  expect((await failure(volume.writeExtents([{ lba: 0, blocks: 1 }], stored)))[0]).toBe("protocol_error");
  const copy = { from: 0, to: 100, blocks: 1, identifier: Buffer.alloc(32) };
  expect((await failure(volume.copyExtents([copy], digest)))[0]).toBe("protocol_error");
});

test("they are there only where page DBh says so, and takes at least a block", async () => {
  const traitsWith = async (change: (page: Buffer) => void) => {
    const device = new UnitDevice();
    device.after = (outcome, { cdb }) => {
      if (cdb[0] === 0x12 && cdb[2] === 0xdb) change(outcome.dataIn);
      return outcome;
    };
    const volume = await ScsiVolume.open(device, systemClock);
    const { writesExtents, copiesExtents } = volume.traits;
    if (!writesExtents)
      expect((await failure(volume.writeExtents([{ lba: 0, blocks: 1 }], stored)))[0]).toBe("internal");
    if (!copiesExtents) expect((await failure(volume.copyExtents([], digest)))[0]).toBe("internal");
    return [writesExtents, copiesExtents];
  };
  expect(await traitsWith(() => {})).toEqual([true, true]);
  expect(await traitsWith((page) => page.fill(0, 62, 72))).toEqual([false, false]);
  expect(await traitsWith((page) => page.writeUInt8(1, 62))).toEqual([true, false]);
  expect(await traitsWith((page) => page.writeUInt8(2, 62))).toEqual([false, true]);
  expect(await traitsWith((page) => page.writeUInt16BE(0, 68))).toEqual([false, false]);
  expect(await traitsWith((page) => page.writeUInt32BE(511, 64))).toEqual([false, false]);
});

test("a limit of the bandwidth counts what was sent, not what it expands to", async () => {
  const { volume } = await opened(8192);
  const clock = new FakeClock();
  const slow = throttled(volume, 100_000, clock);
  clock.advance(1000);
  const soft = runOf(0, Buffer.alloc(2048 * 512, "soft "));
  const hard = runOf(0, bytesOf(random, 256 * 512)); // 1.3 s
  for (let i = 0; i < 10; i++) await slow.writeExtents!([soft], compressed);
  expect(clock.pending).toBe(0);
  await slow.writeExtents!([hard], compressed);
  let done = false;
  const next = slow.writeExtents!([hard], compressed).then(() => {
    done = true;
  });
  for (const ms of [900, 600]) {
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(done).toBe(false);
    clock.advance(ms);
  }
  await next;
  expect(await slow.copyExtents!([], digest)).toEqual([]);
});

test("over a socket: runs are compressed, written, copied and unmapped in the file of the target", async () => {
  const content = bytesOf(randomOf(5), 32 * 1024 * 1024);
  await using target = await TestTarget.serving([content]);
  const url = `iscsi://127.0.0.1:${target.port}/${targetName}/0`;
  await using volume = await openVolume(url, { writable: true });
  expect([volume.traits.writesExtents, volume.traits.copiesExtents]).toEqual([true, true]);
  const model = Buffer.from(content);
  const mib = 2048;
  const soft = Buffer.alloc(4 * 1024 * 1024, "soft data ");
  const hard = bytesOf(random, 3 * 1024 * 1024 + 512);
  const runs: ExtentRun[] = [
    runOf(1, soft),
    runOf(10 * mib + 7, hard),
    { lba: 16 * mib, blocks: 8 * mib },
    ...Array.from({ length: 500 }, (_, i) => runOf(5 * mib + 16 * i, soft.subarray(0, 8 * 512))),
  ];
  for (const { lba, blocks, data } of runs) (data ?? Buffer.alloc(blocks * 512)).copy(model, lba * 512);
  const before = volume.traffic.sent;
  const sent = await volume.writeExtents!(runs, compressed);
  expect(sent).toBeLessThan(hard.length + 200_000);
  expect(volume.traffic.sent - before).toBeLessThan(sent + 20_000);
  const identified = (from: number, to: number, blocks: number) => ({
    from,
    to,
    blocks,
    identifier: sha256(model.subarray(from * 512, (from + blocks) * 512)),
  });
  const copies = [
    identified(10 * mib + 7, 26 * mib, mib),
    { ...identified(0, 28 * mib, mib), from: 9 },
    identified(26 * mib, 30 * mib + 1, 5),
  ];
  hard.copy(model, 26 * mib * 512, 0, mib * 512);
  // What is copied in the third place is what the first has brought.
  copies[2]!.identifier = sha256(hard.subarray(0, 5 * 512));
  expect(await volume.copyExtents!(copies, digest)).toEqual([true, false, true]);
  hard.copy(model, (30 * mib + 1) * 512, 0, 5 * 512);
  await volume.flush();
  expect((await readFile(target.files[0]!)).equals(model)).toBe(true);
  expect((await stat(target.files[0]!)).blocks).toBeLessThanOrEqual((32 - 8) * mib + 64);
  expect(target.log.filter((line) => line.startsWith("error"))).toEqual([]);
});
