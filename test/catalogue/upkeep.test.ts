// Digesting in the background: what can't be read holds up nothing else, and what was forgotten is found again.
import { expect, test } from "vitest";
import { Catalogue } from "../../src/catalogue/catalogue.ts";
import { CataloguedVolume } from "../../src/catalogue/catalogued-volume.ts";
import { TreeShape } from "../../src/catalogue/shape.ts";
import { Upkeep } from "../../src/catalogue/upkeep.ts";
import { parseDigestSpec } from "../../src/digest/spec.ts";
import { systemRandom } from "../../src/platform/random.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { memoryStorage } from "../support/memory-storage.ts";
import { MemoryVolume } from "../support/memory-volume.ts";

function under(regions: number) {
  const extents = 64 * regions;
  const clock = new FakeClock();
  const memory = new MemoryVolume("memory", Buffer.alloc(1024 * extents, 7), 512);
  const storage = memoryStorage(new TreeShape(extents, 32).fileBytes);
  const catalogue = new Catalogue(storage, extents, 1024, parseDigestSpec("sha256"), clock);
  const volume = new CataloguedVolume(memory, catalogue, {
    extentBlocks: 2,
    random: systemRandom,
    discard: async () => {},
    log: () => {},
  });
  let digests = 0;
  memory.before = (operation) => {
    if (operation === "digest" || operation === "read") digests++;
  };
  const upkeep = new Upkeep(volume, clock);
  return {
    memory,
    volume,
    upkeep,
    /** How often data is read for digests in this time, a step each second. */
    during: async (seconds: number) => {
      const before = digests;
      for (let i = 0; i < seconds; i++) {
        clock.advance(1000);
        await upkeep.step();
      }
      return digests - before;
    },
    believed: async () => {
      const nodes = await catalogue.nodes(1, 0, regions);
      return nodes.flatMap((identifier, region) => (identifier ? [region] : []));
    },
  };
}

test("what can't be read is left for a while; the rest is believed", async () => {
  const { memory, upkeep, volume, during, believed } = under(40);
  for (const region of [0, 3, 17]) memory.unreadable.add(128 * region + 10);
  upkeep.sweep();
  await during(20);
  expect(upkeep.sweeping).toBe(false);
  const readable = Array.from({ length: 40 }, (_, i) => i).filter((i) => ![0, 3, 17].includes(i));
  expect(await believed()).toEqual(readable);
  expect(await during(300)).toBe(0);
  // What is written anew is looked at at once, and can be read.
  await volume.write(128 * 3 + 10, [Buffer.alloc(512, 1)]);
  expect(await during(5)).toBeGreaterThan(0);
  expect(await believed()).toEqual([...readable, 3].sort((a, b) => a - b));
  // And the others after a while.
  expect(await during(300)).toBeGreaterThan(0);
});

test("many regions that are written to and can't be read keep none from being digested", async () => {
  const { memory, volume, during, believed } = under(40);
  for (let region = 0; region < 20; region++) memory.unreadable.add(128 * region + 10);
  for (let region = 0; region < 40; region++) await volume.write(128 * region, [Buffer.alloc(512, region)]);
  await during(20);
  expect(await believed()).toEqual(Array.from({ length: 20 }, (_, i) => 20 + i));
});
