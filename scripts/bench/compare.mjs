// A comparison as a whole process, beside others' comparisons of the same two volumes.
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import {
  gb,
  lunsync,
  MiB,
  makeVolume,
  medianOf,
  print,
  program,
  rate,
  seconds,
  times,
  volumeBytes,
  withTarget,
} from "./common.mjs";

export async function compare(folder) {
  const [a, b] = [join(folder, "a"), join(folder, "b")];
  makeVolume(a, 1);
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
    `Compare two identical volumes of ${volumeBytes / MiB} MiB, in the page cache, whole processes`,
    ["program", "seconds", "GB/s", "against cmp"],
    [...ours, ...peers].map(([name, time]) => [name, time.toFixed(3), gb(rate(time)), times(cmp / time)]),
  );
}
