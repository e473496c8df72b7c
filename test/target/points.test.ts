// LIST POINTS, EXPOSE POINT and WITHDRAW POINT at the target: what they do, to whom they are refused, and what initiators
// are told of LUNs that come and go.
import { describe, expect, test } from "vitest";
import { systemClock } from "../../src/platform/clock.ts";
import { decodeVendorPage, formatUuid, parseUuid } from "../../src/scsi/inquiry-data.ts";
import { exposedAnswer, exposeList, withdrawList } from "../../src/scsi/point-lists.ts";
import { read16, write16 } from "../../src/scsi/sbc-commands.ts";
import { inquiry, reportLuns, testUnitReady } from "../../src/scsi/spc-commands.ts";
import {
  answerHeader,
  parameterListHeader,
  receive16,
  submit16,
  vendorFunction,
} from "../../src/scsi/vendor-commands.ts";
import { allRights, type Rights } from "../../src/target/access.ts";
import { ExposedPoints } from "../../src/target/exposed-points.ts";
import { ExposedStore } from "../../src/target/exposed-store.ts";
import type { Nexus } from "../../src/target/nexus.ts";
import { ScsiVolume } from "../../src/volume/scsi-volume.ts";
import { WholePoints } from "../../src/whole/points.ts";
import { bytesOf, randomOf } from "../support/data.ts";
import { WorkFolder } from "../support/lunsync.ts";
import { memoryWhole } from "../support/memory-journal.ts";
import { MemoryVolume } from "../support/memory-volume.ts";
import { dataOf, nexusOf, reported, UnitUnderTest } from "../support/unit.ts";
import { UnitDevice } from "../support/unit-device.ts";

const uuid = "12345678-9abc-4def-8123-456789abcdef"; // of the unit
const volumeUuid = parseUuid(uuid);
const blocks = 300;
const bytes = blocks * 512;
const { listPoints, exposePoint, withdrawPoint } = vendorFunction;

let nextList = 1;

/** A unit with restore points 1 and 2: `was` has what it was then, and is now. */
async function make(folder: WorkFolder) {
  const volume = new MemoryVolume("replica", bytesOf(randomOf(1), bytes), 512);
  const whole = await memoryWhole(volume, () => 5, { keep: [{ count: 10 }] });
  const target = new UnitUnderTest(blocks, { over: whole, uuid });
  const store = new ExposedStore(folder.file("exposed"), uuid);
  const offer = async () => {
    const log: string[] = [];
    const points = new ExposedPoints({
      unit: target.unit,
      source: new WholePoints(whole),
      server: target.server,
      store,
      clock: systemClock,
      log: (_level, message) => log.push(message),
    });
    await points.restore();
    target.unit.points = points;
    return log;
  };
  await offer();
  const was: Buffer[] = [];
  for (let run = 1; run <= 2; run++) {
    was.push(Buffer.from(volume.cache));
    await whole.beginWhole(Buffer.alloc(16, run));
    await whole.write(7, [bytesOf(randomOf(1 + run), 200 * 512)]);
    await whole.commitWhole(Buffer.alloc(16, run));
  }
  was.push(Buffer.from(volume.cache));
  const ids = whole.journal.chain.points.map(({ head }) => head.id);
  return { target, whole, store, was, ids, offer };
}

const lunField = (lun: number) => BigInt(lun) << 48n;

function at(target: UnitUnderTest, nexus: Nexus, lun: number, cdb: Buffer) {
  const signal = new AbortController().signal;
  const request = { nexus, lun: lunField(lun), cdb, dataOut: [], dataOutBytesAnnounced: 0 };
  return target.server.execute({ ...request, dataInBytesMax: 1 << 20, signal });
}

async function submit(target: UnitUnderTest, nexus: Nexus, func: number, data: Buffer = Buffer.alloc(0)) {
  const listIdentifier = nextList++;
  const head = parameterListHeader.encode({ function: func, dataLength: data.length });
  const parameterListLength = head.length + data.length;
  const list = submit16.encode({ listIdentifier, parameterListLength });
  const submitted = await target.execute(nexus, list, [head, data]);
  if (submitted.status !== 0) return submitted;
  return target.execute(nexus, receive16.encode({ listIdentifier, allocationLength: 4096 }));
}

const lunOf = async (result: Awaited<ReturnType<typeof submit>>) =>
  exposedAnswer.decode(dataOf(result).subarray(answerHeader.bytes)).lun;

const lunsOf = async (target: UnitUnderTest, nexus: Nexus) => {
  const data = dataOf(await at(target, nexus, 0, reportLuns.encode({ allocationLength: 1024 })));
  return Array.from({ length: data.readUInt32BE(0) / 8 }, (_, i) => data.readUInt16BE(8 + 8 * i));
};

test("a point is a LUN of its own: read-only, with a UUID of its own, and what the unit was then", async () => {
  await using folder = await WorkFolder.make();
  const { target, whole, was, ids } = await make(folder);
  const nexus = target.nexus(1);
  const lun = await lunOf(
    await submit(target, nexus, exposePoint, exposeList.encode({ volumeUuid, point: ids[0]! })),
  );
  expect(await lunsOf(target, nexus)).toEqual([0, lun]);
  await at(target, nexus, lun, testUnitReady.encode({})); // takes the attention of a unit that is new
  await whole.write(0, [bytesOf(randomOf(9), bytes)]);
  const read = await at(
    target,
    nexus,
    lun,
    read16.encode({ logicalBlockAddress: 0n, transferLength: blocks }),
  );
  expect(dataOf(read).equals(was[0]!)).toBe(true);
  const page = decodeVendorPage(
    dataOf(
      await at(target, nexus, lun, inquiry.encode({ evpd: true, pageCode: 0xdb, allocationLength: 4096 })),
    ),
  );
  expect(page).toMatchObject({ volumeUuid: formatUuid(ids[0]!), whole: false, points: false });
  const wrote = await at(target, nexus, lun, write16.encode({ logicalBlockAddress: 0n, transferLength: 0 }));
  expect(reported(wrote)).toBe("writeProtected");
});

test("initiators are told that LUNs come and go, until they have asked which there are", async () => {
  await using folder = await WorkFolder.make();
  const { target, ids } = await make(folder);
  const [one, two] = [target.nexus(1), target.nexus(2)];
  const expose = exposeList.encode({ volumeUuid, point: ids[0]! });
  const lun = await lunOf(await submit(target, one, exposePoint, expose));
  const ready = testUnitReady.encode({});
  expect(reported(await at(target, two, 0, ready))).toBe("reportedLunsChanged");
  expect((await at(target, two, 0, ready)).status).toBe(0);
  expect(await lunsOf(target, one)).toEqual([0, lun]);
  expect((await at(target, one, 0, ready)).status).toBe(0);
  // Again: nothing happens.
  expect(await lunOf(await submit(target, one, exposePoint, expose))).toBe(lun);
  expect((await at(target, two, 0, ready)).status).toBe(0);
  expect(reported(await at(target, two, lun, ready))).toBe("powerOnOccurred");

  const withdraw = withdrawList.encode({ volumeUuid, point: ids[0]! });
  for (let i = 0; i < 2; i++) {
    expect((await submit(target, one, withdrawPoint, withdraw)).status).toBe(0);
    expect(await lunsOf(target, one)).toEqual([0]);
  }
  expect(reported(await at(target, two, lun, ready))).toBe("logicalUnitNotSupported");
  expect(reported(await at(target, two, 0, ready))).toBe("reportedLunsChanged");
});

test("who does not find the unit does not find its points, and is told of nothing", async () => {
  await using folder = await WorkFolder.make();
  const { target, ids } = await make(folder);
  const withRights = (port: number, rights: Partial<Rights>) => {
    const nexus = { ...nexusOf(port), rights: { ...allRights, ...rights } };
    target.server.nexusBegan(nexus);
    target.unit.takeAttention(nexus);
    return nexus;
  };
  const [owner, other, reader] = [
    withRights(1, { luns: new Set([0]) }),
    withRights(2, { luns: new Set([1, 100]) }),
    withRights(3, { writes: false }),
  ];
  const expose = exposeList.encode({ volumeUuid, point: ids[0]! });
  expect(reported(await submit(target, reader, exposePoint, expose))).toBe("writeProtected");
  expect((await submit(target, reader, listPoints)).status).toBe(0);
  const lun = await lunOf(await submit(target, owner, exposePoint, expose));
  expect(await lunsOf(target, owner)).toEqual([0, lun]);
  expect(await lunsOf(target, other)).toEqual([]);
  expect(reported(await at(target, other, lun, testUnitReady.encode({})))).toBe("logicalUnitNotSupported");
});

describe("is refused", () => {
  test("for another volume, an unknown point, a wrong length, and a unit without points", async () => {
    await using folder = await WorkFolder.make();
    const { target, ids } = await make(folder);
    const nexus = target.nexus(1);
    const point = ids[0]!;
    const cases = [
      [
        exposePoint,
        exposeList.encode({ volumeUuid: Buffer.alloc(16, 1), point }),
        "invalidFieldInParameterList",
      ],
      [exposePoint, exposeList.encode({ volumeUuid, point: Buffer.alloc(16, 1) }), "commandSequenceError"],
      [exposePoint, Buffer.alloc(39), "invalidFieldInParameterList"],
      [
        withdrawPoint,
        withdrawList.encode({ volumeUuid: Buffer.alloc(16), point }),
        "invalidFieldInParameterList",
      ],
      [listPoints, Buffer.alloc(1), "invalidFieldInParameterList"],
    ] as const;
    for (const [func, data, condition] of cases)
      expect(reported(await submit(target, nexus, func, data))).toBe(condition);
    const without = new UnitUnderTest(blocks, { uuid });
    for (const func of [listPoints, exposePoint, withdrawPoint])
      expect(reported(await submit(without, without.nexus(1), func))).toBe("invalidFieldInParameterList");
  });
});

test("what is shown is written down: it is again after a restart, at its LUN", async () => {
  await using folder = await WorkFolder.make();
  const { target, store, ids, offer, was } = await make(folder);
  const nexus = target.nexus(1);
  const lun = await lunOf(
    await submit(target, nexus, exposePoint, exposeList.encode({ volumeUuid, point: ids[1]! })),
  );
  expect(await store.load()).toEqual([{ id: ids[1], lun }]);
  await target.server.remove([...target.server.units(nexus)][1]!);
  await store.save([
    { id: ids[1]!, lun },
    { id: Buffer.alloc(16, 1), lun: lun + 1 },
    { id: ids[0]!, lun: 0 },
  ]);
  const log = await offer();
  expect(log.join("\n")).toMatch(
    /is LUN 100[\s\S]*is not LUN 101 any more[\s\S]*LUN 0 is another volume now/,
  );
  expect(await lunsOf(target, nexus)).toEqual([0, lun]);
  await at(target, nexus, lun, testUnitReady.encode({}));
  const read = await at(
    target,
    nexus,
    lun,
    read16.encode({ logicalBlockAddress: 0n, transferLength: blocks }),
  );
  expect(dataOf(read).equals(was[1]!)).toBe(true);
});

test("the initiator's side: lists, shows and withdraws; the last whole generation is a point too", async () => {
  await using folder = await WorkFolder.make();
  const { target, whole, ids, was } = await make(folder);
  await using volume = await ScsiVolume.open(new UnitDevice(target, { cdbBytesMax: 32 }), systemClock);
  const listed = await volume.points.list();
  expect(listed).toMatchObject([
    { id: ids[0], number: 1, madeMs: 5, volumeBytes: bytes, last: false, doubtful: false, lun: undefined },
    { id: ids[1], number: 2, run: Buffer.alloc(16, 1), keptExtents: 2 },
  ]);
  await whole.beginWhole(Buffer.alloc(16, 9));
  await whole.write(0, [Buffer.alloc(bytes, 9)]);
  const last = await volume.points.expose(undefined, false);
  expect((await volume.points.list()).at(-1)).toMatchObject({ id: last.id, last: true, lun: last.lun });
  await whole.commitWhole(Buffer.alloc(16, 9));
  const unit = target.server.units(target.nexus(2)).find(({ lun }) => lun === last.lun)!;
  const seen = Buffer.alloc(bytes);
  await unit.volume.read(0, seen);
  expect(seen.equals(was[2]!)).toBe(true);
  await volume.points.withdraw(last.id);
  expect((await volume.points.list()).map(({ lun }) => lun)).toEqual([undefined, undefined, undefined]);
  await expect(volume.points.expose(Buffer.alloc(16, 7), false)).rejects.toMatchObject({
    code: "volume_missing",
  });
});
