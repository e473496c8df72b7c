// A catalogue above a volume that keeps its last whole generation: what it answers for is what is there.
import { expect, test } from "vitest";
import { CatalogueKeeper } from "../../src/catalogue/keeper.ts";
import { defaultDigest, parseDigestSpec } from "../../src/digest/spec.ts";
import { systemClock } from "../../src/platform/clock.ts";
import { systemRandom } from "../../src/platform/random.ts";
import { extentBytes } from "../../src/whole/format.ts";
import { openWhole } from "../../src/whole/keeper.ts";
import { bytesOf, randomOf } from "../support/data.ts";
import { WorkFolder } from "../support/lunsync.ts";
import { MemoryVolume } from "../support/memory-volume.ts";

const blockBytes = 512;
const extents = 80;
const digest = parseDigestSpec(defaultDigest);

test("a roll back is a write that the catalogue knows of before it begins", async () => {
  await using folder = await WorkFolder.make();
  const volume = new MemoryVolume("disk", bytesOf(randomOf(1), extents * extentBytes), blockBytes);
  const before = Buffer.from(volume.cache);
  const around = {
    folder: folder.path,
    clock: systemClock,
    random: systemRandom,
    log: () => {},
    changedMs: async () => undefined,
  };
  await using whole = await openWhole(volume, around);
  await using keeper = await CatalogueKeeper.open(whole.volume, {
    ...around,
    digest,
    extentBytes,
    fill: false,
  });
  const catalogued = keeper.volume;
  const window = {
    lba: 0,
    extentBlocks: extentBytes / blockBytes,
    extents,
    digest,
    initialValue: Buffer.alloc(16),
    width: 16 as const,
    fresh: false,
  };
  const believed = async () => {
    await keeper.fill(new AbortController().signal);
    return (await catalogued.encodeDigests({ ...window, catalogueOnly: true })).values;
  };
  const first = await believed();
  const run = Buffer.alloc(16, 1);
  await catalogued.beginWhole(run);
  await catalogued.write(3, [bytesOf(randomOf(2), 20 * extentBytes)]);
  await catalogued.zero(9000, 500, { unmap: true });
  const mixture = await believed();
  expect(mixture.equals(first)).toBe(false);
  expect(await catalogued.rollBackWhole()).toMatchObject({ extents: 26 });
  expect(volume.medium.equals(before)).toBe(true);
  // At once, without digesting anything anew: what is not known is read, and nothing else is said.
  expect((await catalogued.encodeDigests(window)).values.equals(first)).toBe(true);
  expect((await believed()).equals(first)).toBe(true);
});
