// The initiator's side of whole generations: what it asks, repeats and believes.
import { expect, test } from "vitest";
import { AgentError } from "../../src/base/errors.ts";
import { systemClock } from "../../src/platform/clock.ts";
import type { ScsiOutcome } from "../../src/scsi/command.ts";
import { receive16, receive32 } from "../../src/scsi/vendor-commands.ts";
import { ScsiVolume } from "../../src/volume/scsi-volume.ts";
import { bytesOf, randomOf } from "../support/data.ts";
import { memoryWhole } from "../support/memory-journal.ts";
import { MemoryVolume } from "../support/memory-volume.ts";
import { UnitUnderTest } from "../support/unit.ts";
import { UnitDevice } from "../support/unit-device.ts";

const [runA, runB] = [Buffer.alloc(16, 0xa), Buffer.alloc(16, 0xb)];

async function unitOf(cdbBytesMax = 32) {
  const memory = new MemoryVolume("disk", bytesOf(randomOf(1), 300 * 512), 512);
  const over = await memoryWhole(memory, () => 5);
  const device = new UnitDevice(new UnitUnderTest(300, { over }), { cdbBytesMax });
  // Polling takes no time.
  const volume = await ScsiVolume.open(device, { ...systemClock, sleep: async () => {} });
  return { device, volume, memory, journal: over.journal };
}

const codeOf = (work: Promise<unknown>) =>
  work.then(
    () => "no error",
    (error) => (error instanceof AgentError ? error.code : error),
  );

/** Changes the data of the next answer to a RECEIVE that is longer than its head. */
function changed(device: UnitDevice, change: (data: Buffer) => Buffer, times = 1): void {
  let left = times;
  const receives = new Set([receive16.encode({})[0], receive32.encode({})[0]]);
  device.after = (outcome, command): ScsiOutcome => {
    if (left === 0 || !receives.has(command.cdb[0]) || outcome.dataIn.length <= 32) return outcome;
    left--;
    const head = outcome.dataIn.subarray(0, 32);
    return { ...outcome, dataIn: Buffer.concat([head, change(Buffer.from(outcome.dataIn.subarray(32)))]) };
  };
}

test.each([16, 32])(
  "CDBs of %i bytes: a run is begun, told of, rolled back, begun and committed",
  async (bytes) => {
    const { volume, memory } = await unitOf(bytes);
    const before = Buffer.from(memory.cache);
    expect(volume.traits.keepsWhole).toBe(true);
    expect(await volume.wholeState()).toMatchObject({ state: "whole", keptExtents: 0 });
    await volume.beginWhole(runA);
    await volume.write(3, [Buffer.alloc(512)]);
    expect(await volume.wholeState()).toMatchObject({
      state: "open",
      run: runA,
      keptExtents: 1,
      keptBytes: 65_536,
      sinceMs: 5,
    });
    expect(await codeOf(volume.commitWhole(runB))).toBe("backup_mismatch");
    expect(await volume.rollBackWhole()).toEqual({ extents: 1, bytes: 65_536, unreadable: 0, lost: 0 });
    expect(memory.medium.equals(before)).toBe(true);
    await volume.beginWhole(runB);
    await volume.write(3, [Buffer.alloc(512)]);
    const set = Buffer.alloc(16, 3);
    await volume.commitWhole(runB, { label: { set, generation: 2 ** 40 } });
    expect((await volume.wholeState()).label).toEqual({ set, generation: 2 ** 40, handedOut: false });
    expect(await volume.rollBackWhole()).toEqual({ extents: 0, bytes: 0, unreadable: 0, lost: 0 });
    expect(memory.medium.subarray(3 * 512, 4 * 512).equals(Buffer.alloc(512))).toBe(true);
    await volume.beginWhole(runA);
    expect(await codeOf(volume.labelWhole({ set, generation: 5, handedOut: true }))).toBe("not_whole");
    await volume.rollBackWhole();
    await volume.labelWhole({ set, generation: 5, handedOut: true });
    expect((await volume.wholeState()).label).toEqual({ set, generation: 5, handedOut: true });
    expect(await codeOf(volume.beginWhole(runA))).toBe("split_brain");
    await volume.labelWhole(undefined);
    expect((await volume.wholeState()).label).toBeUndefined();
  },
);

test("a unit to which others have written is rolled back by force alone", async () => {
  const { volume, journal } = await unitOf();
  await volume.beginWhole(runA);
  await journal.note("remember", { foreign: true });
  expect(await codeOf(volume.rollBackWhole())).toBe("backup_mismatch");
  expect((await volume.wholeState()).state).toBe("open");
  await volume.rollBackWhole({ force: true });
  expect((await volume.wholeState()).state).toBe("whole");
});

test("a roll back that is under way is asked after until it has ended", async () => {
  const { device, volume } = await unitOf();
  await volume.beginWhole(runA);
  let asked = 0;
  // The first two answers after that to WHOLE STATE.
  changed(
    device,
    (data) => {
      if (asked++ > 0) data[0]! |= 1;
      return data;
    },
    3,
  );
  await volume.rollBackWhole();
  expect(asked).toBe(3);
});

test("answers that are none are a protocol error", async () => {
  const { device, volume } = await unitOf();
  await volume.beginWhole(runA);
  changed(device, (data) => data.subarray(0, 20));
  expect(await codeOf(volume.wholeState())).toBe("protocol_error");
  changed(device, (data) => data.fill(0xff));
  expect(await codeOf(volume.wholeState())).toBe("protocol_error");
  changed(device, (data) => data.subarray(0, 3), 2);
  expect(await codeOf(volume.rollBackWhole())).toBe("protocol_error");
});

test("a unit that keeps nothing is not asked", async () => {
  const volume = await ScsiVolume.open(new UnitDevice(), systemClock);
  expect(volume.traits.keepsWhole).toBe(false);
  expect(await codeOf(volume.wholeState())).toBe("internal");
});
