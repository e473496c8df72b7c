// A replica is its set's: a run that slept is refused by it, and so is everybody else, until it is given up.
import { readFile, truncate, writeFile } from "node:fs/promises";
import { setTimeout as pause } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { openVolume } from "../../src/cli/volumes.ts";
import { bytesOf, randomOf } from "../support/data.ts";
import { lunsync, Running, serve, WorkFolder } from "../support/lunsync.ts";
import { PostgresServer, postgresIsThere } from "../support/postgres.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";

const MiB = 1024 * 1024;
const bytes = 48 * MiB;
/** More than a run has on its way: some of it has arrived, and more is to come. */
const heldAfter = 28 * MiB;

async function under(options = "") {
  const folder = await WorkFolder.make();
  const [source, replica] = [folder.file("source"), folder.file("replica")];
  await writeFile(source, bytesOf(randomOf(1), bytes));
  await writeFile(replica, "");
  await truncate(replica, bytes);
  const served = await serve(["--lun", `${replica}${options}`, "--state-dir", folder.file("served-state")]);
  const isInStep = async () => (await readFile(replica)).equals(await readFile(source));
  return { folder, source, replica, served, isInStep };
}

describe.skipIf(!postgresIsThere)("two hosts with one database", () => {
  test("a run that slept is refused by the replica that another has brought further, whatever it had sent", async () => {
    const { folder, source, served, isInStep } = await under();
    await using _folder = folder;
    await using _served = served;
    await using server = await PostgresServer.make();
    const store = ["--store", await server.database()];
    await using proxy = await TcpProxy.to(served.url);
    await lunsync(["set", "create", "db", "--source", source, "--replica", `a=${proxy.url}`, ...store]);

    // It has written some extents, others are on their way, and it sleeps.
    const holding = proxy.holdAfter(heldAfter);
    await using slow = new Running(["set", "run", "db", ...store]);
    await holding;
    slow.child.kill("SIGSTOP");
    expect(await isInStep()).toBe(false);

    // Somebody else takes the set, which is further by now.
    await writeFile(source, bytesOf(randomOf(2), bytes));
    const fast = await lunsync(["set", "run", "db", ...store]);
    expect([fast.status, fast.stderr]).toEqual([0, ""]);
    expect(await isInStep()).toBe(true);

    expect(proxy.letGo()).toBeGreaterThan(0);
    slow.child.kill("SIGCONT");
    expect([await slow.ended, slow.stderr]).toEqual([
      5,
      expect.stringMatching(/the set "db": its lease was lost/),
    ]);
    expect(await isInStep()).toBe(true);
    const again = await lunsync(["set", "run", "db", "--json", ...store]);
    expect(JSON.parse(again.stdout)).toMatchObject({
      changed: 0,
      replicas: [{ carriedOut: { written: 0 } }],
    });
  });

  test("what a run has sent that slept does not reach a replica that was handed out since, and is everybody's", async () => {
    const { folder, source, replica, served } = await under(",whole");
    await using _folder = folder;
    await using _served = served;
    await using server = await PostgresServer.make();
    const store = ["--store", await server.database()];
    await using proxy = await TcpProxy.to(served.url);
    await lunsync(["set", "create", "db", "--source", source, "--replica", `a=${proxy.url}`, ...store]);
    expect((await lunsync(["set", "run", "db", ...store])).status).toBe(0);
    const generation = await readFile(replica);
    await writeFile(source, bytesOf(randomOf(2), bytes));

    const holding = proxy.holdAfter(heldAfter);
    await using slow = new Running(["set", "run", "db", ...store]);
    await holding;
    slow.child.kill("SIGSTOP");
    while ((await readFile(replica)).equals(generation)) await pause(20);
    expect(await lunsync(["failover", "db", "a", ...store])).toMatchObject({ status: 0, stderr: "" });
    expect((await readFile(replica)).equals(generation)).toBe(true);

    expect(proxy.letGo()).toBeGreaterThan(0);
    slow.child.kill("SIGCONT");
    expect(await slow.ended).toBe(5);
    expect((await readFile(replica)).equals(generation)).toBe(true);
    // Its users may write.
    await using user = await openVolume(served.url, { writable: true });
    await user.write(0, [Buffer.alloc(512, 1)]);
    await user.flush();
    expect((await readFile(replica)).subarray(0, 512)).toEqual(Buffer.alloc(512, 1));
  });
});

describe("a replica of a set", () => {
  test("is written to by nobody else, also between runs, until it is given up", async () => {
    const { folder, source, served, isInStep } = await under();
    await using _folder = folder;
    await using _served = served;
    const state = ["--state-dir", folder.file("state")];
    const set = (...args: string[]) => lunsync(["set", ...args, ...state]);
    await set("create", "db", "--source", source, "--replica", `a=${served.url}`);
    expect((await set("run", "db")).status).toBe(0);
    const other = folder.file("other");
    await writeFile(other, bytesOf(randomOf(3), bytes));

    const refused = await lunsync(["sync", other, served.url]);
    expect([refused.status, refused.stderr]).toEqual([
      4,
      expect.stringMatching(
        /is a replica of a replication set, and reserved for its runs.*lunsync set release/s,
      ),
    ]);
    expect(await isInStep()).toBe(true);
    expect((await lunsync(["compare", source, served.url])).status).toBe(0); // reading is everybody's
    const reserved = () => lunsync(["inquiry", served.url]);
    expect((await reserved()).stdout).toMatch(
      /^Reserved: +for run \d+ of a replication set, and later ones \(key 0x4c53[0-9a-f]{12}\)$/m,
    );

    expect(await set("release", "db", "a")).toMatchObject({
      status: 0,
      stdout: '"a" takes writes of everybody until the next run of "db"\n',
    });
    expect((await reserved()).stdout).not.toContain("Reserved");
    expect((await lunsync(["sync", other, served.url])).status).toBe(0);
    const run = await set("run", "db");
    expect([run.status, run.stderr]).toEqual([0, expect.stringMatching(/somebody else has written/)]);
    expect(await isInStep()).toBe(true);

    // Another set can't have it too.
    await set("create", "db2", "--source", source, "--replica", `a=${served.url}`);
    const second = await set("run", "db2");
    expect([second.status, second.stdout]).toEqual([
      5,
      expect.stringMatching(/^a: offline.*is a replica of another set/m),
    ]);
    expect((await set("remove-replica", "db", "a")).stderr).toBe("");
    expect((await set("run", "db2")).status).toBe(0);
    // One whose set is lost.
    const lost = ["--state-dir", folder.file("nothing")];
    const url = served.url;
    expect((await lunsync(["set", "release", "db2", url, ...lost])).status).toBe(5);
    expect((await lunsync(["set", "release", "db2", url, "--force", ...lost])).status).toBe(0);
    expect((await lunsync(["sync", other, url])).status).toBe(0);
    expect((await set("run", "db2")).status).toBe(0);
    expect((await set("delete", "db2")).stderr).toBe("");
    expect((await lunsync(["sync", other, url])).status).toBe(0);
  });

  test("stays its set's when its server dies, and one that can't be reached is removed in words", async () => {
    const { folder, source, replica, served } = await under();
    await using _folder = folder;
    const state = ["--state-dir", folder.file("state")];
    const set = (...args: string[]) => lunsync(["set", ...args, ...state]);
    await set("create", "db", "--source", source, "--replica", `a=${served.url}`);
    expect((await set("run", "db")).status).toBe(0);
    await served.end("SIGKILL");
    const removed = await set("remove-replica", "db", "a");
    expect([removed.status, removed.stderr]).toEqual([
      0,
      expect.stringMatching(
        /^Warning: the host of "a" still takes it for a replica of "db".*lunsync set release db/,
      ),
    ]);
    await using again = await serve(["--lun", replica, "--state-dir", folder.file("served-state")]);
    expect((await lunsync(["sync", replica, again.url])).status).toBe(4); // itself
    const other = folder.file("other");
    await writeFile(other, bytesOf(randomOf(3), bytes));
    expect(await lunsync(["sync", other, again.url])).toMatchObject({
      status: 4,
      stderr: expect.stringMatching(/replica of a replication set/),
    });
    expect((await set("release", "db", again.url)).status).toBe(0);
    expect((await lunsync(["sync", other, again.url])).status).toBe(0);
  });
});
