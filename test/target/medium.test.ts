// Commands that compare, lock, protect and erase: what an administrator's or a cluster's tools rely on.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import * as sbc from "../../src/scsi/sbc-commands.ts";
import * as medium from "../../src/scsi/sbc-medium-commands.ts";
import * as verify from "../../src/scsi/sbc-verify-commands.ts";
import * as spc from "../../src/scsi/spc-commands.ts";
import { dataOf, reported, UnitUnderTest } from "../support/unit.ts";

const write10 = sbc.write10.encode({ logicalBlockAddress: 0, transferLength: 1 });
const block = (fill: number) => Buffer.alloc(512, fill);

describe("COMPARE AND WRITE", () => {
  test("counts up without losing one, whoever else writes other blocks", async () => {
    const target = new UnitUnderTest(8);
    const initiators = Array.from({ length: 6 }, (_, i) => target.nexus(i));
    const rounds = 40;
    const cdb = verify.compareAndWrite.encode({ logicalBlockAddress: 3n, length: 1 });
    const counted = (value: number) => {
      const bytes = Buffer.alloc(512);
      bytes.writeUInt32BE(value);
      return bytes;
    };
    let collisions = 0;
    await Promise.all(
      initiators.map(async (nexus, i) => {
        let seen = 0;
        for (let done = 0; done < rounds; ) {
          const result = await target.execute(nexus, cdb, [counted(seen), counted(seen + 1)]);
          if (result.status === 0) done++;
          else {
            collisions++;
            expect(reported(result)).toBe("miscompare");
            const read = sbc.read10.encode({ logicalBlockAddress: 3, transferLength: 1 });
            seen = dataOf(await target.execute(nexus, read)).readUInt32BE();
          }
          const other = sbc.write10.encode({ logicalBlockAddress: i % 3, transferLength: 1 });
          await target.execute(nexus, other, [block(i)]);
        }
      }),
    );
    expect(target.volume.cache.readUInt32BE(3 * 512)).toBe(initiators.length * rounds);
    expect(collisions).toBeGreaterThan(0);
  });

  test("names the first byte that differs, and writes nothing then", async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 255 }), fc.nat(), async (length, at) => {
        const target = new UnitUnderTest(256);
        const nexus = target.nexus(1);
        const expected = Buffer.alloc(length * 512, 7);
        target.volume.change(0, expected);
        const differsAt = at % expected.length;
        expected[differsAt] = 8;
        const cdb = verify.compareAndWrite.encode({ logicalBlockAddress: 0n, length });
        const result = await target.execute(nexus, cdb, [expected, Buffer.alloc(length * 512, 9)]);
        expect(reported(result)).toBe("miscompare");
        expect(result.sense!.information).toBe(differsAt);
        expect(target.volume.cache.includes(9)).toBe(false);
      }),
      { numRuns: 60 },
    );
  });
});

describe("MODE SELECT", () => {
  const select = (target: UnitUnderTest, pages: Buffer, port = 1, more: object = {}) => {
    const list = Buffer.concat([Buffer.alloc(4), pages]);
    const cdb = spc.modeSelect6.encode({ pf: true, parameterListLength: list.length, ...more });
    return target.execute(target.nexus(port), cdb, [list]);
  };

  test("takes just the bits that MODE SENSE shows as changeable, whole or not at all", async () => {
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(1, 8, 10, 28), fc.nat(), async (code, at) => {
        const target = new UnitUnderTest();
        const page = target.unit.modes.page(code, "current")!;
        const mask = target.unit.modes.page(code, "changeable")!;
        const bit = at % (8 * (page.length - 2));
        const byte = 2 + (bit >> 3);
        page[byte]! ^= 1 << (bit & 7);
        const other = target.unit.modes.page(code === 8 ? 10 : 8, "current")!;
        other[code === 8 ? 4 : 2]! ^= code === 8 ? 0x08 : 0x04;
        const before = [1, 8, 10, 28].map((each) => target.unit.modes.page(each, "current"));
        const result = await select(target, Buffer.concat([other, page]));
        const changeable = (mask[byte]! & (1 << (bit & 7))) !== 0;
        expect(reported(result)).toBe(changeable ? 0 : "invalidFieldInParameterList");
        if (changeable) expect(target.unit.modes.page(code, "current")!.equals(page)).toBe(true);
        else expect([1, 8, 10, 28].map((each) => target.unit.modes.page(each, "current"))).toEqual(before);
      }),
      { numRuns: 300 },
    );
  });

  test("tells the other initiators, and a reset brings the defaults back", async () => {
    const target = new UnitUnderTest();
    const other = target.nexus(2);
    const page = target.unit.modes.page(10, "current")!;
    page[4]! |= 0x08; // SWP
    expect(reported(await select(target, page))).toBe(0);
    const cdb = spc.testUnitReady.encode({});
    expect(reported(await target.execute(other, cdb))).toBe("modeParametersChanged");
    expect(reported(await target.execute(other, write10, [block(1)]))).toBe("softwareWriteProtected");
    const sensed = dataOf(
      await target.execute(other, spc.modeSense6.encode({ pageCode: 10, allocationLength: 255 })),
    );
    expect(sensed[2]! & 0x80).toBe(0x80); // WP
    target.unit.reset();
    expect(reported(await target.execute(other, cdb))).toBe("deviceReset");
    expect(reported(await target.execute(other, write10, [block(1)]))).toBe(0);
  });

  test("refuses SP, lists that end in a page, pages that are not here", async () => {
    const target = new UnitUnderTest();
    const page = target.unit.modes.page(10, "current")!;
    expect(reported(await select(target, page, 1, { sp: true }))).toBe("invalidFieldInCdb");
    expect(reported(await select(target, page, 1, { pf: false }))).toBe("invalidFieldInCdb");
    expect(reported(await select(target, page.subarray(0, 9)))).toBe("invalidFieldInParameterList");
    expect(reported(await select(target, Buffer.from([0x19, 2, 0, 0])))).toBe("invalidFieldInParameterList");
    expect(reported(await select(target, Buffer.from([0x4a, 0])))).toBe("invalidFieldInParameterList");
  });
});

describe("every command that writes", () => {
  const writes: [string, Buffer, Buffer[]][] = [
    ["WRITE (10)", write10, [block(1)]],
    ["WRITE SAME (10)", sbc.writeSame10.encode({ numberOfLogicalBlocks: 1 }), [block(1)]],
    ["WRITE SAME (16)", sbc.writeSame16.encode({ numberOfLogicalBlocks: 1 }), [block(1)]],
    ["UNMAP", sbc.unmap.encode({ parameterListLength: 0 }), []],
    ["WRITE AND VERIFY (10)", verify.writeAndVerify10.encode({ length: 1 }), [block(1)]],
    ["COMPARE AND WRITE", verify.compareAndWrite.encode({ length: 1 }), [block(0), block(1)]],
    ["ORWRITE (16)", verify.orWrite16.encode({ length: 1 }), [block(1)]],
    [
      "SANITIZE, OVERWRITE",
      medium.sanitizeOverwrite.encode({ parameterListLength: 5 }),
      [Buffer.from([1, 0, 0, 1, 9])],
    ],
    ["SANITIZE, BLOCK ERASE", medium.sanitizeBlockErase.encode({}), []],
  ];

  test.each(writes)("%s is refused by a unit that is read only", async (_name, cdb, dataOut) => {
    const target = new UnitUnderTest(8, { readonly: true });
    target.volume.change(0, Buffer.alloc(8 * 512, 3));
    const before = Buffer.from(target.volume.cache);
    expect(reported(await target.execute(target.nexus(1), cdb, dataOut))).toBe("writeProtected");
    expect(target.volume.cache.equals(before)).toBe(true);
  });

  test.each(writes)("%s is refused while the medium is ejected", async (_name, cdb, dataOut) => {
    const target = new UnitUnderTest(8, { removable: true });
    const nexus = target.nexus(1);
    expect(reported(await target.execute(nexus, medium.startStopUnit.encode({ loej: true })))).toBe(0);
    expect(reported(await target.execute(nexus, cdb, dataOut))).toBe("mediumNotPresent");
    const other = target.nexus(2);
    expect(
      reported(await target.execute(nexus, medium.startStopUnit.encode({ loej: true, start: true }))),
    ).toBe(0);
    expect(reported(await target.execute(other, spc.testUnitReady.encode({})))).toBe("mediumMayHaveChanged");
    expect(reported(await target.execute(nexus, cdb, dataOut))).toBe(0);
  });
});

describe("SANITIZE", () => {
  test("that fails keeps the unit from being used, until another one succeeds", async () => {
    const target = new UnitUnderTest(4096);
    const nexus = target.nexus(1);
    target.volume.unwritable.add(77);
    const erase = medium.sanitizeBlockErase.encode({});
    expect(reported(await target.execute(nexus, erase))).toBe("writeError");
    expect(reported(await target.execute(nexus, write10, [block(1)]))).toBe("sanitizeFailed");
    expect(reported(await target.execute(nexus, medium.sanitizeExitFailureMode.encode({})))).toBe(
      "sanitizeFailed",
    );
    target.volume.unwritable.clear();
    expect(reported(await target.execute(nexus, erase))).toBe(0);
    expect(reported(await target.execute(nexus, write10, [block(1)]))).toBe(0);
  });

  test("with AUSE may be left after a failure", async () => {
    const target = new UnitUnderTest(4096);
    const nexus = target.nexus(1);
    target.volume.unwritable.add(77);
    expect(reported(await target.execute(nexus, medium.sanitizeBlockErase.encode({ ause: true })))).toBe(
      "writeError",
    );
    expect(reported(await target.execute(nexus, medium.sanitizeExitFailureMode.encode({})))).toBe(0);
    expect(reported(await target.execute(nexus, write10, [block(1)]))).toBe(0);
  });

  test("writes the pattern that came, whatever becomes of the memory in which it came", async () => {
    const target = new UnitUnderTest(4096);
    const nexus = target.nexus(1);
    const list = Buffer.from([0x01, 0, 0, 2, 0xab, 0xcd]);
    const cdb = medium.sanitizeOverwrite.encode({ immed: true, parameterListLength: list.length });
    const begun = target.execute(nexus, cdb, [list]);
    list.fill(0x77); // the task has ended: its buffer is somebody else's
    expect(reported(await begun)).toBe(0);
    while (target.unit.sanitize.state === "under way") await new Promise((resolve) => setImmediate(resolve));
    expect(target.volume.medium.equals(Buffer.alloc(4096 * 512, Buffer.from([0xab, 0xcd])))).toBe(true);
  });

  test("ends between two pieces when the target stops, and nothing is written afterwards", async () => {
    const target = new UnitUnderTest(16384);
    const nexus = target.nexus(1);
    const list = Buffer.from([0x1f, 0, 0, 1, 0xab]);
    let writes = 0;
    let stopped: Promise<void> | undefined;
    target.volume.before = (operation) => {
      if (operation === "write" && ++writes === 3) stopped = target.server.stop();
    };
    const cdb = medium.sanitizeOverwrite.encode({ immed: true, parameterListLength: list.length });
    expect(reported(await target.execute(nexus, cdb, [list]))).toBe(0);
    while (!stopped) await new Promise((resolve) => setImmediate(resolve));
    await stopped;
    expect(writes).toBe(3);
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect([writes, target.unit.sanitize.state]).toEqual([3, "failed"]);
  });

  test("goes on when its task is aborted, and leaves nothing of the data in cache or on the medium", async () => {
    const target = new UnitUnderTest(4096);
    const nexus = target.nexus(1);
    target.volume.change(0, Buffer.alloc(4096 * 512, 0x55));
    const abort = new AbortController();
    const list = Buffer.from([0x81, 0, 0, 2, 0xab, 0xcd]);
    const cdb = medium.sanitizeOverwrite.encode({ parameterListLength: list.length });
    let during: unknown;
    let seen = 0;
    target.volume.before = (operation) => {
      if (operation !== "write" || seen++ > 0) return;
      abort.abort();
      during = target.execute(nexus, write10, [block(1)]).then(reported);
    };
    await target.execute(nexus, cdb, [list], abort.signal);
    expect(await during).toBe("sanitizeInProgress");
    while (target.unit.sanitize.state === "under way") await new Promise((resolve) => setImmediate(resolve));
    const wiped = Buffer.alloc(4096 * 512, Buffer.from([0xab, 0xcd]));
    expect(target.volume.cache.equals(wiped)).toBe(true);
    expect(target.volume.medium.equals(wiped)).toBe(true);
  });
});
