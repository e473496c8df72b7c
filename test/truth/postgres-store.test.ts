// The store in a PostgreSQL server: the contract, and what is peculiar to a server.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openPostgresStore } from "../../src/truth/postgres-store.ts";
import { PostgresServer, postgresIsThere } from "../support/postgres.ts";
import { storeContract } from "./store-contract.ts";
import { eventually, memberNamed, memberRead, pageNumbered, setNamed, toVersion1 } from "./stores.ts";

describe.skipIf(!postgresIsThere)("a server", () => {
  let server: PostgresServer;
  beforeAll(async () => {
    server = await PostgresServer.make();
  });
  afterAll(async () => {
    await server?.[Symbol.asyncDispose]();
  });

  describe("keeps the contract", () => {
    storeContract(async () => ({ address: await server.database(), [Symbol.asyncDispose]: async () => {} }));
  });

  const nameOf = (url: string) => new URL(url).pathname.slice(1);

  test("has the tables in a schema of their own", async () => {
    const url = await server.database();
    await using _store = await openPostgresStore(url);
    const tables = await server.query(
      nameOf(url),
      "select schemaname || '.' || tablename as name from pg_tables where schemaname !~ '^(pg_|information)' order by 1",
    );
    const names = ["counters", "entries", "leases", "members", "sets", "transactions", "truth", "version"];
    expect(tables.map(({ name }) => name)).toEqual(names.map((name) => `lunsync.${name}`));
  });

  test("of an older version gets what it lacks, and keeps what it has", async () => {
    const url = await server.database();
    {
      await using store = await openPostgresStore(url);
      await store.createSet(setNamed("vms"), [memberNamed("source")]);
    }
    const older = toVersion1.map((text) => text.replace("table ", "table lunsync."));
    await server.query(nameOf(url), [...older, "update lunsync.version set version = 1"].join(";"));
    await using store = await openPostgresStore(url);
    const { facts, members } = await store.set("vms");
    expect(facts).toMatchObject({ ...setNamed("vms"), handedOutTo: undefined });
    expect(members).toEqual([memberRead(1, memberNamed("source"))]);
  });

  test("is refused where it can't be used", async () => {
    const url = await server.database();
    await (await openPostgresStore(url))[Symbol.asyncDispose]();
    await server.query(nameOf(url), "update lunsync.version set version = 1000");
    await expect(openPostgresStore(url)).rejects.toMatchObject({
      code: "usage",
      message: expect.stringContaining("its tables have version 1000, and this lunsync knows 3 at most"),
    });
    const foreign = await server.database();
    await server.query(nameOf(foreign), "create schema lunsync; create table lunsync.sets (id bigint)");
    await expect(openPostgresStore(foreign)).rejects.toMatchObject({ code: "usage" });
    await server.query("postgres", "create database latin encoding 'LATIN1' locale 'C' template template0");
    await expect(openPostgresStore(server.url("latin"))).rejects.toMatchObject({
      message: expect.stringContaining("its encoding is LATIN1"),
    });
    await expect(openPostgresStore(server.url("nowhere"))).rejects.toMatchObject({
      code: "connection_refused",
    });
    await expect(openPostgresStore("postgres://[")).rejects.toMatchObject({ code: "usage" });
    const secret = await openPostgresStore("postgres://me:secret@127.0.0.1:9/db").catch((error) => error);
    expect(secret).toMatchObject({
      code: "connection_refused",
      message: expect.not.stringContaining("secret"),
    });
    await server.query("postgres", "create role stranger login");
    const stranger = server.url(nameOf(await server.database())).replace("test@", "stranger@");
    await expect(openPostgresStore(stranger)).rejects.toMatchObject({ code: "login_refused" });
  });

  test("that has ended its connections is connected to again", async () => {
    const url = await server.database();
    await using store = await openPostgresStore(url);
    await store.createSet(setNamed("vms"), [memberNamed("source")]);
    const lease = (await store.acquire("vms", "me", 60_000))!;
    const cut = () =>
      server.query(
        nameOf(url),
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = current_database() and " +
          "pid <> pg_backend_pid()",
      );
    await cut();
    expect((await store.sets()).length).toBe(1);
    await cut();
    await store.write(lease, (transaction) => transaction.putTruth(pageNumbered(0, 1)));
    await cut();
    await lease.renew();
    // In the middle nothing can be saved.
    const torn = store.write(lease, async (transaction) => {
      await transaction.putTruth(pageNumbered(1, 1));
      await cut();
    });
    await expect(torn).rejects.toMatchObject({ code: "connection_lost", retry: "after_reconnect" });
    expect(await store.truth("vms", 0, 9)).toEqual([pageNumbered(0, 1)]);
    await store.write(lease, (transaction) => transaction.putTruth(pageNumbered(1, 2)));
    expect((await store.truth("vms", 0, 9)).length).toBe(2);
  });

  test("leaves no marks behind but those of the last transactions", async () => {
    const url = await server.database();
    await using store = await openPostgresStore(url);
    for (let i = 0; i < 20; i++) await store.createSet(setNamed(`${i}`), []);
    const [row] = await server.query(nameOf(url), "select count(*) as marks from lunsync.transactions");
    expect(row).toEqual({ marks: "1" });
  });

  test("gives no lease while its old holder is in the middle of a transaction", async () => {
    const url = await server.database();
    await using store = await openPostgresStore(url);
    await using other = await openPostgresStore(url);
    await store.createSet(setNamed("vms"), [memberNamed("source")]);
    const lease = (await store.acquire("vms", "me", 1))!;
    await store.write(lease, async (transaction) => {
      await transaction.putTruth(pageNumbered(0, 1));
      for (let i = 0; i < 3; i++) expect(await other.acquire("vms", "you", 60_000)).toBeUndefined();
    });
    await eventually("the lease", () => other.acquire("vms", "you", 60_000));
    expect((await other.truth("vms", 0, 1)).length).toBe(1);
  });
});
