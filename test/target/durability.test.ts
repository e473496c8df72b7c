// What is reported as being on the medium is on the medium: FUA, SYNCHRONIZE CACHE and WCE, for every command that writes.
import { describe, expect, test } from "vitest";
import { AgentError } from "../../src/base/errors.ts";
import type { FieldsOf } from "../../src/base/layout.ts";
import * as sbc from "../../src/scsi/sbc-commands.ts";
import * as verify from "../../src/scsi/sbc-verify-commands.ts";
import { modeSelect6 } from "../../src/scsi/spc-commands.ts";
import { reported, UnitUnderTest } from "../support/unit.ts";

const lba = 16;
const blocks = 4;
const data = Buffer.alloc(blocks * 512, 0xa5);
const one = Buffer.alloc(512, 0xa5);

type Write = [name: string, cdb: (fua: boolean) => Buffer, dataOut: Buffer[], after: Buffer];
const with64 = { logicalBlockAddress: BigInt(lba) };
const with32 = { logicalBlockAddress: lba };
const descriptor = sbc.unmapBlockDescriptor.encode({ ...with64, numberOfLogicalBlocks: blocks });
const unmapList = Buffer.concat([
  sbc.unmapParameterListHeader.encode({ unmapDataLength: 22, unmapBlockDescriptorDataLength: 16 }),
  descriptor,
]);
const zeros = Buffer.alloc(data.length);

const withFua: Write[] = [
  ["WRITE (10)", (fua) => sbc.write10.encode({ ...with32, fua, transferLength: blocks }), [data], data],
  ["WRITE (12)", (fua) => sbc.write12.encode({ ...with32, fua, transferLength: blocks }), [data], data],
  ["WRITE (16)", (fua) => sbc.write16.encode({ ...with64, fua, transferLength: blocks }), [data], data],
  [
    "ORWRITE (16)",
    (fua) => verify.orWrite16.encode({ ...with64, fua, length: blocks }),
    [data],
    Buffer.alloc(data.length, 0xb7),
  ],
  [
    "COMPARE AND WRITE",
    (fua) => verify.compareAndWrite.encode({ ...with64, fua, length: blocks }),
    [Buffer.alloc(data.length, 0x12), data],
    data,
  ],
];
const withoutFua: Write[] = [
  [
    "WRITE (6)",
    () => sbc.write6.encode({ logicalBlockAddressLow: lba, transferLength: blocks }),
    [data],
    data,
  ],
  [
    "WRITE SAME (10)",
    () => sbc.writeSame10.encode({ ...with32, numberOfLogicalBlocks: blocks }),
    [one],
    data,
  ],
  [
    "WRITE SAME (16)",
    () => sbc.writeSame16.encode({ ...with64, numberOfLogicalBlocks: blocks }),
    [one],
    data,
  ],
  [
    "WRITE SAME (16) with UNMAP",
    () => sbc.writeSame16.encode({ ...with64, unmap: true, ndob: true, numberOfLogicalBlocks: blocks }),
    [],
    zeros,
  ],
  ["UNMAP", () => sbc.unmap.encode({ parameterListLength: unmapList.length }), [unmapList], zeros],
];

async function written(write: Write, before: (target: UnitUnderTest) => Promise<void>, fua = false) {
  const [, cdb, dataOut, after] = write;
  const target = new UnitUnderTest();
  target.volume.change(lba * 512, Buffer.alloc(data.length, 0x12));
  await before(target);
  expect(reported(await target.execute(target.nexus(1), cdb(fua), dataOut))).toBe(0);
  const range = (bytes: Buffer) => bytes.subarray(lba * 512, lba * 512 + after.length);
  // What all of them can read, whatever is on the medium.
  expect(range(target.volume.cache).equals(after)).toBe(after.length > 0);
  return { target, onMedium: range(target.volume.medium).equals(after) };
}

async function cacheOff(target: UnitUnderTest): Promise<void> {
  const page = target.unit.modes.page(8, "current")!;
  page[2]! &= ~0x04;
  const list = Buffer.concat([Buffer.alloc(4), page]);
  const cdb = modeSelect6.encode({ pf: true, parameterListLength: list.length });
  expect(reported(await target.execute(target.nexus(9), cdb, [list]))).toBe(0);
}

describe.each(withFua)("%s", (...write) => {
  test("with FUA is on the medium", async () => {
    expect((await written(write, async () => {}, true)).onMedium).toBe(true);
  });
});

describe.each([...withFua, ...withoutFua])("%s", (...write) => {
  test("is in the cache while WCE is 1, and on the medium after SYNCHRONIZE CACHE", async () => {
    const { target, onMedium } = await written(write, async () => {});
    expect(onMedium).toBe(false);
    const flush = { ...with32, numberOfLogicalBlocks: 1 } satisfies Partial<
      FieldsOf<typeof sbc.synchronizeCache10>
    >;
    expect(reported(await target.execute(target.nexus(1), sbc.synchronizeCache10.encode(flush)))).toBe(0);
    expect(target.volume.medium.equals(target.volume.cache)).toBe(true);
  });

  test("is on the medium while WCE is 0", async () => {
    expect((await written(write, cacheOff)).onMedium).toBe(true);
  });
});

test.each([
  ["WRITE AND VERIFY (10)", verify.writeAndVerify10.encode({ ...with32, length: blocks })],
  ["WRITE AND VERIFY (12)", verify.writeAndVerify12.encode({ ...with32, length: blocks, bytchk: 1 })],
  ["WRITE AND VERIFY (16)", verify.writeAndVerify16.encode({ ...with64, length: blocks })],
])("%s is on the medium, since that is what it verifies", async (_name, cdb) => {
  const { onMedium } = await written([_name, () => cdb, [data], data], async () => {});
  expect(onMedium).toBe(true);
});

test("a flush that fails is reported, and so is a write that WCE 0 could not bring to the medium", async () => {
  const target = new UnitUnderTest();
  const nexus = target.nexus(1);
  await cacheOff(target);
  target.volume.unwritable.add(lba);
  const cdb = sbc.write10.encode({ ...with32, transferLength: blocks });
  expect(reported(await target.execute(nexus, cdb, [data]))).toBe("modeParametersChanged");
  expect(reported(await target.execute(nexus, cdb, [data]))).toBe("writeError");
  target.volume.before = (operation) => {
    if (operation === "flush") throw new AgentError("medium_error", "the disk is gone");
  };
  expect(reported(await target.execute(nexus, sbc.synchronizeCache10.encode({})))).toBe("writeError");
});

describe("what could not be put on the medium", () => {
  const flush = sbc.synchronizeCache10.encode({});

  /** Nexuses 1 to 3 have written; the next flush fails, and no other one. */
  async function failing() {
    const target = new UnitUnderTest();
    const cdb = sbc.write10.encode({ ...with32, transferLength: blocks });
    for (const i of [1, 2, 3]) expect(reported(await target.execute(target.nexus(i), cdb, [data]))).toBe(0);
    let fails = true;
    target.volume.before = (operation) => {
      if (operation !== "flush" || !fails) return;
      fails = false;
      throw new AgentError("medium_error", "EIO");
    };
    const flushed = async (i: number) => reported(await target.execute(target.nexus(i), flush));
    return { target, flushed };
  }

  test("is told to each nexus once, though the kernel tells only one", async () => {
    const { flushed } = await failing();
    expect([await flushed(1), await flushed(1)]).toEqual(["writeError", 0]);
    expect([await flushed(2), await flushed(2)]).toEqual(["writeError", 0]);
    expect(await flushed(3)).toBe("writeError");
  });

  test("is told also where the server itself was told of it", async () => {
    const { target, flushed } = await failing();
    await expect(target.volume.flush()).rejects.toThrow("EIO");
    expect([await flushed(1), await flushed(2), await flushed(1)]).toEqual(["writeError", "writeError", 0]);
  });

  test("is told in the next session of whoever lost his", async () => {
    const { target, flushed } = await failing();
    target.unit.nexusEnded(target.nexus(2));
    expect(await flushed(1)).toBe("writeError");
    target.unit.nexusBegan(target.nexus(2));
    target.unit.takeAttention(target.nexus(2));
    expect([await flushed(2), await flushed(2)]).toEqual(["writeError", 0]);
  });

  test("is told to flushes that go on at the same time", async () => {
    const target = new UnitUnderTest();
    const [one, two] = [target.nexus(1), target.nexus(2)];
    const told = Promise.withResolvers<never>();
    let flushes = 0;
    target.volume.before = (operation) =>
      operation === "flush" && ++flushes === 1 ? told.promise : undefined;
    const results = [target.execute(one, flush), target.execute(two, flush)];
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(flushes).toBe(2);
    told.reject(new AgentError("medium_error", "EIO"));
    expect((await Promise.all(results)).map(reported)).toEqual(["writeError", "writeError"]);
  });
});
