// lunsync undo: before-images are put back.
import type { Command } from "commander";
import { exitStatus } from "../base/errors.ts";
import { formatBytes, formatCount } from "../base/units.ts";
import { systemClock } from "../platform/clock.ts";
import { crc32c } from "../platform/native-digest.ts";
import { checkWritable } from "../replicate/plan.ts";
import { undo } from "../replicate/undo.ts";
import { openVolume } from "./volumes.ts";

export function addUndo(program: Command): void {
  program
    .command("undo")
    .summary("put back what a synchronization overwrote")
    .description("Puts the before-images of the latest synchronization in DIR back onto REPLICA.")
    .argument("<DIR>", "what was given to --backup-dir, or the folder of one run below it")
    .argument("<REPLICA>", "the volume that was overwritten")
    .option("--json", "print one JSON object")
    .addHelpText(
      "after",
      `
Examples:
  lunsync undo /var/backups/copy copy.img
  lunsync undo /var/backups/copy/2026-11-21T02-00-03-120Z-1f0c9a2e /dev/vg1/db

Exit status: 0 everything is as it was, 5 some blocks could not be read when they were overwritten, else trouble.`,
    )
    .action(async (folder: string, name: string, options: { json?: boolean }) => {
      const undone = await undo(
        folder,
        async (manifest) => {
          const replica = await openVolume(name, { writable: true, blockBytes: manifest.blockBytes });
          checkWritable(replica);
          return replica;
        },
        { crc32c, nowMs: () => systemClock.nowMs() },
      );
      if (options.json) process.stdout.write(`${JSON.stringify(undone)}\n`);
      else {
        process.stdout.write(
          `Put back ${formatCount(undone.ranges)} ranges (${formatBytes(undone.bytes)}) of ${undone.begun}, from ${undone.folder}\n`,
        );
        for (const { lba, blocks } of undone.unreadable) {
          process.stdout.write(
            `  LBA ${lba} … ${lba + blocks - 1} could not be read when it was overwritten: not put back\n`,
          );
        }
      }
      if (undone.problem !== undefined) process.stderr.write(`Warning: ${undone.problem}\n`);
      process.exitCode = undone.unreadable.length > 0 ? exitStatus.incomplete : exitStatus.equal;
    });
}
