// lunsync compare and lunsync sync.
import { type Command, Option } from "commander";
import { AgentError } from "../base/errors.ts";
import { KiB } from "../base/units.ts";
import { type DigestSpec, defaultDigest, parseDigestSpec } from "../digest/spec.ts";
import { systemClock } from "../platform/clock.ts";
import { mountedAt } from "../platform/local-volumes.ts";
import { crc32c, isZero } from "../platform/native-digest.ts";
import { systemRandom } from "../platform/random.ts";
import { BeforeImages } from "../replicate/before-images.ts";
import { compare, synchronize } from "../replicate/engine.ts";
import { growReplica } from "../replicate/grow.ts";
import { Counters, type JobOptions, type Mode, modes, type Outcome } from "../replicate/job.ts";
import { checkPair, checkWritable } from "../replicate/plan.ts";
import { throttled } from "../volume/throttled.ts";
import type { Volume } from "../volume/volume.ts";
import { parseBandwidth, parseCompression, parseDigest, parseExtent, parseWidth } from "./options.ts";
import { openPair } from "./pair.ts";
import { showProgress } from "./progress.ts";
import { type ReportContext, statusOf, writeJson, writeText } from "./report.ts";

const narrowBytesDefault = 4096;

interface CompareOptions {
  readonly mode: Mode;
  readonly digest: DigestSpec;
  readonly extent: number;
  readonly width: 8 | 16;
  readonly fresh?: boolean;
  readonly bandwidth?: number;
  readonly json?: boolean;
}

interface SyncOptions extends CompareOptions {
  readonly dryRun?: boolean;
  readonly verify?: boolean;
  readonly backupDir?: string;
  readonly compress?: number | true;
  readonly narrow?: number | true;
  readonly moved?: boolean;
  readonly trim?: boolean;
  readonly grow?: boolean;
}

function addCommonOptions(command: Command): Command {
  return command
    .argument("<SOURCE>", "a path, a block device, an iscsi:// URL or sg:/dev/sgN; it is only read")
    .argument("<REPLICA>", "likewise")
    .addOption(new Option("--mode <MODE>", "how extents are compared").choices(modes).default("encode"))
    .addOption(
      new Option(
        "--digest <SPEC>",
        "what identifies an extent: md5, sha1, sha256, sha512, crc32c, crc64, combined (crc32c+md5) or composed (crc32c(md5))",
      )
        .argParser(parseDigest)
        .default(parseDigestSpec(defaultDigest), defaultDigest),
    )
    .addOption(
      new Option("--extent <SIZE>", "bytes of an extent, a power of two")
        .argParser(parseExtent)
        .default(64 * KiB, "64K"),
    )
    .addOption(
      new Option("--width <BYTES>", "bytes of an encoded value on the wire: 8 or 16")
        .argParser(parseWidth)
        .default(8),
    )
    .option("--fresh", "read both media, past the page cache")
    .option("--bandwidth <RATE>", "the most bytes of data a second, such as 50M", parseBandwidth)
    .option("--json", "print one JSON object");
}

export function addCompare(program: Command): void {
  addCommonOptions(program.command("compare").summary("say where a replica differs from its source"))
    .description(
      "Compares two volumes by encoded digests of their extents and prints the ranges that differ. Nothing is written.",
    )
    .addHelpText(
      "after",
      `
Examples:
  lunsync compare /dev/vg0/db iscsi://backup.example/iqn.2026-11.com.example:disks/0
  lunsync compare disk.img copy.img --digest crc32c+md5 --extent 1M --json

Exit status: 0 identical, 1 different, 2 and more trouble.`,
    )
    .action(async (source: string, replica: string, options: CompareOptions) => {
      process.exitCode = await run("compare", source, replica, options);
    });
}

export function addSync(program: Command): void {
  addCommonOptions(program.command("sync").summary("make a replica equal to its source"))
    .description(
      "Compares two volumes and ships the extents that differ from SOURCE to REPLICA, which is overwritten there.",
    )
    .option("--dry-run", "compare only, and say what would be shipped")
    .option("--verify", "prove the shipped extents again, fresh from the replica's medium")
    .option(
      "--compress [LEVEL]",
      "compress what is shipped with zstd, level 1 to 3 (default 1), where the replica takes it",
      parseCompression,
    )
    .option(
      "--narrow [BYTES]",
      "compare what differs again in pieces of so many bytes (default 4K), and ship those that differ",
      parseExtent,
    )
    .option("--trim", "unmap at the replica what is a hole at the source, once all is equal")
    .option("--grow", "give a replica that is smaller than its source the source's size first")
    .option("--no-moved", "ship also what the replica could copy from another place of its own")
    .option(
      "--backup-dir <DIR>",
      "keep what is overwritten in a folder below DIR; `lunsync undo` puts it back",
    )
    .addHelpText(
      "after",
      `
Examples:
  lunsync sync /dev/vg0/db iscsi://backup.example/iqn.2026-11.com.example:disks/0 --verify
  lunsync sync disk.img copy.img --backup-dir /var/backups/copy --bandwidth 50M
  lunsync sync thin.img iscsi://backup.example/iqn.2026-11.com.example:disks/1 --trim
  lunsync sync /dev/vg0/www iscsi://backup.example/iqn.2026-11.com.example:disks/2 --grow

Exit status: 0 equal at the end (with --dry-run: 1 different), 2 and more trouble.
Ctrl-C stops it cleanly; running it again goes on from there at the cost of a comparison.`,
    )
    .action(async (source: string, replica: string, options: SyncOptions) => {
      process.exitCode = await run("sync", source, replica, options);
    });
}

/** Ends what runs on the first signal, and the process on the second. */
function interruptible(): {
  signal: AbortSignal;
  received: () => "SIGINT" | "SIGTERM" | undefined;
  release: () => void;
} {
  const controller = new AbortController();
  let received: "SIGINT" | "SIGTERM" | undefined;
  const handlers = (["SIGINT", "SIGTERM"] as const).map((name) => {
    const handler = () => {
      if (received) process.exit(name === "SIGTERM" ? 143 : 130);
      received = name;
      controller.abort(new AgentError("interrupted", `It was stopped by ${name}`));
    };
    process.on(name, handler);
    return () => process.off(name, handler);
  });
  return {
    signal: controller.signal,
    received: () => received,
    release: () => handlers.forEach((off) => void off()),
  };
}

function warnings(volumes: readonly Volume[]): string[] {
  return volumes
    .filter((volume) => volume.traits.digests === "read")
    .map(
      (volume) =>
        `Warning: ${volume.name} does not speak the vendor commands: all of it is read over the wire to be compared`,
    );
}

async function run(
  command: "compare" | "sync",
  sourceName: string,
  replicaName: string,
  options: SyncOptions,
): Promise<number> {
  const interrupt = interruptible();
  const counters = new Counters();
  const writable = command === "sync" && !options.dryRun;
  let notice = (text: string): void => {
    process.stderr.write(`${text}\n`);
  };
  try {
    await using pair = await openPair(sourceName, replicaName, {
      writable,
      onNotice: (text) => notice(text),
      signal: interrupt.signal,
    });
    const { digest, extent: extentBytes } = options;
    const grown = options.grow
      ? await growReplica({ ...pair, digest, extentBytes, signal: interrupt.signal }, !writable)
      : undefined;
    checkPair(pair.source, pair.replica);
    if (writable) checkWritable(pair.replica);
    for (const warning of warnings([pair.source, pair.replica])) notice(warning);
    const mounted = await mountedAt(sourceName);
    if (mounted)
      notice(
        `Warning: ${sourceName} is ${mounted}: a change while it is read will be noticed; a snapshot is better`,
      );
    const limit = (volume: Volume) =>
      options.bandwidth === undefined ? volume : throttled(volume, options.bandwidth, systemClock);
    const progress = showProgress(counters, options.extent);
    notice = progress.notice;
    const job: JobOptions = {
      source: pair.source,
      replica: limit(pair.replica),
      mode: options.mode,
      digest,
      extentBytes,
      width: options.width,
      fresh: options.fresh ?? false,
      clock: systemClock,
      random: systemRandom,
      counters,
      signal: interrupt.signal,
      onNotice: notice,
    };
    const beforeImages =
      writable && options.backupDir !== undefined
        ? new BeforeImages(options.backupDir, { crc32c, isZero }, () => systemClock.nowMs())
        : undefined;
    const verify = options.verify ?? false;
    let outcome: Outcome;
    try {
      outcome = writable
        ? await synchronize({
            ...job,
            verify,
            beforeImages,
            shipMoved: options.moved === false,
            trim: options.trim ?? false,
            compress: options.compress === true ? 1 : options.compress,
            narrowBytes: options.narrow === true ? narrowBytesDefault : options.narrow,
          })
        : await compare(job);
    } finally {
      progress.stop();
      const problem = await beforeImages?.end();
      if (problem !== undefined) process.stderr.write(`Warning: ${problem}\n`);
    }
    await using _ranges = outcome.ranges;
    const context: ReportContext = {
      command,
      dryRun: options.dryRun ?? false,
      verified: verify,
      grown,
      job,
      backup: beforeImages?.folder,
      signal: interrupt.received(),
    };
    await (options.json ? writeJson : writeText)(outcome, context);
    if (outcome.verdict === "failed") process.stderr.write(`lunsync: ${outcome.failure!.message}\n`);
    return statusOf(outcome, context);
  } finally {
    interrupt.release();
  }
}
