// Benchmarks: every figure of ours beside a yardstick that was measured in the same run, with the ratio.
//
// npm run bench [-- digests | compare | sync | set | target | catalogue]
// LUNSYNC_BENCH_DIR    where the volumes are made (default: /dev/shm if there is room, else the temporary folder)
// LUNSYNC_BENCH_SIZE   bytes of a volume (default 1 GiB)
// LUNSYNC_BENCH_CELLS  regular expression of the cells of "target" that are wanted (default: all)
// LUNSYNC_BENCH_SECONDS  about how long one run of such a cell takes (default 2)
// LUNSYNC_BENCH_SIZES  GiB of the volumes of "catalogue" (default 1,16,128,1024; they are sparse)
// LUNSYNC_BENCH_PLOT   set: "catalogue" draws docs/catalogue-cost.svg
// BDSYNC, BLOCKSYNC_FAST  programs that are not in PATH
// Nothing else should run on the machine meanwhile. Figures are medians of RUNS runs (default 3).
import { rmSync } from "node:fs";
import { cpus } from "node:os";
import { catalogue } from "./bench/catalogue.mjs";
import { benchFolder } from "./bench/common.mjs";
import { compare } from "./bench/compare.mjs";
import { digests } from "./bench/digests.mjs";
import { set } from "./bench/set.mjs";
import { sync } from "./bench/sync.mjs";
import { target } from "./bench/target.mjs";

const wanted = process.argv.slice(2);
const isWanted = (name) => wanted.length === 0 || wanted.includes(name);
const onVolumes = Object.entries({ compare, sync, set, target, catalogue }).filter(([name]) =>
  isWanted(name),
);

process.stdout.write(`${cpus()[0].model}, ${cpus().length} cores, Node ${process.version}\n`);
if (isWanted("digests")) digests();
if (onVolumes.length > 0) {
  const folder = benchFolder();
  process.stdout.write(`\nVolumes in ${folder}\n`);
  try {
    for (const [, benchmark] of onVolumes) await benchmark(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
