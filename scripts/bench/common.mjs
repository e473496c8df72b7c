// What every benchmark needs: medians, tables, volumes, programs, our own target.
import { spawn, spawnSync } from "node:child_process";
import { closeSync, existsSync, mkdtempSync, openSync, statfsSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import Table from "cli-table3";

export const MiB = 1024 * 1024;
export const lunsync = fileURLToPath(new URL("../../bin/lunsync", import.meta.url));
/** Of one volume. */
export const volumeBytes = Number(process.env.LUNSYNC_BENCH_SIZE ?? 1024 * MiB);
export const runs = Number(process.env.RUNS ?? 3);

export const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
export const medianOf = (measure) => median(Array.from({ length: runs }, measure));
export const gb = (value) => value.toFixed(2);
export const times = (value) => `${value.toFixed(value < 10 ? 2 : 1)} ×`;

export const print = (title, head, rows) => {
  const table = new Table({
    head,
    style: { head: [], border: [] },
    colAligns: head.map((_, i) => (i === 0 ? "left" : "right")),
  });
  table.push(...rows);
  process.stdout.write(`\n${title}\n${table}\n`);
};

export function makeVolume(path, seed) {
  const file = openSync(path, "w");
  const piece = Buffer.alloc(MiB);
  let state = seed;
  for (let at = 0; at < volumeBytes; at += piece.length) {
    for (let i = 0; i < piece.length; i += 4) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      piece.writeUInt32LE(state, i);
    }
    writeSync(file, piece, 0, Math.min(piece.length, volumeBytes - at), at);
  }
  closeSync(file);
}

/** Wall time of a whole process. */
export function seconds(program, args, allowed = [0]) {
  const began = performance.now();
  const done = spawnSync(program, args, { stdio: ["ignore", "ignore", "pipe"] });
  if (done.error || !allowed.includes(done.status)) {
    throw new Error(`${program} ${args.join(" ")}: ${done.error?.message ?? done.stderr}`);
  }
  return (performance.now() - began) / 1000;
}

export const program = (name, variable) => {
  if (variable && process.env[variable]) return process.env[variable];
  return spawnSync("sh", ["-c", `command -v ${name}`]).status === 0 ? name : undefined;
};

/** Serves a file as long as `use` runs. */
export async function withTarget(path, use, options = []) {
  const server = spawn(lunsync, ["serve", "--listen", "127.0.0.1:0", "--lun", path, ...options], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  try {
    const url = await new Promise((resolve) =>
      server.stdout.once("data", (text) => resolve(`${text}`.trim())),
    );
    return await use(url, server.pid);
  } finally {
    const ended = new Promise((resolve) => server.once("exit", resolve));
    server.kill("SIGTERM");
    await ended;
  }
}

export const rate = (measured) => volumeBytes / measured / 1e9;

export function benchFolder() {
  const room = (path) => {
    if (!existsSync(path)) return 0;
    const { bavail, bsize } = statfsSync(path);
    return bavail * bsize;
  };
  const parent =
    process.env.LUNSYNC_BENCH_DIR ?? (room("/dev/shm") > 3 * volumeBytes ? "/dev/shm" : tmpdir());
  if (room(parent) < 2.5 * volumeBytes)
    throw new Error(`${parent} has too little room for two volumes of ${volumeBytes} bytes`);
  return mkdtempSync(join(parent, "lunsync-bench-"));
}
