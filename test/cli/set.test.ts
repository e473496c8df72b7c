// lunsync set with real processes, files and targets: what is killed is repaired by the next run.
import { readFile, truncate, writeFile } from "node:fs/promises";
import { setTimeout as pause } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { bytesOf, randomOf } from "../support/data.ts";
import { lunsync, Running, serve, WorkFolder } from "../support/lunsync.ts";
import { mountsWork, SmallDisk } from "../support/machines.ts";
import { PostgresServer, postgresIsThere } from "../support/postgres.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";

const MiB = 1024 * 1024;
await using probe = await WorkFolder.make();
const mounts = await mountsWork(probe.file("."));
const bytes = 24 * MiB;

async function under() {
  const folder = await WorkFolder.make();
  const source = folder.file("source");
  const content = bytesOf(randomOf(1), bytes).fill(0, 5 * MiB, 9 * MiB);
  await writeFile(source, content);
  for (const name of ["local", "served"]) {
    await writeFile(folder.file(name), "");
    await truncate(folder.file(name), bytes);
  }
  const state = ["--state-dir", folder.file("state")];
  const servedOptions = ["--lun", folder.file("served"), "--state-dir", folder.file("served-state")];
  const served = await serve(servedOptions);
  /** At the same address, under the same name. */
  const serveAgain = () => {
    const [, portal, target] = /^iscsi:\/\/([^/]+)\/([^/]+)\//.exec(served.url)!;
    return serve([...servedOptions, "--listen", portal!, "--target", target!]);
  };
  const set = (...args: string[]) => lunsync(["set", ...args, ...state]);
  expect(
    (
      await set(
        "create",
        "db",
        "--source",
        source,
        "--replica",
        `east=${served.url}`,
        "--replica",
        `west=${folder.file("local")}`,
      )
    ).status,
  ).toBe(0);
  const holds = async (name: string) => (await readFile(folder.file(name))).equals(content);
  const change = async (at: number, data: Buffer) => {
    data.copy(content, at);
    await writeFile(source, content);
  };
  return { folder, source, content, state, served, serveAgain, set, holds, change };
}

/** Likewise; but the truth is on a server, which has no set so far. */
async function onServer() {
  await using stack = new AsyncDisposableStack();
  const world = await under();
  stack.use(world.folder);
  stack.use(world.served);
  const server = stack.use(await PostgresServer.make());
  const store = ["--store", await server.database()];
  const set = (...args: string[]) => lunsync(["set", ...args, ...store]);
  const all = stack.move();
  return { world, server, store, set, [Symbol.asyncDispose]: () => all.disposeAsync() };
}

describe("lunsync set", () => {
  test("brings all replicas to the source, and one that was away to what it lacks", async () => {
    const world = await under();
    await using _folder = world.folder;
    const { set, holds, change, serveAgain } = world;
    let { served } = world;
    const first = await set("run", "db", "--json");
    expect([first.status, first.stderr]).toEqual([0, ""]);
    expect(JSON.parse(first.stdout)).toMatchObject({ generation: 1, extents: 384, changed: 320 });
    expect([await holds("served"), await holds("local")]).toEqual([true, true]);

    await served.end();
    await change(3 * MiB, Buffer.alloc(100, 1));
    const away = await set("run", "db");
    expect(away.status).toBe(5);
    expect(away.stdout).toMatch(/^east: offline, 1 pending: .*ECONNREFUSED/m);
    expect(away.stdout).toMatch(/^west: in step, 1 extents written, 1 proved$/m);
    const { sets } = JSON.parse((await set("status", "db", "--json")).stdout);
    expect(sets[0].members.map((member: { pending: number }) => member.pending)).toEqual([0, 1, 0]);

    served = await serveAgain();
    await using _ = served;
    const back = await set("run", "db", "--json");
    expect(back.status).toBe(0);
    expect(JSON.parse(back.stdout).replicas[0]).toMatchObject({
      state: "in step",
      carriedOut: { written: 1, bytes: 65_536 },
    });
    expect(await holds("served")).toBe(true);
  });

  test("is killed again and again, and so is a replica's server: the next run repairs it", async () => {
    const world = await under();
    await using _folder = world.folder;
    const { set, holds, change, serveAgain, state } = world;
    let { served } = world;
    const random = randomOf(2);
    for (let round = 0; round < 6; round++) {
      await change(Math.floor(random() * 20) * MiB, bytesOf(random, 3 * MiB));
      const running = new Running(["set", "run", "db", ...state]);
      await pause(200 + random() * 500);
      if (round % 3 === 2) {
        await served.end("SIGKILL");
        served = await serveAgain();
        await running.ended;
      } else await running.end("SIGKILL");
    }
    await using _ = served;
    const { status, stdout } = await set("run", "db", "--json");
    expect([
      status,
      JSON.parse(stdout).replicas.map(({ state, pending }: Record<string, unknown>) => [state, pending]),
    ]).toEqual([
      0,
      [
        ["in step", 0],
        ["in step", 0],
      ],
    ]);
    expect([await holds("served"), await holds("local")]).toEqual([true, true]);
    expect(JSON.parse((await set("run", "db", "--json")).stdout)).toMatchObject({ changed: 0 });
  });

  test("returns a replica to its last whole generation where a run was cut off", async () => {
    await using folder = await WorkFolder.make();
    const [source, replica] = [folder.file("source"), folder.file("replica")];
    const [old, now] = [bytesOf(randomOf(3), bytes), bytesOf(randomOf(4), bytes)];
    await writeFile(source, old);
    await writeFile(replica, "");
    await truncate(replica, bytes);
    const state = ["--state-dir", folder.file("state")];
    await using served = await serve([
      "--lun",
      `${replica},whole,catalogue`,
      "--state-dir",
      folder.file("served-state"),
    ]);
    const set = (...args: string[]) => lunsync(["set", ...args, ...state]);
    await using proxy = await TcpProxy.to(served.url);
    await set("create", "db", "--source", source, "--replica", `a=${proxy.url}`);
    expect((await set("run", "db")).status).toBe(0);
    await writeFile(source, now);
    // More than a run has on its way: some of it has arrived, and some never will.
    const held = proxy.holdAfter(19 * MiB);
    const running = new Running(["set", "run", "db", ...state]);
    await held;
    while ((await readFile(replica)).equals(old)) await pause(20);
    await running.end("SIGKILL");
    expect((await readFile(replica)).equals(now)).toBe(false); // it was cut off
    expect((await lunsync(["rollback", served.url])).status).toBe(0);
    expect((await readFile(replica)).equals(old)).toBe(true);
    expect((await set("run", "db")).status).toBe(0);
    expect((await readFile(replica)).equals(now)).toBe(true);
    expect((await lunsync(["rollback", served.url])).stdout).toMatch(/is a whole generation/);
  });

  test("says who wrote to a replica, and refuses what is not that replica", async () => {
    const world = await under();
    await using _folder = world.folder;
    await using _served = world.served;
    const { set, holds, folder } = world;
    await set("run", "db");
    const local = await readFile(folder.file("local"));
    local.fill(7, MiB, MiB + 10);
    await writeFile(folder.file("local"), local);
    const { status, stdout, stderr } = await set("run", "db");
    expect([status, stderr]).toEqual([
      0,
      'Warning: somebody else has written to 1 extents of "west"; they are made what the source has\n',
    ]);
    expect(stdout).toMatch(/^ {2}somebody else had written to 1 extents: 16$/m);
    expect(await holds("local")).toBe(true);
  });

  test("takes a replica along when its source grows, and stops when it shrinks", async () => {
    const world = await under();
    await using folder = world.folder;
    await using _served = world.served;
    const { set, source } = world;
    // An extent at the end that is no whole one, before and after.
    const [odd, longer] = [bytes + 512, bytes + 3 * MiB + 1024];
    expect((await set("run", "db")).status).toBe(0);
    const sizes = async () => {
      const files = await Promise.all(["local", "served"].map((name) => readFile(folder.file(name))));
      return files.map((file) => file.length);
    };
    for (const size of [odd, longer]) {
      await truncate(source, size);
      const grown = await set("run", "db");
      expect([grown.status, grown.stderr, await sizes()]).toEqual([0, "", [size, size]]);
    }
    const data = bytesOf(randomOf(8), longer);
    await writeFile(source, data);
    expect((await set("run", "db")).status).toBe(0);
    for (const name of ["local", "served"])
      expect((await readFile(folder.file(name))).equals(data)).toBe(true);

    await truncate(source, odd);
    const shrunk = await set("run", "db");
    expect([shrunk.status, shrunk.stderr]).toEqual([4, expect.stringMatching(/replicas are never cut off/)]);
    expect(await sizes()).toEqual([longer, longer]);
  });

  test.skipIf(!postgresIsThere)(
    "is kept by a server that several hosts share, and ends in words without it",
    async () => {
      await using shared = await onServer();
      const { world, server, set } = shared;
      const { folder } = world;
      const replica = `west=${folder.file("local")}`;
      expect((await set("create", "shared", "--source", world.source, "--replica", replica)).status).toBe(0);
      expect((await set("run", "shared")).status).toBe(0);
      expect(await world.holds("local")).toBe(true);
      expect(JSON.parse((await set("status", "--json")).stdout)).toMatchObject({
        sets: [{ facts: { name: "shared", generation: 1 } }],
      });
      await server[Symbol.asyncDispose]();
      const gone = await set("run", "shared");
      expect([gone.status, gone.stderr]).toEqual([
        expect.any(Number),
        expect.stringMatching(/database|server|connect/i),
      ]);
      expect([3, 6]).toContain(gone.status);
    },
  );

  test.skipIf(!postgresIsThere)(
    "whose database is killed in the middle of a run is repaired by the next",
    async () => {
      await using shared = await onServer();
      const { world, server, store, set } = shared;
      const { folder } = world;
      const replicas = ["--replica", `east=${world.served.url}`, "--replica", `west=${folder.file("local")}`];
      expect((await set("create", "shared", "--source", world.source, ...replicas)).status).toBe(0);
      const read = (name: string) => readFile(folder.file(name));
      const random = randomOf(5);
      for (const signal of ["SIGKILL", "SIGQUIT"] as const) {
        await world.change(0, bytesOf(random, bytes));
        const before = await read("local");
        const running = new Running(["set", "run", "shared", ...store]);
        // When a replica has begun to change, or a bit later.
        while ((await read("local")).equals(before)) await pause(1);
        await pause(random() * 100);
        await server.kill(signal);
        await server.start();
        // It may have been done already, or go on after it was connected again; else it says what it lacks.
        expect([0, 3, 5, 6]).toContain(await running.ended);
        const next = await set("run", "shared");
        expect([next.status, next.stderr]).toEqual([0, ""]);
        for (const name of ["local", "served"])
          expect([name, (await read(name)).equals(world.content)]).toEqual([name, true]);
      }
    },
  );

  test.skipIf(!mounts)(
    "without room for what it decides nothing is written, and it says where room is wanted",
    async () => {
      const world = await under();
      await using folder = world.folder;
      await using _served = world.served;
      await using disk = await SmallDisk.at(folder.file("tmp"), 8 * 1024);
      const env = { TMPDIR: disk.path };
      const run = await lunsync(["set", "run", "db", ...world.state], { env });
      expect([run.status, run.stderr]).toEqual([
        7,
        expect.stringMatching(/nothing was written to a replica.*TMPDIR/),
      ]);
      expect((await readFile(folder.file("local"))).equals(Buffer.alloc(bytes))).toBe(true);
      expect((await world.set("run", "db")).status).toBe(0);
    },
  );

  test("is paused, given other replicas, and bad input is refused in words", async () => {
    const world = await under();
    await using _folder = world.folder;
    await using _served = world.served;
    const { set, folder, source } = world;
    await set("pause", "db");
    expect(await set("run", "db")).toMatchObject({
      status: 2,
      stderr: expect.stringMatching(/"db" is paused; "lunsync set resume db"/),
    });
    await set("resume", "db");
    expect((await set("remove-replica", "db", "east")).status).toBe(0);
    expect((await set("add-replica", "db", `north=${folder.file("served2")}`)).status).toBe(0);
    expect((await set("priorities", "db", "north")).stdout).toBe("north\nwest\n");
    expect((await set("list")).stdout).toBe("db  generation 0  2 replicas, 2 behind\n");
    for (const [args, status, message] of [
      [["run", "nothing"], 5, /no set "?nothing|"nothing"/],
      [["create", "db", "--source", source, "--replica", `a=${folder.file("local")}`], 2, /"db"/],
      [["create", "x", "--source", source, "--replica", `a=${source}`], 2, /in the set twice/],
      [["create", "x y", "--source", source, "--replica", "a=b"], 2, /no name of a set/],
      [["create", "x", "--source", source, "--replica", "ab"], 2, /NAME=VOLUME/],
      [["remove-replica", "db", "east"], 5, /no replica "east"/],
    ] as const) {
      const result = await set(...args);
      expect([args, result.status, result.stderr]).toEqual([args, status, expect.stringMatching(message)]);
    }
    expect((await set("delete", "db")).status).toBe(0);
    expect((await set("list", "--json")).stdout).toBe('{"sets":[]}\n');
  });
});
