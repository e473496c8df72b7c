// Undo: before-images are put back.
//
// Guarantees: all files of the run are read and checked before the first block is written; a damaged one stops it (records
// that a crash tore are not damage: their extents were not overwritten). The replica must be the one that the run overwrote: identity and size
// are compared. It is marked as undone only when everything is on the medium; run again after a crash, it does the same
// again.
import { type FileHandle, open, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { AgentError, messageOf } from "../base/errors.ts";
import { LayoutError } from "../base/layout.ts";
import type { Crc32c } from "../iscsi/framing.ts";
import { parseUuid } from "../scsi/inquiry-data.ts";
import type { Volume } from "../volume/volume.ts";
import { writeManifest } from "./before-images.ts";
import {
  formatVersion,
  imageRecord,
  imagesHeader,
  imagesPattern,
  type Manifest,
  manifestName,
} from "./before-images-format.ts";

export interface Undone {
  readonly folder: string;
  readonly begun: string;
  readonly ranges: number;
  readonly bytes: number;
  /** Ranges that could not be read when they were overwritten. */
  readonly unreadable: readonly { readonly lba: number; readonly blocks: number }[];
  /** Why the folder is not marked as put back, though it is. */
  readonly problem: string | undefined;
}

const recordBytesMax = 64 * 1024 * 1024;
const damaged = (path: string, what: string) =>
  new AgentError("backup_damaged", `Cannot put back "${path}": ${what}; nothing was written`);

async function readManifest(folder: string): Promise<Manifest | undefined> {
  const path = join(folder, manifestName);
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new AgentError("backup_damaged", `Cannot read "${path}": ${messageOf(error)}`);
  }
  try {
    const manifest = JSON.parse(text) as Manifest;
    const whole =
      manifest.format === "lunsync before-images" &&
      Number.isInteger(manifest.blocks) &&
      Array.isArray(manifest.replicaKeys);
    if (!whole || manifest.version !== formatVersion)
      throw new Error("it describes no before-images of this version");
    return manifest;
  } catch (error) {
    throw damaged(path, messageOf(error));
  }
}

/** The folder of the run: the one given, or the latest below it that was not put back yet. */
async function findRun(folder: string): Promise<{ folder: string; manifest: Manifest }> {
  const own = await readManifest(folder);
  if (own) return { folder, manifest: own };
  let names: string[];
  try {
    names = await readdir(folder);
  } catch (error) {
    throw new AgentError(
      "volume_missing",
      `Cannot read the before-images in "${folder}": ${messageOf(error)}`,
    );
  }
  // The names of runs begin with their time.
  for (const name of names
    .filter((each) => /^\d{4}-\d\d-\d\dT/.test(each))
    .sort()
    .reverse()) {
    const manifest = await readManifest(join(folder, name));
    if (manifest && manifest.undone === undefined) return { folder: join(folder, name), manifest };
  }
  throw new AgentError(
    "volume_missing",
    `There are no before-images in "${folder}" that were not put back yet`,
  );
}

function checkReplica(manifest: Manifest, replica: Volume): void {
  const { geometry, identity } = replica;
  const known = new Set(manifest.replicaKeys);
  const same =
    (identity.uuid !== undefined && identity.uuid === manifest.replicaUuid) ||
    identity.keys.some((key) => known.has(key));
  if (!same) {
    throw new AgentError(
      "identity_mismatch",
      `Cannot put before-images back onto "${replica.name}": they are of "${manifest.replica}", another volume`,
    );
  }
  if (geometry.blocks !== manifest.blocks || geometry.blockBytes !== manifest.blockBytes) {
    throw new AgentError(
      "size_mismatch",
      `Cannot put before-images back onto "${replica.name}": it has ${geometry.blocks} blocks of ${geometry.blockBytes} bytes, ` +
        `and had ${manifest.blocks} of ${manifest.blockBytes} in that run; give it that size again and run it once more`,
    );
  }
}

interface ImageRecord {
  readonly lba: number;
  readonly blocks: number;
  readonly zeros: boolean;
  readonly unreadable: boolean;
  readonly data: Buffer | undefined;
}

/** The records of one file, checked one by one, up to one that a crash tore. @throws AgentError `backup_damaged` */
async function* recordsOf(path: string, manifest: Manifest, crc32c: Crc32c): AsyncGenerator<ImageRecord> {
  const file = await open(path, "r");
  try {
    const head = await take(file, 0, imagesHeader.bytes);
    if (!head) return; // cut off before its first record
    checkHeader(path, head, manifest, crc32c);
    for (let at = imagesHeader.bytes; ; ) {
      const next = await recordAt(file, at, manifest, crc32c);
      if (next === "end") return;
      if (typeof next === "string") {
        if (manifest.ended === undefined && !(await commitBehind(file, at, crc32c))) return; // torn
        throw damaged(path, `${next} at byte ${at}`);
      }
      at += next.bytes;
      if (next.record) yield next.record;
    }
  } finally {
    await file.close();
  }
}

async function take(file: FileHandle, at: number, count: number): Promise<Buffer | undefined> {
  const buffer = Buffer.allocUnsafe(count);
  const { bytesRead } = await file.read(buffer, 0, count, at);
  return bytesRead === count ? buffer : undefined;
}

function decodeHead(bytes: Buffer, crc32c: Crc32c): ReturnType<typeof imageRecord.decode> | undefined {
  try {
    const record = imageRecord.decode(bytes);
    return record.checksum === crc32c(bytes.subarray(0, imageRecord.fields.checksum.byte))
      ? record
      : undefined;
  } catch (error) {
    if (error instanceof LayoutError) return undefined;
    throw error;
  }
}

/** The record at a place and its length, "end", or what is wrong with it. */
async function recordAt(
  file: FileHandle,
  at: number,
  manifest: Manifest,
  crc32c: Crc32c,
): Promise<{ bytes: number; record: ImageRecord | undefined } | string> {
  const bytes = await take(file, at, imageRecord.bytes);
  if (!bytes) return (await file.stat()).size === at ? "end" : "a record that is cut off";
  const head = decodeHead(bytes, crc32c);
  if (!head) return "a wrong checksum";
  if (head.commit) return { bytes: imageRecord.bytes, record: undefined };
  const lba = Number(head.lba);
  const dataBytes = head.zeros || head.unreadable ? 0 : head.blocks * manifest.blockBytes;
  if (head.blocks === 0 || lba + head.blocks > manifest.blocks || dataBytes > recordBytesMax) {
    return `a range of ${head.blocks} blocks at LBA ${lba}`;
  }
  let data: Buffer | undefined;
  if (dataBytes > 0) {
    data = await take(file, at + imageRecord.bytes, dataBytes);
    if (!data || crc32c(data) !== head.dataChecksum) return `wrong data of LBA ${lba}`;
  }
  return { bytes: imageRecord.bytes + dataBytes, record: { ...head, lba, data } };
}

/** True if something behind `at` was known to be on disk: then what is wrong there is damage, and not torn. */
async function commitBehind(file: FileHandle, at: number, crc32c: Crc32c): Promise<boolean> {
  const { size } = await file.stat();
  const chunkBytes = 1024 * 1024;
  // Heads and blocks are multiples of the head's length: so is every place at which a record can stand.
  for (let from = at; from < size; from += chunkBytes) {
    const chunk = await take(file, from, Math.min(chunkBytes, size - from));
    for (let i = 0; chunk && i + imageRecord.bytes <= chunk.length; i += imageRecord.bytes) {
      const head = decodeHead(chunk.subarray(i, i + imageRecord.bytes), crc32c);
      if (head?.commit && Number(head.lba) === from + i) return true;
    }
  }
  return false;
}

function checkHeader(path: string, bytes: Buffer, manifest: Manifest, crc32c: Crc32c): void {
  let header: ReturnType<typeof imagesHeader.decode>;
  try {
    header = imagesHeader.decode(bytes);
  } catch (error) {
    throw damaged(path, messageOf(error));
  }
  const right =
    header.checksum === crc32c(bytes.subarray(0, imagesHeader.fields.checksum.byte)) &&
    header.backupUuid.equals(parseUuid(manifest.uuid)) &&
    header.blockBytes === manifest.blockBytes &&
    header.blocks === BigInt(manifest.blocks);
  if (!right) throw damaged(path, "its header does not belong to this run");
}

/**
 * Puts back what a run overwrote. `folder`: the run's own, or the one that was given to --backup-dir.
 * @throws AgentError `volume_missing`, `backup_damaged`, `identity_mismatch`, `size_mismatch`, what the replica throws
 */
export async function undo(
  folder: string,
  openReplica: (manifest: Manifest) => Promise<Volume>,
  tools: { crc32c: Crc32c; nowMs: () => number },
): Promise<Undone> {
  const run = await findRun(folder);
  const { manifest } = run;
  if (manifest.undone !== undefined) {
    throw new AgentError("backup_mismatch", `"${run.folder}" was put back already, at ${manifest.undone}`);
  }
  const passes = (await readdir(run.folder))
    .flatMap((name) => imagesPattern.exec(name)?.[1] ?? [])
    .map(Number)
    .sort((a, b) => b - a);
  const pathOf = (pass: number) => join(run.folder, `images-${pass}`);
  const unreadable: { lba: number; blocks: number }[] = [];
  for (const pass of passes) {
    for await (const record of recordsOf(pathOf(pass), manifest, tools.crc32c)) {
      if (record.unreadable) unreadable.push({ lba: record.lba, blocks: record.blocks });
    }
  }
  await using replica = await openReplica(manifest);
  checkReplica(manifest, replica);
  let ranges = 0;
  let bytes = 0;
  // The latest pass first: what an extent was before the first of them is written last.
  for (const pass of passes) {
    for await (const record of recordsOf(pathOf(pass), manifest, tools.crc32c)) {
      if (record.unreadable) continue;
      if (record.data) await replica.write(record.lba, [record.data]);
      else await replica.zero(record.lba, record.blocks, { unmap: true });
      ranges++;
      bytes += record.blocks * manifest.blockBytes;
    }
  }
  await replica.flush();
  const problem = await writeManifest(run.folder, {
    ...manifest,
    undone: new Date(tools.nowMs()).toISOString(),
  }).then(
    () => undefined,
    (error: unknown) => `Cannot note in "${run.folder}" that it was put back: ${messageOf(error)}`,
  );
  return { folder: run.folder, begun: manifest.begun, ranges, bytes, unreadable, problem };
}
