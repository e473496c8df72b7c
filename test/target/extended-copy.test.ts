// EXTENDED COPY: random segments against memory, lists that are wrong in every way, and who may copy what.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { systemClock } from "../../src/platform/clock.ts";
import * as xcopy from "../../src/scsi/extended-copy.ts";
import { inquiry } from "../../src/scsi/spc-commands.ts";
import { DeviceServer } from "../../src/target/device-server.ts";
import { LogicalUnit } from "../../src/target/logical-unit.ts";
import { bytesOf, randomOf } from "../support/data.ts";
import { MemoryVolume } from "../support/memory-volume.ts";
import { dataOf, nexusOf, reported } from "../support/unit.ts";

const nexus = nexusOf(1);

/** Two units; the second has blocks of `secondBlockBytes`. */
function pair(blocks = 6144, secondBlockBytes = 512, readonly = false) {
  const volumes = [
    new MemoryVolume("a", bytesOf(randomOf(1), blocks * 512), 512),
    new MemoryVolume("b", bytesOf(randomOf(2), blocks * 512), secondBlockBytes),
  ];
  const units = volumes.map((volume, lun) => {
    const uuid = `0${lun}345678-9abc-4def-8123-456789abcdef`;
    return new LogicalUnit(lun, volume, { readonly: readonly && lun === 1, uuid, clock: systemClock });
  });
  const names = { targetName: "iqn.2026-11.com.example:disks", portalGroupTag: 1, revision: "0.1" };
  const server = new DeviceServer(names, units);
  server.nexusBegan(nexus);
  for (const unit of units) unit.takeAttention(nexus);
  const execute = (
    cdb: Buffer,
    dataOut: Buffer[] = [],
    signal = new AbortController().signal,
    from = nexus,
  ) =>
    server.execute({
      nexus: from,
      lun: 0n,
      cdb,
      dataOut,
      dataOutBytesAnnounced: Buffer.concat(dataOut).length,
      dataInBytesMax: 65536,
      signal,
    });
  return { volumes, units, execute };
}

interface Copy {
  from: number;
  to: number;
  blocks: number;
  sourceLba: number;
  destinationLba: number;
}

const target = (unit: LogicalUnit) =>
  xcopy.identificationTarget.encode({
    codeSet: 1,
    designatorType: 3,
    designatorLength: 8,
    designator: unit.naa,
    blockBytes: unit.volume.geometry.blockBytes,
  });
const segment = (copy: Copy) =>
  xcopy.blockToBlockSegment.encode({
    sourceIndex: copy.from,
    destinationIndex: copy.to,
    blocks: copy.blocks,
    sourceLba: BigInt(copy.sourceLba),
    destinationLba: BigInt(copy.destinationLba),
  });

function listOf(targets: Buffer[], segments: Buffer[], more: object = {}): Buffer {
  const header = xcopy.copyListHeader.encode({
    listIdentifier: 1,
    targetDescriptorListLength: Buffer.concat(targets).length,
    segmentDescriptorListLength: Buffer.concat(segments).length,
    ...more,
  });
  return Buffer.concat([header, ...targets, ...segments]);
}

const cdbOf = (list: Buffer) => xcopy.extendedCopy.encode({ parameterListLength: list.length });

test("any segments come out as if each had been read whole and then written", async () => {
  const blocks = 6144;
  const copy = fc.record({
    from: fc.nat(1),
    to: fc.nat(1),
    blocks: fc.integer({ min: 0, max: 5000 }),
    sourceLba: fc.nat(blocks),
    destinationLba: fc.nat(blocks),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(copy, { minLength: 1, maxLength: 5 }), async (drawn) => {
      const { volumes, units, execute } = pair(blocks);
      const copies = drawn.map((each) => {
        const count = Math.min(each.blocks, blocks - each.sourceLba, blocks - each.destinationLba);
        return { ...each, blocks: count };
      });
      const model = volumes.map(({ cache }) => Buffer.from(cache));
      for (const each of copies) {
        const read = Buffer.from(
          model[each.from]!.subarray(each.sourceLba * 512, (each.sourceLba + each.blocks) * 512),
        );
        read.copy(model[each.to]!, each.destinationLba * 512);
      }
      const list = listOf(units.map(target), copies.map(segment));
      expect(reported(await execute(cdbOf(list), [list]))).toBe(0);
      expect(volumes.map((volume, i) => volume.cache.equals(model[i]!))).toEqual([true, true]);
      const status = await execute(xcopy.copyStatus.encode({ listIdentifier: 1, allocationLength: 64 }));
      expect(xcopy.copyStatusData.decode(dataOf(status))).toMatchObject({
        copyManagerStatus: 1,
        segmentsProcessed: copies.length,
      });
    }),
    { numRuns: 150 },
  );
});

test("between blocks of different sizes whole blocks are copied, others refused", async () => {
  const { volumes, units, execute } = pair(4096, 4096);
  const copy = { from: 0, to: 1, sourceLba: 3, destinationLba: 2, blocks: 16 };
  const list = listOf(units.map(target), [segment(copy)]);
  expect(reported(await execute(cdbOf(list), [list]))).toBe(0);
  expect(volumes[1]!.cache.subarray(8192, 16384).equals(volumes[0]!.cache.subarray(1536, 9728))).toBe(true);
  const half = listOf(units.map(target), [segment({ ...copy, blocks: 3 })]);
  expect(reported(await execute(cdbOf(half), [half]))).toBe("copyAborted");
});

describe("a list that is wrong moves nothing:", () => {
  const one = { from: 0, to: 1, sourceLba: 0, destinationLba: 0, blocks: 8 };
  type Case = [name: string, list: (units: LogicalUnit[]) => Buffer, expected: string, length?: number];
  const spoilt = (units: LogicalUnit[], spoil: (list: Buffer) => void) => {
    const list = listOf(units.map(target), [segment(one)]);
    spoil(list);
    return list;
  };
  const cases: Case[] = [
    ["shorter than its header", () => Buffer.alloc(8), "parameterListLengthError"],
    ["cut in a target", (units) => listOf(units.map(target), []).subarray(0, 60), "parameterListLengthError"],
    ["cut in a segment", (units) => spoilt(units, () => {}).subarray(0, -1), "parameterListLengthError"],
    [
      "half a target",
      (units) => spoilt(units, (list) => list.writeUInt16BE(63, 2)),
      "invalidFieldInParameterList",
    ],
    [
      "inline data",
      (units) => spoilt(units, (list) => list.writeUInt32BE(1, 12)),
      "inlineDataLengthExceeded",
    ],
    [
      "another type of target",
      (units) => spoilt(units, (list) => list.writeUInt8(0xe0, 16)),
      "unsupportedTargetDescriptor",
    ],
    [
      "another type of segment",
      (units) => spoilt(units, (list) => list.writeUInt8(3, 80)),
      "unsupportedSegmentDescriptor",
    ],
    [
      "a segment of a wrong length",
      (units) => spoilt(units, (list) => list.writeUInt16BE(9, 82)),
      "invalidFieldInParameterList",
    ],
    [
      "a target that is nobody's",
      (units) => spoilt(units, (list) => list.writeUInt8(0x99, 30)),
      "copyTargetNotReachable",
    ],
    [
      "a designator longer than its place",
      (units) => spoilt(units, (list) => list.writeUInt8(21, 23)),
      "invalidFieldInParameterList",
    ],
    [
      "an index past the targets",
      (units) => spoilt(units, (list) => list.writeUInt16BE(2, 86)),
      "copyTargetNotReachable",
    ],
    ["past the end", (units) => spoilt(units, (list) => list.writeBigUInt64BE(6140n, 92)), "copyAborted"],
    [
      "an LBA beyond all numbers",
      (units) => spoilt(units, (list) => list.writeBigUInt64BE(2n ** 64n - 1n, 100)),
      "copyAborted",
    ],
    [
      "a reserved LIST ID USAGE",
      (units) => spoilt(units, (list) => list.writeUInt8(0x08, 1)),
      "invalidFieldInParameterList",
    ],
    [
      "too many targets",
      (units) =>
        listOf(
          Array.from({ length: 17 }, () => target(units[0]!)),
          [segment(one)],
        ),
      "tooManyTargetDescriptors",
    ],
    [
      "too many segments",
      (units) =>
        listOf(
          units.map(target),
          Array.from({ length: 257 }, () => segment(one)),
        ),
      "tooManySegmentDescriptors",
    ],
  ];
  test.each(cases)("%s", async (_name, list, expected) => {
    const { volumes, units, execute } = pair();
    const before = volumes.map(({ cache }) => Buffer.from(cache));
    const bytes = list(units);
    expect(reported(await execute(cdbOf(bytes), [bytes]))).toBe(expected);
    expect(volumes.map((volume, i) => volume.cache.equals(before[i]!))).toEqual([true, true]);
  });

  test("any bytes", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.uint8Array({ maxLength: 200 }),
        fc.nat(199),
        fc.nat(255),
        async (noise, at, value) => {
          const { volumes, units, execute } = pair(64);
          const before = volumes.map(({ cache }) => Buffer.from(cache));
          const mutated = listOf(units.map(target), [segment(one)]);
          if (at < mutated.length) mutated[at] = value;
          for (const bytes of [Buffer.from(noise), mutated]) {
            const result = await execute(cdbOf(bytes), [bytes]);
            if (result.status !== 0)
              expect(volumes.map((v, i) => v.cache.equals(before[i]!))).toEqual([true, true]);
          }
        },
      ),
      { numRuns: 1000 },
    );
  });
});

test("a destination that refuses writes, is reserved by another or fails ends the copy", async () => {
  const copy = { from: 0, to: 1, sourceLba: 0, destinationLba: 0, blocks: 8 };
  const readonly = pair(64, 512, true);
  const list = listOf(readonly.units.map(target), [segment(copy)]);
  expect(reported(await readonly.execute(cdbOf(list), [list]))).toBe("copyThirdPartyFailure");

  const reserved = pair(64);
  reserved.units[1]!.reservations.reserve("somebody else");
  expect(reported(await reserved.execute(cdbOf(list), [list]))).toBe("copyThirdPartyFailure");
  const status = await reserved.execute(xcopy.copyStatus.encode({ listIdentifier: 1, allocationLength: 64 }));
  expect(xcopy.copyStatusData.decode(dataOf(status)).copyManagerStatus).toBe(2);

  const failing = pair(64);
  failing.volumes[0]!.unreadable.add(5);
  expect(reported(await failing.execute(cdbOf(list), [list]))).toBe("copyThirdPartyFailure");
});

test("a unit that is not there for the initiator can't be named, as source or destination", async () => {
  const { volumes, units, execute } = pair(64);
  const masked = { ...nexus, rights: { ...nexus.rights, luns: new Set([0]) } };
  for (const [from, to] of [
    [0, 1],
    [1, 0],
  ] as const) {
    const copy = { from, to, sourceLba: 0, destinationLba: 0, blocks: 8 };
    const before = volumes.map(({ cache }) => Buffer.from(cache));
    const list = listOf(units.map(target), [segment(copy)]);
    const never = new AbortController().signal;
    expect(reported(await execute(cdbOf(list), [list], never, masked))).toBe("copyTargetNotReachable");
    expect(volumes.map(({ cache }, i) => cache.equals(before[i]!))).toEqual([true, true]);
    expect(reported(await execute(cdbOf(list), [list]))).toBe(0);
  }
});

test("the Third-party Copy page tells what is there", async () => {
  const { execute } = pair(64);
  const page = dataOf(await execute(inquiry.encode({ evpd: true, pageCode: 0x8f, allocationLength: 4096 })));
  expect(page.readUInt16BE(2)).toBe(page.length - 4);
  const types: number[] = [];
  for (let at = 4; at < page.length; at += 4 + page.readUInt16BE(at + 2)) types.push(page.readUInt16BE(at));
  expect(types).toEqual([0x0001, 0x0004, 0x0008, 0x000c, 0x8001]);
});
