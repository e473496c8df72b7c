// The digest tree on the wire: levels, what is refused, nodes that are not known; and scrubs that find rot.
import { createHash } from "node:crypto";
import { setTimeout } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { AgentError } from "../../src/base/errors.ts";
import { Catalogue } from "../../src/catalogue/catalogue.ts";
import { CataloguedVolume } from "../../src/catalogue/catalogued-volume.ts";
import { scrub } from "../../src/catalogue/scrub.ts";
import { TreeShape } from "../../src/catalogue/shape.ts";
import { encodeIdentifier, encodingBlock } from "../../src/digest/encoding.ts";
import { parseDigestSpec } from "../../src/digest/spec.ts";
import { systemClock } from "../../src/platform/clock.ts";
import { systemRandom } from "../../src/platform/random.ts";
import { decodeVendorPage } from "../../src/scsi/inquiry-data.ts";
import { inquiry } from "../../src/scsi/spc-commands.ts";
import { encodeDigests32, parameterListHeader, receive32, submit32 } from "../../src/scsi/vendor-commands.ts";
import { DeviceServer } from "../../src/target/device-server.ts";
import { LogicalUnit } from "../../src/target/logical-unit.ts";
import { bytesOf, randomOf } from "../support/data.ts";
import { memoryStorage } from "../support/memory-storage.ts";
import { MemoryVolume } from "../support/memory-volume.ts";
import { dataOf, nexusOf, reported } from "../support/unit.ts";

const digest = parseDigestSpec("sha256");
const extentBlocks = 128;
const extentBytes = 512 * extentBlocks;
const sha256 = (data: Buffer) => createHash("sha256").update(data).digest();

/** 70 extents of random data, with a unit in front; all of it known if `known`. */
async function under(known = true) {
  const extents = 70;
  const memory = new MemoryVolume("memory", bytesOf(randomOf(1), extents * extentBytes - 1024), 512);
  const storage = memoryStorage(new TreeShape(extents, 32).fileBytes);
  const catalogue = new Catalogue(storage, extents, extentBytes, digest, systemClock);
  const volume = new CataloguedVolume(memory, catalogue, {
    extentBlocks,
    random: systemRandom,
    discard: async () => {},
    log: () => {},
  });
  const learn = async () => {
    await volume.digest(0, extents);
    await catalogue.believe(catalogue.ready(0).whole, () => volume.flush());
  };
  if (known) await learn();
  const unit = new LogicalUnit(0, volume, {
    readonly: false,
    uuid: "12345678-9abc-4def-8123-456789abcdef",
    clock: systemClock,
  });
  const names = { targetName: "iqn.2026-11.com.example:disks", portalGroupTag: 1, revision: "0.1" };
  const server = new DeviceServer(names, [unit]);
  const nexus = nexusOf(1);
  server.nexusBegan(nexus);
  unit.takeAttention(nexus);
  const execute = (cdb: Buffer, dataOut: Buffer[] = []) =>
    server.execute({
      nexus,
      lun: 0n,
      cdb,
      dataOut,
      dataOutBytesAnnounced: Buffer.concat(dataOut).length,
      dataInBytesMax: 1 << 20,
      signal: new AbortController().signal,
    });
  const leaves = () =>
    Array.from({ length: extents }, (_, i) =>
      sha256(memory.cache.subarray(i * extentBytes, Math.min((i + 1) * extentBytes, memory.cache.length))),
    );
  return { memory, storage, shape: catalogue.shape, catalogue, volume, execute, learn, leaves };
}

const initialValue = 0x0123456789abcdefn;
const asked = (fields: Parameters<typeof encodeDigests32.encode>[0]) =>
  encodeDigests32.encode({
    digest: 2,
    source: 1,
    width: true,
    extentSize: 7,
    numberOfExtents: 1,
    initialValue,
    allocationLength: 65536,
    ...fields,
  });
const encoded = (identifier: Buffer, lba: number) => {
  const iv = Buffer.alloc(16);
  iv.writeBigUInt64BE(initialValue, 8);
  return encodeIdentifier(identifier, encodingBlock(iv, lba));
};

describe("levels above 0", () => {
  test("are digests of digests, encoded with the first LBA below them", async () => {
    const { execute, leaves } = await under();
    const first = [leaves().slice(0, 64), leaves().slice(64)].map((each) => sha256(Buffer.concat(each)));
    const nodes = dataOf(await execute(asked({ level: 1, numberOfExtents: 2 })));
    expect(nodes.subarray(32).toString("hex")).toBe(
      Buffer.concat([encoded(first[0]!, 0), encoded(first[1]!, 64 * 128)]).toString("hex"),
    );
    const root = dataOf(await execute(asked({ level: 2 })));
    expect(root.subarray(32)).toEqual(encoded(sha256(Buffer.concat(first)), 0));
    const page = inquiry.encode({ evpd: true, pageCode: 0xdb, allocationLength: 8192 });
    expect(decodeVendorPage(dataOf(await execute(page)))).toMatchObject({
      catalogueState: 1,
      catalogueDigest: 2,
      catalogueExtentSize: 7,
      catalogueFanOut: 6,
      catalogueRootLevel: 2,
    });
  });

  test("that are not there, of other digests or extents, of the medium, or in the wrong place are refused", async () => {
    const { execute } = await under();
    for (const [fields, byte] of [
      [{ level: 3 }, 5],
      [{ level: 1, digest: 0 }, 5],
      [{ level: 1, extentSize: 6 }, 5],
      [{ level: 1, source: 0 }, 3],
      [{ level: 1, logicalBlockAddress: 128n }, 12],
    ] as const) {
      const { sense } = await execute(asked(fields));
      expect(sense).toMatchObject({ key: 5, asc: 0x24, fieldPointer: { byte } });
    }
    expect(reported(await execute(asked({ level: 1, numberOfExtents: 3 })))).toBe("lbaOutOfRange");
  });

  test("that are not known equal nothing, and are an error where only the catalogue is wanted", async () => {
    const { execute, memory, volume, learn } = await under();
    const values = async (level: number) =>
      dataOf(await execute(asked({ level, numberOfExtents: level === 1 ? 2 : 1 }))).subarray(32);
    const before = await values(1);
    await volume.write(65 * 128, [Buffer.alloc(512, 7)]);
    const during = await values(1);
    expect(during.subarray(0, 16)).toEqual(before.subarray(0, 16));
    expect(during.subarray(16)).not.toEqual(before.subarray(16));
    expect(await values(2)).not.toEqual(await values(2));
    const only = { source: 2 };
    expect((await execute(asked({ ...only, level: 1, numberOfExtents: 2 }))).sense).toMatchObject({
      asc: 0x2c,
      information: 64 * 128,
    });
    expect((await execute(asked({ ...only, numberOfExtents: 70 }))).sense).toMatchObject({
      asc: 0x2c,
      information: 65 * 128,
    });
    expect(reported(await execute(asked({ ...only, numberOfExtents: 65 })))).toBe(0);
    await learn();
    expect((await values(1)).subarray(16)).toEqual(await values(1).then((each) => each.subarray(16)));
    // Known extents are not read: whatever the memory holds now, the catalogue answers.
    memory.before = (operation) => {
      if (operation === "read" || operation === "digest") throw new Error("it was read");
    };
    expect(reported(await execute(asked({ ...only, numberOfExtents: 70 })))).toBe(0);
  });
});

describe("FIND EXTENTS", () => {
  const list = (identifiers: Buffer[], fields: Parameters<typeof parameterListHeader.encode>[0] = {}) => {
    const data = Buffer.concat(identifiers);
    const head = parameterListHeader.encode({
      function: 6,
      digest: 2,
      extentSize: 7,
      numberOfExtents: identifiers.length,
      dataLength: data.length,
      ...fields,
    });
    return Buffer.concat([head, data]);
  };

  test("tells where the catalogue has what is wanted, and nothing of what it does not know", async () => {
    const { execute, leaves, volume } = await under();
    const known = leaves();
    await volume.write(66 * 128, [Buffer.alloc(512, 1)]); // the second region is not believed any more
    const wanted = [known[63]!, Buffer.alloc(32, 9), known[0]!, known[66]!, known[63]!];
    const bytes = list(wanted);
    const submit = submit32.encode({ listIdentifier: 1, parameterListLength: bytes.length });
    expect(reported(await execute(submit, [bytes]))).toBe(0);
    const answer = dataOf(await execute(receive32.encode({ listIdentifier: 1, allocationLength: 4096 })));
    const places = Array.from({ length: 5 }, (_, i) => answer.readBigInt64BE(32 + 8 * i));
    expect(places).toEqual([63n * 128n, -1n, 0n, -1n, 63n * 128n]);
  });

  test("of other digests, extents, levels, places, lengths is refused with a pointer to the field", async () => {
    const { execute } = await under();
    const one = [Buffer.alloc(32)];
    for (const [fields, byte] of [
      [{ digest: 0 }, 2],
      [{ extentSize: 6 }, 4],
      [{ level: 1 }, 5],
      [{ numberOfExtents: 2 }, 12],
      [{ logicalBlockAddress: 128n }, 16],
      [{ function: 7 }, 1],
    ] as const) {
      const bytes = list(one, fields);
      const submit = submit32.encode({ listIdentifier: 1, parameterListLength: bytes.length });
      const { sense } = await execute(submit, [bytes]);
      expect(sense).toMatchObject({ key: 5, asc: 0x26, fieldPointer: { cdb: false, byte } });
    }
  });
});

test("what was digested before a flush that failed is digested again, whatever later flushes say", async () => {
  const { memory, volume, catalogue, learn } = await under();
  await volume.write(0, [Buffer.alloc(512, 1)]);
  await volume.digest(0, 70); // from the page cache
  let fails = true;
  memory.before = (operation) => {
    if (operation !== "flush" || !fails) return;
    fails = false;
    memory.cache = Buffer.from(memory.medium); // the kernel drops what it could not write, and tells once
    throw new AgentError("medium_error", "EIO");
  };
  await expect(volume.flush()).rejects.toThrow("EIO"); // an initiator's SYNCHRONIZE CACHE
  await catalogue.believe(catalogue.ready(0).whole, () => volume.flush());
  expect((await catalogue.look(0, 1)).knowledge[0]).toBe(0);
  await learn();
  const { identifiers, knowledge } = await catalogue.look(0, 1);
  expect([knowledge[0], identifiers.toString("hex")]).toEqual([
    1,
    sha256(memory.medium.subarray(0, extentBytes)).toString("hex"),
  ]);
});

test("a node above what a power cut lost is not believed once something below it may be written", async () => {
  const { memory, storage, volume, shape } = await under();
  await volume.catalogue.flush();
  const root = (await volume.catalogue.nodes(2, 0, 1))[0];
  // The page of the root came to the medium, and the one below it did not.
  await storage.write(shape.offsetOf(1, 0), [Buffer.alloc(shape.pageBytes)]);
  const catalogue = new Catalogue(storage, shape.nodes[0]!, extentBytes, digest, systemClock);
  const again = new CataloguedVolume(memory, catalogue, {
    extentBlocks,
    random: systemRandom,
    discard: async () => {},
    log: () => {},
  });
  expect((await catalogue.nodes(2, 0, 1))[0]).toEqual(root); // nobody has written since
  await again.digest(0, 1);
  await again.write(0, [Buffer.alloc(512, 1)]);
  expect((await catalogue.nodes(2, 0, 1))[0]).toBeUndefined();
});

test("a flush that ends well while another one is told of a failure proves nothing", async () => {
  const { memory, volume, catalogue, learn } = await under();
  await volume.write(0, [Buffer.alloc(512, 1)]);
  await volume.digest(0, 70);
  let flushes = 0;
  const told = Promise.withResolvers<never>();
  memory.before = (operation) => (operation === "flush" && ++flushes === 1 ? told.promise : undefined);
  const first = volume.flush().catch((error: unknown) => error);
  const believing = catalogue.believe(catalogue.ready(0).whole, () => volume.flush());
  await setTimeout(20);
  expect(flushes).toBe(2);
  told.reject(new AgentError("medium_error", "EIO"));
  await expect(believing).rejects.toThrow("Cannot put on the medium");
  expect(await first).toBeInstanceOf(AgentError);
  expect((await catalogue.look(0, 1)).knowledge[0]).toBe(0);
  await learn();
  expect((await catalogue.look(0, 1)).knowledge[0]).toBe(1);
});

test("without histories, their functions are refused; with a catalogue alone", async () => {
  const { execute } = await under();
  for (const code of [7, 8, 9]) {
    const data = Buffer.alloc(code === 9 ? 16 : 32);
    const bytes = Buffer.concat([
      parameterListHeader.encode({ function: code, dataLength: data.length }),
      data,
    ]);
    const submit = submit32.encode({ listIdentifier: 1, parameterListLength: bytes.length });
    const { sense } = await execute(submit, [bytes]);
    expect(sense).toMatchObject({ key: 5, asc: 0x26, fieldPointer: { byte: 1 } });
  }
});

describe("a scrub", () => {
  const run = async (volume: CataloguedVolume) => {
    const found: string[] = [];
    const progress = await scrub(volume, 0, 99, {
      bytesPerSecond: Number.POSITIVE_INFINITY,
      clock: systemClock,
      found: ({ kind, lba }) => found.push(`${kind} ${lba}`),
    });
    return { found, progress };
  };

  test("names what differs, which is then answered for like a bad block until it is written anew", async () => {
    const { memory, volume, catalogue, learn } = await under();
    expect(await run(volume)).toMatchObject({
      found: [],
      progress: { proved: 70, differing: 0, done: true },
    });
    memory.medium[5 * extentBytes + 9]! ^= 0x10;
    memory.medium[69 * extentBytes]! ^= 0x01;
    const rotten = await run(volume);
    expect(rotten.found).toEqual([`differs ${5 * 128}`, `differs ${69 * 128}`]);
    expect(rotten.progress).toMatchObject({ proved: 68, differing: 2 });
    memory.cache = Buffer.from(memory.medium);
    const window = {
      lba: 0,
      extentBlocks,
      extents: 70,
      digest,
      initialValue: Buffer.alloc(16),
      width: 8 as const,
      fresh: false,
    };
    expect(await volume.encodeDigests(window)).toMatchObject({ extents: 5, unreadable: { lba: 5 * 128 } });
    await learn(); // time alone heals nothing
    expect(await catalogue.nodes(1, 0, 2)).toEqual([undefined, undefined]);
    expect((await run(volume)).found).toEqual([]); // it is known by now
    await volume.write(5 * 128, [Buffer.alloc(1024)]); // a part of it
    expect((await volume.encodeDigests(window)).extents).toBe(5);
    await volume.write(5 * 128, [Buffer.alloc(extentBytes, 3)]);
    expect((await volume.encodeDigests(window)).extents).toBe(69);
    // Up to the volume's end, and without waiting.
    memory.atOnce = true;
    expect(volume.writeNow(69 * 128, [Buffer.alloc(extentBytes - 1024, 4)])).toBe(true);
    expect((await volume.encodeDigests(window)).extents).toBe(70);
    await learn();
    expect((await catalogue.nodes(2, 0, 1))[0]).toBeDefined();
  });

  test("leaves alone what is written to meanwhile, and goes on behind what can't be read", async () => {
    const { memory, volume } = await under();
    memory.unreadable.add(3 * 128 + 1);
    let once = true;
    memory.before = (operation) => {
      if (operation !== "read" || !once) return;
      once = false;
      void volume.write(10 * 128, [Buffer.alloc(extentBytes, 9)]);
    };
    const { found, progress } = await run(volume);
    expect(found).toEqual([`unreadable ${3 * 128 + 1}`]);
    expect(progress).toMatchObject({ differing: 0, proved: expect.any(Number) });
  });
});
