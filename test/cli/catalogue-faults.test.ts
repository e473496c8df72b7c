// Catalogues and replication sets on the worst day, with real parts: a bad sector below, a full disk beside.
import { readdir, readFile, truncate, writeFile } from "node:fs/promises";
import { setTimeout as pause } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { bytesOf, randomOf, writePair } from "../support/data.ts";
import { lunsync, serve, WorkFolder } from "../support/lunsync.ts";
import { mountsWork, SmallDisk, withBadSector } from "../support/machines.ts";

const MiB = 1024 * 1024;
const lba = 4242;
await using probe = await WorkFolder.make();

describe.skipIf(!(await mountsWork(probe.path)))("a replica with a catalogue", () => {
  test("and a bad sector: it is named, known about everywhere else, and good again when it was written", async () => {
    await using folder = await WorkFolder.make();
    const [source, file] = [folder.file("source"), folder.file("replica")];
    const { original } = await writePair(source, file, 2, 24 * MiB, 40);
    await using bad = await withBadSector(file, folder.path, lba);
    const state = ["--state-dir", folder.file("state")];
    await using target = await serve(["--lun", `${bad.path},catalogue`, ...state]);
    for (let round = 0; round < 2; round++) {
      const compared = await lunsync(["compare", source, target.url, "--json"]);
      expect([compared.status, compared.json().bad]).toEqual([
        5,
        [expect.objectContaining({ side: "replica", action: "read", lba })],
      ]);
    }
    const shipped = await lunsync(["sync", source, target.url, "--verify", "--json"]);
    expect([shipped.status, shipped.json().badExtents]).toEqual([0, 0]);
    expect((await lunsync(["compare", source, target.url, "--fresh"])).status).toBe(0);
    expect(await target.end()).toBe(0);
    expect((await readFile(file)).equals(original)).toBe(true);
    // It does not say so each time that it looks.
    expect(target.stderr.split("\n").filter((line) => /waits|unreadable/.test(line)).length).toBeLessThan(4);
  });

  test("and a bad sector, in a replication set: it is written anew and proved", async () => {
    await using folder = await WorkFolder.make();
    const [source, file] = [folder.file("source"), folder.file("replica")];
    const { original } = await writePair(source, file, 3, 4 * MiB, 40);
    await using bad = await withBadSector(file, folder.path, lba);
    await using target = await serve([
      "--lun",
      `${bad.path},catalogue`,
      "--state-dir",
      folder.file("served"),
    ]);
    const state = ["--state-dir", folder.file("state")];
    await lunsync(["set", "create", "db", "--source", source, "--replica", `a=${target.url}`, ...state]);
    expect(await lunsync(["set", "run", "db", ...state])).toMatchObject({ status: 0 });
    await target.end();
    expect((await readFile(file)).equals(original)).toBe(true);
  });

  test("and no room for it: writing goes on, it is thrown away, and made anew when there is room", async () => {
    await using folder = await WorkFolder.make();
    const replica = folder.file("replica");
    const source = folder.file("source");
    const data = bytesOf(randomOf(4), 64 * MiB);
    await writeFile(source, data);
    await writeFile(replica, "");
    await truncate(replica, data.length);
    // Room for what a server keeps, and not for the digests of all of it.
    await using disk = await SmallDisk.at(folder.file("disk"), 24 * 1024);
    const options = ["--lun", `${replica},catalogue`, "--state-dir", disk.path];
    {
      await using target = await serve(options);
      const shipped = await lunsync(["sync", source, target.url, "--verify"]);
      expect(shipped.status).toBe(0);
      // Either it was noticed by a write, or it waits for room: it says nothing that is not so in both cases.
      for (let i = 0; i < 100 && !/waits|thrown away/.test(target.stderr); i++) await pause(100);
      expect(target.stderr).toMatch(/ENOSPC|no space left/i);
      expect(await target.end()).toBe(0);
    }
    expect((await readFile(replica)).equals(data)).toBe(true);
    await using elsewhere = await serve([
      "--lun",
      `${replica},catalogue`,
      "--state-dir",
      folder.file("elsewhere"),
    ]);
    expect((await lunsync(["compare", source, elsewhere.url])).status).toBe(0);
    await elsewhere.end();
    expect(await readdir(folder.file("elsewhere/catalogues"))).toEqual([
      expect.stringMatching(/\.catalogue$/),
    ]);
  });
});
