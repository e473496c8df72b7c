// Commands that are carried out at once, because their volume needs no waiting: they do what they do otherwise, and
// what must wait waits: FUA, a write cache that is off, exclusive ranges, and whatever goes wrong.
import { describe, expect, test } from "vitest";
import { systemClock } from "../../src/platform/clock.ts";
import * as sbc from "../../src/scsi/sbc-commands.ts";
import type { ScsiRequest, ScsiResult } from "../../src/target/scsi-task.ts";
import { throttled } from "../../src/volume/throttled.ts";
import { reported, UnitUnderTest } from "../support/unit.ts";

const blocks = 4;
const lba = 16;
const data = Buffer.alloc(blocks * 512, 0xa5);
const read = (fua = false) => sbc.read10.encode({ logicalBlockAddress: lba, fua, transferLength: blocks });
const write = (fua = false) => sbc.write10.encode({ logicalBlockAddress: lba, fua, transferLength: blocks });

function serve() {
  const under = new UnitUnderTest();
  under.volume.atOnce = true;
  const nexus = under.nexus(1);
  const execute = (cdb: Buffer, dataOut: Buffer[] = []): ScsiResult | Promise<ScsiResult> => {
    const request: ScsiRequest = {
      nexus,
      lun: 0n,
      cdb: Buffer.concat([cdb, Buffer.alloc(16 - cdb.length)]),
      dataOut,
      dataOutBytesAnnounced: dataOut.length * data.length,
      dataInBytesMax: 1 << 20,
      signal: new AbortController().signal,
    };
    return under.server.execute(request);
  };
  const at = (what: Buffer) => what.subarray(lba * 512, (lba + blocks) * 512);
  return { under, volume: under.volume, execute, at };
}

/** The result of a command that did not wait. */
function atOnce(result: ScsiResult | Promise<ScsiResult>): ScsiResult {
  expect(result).not.toBeInstanceOf(Promise);
  return result as ScsiResult;
}

/** The result of a command that had to wait. */
function later(result: ScsiResult | Promise<ScsiResult>): Promise<ScsiResult> {
  expect(result).toBeInstanceOf(Promise);
  return Promise.resolve(result);
}

test("a READ gives what a WRITE wrote", () => {
  const { volume, execute, at } = serve();
  expect(atOnce(execute(write(), [data])).status).toBe(0);
  expect(at(volume.cache).equals(data)).toBe(true);
  expect(Buffer.concat(atOnce(execute(read())).dataIn!).equals(data)).toBe(true);
});

describe("what must wait waits", () => {
  test("FUA: the medium is written and read", async () => {
    const { volume, execute, at } = serve();
    atOnce(execute(write(), [Buffer.alloc(data.length, 1)]));
    const old = Buffer.from(at(volume.medium));
    expect(Buffer.concat((await later(execute(read(true)))).dataIn!).equals(old)).toBe(true);
    expect((await later(execute(write(true), [data]))).status).toBe(0);
    expect(at(volume.medium).equals(data)).toBe(true);
  });

  test("a write cache that is off", async () => {
    const { under, volume, execute, at } = serve();
    under.unit.volume.writeCache = false;
    expect((await later(execute(write(), [data]))).status).toBe(0);
    expect(at(volume.medium).equals(data)).toBe(true);
    expect(Buffer.concat(atOnce(execute(read())).dataIn!).equals(data)).toBe(true);
  });

  test("an exclusive action on the blocks", async () => {
    const { under, volume, execute, at } = serve();
    const { promise, resolve } = Promise.withResolvers<void>();
    const exclusive = under.unit.volume.exclusively(lba, 1, () => promise);
    const before = Buffer.from(at(volume.cache));
    const writing = later(execute(write(), [data]));
    const reading = later(execute(read()));
    await new Promise((done) => setImmediate(done));
    expect(at(volume.cache).equals(before)).toBe(true);
    resolve();
    await exclusive;
    expect((await writing).status).toBe(0);
    expect(Buffer.concat((await reading).dataIn!).equals(data)).toBe(true);
    atOnce(execute(read()));
  });

  test("blocks that can't be read or written: the sense names them", async () => {
    const { volume, execute } = serve();
    volume.unreadable.add(lba + 2);
    volume.unwritable.add(lba + 1);
    const unread = await later(execute(read()));
    expect(reported(unread)).toBe("unrecoveredReadError");
    expect(unread.sense!.information).toBe(lba + 2);
    const unwritten = await later(execute(write(), [data]));
    expect(reported(unwritten)).toBe("writeError");
    expect(unwritten.sense!.information).toBe(lba + 1);
  });

  test("a full disk", async () => {
    const { volume, execute } = serve();
    volume.room = 2;
    expect(reported(await later(execute(write(), [data])))).toBe("spaceAllocationFailed");
  });
});

test("a throttled volume does nothing at once", () => {
  const { volume } = serve();
  const slow = throttled(volume, 1000, systemClock);
  expect(slow.readNow).toBeUndefined();
  expect(slow.writeNow).toBeUndefined();
});
