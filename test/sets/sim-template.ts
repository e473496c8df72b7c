// An empty truth database, made once for many simulations.
import { mkdtemp } from "node:fs/promises";
import { join } from "node:path";
import { openSqliteStore } from "../../src/truth/sqlite-store.ts";

/** Its path. */
export async function template(): Promise<string> {
  const path = join(await mkdtemp(join("/dev/shm", "lunsync-sim-template-")), "truth.sqlite");
  const store = await openSqliteStore(path);
  await store[Symbol.asyncDispose]();
  return path;
}
