// Digests asked of a replica that lies: what does not fit the question is an error, and never a value.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { AgentError } from "../../src/base/errors.ts";
import { offeredDigests, parseDigestSpec } from "../../src/digest/spec.ts";
import type { ScsiCommand, ScsiOutcome } from "../../src/scsi/command.ts";
import type { VendorPage } from "../../src/scsi/inquiry-data.ts";
import { answerHeader } from "../../src/scsi/vendor-commands.ts";
import { ScsiDigests } from "../../src/volume/scsi-digests.ts";
import type { DigestWindow } from "../../src/volume/volume.ts";
import { bytesOf, randomOf } from "../support/data.ts";
import { blankPage } from "../support/vendor-page.ts";

const page: VendorPage = {
  ...blankPage,
  modeEncode: true,
  modeDecode: true,
  modeVerdict: true,
  width8: true,
  width16: true,
  largestExtentSize: 15,
  preferredExtentSize: 7,
  mostExtents: 1000,
  mostBytes: 1 << 28,
  mostCommands: 8,
  resultLifetimeMs: 1000,
  volumeUuid: "00000000-0000-0000-0000-000000000001",
  digests: offeredDigests.map(({ text, identifierBytes }, index) => ({ index, text, identifierBytes })),
};

const window: DigestWindow = {
  lba: 1280,
  extentBlocks: 128,
  extents: 10,
  digest: parseDigestSpec("sha256"),
  initialValue: Buffer.alloc(16, 7).fill(0, 0, 8),
  width: 8,
  fresh: false,
};

type Head = Parameters<typeof answerHeader.encode>[0];

const head = (values: Head = {}): Buffer =>
  answerHeader.encode({
    availableLength: 28 + 80,
    numberOfExtents: 10,
    logicalBlockAddress: 1280n,
    ...values,
  });

const values = bytesOf(randomOf(1), 80);
const honest = Buffer.concat([head(), values]);

/** A unit that answers every command with the same bytes. */
function unit(reply: Buffer, wide = true): ScsiDigests {
  const execute = async (command: ScsiCommand): Promise<ScsiOutcome> => ({
    status: 0,
    sense: undefined,
    dataIn: reply.subarray(0, command.dataInBytes ?? 0),
  });
  return new ScsiDigests("liar", page, wide, execute);
}

const refusal = async (pending: Promise<unknown>): Promise<string> => {
  try {
    await pending;
    return "believed";
  } catch (error) {
    if (!(error instanceof AgentError)) throw error;
    return error.code;
  }
};

test("an honest answer is believed, in both forms", async () => {
  for (const wide of [true, false]) {
    const answer = await unit(honest, wide).encode(window);
    expect(answer.extents).toBe(10);
    expect(answer.values.equals(values)).toBe(true);
  }
});

test("a partial answer ends where the block is that could not be read", async () => {
  const partial = head({
    availableLength: 28 + 32,
    numberOfExtents: 4,
    partial: true,
    unreadableLogicalBlockAddress: 1280n + 4n * 128n + 17n,
  });
  const answer = await unit(Buffer.concat([partial, values.subarray(0, 32)])).encode(window);
  expect([answer.extents, answer.unreadable?.lba]).toEqual([4, 1280 + 4 * 128 + 17]);
});

describe("lies", () => {
  const cases: [string, Buffer][] = [
    ["nothing", Buffer.alloc(0)],
    ["half a head", honest.subarray(0, 20)],
    ["a value too few", honest.subarray(0, honest.length - 8)],
    ["half a value", honest.subarray(0, honest.length - 3)],
    [
      "fewer values without saying why",
      Buffer.concat([head({ numberOfExtents: 9, availableLength: 28 + 72 }), values.subarray(0, 72)]),
    ],
    [
      "more values",
      Buffer.concat([head({ numberOfExtents: 11, availableLength: 28 + 88 }), values, values.subarray(0, 8)]),
    ],
    [
      "all values, and called partial",
      Buffer.concat([head({ partial: true, unreadableLogicalBlockAddress: 1280n }), values]),
    ],
    [
      "partial, the bad block before the values' end",
      Buffer.concat([
        head({
          numberOfExtents: 4,
          availableLength: 60,
          partial: true,
          unreadableLogicalBlockAddress: 1280n,
        }),
        values.subarray(0, 32),
      ]),
    ],
    [
      "partial, the bad block far behind",
      Buffer.concat([
        head({
          numberOfExtents: 4,
          availableLength: 60,
          partial: true,
          unreadableLogicalBlockAddress: 1n << 60n,
        }),
        values.subarray(0, 32),
      ]),
    ],
    ["another place", Buffer.concat([head({ logicalBlockAddress: 1408n }), values])],
    ["another width", Buffer.concat([head({ width: true }), values])],
    ["a length that is not there", Buffer.concat([head({ availableLength: 0xffffffff }), values])],
    ["another version", Buffer.concat([Buffer.from([0, 0, 0, 108, 2]), honest.subarray(5)])],
    ["an answer to something else", Buffer.alloc(112, 0x41)],
  ];

  test.each(cases)("%s", async (_what, reply) => {
    for (const wide of [true, false]) {
      expect(await refusal(unit(reply, wide).encode(window))).toBe("protocol_error");
      expect(await refusal(unit(reply, wide).decode(window, Buffer.alloc(160)))).toBe("protocol_error");
    }
  });

  test("a bitmap of another length, for a verdict", async () => {
    const bitmap = (bytes: number, more: Head = {}) =>
      Buffer.concat([head({ availableLength: 28 + bytes, ...more }), Buffer.alloc(bytes, 0xff)]);
    expect((await unit(bitmap(2)).compare(window, values)).different).toEqual(new Array(10).fill(true));
    for (const reply of [bitmap(1), bitmap(1, { numberOfExtents: 3 }), bitmap(0)]) {
      expect(await refusal(unit(reply).compare(window, values))).toBe("protocol_error");
    }
  });

  test("any damage to the head is noticed, or changes nothing", async () => {
    await fc.assert(
      fc.asyncProperty(fc.nat(31), fc.integer({ min: 1, max: 255 }), async (at, mask) => {
        const reply = Buffer.from(honest);
        reply[at]! ^= mask;
        let answer: Awaited<ReturnType<ScsiDigests["encode"]>>;
        try {
          answer = await unit(reply).encode(window);
        } catch (error) {
          expect((error as AgentError).code).toBe("protocol_error");
          return;
        }
        expect([answer.extents, answer.unreadable]).toEqual([10, undefined]);
        expect(answer.values.equals(values)).toBe(true);
      }),
      { numRuns: 1000 },
    );
  });
});

test("an initial value of more than 8 bytes is not cut off: it goes with a list", async () => {
  const used = async (initialValue: Buffer) => {
    const cdbs: number[] = [];
    const execute = async ({ cdb, dataInBytes }: ScsiCommand): Promise<ScsiOutcome> => {
      cdbs.push(cdb.readUInt16BE(8));
      return { status: 0, sense: undefined, dataIn: honest.subarray(0, dataInBytes ?? 0) };
    };
    await new ScsiDigests("replica", page, true, execute).encode({ ...window, initialValue });
    return cdbs;
  };
  const encode = await used(Buffer.alloc(16, 7).fill(0, 0, 8));
  expect(encode).toHaveLength(1); // ENCODE DIGESTS (32)
  expect(await used(Buffer.alloc(16, 7))).toHaveLength(2); // SUBMIT (32) and RECEIVE (32)
});

test("a digest that the unit does not offer is not asked for", async () => {
  const strange = { ...window, digest: parseDigestSpec("sha512(md5+crc64)") };
  expect(await refusal(unit(honest).encode(strange))).toBe("digest_unknown");
});
