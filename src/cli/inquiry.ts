// lunsync inquiry: what a volume is.
import type { Command } from "commander";
import { printable } from "../base/errors.ts";
import { formatBytes, formatCount } from "../base/units.ts";
import { offeredDigests } from "../digest/spec.ts";
import { isIscsiUrl } from "../initiator/address.ts";
import type { DiscoveredTarget } from "../initiator/discovery.ts";
import { formatUuid } from "../scsi/inquiry-data.ts";
import { ScsiVolume } from "../volume/scsi-volume.ts";
import { type Volume, volumeBytes, type WholeState } from "../volume/volume.ts";
import { parseBlockSize } from "./options.ts";
import { openVolume, targetsAt } from "./volumes.ts";

export function addInquiry(program: Command): void {
  program
    .command("inquiry")
    .summary("say what a volume is")
    .description(
      "Says what a volume is: identity, size, block size, whether it speaks our vendor commands, its digests.",
    )
    .argument(
      "<VOLUME>",
      "a path, a block device, an iscsi:// URL or sg:/dev/sgN; of a portal alone, its targets are listed",
    )
    .option("--block-size <BYTES>", "logical block size of a file: 512 or 4096 (default 512)", parseBlockSize)
    .option("--json", "print one JSON object")
    .addHelpText(
      "after",
      `
Examples:
  lunsync inquiry /dev/vg0/db
  lunsync inquiry iscsi://backup.example
  lunsync inquiry iscsi://backup.example/iqn.2026-11.com.example:disks/0 --json`,
    )
    .action(async (name: string, options: { json?: boolean; blockSize?: number }) => {
      const discovered = isIscsiUrl(name) ? await targetsAt(name) : undefined;
      if (discovered) {
        process.stdout.write(options.json ? `${JSON.stringify(discovered)}\n` : targetsText(discovered));
        return;
      }
      await using volume = await openVolume(name, { writable: false, blockBytes: options.blockSize });
      const facts = await factsOf(volume);
      process.stdout.write(options.json ? `${JSON.stringify(facts)}\n` : textOf(facts));
    });
}

function targetsText({ portal, targets }: { portal: string; targets: readonly DiscoveredTarget[] }): string {
  if (targets.length === 0) return `${portal} shows no target to this initiator\n`;
  return targets
    .map(
      ({ name, addresses }) =>
        `${printable(name)}\n${addresses.map((at) => `    at ${printable(at)}\n`).join("")}`,
    )
    .join("");
}

async function factsOf(volume: Volume) {
  const { geometry, identity, traits } = volume;
  const unit = volume instanceof ScsiVolume ? volume.facts : undefined;
  const reservation = volume instanceof ScsiVolume ? await volume.reservedBy() : undefined;
  const whole = traits.keepsWhole ? await volume.wholeState?.() : undefined;
  return {
    volume: volume.name,
    description: identity.description,
    uuid: identity.uuid ?? null,
    designators: unit?.designators ?? [],
    serial: unit?.serial ?? null,
    bytes: volumeBytes(geometry),
    blocks: geometry.blocks,
    blockBytes: geometry.blockBytes,
    physicalBlockBytes: unit?.physicalBlockBytes ?? null,
    remote: unit !== undefined,
    writeProtected: unit?.writeProtected ?? null,
    /** Who alone may write to it. */
    reservation: reservation ? { key: reservation.key, run: reservation.run ?? null } : null,
    thin: traits.thin,
    /** Its own host digests its extents. */
    vendorCommands: unit ? unit.vendorPage !== undefined : null,
    /** What its host keeps of it, so that it need not be read; a local volume's is its server's. */
    catalogue: traits.catalogue
      ? {
          digest: traits.catalogue.digest,
          extentBytes: traits.catalogue.extentBlocks * geometry.blockBytes,
          histories: traits.keepsHistories ?? false,
        }
      : null,
    /** What its host keeps of its last whole generation. */
    whole: whole
      ? {
          ...whole,
          run: whole.run?.toString("hex") ?? null,
          label: whole.label ? { ...whole.label, set: formatUuid(whole.label.set) } : null,
        }
      : null,
    digests: [...(traits.digestsOffered ?? offeredDigests.map(({ text }) => text))],
  };
}

function wholeText(whole: Omit<WholeState, "run" | "label">): string {
  if (whole.state === "whole") return "whole";
  const since = new Date(whole.sinceMs).toISOString();
  const kept = `${formatCount(whole.keptExtents)} extents of the last whole one are kept (${formatBytes(whole.keptBytes)})`;
  const roll = whole.rollingBack ? "; a roll back was begun and has not ended" : "";
  const doubt = whole.foreign ? "; others have written to it since" : "";
  return `a mixture since ${since}; ${kept}${roll}${doubt}`;
}

function textOf(facts: Awaited<ReturnType<typeof factsOf>>): string {
  const rows: [string, string][] = [
    ["Volume", facts.volume],
    ["Kind", facts.description],
    ["UUID", facts.uuid ?? "none"],
  ];
  if (facts.designators.length > 0) rows.push(["Designators", facts.designators.join(", ")]);
  if (facts.serial) rows.push(["Serial number", facts.serial]);
  rows.push(
    ["Size", `${formatBytes(facts.bytes)} (${formatCount(facts.bytes)} bytes)`],
    ["Logical blocks", `${formatCount(facts.blocks)} of ${facts.blockBytes} bytes`],
    ["Thin", facts.thin ? "yes: zero extents can be unmapped" : "no"],
  );
  if (facts.writeProtected !== null) rows.push(["Write-protected", facts.writeProtected ? "yes" : "no"]);
  if (facts.vendorCommands !== null) {
    const yes = "yes: it digests its extents itself";
    rows.push([
      "Vendor commands",
      facts.vendorCommands ? yes : "no: its extents are read over the wire to be compared",
    ]);
  }
  if (facts.catalogue) {
    const { digest, extentBytes, histories } = facts.catalogue;
    rows.push([
      "Catalogue",
      `${digest} of ${formatBytes(extentBytes)}${histories ? ", with histories" : ""}`,
    ]);
  }
  if (facts.whole) rows.push(["Generation", wholeText(facts.whole)]);
  if (facts.whole?.label) {
    const { set, generation, handedOut } = facts.whole.label;
    const what = generation === 0 ? "no generation of it as a whole" : `generation ${generation}`;
    rows.push(["Replica of", `set ${set}, ${what}${handedOut ? "; handed out" : ""}`]);
  }
  if (facts.reservation) {
    const { run, key } = facts.reservation;
    const whose = run === null ? "somebody else" : `run ${run} of a replication set, and later ones`;
    rows.push(["Reserved", `for ${whose} (key ${key})`]);
  }
  const singles = facts.digests.filter((text) => /^[a-z0-9]+$/.test(text));
  const others = facts.digests.length - singles.length;
  rows.push([
    "Digests",
    singles.join(", ") + (others > 0 ? `, and ${others} combinations (--json lists them)` : ""),
  ]);
  const width = Math.max(...rows.map(([label]) => label.length)) + 2;
  return rows.map(([label, value]) => `${`${label}:`.padEnd(width)}${printable(value)}\n`).join("");
}
