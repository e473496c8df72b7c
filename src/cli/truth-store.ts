// The truth database as commands reach it: in the state directory, or at the server that several hosts share.
import { hostname } from "node:os";
import { join } from "node:path";
import type { Command } from "commander";
import { AgentError } from "../base/errors.ts";
import { systemClock } from "../platform/clock.ts";
import { systemRandom } from "../platform/random.ts";
import { whileLeased } from "../sets/lease.ts";
import type { SetOptions } from "../sets/pass.ts";
import { openPostgresStore } from "../truth/postgres-store.ts";
import { openSqliteStore } from "../truth/sqlite-store.ts";
import type { Lease, TruthStore } from "../truth/store.ts";
import { openVolume } from "./volumes.ts";

export interface StoreOptions {
  readonly stateDir?: string;
  readonly store?: string;
  readonly json?: boolean;
}

export const withStoreOptions = (command: Command): Command =>
  command
    .option(
      "--state-dir <DIR>",
      "where the truth database is kept (default $STATE_DIRECTORY or /var/lib/lunsync)",
    )
    .option("--store <URL>", "a PostgreSQL server that several hosts share instead (default $LUNSYNC_STORE)")
    .option("--json", "print one JSON object");

export const stateDirOf = (options: { readonly stateDir?: string }): string =>
  options.stateDir ?? process.env.STATE_DIRECTORY ?? "/var/lib/lunsync";

const owner = () => `lunsync on ${hostname()}, process ${process.pid}`;

export async function withStore<T>(
  options: StoreOptions,
  action: (store: TruthStore) => Promise<T>,
): Promise<T> {
  const url = options.store ?? process.env.LUNSYNC_STORE;
  await using store =
    url === undefined
      ? await openSqliteStore(join(stateDirOf(options), "truth.sqlite"))
      : await openPostgresStore(url);
  return await action(store);
}

/** Changes a set while nobody runs it. */
export async function changing(
  name: string,
  options: StoreOptions,
  action: (store: TruthStore, lease: Lease) => Promise<void>,
): Promise<void> {
  await withStore(options, (store) =>
    whileLeased(name, { store, owner: owner(), clock: systemClock }, (lease) => action(store, lease)),
  );
}

/** What runs a set with real volumes, until a signal stops it. `again` says what to do then. */
export function running(store: TruthStore, again: string): SetOptions {
  const interrupted = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const)
    process.once(signal, () =>
      interrupted.abort(new AgentError("interrupted", `It was stopped by ${signal}; ${again}`)),
    );
  return {
    store,
    open: (address, writable) => openVolume(address, { writable, signal: interrupted.signal }),
    clock: systemClock,
    random: systemRandom,
    owner: owner(),
    signal: interrupted.signal,
    onNotice: (text) => process.stderr.write(`${text}\n`),
  };
}

export const print = (options: StoreOptions, json: unknown, text: string): void => {
  process.stdout.write(options.json ? `${JSON.stringify(json)}\n` : text);
};
