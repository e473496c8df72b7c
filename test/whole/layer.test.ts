// One layer of before-images, where room is wanting.
import { expect, test } from "vitest";
import { SystemError } from "../../src/platform/errno.ts";
import { crc32c } from "../../src/platform/native-digest.ts";
import { systemRandom } from "../../src/platform/random.ts";
import { entryKind, extentBytes } from "../../src/whole/format.ts";
import { Layer } from "../../src/whole/layer.ts";
import { bytesOf, randomOf } from "../support/data.ts";
import { SimDisk, SimLayerFolder } from "./sim-journal.ts";

test("what was written when room was wanting, and no entry names, takes no room in the end", async () => {
  const disk = new SimDisk();
  const folder = new SimLayerFolder(disk).over({ pause: async () => {} });
  const extents = [0, 1, 2, 5, 7];
  const head = {
    epoch: 1,
    volumeBytes: 8 * extentBytes,
    madeMs: 1,
    run: Buffer.alloc(16),
    volume: Buffer.alloc(32),
    id: Buffer.alloc(16, 1),
    label: undefined,
    isPoint: true,
  };
  const layer = await Layer.create(folder, head, { random: systemRandom });
  const dataOf = (extent: number) => bytesOf(randomOf(extent + 1), extentBytes);
  const source = async (first: number, count: number) =>
    Array.from({ length: count }, (_, i) => {
      const data = dataOf(first + i);
      const kind = entryKind.data;
      return { extent: first + i, kind, data, dataCrc: crc32c(data), unreadable: Buffer.alloc(16) };
    });
  for (let times = 0; times < 5; times++) {
    disk.full = true;
    await expect(layer.keep(extents, source)).rejects.toThrow(SystemError);
  }
  disk.full = false;
  await layer.keep(extents, source);
  expect([layer.keptExtents, layer.keptBytes]).toEqual([extents.length, extents.length * extentBytes]);
  for (const extent of extents) expect(await layer.imageOf(extent)).toMatchObject({ data: dataOf(extent) });
});
