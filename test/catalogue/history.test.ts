// Histories: whatever of their files fails, and whatever goes on meanwhile, no extent that changed is left unnamed.
import { expect, test } from "vitest";
import { Catalogue } from "../../src/catalogue/catalogue.ts";
import { CataloguedVolume } from "../../src/catalogue/catalogued-volume.ts";
import { Histories } from "../../src/catalogue/history.ts";
import type { Storage } from "../../src/catalogue/page-store.ts";
import { TreeShape } from "../../src/catalogue/shape.ts";
import { parseDigestSpec } from "../../src/digest/spec.ts";
import { systemClock } from "../../src/platform/clock.ts";
import { systemRandom } from "../../src/platform/random.ts";
import { changedRanges } from "../../src/replicate/generations.ts";
import { MemoryFolder, memoryStorage } from "../support/memory-storage.ts";
import { MemoryVolume } from "../support/memory-volume.ts";

const extents = 130;
const nobody = async function* () {};

async function under() {
  const folder = new MemoryFolder();
  const dropped: string[] = [];
  const histories = await Histories.open(folder, extents, false, {
    dropped: (pair) => dropped.push(pair),
  });
  const begun = async (pair: string, generation: string) => {
    await histories.begin(pair, generation, nobody);
    await histories.commit(pair, generation);
  };
  await begun("aa", "01");
  await begun("bb", "02");
  return { folder, histories, dropped, begun };
}

const changes = new Map([[1, [3, 5]]]);

for (const operation of ["write", "flush"] as const) {
  test(`a ${operation} that fails ends a history, and nobody is told that it goes on`, async () => {
    const { folder, histories, dropped, begun } = await under();
    folder.fails.add(operation);
    await histories.changed(changes);
    folder.fails.clear();
    // A flush fails once, so that the other one is kept.
    const kept = operation === "flush" ? ["bb"] : [];
    expect(dropped).toEqual(operation === "flush" ? ["aa"] : ["aa", "bb"]);
    expect([...folder.files.keys()]).toEqual(kept.map((pair) => `${pair}-02`));
    expect(["aa", "bb"].filter((pair) => histories.generation(pair) !== undefined)).toEqual(kept);
    // The next generation of the pair is one like any other.
    await begun("aa", "03");
    await histories.changed(changes);
    const since: unknown[] = [];
    for await (const change of histories.since("aa")) since.push(change);
    expect(since).toEqual([{ region: 1, indexes: [3, 5] }]);
  });
}

test("what can be neither kept nor removed is an error each time, not only the first", async () => {
  const { folder, histories } = await under();
  folder.fails.add("flush").add("remove");
  await expect(histories.changed(changes)).rejects.toThrow("EIO");
  // The kernel has told of its failure: now it flushes what it has.
  await expect(histories.changed(changes)).rejects.toThrow("EIO");
  folder.fails.clear();
  await histories.changed(changes);
  expect(histories.generation("aa")).toBeUndefined();
});

test("a generation whose doubtful regions can't be noted was not begun", async () => {
  const { folder, histories } = await under();
  folder.fails.add("flush");
  const one = async function* () {
    yield 2;
  };
  await expect(histories.begin("aa", "04", one)).rejects.toThrow("EIO");
  await expect(histories.commit("aa", "04")).rejects.toThrow("not begun");
  expect(histories.generation("aa")).toBeUndefined();
});

test("what is believed again while it is asked for the changes is named", async () => {
  const extentBytes = 1024;
  const all = 64 * 65;
  const memory = new MemoryVolume("memory", Buffer.alloc(all * extentBytes, 1), 512);
  const storage = memoryStorage(new TreeShape(all, 32).fileBytes);
  let onRead = async () => {};
  const read: Storage["read"] = async (offset, buffer) => {
    await onRead();
    await storage.read(offset, buffer);
  };
  // One page in memory: the tree is read again by everybody.
  const catalogue = new Catalogue(
    { ...storage, read },
    all,
    extentBytes,
    parseDigestSpec("sha256"),
    systemClock,
    1,
  );
  const histories = await Histories.open(new MemoryFolder(), all, false);
  const volume = new CataloguedVolume(memory, catalogue, {
    extentBlocks: 2,
    random: systemRandom,
    discard: async () => {},
    histories,
    log: () => {},
  });
  const region = 5;
  const learn = () => volume.digest(64 * region, 64);
  const believe = () => catalogue.believe(catalogue.ready(0).whole, () => volume.flush());
  await learn();
  await believe();
  const [pair, generation] = [Buffer.alloc(16, 0xaa), Buffer.alloc(16, 1)];
  await volume.beginGeneration(pair, generation);
  await volume.commitGeneration(pair, generation);
  await volume.write(2 * (64 * region + 7), [Buffer.alloc(512, 9)]);
  await learn();
  let believed = 0;
  onRead = async () => {
    onRead = async () => {};
    await believe();
    believed++;
  };
  const since = await volume.changesSince(pair);
  expect(believed).toBe(1);
  const named = changedRanges(since!, all).some(
    ({ first, count }) => first <= 64 * region + 7 && 64 * region + 7 < first + count,
  );
  expect(named).toBe(true);
});
