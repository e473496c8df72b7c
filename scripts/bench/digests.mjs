// Digest kernels on one core beside OpenSSL, and beside reading memory.
import { createHash } from "node:crypto";
import { digestBenchmark, digestKernels, memoryReadBenchmark } from "../../dist/platform/native-digest.js";
import { gb, MiB, medianOf, print, runs, times } from "./common.mjs";

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

export function digests() {
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
