// Parameter lists of WRITE EXTENTS and COPY EXTENTS as tests want them: right ones, and ones with a field that is wrong.
// Made by node:crypto and node:zlib alone, so that what is sent is not what our own encoder thinks.
import { createHash } from "node:crypto";
import { zstdCompressSync } from "node:zlib";
import { offeredDigests } from "../../src/digest/spec.ts";
import * as extents from "../../src/scsi/extent-commands.ts";
import { vendorFunction } from "../../src/scsi/vendor-commands.ts";

export const indexOf = (text: string): number => offeredDigests.findIndex((spec) => spec.text === text);

export const sha256 = (data: Buffer): Buffer => createHash("sha256").update(data).digest();

type Head = Parameters<typeof extents.extentListHeader.encode>[0];
type WriteFields = Parameters<typeof extents.writeRun.encode>[0];
type CopyFields = Parameters<typeof extents.copyRun.encode>[0];

export interface TestRun {
  readonly descriptor: Buffer;
  readonly content: Buffer;
}

const { stored, zstd, zeros } = extents.runForm;

/** A run of data at `lba`, 512 bytes a block; `fields` and `identifier` may be wrong. */
export function dataRun(
  lba: number,
  data: Buffer,
  options: { compressed?: boolean; blockBytes?: number; identifier?: Buffer; fields?: WriteFields } = {},
): TestRun {
  const { compressed = false, blockBytes = 512, identifier = sha256(data), fields } = options;
  const sent = compressed ? zstdCompressSync(data) : data;
  const descriptor = extents.writeRun.encode({
    logicalBlockAddress: BigInt(lba),
    numberOfLogicalBlocks: data.length / blockBytes,
    form: compressed ? zstd : stored,
    dataLength: sent.length,
    ...fields,
  });
  return { descriptor, content: Buffer.concat([identifier, sent]) };
}

export function zeroRun(lba: number, blocks: number, fields: WriteFields = {}): TestRun {
  const descriptor = extents.writeRun.encode({
    logicalBlockAddress: BigInt(lba),
    numberOfLogicalBlocks: blocks,
    form: zeros,
    ...fields,
  });
  return { descriptor, content: Buffer.alloc(0) };
}

export function copied(
  from: number,
  to: number,
  blocks: number,
  identifier: Buffer,
  fields: CopyFields = {},
): TestRun {
  const descriptor = extents.copyRun.encode({
    sourceLogicalBlockAddress: BigInt(from),
    destinationLogicalBlockAddress: BigInt(to),
    numberOfLogicalBlocks: blocks,
    ...fields,
  });
  return { descriptor, content: identifier };
}

function listOf(func: number, runs: readonly TestRun[], head: Head): Buffer {
  const body = Buffer.concat([
    ...runs.map(({ descriptor }) => descriptor),
    ...runs.map(({ content }) => content),
  ]);
  const header = extents.extentListHeader.encode({
    function: func,
    digest: indexOf("sha256"),
    numberOfRuns: runs.length,
    dataLength: body.length,
    ...head,
  });
  return Buffer.concat([header, body]);
}

export const writeList = (runs: readonly TestRun[], head: Head = {}): Buffer =>
  listOf(vendorFunction.writeExtents, runs, head);

export const copyList = (runs: readonly TestRun[], head: Head = {}): Buffer =>
  listOf(vendorFunction.copyExtents, runs, head);
