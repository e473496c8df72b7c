// A first synchronization as a whole process, beside others' copies of the same volume.
import { execFileSync } from "node:child_process";
import { rmSync } from "node:fs";
import { join } from "node:path";
import {
  gb,
  lunsync,
  MiB,
  makeVolume,
  median,
  medianOf,
  print,
  program,
  rate,
  runs,
  seconds,
  times,
  volumeBytes,
  withTarget,
} from "./common.mjs";

export async function sync(folder) {
  const [a, b] = [join(folder, "a"), join(folder, "b")];
  makeVolume(a, 1);
  const fresh = () => {
    rmSync(b, { force: true });
    execFileSync("truncate", ["-s", `${volumeBytes}`, b]);
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
    `First synchronization of ${volumeBytes / MiB} MiB onto an empty replica, flushed, whole processes`,
    ["program", "seconds", "GB/s", yardstick === rows.at(-1)[1] ? "against cp" : "against qemu-img"],
    rows.map(([name, time]) => [name, time.toFixed(3), gb(rate(time)), times(yardstick / time)]),
  );
}
