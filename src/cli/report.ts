// The report of a comparison or a synchronization, as JSON for scripts and as text for people.
//
// Ranges are written as they are read from their log, so that a report of millions of them takes no memory.
import { once } from "node:events";
import { exitStatus } from "../base/errors.ts";
import { formatBytes, formatCount, formatDuration } from "../base/units.ts";
import type { Growth } from "../replicate/grow.ts";
import type { JobOptions, Outcome } from "../replicate/job.ts";
import { failureOf } from "./failure.ts";

export interface ReportContext {
  readonly command: "compare" | "sync";
  readonly dryRun: boolean;
  readonly verified: boolean;
  /** What became of the replica's size before, if anything. */
  readonly grown: Growth | undefined;
  readonly job: JobOptions;
  /** Where before-images are, if any were kept. */
  readonly backup: string | undefined;
  /** Set when a signal ended it. */
  readonly signal: "SIGINT" | "SIGTERM" | undefined;
}

const rangesShown = 10;
const badShown = 10;

/** The exit status that belongs to an outcome. */
export function statusOf(outcome: Outcome, context: ReportContext): number {
  switch (outcome.verdict) {
    case "equal":
      return exitStatus.equal;
    case "different":
      return exitStatus.different;
    case "incomplete":
      return exitStatus.incomplete;
    case "changed":
      return exitStatus.sourceChanged;
    case "interrupted":
      return context.signal === "SIGTERM" ? exitStatus.terminated : exitStatus.interrupted;
    case "failed":
      return failureOf(outcome.failure).exitStatus;
  }
}

async function write(text: string): Promise<void> {
  if (!process.stdout.write(text)) await once(process.stdout, "drain");
}

export async function writeJson(outcome: Outcome, context: ReportContext): Promise<void> {
  const { job, command, backup } = context;
  const { source, replica, mode, digest, extentBytes, width, fresh } = job;
  const head = {
    identical: outcome.verdict === "equal",
    verdict: outcome.verdict,
    source: source.name,
    replica: replica.name,
    mode,
    digest: digest.text,
    extentBytes,
    blockBytes: source.geometry.blockBytes,
    width,
    fresh,
    extents: outcome.extents,
    ...(command === "sync" && {
      dryRun: context.dryRun,
      verified: context.verified,
      ...(context.grown && { grown: context.grown }),
      shipped: outcome.shipped,
      proved: outcome.proved,
      copied: outcome.copied,
      trimmed: outcome.trimmed,
      history: outcome.history ?? null,
      backup: backup ?? null,
    }),
    bytes: outcome.bytes,
    seconds: Number(outcome.seconds.toFixed(3)),
    passes: outcome.passes,
    changesNoticed: outcome.changesNoticed,
    badExtents: outcome.badExtents,
    bad: outcome.bad,
    ...(outcome.failure && { error: { code: outcome.failure.code, message: outcome.failure.message } }),
  };
  await write(`${JSON.stringify(head).slice(0, -1)},"ranges":[`);
  let first = true;
  let batch: string[] = [];
  for await (const { lba, blocks } of outcome.ranges) {
    batch.push(`${first ? "" : ","}{"lba":${lba},"blocks":${blocks}}`);
    first = false;
    if (batch.length === 4096) {
      await write(batch.join(""));
      batch = [];
    }
  }
  await write(`${batch.join("")}]}\n`);
}

const plural = (count: number, word: string) => `${formatCount(count)} ${word}${count === 1 ? "" : "s"}`;

function verdictText(outcome: Outcome, { command, dryRun, verified }: ReportContext): string {
  switch (outcome.verdict) {
    case "equal":
      if (command === "sync" && outcome.shipped.extents > 0) {
        return `source and replica are EQUAL now${verified ? "; what was shipped was proved again from the medium" : ""}`;
      }
      return "source and replica are IDENTICAL";
    case "different":
      return dryRun
        ? "the replica DIFFERS; nothing was written (--dry-run)"
        : "the replica DIFFERS from the source";
    case "incomplete":
      return `INCOMPLETE: ${plural(outcome.badExtents, "extent")} could not be dealt with; the rest is done`;
    case "changed":
      return "the source was WRITTEN TO while it was read; stop its writers or take a snapshot, and run it again";
    case "interrupted":
      return "INTERRUPTED; what was shipped is kept, and running it again goes on from there";
    case "failed":
      return `FAILED: ${outcome.failure?.message}`;
  }
}

async function rangeLines(outcome: Outcome, blockBytes: number): Promise<string[]> {
  const lines: string[] = [];
  for await (const { lba, blocks } of outcome.ranges) {
    if (lines.length === rangesShown) {
      lines.push(`    … and ${formatCount(outcome.ranges.count - rangesShown)} more (--json lists all)`);
      break;
    }
    lines.push(
      `    LBA ${lba} … ${lba + blocks - 1}  (${formatBytes(blocks * blockBytes)} at byte ${formatCount(lba * blockBytes)})`,
    );
  }
  return lines;
}

export async function writeText(outcome: Outcome, context: ReportContext): Promise<void> {
  const { job, command, dryRun, backup } = context;
  const { source, replica } = job;
  const { blockBytes } = source.geometry;
  const { extents, bytes, shipped, trimmed } = outcome;
  const differingBytes = outcome.ranges.blocks * blockBytes;
  const share = extents.total === 0 ? 0 : (100 * extents.differing) / extents.total;
  const lines = [
    command === "sync" && !dryRun ? "Synchronization" : "Comparison",
    `  source   ${source.name}`,
    `  replica  ${replica.name}`,
    `  volume   ${formatBytes(bytes.volume)}, ${plural(extents.total, "extent")} of ${formatBytes(job.extentBytes)}; digest ${job.digest.text}, mode ${job.mode}`,
    `  compared ${plural(extents.compared, "extent")}${outcome.passes > 1 ? ` in the last of ${outcome.passes} passes` : ""}`,
    `  differed ${plural(extents.differing, "extent")} (${share.toFixed(share < 1 ? 2 : 1)} %, ${formatBytes(differingBytes)})` +
      (extents.differing > 0 ? ` in ${plural(outcome.ranges.count, "range")}:` : ""),
    ...(await rangeLines(outcome, blockBytes)),
  ];
  if (command === "sync" && !dryRun) {
    const { grown } = context;
    if (grown)
      lines.push(`  grown    the replica, from ${formatBytes(grown.from)} to ${formatBytes(grown.to)}`);
    const zeroed = shipped.zeroed > 0 ? `, ${formatCount(shipped.zeroed)} of them as zeros` : "";
    lines.push(`  shipped  ${plural(shipped.extents, "extent")} (${formatBytes(shipped.bytes)})${zeroed}`);
    if (outcome.copied > 0) lines.push(`  copied   ${plural(outcome.copied, "extent")} within the replica`);
    if (outcome.proved > 0) lines.push(`  proved   ${plural(outcome.proved, "extent")} from the medium`);
    if (trimmed.extents > 0)
      lines.push(
        `  trimmed  ${plural(trimmed.extents, "extent")} (${formatBytes(trimmed.bytes)}), holes at the source`,
      );
    if (backup !== undefined) lines.push(`  backup   ${backup} holds what was overwritten`);
  }
  const wire = bytes.sent + bytes.received;
  if (wire > 0) {
    const times = bytes.volume / wire;
    lines.push(
      `  wire     ${formatBytes(bytes.sent)} sent, ${formatBytes(bytes.received)} received; a copy takes ${formatBytes(bytes.volume)}` +
        (times >= 1.5
          ? ` (${times >= 10 ? formatCount(Math.round(times)) : times.toFixed(1)} times as much)`
          : ""),
    );
  }
  const looked = Math.min(bytes.volume, extents.compared * job.extentBytes) * outcome.passes;
  const rate = formatBytes(Math.round(looked / Math.max(0.001, outcome.seconds)));
  lines.push(`  time     ${formatDuration(outcome.seconds)}, ${rate}/s of the volume`);
  for (const bad of outcome.bad.slice(0, badShown)) {
    lines.push(`  ${bad.side} LBA ${bad.lba}: cannot ${bad.action}: ${bad.reason}`);
  }
  if (outcome.badExtents > badShown)
    lines.push(`  … and ${plural(outcome.badExtents - badShown, "extent")} more`);
  lines.push(`Result: ${verdictText(outcome, context)}`);
  await write(`${lines.join("\n")}\n`);
}
