// Sound sessions whose bytes are damaged on the way. With digests, no block ever holds what nobody wrote.
import { readFile } from "node:fs/promises";
import { expect, test } from "vitest";
import * as codes from "../../src/iscsi/codes.ts";
import * as wire from "../../src/iscsi/pdu.ts";
import { read10, write10 } from "../../src/scsi/sbc-commands.ts";
import { below, bytesOf, oneOf, randomOf } from "../support/data.ts";
import { RawInitiator } from "../support/raw-initiator.ts";
import { TestTarget, targetName } from "../support/target.ts";

const blockBytes = 512;
const blocks = 128;
const MiB = 1024 * 1024;
type Random = () => number;

/** A session's PDUs, with what its writes put into which block. */
function sessionOf(random: Random, raw: RawInitiator, wrote: (lba: number, data: Buffer) => void): Buffer[] {
  const pdus: Buffer[] = [];
  for (let i = 0; i < 8; i++) {
    const initiatorTaskTag = 100 + i;
    const count = 1 + below(random, 24);
    const lba = below(random, blocks - count);
    const transfer = { logicalBlockAddress: lba, transferLength: count };
    const bytes = count * blockBytes;
    const common = { initiatorTaskTag, attributes: 1, expectedDataTransferLength: bytes };
    const kind = below(random, 6);
    if (kind === 0) {
      const nop = { immediate: true, initiatorTaskTag, targetTransferTag: codes.noTag, cmdSN: raw.cmdSN };
      pdus.push(raw.frame(wire.nopOutPdu.encode(nop), bytesOf(random, below(random, 100))));
    } else if (kind === 1) {
      const cdb = read10.encode(transfer);
      pdus.push(
        raw.frame(
          wire.scsiCommandPdu.encode({ ...common, final: true, read: true, cmdSN: raw.cmdSN++, cdb }),
        ),
      );
    } else {
      const data = bytesOf(random, bytes);
      wrote(lba, data);
      const immediate =
        below(random, 2) * Math.min(bytes, blockBytes * below(random, 8) + 4 * below(random, 3));
      const final = immediate === bytes;
      const cdb = write10.encode(transfer);
      const header = wire.scsiCommandPdu.encode({ ...common, final, write: true, cmdSN: raw.cmdSN++, cdb });
      pdus.push(raw.frame(header, immediate > 0 ? data.subarray(0, immediate) : undefined));
      for (let at = immediate, dataSN = 0; at < bytes; dataSN++) {
        const end = Math.min(bytes, at + 4 * (1 + below(random, 1024)));
        const fields = { initiatorTaskTag, targetTransferTag: codes.noTag, dataSN, bufferOffset: at };
        pdus.push(
          raw.frame(wire.dataOutPdu.encode({ ...fields, final: end === bytes }), data.subarray(at, end)),
        );
        at = end;
      }
    }
  }
  return pdus;
}

/** Up to three wrong bits, which CRC-32C always finds; PDUs that are missing, twice or in another order; an end. */
function damaged(random: Random, pdus: readonly Buffer[]): Buffer {
  const list = [...pdus];
  switch (below(random, 5)) {
    case 0:
      list.splice(below(random, list.length), 1);
      break;
    case 1:
      list.splice(below(random, list.length), 0, oneOf(random, list));
      break;
    case 2: {
      const [moved] = list.splice(below(random, list.length), 1);
      list.splice(below(random, list.length + 1), 0, moved!);
      break;
    }
    default:
  }
  const bytes = Buffer.concat(list);
  for (let flips = below(random, 4); flips > 0; flips--) {
    // Headers are a small part of the stream; half of the damage goes there.
    const start = Buffer.concat(list.slice(0, below(random, list.length))).length;
    const at = random() < 0.5 ? start + 32 + below(random, 8) : below(random, bytes.length);
    bytes[at]! ^= 1 << below(random, 8);
  }
  return random() < 0.2 ? bytes.subarray(0, below(random, bytes.length)) : bytes;
}

test("no block ever holds what nobody wrote, and others are served", async () => {
  const random = randomOf(20_261_121);
  let content = bytesOf(random, blocks * blockBytes);
  await using target = await TestTarget.serving([content]);
  await using healthy = await RawInitiator.login(
    target.port,
    targetName,
    [],
    Buffer.from("80aaaaaaaaaa", "hex"),
  );
  await healthy.settle();
  const before = process.memoryUsage().arrayBuffers;
  let changed = 0;
  let rejected = 0;
  for (let round = 0; round < 150; round++) {
    await using raw = await RawInitiator.login(target.port, targetName, [
      ["HeaderDigest", "CRC32C"],
      ["DataDigest", "CRC32C"],
      ["InitialR2T", "No"],
    ]);
    raw.useDigests({ headerDigest: true, dataDigest: true });
    await raw.settle();
    const allowed = Array.from({ length: blocks }, (_, lba) => [
      content.subarray(lba * blockBytes, (lba + 1) * blockBytes),
    ]);
    const pdus = sessionOf(random, raw, (lba, data) => {
      for (let i = 0; i * blockBytes < data.length; i++)
        allowed[lba + i]!.push(data.subarray(i * blockBytes, (i + 1) * blockBytes));
    });
    const stream = damaged(random, pdus);
    for (let at = 0; at < stream.length; ) {
      const end = Math.min(stream.length, at + 1 + below(random, 20_000));
      raw.sendBytes(stream.subarray(at, end));
      at = end;
      if (random() < 0.3) await new Promise((resolve) => setImmediate(resolve));
    }
    // What was taken is answered before what comes now, or the connection ends.
    for (let quiet = false; !quiet && !raw.closed; quiet = await raw.silent(10)) {
      if (raw.pdus.splice(0).some(({ header }) => (header[0]! & 0x3f) === codes.opcode.reject)) rejected++;
    }
    raw.socket.destroy();
    // The same initiator port again: the old session's commands have ended then.
    await using _ = await RawInitiator.login(target.port, targetName);
    const read = read10.encode({ transferLength: blocks });
    const { status, dataIn } = await healthy.command(read, blocks * blockBytes);
    expect(status).toBe(0);
    for (let lba = 0; lba < blocks; lba++) {
      const block = dataIn.subarray(lba * blockBytes, (lba + 1) * blockBytes);
      if (!allowed[lba]!.some((data) => data.equals(block)))
        expect.unreachable(`round ${round}, block ${lba}`);
    }
    if (!dataIn.equals(content)) changed++;
    content = dataIn;
  }
  expect(changed).toBeGreaterThan(50); // much of it did arrive
  expect(rejected).toBeGreaterThan(5);
  expect(target.log.filter((line) => line.startsWith("error"))).toEqual([]);
  expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(64 * MiB);
  expect((await readFile(target.files[0]!)).equals(content)).toBe(true);
});
