// lunsync points: the restore points of a replica that is served, listed, shown as LUNs, and withdrawn.
import type { Command } from "commander";
import { AgentError, exitStatus } from "../base/errors.ts";
import { formatBytes, formatCount } from "../base/units.ts";
import { formatAddress, isIscsiUrl, parseIscsiUrl } from "../initiator/address.ts";
import { formatUuid } from "../scsi/inquiry-data.ts";
import type { ScsiPoints, UnitPoint } from "../volume/scsi-points.ts";
import { ScsiVolume } from "../volume/scsi-volume.ts";
import { openVolume } from "./volumes.ts";

interface Options {
  readonly force?: boolean;
  readonly json?: boolean;
}

const volumeArgument = [
  "<VOLUME>",
  "the URL of a replica that is served with `,whole`: iscsi://… or sg:/dev/sgN",
] as const;
const pointArgument = [
  "<POINT>",
  "its number, as `list` prints it, or `last`: the last whole generation",
] as const;

export function addPoints(program: Command): void {
  const points = program
    .command("points")
    .summary("list restore points of a replica, and show them as LUNs")
    .description(
      "A replica that is served with ,whole and --keep has restore points: what it was before its last synchronizations. Each can be shown as a read-only LUN of its own, while replication goes on.",
    )
    .addHelpText(
      "after",
      `
Examples:
  lunsync points list iscsi://backup.example/iqn.2026-11.com.example:disks/0
  lunsync points serve iscsi://backup.example/iqn.2026-11.com.example:disks/0 17
  lunsync points serve iscsi://backup.example/iqn.2026-11.com.example:disks/0 last
  lunsync points withdraw iscsi://backup.example/iqn.2026-11.com.example:disks/0 17

Exit status: 0 done, 2 and more trouble.`,
    );
  points
    .command("list")
    .summary("list the restore points of a replica")
    .description("Lists the restore points of a replica, the oldest first.")
    .argument(...volumeArgument)
    .option("--json", "print one JSON object")
    .addHelpText(
      "after",
      `
Example:
  lunsync points list iscsi://backup.example/iqn.2026-11.com.example:disks/0`,
    )
    .action(async (name: string, options: Options) => {
      await withPoints(name, async (unit) => {
        const found = await unit.list();
        const facts = found.map((point) => factsOf(name, point));
        print(options, { volume: name, points: facts }, listText(found, facts));
      });
    });
  points
    .command("serve")
    .summary("show a restore point as a LUN")
    .description(
      "Shows a restore point as a read-only LUN of the replica's target, and prints its URL. It is kept until it is withdrawn, whatever the policy says.",
    )
    .argument(...volumeArgument)
    .argument(...pointArgument)
    .option("--force", "also one since which others have written to the replica, past its target")
    .option("--json", "print one JSON object")
    .addHelpText(
      "after",
      `
Examples:
  lunsync points serve iscsi://backup.example/iqn.2026-11.com.example:disks/0 17
  lunsync points serve iscsi://backup.example/iqn.2026-11.com.example:disks/0 last`,
    )
    .action(async (name: string, which: string, options: Options) => {
      await withPoints(name, async (unit) => {
        const force = options.force ?? false;
        const point = which === "last" ? undefined : find(name, await unit.list(), which);
        if (point?.doubtful && !force) {
          throw new AgentError(
            "backup_mismatch",
            `Cannot show the restore point ${point.number} of ${name}: somebody else has written to the replica since, past ` +
              "its target. --force shows it all the same: some of it may be what was written then",
          );
        }
        const { lun, id } = await unit.expose(point?.id, force);
        const url = urlOf(name, lun);
        print(options, { volume: name, point: formatUuid(id), lun, url }, `${url ?? `LUN ${lun}`}\n`);
      });
    });
  points
    .command("withdraw")
    .summary("show a restore point no more")
    .description("Takes away the LUN of a restore point. Whoever still uses it gets errors.")
    .argument(...volumeArgument)
    .argument(...pointArgument)
    .option("--json", "print one JSON object")
    .addHelpText(
      "after",
      `
Example:
  lunsync points withdraw iscsi://backup.example/iqn.2026-11.com.example:disks/0 17`,
    )
    .action(async (name: string, which: string, options: Options) => {
      await withPoints(name, async (unit) => {
        const point = find(name, await unit.list(), which);
        if (point.lun !== undefined) await unit.withdraw(point.id);
        const was = point.lun === undefined ? "was no LUN" : `is LUN ${point.lun} no more`;
        print(
          options,
          { volume: name, point: formatUuid(point.id), lun: point.lun ?? null },
          `The restore point ${point.number} ${was}\n`,
        );
      });
    });
}

async function withPoints(name: string, action: (points: ScsiPoints) => Promise<void>): Promise<void> {
  await using volume = await openVolume(name, { writable: false });
  if (!(volume instanceof ScsiVolume)) {
    throw new AgentError(
      "volume_unsuitable",
      `"${name}" is no unit that is served: restore points are asked for at its target, by its URL`,
    );
  }
  await action(volume.points);
  process.exitCode = exitStatus.equal;
}

function find(name: string, points: readonly UnitPoint[], which: string): UnitPoint {
  const found =
    which === "last"
      ? points.findLast(({ last }) => last)
      : points.find(({ number }) => /^\d+$/.test(which) && number === Number(which));
  if (found) return found;
  throw new AgentError(
    "volume_missing",
    `${name} has no restore point "${which}"; "lunsync points list" says what there is`,
  );
}

/** Where another unit of the same target is; undefined where the kernel decides about that. */
function urlOf(name: string, lun: number): string | undefined {
  return isIscsiUrl(name) ? formatAddress({ ...parseIscsiUrl(name), lun }) : undefined;
}

function factsOf(volume: string, point: UnitPoint) {
  const { number, madeMs, run, label, volumeBytes, keptExtents, keptBytes, last, doubtful, lun } = point;
  return {
    point: number,
    uuid: formatUuid(point.id),
    made: new Date(madeMs).toISOString(),
    run: run?.toString("hex") ?? null,
    set: label ? { uuid: formatUuid(label.set), generation: label.generation } : null,
    bytes: volumeBytes,
    keptExtents,
    keptBytes,
    last,
    doubtful,
    lun: lun ?? null,
    url: (lun !== undefined && urlOf(volume, lun)) || null,
  };
}

function listText(points: readonly UnitPoint[], facts: readonly ReturnType<typeof factsOf>[]): string {
  if (points.length === 0) return "There are no restore points\n";
  const rows = facts.map(({ point, made, set, keptExtents, keptBytes, last, doubtful, lun, url }) => [
    `${point}`,
    made,
    set ? `${set.generation}` : "",
    `${formatCount(keptExtents)} extents (${formatBytes(keptBytes)})`,
    [
      ...(last ? ["last"] : []),
      ...(doubtful ? ["others have written since"] : []),
      ...(lun !== null ? [url ?? `LUN ${lun}`] : []),
    ].join("; "),
  ]);
  const head = ["POINT", "WHOLE SINCE", "GENERATION", "KEPT", ""];
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]!.length)));
  return [head, ...rows]
    .map(
      (row) =>
        `${row
          .map((cell, i) => cell.padEnd(widths[i]!))
          .join("  ")
          .trimEnd()}\n`,
    )
    .join("");
}

const print = (options: Options, json: unknown, text: string) =>
  process.stdout.write(options.json ? `${JSON.stringify(json)}\n` : text);
