// lunsync scrub: the catalogue of a local volume against its medium.
//
// Guarantees: nothing of the volume is written; what differs is reported and healed by nobody.
import type { Command } from "commander";
import { AgentError, exitStatus } from "../base/errors.ts";
import { CatalogueKeeper } from "../catalogue/keeper.ts";
import type { ScrubFinding } from "../catalogue/scrub.ts";
import { defaultDigest, parseDigestSpec } from "../digest/spec.ts";
import { systemClock } from "../platform/clock.ts";
import { lastChangeMs } from "../platform/local-volumes.ts";
import { systemRandom } from "../platform/random.ts";
import { logLine } from "./log.ts";
import { extentBytesDefault, parseBandwidth } from "./options.ts";
import { isScsiAddress, openVolume } from "./volumes.ts";

interface Options {
  readonly stateDir?: string;
  readonly rate?: number;
  readonly json?: boolean;
}

const findingsKeptMax = 1000;

export function addScrub(program: Command): void {
  program
    .command("scrub")
    .summary("compare a volume's medium with its catalogue")
    .description(
      "Reads a local volume from its medium and compares it with the catalogue that `lunsync serve` keeps of it. A volume that is being served is scrubbed by its server: see --scrub-every there.",
    )
    .argument("<VOLUME>", "a file or block device")
    .option("--state-dir <DIR>", "where catalogues are kept (default $STATE_DIRECTORY or /var/lib/lunsync)")
    .option("--rate <BYTES>", "bytes a second to read at most, such as 50M", parseBandwidth)
    .option("--json", "print one JSON object")
    .addHelpText(
      "after",
      `
Examples:
  lunsync scrub /dev/vg0/db
  lunsync scrub /srv/replica.img --rate 50M --json

An extent that differs is bit rot, or was written to by somebody who is not the server. It is named here, answered for
like a bad block from now on, and good again when it has been written anew.

Exit status: 0 all is as it was written, 5 something differs or can't be read, 2 and more trouble.`,
    )
    .action(async (name: string, options: Options) => {
      process.exitCode = await run(name, options);
    });
}

async function run(name: string, options: Options): Promise<number> {
  if (isScsiAddress(name))
    throw new AgentError(
      "usage",
      `Cannot scrub "${name}": a scrub is of a file or block device of this host`,
    );
  const interrupted = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    process.once(signal, () =>
      interrupted.abort(
        new AgentError("interrupted", `It was stopped by ${signal}; the next scrub goes on there`),
      ),
    );
  }
  await using volume = await openVolume(name, { writable: true });
  let anew = false;
  await using keeper = await CatalogueKeeper.open(volume, {
    folder: options.stateDir ?? process.env.STATE_DIRECTORY ?? "/var/lib/lunsync",
    digest: parseDigestSpec(defaultDigest),
    extentBytes: extentBytesDefault,
    clock: systemClock,
    random: systemRandom,
    log: (level, message) => {
      anew ||= /begins anew/.test(message);
      logLine(level, message);
    },
    changedMs: () => lastChangeMs(name),
    fill: false,
  });
  const { signal } = interrupted;
  const findings: ScrubFinding[] = [];
  let found = 0;
  const progress = await keeper.scrub({
    bytesPerSecond: options.rate ?? Number.POSITIVE_INFINITY,
    found: (finding) => {
      found++;
      if (findings.length < findingsKeptMax) findings.push(finding);
      if (!options.json) process.stdout.write(`${finding.kind}: ${finding.reason}\n`);
    },
    signal,
  });
  // What is not known yet can't be scrubbed: it is digested now, for the next time.
  await keeper.fill(signal);
  const { proved, differing, skipped } = progress;
  if (options.json) {
    process.stdout.write(
      `${JSON.stringify({ volume: name, catalogue: anew ? "new" : "kept", proved, differing, skipped, found, findings })}\n`,
    );
  } else {
    process.stdout.write(
      `${proved} extents are as they were written, ${differing} differ, ${skipped} were not known${anew ? " (the catalogue is new)" : ""}\n`,
    );
  }
  return found > 0 ? exitStatus.incomplete : 0;
}
