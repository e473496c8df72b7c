// lunsync failover and failback with real processes, files and targets.
import { open, readFile, truncate, writeFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { bytesOf, randomOf } from "../support/data.ts";
import { lunsync, Running, serve, WorkFolder } from "../support/lunsync.ts";

const MiB = 1024 * 1024;
const bytes = 16 * MiB;

/** A set of a source and two replicas, of which one is served and keeps its last whole generation; it was run once. */
async function made() {
  const folder = await WorkFolder.make();
  const content = bytesOf(randomOf(1), bytes);
  await writeFile(folder.file("source"), content);
  for (const name of ["east", "west"]) {
    await writeFile(folder.file(name), "");
    await truncate(folder.file(name), bytes);
  }
  const served = await serve([
    "--lun",
    `${folder.file("east")},whole`,
    "--state-dir",
    folder.file("east-state"),
  ]);
  const state = ["--state-dir", folder.file("state")];
  const set = (...args: string[]) => lunsync(["set", ...args, ...state]);
  const failover = (...args: string[]) => lunsync(["failover", ...args, ...state]);
  const failback = (...args: string[]) => lunsync(["failback", ...args, ...state]);
  const replicas = ["--replica", `east=${served.url}`, "--replica", `west=${folder.file("west")}`];
  await set("create", "db", "--source", folder.file("source"), ...replicas);
  expect((await set("run", "db")).status).toBe(0);
  const read = (name: string) => readFile(folder.file(name));
  /** As somebody does who uses the volume. */
  const write = async (name: string, at: number, data: Buffer) => {
    const file = await open(folder.file(name), "r+");
    await file.write(data, 0, data.length, at);
    await file.close();
  };
  return { folder, content, served, state, set, failover, failback, read, write };
}

const allEqual = async (read: (name: string) => Promise<Buffer>, content: Buffer) => {
  for (const name of ["source", "east", "west"])
    expect([name, (await read(name)).equals(content)]).toEqual([name, true]);
};

describe("lunsync failover", () => {
  test("hands a replica out at its last whole generation, where a run was cut off in the middle", async () => {
    const { folder, content, served, state, set, failover, read, write } = await made();
    await using _folder = folder;
    await using _served = served;
    await write("source", 0, bytesOf(randomOf(2), bytes));
    // The link dies in the middle: the run is killed when the replica has begun to change.
    const run = new Running(["set", "run", "db", ...state]);
    while ((await read("east")).equals(content)) await new Promise((resolve) => setTimeout(resolve, 2));
    await run.end("SIGKILL");
    expect((await read("east")).equals(content)).toBe(false);
    const done = await failover("db", "east", "--json");
    expect([done.status, done.stderr]).toEqual([0, ""]);
    expect(JSON.parse(done.stdout)).toMatchObject({ replica: "east", holds: 1, behind: 256 });
    expect((await read("east")).equals(content)).toBe(true);
    const status = await set("status", "db");
    expect(status.stdout).toMatch(/^db: generation 3, handed out to east$/m);
    expect(status.stdout).toMatch(/source .*: on its own since the failover/);
    const list = await set("list");
    expect(list.stdout).toMatch(/^db {2}generation 3 {2}2 replicas, 2 behind {2}handed out to east$/m);
    const inquiry = await lunsync(["inquiry", served.url]);
    expect(inquiry.stdout).toMatch(/^Replica of: .*generation 3; handed out$/m);
    // Nobody synchronizes onto it by accident.
    const sync = await lunsync(["sync", folder.file("source"), served.url]);
    expect([sync.status, sync.stderr]).toEqual([4, expect.stringMatching(/handed out by a failover/)]);
    expect((await read("east")).equals(content)).toBe(true);
  });

  test("and failback ship what was written there, and nothing else", async () => {
    const { folder, content, served, set, failover, failback, read, write } = await made();
    await using _folder = folder;
    await using _served = served;
    expect((await failover("db", "east")).status).toBe(0);
    for (const [at, fill] of [
      [70_000, 1],
      [9 * MiB, 2],
    ] as const) {
      const data = Buffer.alloc(5000, fill);
      await write("east", at, data);
      data.copy(content, at);
      // The others follow it meanwhile; the source is not written to.
      const run = await set("run", "db", "--json");
      expect(JSON.parse(run.stdout).replicas).toMatchObject([
        { name: "source", state: "offline" },
        { name: "west", state: "in step", carriedOut: { written: 1 } },
      ]);
    }
    const back = await failback("db", "--json");
    expect([back.status, back.stderr]).toEqual([0, ""]);
    const done = JSON.parse(back.stdout);
    expect(done).toMatchObject({ source: "source", settled: { onlyLeader: { count: 2 }, winner: "east" } });
    expect(done.run.replicas[0]).toMatchObject({
      name: "source",
      carriedOut: { written: 2, bytes: 131_072 },
    });
    await allEqual(read, content);
    const again = await set("run", "db");
    expect([again.status, again.stdout]).toEqual([0, expect.stringMatching(/^generation 3: 0 of 256/)]);
    const nothing = await failback("db");
    expect([nothing.status, nothing.stdout]).toEqual([0, expect.stringMatching(/there is nothing to do/)]);
  });

  test("and changes on both sides: nothing is written before it is said whose way it goes; what is overwritten is kept", async () => {
    const { folder, served, failover, failback, read, write, set } = await made();
    await using _folder = folder;
    await using _served = served;
    await failover("db", "east");
    await write("east", 0, Buffer.alloc(70_000, 1));
    await write("source", 65_536, Buffer.alloc(70_000, 2));
    const [east, source] = [await read("east"), await read("source")];
    const refused = await failback("db");
    expect(refused.status).toBe(4);
    expect(refused.stdout).toMatch(
      /1 extents by "east" alone \(<\), 1 by "source" alone \(>\), 1 by both \(X\)/,
    );
    expect(refused.stdout).toMatch(/^\|X\.{63}\|$/m);
    expect(refused.stderr).toMatch(/--prefer east or --prefer source/);
    const json = JSON.parse((await failback("db", "--json")).stdout);
    expect(json.error).toMatchObject({
      code: "split_brain",
      conflict: {
        both: { count: 1, ranges: [{ first: 1, count: 1 }] },
        onlyRival: { ranges: [{ first: 2, count: 1 }] },
      },
    });
    expect([(await read("east")).equals(east), (await read("source")).equals(source)]).toEqual([true, true]);
    const bad = await failback("db", "--prefer", "west");
    expect([bad.status, bad.stderr]).toEqual([2, expect.stringMatching(/it is between "east" and "source"/)]);

    const done = await failback("db", "--prefer", "east", "--json");
    expect(done.status).toBe(0);
    await allEqual(read, east);
    // What the source had of its own can be looked at, on a volume that takes it back.
    const [backup] = JSON.parse(done.stdout).backups;
    expect((await lunsync(["undo", backup, folder.file("source")])).status).toBe(0);
    expect((await read("source")).equals(source)).toBe(true);
    expect((await set("status", "db")).stdout).not.toMatch(/handed out/);
  });

  test("without the truth database: only its host knows, and whoever runs the set finds out", async () => {
    const { folder, content, served, set, failover, failback, read, write } = await made();
    await using _folder = folder;
    await using _served = served;
    const alone = await lunsync(["failover", "--volume", served.url]);
    expect([alone.status, alone.stdout]).toEqual([
      0,
      expect.stringMatching(/is handed out at generation 1$/m),
    ]);
    await write("east", 0, Buffer.alloc(512, 7));
    const east = await read("east");
    await write("source", 5 * MiB, Buffer.alloc(512, 8));
    const run = await set("run", "db");
    expect([run.status, run.stdout]).toEqual([
      5,
      expect.stringMatching(/^east: offline.* was handed out by a failover/m),
    ]);
    expect((await read("east")).equals(east)).toBe(true);
    expect((await failback("db")).status).toBe(4);
    expect((await failback("db", "--prefer", "east")).status).toBe(0);
    await allEqual(read, east);
    expect(east.equals(content)).toBe(false);
    const unknown = await failover("--volume", folder.file("west"));
    expect([unknown.status, unknown.stderr]).toEqual([
      4,
      expect.stringMatching(/does not know it for a replica/),
    ]);
    for (const args of [["db"], ["db", "west", "--volume", "x"], ["db", "nobody"], ["nothing", "east"]]) {
      const wrong = await failover(...args);
      expect(wrong.stderr).toMatch(
        /failover takes SET and REPLICA|stands instead|no replica "nobody"|none of that name/,
      );
      expect(wrong.status).toBeGreaterThan(1);
    }
  });
});
