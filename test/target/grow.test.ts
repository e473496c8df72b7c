// GROW at the target: who may let a unit grow, to what, and who is told.
import { stat, truncate, writeFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { AgentError } from "../../src/base/errors.ts";
import { systemClock } from "../../src/platform/clock.ts";
import { decodeVendorPage, parseUuid } from "../../src/scsi/inquiry-data.ts";
import * as pr from "../../src/scsi/persistent-reservation.ts";
import { read16, readCapacity16, readCapacity16Data, write16 } from "../../src/scsi/sbc-commands.ts";
import { inquiry, modeSelect6 } from "../../src/scsi/spc-commands.ts";
import {
  growList,
  parameterListHeader,
  receive16,
  submit16,
  vendorFunction,
} from "../../src/scsi/vendor-commands.ts";
import { LogicalUnit } from "../../src/target/logical-unit.ts";
import type { Nexus } from "../../src/target/nexus.ts";
import { FileVolume } from "../../src/volume/file-volume.ts";
import { WorkFolder } from "../support/lunsync.ts";
import { dataOf, nexusOf, reported, UnitUnderTest } from "../support/unit.ts";

const uuid = "12345678-9abc-4def-8123-456789abcdef"; // of the unit
const conflict = 0x18;

let nextList = 1;

/** What SUBMIT reports, and where it is good, RECEIVE. */
async function grow(
  target: UnitUnderTest,
  nexus: Nexus,
  blocks: bigint,
  { volume = uuid, data = growList.encode({ volumeUuid: parseUuid(volume), numberOfBlocks: blocks }) } = {},
) {
  const listIdentifier = nextList++;
  const head = parameterListHeader.encode({ function: vendorFunction.grow, dataLength: data.length });
  const parameterListLength = head.length + data.length;
  const submitted = await target.execute(nexus, submit16.encode({ listIdentifier, parameterListLength }), [
    head,
    data,
  ]);
  if (submitted.status !== 0) return submitted;
  return target.execute(nexus, receive16.encode({ listIdentifier, allocationLength: 64 }));
}

async function capacity(target: UnitUnderTest, nexus: Nexus): Promise<bigint> {
  const result = await target.execute(nexus, readCapacity16.encode({ allocationLength: 32 }));
  return readCapacity16Data.decode(dataOf(result)).returnedLogicalBlockAddress + 1n;
}

const testUnitReady = Buffer.alloc(6);

describe("a unit", () => {
  test("grows: what is new is zeros, what was there is as it was; the others are told, once", async () => {
    const target = new UnitUnderTest(100);
    target.volume.cache.fill(0xa5);
    const [asking, other] = [target.nexus(1), target.nexus(2)];
    const result = await grow(target, asking, 300n);
    expect(reported(result)).toBe(0);
    // The head of an answer, and nothing behind it.
    expect(dataOf(result).toString("hex")).toBe(`0000001c01${"00".repeat(27)}`);
    expect(reported(await target.execute(asking, testUnitReady))).toBe(0);
    expect(await capacity(target, asking)).toBe(300n);
    expect(reported(await target.execute(other, testUnitReady))).toBe("capacityChanged");
    expect(reported(await target.execute(other, testUnitReady))).toBe(0);
    const all = await target.execute(other, read16.encode({ logicalBlockAddress: 0n, transferLength: 300 }));
    expect(dataOf(all).equals(Buffer.concat([Buffer.alloc(51_200, 0xa5), Buffer.alloc(102_400)]))).toBe(true);
    const cdb = write16.encode({ logicalBlockAddress: 299n, transferLength: 1 });
    expect(reported(await target.execute(other, cdb, [Buffer.alloc(512, 1)]))).toBe(0);
  });

  test("that is as long already is left as it is, and nobody is told", async () => {
    const target = new UnitUnderTest(100);
    const [asking, other] = [target.nexus(1), target.nexus(2)];
    for (let i = 0; i < 2; i++) expect(reported(await grow(target, asking, 120n))).toBe(0);
    expect(reported(await target.execute(other, testUnitReady))).toBe("capacityChanged");
    expect(reported(await grow(target, asking, 120n))).toBe(0);
    expect(reported(await target.execute(other, testUnitReady))).toBe(0);
  });

  test("says in page DBh whether it can", async () => {
    for (const grows of [true, false]) {
      const target = new UnitUnderTest(100);
      Object.assign(target.volume.traits, { grows });
      const page = inquiry.encode({ evpd: true, pageCode: 0xdb, allocationLength: 8192 });
      const nexus = target.nexus(1);
      expect(decodeVendorPage(dataOf(await target.execute(nexus, page)))!.grow).toBe(grows);
      expect(reported(await grow(target, nexus, 200n))).toBe(grows ? 0 : "invalidFieldInParameterList");
    }
  });
});

describe("refused, and as long as before", () => {
  test.each([
    ["fewer blocks than it has", { blocks: 99n }, 64],
    ["no blocks", { blocks: 0n }, 64],
    ["2^53 bytes", { blocks: 1n << 44n }, 64],
    ["as many blocks as a field holds", { blocks: 0xffff_ffff_ffff_ffffn }, 64],
    ["another volume", { volume: "00000000-0000-4000-8000-000000000000" }, 48],
    ["a list without its data", { data: Buffer.alloc(0) }, 12],
    ["a list with more", { data: Buffer.alloc(32) }, 12],
  ] as [string, { blocks?: bigint; volume?: string; data?: Buffer }, number][])(
    "%s",
    async (_what, { blocks = 200n, ...more }, byte) => {
      const target = new UnitUnderTest(100);
      const nexus = target.nexus(1);
      const result = await grow(target, nexus, blocks, more);
      expect(reported(result)).toBe("invalidFieldInParameterList");
      expect(result.sense?.fieldPointer).toMatchObject({ cdb: false, byte });
      expect(await capacity(target, nexus)).toBe(100n);
    },
  );

  test("write protection: of the host, of an initiator, by SWP", async () => {
    const readonly = new UnitUnderTest(100, { readonly: true });
    expect(reported(await grow(readonly, readonly.nexus(1), 200n))).toBe("writeProtected");
    const target = new UnitUnderTest(100);
    const mayRead = { ...target.nexus(2), rights: { writes: false, digests: true } };
    expect(reported(await grow(target, mayRead, 200n))).toBe("writeProtected");
    const nexus = target.nexus(1);
    const control = Buffer.concat([Buffer.alloc(4), target.unit.modes.page(10, "current")!]);
    control[4 + 4]! |= 0x08;
    const select = modeSelect6.encode({ pf: true, parameterListLength: control.length });
    expect(reported(await target.execute(nexus, select, [control]))).toBe(0);
    expect(reported(await grow(target, nexus, 200n))).toBe("softwareWriteProtected");
    expect([target.volume.geometry.blocks, readonly.volume.geometry.blocks]).toEqual([100, 100]);
  });

  test("without the right to vendor commands there is no SUBMIT", async () => {
    const target = new UnitUnderTest(100);
    const plain = { ...target.nexus(1), rights: { writes: true, digests: false } };
    expect(reported(await grow(target, plain, 200n))).toBe("invalidOperationCode");
  });

  test("a reservation of another, where a write would conflict with it", async () => {
    const target = new UnitUnderTest(100);
    const [holder, registered, stranger] = [target.nexus(1), target.nexus(2), target.nexus(3)];
    const send = (
      nexus: Nexus,
      layout: typeof pr.register,
      reservationKey: bigint,
      action = 0n,
      type = 0,
    ) => {
      const list = pr.parameterList.encode({ reservationKey, serviceActionReservationKey: action });
      return target.execute(nexus, layout.encode({ type, parameterListLength: list.length }), [list]);
    };
    await send(holder, pr.register, 0n, 1n);
    await send(registered, pr.register, 0n, 2n);
    expect(reported(await send(holder, pr.reserve, 1n, 0n, 5))).toBe(0); // write exclusive, registrants only
    expect(reported(await grow(target, stranger, 200n))).toBe(conflict);
    expect(await capacity(target, stranger)).toBe(100n);
    expect(reported(await grow(target, registered, 200n))).toBe(0);
    expect(reported(await target.execute(holder, testUnitReady))).toBe("capacityChanged");
    expect(reported(await grow(target, holder, 300n))).toBe(0);
    // RESERVE of SPC-2 conflicts with all that another sends.
    const old = new UnitUnderTest(100);
    const [first, second] = [old.nexus(1), old.nexus(2)];
    expect(reported(await old.execute(first, pr.reserve6.encode({})))).toBe(0);
    expect(reported(await grow(old, second, 200n))).toBe(conflict);
    expect(reported(await grow(old, first, 200n))).toBe(0);
  });

  test("no room", async () => {
    const target = new UnitUnderTest(100);
    target.volume.blocksMax = 150;
    const [asking, other] = [target.nexus(1), target.nexus(2)];
    expect(reported(await grow(target, asking, 200n))).toBe("spaceAllocationFailed");
    expect(reported(await target.execute(other, testUnitReady))).toBe(0);
  });

  test("a device that somebody else has to extend first; that it is larger by now, but not enough, is told to all", async () => {
    const target = new UnitUnderTest(100);
    const [asking, other] = [target.nexus(1), target.nexus(2)];
    const { volume } = target;
    const extend = volume.grow.bind(volume);
    volume.grow = async () => {
      throw new AgentError("size_mismatch", "extend it first");
    };
    const refused = await grow(target, asking, 200n);
    expect([reported(refused), refused.sense?.information]).toEqual(["commandSequenceError", undefined]);
    expect(reported(await target.execute(other, testUnitReady))).toBe(0);
    volume.grow = async () => {
      await extend(150);
      throw new AgentError("size_mismatch", "extend it further");
    };
    expect(reported(await grow(target, asking, 200n))).toBe("commandSequenceError");
    for (const each of [asking, other]) {
      expect(reported(await target.execute(each, testUnitReady))).toBe("capacityChanged");
    }
    volume.grow = extend;
    expect(reported(await grow(target, asking, 200n))).toBe(0);
  });
});

test("who looks at the size meanwhile does not tell the one that asked, and nothing gets shorter", async () => {
  await using folder = await WorkFolder.make();
  const path = folder.file("disk");
  await writeFile(path, Buffer.alloc(512));
  await truncate(path, 64 * 512);
  await using volume = await FileVolume.open(path, { writable: true });
  const unit = new LogicalUnit(0, volume, { readonly: false, uuid, clock: systemClock });
  const [asking, other] = [nexusOf(1), nexusOf(2)];
  for (const each of [asking, other]) {
    unit.nexusBegan(each);
    unit.takeAttention(each);
  }
  const sizes = [80, 128, 96, 200, 150];
  await Promise.all(
    sizes.flatMap((blocks) => [unit.remeasure(), unit.grow(blocks, asking), unit.remeasure()]),
  );
  expect([unit.volume.geometry.blocks, (await stat(path)).size]).toEqual([200, 200 * 512]);
  expect(unit.takeAttention(asking)).toBeUndefined();
  expect(unit.takeAttention(other)).toMatchObject({ key: 6, asc: 0x2a, ascq: 9 });
  expect(unit.takeAttention(other)).toBeUndefined();
});
