// scripts/quickstart with volumes of one's own: the whole job, or a refusal that is lunsync's own.
import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { writePair } from "../support/data.ts";
import { run, serve, WorkFolder } from "../support/lunsync.ts";

const quickstart = fileURLToPath(new URL("../../scripts/quickstart", import.meta.url));
const MiB = 1024 * 1024;

test("a replica by its path, and one that somebody serves", async () => {
  await using folder = await WorkFolder.make();
  const [source, replica] = [folder.file("source"), folder.file("replica")];
  const { original, other } = await writePair(source, replica, 1, 2 * MiB, 9);
  const done = await run(quickstart, [source, replica]);
  expect(done.stderr).toBe("");
  expect(done.status).toBe(0);
  expect(done.stdout).toMatch(/DIFFERS[\s\S]*EQUAL now[\s\S]*IDENTICAL/);
  expect((await readFile(replica)).equals(original)).toBe(true);

  await writeFile(replica, other);
  await using target = await serve(["--lun", replica]);
  expect((await run(quickstart, [source, target.url])).status).toBe(0);
  expect((await readFile(replica)).equals(original)).toBe(true);
});

test("another size, the same volume, a missing one", async () => {
  await using folder = await WorkFolder.make();
  const [source, replica] = [folder.file("source"), folder.file("replica")];
  const { original } = await writePair(source, replica, 2, MiB, 3);
  await writeFile(replica, original.subarray(512));
  for (const [volumes, status, words] of [
    [[source, replica], 4, /the source has 1048576 bytes.*the replica 1048064/],
    [[source, source], 4, /same volume|in use/],
    [[source, folder.file("missing")], 3, /no such file/],
    [[source], 2, /usage/],
  ] as const) {
    const refused = await run(quickstart, volumes);
    expect([refused.status, refused.stderr]).toEqual([status, expect.stringMatching(words)]);
  }
  expect((await readFile(source)).equals(original)).toBe(true);
});
