// What extents of a volume hold, as before-images: data, a hole, zeros, and which sectors could not be read.
//
// Guarantees: a sector that can't be read is noted as such, and takes no other one with it. Putting an image back leaves
// such sectors as they are.
import { AgentError } from "../base/errors.ts";
import { crc32c, isZero } from "../platform/native-digest.ts";
import type { Volume } from "../volume/volume.ts";
import { type Entry, entryKind, extentBytes, sectorBytes } from "./format.ts";

export interface ExtentImage {
  readonly extent: number;
  readonly kind: Entry["kind"];
  /** What it holds, with zeros where it could not be read; absent for holes and zeros. */
  readonly data?: Buffer;
  readonly dataCrc: number;
  readonly unreadable: Buffer;
}

const allReadable: Buffer = Buffer.alloc(16);
const isMedium = (error: unknown) => error instanceof AgentError && error.code === "medium_error";

/** Bytes of an extent of a volume of so many. */
export const lengthOfExtent = (extent: number, volumeBytes: number): number =>
  Math.min(extentBytes, volumeBytes - extent * extentBytes);

const isBad = (unreadable: Buffer, sector: number) =>
  (unreadable[sector >> 3]! & (0x80 >> (sector & 7))) !== 0;

/** An extent block by block; zeros where a block can't be read. */
async function readInBlocks(volume: Volume, at: number, data: Buffer): Promise<Buffer> {
  const { blockBytes } = volume.geometry;
  const unreadable: Buffer = Buffer.alloc(16);
  for (let done = 0; done < data.length; done += blockBytes) {
    const block = data.subarray(done, done + blockBytes);
    try {
      await volume.read((at + done) / blockBytes, block);
    } catch (error) {
      if (!isMedium(error)) throw error;
      block.fill(0);
      for (let byte = done; byte < done + blockBytes; byte += sectorBytes) {
        const sector = byte / sectorBytes;
        unreadable[sector >> 3]! |= 0x80 >> (sector & 7);
      }
    }
  }
  return unreadable;
}

function imageOf(extent: number, data: Buffer, unreadable = allReadable): ExtentImage {
  if (unreadable.equals(allReadable) && isZero(data))
    return { extent, kind: entryKind.zeros, dataCrc: 0, unreadable };
  return { extent, kind: entryKind.data, data, dataCrc: crc32c(data), unreadable };
}

/** An image as one of a volume of so many bytes, which may end within the extent. */
export function cutImage(image: ExtentImage, volumeBytes: number): ExtentImage {
  const { data, extent } = image;
  const bytes = lengthOfExtent(extent, volumeBytes);
  if (!data || data.length === bytes) return image;
  const cut = data.subarray(0, bytes);
  return { ...image, data: cut, dataCrc: crc32c(cut) };
}

/** Of an extent of which nobody knows any more what it held. */
export function unreadableImage(extent: number, volumeBytes: number): ExtentImage {
  const data = Buffer.alloc(lengthOfExtent(extent, volumeBytes));
  return { extent, kind: entryKind.data, data, dataCrc: crc32c(data), unreadable: Buffer.alloc(16, 0xff) };
}

/** Whether an image begins with data of that CRC, in so many bytes. */
export function beginsWith({ data }: ExtentImage, bytes: number, crc: number): boolean {
  return crc32c(data ? data.subarray(0, bytes) : Buffer.alloc(bytes)) === crc;
}

/** What one extent holds, whatever is mapped. */
export async function readExtent(volume: Volume, extent: number, volumeBytes: number): Promise<ExtentImage> {
  const at = extent * extentBytes;
  const data = Buffer.allocUnsafeSlow(lengthOfExtent(extent, volumeBytes));
  try {
    await volume.read(at / volume.geometry.blockBytes, data);
    return imageOf(extent, data);
  } catch (error) {
    if (!isMedium(error)) throw error;
    return imageOf(extent, data, await readInBlocks(volume, at, data));
  }
}

/** What neighbouring extents hold, of a volume of so many bytes. @throws AgentError what reading gives, but `medium_error` */
export async function takeImages(
  volume: Volume,
  first: number,
  count: number,
  volumeBytes: number,
): Promise<ExtentImage[]> {
  const { blockBytes } = volume.geometry;
  const end = first + count;
  const images: ExtentImage[] = [];
  const endByte = Math.min(end * extentBytes, volumeBytes);
  let extent = first;
  while (extent < end) {
    const from = extent * extentBytes;
    const data = await volume.nextData(from / blockBytes, (endByte - from) / blockBytes);
    // An extent that is data in part is data.
    const mapped = data ? Math.floor((data.lba * blockBytes) / extentBytes) : end;
    for (; extent < mapped; extent++)
      images.push({ extent, kind: entryKind.hole, dataCrc: 0, unreadable: allReadable });
    if (!data) break;
    const dataEnd = Math.min(endByte, (data.lba + data.blocks) * blockBytes);
    const last = Math.ceil(dataEnd / extentBytes);
    images.push(...(await readRun(volume, extent, last - extent, volumeBytes)));
    extent = last;
  }
  return images;
}

async function readRun(
  volume: Volume,
  first: number,
  count: number,
  volumeBytes: number,
): Promise<ExtentImage[]> {
  const at = first * extentBytes;
  const bytes = Buffer.allocUnsafeSlow(Math.min((first + count) * extentBytes, volumeBytes) - at);
  const images: ExtentImage[] = [];
  try {
    await volume.read(at / volume.geometry.blockBytes, bytes);
    for (let i = 0; i < count; i++)
      images.push(imageOf(first + i, bytes.subarray(i * extentBytes, (i + 1) * extentBytes)));
  } catch (error) {
    if (!isMedium(error)) throw error;
    for (let i = 0; i < count; i++) images.push(await readExtent(volume, first + i, volumeBytes));
  }
  return images;
}

/** Writes an image where it was taken from. */
export async function putBack(
  volume: Pick<Volume, "geometry" | "write" | "zero">,
  image: ExtentImage,
  volumeBytes: number,
): Promise<void> {
  const { blockBytes } = volume.geometry;
  const lba = (image.extent * extentBytes) / blockBytes;
  const length = lengthOfExtent(image.extent, volumeBytes);
  const { data, unreadable } = image;
  if (!data) {
    await volume.zero(lba, length / blockBytes, { unmap: image.kind === entryKind.hole });
    return;
  }
  if (unreadable.equals(allReadable)) {
    await volume.write(lba, [data]);
    return;
  }
  const sectors = blockBytes / sectorBytes;
  for (let block = 0; block < length / blockBytes; block++) {
    const bad = Array.from({ length: sectors }, (_, i) => isBad(unreadable, block * sectors + i)).some(
      Boolean,
    );
    if (!bad) await volume.write(lba + block, [data.subarray(block * blockBytes, (block + 1) * blockBytes)]);
  }
}

export const hasUnreadable = (image: Pick<ExtentImage, "unreadable">): boolean =>
  !image.unreadable.equals(allReadable);

/** The byte of the first sector of a range within an image that could not be read; undefined if all of it could. */
export function firstUnreadable(
  { unreadable }: Pick<ExtentImage, "unreadable">,
  from: number,
  length: number,
): number | undefined {
  for (let at = from; at < from + length; at += sectorBytes)
    if (isBad(unreadable, at / sectorBytes)) return at;
  return undefined;
}
