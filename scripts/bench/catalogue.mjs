// What a synchronization costs with and without catalogues, by the size of the volumes and by what was written to the
// source; and what a catalogue costs a write. The curves go to docs/catalogue-cost.svg if LUNSYNC_BENCH_PLOT is set.
import { execFileSync, spawn } from "node:child_process";
import { closeSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { openVolume } from "../../dist/cli/volumes.js";
import { lunsync, MiB, median, print, times } from "./common.mjs";
import { plot } from "./plot.mjs";

const GiB = 1024 * MiB;
const sizes = (process.env.LUNSYNC_BENCH_SIZES ?? "1,16,128,1024")
  .split(",")
  .map((size) => Number(size) * GiB);
const changes = [0, 1, 100, 10_000];
const extentBytes = 65_536;
const dataBytes = GiB / 2;

/** A sparse file with some data at its beginning and in its middle. */
function makeSparse(path, bytes) {
  rmSync(path, { force: true });
  execFileSync("truncate", ["-s", `${bytes}`, path]);
  const file = openSync(path, "r+");
  const piece = Buffer.alloc(MiB);
  for (let at = 0, state = 7; at < dataBytes; at += MiB) {
    for (let i = 0; i < MiB; i += 4) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      piece.writeUInt32LE(state, i);
    }
    writeSync(file, piece, 0, MiB, at < dataBytes / 2 ? at : bytes / 2 + at - dataBytes / 2);
  }
  closeSync(file);
}

async function served(folder, name, catalogue, use) {
  const lun = `${join(folder, name)}${catalogue ? ",catalogue" : ""}`;
  const args = [
    "serve",
    "--listen",
    "127.0.0.1:0",
    "--lun",
    lun,
    "--target",
    `iqn.2026-11.org.lunsync:${name}`,
  ];
  const server = spawn(lunsync, [...args, "--state-dir", join(folder, `${name}-state`)], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  try {
    const url = await new Promise((resolve) =>
      server.stdout.once("data", (text) => resolve(`${text}`.trim())),
    );
    return await use({ url, pid: server.pid });
  } finally {
    const ended = new Promise((resolve) => server.once("exit", resolve));
    server.kill("SIGTERM");
    await ended;
  }
}

const bytesRead = (pid) => Number(/rchar: (\d+)/.exec(readFileSync(`/proc/${pid}/io`, "utf8"))[1]);

function run(command, source, replica) {
  const before = [source, replica].map(({ pid }) => bytesRead(pid));
  let stdout;
  try {
    stdout = execFileSync(lunsync, [command, source.url, replica.url, "--json"], {
      stdio: ["ignore", "pipe", "ignore"],
    });
  } catch (error) {
    if (error.status !== 1) throw error;
    stdout = error.stdout;
  }
  const report = JSON.parse(stdout);
  const read = [source, replica].reduce((sum, { pid }, i) => sum + bytesRead(pid) - before[i], 0);
  return { seconds: report.seconds, wire: report.bytes.sent + report.bytes.received, read, report };
}

/** Writes a block into `count` extents that lie far apart. */
async function write(url, count, blocks, seed) {
  await using volume = await openVolume(url, { writable: true });
  const step = Math.floor(blocks / count);
  const latencies = [];
  const queue = Array.from({ length: count }, (_, i) => i * step + ((seed * 7919) % Math.max(1, step - 8)));
  await Promise.all(
    Array.from({ length: 16 }, async () => {
      for (let lba = queue.pop(); lba !== undefined; lba = queue.pop()) {
        const began = performance.now();
        await volume.write(lba - (lba % 8), [Buffer.alloc(4096, 1 + ((seed + lba) % 255))]);
        latencies.push(performance.now() - began);
      }
    }),
  );
  await volume.flush();
  return latencies;
}

const sizeOf = (bytes) =>
  bytes < GiB
    ? `${bytes / MiB} MiB`
    : bytes < 1024 * GiB
      ? `${bytes / GiB} GiB`
      : `${bytes / GiB / 1024} TiB`;
const amount = (bytes) =>
  bytes < 10_000
    ? `${bytes} B`
    : bytes < 1e7
      ? `${(bytes / 1e3).toFixed(0)} kB`
      : `${(bytes / 1e6).toFixed(0)} MB`;

export async function catalogue(folder) {
  const [a, b] = [join(folder, "a"), join(folder, "b")];
  const rows = [];
  const curves = [];
  const empty = () => rmSync(join(folder, "a-state"), { recursive: true, force: true });
  for (const bytes of sizes) {
    for (const withCatalogue of [false, true]) {
      makeSparse(a, bytes);
      execFileSync("cp", ["--sparse=always", a, b]);
      empty();
      rmSync(join(folder, "b-state"), { recursive: true, force: true });
      const curve = {
        name: `${sizeOf(bytes)}, ${withCatalogue ? "with catalogues" : "without"}`,
        dashed: !withCatalogue,
        points: [],
      };
      await served(folder, "a", withCatalogue, (source) =>
        served(folder, "b", withCatalogue, async (replica) => {
          if (withCatalogue) {
            // The first comparison makes the catalogues; they are whole when the next costs a few hundred bytes.
            const first = run("compare", source, replica);
            rows.push([
              sizeOf(bytes),
              "being made",
              "–",
              first.seconds.toFixed(3),
              amount(first.read),
              amount(first.wire),
            ]);
            for (let tries = 0; tries < 240 && run("compare", source, replica).wire > 1000; tries++)
              await new Promise((resolve) => setTimeout(resolve, 500));
          }
          for (const count of changes) {
            if (count * extentBytes > bytes) continue;
            if (count > 0) await write(source.url, count, bytes / 512, count);
            const { seconds, read, wire, report } = run("sync", source, replica);
            if (report.verdict !== "equal") throw new Error(JSON.stringify(report).slice(0, 500));
            rows.push([
              sizeOf(bytes),
              withCatalogue ? "yes" : "no",
              `${report.extents.differing}`,
              seconds.toFixed(3),
              amount(read),
              amount(wire),
            ]);
            curve.points.push([count === 0 ? 0.1 : count, Math.max(0.001, seconds)]);
          }
        }),
      );
      curves.push(curve);
    }
  }
  print(
    "Synchronizing sparse volumes with 512 MiB of data, by what was written to the source",
    ["volume", "catalogues", "extents changed", "seconds", "read by both", "on the wire"],
    rows,
  );
  if (process.env.LUNSYNC_BENCH_PLOT) {
    writeFileSync(
      new URL("../../docs/catalogue-cost.svg", import.meta.url),
      plot("Seconds to synchronize, by extents changed", curves),
    );
  }

  const latency = [];
  for (const withCatalogue of [false, true]) {
    makeSparse(a, GiB);
    empty();
    await served(folder, "a", withCatalogue, async ({ url }) => {
      await write(url, 200, GiB / 512, 3); // the way is warm
      const first = await write(url, 8000, GiB / 512, 5);
      const again = await write(url, 8000, GiB / 512, 6);
      latency.push([median(first), median(again)]);
    });
  }
  const [without, withIt] = latency;
  print(
    "A write of 4 KiB, 16 at once: median ms",
    ["", "without catalogue", "with", "ratio"],
    ["into every 128 KiB, the first time", "once more"].map((what, i) => [
      what,
      without[i].toFixed(3),
      withIt[i].toFixed(3),
      times(withIt[i] / without[i]),
    ]),
  );
}
