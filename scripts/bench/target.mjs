// Our target beside tgt: the same client, the same file contents, in turns.
//
// Each run of ours is followed by one of tgt's, so that what else the machine does meets both; the ratio is the median
// of the pairs' ratios. Reads are measured by iscsi-perf (really random) and by `qemu-img bench`, writes by the latter,
// whose "random" walks the volume by an odd stride of blocks, so that no two neighbours follow. All are clients of
// libiscsi, which takes a good part of the time, more for small requests.
//
// At queue depth 1 two processes wake one another by turns. Where both run on one CPU that is cheap; across CPUs it may
// cost more than everything else together, and the scheduler decides which, for each run anew. So these cells are there
// a second time ("1cpu") with the client and both targets bound to one CPU: what remains is what the targets do.
import { spawn, spawnSync } from "node:child_process";
import { createServer } from "node:net";
import { cpus } from "node:os";
import { join } from "node:path";
import { gb, MiB, makeVolume, median, print, program, runs, times, withTarget } from "./common.mjs";

const secondsWanted = Number(process.env.LUNSYNC_BENCH_SECONDS ?? 2);
const cellsWanted = new RegExp(process.env.LUNSYNC_BENCH_CELLS ?? "");
const KiB = 1024;
const stride = 9973 * 4 * KiB;

function output(command, ...rest) {
  const args = rest.flat();
  const done = spawnSync(command, args, { encoding: "utf8", maxBuffer: 64 * MiB });
  if (done.status !== 0)
    throw new Error(`${command} ${args.join(" ")}: ${done.error?.message ?? done.stderr}`);
  return done.stdout;
}

const binding = ({ oneCpu }, command) => (oneCpu ? ["taskset", "-c", "0", command] : [command]);

/** Requests a second, by `qemu-img bench`. */
function qemuBench(url, cell, count) {
  const { depth, bytes, write, random } = cell;
  const args = ["bench", "-f", "raw", "-t", "none", "-c", count, "-d", depth, "-s", bytes, url].map(String);
  if (random) args.push("-S", `${stride}`);
  if (write) args.push("-w", "--pattern=90");
  const [, took] = /^Run completed in ([\d.]+) seconds/m.exec(output(...binding(cell, "qemu-img"), args));
  return count / Number(took);
}

/** Requests a second, by iscsi-perf. */
function iscsiPerf(url, cell) {
  const { depth, bytes } = cell;
  const args = ["-m", depth, "-b", bytes / 512, "-t", secondsWanted, "-r", url].map(String);
  const found = [...output(...binding(cell, "iscsi-perf"), args).matchAll(/iops average (\d+) /g)];
  return Number(found.at(-1)[1]);
}

function cells() {
  const all = [];
  for (const depth of [1, 16, 64]) {
    const random = { depth, bytes: 4 * KiB, random: true };
    if (program("iscsi-perf"))
      all.push({ name: `randread-4k-qd${depth}/iscsi-perf`, ...random, client: iscsiPerf });
    all.push({ name: `randread-4k-qd${depth}/qemu`, ...random, client: qemuBench });
    all.push({ name: `randwrite-4k-qd${depth}/qemu`, ...random, write: true, client: qemuBench });
  }
  for (const depth of [1, 8]) {
    for (const bytes of [256 * KiB, MiB]) {
      for (const write of [false, true]) {
        const name = `seq${write ? "write" : "read"}-${bytes / KiB}k-qd${depth}/qemu`;
        all.push({ name, depth, bytes, write, client: qemuBench });
      }
    }
  }
  if (cpus().length > 1 && program("taskset")) {
    for (const { name, ...cell } of all.filter(({ depth, random }) => depth === 1 && random))
      all.push({ name: name.replace("/", "-1cpu/"), ...cell, oneCpu: true });
  }
  return all.filter(({ name }) => cellsWanted.test(name));
}

const freePort = () =>
  new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });

/** tgt serves a file as LUN 1 as long as `use` runs. */
async function withTgt(path, use) {
  const port = await freePort();
  const control = `${20_000 + (port % 10_000)}`;
  const name = "iqn.2026-11.com.example:tgt";
  const server = spawn("tgtd", ["-f", "-C", control, "--iscsi", `portal=127.0.0.1:${port}`], {
    stdio: "ignore",
  });
  const ended = new Promise((resolve) => server.once("exit", resolve));
  const admin = (...args) => spawnSync("tgtadm", ["-C", control, "--lld", "iscsi", ...args]).status === 0;
  try {
    const until = Date.now() + 10_000;
    while (!admin("--op", "show", "--mode", "target")) {
      if (Date.now() > until || server.exitCode !== null) throw new Error("tgtd does not start");
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    admin("--op", "new", "--mode", "target", "--tid", "1", "-T", name);
    admin("--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", path);
    admin("--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL");
    return await use(`iscsi://127.0.0.1:${port}/${name}/1`, server.pid);
  } finally {
    server.kill("SIGKILL");
    await ended;
  }
}

/** How many requests keep a run going for about `secondsWanted`. */
function countFor(cell, urls) {
  const probe = cell.bytes >= 256 * KiB ? 200 : 2000;
  const slowest = Math.min(...urls.map((url) => cell.client(url, cell, probe)));
  return Math.max(probe, Math.round(slowest * secondsWanted));
}

function measure(cell, ours, tgts) {
  const count = cell.client === qemuBench ? countFor(cell, [ours, tgts]) : undefined;
  const pairs = Array.from({ length: runs }, (_, i) => {
    const first = cell.client(i % 2 ? tgts : ours, cell, count);
    const second = cell.client(i % 2 ? ours : tgts, cell, count);
    const [our, tgt] = i % 2 ? [second, first] : [first, second];
    return { our, tgt, ratio: our / tgt };
  });
  const large = cell.bytes >= 256 * KiB;
  const shown = (value) =>
    large ? `${((value * cell.bytes) / MiB).toFixed(0)} MiB/s` : `${value.toFixed(0)} IOPS`;
  const ratios = pairs.map(({ ratio }) => ratio);
  return [
    cell.name,
    shown(median(pairs.map(({ our }) => our))),
    shown(median(pairs.map(({ tgt }) => tgt))),
    times(median(ratios)),
    `${gb(Math.min(...ratios))}–${gb(Math.max(...ratios))}`,
  ];
}

export async function target(folder) {
  const missing = ["tgtd", "tgtadm", "qemu-img"].filter((name) => !program(name));
  if (missing.length > 0) {
    process.stdout.write(`\nTarget: left out, as there is no ${missing.join(", no ")}\n`);
    return;
  }
  const [a, b] = [join(folder, "ours"), join(folder, "tgts")];
  makeVolume(a, 1);
  makeVolume(b, 1);
  await withTarget(a, (ours, ourPid) =>
    withTgt(b, async (tgts, tgtPid) => {
      const bind = (list) => {
        for (const pid of [ourPid, tgtPid]) output("taskset", "-a", "-p", "-c", list, `${pid}`);
      };
      const rows = cells().map((cell) => {
        if (cell.oneCpu) bind("0");
        try {
          return measure(cell, ours, tgts);
        } finally {
          if (cell.oneCpu) bind(`0-${cpus().length - 1}`);
        }
      });
      print(
        `Targets: ${runs} pairs of runs, both over loopback TCP, each with a volume of its own in the same place`,
        ["cell", "lunsync serve", "tgtd", "ratio", "least–most"],
        rows,
      );
    }),
  );
}
