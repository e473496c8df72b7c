// An empty truth database, made once for many simulations.
import { existsSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openSqliteStore } from "../../src/truth/sqlite-store.ts";

/** In memory, where there is such a folder. */
export const simulationsFolder = existsSync("/dev/shm") ? "/dev/shm" : tmpdir();

/** Its path. */
export async function template(): Promise<string> {
  const path = join(await mkdtemp(join(simulationsFolder, "lunsync-sim-template-")), "truth.sqlite");
  const store = await openSqliteStore(path);
  await store[Symbol.asyncDispose]();
  return path;
}
