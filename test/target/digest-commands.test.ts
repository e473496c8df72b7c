// The vendor commands, sent raw: their values against node:crypto, their errors against docs/protocol.md.
import { createHash } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { encodeIdentifier, encodingBlock } from "../../src/digest/encoding.ts";
import { offeredDigests } from "../../src/digest/spec.ts";
import { extendedCdbAhs } from "../../src/iscsi/framing.ts";
import { decodeVendorPage } from "../../src/scsi/inquiry-data.ts";
import { inquiry } from "../../src/scsi/spc-commands.ts";
import * as vendor from "../../src/scsi/vendor-commands.ts";
import { bytesOf, randomOf, volumeOf } from "../support/data.ts";
import { RawInitiator, type RawOutcome } from "../support/raw-initiator.ts";
import { TestTarget, targetName } from "../support/target.ts";

// 2001 blocks: the last extent is shorter.
const content = volumeOf(randomOf(3), 2001 * 512);
const sha256 = offeredDigests.findIndex(({ text }) => text === "sha256");
const composed = offeredDigests.findIndex(({ text }) => text === "sha1(md5)");
const iv = 0x0123456789abcdefn;
let target: TestTarget;
let raw: RawInitiator;

beforeAll(async () => {
  target = await TestTarget.serving([content]);
  raw = await RawInitiator.login(target.port, targetName);
  await raw.settle();
});
afterAll(async () => {
  await raw[Symbol.asyncDispose]();
  await target[Symbol.asyncDispose]();
});

const send32 = (cdb: Buffer, bytes: number) =>
  raw.command(cdb.subarray(0, 16), bytes, extendedCdbAhs(cdb.subarray(16)));
const hash = (name: string, data: Buffer) => createHash(name).update(data).digest();

type Encode = Parameters<typeof vendor.encodeDigests32.encode>[0];
const encode = (fields: Encode, bytes = 4096) =>
  send32(
    vendor.encodeDigests32.encode({
      digest: sha256,
      extentSize: 4,
      initialValue: iv,
      allocationLength: bytes,
      ...fields,
    }),
    bytes,
  );

/** What the extents' values must be, by the words of docs/protocol.md. */
function expectedValues(
  lba: number,
  extents: number,
  extentBlocks: number,
  width: number,
  initialValue: Buffer,
  identify = (data: Buffer) => hash("sha256", data),
): Buffer {
  const values: Buffer[] = [];
  for (let i = 0; i < extents; i++) {
    const start = (lba + i * extentBlocks) * 512;
    const identifier = identify(content.subarray(start, start + extentBlocks * 512));
    values.push(
      encodeIdentifier(identifier, encodingBlock(initialValue, lba + i * extentBlocks)).subarray(0, width),
    );
  }
  return Buffer.concat(values);
}

const low = (value: bigint) => {
  const bytes = Buffer.alloc(16);
  bytes.writeBigUInt64BE(value, 8);
  return bytes;
};
const why = (outcome: RawOutcome) => [
  outcome.status,
  outcome.sense?.key,
  outcome.sense?.asc,
  outcome.sense?.ascq,
];

describe("ENCODE DIGESTS", () => {
  test.each([
    [0, 5, false, 0],
    [16, 5, true, 1],
    [1984, 2, false, 0], // the last extent has one block
    [2000, 1, true, 0],
    [0, 0, false, 0],
  ])("from LBA %i, %i extents, wide %s, source %i", async (lba, extents, width, source) => {
    const outcome = await encode({
      logicalBlockAddress: BigInt(lba),
      numberOfExtents: extents,
      width,
      source,
    });
    expect(outcome.status).toBe(0);
    const head = vendor.answerHeader.decode(outcome.dataIn);
    expect(head).toMatchObject({
      numberOfExtents: extents,
      logicalBlockAddress: BigInt(lba),
      partial: false,
      width,
      fromCatalogue: false,
    });
    const bytes = width ? 16 : 8;
    expect(head.availableLength).toBe(28 + extents * bytes);
    expect(outcome.dataIn.subarray(32).toString("hex")).toBe(
      expectedValues(lba, extents, 16, bytes, low(iv)).toString("hex"),
    );
  });

  test("a composed digest, and an allocation length that is too short", async () => {
    const outcome = await encode({ digest: composed, numberOfExtents: 3 }, 44);
    const all = expectedValues(0, 3, 16, 8, low(iv), (data) => hash("sha1", hash("md5", data)));
    expect(outcome.dataIn.subarray(32).equals(all.subarray(0, 12))).toBe(true);
    expect(vendor.answerHeader.decode(outcome.dataIn).availableLength).toBe(28 + 24);
  });

  test.each([
    ["an unknown digest", { digest: 200 }, [2, 5, 0x24, 0], { byte: 2 }],
    ["a reserved source", { source: 3 }, [2, 5, 0x24, 0], { byte: 3, bit: 1 }],
    ["an extent of more than 16 MiB", { extentSize: 16 }, [2, 5, 0x24, 0], { byte: 4 }],
    ["a level of the tree", { level: 1 }, [2, 5, 0x24, 0], { byte: 5 }],
    [
      "more extents than one command takes",
      { numberOfExtents: 65535, extentSize: 0 },
      [2, 5, 0x24, 0],
      { byte: 10 },
    ],
    [
      "an LBA that is no multiple of the extent",
      { logicalBlockAddress: 8n, numberOfExtents: 1 },
      [2, 5, 0x24, 0],
      { byte: 12 },
    ],
    [
      "a place behind the end",
      { logicalBlockAddress: 2016n, numberOfExtents: 1 },
      [2, 5, 0x21, 0],
      undefined,
    ],
    ["an extent too many", { logicalBlockAddress: 1984n, numberOfExtents: 3 }, [2, 5, 0x21, 0], undefined],
    ["an LBA of 2^63", { logicalBlockAddress: 1n << 63n, numberOfExtents: 1 }, [2, 5, 0x21, 0], undefined],
    ["the catalogue alone", { source: 2, numberOfExtents: 1 }, [2, 5, 0x2c, 0], undefined],
  ] as const)("%s", async (_what, fields, sense, pointer) => {
    const outcome = await encode({ numberOfExtents: 1, ...fields });
    expect(why(outcome)).toEqual(sense);
    if (pointer) expect(outcome.sense?.fieldPointer).toMatchObject({ cdb: true, ...pointer });
  });

  test("reserved bits and NACA are refused", async () => {
    for (const [byte, bit] of [
      [1, 2],
      [3, 7],
      [6, 6],
    ] as const) {
      const cdb = vendor.encodeDigests32.encode({ digest: sha256, numberOfExtents: 1, allocationLength: 64 });
      cdb[byte]! |= 1 << bit;
      const outcome = await send32(cdb, 64);
      expect(why(outcome)).toEqual([2, 5, 0x24, 0]);
      expect(outcome.sense?.fieldPointer).toEqual({ cdb: true, byte, bit });
    }
  });
});

describe("SUBMIT and RECEIVE", () => {
  type List = Parameters<typeof vendor.parameterListHeader.encode>[0];
  const list = (fields: List, data: Buffer = Buffer.alloc(0)) =>
    Buffer.concat([
      vendor.parameterListHeader.encode({
        function: 1,
        digest: sha256,
        extentSize: 4,
        dataLength: data.length,
        numberOfExtents: 4,
        ...fields,
      }),
      data,
    ]);
  const submit = async (id: number, bytes: Buffer, length = bytes.length) => {
    const cdb = vendor.submit16.encode({ listIdentifier: id, parameterListLength: length });
    raw.sendCommand(cdb, { write: true, expectedDataTransferLength: bytes.length }, bytes);
    return raw.outcome();
  };
  const receive = (id: number, bytes = 4096) =>
    raw.command(vendor.receive16.encode({ listIdentifier: id, allocationLength: bytes }), bytes);
  const initialValue = bytesOf(randomOf(5), 16);

  test("encoding with an initial value of 16 bytes", async () => {
    expect((await submit(1, list({ initialValue, width: true }))).status).toBe(0);
    const { dataIn } = await receive(1);
    expect(dataIn.subarray(32).equals(expectedValues(0, 4, 16, 16, initialValue))).toBe(true);
  });

  test("decoding gives the blocks back, of equal extents alone", async () => {
    const values = expectedValues(0, 4, 16, 16, initialValue);
    values[20]! ^= 1;
    expect((await submit(2, list({ function: 2, width: true }, values))).status).toBe(0);
    const { dataIn } = await receive(2);
    const blocks = [0, 1, 2, 3].map((i) => encodingBlock(initialValue, i * 16));
    const same = blocks.map((block, i) => block.equals(dataIn.subarray(32 + 16 * i, 48 + 16 * i)));
    expect(same).toEqual([true, false, true, true]);
  });

  test("comparing gives one bit an extent", async () => {
    const values = expectedValues(0, 4, 16, 8, initialValue);
    values[25]! ^= 1;
    expect((await submit(3, list({ function: 3, initialValue }, values))).status).toBe(0);
    const { dataIn } = await receive(3);
    expect([...dataIn.subarray(32)]).toEqual([0b00010000]);
  });

  test("a RECEIVE that is there first waits", async () => {
    const cdb = vendor.receive16.encode({ listIdentifier: 4, allocationLength: 512 });
    raw.sendCommand(cdb, { read: true, expectedDataTransferLength: 512 });
    expect(await raw.silent()).toBe(true);
    const bytes = list({ initialValue });
    raw.sendCommand(
      vendor.submit16.encode({ listIdentifier: 4, parameterListLength: bytes.length }),
      { write: true, expectedDataTransferLength: bytes.length },
      bytes,
    );
    const outcomes = [await raw.outcome(), await raw.outcome()];
    expect(outcomes.map((outcome) => outcome.status)).toEqual([0, 0]);
    expect(outcomes.some(({ dataIn }) => dataIn.length === 32 + 32)).toBe(true);
  });

  test.each([
    ["too short a list", list({}).subarray(0, 40), [2, 5, 0x1a, 0], undefined],
    ["another version", Buffer.concat([Buffer.from([9]), list({}).subarray(1)]), [2, 5, 0x26, 0], 0],
    ["an unknown function", list({ function: 77 }), [2, 5, 0x26, 0], 1],
    ["an unknown digest", list({ digest: 222 }), [2, 5, 0x26, 0], 2],
    ["a level", list({ level: 2 }), [2, 5, 0x26, 0], 5],
    ["data that is not announced", Buffer.concat([list({}), Buffer.alloc(8)]), [2, 5, 0x26, 0], 12],
    ["values too few", list({ function: 3 }, Buffer.alloc(24)), [2, 5, 0x26, 0], 12],
    ["values where none belong", list({ function: 1 }, Buffer.alloc(8)), [2, 5, 0x26, 0], 12],
    [
      "a reserved bit",
      Buffer.concat([list({}).subarray(0, 7), Buffer.from([1]), list({}).subarray(8)]),
      [2, 5, 0x26, 0],
      7,
    ],
  ] as const)("%s is refused, and its RECEIVE finds nothing", async (_what, bytes, sense, byte) => {
    const outcome = await submit(50, bytes);
    expect(why(outcome)).toEqual(sense);
    if (byte !== undefined) expect(outcome.sense?.fieldPointer).toMatchObject({ cdb: false, byte });
  });

  test("an identifier in use, more results than are held, another initiator's", async () => {
    for (let id = 100; id < 108; id++) expect((await submit(id, list({ initialValue }))).status).toBe(0);
    expect(why(await submit(100, list({ initialValue })))).toEqual([2, 5, 0x00, 0x16]);
    expect(why(await submit(108, list({ initialValue })))).toEqual([2, 5, 0x55, 0x03]);
    await using other = await RawInitiator.login(
      target.port,
      targetName,
      [],
      Buffer.from("80bbbbbbbbbb", "hex"),
    );
    await other.settle();
    other.sendCommand(vendor.receive16.encode({ listIdentifier: 100, allocationLength: 512 }), {
      read: true,
      expectedDataTransferLength: 512,
    });
    expect(await other.silent()).toBe(true); // it waits for a SUBMIT of its own
    for (let id = 100; id < 108; id++) expect((await receive(id)).status).toBe(0);
  });
});

test("VPD page DBh says what is so", async () => {
  const { dataIn } = await raw.command(
    inquiry.encode({ evpd: true, pageCode: 0xdb, allocationLength: 8192 }),
    8192,
  );
  const page = decodeVendorPage(dataIn)!;
  expect(page.digests.map((entry) => entry.text)).toEqual(offeredDigests.map((spec) => spec.text));
  const most = await encode({ extentSize: 0, numberOfExtents: 2001 }, 32 + 8 * 2001);
  expect(most.dataIn.length).toBe(32 + 8 * 2001);
  expect(page).toMatchObject({
    modeEncode: true,
    modeDecode: true,
    modeVerdict: true,
    largestExtentSize: 15,
  });
});
