// A unit that is made to grow by its initiator: what the volume is afterwards, and targets that can't or lie.
import { describe, expect, test } from "vitest";
import { AgentError } from "../../src/base/errors.ts";
import { systemClock } from "../../src/platform/clock.ts";
import type { ScsiCommand, ScsiOutcome } from "../../src/scsi/command.ts";
import { receive16, submit16, submit32 } from "../../src/scsi/vendor-commands.ts";
import { ScsiVolume } from "../../src/volume/scsi-volume.ts";
import { UnitUnderTest } from "../support/unit.ts";
import { UnitDevice } from "../support/unit-device.ts";

/** A unit of 100 blocks. `cdbBytesMax` 16: over a transport that takes no longer CDBs. */
async function unitOf(cdbBytesMax = 32) {
  const device = new UnitDevice(new UnitUnderTest(100), { cdbBytesMax });
  const volume = await ScsiVolume.open(device, systemClock);
  return { device, volume, memory: device.target.volume };
}

const failure = async (pending: Promise<unknown>): Promise<AgentError> => {
  const error = await pending.then(
    () => new Error("it was done"),
    (reason: unknown) => reason,
  );
  if (!(error instanceof AgentError)) throw error;
  return error;
};

const isVendorPage = ({ cdb }: ScsiCommand) => cdb[0] === 0x12 && (cdb[1]! & 1) === 1 && cdb[2] === 0xdb;
const isCapacity = ({ cdb }: ScsiCommand) => cdb[0] === 0x9e && cdb[1] === 0x10;

/** An answer with other bytes at a place. */
const patched = (outcome: ScsiOutcome, at: number, ...bytes: number[]): ScsiOutcome => {
  const dataIn = Buffer.from(outcome.dataIn);
  dataIn.set(bytes, at);
  return { ...outcome, dataIn };
};

test.each([16, 32])("CDBs of %i bytes: the volume is longer, and all of it is used", async (bytes) => {
  const { device, volume, memory } = await unitOf(bytes);
  expect([volume.traits.grows, volume.geometry.blocks]).toEqual([true, 100]);
  const before = volume.identity;
  await volume.grow(300);
  expect([volume.geometry, memory.geometry]).toEqual([
    { blockBytes: 512, blocks: 300 },
    { blockBytes: 512, blocks: 300 },
  ]);
  expect(volume.identity).toEqual(before);
  const wide = bytes === 32;
  expect(device.sent((wide ? submit32 : submit16).encode({})).length).toBe(1);
  await volume.write(299, [Buffer.alloc(512, 7)]);
  const last = Buffer.alloc(512);
  await volume.read(299, last);
  expect(last[0]).toBe(7);
  await volume.flush();
  const sent = device.commands.length;
  await volume.grow(200); // it has more
  expect([volume.geometry.blocks, device.commands.length]).toEqual([300, sent]);
});

describe("a unit that can't", () => {
  test("is not asked if its target does not speak our commands, or does not know this one", async () => {
    for (const [at, value, why] of [
      [4, 0x58, /its target does not speak lunsync's vendor commands; extend the logical unit there/],
      [62, 0x03, /does not offer the function GROW, which older ones do not have; extend the volume there/],
    ] as const) {
      const { device } = await unitOf();
      device.after = (outcome, command) => (isVendorPage(command) ? patched(outcome, at, value) : outcome);
      const volume = await ScsiVolume.open(device, systemClock);
      const { code, message } = await failure(volume.grow(300));
      expect([code, message]).toEqual(["size_mismatch", expect.stringMatching(why)]);
      expect(message).toContain("Cannot grow unit from 51200 to 153600 bytes: ");
      expect(device.sent(submit32.encode({}))).toEqual([]);
      expect(volume.geometry.blocks).toBe(100);
    }
  });

  test("says why: no room, a device that is not larger yet, a reservation", async () => {
    const { device, volume, memory } = await unitOf();
    memory.blocksMax = 200;
    expect(await failure(volume.grow(300))).toMatchObject({
      code: "no_space",
      message: expect.stringMatching(
        /Cannot grow unit from 51200 to 153600 bytes: .*make room at the target/,
      ),
    });
    memory.grow = async () => {
      throw new AgentError("size_mismatch", "extend it");
    };
    expect(await failure(volume.grow(300))).toMatchObject({
      code: "size_mismatch",
      message: expect.stringMatching(/the device behind it .*; extend it there with lvextend/),
    });
    expect(device.target.unit.reservations.reserve("somebody else")).toBe(true);
    expect(await failure(volume.grow(300))).toMatchObject({
      code: "volume_in_use",
      message: expect.stringMatching(/another initiator holds a reservation/),
    });
    expect(volume.geometry.blocks).toBe(100);
  });
});

describe("a unit that lies", () => {
  test("says that it has grown, and has not", async () => {
    const { device, volume } = await unitOf();
    device.after = (outcome, command) =>
      isCapacity(command) ? patched(outcome, 0, 0, 0, 0, 0, 0, 0, 0, 99) : outcome;
    expect((await failure(volume.grow(300))).code).toBe("protocol_error");
  });

  test("has another size than it was asked to have", async () => {
    for (const lastBlock of [50, 200, 254]) {
      const { device, volume } = await unitOf();
      device.after = (outcome, command) =>
        isCapacity(command) ? patched(outcome, 0, 0, 0, 0, 0, 0, 0, 0, lastBlock) : outcome;
      expect((await failure(volume.grow(240))).code).toBe("size_mismatch");
      expect(volume.geometry.blocks).toBe(100);
    }
  });

  test("is another one afterwards", async () => {
    const { device, volume } = await unitOf();
    device.after = (outcome, command) => (isVendorPage(command) ? patched(outcome, 36, 1, 2, 3) : outcome);
    expect((await failure(volume.grow(300))).code).toBe("identity_mismatch");
  });
});

describe("a connection that is lost meanwhile", () => {
  /** Reconnects when the answer to GROW is on its way, to a unit of so many blocks. */
  async function reconnecting(blocks: number) {
    const made = await unitOf(16);
    const { device, volume } = made;
    const execute = device.execute.bind(device);
    let lost = false;
    device.execute = async (command) => {
      const outcome = await execute(command);
      const received = command.cdb.compare(receive16.encode({}), 0, 2, 0, 2) === 0;
      if (!received || lost) return outcome;
      lost = true;
      device.after = (each, asked) =>
        isCapacity(asked) ? patched(each, 0, 0, 0, 0, 0, 0, 0, 0, blocks - 1) : each;
      await device.recognize((each) => execute(each));
      device.after = (each) => each;
      // What was held for RECEIVE is gone with the old session.
      const sense = { key: 5, asc: 0x24, ascq: 0 };
      return { status: 2, sense, dataIn: Buffer.alloc(0) };
    };
    return { ...made, grown: volume.grow(240) };
  }

  test("finds the unit before or after its growth, and asks again", async () => {
    for (const blocks of [100, 240]) {
      const { volume, device, grown } = await reconnecting(blocks);
      await grown;
      expect(volume.geometry.blocks).toBe(240);
      expect(device.sent(submit16.encode({})).length).toBe(2);
      // From here on it has this size.
      const back = device.recognize((command) => device.execute(command));
      await expect(back).resolves.toBeUndefined();
      device.after = (each, asked) => (isCapacity(asked) ? patched(each, 0, 0, 0, 0, 0, 0, 0, 0, 99) : each);
      expect((await failure(device.recognize((command) => device.execute(command)))).code).toBe(
        "size_mismatch",
      );
    }
  });

  test("finds one of a third size, and does not go on with it", async () => {
    const { grown } = await reconnecting(150);
    expect((await failure(grown)).code).toBe("size_mismatch");
  });
});
