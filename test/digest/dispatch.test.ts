// Forced dispatch: with LUNSYNC_CPU a process uses no kernel above that level, and results stay the same.
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import type { DigestKernels } from "../../src/platform/native-digest.ts";
import { algorithmNames, bytesFrom, crc32cBitwise, numbersFrom, referenceDigest } from "./reference.ts";

interface Report {
  kernels: DigestKernels[];
  digests: string[];
  aes: string[];
  crc: number;
}

const child = fileURLToPath(new URL("dispatch-child.ts", import.meta.url));

function runAt(level: string | undefined): Report {
  const env = { ...process.env };
  delete env.LUNSYNC_CPU;
  if (level !== undefined) env.LUNSYNC_CPU = level;
  return JSON.parse(execFileSync(process.execPath, [child], { env, encoding: "utf8" })) as Report;
}

const levelOf: Readonly<Record<string, string>> = {
  portable: "portable",
  "sse4.2": "sse",
  "sse4.2x3": "sse",
  pclmul: "sse",
  sha: "sse",
  avx2: "avx2",
  "avx2+sha": "avx2",
  avx512: "avx512",
  "avx512+sha": "avx512",
  vpclmul: "avx512",
};
const levels = ["portable", "sse", "avx2", "avx512"];

// What Linux says the CPU can do, found out in another way than the addon does it.
const flags = (() => {
  try {
    const line = /^flags\s*:(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1] ?? "";
    return new Set(line.trim().split(/\s+/));
  } catch {
    return new Set<string>();
  }
})();

const native = runAt(undefined);

test("uncapped, the kernels that /proc/cpuinfo promises", () => {
  const chosen = native.kernels.map((entry) => entry.chosen);
  if (process.arch !== "x64") {
    expect(chosen).toEqual(Array(6).fill("portable"));
    return;
  }
  const wide = ["avx512f", "avx512bw", "avx512vl", "avx512dq"].every((flag) => flags.has(flag));
  expect(chosen[0]).toBe(wide ? "avx512" : flags.has("avx2") ? "avx2" : "portable");
  expect(chosen[3]).toBe(chosen[0]);
  const sha = flags.has("sha_ni") && flags.has("sse4_2");
  expect(chosen[1]).toBe(
    wide || flags.has("avx2") ? (sha ? `${chosen[0]}+sha` : chosen[0]) : sha ? "sha" : "portable",
  );
  const crc = wide && flags.has("vpclmulqdq") ? "vpclmul" : flags.has("pclmulqdq") ? "pclmul" : undefined;
  if (crc) expect(chosen.slice(4)).toEqual([crc, crc]);
});

test.each(levels)("LUNSYNC_CPU=%s", (level) => {
  const report = runAt(level);
  const allowed = levels.slice(0, levels.indexOf(level) + 1);
  for (const [i, entry] of report.kernels.entries()) {
    const within = native.kernels[i]!.available.filter((name) => allowed.includes(levelOf[name]!));
    expect(entry.available).toEqual(within);
    expect(entry.chosen).toBe(within[0]);
  }
  expect(report.digests).toEqual(native.digests);
  expect(report.aes).toEqual(native.aes);
  expect(report.crc).toBe(native.crc);
});

test("a level that does not exist caps nothing", () => {
  expect(runAt("quantum")).toEqual(native);
});

test("the results that all levels agree on are right", () => {
  const next = numbersFrom(42);
  const messages = Array.from({ length: 37 }, () => bytesFrom(next, 1999));
  for (const [i, name] of algorithmNames.entries()) {
    const expected = Buffer.concat(messages.map((message) => referenceDigest(name, message)));
    expect(native.digests[i]).toBe(expected.toString("hex"));
  }
  expect(native.crc).toBe(crc32cBitwise(messages[0]!));
});
