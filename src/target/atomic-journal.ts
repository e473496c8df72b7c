// The journal of WRITE ATOMIC: what a range held before, until the write of it is on the medium.
//
// Guarantees: when write() resolves, all blocks are on the medium; when it fails or the host dies, the range holds all
// of what it held before, as soon as recover() has run; only a medium that refuses the new data and then the old as
// well is left as it is. One write is under way at a time; its caller keeps others from the range. recover() touches nothing where a sector holds neither what was there before nor what was to be
// written: then somebody else has written since. A journal of another volume, or a damaged one, is never applied.
//
// docs/formats/atomic-journal.md describes the file.
import { Semaphore } from "../base/async.ts";
import { lengthOf } from "../base/bytes.ts";
import { AgentError, messageOf } from "../base/errors.ts";
import { constant, layout, raw, u32, u64 } from "../base/layout.ts";
import { MiB } from "../base/units.ts";
import { BlockFile } from "../platform/block-file.ts";
import { fileExists, makeFile, removeFile } from "../platform/durable-file.ts";
import { crc32c } from "../platform/native-digest.ts";
import type { Volume } from "../volume/volume.ts";
import { joined } from "./scsi-task.ts";

/** The most bytes of one WRITE ATOMIC (Block Limits VPD page). */
export const atomicBytesMax = MiB;

/** What a device writes whole. */
const sectorBytes = 512;
const headBytes = 4096;
const crcsBytes = (4 * atomicBytesMax) / sectorBytes;
const blocksAt = headBytes + crcsBytes;
const magic = 0x4c55_4e41_544f_4d31n; // "LUNATOM1"

const head = layout({
  name: "journal of WRITE ATOMIC",
  source: "docs/formats/atomic-journal.md",
  bytes: 48,
  fields: {
    magic: constant(u64(0), magic),
    uuid: raw(8, 16),
    lba: u64(24),
    blocks: u32(32),
    blockBytes: u32(36),
    /** CRC-32C of what follows the head: the sectors' CRCs, and the blocks. */
    bodyCrc: u32(40),
    /** CRC-32C of the 44 bytes before. */
    headCrc: u32(44),
  },
});

function sectorCrcs(data: Buffer): Buffer {
  const crcs = Buffer.alloc(crcsBytes);
  for (let at = 0; at < data.length; at += sectorBytes) {
    crcs.writeUInt32BE(crc32c(data.subarray(at, at + sectorBytes)), (4 * at) / sectorBytes);
  }
  return crcs;
}

type Blocks = Pick<Volume, "read" | "write">;

export class AtomicJournal implements AsyncDisposable {
  readonly #path: string;
  readonly #uuid: Buffer;
  readonly #blockBytes: number;
  readonly #turn = new Semaphore(1);
  #opened: Promise<BlockFile> | undefined;

  /** The journal of the volume `uuid` (16 bytes). Its file is made by the first write(). */
  constructor(path: string, uuid: Buffer, blockBytes: number) {
    this.#path = path;
    this.#uuid = uuid;
    this.#blockBytes = blockBytes;
  }

  /** @throws AgentError `io_error` */
  #file(): Promise<BlockFile> {
    this.#opened ??= this.#open().catch((cause) => {
      this.#opened = undefined;
      throw new AgentError("io_error", `Cannot open the journal "${this.#path}": ${messageOf(cause)}`, {
        cause,
      });
    });
    return this.#opened;
  }

  async #open(): Promise<BlockFile> {
    await makeFile(this.#path, blocksAt + atomicBytesMax);
    return BlockFile.open(this.#path, true);
  }

  /**
   * Puts back what an interrupted write has changed, before anything else is written.
   * "foreign": there is one, and somebody else has written to its range since, so that nothing was done
   */
  async recover(volume: Blocks): Promise<"nothing" | "restored" | "foreign"> {
    if (!fileExists(this.#path)) return "nothing";
    const file = await this.#file();
    const bytes = Buffer.alloc(headBytes);
    await file.read(0, bytes);
    const whole =
      bytes.readBigUInt64BE(0) === magic && crc32c(bytes.subarray(0, 44)) === bytes.readUInt32BE(44);
    if (!whole) return "nothing";
    const { uuid, lba, blocks, blockBytes, bodyCrc } = head.decode(bytes);
    const length = blocks * blockBytes;
    if (!uuid.equals(this.#uuid) || blockBytes !== this.#blockBytes || length > atomicBytesMax)
      return "nothing";
    const body = Buffer.alloc(crcsBytes + length);
    await file.read(headBytes, body);
    if (crc32c(body) !== bodyCrc) return "nothing";
    const [newCrcs, before] = [body.subarray(0, crcsBytes), body.subarray(crcsBytes)];
    const now = Buffer.alloc(length);
    await volume.read(Number(lba), now, { fresh: true });
    const nowCrcs = sectorCrcs(now);
    for (let at = 0; at < length; at += sectorBytes) {
      const crc = (4 * at) / sectorBytes;
      const isNew = nowCrcs.readUInt32BE(crc) === newCrcs.readUInt32BE(crc);
      const isOld = now.compare(before, at, at + sectorBytes, at, at + sectorBytes) === 0;
      if (!isNew && !isOld) return "foreign";
    }
    await volume.write(Number(lba), [before], { durable: true });
    await this.#clear();
    return "restored";
  }

  /** Writes `pieces`, whole blocks and at most atomicBytesMax, all or none of them. */
  async write(volume: Blocks, lba: number, pieces: readonly Buffer[]): Promise<void> {
    const leave = await this.#turn.acquire();
    try {
      const before = Buffer.alloc(lengthOf(pieces));
      await volume.read(lba, before);
      await this.#note(lba, before, pieces);
      try {
        await volume.write(lba, pieces, { durable: true });
      } catch (error) {
        await volume.write(lba, [before], { durable: true });
        throw error;
      } finally {
        // Also where not even the old data could be put back: later writes of the range must never be undone.
        await this.#clear();
      }
    } finally {
      leave();
    }
  }

  async #note(lba: number, before: Buffer, pieces: readonly Buffer[]): Promise<void> {
    const body = Buffer.concat([sectorCrcs(joined(pieces)), before]);
    const bytes = Buffer.alloc(headBytes);
    head.encodeInto(bytes, {
      uuid: this.#uuid,
      lba: BigInt(lba),
      blocks: before.length / this.#blockBytes,
      blockBytes: this.#blockBytes,
      bodyCrc: crc32c(body),
    });
    bytes.writeUInt32BE(crc32c(bytes.subarray(0, 44)), 44);
    const file = await this.#file();
    await file.write(headBytes, [body], { durable: true });
    await file.write(0, [bytes], { durable: true });
  }

  async #clear(): Promise<void> {
    try {
      await (await this.#file()).write(0, [Buffer.alloc(headBytes)], { durable: true });
    } catch (error) {
      await removeFile(this.#path).catch(() => {});
      throw new AgentError("io_error", `Cannot write the journal "${this.#path}": ${messageOf(error)}`);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    (await this.#opened)?.close();
  }
}
