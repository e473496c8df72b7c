// lunsync serve: files and block devices as LUNs of an iSCSI target.
//
// Guarantees: a LUN that is written is refused if it is mounted or used by somebody else; when the command ends by a
// signal, no command is executing and what was written is on disk, or the exit status says that it is not.
import { readFileSync, statSync } from "node:fs";
import { type Command, InvalidArgumentError, Option } from "commander";
import { AgentError, messageOf } from "../base/errors.ts";
import { MiB } from "../base/units.ts";
import { formatAddress } from "../initiator/address.ts";
import type { ChapCredentials } from "../iscsi/chap.ts";
import { systemClock } from "../platform/clock.ts";
import { crc32c } from "../platform/native-digest.ts";
import { parseNetwork } from "../platform/network-set.ts";
import { systemRandom } from "../platform/random.ts";
import { AccessPolicy, parseInitiatorRule } from "../target/access.ts";
import { DeviceServer } from "../target/device-server.ts";
import type { ChapPolicy } from "../target/login.ts";
import { IscsiTarget } from "../target/target.ts";
import { parseKeep } from "../whole/keep-policy.ts";
import { logLine } from "./log.ts";
import { parseBandwidth, parseBlockSize, parseDuration, parseSpace } from "./options.ts";
import { ServedUnits } from "./served-units.ts";
import { version } from "./version.ts";
import { defaultTargetName } from "./volumes.ts";

interface ServeOptions {
  readonly listen: readonly string[];
  readonly lun: readonly string[];
  readonly target: string;
  readonly blockSize?: number;
  readonly chap?: string;
  readonly chapSecretFile?: string;
  readonly mutualChap?: string;
  readonly mutualChapSecretFile?: string;
  readonly stateDir?: string;
  readonly initiator?: readonly string[];
  readonly from?: readonly string[];
  readonly scrubEvery?: number;
  readonly scrubRate?: number;
  readonly keep?: string;
  readonly keepSpace?: number;
  readonly json?: boolean;
}

const portalGroupTag = 1;
const scrubRateDefault = 32 * MiB;

export function addServe(program: Command): void {
  const collect = (value: string, all: string[] | undefined) => [...(all ?? []), value];
  program
    .command("serve")
    .summary("serve files and block devices by iSCSI")
    .description("Serves files and block devices as LUNs 0, 1, … and prints the URL of each, one a line.")
    .requiredOption(
      "--lun <PATH[,OPTION...]>",
      "a file or block device; `,ro` refuses writes, `,removable` lets initiators eject and load it, `,catalogue` keeps the digests of its extents, so that what nobody wrote need not be read, `,whole` keeps what a synchronization overwrites until it is finished, and `,keep=24h+7d+4w` with it these restore points (may be repeated)",
      collect,
    )
    .option(
      "--listen <HOST:PORT>",
      "where to listen; port 0 picks a free one (may be repeated; default 127.0.0.1:3260)",
      collect,
    )
    .addOption(
      new Option("--target <IQN>", "the target's name").default(
        undefined,
        `iqn.2026-11.org.lunsync:HOSTNAME`,
      ),
    )
    .option("--block-size <BYTES>", "logical block size of files: 512 or 4096 (default 512)", parseBlockSize)
    .option(
      "--initiator <IQN[,OPTION...]>",
      "an initiator that may log in; `*` at the end stands for any rest; `,ro` refuses writes, `,plain` the vendor commands, `,lun=N` (repeatable) shows it no other LUNs (may be repeated; default all)",
      collect,
    )
    .option(
      "--from <ADDRESS[/PREFIX]>",
      "where connections may come from (may be repeated; default anywhere)",
      collect,
    )
    .option("--chap <USER>", "initiators have to prove themselves as USER")
    .option("--chap-secret-file <FILE>", "the file that holds the secret of --chap")
    .option("--mutual-chap <USER>", "the target proves itself as USER to initiators that ask")
    .option("--mutual-chap-secret-file <FILE>", "the file that holds the secret of --mutual-chap")
    .option(
      "--state-dir <DIR>",
      "where reservations that outlive the target are kept (default $STATE_DIRECTORY or /var/lib/lunsync)",
    )
    .option(
      "--scrub-every <DURATION>",
      "read what has a catalogue from its medium and compare it, this often: 12h, 7d (default never)",
      parseDuration,
    )
    .option("--scrub-rate <BYTES>", "bytes a second of a scrub, such as 50M (default 32M)", parseBandwidth)
    .option(
      "--keep <POLICY>",
      "restore points of each LUN with `,whole`: 24h,7d,4w keeps the newest of each of the last 24 hours, 7 days and 4 weeks, 5 the last 5, none drops all (default those that there are)",
    )
    .option(
      "--keep-space <SIZE>",
      "what the restore points of a LUN may take in the state directory, such as 200G: the oldest are given up (default all there is)",
      parseSpace,
    )
    .option("--json", "print the LUNs as one JSON object, once they are served")
    .addHelpText(
      "after",
      `
Examples:
  lunsync serve --listen 127.0.0.1:3260 --lun /srv/replica.img
  lunsync serve --lun /dev/vg0/db --initiator iqn.2026-11.com.example:db1 \\
      --initiator 'iqn.2026-11.com.example:backup-*,ro' --from 192.0.2.0/24
  lunsync serve --lun /dev/vg0/db --lun /dev/vg0/www \
      --initiator iqn.2026-11.com.example:db1,lun=0 --initiator iqn.2026-11.com.example:www1,lun=1
  lunsync serve --lun /dev/vg1/db,whole --keep 24h,7d,4w --keep-space 200G
  lunsync serve --listen 0.0.0.0:3260 --lun /dev/vg0/db --lun /dev/vg0/www,ro \\
      --target iqn.2026-11.com.example:backup --chap agent --chap-secret-file /etc/lunsync/secret

SIGTERM or Ctrl-C ends it; all data is on disk then.`,
    )
    .action(async (options: ServeOptions) => {
      process.exitCode = await serve(options);
    });
}

function parseListen(text: string): { host: string; port: number } {
  const match = /^(\[[^\]]+\]|[^:]+):(\d{1,5})$/.exec(text);
  const port = Number(match?.[2]);
  if (!match || port > 65535) {
    throw new AgentError(
      "usage",
      `"${text}" is no address to listen on: the form is HOST:PORT or [IPV6]:PORT`,
    );
  }
  return { host: match[1]!.replace(/^\[|\]$/g, ""), port };
}

function readSecret(user: string, file: string | undefined, option: string): ChapCredentials {
  if (file === undefined) throw new AgentError("usage", `--${option} needs --${option}-secret-file`);
  let secret: string;
  try {
    if ((statSync(file).mode & 0o077) !== 0)
      logLine("warning", `"${file}" holds a secret and is open to other users`);
    secret = readFileSync(file, "utf8").replace(/\r?\n$/, "");
  } catch (error) {
    throw new AgentError("usage", `Cannot read the secret of --${option}: ${messageOf(error)}`);
  }
  // RFC 7143, 9.2.1: at least 96 bits.
  if (Buffer.byteLength(secret) < 12)
    throw new AgentError("usage", `The secret in "${file}" is shorter than 12 bytes`);
  return { name: user, secret };
}

function chapPolicy(options: ServeOptions): ChapPolicy | undefined {
  if (options.chapSecretFile !== undefined && options.chap === undefined) {
    throw new AgentError("usage", "--chap-secret-file needs --chap");
  }
  if (options.mutualChapSecretFile !== undefined && options.mutualChap === undefined) {
    throw new AgentError("usage", "--mutual-chap-secret-file needs --mutual-chap");
  }
  if (options.chap === undefined) {
    if (options.mutualChap !== undefined) throw new AgentError("usage", "--mutual-chap needs --chap");
    return undefined;
  }
  const initiator = readSecret(options.chap, options.chapSecretFile, "chap");
  if (options.mutualChap === undefined) return { initiator, target: undefined };
  const target = readSecret(options.mutualChap, options.mutualChapSecretFile, "mutual-chap");
  if (target.secret === initiator.secret) throw new AgentError("usage", "The two CHAP secrets must differ");
  return { initiator, target };
}

function accessPolicy(options: ServeOptions): AccessPolicy {
  const initiatorRule = (text: string) => {
    const rule = parseInitiatorRule(text);
    for (const lun of rule?.rights.luns ?? []) {
      if (lun >= options.lun.length)
        throw new AgentError(
          "usage",
          `"${text}" names LUN ${lun}; the last one that is served is ${options.lun.length - 1}`,
        );
    }
    return rule;
  };
  const parsed = <T>(
    texts: readonly string[] = [],
    option: string,
    form: string,
    parse: (text: string) => T | undefined,
  ) =>
    texts.map((text) => {
      const rule = parse(text);
      if (rule === undefined)
        throw new AgentError("usage", `"${text}" is no value of ${option}: the form is ${form}`);
      return rule;
    });
  return new AccessPolicy(
    parsed(
      options.initiator,
      "--initiator",
      "NAME[,ro][,plain][,lun=N...], such as iqn.2026-11.com.example:*",
      initiatorRule,
    ),
    parsed(options.from, "--from", "ADDRESS[/PREFIX], such as 192.0.2.0/24", parseNetwork),
  );
}

async function serve(options: ServeOptions): Promise<number> {
  const targetName = (options.target ?? defaultTargetName()).toLowerCase();
  if (
    !/^(iqn\.\d{4}-\d{2}\.[^\s/]+|eui\.[0-9a-f]{16}|naa\.[0-9a-f]{16,32})$/.test(targetName) ||
    targetName.length > 223
  ) {
    throw new InvalidArgumentError(
      `"${targetName}" is no target name, such as iqn.2026-11.com.example:disks`,
    );
  }
  const chap = chapPolicy(options);
  const access = accessPolicy(options);
  const portals = (options.listen ?? ["127.0.0.1:3260"]).map(parseListen);
  for (const { host } of portals) {
    if (chap !== undefined || options.from !== undefined || /^(127\.|::1$|localhost$)/.test(host)) continue;
    logLine("warning", `it listens on ${host} without CHAP: whoever reaches it can read and write the LUNs`);
  }
  const stopped = signalled();
  const stateFolder = options.stateDir ?? process.env.STATE_DIRECTORY ?? "/var/lib/lunsync";
  await using served = await ServedUnits.open(options.lun, {
    stateFolder,
    blockSize: options.blockSize,
    keep: options.keep === undefined ? undefined : parseKeep(options.keep),
    keepBytes: options.keepSpace,
    scrub:
      options.scrubEvery === undefined
        ? undefined
        : { everyMs: options.scrubEvery, bytesPerSecond: options.scrubRate ?? scrubRateDefault },
  });
  const { units } = served;
  const names = { targetName, portalGroupTag, revision: version.split(".").slice(0, 2).join(".") };
  const deviceServer = new DeviceServer(names, units);
  await served.offerPoints(deviceServer, stateFolder);
  const target = new IscsiTarget({
    deviceServer,
    chap,
    access,
    clock: systemClock,
    random: systemRandom,
    crc32c,
    log: logLine,
  });
  try {
    const urls: { url: string; lun: number; path: string; readonly: boolean }[] = [];
    for (const { host, port } of portals) {
      const bound = await target.listen(host, port);
      for (const { lun, volume, readonly } of units) {
        const url = formatAddress({ host, port: bound, targetName, lun });
        urls.push({ url, lun, path: volume.name, readonly });
      }
    }
    process.stdout.write(
      options.json
        ? `${JSON.stringify({ target: targetName, luns: urls })}\n`
        : urls.map(({ url }) => `${url}\n`).join(""),
    );
    await using _ = served.watchSizes();
    logLine("info", `${await stopped}: stopping`);
  } finally {
    await target.stop();
    await served.flush();
  }
  return 0;
}

/** Resolves with the name of the first signal that asks for an end. */
function signalled(): Promise<string> {
  return new Promise((resolve) => {
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const)
      process.once(signal, () => resolve(signal));
  });
}
