// BEGIN WHOLE, COMMIT WHOLE, ROLL BACK and WHOLE STATE at the target: what they do, and to whom they are refused.
import { describe, expect, test } from "vitest";
import { systemClock } from "../../src/platform/clock.ts";
import { systemRandom } from "../../src/platform/random.ts";
import { decodeVendorPage, parseUuid } from "../../src/scsi/inquiry-data.ts";
import * as pr from "../../src/scsi/persistent-reservation.ts";
import { write16 } from "../../src/scsi/sbc-commands.ts";
import { inquiry } from "../../src/scsi/spc-commands.ts";
import { parameterListHeader, receive16, submit16, vendorFunction } from "../../src/scsi/vendor-commands.ts";
import {
  rollBackList,
  rolledBackAnswer,
  setLabelList,
  wholeCommitList,
  wholeRunList,
  wholeStateAnswer,
} from "../../src/scsi/whole-lists.ts";
import type { Nexus } from "../../src/target/nexus.ts";
import { openWhole } from "../../src/whole/keeper.ts";
import { WorkFolder } from "../support/lunsync.ts";
import { MemoryVolume } from "../support/memory-volume.ts";
import { dataOf, reported, UnitUnderTest } from "../support/unit.ts";

const uuid = "12345678-9abc-4def-8123-456789abcdef"; // of the unit
const volumeUuid = parseUuid(uuid);
const [runA, runB] = [Buffer.alloc(16, 0xa), Buffer.alloc(16, 0xb)];
const conflict = 0x18;
const { beginWhole, commitWhole, rollBack, setLabel, wholeState } = vendorFunction;

let nextList = 1;

/** A unit of 300 blocks that keeps its last whole generation. */
async function make(folder: WorkFolder, readonly = false) {
  const volume = new MemoryVolume("whole", Buffer.alloc(300 * 512, 0xa5), 512);
  volume.holes = true;
  const keeper = await openWhole(volume, {
    folder: folder.path,
    clock: systemClock,
    random: systemRandom,
    log: () => {},
    changedMs: async () => undefined,
  });
  const target = new UnitUnderTest(300, { over: keeper.volume, readonly, uuid });
  return { volume, target, keeper };
}

/** What SUBMIT reports, and where it is good, RECEIVE. */
async function submit(target: UnitUnderTest, nexus: Nexus, func: number, data: Buffer = Buffer.alloc(0)) {
  const listIdentifier = nextList++;
  const head = parameterListHeader.encode({ function: func, dataLength: data.length });
  const parameterListLength = head.length + data.length;
  const list = submit16.encode({ listIdentifier, parameterListLength });
  const submitted = await target.execute(nexus, list, [head, data]);
  if (submitted.status !== 0) return submitted;
  return target.execute(nexus, receive16.encode({ listIdentifier, allocationLength: 128 }));
}

const runList = (run: Buffer) => wholeRunList.encode({ volumeUuid, run });
const commitList = (run: Buffer) => wholeCommitList.encode({ volumeUuid, run });
const labelList = setLabelList.encode({ volumeUuid, set: Buffer.alloc(16, 9), generation: 7n });
const backList = rollBackList.encode({ volumeUuid });
const testUnitReady = Buffer.alloc(6);

const write = (target: UnitUnderTest, nexus: Nexus, lba: number, fill: number) =>
  target.execute(nexus, write16.encode({ logicalBlockAddress: BigInt(lba), transferLength: 1 }), [
    Buffer.alloc(512, fill),
  ]);

async function stateOf(target: UnitUnderTest, nexus: Nexus) {
  const result = await submit(target, nexus, wholeState);
  return wholeStateAnswer.decode(dataOf(result).subarray(32));
}

describe("a unit", () => {
  test("is rolled back: its content is as it was, and the others are told", async () => {
    await using folder = await WorkFolder.make();
    const { target, volume, keeper } = await make(folder);
    await using _keeper = keeper;
    const [asking, other] = [target.nexus(1), target.nexus(2)];
    const before = Buffer.from(volume.cache);
    expect(reported(await submit(target, asking, beginWhole, runList(runA)))).toBe(0);
    await write(target, asking, 5, 1);
    await write(target, other, 299, 2);
    expect(await stateOf(target, other)).toMatchObject({ open: true, keptExtents: 2n, run: runA });
    const done = await submit(target, asking, rollBack, backList);
    expect(rolledBackAnswer.decode(dataOf(done).subarray(32))).toEqual({
      underWay: false,
      extents: 2n,
      bytes: 65_536n + 22_528n,
      unreadable: 0n,
      lost: 0n,
    });
    expect([volume.cache.equals(before), volume.medium.equals(before)]).toEqual([true, true]);
    expect(reported(await target.execute(asking, testUnitReady))).toBe(0);
    expect(reported(await target.execute(other, testUnitReady))).toBe("mediumMayHaveChanged");
    expect(await stateOf(target, other)).toMatchObject({ open: false, keptExtents: 0n });
    // Once more: there is nothing to do.
    const again = await submit(target, asking, rollBack, backList);
    expect(rolledBackAnswer.decode(dataOf(again).subarray(32)).extents).toBe(0n);
  });

  test("that takes long to be rolled back says so; whoever asks again waits for the same roll back, and it is told once", async () => {
    await using folder = await WorkFolder.make();
    const { target, volume, keeper } = await make(folder);
    await using _keeper = keeper;
    const [asking, other] = [target.nexus(1), target.nexus(2)];
    await submit(target, asking, beginWhole, runList(runA));
    await write(target, asking, 5, 1);
    const held = Promise.withResolvers<void>();
    const reached = Promise.withResolvers<void>();
    let flushes = 0;
    volume.before = (operation) => {
      if (operation !== "flush") return;
      flushes++;
      reached.resolve();
      return held.promise;
    };
    expect(await target.unit.rollBack(false, asking, 0)).toBeUndefined();
    expect(await target.unit.rollBack(false, other, 0)).toBeUndefined();
    await reached.promise;
    expect(await stateOf(target, other)).toMatchObject({ open: true, rollingBack: true });
    held.resolve();
    expect(await target.unit.rollBack(false, asking, 60_000)).toMatchObject({ extents: 1 });
    expect(flushes).toBe(1);
    expect(await target.unit.rollBack(false, asking, 60_000)).toMatchObject({ extents: 0 });
  });

  test("whose roll back has ended, and nobody asked, is not taken to be rolled back from a later run", async () => {
    await using folder = await WorkFolder.make();
    const { target, volume, keeper } = await make(folder);
    await using _keeper = keeper;
    const nexus = target.nexus(1);
    await submit(target, nexus, beginWhole, runList(runA));
    await write(target, nexus, 5, 1);
    const held = Promise.withResolvers<void>();
    volume.before = (operation) => (operation === "flush" ? held.promise : undefined);
    expect(await target.unit.rollBack(false, nexus, 0)).toBeUndefined();
    held.resolve();
    await submit(target, nexus, beginWhole, runList(runB));
    await write(target, nexus, 299, 1);
    expect(await target.unit.rollBack(false, nexus, 60_000)).toMatchObject({ extents: 1, bytes: 22_528 });
    expect(volume.medium[299 * 512]).toBe(0xa5);
  });

  test("is committed by the run that is open, and by no other; a commit can be repeated", async () => {
    await using folder = await WorkFolder.make();
    const { target, volume, keeper } = await make(folder);
    await using _keeper = keeper;
    const nexus = target.nexus(1);
    const send = async (func: number, run: Buffer) =>
      reported(await submit(target, nexus, func, func === commitWhole ? commitList(run) : runList(run)));
    expect(await send(commitWhole, runA)).toBe("commandSequenceError");
    expect(await send(beginWhole, runA)).toBe(0);
    await write(target, nexus, 5, 1);
    expect(await send(beginWhole, runB)).toBe(0); // takes it over
    expect(await send(commitWhole, runA)).toBe("commandSequenceError");
    expect(await send(commitWhole, runB)).toBe(0);
    expect(await send(commitWhole, runB)).toBe(0);
    expect(reported(await submit(target, nexus, rollBack, backList))).toBe(0);
    expect([volume.medium[5 * 512], volume.cache[5 * 512]]).toEqual([1, 1]);
  });

  test("says in page DBh whether it keeps its last whole generation", async () => {
    await using folder = await WorkFolder.make();
    const { target, keeper } = await make(folder);
    await using _keeper = keeper;
    const page = inquiry.encode({ evpd: true, pageCode: 0xdb, allocationLength: 8192 });
    for (const [unit, keeps] of [
      [target, true],
      [new UnitUnderTest(10), false],
    ] as const) {
      const nexus = unit.nexus(1);
      expect(decodeVendorPage(dataOf(await unit.execute(nexus, page)))!.whole).toBe(keeps);
      const expected = keeps ? 0 : "invalidFieldInParameterList";
      expect(reported(await submit(unit, nexus, wholeState))).toBe(expected);
      expect(reported(await submit(unit, nexus, beginWhole, runList(runA)))).toBe(expected);
    }
  });
});

describe("refused, and nothing is begun or put back", () => {
  const mutating: [string, number, Buffer][] = [
    ["BEGIN WHOLE", beginWhole, runList(runA)],
    ["COMMIT WHOLE", commitWhole, commitList(runA)],
    ["SET LABEL", setLabel, labelList],
    ["ROLL BACK", rollBack, backList],
  ];

  test.each(mutating)(
    "%s: another volume, another length, no right, reserved, protected",
    async (_, func, list) => {
      await using folder = await WorkFolder.make();
      const { target, keeper } = await make(folder);
      await using _keeper = keeper;
      const nexus = target.nexus(1);
      const foreign = Buffer.from(list);
      foreign[3]! ^= 1;
      for (const [data, byte] of [
        [foreign, 48],
        [list.subarray(1), 12],
        [Buffer.alloc(0), 12],
      ] as const) {
        const result = await submit(target, nexus, func, data);
        expect(reported(result)).toBe("invalidFieldInParameterList");
        expect(result.sense?.fieldPointer).toMatchObject({ cdb: false, byte });
      }
      const mayRead = { ...target.nexus(2), rights: { writes: false, digests: true } };
      expect(reported(await submit(target, mayRead, func, list))).toBe("writeProtected");
      expect(reported(await submit(target, mayRead, wholeState))).toBe(0);
      expect(reported(await target.execute(target.nexus(3), pr.reserve6.encode({})))).toBe(0);
      expect(reported(await submit(target, nexus, func, list))).toBe(conflict);
      expect((await keeper.volume.wholeState()).state).toBe("whole");
    },
  );

  test("by a host that allows no writing", async () => {
    await using folder = await WorkFolder.make();
    const { target, keeper } = await make(folder, true);
    await using _keeper = keeper;
    for (const [, func, list] of mutating)
      expect(reported(await submit(target, target.nexus(1), func, list))).toBe("writeProtected");
  });
});
