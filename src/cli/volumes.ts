// Volumes as the command line names them: a path, an iSCSI URL or a pass-through address, opened with what the
// environment says.
import { hostname } from "node:os";
import { AgentError } from "../base/errors.ts";
import { type IscsiAddress, isIscsiUrl, parseIscsiUrl, parsePortalUrl } from "../initiator/address.ts";
import { type DiscoveredTarget, discoverTargets } from "../initiator/discovery.ts";
import { IscsiSession } from "../initiator/session.ts";
import { systemClock } from "../platform/clock.ts";
import { usesOf } from "../platform/local-volumes.ts";
import { crc32c } from "../platform/native-digest.ts";
import { systemRandom } from "../platform/random.ts";
import { FileVolume } from "../volume/file-volume.ts";
import { ScsiVolume } from "../volume/scsi-volume.ts";
import { isSgAddress, parseSgAddress } from "../volume/sg-address.ts";
import { SgDevice } from "../volume/sg-device.ts";
import type { Volume } from "../volume/volume.ts";

const iqnPrefix = "iqn.2026-11.org.lunsync";
const nameOfHost = () =>
  hostname()
    .toLowerCase()
    .replace(/[^a-z0-9.-]/g, "-") || "localhost";

export const defaultTargetName = (): string => `${iqnPrefix}:${nameOfHost()}`;

const initiatorName = (): string =>
  process.env.LUNSYNC_INITIATOR_NAME ?? `${iqnPrefix}:initiator.${nameOfHost()}`;

export interface OpenOptions {
  readonly writable: boolean;
  /** Logical blocks of a file; a device and a LUN have their own. */
  readonly blockBytes?: number | undefined;
  readonly onNotice?: (notice: string) => void;
  readonly signal?: AbortSignal;
}

const chapEnvironment = () => ({
  secret: process.env.LUNSYNC_CHAP_SECRET,
  targetUser: process.env.LUNSYNC_CHAP_TARGET_USER,
  targetSecret: process.env.LUNSYNC_CHAP_TARGET_SECRET,
});

/** The targets of a portal, if that is what the URL names; undefined if it names a logical unit. */
export async function targetsAt(
  url: string,
): Promise<{ portal: string; targets: DiscoveredTarget[] } | undefined> {
  const address = parsePortalUrl(url, chapEnvironment());
  if (!address) return undefined;
  const { host, port, chap, chapTarget } = address;
  const portal = `${host.includes(":") ? `[${host}]` : host}:${port}`;
  const targets = await discoverTargets({
    portal: { host, port },
    peer: portal,
    initiatorName: initiatorName(),
    chap,
    chapTarget,
    wishes: {
      HeaderDigest: ["None", "CRC32C"],
      DataDigest: ["None", "CRC32C"],
      MaxRecvDataSegmentLength: 262_144,
    },
    isid: Buffer.concat([Buffer.from([0x80]), systemRandom.bytes(5)]),
    random: systemRandom,
    clock: systemClock,
    crc32c,
    openTimeoutMs: 10_000,
  });
  return { portal, targets };
}

/** @throws AgentError `usage` */
export function addressOf(url: string): IscsiAddress {
  return parseIscsiUrl(url, chapEnvironment());
}

/** True for what is reached by SCSI commands, and not by a path of this host's file system. */
export const isScsiAddress = (name: string): boolean => isIscsiUrl(name) || isSgAddress(name);

/** Finds what is misspelt before anything is opened. @throws AgentError `usage` */
export function checkName(name: string): void {
  if (isIscsiUrl(name)) addressOf(name);
  else if (isSgAddress(name)) parseSgAddress(name);
}

/** @throws AgentError what Volume adapters throw; `volume_mounted` or `volume_in_use` for one to be written */
export async function openVolume(name: string, options: OpenOptions): Promise<Volume> {
  if (isSgAddress(name)) {
    const { writable, onNotice } = options;
    const refuse = (blockDevice: string) => refuseIfUsed(blockDevice, name);
    return ScsiVolume.open(
      await SgDevice.open(name, { writable, clock: systemClock, onNotice }, refuse),
      systemClock,
    );
  }
  if (!isIscsiUrl(name)) {
    if (options.writable) await refuseIfUsed(name);
    return FileVolume.open(name, {
      writable: options.writable,
      ...(options.blockBytes !== undefined && { blockBytes: options.blockBytes }),
    });
  }
  const address = addressOf(name);
  const session = await IscsiSession.open(
    address,
    {
      initiatorName: initiatorName(),
      clock: systemClock,
      random: systemRandom,
      crc32c,
      ...(options.onNotice && { onNotice: options.onNotice }),
    },
    options.signal,
  );
  return ScsiVolume.open(session, systemClock);
}

/** Writing to what somebody else has mounted or open would damage it. `name`: what was asked for, if not the path. */
async function refuseIfUsed(path: string, name = path): Promise<void> {
  const [use] = await usesOf(path);
  if (!use) return;
  throw new AgentError(
    use.kind === "mounted" ? "volume_mounted" : "volume_in_use",
    `Cannot open "${name}" for writing: ${name === path ? "it" : path} is ${use.words}; unmount it or stop who uses it`,
  );
}
