// What Linux knows of a SCSI device that the kernel is attached to: the disk behind it, its limits, its connection.
//
// Nothing here sends a command, nor changes anything. Source: Documentation/ABI/testing/sysfs-block and
// sysfs-bus-scsi_* of Linux, and drivers/scsi/scsi_sysfs.c, scsi_transport_iscsi.c for the names.
import { readdir, readFile, realpath, stat } from "node:fs/promises";
import { dirname } from "node:path";
import { AgentError } from "../base/errors.ts";
import { majorMinor } from "./local-volumes.ts";

const textOf = (path: string): Promise<string> =>
  readFile(path, "utf8").then(
    (text) => text.trim(),
    () => "",
  );
const listOf = (path: string): Promise<string[]> => readdir(path).catch(() => []);

export interface ScsiHostDevice {
  /** Its folder in /sys, canonical. */
  readonly directory: string;
  readonly peripheralDeviceType: number;
  /** `/dev/sda`, if the kernel made a disk of it. */
  readonly blockDevice: string | undefined;
  /** The same logical unit by whatever paths the kernel has to it, the one above included. */
  readonly blockDevices: readonly string[];
  /** The keys that localIdentity() gives to that disk. */
  readonly keys: readonly string[];
  /** The most bytes that one command can transfer. */
  readonly transferBytesMax: number;
}

const transferBytesUnknown = 256 * 1024;
const pageBytes = 4096;
const device = (name: string) => `/dev/${name.replaceAll("!", "/")}`;

/** @throws AgentError `volume_missing`, `volume_unreadable`, `volume_unsuitable`; `doing` begins the message */
export async function scsiHostDevice(path: string, doing: string): Promise<ScsiHostDevice> {
  const info = await stat(path).catch((error: NodeJS.ErrnoException) => {
    const missing = error.code === "ENOENT" || error.code === "ENOTDIR";
    throw new AgentError(
      missing ? "volume_missing" : "volume_unreadable",
      `${doing}: ${missing ? "there is no such device; is the module sg loaded, and the unit attached (lsscsi -g)?" : error.message}`,
      { cause: error },
    );
  });
  const unsuitable = (what: string) => new AgentError("volume_unsuitable", `${doing}: ${what}`);
  if (!info.isBlockDevice() && !info.isCharacterDevice())
    throw unsuitable("it is no device; a pass-through address names /dev/sgN, /dev/sdX or /dev/bsg/H:C:T:L");
  const numbers = majorMinor(info.rdev);
  const entry = `/sys/dev/${info.isBlockDevice() ? "block" : "char"}/${numbers}`;
  if ((await textOf(`${entry}/partition`)) !== "")
    throw unsuitable("it is a partition, and SCSI commands reach the whole disk; name the disk");
  const directory = await realpath(`${entry}/device`).catch(() => "");
  const type = directory === "" ? "" : await textOf(`${directory}/type`);
  if (!/^\d+$/.test(type) || (await textOf(`${directory}/vendor`)) === "")
    throw unsuitable("it is no SCSI device; name /dev/sgN, /dev/sdX or /dev/bsg/H:C:T:L");
  if (type !== "0") throw unsuitable(`it is no disk (peripheral device type ${type})`);

  const [name] = await listOf(`${directory}/block`);
  const boot = await textOf("/proc/sys/kernel/random/boot_id");
  const wwid = await textOf(`${directory}/wwid`);
  const named = /^(naa|eui)\.[0-9a-f]+$/.test(wwid);
  const others: string[] = [];
  for (const each of named ? await listOf("/sys/block") : [])
    if (each !== name && (await textOf(`/sys/block/${each}/device/wwid`)) === wwid) others.push(device(each));
  return {
    directory,
    peripheralDeviceType: Number(type),
    blockDevice: name && device(name),
    blockDevices: [...(name ? [device(name)] : []), ...others],
    keys: name ? [`device:${boot}:${await textOf(`${directory}/block/${name}/dev`)}`] : [],
    transferBytesMax: name ? await transferBytesOf(`${directory}/block/${name}/queue`) : transferBytesUnknown,
  };
}

/** The request queue's limits: bytes, and segments of which each may be no more than a page. */
async function transferBytesOf(queue: string): Promise<number> {
  const kib = Number(await textOf(`${queue}/max_sectors_kb`));
  const segments = Number(await textOf(`${queue}/max_segments`));
  const limits = [kib * 1024, segments * pageBytes].filter((limit) => limit > 0);
  return limits.length === 0 ? transferBytesUnknown : Math.max(pageBytes, Math.min(...limits));
}

/**
 * Something that is another after the kernel has connected again, as far as it tells: the local port of an iSCSI
 * session's connections. Whoever sends the first command afterwards gets the unit attention, and that may be the
 * kernel itself or another process.
 */
export async function connectionMark(directory: string): Promise<string> {
  // …/hostH/sessionS/targetH:C:T/H:C:T:L
  const session = dirname(dirname(directory));
  const connections = (await listOf(session)).filter((name) => /^connection\d+:\d+$/.test(name)).sort();
  const ports = await Promise.all(
    connections.map((name) => textOf(`${session}/${name}/iscsi_connection/${name}/local_port`)),
  );
  return ports.join(" ");
}
