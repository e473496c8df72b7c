// Histories that can't be kept: whatever of their files fails, no extent that changed is left unnamed.
import { expect, test } from "vitest";
import { Histories } from "../../src/catalogue/history.ts";
import { MemoryFolder } from "../support/memory-storage.ts";

const extents = 130;
const nobody = async function* () {};

async function under() {
  const folder = new MemoryFolder();
  const dropped: string[] = [];
  const histories = await Histories.open(folder, extents, false, (pair) => dropped.push(pair));
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
