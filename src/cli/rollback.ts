// lunsync rollback: a replica is returned to its last whole generation.
//
// Guarantees: a local volume is rolled back only while nobody serves it, and its catalogue, if it has one, is told of what is
// written. What was cut off can be repeated.
import type { Command } from "commander";
import { AgentError, exitStatus } from "../base/errors.ts";
import { formatBytes, formatCount } from "../base/units.ts";
import { CatalogueKeeper, cataloguePath } from "../catalogue/keeper.ts";
import { defaultDigest, parseDigestSpec } from "../digest/spec.ts";
import { systemClock } from "../platform/clock.ts";
import { fileExists } from "../platform/durable-file.ts";
import { lastChangeMs } from "../platform/local-volumes.ts";
import { systemRandom } from "../platform/random.ts";
import { checkWritable } from "../replicate/plan.ts";
import type { RolledBack, Volume } from "../volume/volume.ts";
import { journalPath } from "../whole/journal-file.ts";
import { openWhole } from "../whole/keeper.ts";
import { logLine } from "./log.ts";
import { extentBytesDefault } from "./options.ts";
import { isScsiAddress, openVolume } from "./volumes.ts";

interface Options {
  readonly stateDir?: string;
  readonly force?: boolean;
  readonly json?: boolean;
}

export function addRollback(program: Command): void {
  program
    .command("rollback")
    .summary("return a replica to its last whole generation")
    .description(
      "Puts back what an unfinished synchronization has overwritten on a replica that keeps its last whole generation (serve --lun PATH,whole), so that it is that generation again.",
    )
    .argument(
      "<VOLUME>",
      "a file or block device that is not being served, or the iscsi:// URL of one that is",
    )
    .option(
      "--state-dir <DIR>",
      "where before-images of local volumes are kept (default $STATE_DIRECTORY or /var/lib/lunsync)",
    )
    .option(
      "--force",
      "also where others have written to the volume since, and past before-images that are damaged",
    )
    .option("--json", "print one JSON object")
    .addHelpText(
      "after",
      `
Examples:
  lunsync rollback iscsi://backup.example/iqn.2026-11.com.example:disks/0
  lunsync rollback /dev/vg1/db

Exit status: 0 it is the last whole generation, 5 but for some extents, 2 and more trouble.`,
    )
    .action(async (name: string, options: Options) => {
      process.exitCode = await run(name, options);
    });
}

async function run(name: string, options: Options): Promise<number> {
  const interrupted = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    process.once(signal, () =>
      interrupted.abort(new AgentError("interrupted", `It was stopped by ${signal}; run it once more`)),
    );
  }
  const { signal } = interrupted;
  const force = options.force ?? false;
  await using volume = await openVolume(name, { writable: true, signal });
  checkWritable(volume);
  const done = isScsiAddress(name)
    ? await remotely(volume, force, signal)
    : await locally(
        volume,
        options.stateDir ?? process.env.STATE_DIRECTORY ?? "/var/lib/lunsync",
        force,
        signal,
      );
  const { extents, bytes, unreadable, lost } = done;
  if (options.json) process.stdout.write(`${JSON.stringify({ volume: name, state: "whole", ...done })}\n`);
  else if (extents + lost === 0)
    process.stdout.write(`${volume.name} is a whole generation: there is nothing to put back\n`);
  else {
    process.stdout.write(
      `Put back ${formatCount(extents)} extents (${formatBytes(bytes)}): ${volume.name} is its last whole generation\n`,
    );
    if (unreadable > 0)
      process.stdout.write(
        `  but for ${formatCount(unreadable)} extents, of which blocks could not be read before they were overwritten\n`,
      );
    if (lost > 0)
      process.stdout.write(`  but for ${formatCount(lost)} extents, whose before-images are damaged\n`);
  }
  return unreadable + lost > 0 ? exitStatus.incomplete : exitStatus.equal;
}

async function remotely(volume: Volume, force: boolean, signal: AbortSignal): Promise<RolledBack> {
  if (volume.traits.keepsWhole && volume.rollBackWhole) {
    // A run of its set that is under way, or sleeps, must not write among what is put back.
    await volume.takeFence?.(signal);
    return volume.rollBackWhole({ force }, signal);
  }
  throw new AgentError(
    "volume_unsuitable",
    `Cannot roll back ${volume.name}: its target keeps no before-images of it; "lunsync serve --lun PATH,whole" does`,
  );
}

async function locally(
  volume: Volume,
  folder: string,
  force: boolean,
  signal: AbortSignal,
): Promise<RolledBack> {
  const path = journalPath(folder, volume);
  if (!fileExists(path)) {
    throw new AgentError(
      "volume_missing",
      `Cannot roll back "${volume.name}": there are no before-images of it in "${path}"; --state-dir names the folder of the ` +
        'server that served it with ",whole"',
    );
  }
  const around = {
    folder,
    clock: systemClock,
    random: systemRandom,
    log: logLine,
    changedMs: () => lastChangeMs(volume.name),
  };
  await using whole = await openWhole(volume, around);
  if (!fileExists(cataloguePath(folder, volume))) return await whole.volume.rollBackWhole({ force }, signal);
  await using keeper = await CatalogueKeeper.open(whole.volume, {
    ...around,
    digest: parseDigestSpec(defaultDigest),
    extentBytes: extentBytesDefault,
    fill: false,
  });
  return await keeper.volume.rollBackWhole({ force }, signal);
}
