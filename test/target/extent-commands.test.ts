// WRITE EXTENTS and COPY EXTENTS carried out: what is written is exactly what was proved, in the order of the list, as
// far as the sense data says; and whatever holds for a WRITE holds for them.
import { createHash } from "node:crypto";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { deferred } from "../../src/base/async.ts";
import { AgentError } from "../../src/base/errors.ts";
import * as extents from "../../src/scsi/extent-commands.ts";
import { decodeVendorPage } from "../../src/scsi/inquiry-data.ts";
import * as persistent from "../../src/scsi/persistent-reservation.ts";
import { inquiry, modeSelect6 } from "../../src/scsi/spc-commands.ts";
import type { Nexus } from "../../src/target/nexus.ts";
import { bytesOf, randomOf } from "../support/data.ts";
import {
  copied,
  copyList,
  dataRun,
  indexOf,
  sha256,
  type TestRun,
  writeList,
  zeroRun,
} from "../support/extent-lists.ts";
import { dataOf, nexusOf, reported, UnitUnderTest } from "../support/unit.ts";

const random = randomOf(9);
const bytes = (blocks: number) => bytesOf(random, blocks * 512);

function filled(blocks = 256, options: ConstructorParameters<typeof UnitUnderTest>[1] = {}): UnitUnderTest {
  const target = new UnitUnderTest(blocks, options);
  bytesOf(randomOf(2), target.volume.cache.length).copy(target.volume.cache);
  target.volume.cache.copy(target.volume.medium);
  return target;
}

const write = (target: UnitUnderTest, nexus: Nexus, list: Buffer, signal?: AbortSignal) =>
  target.execute(nexus, extents.writeExtents32.encode({ parameterListLength: list.length }), [list], signal);
const copy = (target: UnitUnderTest, nexus: Nexus, list: Buffer, signal?: AbortSignal) =>
  target.execute(nexus, extents.copyExtents32.encode({ parameterListLength: list.length }), [list], signal);

/** Why, where and after how many runs. */
const ended = (result: Awaited<ReturnType<typeof write>>) => [
  reported(result),
  result.sense?.information,
  result.sense?.commandSpecific ?? 0,
];

describe("WRITE EXTENTS", () => {
  test.each([512, 4096])("writes runs of every form, with blocks of %i bytes", async (blockBytes) => {
    const target = filled(64, { blockBytes });
    const expected = Buffer.from(target.volume.cache);
    const [one, two] = [bytesOf(random, 3 * blockBytes), Buffer.alloc(5 * blockBytes, "again ")];
    const list = writeList([
      dataRun(7, one, { blockBytes }),
      zeroRun(20, 6),
      dataRun(59, two, { compressed: true, blockBytes }),
    ]);
    expect(reported(await write(target, target.nexus(1), list))).toBe(0);
    one.copy(expected, 7 * blockBytes);
    expected.fill(0, 20 * blockBytes, 26 * blockBytes);
    two.copy(expected, 59 * blockBytes);
    expect(target.volume.cache.equals(expected)).toBe(true);
  });

  test("takes combined and composed digests", async () => {
    const target = filled();
    const nexus = target.nexus(1);
    const block = bytes(1);
    const hash = (name: string, data: Buffer) => createHash(name).update(data).digest();
    for (const [text, identifier] of [
      ["sha1(md5)", hash("sha1", hash("md5", block))],
      ["sha512+md5", Buffer.concat([hash("sha512", block), hash("md5", block)])],
    ] as const) {
      const head = { digest: indexOf(text) };
      expect(reported(await write(target, nexus, writeList([dataRun(1, block, { identifier })], head)))).toBe(
        0,
      );
      const wrong = Buffer.from(identifier);
      wrong[wrong.length - 1]! ^= 1;
      const refused = writeList([dataRun(2, block, { identifier: wrong })], head);
      expect(ended(await write(target, nexus, refused))).toEqual(["miscompare", 2, 0]);
    }
  });

  test("takes 8 MiB at once", async () => {
    const target = filled(16_384 + 8);
    const all = Buffer.alloc(8 * 1024 * 1024, "all of it ");
    const whole = writeList([dataRun(8, all, { compressed: true })]);
    expect(reported(await write(target, target.nexus(1), whole))).toBe(0);
    expect(target.volume.cache.subarray(8 * 512).equals(all)).toBe(true);
  });

  test("writes nothing of a run that is not what it should be, all before it and nothing behind it", async () => {
    const target = filled();
    const expected = Buffer.from(target.volume.cache);
    const [first, second, third] = [bytes(2), bytes(3), bytes(4)];
    for (const compressed of [false, true]) {
      const wrong = dataRun(100, Buffer.alloc(1536, "x"), { compressed, identifier: sha256(second) });
      const list = writeList([dataRun(10, first), zeroRun(20, 2), wrong, dataRun(200, third)]);
      expect(ended(await write(target, target.nexus(1), list))).toEqual(["miscompare", 100, 2]);
      first.copy(expected, 10 * 512);
      expected.fill(0, 20 * 512, 22 * 512);
      expect(target.volume.cache.equals(expected)).toBe(true);
    }
  });

  test("says which block could not be written, that there is no room, and what was done before", async () => {
    const target = filled();
    const nexus = target.nexus(1);
    target.volume.unwritable.add(51);
    const list = writeList([dataRun(10, bytes(2)), dataRun(50, bytes(4)), zeroRun(0, 1)]);
    expect(ended(await write(target, nexus, list))).toEqual(["writeError", 51, 1]);
    target.volume.unwritable.clear();
    target.volume.room = 2;
    expect(ended(await write(target, nexus, list))).toEqual(["spaceAllocationFailed", undefined, 1]);
    target.volume.before = () => {
      throw new AgentError("io_error", "gone");
    };
    expect(ended(await write(target, nexus, list))).toEqual(["internalTargetFailure", undefined, 0]);
  });

  test("unmaps zeros", async () => {
    const target = filled();
    const zeroed: unknown[] = [];
    target.volume.zero = async (...asked: unknown[]) => {
      zeroed.push(asked.slice(0, 3));
    };
    await write(target, target.nexus(1), writeList([zeroRun(20, 6), zeroRun(0, 1)]));
    expect(zeroed).toEqual([
      [20, 6, { unmap: true }],
      [0, 1, { unmap: true }],
    ]);
  });

  test("of many at once are all carried out, and none waits for ever", async () => {
    const target = filled(16_384);
    const nexus = target.nexus(1);
    const lists = Array.from({ length: 40 }, (_, i) => {
      const data = Buffer.alloc(1024 * 1024, i + 1);
      return writeList(
        Array.from({ length: 8 }, (_, part) => dataRun(2048 * part, data, { compressed: i % 2 === 0 })),
      );
    });
    const results = await Promise.all(lists.map((list) => write(target, nexus, list)));
    expect(new Set(results.map(reported))).toEqual(new Set([0]));
    const first = target.volume.cache[0]!;
    expect(target.volume.cache.subarray(0, 1024 * 1024).equals(Buffer.alloc(1024 * 1024, first))).toBe(true);
  });
});

describe("COPY EXTENTS", () => {
  test("copies what is there, and ends at the first run that is not", async () => {
    const target = filled();
    const before = Buffer.from(target.volume.cache);
    const at = (lba: number, blocks: number) => before.subarray(lba * 512, (lba + blocks) * 512);
    const list = copyList([
      copied(0, 100, 8, sha256(at(0, 8))),
      copied(9, 200, 1, sha256(at(9, 1))),
      copied(10, 220, 2, sha256(at(11, 2))),
      copied(0, 240, 1, sha256(at(0, 1))),
    ]);
    expect(ended(await copy(target, target.nexus(1), list))).toEqual(["miscompare", 10, 2]);
    const expected = Buffer.from(before);
    at(0, 8).copy(expected, 100 * 512);
    at(9, 1).copy(expected, 200 * 512);
    expect(target.volume.cache.equals(expected)).toBe(true);
  });

  test("carries out runs that overlap one after another, each as if it were read first", async () => {
    const target = filled();
    const model = Buffer.from(target.volume.cache);
    const runs: TestRun[] = [];
    // Shifted by less than their length, then copies of copies.
    for (const [from, to, blocks] of [
      [0, 3, 10],
      [3, 0, 10],
      [5, 100, 20],
      [100, 101, 20],
      [101, 101, 4],
    ] as const) {
      const source = Buffer.from(model.subarray(from * 512, (from + blocks) * 512));
      runs.push(copied(from, to, blocks, sha256(source)));
      source.copy(model, to * 512);
    }
    expect(reported(await copy(target, target.nexus(1), copyList(runs)))).toBe(0);
    expect(target.volume.cache.equals(model)).toBe(true);
  });

  test("says which block could not be read, or written", async () => {
    const target = filled();
    const nexus = target.nexus(1);
    const identifier = sha256(target.volume.cache.subarray(0, 4 * 512));
    const list = copyList([copied(0, 50, 4, identifier), copied(50, 60, 4, identifier)]);
    target.volume.unwritable.add(62);
    expect(ended(await copy(target, nexus, list))).toEqual(["writeError", 62, 1]);
    target.volume.unreadable.add(3);
    expect(ended(await copy(target, nexus, list))).toEqual(["unrecoveredReadError", 3, 0]);
  });
});

const place = fc.record({ lba: fc.nat(60), blocks: fc.integer({ min: 1, max: 12 }) });

test("any list of WRITE EXTENTS writes its runs up to the first that is wrong, and nothing else", async () => {
  const run = fc.record({
    place,
    form: fc.constantFrom("stored", "compressed", "zeros"),
    wrong: fc.constantFrom("no", "no", "no", "no", "no", "no", "identifier", "data"),
    seed: fc.nat(),
  });
  const unwritable = fc.uniqueArray(fc.nat(71), { maxLength: 2 });
  const lists = fc.array(run, { maxLength: 12 });
  const seen = new Set<unknown>();
  await fc.assert(
    fc.asyncProperty(lists, unwritable, fc.boolean(), async (runs, bad, writeCache) => {
      const target = filled(72);
      target.unit.volume.writeCache = writeCache;
      const model = Buffer.from(target.volume.cache);
      for (const each of bad) target.volume.unwritable.add(each);
      let failed: unknown[] | undefined;
      const sent = runs.map(({ place: { lba, blocks }, form, wrong, seed }, i) => {
        const filler = randomOf(seed);
        const data =
          form === "stored" ? bytesOf(filler, blocks * 512) : Buffer.alloc(blocks * 512, `${seed % 1000} `);
        if (form === "zeros") data.fill(0);
        const made =
          form === "zeros" ? zeroRun(lba, blocks) : dataRun(lba, data, { compressed: form === "compressed" });
        const { content } = made;
        if (wrong === "identifier" && content.length > 0) content[seed % 32]! ^= 1 << (seed % 8);
        if (wrong === "data" && content.length > 0) content[content.length - 1]! ^= 1 << (seed % 8);
        if (wrong !== "no" && content.length > 0) failed ??= ["miscompare", lba, i];
        const first = bad.filter((each) => each >= lba && each < lba + blocks).sort((a, b) => a - b)[0];
        if (first !== undefined) failed ??= ["writeError", first, i];
        if (!failed) data.copy(model, lba * 512);
        return made;
      });
      const result = await write(target, target.nexus(1), writeList(sent));
      expect(ended(result)).toEqual(failed ?? [0, undefined, 0]);
      seen.add(failed?.[0]);
      expect(target.volume.cache.equals(model)).toBe(true);
      if (!writeCache && !failed) expect(target.volume.medium.equals(model)).toBe(true);
    }),
    { numRuns: 400 },
  );
  expect(seen).toEqual(new Set([undefined, "miscompare", "writeError"]));
});

test("any list of COPY EXTENTS copies its runs up to the first that is not there, and nothing else", async () => {
  const run = fc.record({ from: place, to: fc.nat(60), wrong: fc.integer({ min: 0, max: 5 }) });
  await fc.assert(
    fc.asyncProperty(fc.array(run, { maxLength: 12 }), async (runs) => {
      const target = filled(72);
      const model = Buffer.from(target.volume.cache);
      let failed: unknown[] | undefined;
      const sent = runs.map(({ from: { lba, blocks }, to, wrong }, i) => {
        const source = Buffer.from(model.subarray(lba * 512, (lba + blocks) * 512));
        const identifier = sha256(source);
        if (wrong === 0) identifier[i % 32]! ^= 4;
        if (wrong === 0) failed ??= ["miscompare", lba, i];
        if (!failed) source.copy(model, to * 512);
        return copied(lba, to, blocks, identifier);
      });
      const result = await copy(target, target.nexus(1), copyList(sent));
      expect(ended(result)).toEqual(failed ?? [0, undefined, 0]);
      expect(target.volume.cache.equals(model)).toBe(true);
    }),
    { numRuns: 300 },
  );
});

describe.each([
  ["WRITE EXTENTS", write, () => writeList([dataRun(1, Buffer.alloc(512)), zeroRun(8, 8)])],
  [
    "COPY EXTENTS",
    copy,
    (target: UnitUnderTest) => copyList([copied(0, 8, 2, sha256(target.volume.cache.subarray(0, 1024)))]),
  ],
])("%s is a WRITE:", (_name, send, listFor) => {
  test("not for a read-only unit, one under software write protection, nor an initiator that may not write", async () => {
    const readonly = filled(64, { readonly: true });
    const target = filled(64);
    const before = Buffer.from(target.volume.cache);
    expect(reported(await send(readonly, readonly.nexus(1), listFor(readonly)))).toBe("writeProtected");
    const looking = { ...nexusOf(2), rights: { writes: false, digests: true } };
    target.server.nexusBegan(looking);
    target.unit.takeAttention(looking);
    expect(reported(await send(target, looking, listFor(target)))).toBe("writeProtected");
    const nexus = target.nexus(1);
    const page = target.unit.modes.page(10, "current")!;
    page[4]! |= 0x08; // SWP
    const control = Buffer.concat([Buffer.alloc(4), page]);
    const select = modeSelect6.encode({ pf: true, parameterListLength: control.length });
    expect(reported(await target.execute(nexus, select, [control]))).toBe(0);
    expect(reported(await send(target, nexus, listFor(target)))).toBe("softwareWriteProtected");
    for (const each of [readonly, target]) expect(each.volume.cache.equals(before)).toBe(true);
  });

  test("there is no trace of it for an initiator without the right to digests", async () => {
    const target = filled(64);
    const plain = { ...nexusOf(2), rights: { writes: true, digests: false } };
    target.server.nexusBegan(plain);
    target.unit.takeAttention(plain);
    expect(reported(await send(target, plain, listFor(target)))).toBe("invalidOperationCode");
  });

  test.each([1, 3, 5])("against a reservation of type %i by somebody else it conflicts", async (type) => {
    const target = filled(64);
    const before = Buffer.from(target.volume.cache);
    const [holder, other] = [target.nexus(1), target.nexus(2)];
    const out = persistent.parameterList.encode({ serviceActionReservationKey: 7n });
    const key = persistent.parameterList.encode({ reservationKey: 7n });
    const register = persistent.register.encode({ parameterListLength: 24 });
    const reserve = persistent.reserve.encode({ type, parameterListLength: 24 });
    expect(reported(await target.execute(holder, register, [out]))).toBe(0);
    expect(reported(await target.execute(holder, reserve, [key]))).toBe(0);
    expect(reported(await send(target, other, listFor(target)))).toBe(0x18);
    expect(target.volume.cache.equals(before)).toBe(true);
    expect(reported(await send(target, holder, listFor(target)))).toBe(0);
  });

  test("it is on the medium when it is answered while the write cache is off", async () => {
    const target = filled(64);
    target.unit.volume.writeCache = false;
    expect(reported(await send(target, target.nexus(1), listFor(target)))).toBe(0);
    expect(target.volume.medium.equals(target.volume.cache)).toBe(true);
  });

  test("it waits for whoever has the blocks for himself", async () => {
    const target = filled(64);
    const nexus = target.nexus(1);
    const list = listFor(target);
    const before = Buffer.from(target.volume.cache);
    const held = deferred<void>();
    const alone = target.unit.volume.exclusively(9, 1, () => held.promise);
    const sent = send(target, nexus, list);
    await new Promise((resolve) => setTimeout(resolve, 50));
    const blocks = (from: number, to: number) => target.volume.cache.subarray(from * 512, to * 512);
    expect(blocks(8, 16).equals(before.subarray(8 * 512, 16 * 512))).toBe(true);
    held.resolve();
    await alone;
    expect(reported(await sent)).toBe(0);
    expect(blocks(8, 10).equals(before.subarray(8 * 512, 10 * 512))).toBe(false);
  });

  test("once aborted it does no more", async () => {
    const target = filled(64);
    const before = Buffer.from(target.volume.cache);
    const result = await send(target, target.nexus(1), listFor(target), AbortSignal.abort());
    expect(reported(result)).toBe("commandAborted");
    expect(target.volume.cache.equals(before)).toBe(true);
  });

  test("reserved bits and NACA in its CDB are refused", async () => {
    const target = filled(64);
    const nexus = target.nexus(1);
    const list = listFor(target);
    const [narrow, wide] =
      send === write
        ? [extents.writeExtents16, extents.writeExtents32]
        : [extents.copyExtents16, extents.copyExtents32];
    for (const [layout, byte, bit] of [
      [narrow, 2, 0],
      [narrow, 15, 2],
      [wide, 1, 2],
      [wide, 12, 7],
    ] as const) {
      const cdb = layout.encode({ parameterListLength: list.length });
      cdb[byte]! |= 1 << bit;
      const result = await target.execute(nexus, cdb, [list]);
      expect([reported(result), result.sense?.fieldPointer]).toEqual([
        "invalidFieldInCdb",
        { cdb: true, byte, bit },
      ]);
    }
  });
});

test("page DBh says that they are there, and how large a list may be", async () => {
  const target = filled(64);
  const page = inquiry.encode({ evpd: true, pageCode: 0xdb, allocationLength: 8192 });
  expect(decodeVendorPage(dataOf(await target.execute(target.nexus(1), page)))).toMatchObject({
    writeExtents: true,
    copyExtents: true,
    mostListBytes: 8 * 1024 * 1024,
    mostRuns: 2048,
  });
});
