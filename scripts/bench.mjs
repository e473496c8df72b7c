// Benchmarks: every figure of ours beside a yardstick that was measured in the same run, with the ratio.
//
// npm run bench [-- digests | compare | sync]
// LUNSYNC_BENCH_DIR   where the volumes are made (default: /dev/shm if there is room, else the temporary folder)
// LUNSYNC_BENCH_SIZE  bytes of a volume (default 1 GiB)
// BDSYNC, BLOCKSYNC_FAST  programs that are not in PATH
// Nothing else should run on the machine meanwhile. Figures are medians of RUNS runs (default 3).
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { closeSync, existsSync, mkdtempSync, openSync, rmSync, statfsSync, writeSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import Table from "cli-table3";
import { digestBenchmark, digestKernels, memoryReadBenchmark } from "../dist/platform/native-digest.js";

const MiB = 1024 * 1024;
const lunsync = fileURLToPath(new URL("../bin/lunsync", import.meta.url));
const bytes = Number(process.env.LUNSYNC_BENCH_SIZE ?? 1024 * MiB);
const runs = Number(process.env.RUNS ?? 3);
const wanted = process.argv.slice(2);
const isWanted = (name) => wanted.length === 0 || wanted.includes(name);

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
const medianOf = (measure) => median(Array.from({ length: runs }, measure));
const gb = (value) => value.toFixed(2);
const times = (value) => `${value.toFixed(value < 10 ? 2 : 1)} ×`;
const print = (title, head, rows) => {
  const table = new Table({
    head,
    style: { head: [], border: [] },
    colAligns: head.map((_, i) => (i === 0 ? "left" : "right")),
  });
  table.push(...rows);
  process.stdout.write(`\n${title}\n${table}\n`);
};

// --- digests ---

const targets = {
  md5: "12 ×",
  sha1: "3.5 ×",
  sha256: "2.5 ×",
  sha512: "3.3 ×",
  crc32c: "80 %",
  crc64: "80 %",
};

function openssl(algorithm) {
  const extent = Buffer.alloc(65536, 0x5a);
  const began = performance.now();
  let done = 0;
  while (performance.now() - began < 300) {
    for (let i = 0; i < 64; i++) createHash(algorithm).update(extent).digest();
    done += 64 * extent.length;
  }
  return done / (performance.now() - began) / 1e6;
}

function digests() {
  const memory = medianOf(() => memoryReadBenchmark(512 * MiB, 300));
  const rows = digestKernels().map(({ algorithm, chosen }, number) => {
    const isCrc = algorithm.startsWith("crc");
    // Interleaved, since the machine's speed drifts.
    const pairs = Array.from({ length: runs }, () => {
      const yardstick = isCrc ? memoryReadBenchmark(512 * MiB, 200) : openssl(algorithm);
      const ours = digestBenchmark(number, null, 65536, 512 * MiB, 300);
      return { yardstick, ours, ratio: ours / yardstick };
    });
    const { yardstick, ours, ratio } = pairs.toSorted((a, b) => a.ratio - b.ratio)[Math.floor(runs / 2)];
    const shown = isCrc ? `${(100 * ratio).toFixed(0)} %` : times(ratio);
    return [
      algorithm,
      chosen,
      gb(ours),
      `${isCrc ? "memory read" : "OpenSSL"} ${gb(yardstick)}`,
      shown,
      targets[algorithm],
    ];
  });
  print(
    `Digests of 64 KiB extents, one core, data cold in memory (memory read ${gb(memory)} GB/s)`,
    ["digest", "kernel", "GB/s", "yardstick, GB/s", "ratio", "to reach"],
    rows,
  );
}

// --- whole programs ---

function makeFile(path, seed) {
  const file = openSync(path, "w");
  const piece = Buffer.alloc(MiB);
  let state = seed;
  for (let at = 0; at < bytes; at += piece.length) {
    for (let i = 0; i < piece.length; i += 4) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      piece.writeUInt32LE(state, i);
    }
    writeSync(file, piece, 0, Math.min(piece.length, bytes - at), at);
  }
  closeSync(file);
}

function seconds(program, args, allowed = [0]) {
  const began = performance.now();
  const done = spawnSync(program, args, { stdio: ["ignore", "ignore", "pipe"] });
  if (done.error || !allowed.includes(done.status)) {
    throw new Error(`${program} ${args.join(" ")}: ${done.error?.message ?? done.stderr}`);
  }
  return (performance.now() - began) / 1000;
}

const program = (name, variable) => {
  if (variable && process.env[variable]) return process.env[variable];
  return spawnSync("sh", ["-c", `command -v ${name}`]).status === 0 ? name : undefined;
};

/** Serves a file as long as `use` runs. */
async function withTarget(path, use) {
  const server = spawn(lunsync, ["serve", "--listen", "127.0.0.1:0", "--lun", path], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  try {
    const url = await new Promise((resolve) =>
      server.stdout.once("data", (text) => resolve(`${text}`.trim())),
    );
    return await use(url);
  } finally {
    const ended = new Promise((resolve) => server.once("exit", resolve));
    server.kill("SIGTERM");
    await ended;
  }
}

const rate = (measured) => bytes / measured / 1e9;

async function compare(folder) {
  const [a, b] = [join(folder, "a"), join(folder, "b")];
  makeFile(a, 1);
  execFileSync("cp", [a, b]);
  const peers = [["cmp, both files local", medianOf(() => seconds("cmp", [a, b]))]];
  if (program("qemu-img")) {
    peers.push([
      "qemu-img compare, local",
      medianOf(() => seconds("qemu-img", ["compare", "-f", "raw", "-F", "raw", a, b])),
    ]);
  }
  const bdsync = program("bdsync", "BDSYNC");
  if (bdsync) {
    for (const digest of ["md5", "sha256"]) {
      const args = [`--hash=${digest}`, "--blocksize=65536", `${bdsync} --server`, a, b];
      peers.push([`bdsync ${digest}, over a pipe`, medianOf(() => seconds(bdsync, args))]);
    }
  }
  const blocksync = program("blocksync-fast", "BLOCKSYNC_FAST");
  if (blocksync)
    peers.push([
      "blocksync-fast, local",
      medianOf(() => seconds(blocksync, ["-s", a, "-d", b, "--dont-write"])),
    ]);
  const ours = await withTarget(b, async (url) =>
    ["sha256", "sha1", "md5", "crc32c"].map((digest) => [
      `lunsync compare, ${digest}, iSCSI`,
      medianOf(() => seconds(lunsync, ["compare", a, url, "--digest", digest])),
    ]),
  );
  const cmp = peers[0][1];
  print(
    `Compare two identical volumes of ${bytes / MiB} MiB, in the page cache, whole processes`,
    ["program", "seconds", "GB/s", "against cmp"],
    [...ours, ...peers].map(([name, time]) => [name, time.toFixed(3), gb(rate(time)), times(cmp / time)]),
  );
}

async function sync(folder) {
  const [a, b] = [join(folder, "a"), join(folder, "b")];
  makeFile(a, 1);
  const fresh = () => {
    rmSync(b, { force: true });
    execFileSync("truncate", ["-s", `${bytes}`, b]);
  };
  /** Everything ends with the data on the medium, and begins with an empty file. */
  const through = async (measure) => {
    const measured = [];
    for (let i = 0; i < runs; i++) {
      fresh();
      measured.push(await withTarget(b, async (url) => measure(url)));
    }
    return median(measured);
  };
  const rows = [];
  for (const digest of ["sha256", "crc32c"]) {
    rows.push([
      `lunsync sync, ${digest}, iSCSI`,
      await through((url) => seconds(lunsync, ["sync", a, url, "--digest", digest])),
    ]);
  }
  let yardstick;
  if (program("qemu-img")) {
    const args = ["convert", "-n", "-t", "writeback", "-f", "raw", "-O", "raw", a];
    yardstick = await through((url) => seconds("qemu-img", [...args, url]));
    rows.push(["qemu-img convert to the same target", yardstick]);
  }
  rows.push([
    "cp, then fsync, local",
    medianOf(() => {
      rmSync(b, { force: true });
      return seconds("cp", [a, b]) + seconds("sync", [b]);
    }),
  ]);
  yardstick ??= rows.at(-1)[1];
  print(
    `First synchronization of ${bytes / MiB} MiB onto an empty replica, flushed, whole processes`,
    ["program", "seconds", "GB/s", yardstick === rows.at(-1)[1] ? "against cp" : "against qemu-img"],
    rows.map(([name, time]) => [name, time.toFixed(3), gb(rate(time)), times(yardstick / time)]),
  );
}

function benchFolder() {
  const room = (path) => {
    if (!existsSync(path)) return 0;
    const { bavail, bsize } = statfsSync(path);
    return bavail * bsize;
  };
  const parent = process.env.LUNSYNC_BENCH_DIR ?? (room("/dev/shm") > 3 * bytes ? "/dev/shm" : tmpdir());
  if (room(parent) < 2.5 * bytes)
    throw new Error(`${parent} has too little room for two volumes of ${bytes} bytes`);
  return mkdtempSync(join(parent, "lunsync-bench-"));
}

process.stdout.write(`${cpus()[0].model}, ${cpus().length} cores, Node ${process.version}\n`);
if (isWanted("digests")) digests();
if (isWanted("compare") || isWanted("sync")) {
  const folder = benchFolder();
  process.stdout.write(`\nVolumes in ${folder}\n`);
  try {
    if (isWanted("compare")) await compare(folder);
    if (isWanted("sync")) await sync(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
