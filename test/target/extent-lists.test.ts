// The lists of WRITE EXTENTS and COPY EXTENTS: every mistake is told with its field and changes nothing, and a list that
// was damaged on its way writes nothing that was not sent.
import { zstdCompressSync } from "node:zlib";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { LayoutError } from "../../src/base/layout.ts";
import * as extents from "../../src/scsi/extent-commands.ts";
import { parameterBytesMax } from "../../src/target/extent-list.ts";
import { damaged, reshaped } from "../fuzz/mutate.ts";
import { bytesOf, randomOf } from "../support/data.ts";
import {
  copied,
  copyList,
  dataRun,
  sha256,
  type TestRun,
  writeList,
  zeroRun,
} from "../support/extent-lists.ts";
import { reported, UnitUnderTest } from "../support/unit.ts";

const blocks = 20_000;
const mostBlocks = 16_384;
const random = randomOf(4);
const content = bytesOf(random, blocks * 512);
const data = bytesOf(random, 4 * 512);
const soft = Buffer.alloc(4 * 512, "soft ");
/** A run with another descriptor byte, however reserved it is. */
const withByte = (run: TestRun, at: number, value: number): TestRun => {
  const descriptor = Buffer.from(run.descriptor);
  descriptor[at] = value;
  return { ...run, descriptor };
};
const listWithByte = (list: Buffer, at: number, value: number): Buffer => {
  const copy = Buffer.from(list);
  copy[at] = value;
  return copy;
};
const good = dataRun(0, data);
const copy = copied(0, 100, 8, sha256(content.subarray(0, 8 * 512)));

function unit(): UnitUnderTest {
  const target = new UnitUnderTest(blocks);
  content.copy(target.volume.cache);
  return target;
}

type Case = [what: string, list: Buffer, condition: string, byte?: number, bit?: number];

const head = (of: (runs: readonly TestRun[], fields?: object) => Buffer, run: TestRun): Case[] => [
  ["half a head", of([run]).subarray(0, 15), "parameterListLengthError"],
  ["nothing", Buffer.alloc(0), "parameterListLengthError"],
  ["a reserved bit", listWithByte(of([run]), 3, 0x10), "invalidFieldInParameterList", 3, 4],
  ["another version", listWithByte(of([run]), 0, 2), "invalidFieldInParameterList", 0, 7],
  ["another function", of([run], { function: 1 }), "invalidFieldInParameterList", 1],
  ["a wrong data length", of([run], { dataLength: 7 }), "invalidFieldInParameterList", 12],
  ["an unknown digest", of([run], { digest: 200 }), "invalidFieldInParameterList", 2],
  ["more runs than it holds", of([run], { numberOfRuns: 2000 }), "invalidFieldInParameterList", 8],
  [
    "more runs than may be",
    of(new Array(2049).fill({ descriptor: run.descriptor, content: Buffer.alloc(0) })),
    "invalidFieldInParameterList",
    8,
  ],
  [
    "bytes behind the last run",
    of([run, { descriptor: Buffer.alloc(0), content: Buffer.alloc(3) }], { numberOfRuns: 1 }),
    "invalidFieldInParameterList",
    12,
  ],
];

const second = 16 + 24;

async function refused(layout: typeof extents.writeExtents16, [, list, condition, byte, bit]: Case) {
  const target = unit();
  const nexus = target.nexus(1);
  const cdb = layout.encode({ parameterListLength: list.length });
  const result = await target.execute(nexus, cdb, [list]);
  expect(reported(result)).toBe(condition);
  if (byte !== undefined) expect(result.sense?.fieldPointer).toEqual({ cdb: false, byte, bit });
  expect(result.sense?.commandSpecific).toBeUndefined();
  expect(target.volume.cache.equals(content)).toBe(true);
}

describe("a list of WRITE EXTENTS is refused as a whole for", () => {
  const wrong = "invalidFieldInParameterList";
  test.each<Case>([
    ...head(writeList, good),
    ["a list of COPY EXTENTS", copyList([copy]), wrong, 1],
    ["a reserved bit of a run", writeList([good, withByte(zeroRun(9, 1), 13, 1)]), wrong, second + 13, 0],
    ["a reserved bit beside the form", writeList([withByte(good, 12, 0x80)]), wrong, 16 + 12, 7],
    ["an unknown form", writeList([good, zeroRun(9, 1, { form: 3 })]), wrong, second + 12, 1],
    ["a run of no blocks", writeList([good, zeroRun(9, 0)]), wrong, second + 8],
    ["a run that is too large", writeList([zeroRun(0, mostBlocks + 1)]), wrong, 16 + 8],
    ["runs that are too large together", writeList([good, zeroRun(0, mostBlocks - 3)]), wrong, second + 8],
    ["a run of 2^32 blocks less one", writeList([zeroRun(0, 0xffffffff)]), wrong, 16 + 8],
    ["a run past the end", writeList([good, zeroRun(blocks - 1, 2)]), "lbaOutOfRange"],
    [
      "a run far behind the end",
      writeList([zeroRun(0, 1, { logicalBlockAddress: 2n ** 64n - 1n })]),
      "lbaOutOfRange",
    ],
    [
      "data of another length",
      writeList([good, dataRun(9, data, { fields: { dataLength: 512 } })]),
      wrong,
      second + 16,
    ],
    [
      "compressed data of no bytes",
      writeList([dataRun(9, soft, { compressed: true, fields: { dataLength: 0 } })]),
      wrong,
      16 + 16,
    ],
    [
      "compressed data that is no smaller",
      writeList([dataRun(9, data, { fields: { form: extents.runForm.zstd } })]),
      wrong,
      16 + 16,
    ],
    ["zeros with data", writeList([good, zeroRun(9, 1, { dataLength: 1 })]), wrong, second + 16],
    [
      "data that is not there",
      writeList([good, { ...good, content: good.content.subarray(0, -1) }]),
      wrong,
      second + 16,
    ],
    [
      "half an identifier",
      writeList([good, { ...good, content: good.content.subarray(0, 16) }]),
      wrong,
      second + 16,
    ],
  ])("%s", (...each) => refused(extents.writeExtents16, each));
});

describe("a list of COPY EXTENTS is refused as a whole for", () => {
  const wrong = "invalidFieldInParameterList";
  test.each<Case>([
    ...head(copyList, copy),
    ["a list of WRITE EXTENTS", writeList([good]), wrong, 1],
    ["a reserved bit of a run", copyList([copy, withByte(copy, 20, 0x40)]), wrong, second + 20, 6],
    ["a run of no blocks", copyList([copy, copied(0, 100, 0, sha256(data))]), wrong, second + 16],
    ["runs that are too large together", copyList([copy, copied(0, 8, mostBlocks, sha256(data))]), wrong, 56],
    ["a source past the end", copyList([copy, copied(blocks - 7, 0, 8, sha256(data))]), "lbaOutOfRange"],
    ["a destination past the end", copyList([copy, copied(0, blocks, 1, sha256(data))]), "lbaOutOfRange"],
    ["an identifier that is not there", copyList([copy, { ...copy, content: Buffer.alloc(31) }]), wrong, 12],
  ])("%s", (...each) => refused(extents.copyExtents16 as never, each));
});

test("a PARAMETER LIST LENGTH that is more than arrived, or than may be, is refused", async () => {
  const target = unit();
  const nexus = target.nexus(1);
  const list = writeList([good]);
  for (const layout of [extents.writeExtents16, extents.writeExtents32]) {
    for (const parameterListLength of [list.length + 1, parameterBytesMax + 1, 0xffffffff]) {
      const cdb = layout.encode({ parameterListLength });
      expect(reported(await target.execute(nexus, cdb, [list]))).toBe("parameterListLengthError");
      expect(target.server.transferOf(nexus, 0n, cdb).dataOut).toBe(
        Math.min(parameterBytesMax, parameterListLength),
      );
    }
  }
  expect(parameterBytesMax).toBeLessThan(9 * 1024 * 1024);
  expect(target.volume.cache.equals(content)).toBe(true);
});

test("bytes behind PARAMETER LIST LENGTH, and any cutting of the Data-Out, change nothing", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.nat(3000), { maxLength: 6 }), fc.nat(20), async (cuts, behind) => {
      const target = unit();
      const list = writeList([good, dataRun(50, soft, { compressed: true }), zeroRun(70, 3)]);
      const sent = Buffer.concat([list, Buffer.alloc(behind, 9)]);
      const edges = [0, ...cuts.map((cut) => Math.min(cut, sent.length)), sent.length].sort((a, b) => a - b);
      const pieces = edges.slice(1).map((end, i) => sent.subarray(edges[i], end));
      const cdb = extents.writeExtents32.encode({ parameterListLength: list.length });
      expect(reported(await target.execute(target.nexus(1), cdb, pieces))).toBe(0);
      const expected = Buffer.from(content);
      data.copy(expected, 0);
      soft.copy(expected, 50 * 512);
      expected.fill(0, 70 * 512, 73 * 512);
      expect(target.volume.cache.equals(expected)).toBe(true);
    }),
    { numRuns: 60 },
  );
});

test("a frame that expands to more, to less, to nothing, or needs a huge window is as wrong as a wrong identifier", async () => {
  const target = unit();
  const nexus = target.nexus(1);
  const run = (frame: Buffer): TestRun => ({
    descriptor: dataRun(9, soft, { fields: { form: extents.runForm.zstd, dataLength: frame.length } })
      .descriptor,
    content: Buffer.concat([sha256(soft), frame]),
  });
  const frame = zstdCompressSync(soft);
  const bomb = zstdCompressSync(Buffer.alloc(8 * 1024 * 1024));
  expect(bomb.length).toBeLessThan(soft.length);
  const hugeWindow = Buffer.from(zstdCompressSync(soft));
  // RFC 8878, 3.1.1.1: no single segment, and a window of 128 MiB.
  hugeWindow[4] = 0;
  hugeWindow[5] = 17 << 3;
  for (const each of [
    bomb,
    zstdCompressSync(soft.subarray(1)),
    zstdCompressSync(Buffer.concat([soft, Buffer.alloc(1)])),
    zstdCompressSync(Buffer.alloc(0)),
    frame.subarray(0, -1),
    Buffer.from("no frame at all"),
    hugeWindow,
  ]) {
    const list = writeList([run(each)]);
    const cdb = extents.writeExtents16.encode({ parameterListLength: list.length });
    const result = await target.execute(nexus, cdb, [list]);
    expect([reported(result), result.sense?.information]).toEqual(["miscompare", 9]);
  }
  expect(target.volume.cache.equals(content)).toBe(true);
});

describe("of a list that was damaged on its way", () => {
  const pieces = [data, soft, bytesOf(random, 512), Buffer.alloc(2048, 7)];
  const frames = [
    writeList([
      dataRun(3, pieces[0]!),
      dataRun(40, pieces[1]!, { compressed: true }),
      zeroRun(90, 3),
      dataRun(60, pieces[2]!),
      dataRun(200, pieces[3]!, { compressed: true }),
    ]),
    copyList([
      copied(0, 30, 4, sha256(content.subarray(0, 2048))),
      copied(8, 40, 8, sha256(content.subarray(4096, 8192))),
    ]),
  ];

  test("nothing is written that was not sent, or was not there", async () => {
    const target = unit();
    const nexus = target.nexus(1);
    const whole = [...pieces, content.subarray(0, 2048), content.subarray(4096, 8192)];
    const written: Buffer[] = [];
    const { volume } = target;
    volume.write = async (_lba, data) => {
      written.push(Buffer.concat(data));
    };
    volume.zero = async () => {};
    const statuses = new Set<unknown>();
    await fc.assert(
      fc.asyncProperty(fc.nat(), fc.constantFrom(0, 1), async (seed, which) => {
        const random = randomOf(seed);
        const list = Buffer.from(
          random() < 0.3 ? reshaped(random, frames[which]!) : damaged(random, frames[which]!),
        );
        const layout = which === 0 ? extents.writeExtents16 : extents.copyExtents16;
        const cdb = layout.encode({ parameterListLength: list.length });
        // The damage may be in the head's data length as well, where it stops everything at once.
        if (list.length >= 16 && random() < 0.7) list.writeUInt32BE(list.length - 16, 12);
        const result = await target.execute(nexus, cdb, [list]);
        statuses.add(reported(result));
        for (const each of written.splice(0)) expect(whole.some((one) => one.equals(each))).toBe(true);
      }),
      { numRuns: 3000 },
    );
    const expected = [
      "invalidFieldInParameterList",
      "lbaOutOfRange",
      "miscompare",
      "parameterListLengthError",
    ];
    expect([...statuses]).toEqual(expect.arrayContaining([0, ...expected]));
  });
});

test("a list that has no runs is no error", async () => {
  const target = unit();
  const nexus = target.nexus(1);
  for (const [layout, list] of [
    [extents.writeExtents16, writeList([])],
    [extents.copyExtents32, copyList([])],
  ] as const) {
    const cdb = layout.encode({ parameterListLength: 16 });
    expect(reported(await target.execute(nexus, cdb, [list]))).toBe(0);
  }
  expect(() => extents.extentListHeader.decode(Buffer.alloc(15))).toThrow(LayoutError);
});
