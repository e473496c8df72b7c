// The store in a file: the contract, and what is peculiar to a file.
import { mkdir, stat, writeFile } from "node:fs/promises";
import { DatabaseSync } from "node:sqlite";
import { describe, expect, test } from "vitest";
import { openSqliteStore } from "../../src/truth/sqlite-store.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { WorkFolder } from "../support/lunsync.ts";
import { storeContract } from "./store-contract.ts";
import { memberNamed, memberRead, pageNumbered, setNamed, toVersion1 } from "./stores.ts";

describe("the contract, in a file", () => {
  storeContract(async () => {
    const folder = await WorkFolder.make();
    return {
      address: folder.file("STATE/truth.sqlite"),
      [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose](),
    };
  });
});

test("folder and files are their owner's", async () => {
  await using folder = await WorkFolder.make();
  const path = folder.file("a/b/truth.sqlite");
  await using store = await openSqliteStore(path);
  await store.createSet(setNamed("vms"), []);
  for (const made of [path, `${path}-wal`, `${path}-shm`])
    expect((await stat(made)).mode & 0o777).toBe(0o600);
  for (const made of ["a", "a/b"]) expect((await stat(folder.file(made))).mode & 0o777).toBe(0o700);
});

test("a database of a newer version, or of somebody else, is refused as it is", async () => {
  await using folder = await WorkFolder.make();
  const newer = folder.file("newer.sqlite");
  await (await openSqliteStore(newer))[Symbol.asyncDispose]();
  const database = new DatabaseSync(newer);
  database.exec("pragma user_version = 1000");
  database.close();
  await expect(openSqliteStore(newer)).rejects.toMatchObject({
    code: "usage",
    message: expect.stringContaining("its tables have version 1000, and this lunsync knows 3 at most"),
  });

  const foreign = folder.file("foreign.sqlite");
  const other = new DatabaseSync(foreign);
  other.exec("create table sets (id integer)");
  other.close();
  await expect(openSqliteStore(foreign)).rejects.toMatchObject({
    code: "state_damaged",
    message: expect.stringContaining("a database of another program"),
  });
  const still = new DatabaseSync(foreign);
  expect(still.prepare("pragma journal_mode").get()).toEqual({ journal_mode: "delete" });
  expect(still.prepare("select count(*) as tables from sqlite_schema").get()).toEqual({ tables: 1 });
  still.close();
});

test("a database of an older version gets what it lacks, and keeps what it has", async () => {
  await using folder = await WorkFolder.make();
  const path = folder.file("older.sqlite");
  {
    await using store = await openSqliteStore(path);
    await store.createSet(setNamed("vms"), [memberNamed("source")]);
  }
  const older = new DatabaseSync(path);
  older.exec([...toVersion1, "pragma user_version = 1"].join(";"));
  older.close();
  await using store = await openSqliteStore(path);
  const { facts, members } = await store.set("vms");
  expect(facts).toMatchObject({ ...setNamed("vms"), handedOutTo: undefined });
  expect(members).toEqual([memberRead(1, memberNamed("source"))]);
});

test("what can't be a file is refused", async () => {
  await using folder = await WorkFolder.make();
  await mkdir(folder.file("folder"));
  await expect(openSqliteStore(folder.file("folder"))).rejects.toMatchObject({ code: "io_error" });
  await writeFile(folder.file("file"), "");
  await expect(openSqliteStore(folder.file("file/truth.sqlite"))).rejects.toMatchObject({ code: "io_error" });
});

test("whoever waits for another process's transaction gives up after a minute", async () => {
  await using folder = await WorkFolder.make();
  const path = folder.file("truth.sqlite");
  const clock = new FakeClock();
  await using store = await openSqliteStore(path, clock);
  const other = new DatabaseSync(path);
  other.exec("begin immediate");
  const waited = store.createSet(setNamed("vms"), []).catch((error) => error);
  const timer = setInterval(() => clock.advance(20_000), 10);
  expect(await waited).toMatchObject({
    code: "timeout",
    message: expect.stringContaining("another process is writing to it"),
  });
  clearInterval(timer);
  // Readers wait for nobody.
  expect(await store.sets()).toEqual([]);
  other.exec("rollback");
  other.close();
  await store.createSet(setNamed("vms"), []);
});

test("the clock decides when a lease runs out", async () => {
  await using folder = await WorkFolder.make();
  const clock = new FakeClock();
  await using store = await openSqliteStore(folder.file("truth.sqlite"), clock);
  await store.createSet(setNamed("vms"), [memberNamed("source")]);
  const lease = (await store.acquire("vms", "me", 1000))!;
  clock.advance(999);
  expect(await store.acquire("vms", "you", 1000)).toBeUndefined();
  await lease.renew();
  clock.advance(999);
  expect(await store.acquire("vms", "you", 1000)).toBeUndefined();
  clock.advance(1);
  expect((await store.acquire("vms", "you", 1000))!.fence).toBe(lease.fence + 1);
  await expect(store.write(lease, (t) => t.putTruth(pageNumbered(0, 1)))).rejects.toMatchObject({
    code: "not_known",
  });
});

test("a file of a few bytes is no empty database", async () => {
  await using folder = await WorkFolder.make();
  await writeFile(folder.file("cut"), "SQLite format 3");
  await expect(openSqliteStore(folder.file("cut"))).rejects.toMatchObject({
    code: "state_damaged",
    message: expect.stringContaining("it was cut off, and has 15 bytes"),
  });
});
