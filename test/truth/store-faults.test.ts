// What the stores hold after their process, their server, their disk or their file has failed, for real.
import { spawn } from "node:child_process";
import { copyFile, open, stat, truncate } from "node:fs/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { AgentError } from "../../src/base/errors.ts";
import { openPostgresStore } from "../../src/truth/postgres-store.ts";
import { openSqliteStore } from "../../src/truth/sqlite-store.ts";
import type { TruthStore } from "../../src/truth/store.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { WorkFolder } from "../support/lunsync.ts";
import { SmallDisk } from "../support/machines.ts";
import { PostgresServer, postgresIsThere } from "../support/postgres.ts";
import { type Loss, SocketProxy } from "../support/socket-proxy.ts";
import { patternIn, writePattern } from "./pattern.ts";
import { coded, eventually, memberNamed, openStore, pause, setNamed } from "./stores.ts";

async function newSet(store: TruthStore): Promise<void> {
  await store.createSet(setNamed("vms"), [memberNamed("source"), memberNamed("near", 1)]);
}

/** A process that writes one pattern after another until it is killed or fails; what it said. */
function writing(address: string, through: readonly string[] = []) {
  const script = new URL("./store-child.ts", import.meta.url).pathname;
  const command = [...through, process.execPath, script, address, "pattern", "vms"];
  const child = spawn(command[0]!, command.slice(1), { stdio: ["ignore", "pipe", "pipe"] });
  const said = { text: "", errors: "" };
  child.stdout.on("data", (text) => {
    said.text += text;
  });
  child.stderr.on("data", (text) => {
    said.errors += text;
  });
  const ended = new Promise((resolve) => child.once("close", resolve));
  const last = (word: string) =>
    [...said.text.matchAll(RegExp(`${word} (\\d+)\n`, "g"))].reduce(
      (most, match) => Math.max(most, Number(match[1])),
      0,
    );
  return { child, said, ended, last };
}

async function killAgainAndAgain(address: string, rounds: number): Promise<void> {
  await using store = await openStore(address);
  await newSet(store);
  let before = 0;
  for (let round = 0; round < rounds; round++) {
    const { child, said, ended, last } = writing(address);
    await eventually("a transaction", async () => (last("done") > before ? true : undefined)).catch(
      (error) => {
        throw new Error(`${error.message}: ${said.text}${said.errors}`);
      },
    );
    await pause(Math.random() * 150);
    child.kill("SIGKILL");
    await ended;
    // Whoever has the lease knows that no transaction is still on its way.
    const lease = await eventually("the lease", () => store.acquire("vms", "me", 60_000));
    const number = await patternIn(store, "vms");
    expect(number).toBeGreaterThanOrEqual(last("done"));
    expect(number).toBeLessThanOrEqual(last("begun"));
    before = number;
    await lease.release();
  }
}

describe("the store in a file", () => {
  test("holds the last transaction, whenever its writer is killed", async () => {
    await using folder = await WorkFolder.make();
    await killAgainAndAgain(folder.file("truth.sqlite"), 10);
  });

  test("holds the last transaction when the disk is full, and goes on when there is room", async (context) => {
    await using folder = await WorkFolder.make();
    const made = await SmallDisk.at(folder.file("disk"), 5 << 20).catch(() => undefined);
    if (!made) return context.skip("file systems can't be mounted here");
    await using disk = made;
    await using store = await openSqliteStore(`${disk.path}/truth.sqlite`);
    await newSet(store);
    const lease = (await store.acquire("vms", "me", 60_000))!;
    let done = 0;
    let error: unknown;
    while (error === undefined && done < 50)
      await store
        .write(lease, (transaction) => writePattern(transaction, done + 1))
        .then(
          () => done++,
          (failed) => {
            error = failed;
          },
        );
    expect(error).toMatchObject({
      code: "no_space",
      message: expect.stringMatching(/write the truth of the set "vms"/),
    });
    expect(await patternIn(store, "vms")).toBe(done);
    // Nor does it help to try again, or to open it again.
    await expect(store.write(lease, (t) => writePattern(t, done + 1))).rejects.toEqual(coded("no_space"));
    expect(await patternIn(store, "vms")).toBe(done);
    await disk.grow(64 << 20);
    await store.write(lease, (transaction) => writePattern(transaction, done + 1));
    expect(await patternIn(store, "vms")).toBe(done + 1);
    await using again = await openSqliteStore(`${disk.path}/truth.sqlite`);
    expect(await patternIn(again, "vms")).toBe(done + 1);
  });

  test("can't be made on a disk that is full, and is whole when there is room", async (context) => {
    await using folder = await WorkFolder.make();
    const made = await SmallDisk.at(folder.file("disk"), 64 << 10).catch(() => undefined);
    if (!made) return context.skip("file systems can't be mounted here");
    await using disk = made;
    await expect(openSqliteStore(`${disk.path}/truth.sqlite`)).rejects.toEqual(coded("no_space"));
    await disk.grow(16 << 20);
    await using store = await openSqliteStore(`${disk.path}/truth.sqlite`);
    await newSet(store);
    expect(await patternIn(store, "vms")).toBe(0);
  });

  test("holds the last transaction when the system refuses to write", async () => {
    await using folder = await WorkFolder.make();
    const path = folder.file("truth.sqlite");
    await using store = await openSqliteStore(path);
    await newSet(store);
    // A limit for files is what the system enforces in the middle of a write.
    const { ended, said, last } = writing(path, ["prlimit", `--fsize=${3 << 20}`]);
    await ended;
    expect(said.errors).toContain("code: 'io_error'");
    expect(said.errors).toContain("the medium failed");
    expect(await patternIn(store, "vms")).toBe(last("done"));
    const lease = await eventually("the lease", () => store.acquire("vms", "me", 60_000));
    await store.write(lease, (transaction) => writePattern(transaction, last("done") + 1));
    expect(await patternIn(store, "vms")).toBe(last("done") + 1);
  });

  test("is refused when it is damaged, and never read wrongly", async () => {
    await using folder = await WorkFolder.make();
    const whole = folder.file("whole.sqlite");
    {
      await using store = await openSqliteStore(whole);
      await newSet(store);
      const lease = (await store.acquire("vms", "me", 60_000))!;
      await store.write(lease, (transaction) => writePattern(transaction, 7));
    }
    const { size } = await stat(whole);
    const look = async (path: string): Promise<number> => {
      await using store = await openSqliteStore(path);
      return await patternIn(store, "vms");
    };
    expect(await look(whole)).toBe(7);
    let copies = 0;
    const damagedBy = async (damage: (path: string) => Promise<void>): Promise<unknown> => {
      const path = folder.file(`copy-${copies++}.sqlite`);
      await copyFile(whole, path);
      await damage(path);
      return look(path).catch((error) => error);
    };
    for (const length of [1, 50, 4096, size >> 1, size - 8192])
      expect(await damagedBy((path) => truncate(path, length))).toMatchObject({
        code: "state_damaged",
        message: expect.stringContaining("copy-"),
      });
    const over = (at: number, bytes: Buffer) => async (path: string) => {
      await using file = await open(path, "r+");
      await file.write(bytes, 0, bytes.length, at);
    };
    expect(await damagedBy(over(0, Buffer.from("garbage garbage")))).toEqual(coded("state_damaged"));
    let found = 0;
    for (const bytes of [Buffer.alloc(8192), Buffer.alloc(8192, 0xa5)])
      for (let at = 8192; at < size; at += 8192 * 7) {
        const result = await damagedBy(over(at, bytes));
        if (result === 7) continue;
        expect(result).toEqual(coded("state_damaged"));
        found++;
      }
    expect(found).toBeGreaterThan(20);
    // Bits that SQLite does not look at: our own checksums do.
    const at = Math.floor(size / 8192 / 2) * 8192 + 5000;
    expect(await damagedBy(over(at, Buffer.from([1, 2, 3, 4])))).toMatchObject({
      code: "state_damaged",
      message: expect.stringContaining("its checksum does not fit"),
    });
  });
});

describe.skipIf(!postgresIsThere)("the store in a server", () => {
  let server: PostgresServer;
  beforeAll(async () => {
    server = await PostgresServer.make();
  });
  afterAll(async () => {
    await server?.[Symbol.asyncDispose]();
  });

  test("holds the last transaction, whenever its writer is killed", async () => {
    await killAgainAndAgain(await server.database(), 8);
  });

  test("holds the last transaction, whenever the server is killed", async () => {
    await using store = await openPostgresStore(await server.database());
    await newSet(store);
    let lease = (await store.acquire("vms", "me", 60_000))!;
    let done = 0;
    for (const signal of ["SIGQUIT", "SIGKILL", "SIGQUIT", "SIGKILL", "SIGKILL"] as const) {
      const goal = done + 2;
      let over = false;
      const killed = eventually("some transactions", async () => (done >= goal ? true : undefined)).then(
        async () => {
          await pause(Math.random() * 100);
          await server.kill(signal);
          await server.start();
          over = true;
        },
      );
      let error: unknown;
      // A transaction that had not begun just then does not even notice.
      while (error === undefined && !over)
        await store
          .write(lease, (transaction) => writePattern(transaction, done + 1))
          .then(
            () => done++,
            (failed) => {
              error = failed;
            },
          );
      expect(error).toSatisfy(
        (failed) =>
          failed === undefined ||
          (failed instanceof AgentError && ["connection_lost", "connection_refused"].includes(failed.code)),
      );
      await killed;
      await lease.renew();
      const number = await patternIn(store, "vms");
      // What was refused is not there: it was looked for.
      expect(number).toBe(done);
      await lease.release();
      lease = (await store.acquire("vms", "me", 60_000))!;
    }
  });

  test.for<[Loss, boolean]>([
    ["answer", true],
    ["late", true],
    ["request", false],
  ])("knows what became of a COMMIT that got lost: %s", async ([loss, there]) => {
    await using folder = await WorkFolder.make();
    const url = await server.database();
    const direct = new URL(url).searchParams.get("host")!;
    await using proxy = await SocketProxy.between(folder.file(".s.PGSQL.5432"), `${direct}/.s.PGSQL.5432`);
    await using store = await openPostgresStore(
      url.replace(encodeURIComponent(direct), encodeURIComponent(folder.path)),
    );
    await newSet(store);
    const lease = (await store.acquire("vms", "me", 60_000))!;
    let calls = 0;
    proxy.loseNext(loss);
    const written = store.write(lease, (transaction) => {
      calls++;
      return writePattern(transaction, 1);
    });
    if (there) await written;
    else await expect(written).rejects.toEqual(coded("connection_lost"));
    expect([calls, proxy.losses]).toEqual([1, 1]);
    expect(await patternIn(store, "vms")).toBe(there ? 1 : 0);
    // Small ones are done again where they have come to nothing, and never twice.
    proxy.loseNext(loss);
    expect(await store.addMember(lease, memberNamed("far"))).toBe(3);
    expect((await store.set("vms")).members.length).toBe(3);
    expect(proxy.losses).toBe(2);
  });

  test("does not say that a transaction is there when nobody can be asked", async () => {
    await using folder = await WorkFolder.make();
    const url = await server.database();
    const direct = new URL(url).searchParams.get("host")!;
    await using proxy = await SocketProxy.between(folder.file(".s.PGSQL.5432"), `${direct}/.s.PGSQL.5432`);
    const address = url.replace(encodeURIComponent(direct), encodeURIComponent(folder.path));
    const clock = new FakeClock();
    await using store = await openPostgresStore(address, clock);
    await newSet(store);
    const lease = (await store.acquire("vms", "me", 60_000))!;
    proxy.loseNext("answer");
    const written = store
      .write(lease, async (transaction) => {
        await writePattern(transaction, 1);
        proxy.refuseNew();
      })
      .catch((error) => error);
    const timer = setInterval(() => clock.advance(5_000), 20);
    expect(await written).toMatchObject({
      code: "connection_lost",
      message: expect.stringContaining("whether the transaction is there is not known"),
    });
    clearInterval(timer);
  });
});
