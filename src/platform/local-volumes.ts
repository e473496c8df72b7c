// What Linux knows of local files and block devices: their identity, and who uses them.
//
// Nothing here changes anything. What /proc and /sys do not show to this user (other users' open files) is not seen;
// the exclusive open and the lock of a volume that is written are the second net.
import { createHash } from "node:crypto";
import { readdir, readFile, readlink, realpath, stat } from "node:fs/promises";
import { basename } from "node:path";
import type { BlockFile } from "./block-file.ts";

export interface LocalIdentity {
  readonly uuid: string;
  readonly keys: readonly string[];
  readonly description: string;
}

const textOf = (path: string): Promise<string> =>
  readFile(path, "utf8").then(
    (text) => text.trim(),
    () => "",
  );
const listOf = (path: string): Promise<string[]> => readdir(path).catch(() => []);

/** `8:16` of a device number as stat gives it (glibc's encoding). */
export function majorMinor(device: number): string {
  const number = BigInt(device);
  const major = ((number >> 8n) & 0xfffn) | ((number >> 32n) & 0xfffff000n);
  const minor = (number & 0xffn) | ((number >> 12n) & 0xffffff00n);
  return `${major}:${minor}`;
}

async function machineId(): Promise<string> {
  return (await textOf("/etc/machine-id")) || (await textOf("/var/lib/dbus/machine-id")) || "no machine id";
}

/** A UUID (version 8, RFC 9562) that follows from its names. */
function derivedUuid(...names: string[]): string {
  const hash = createHash("sha256").update(names.join("\0")).digest().subarray(0, 16);
  hash[6] = (hash[6]! & 0x0f) | 0x80;
  hash[8] = (hash[8]! & 0x3f) | 0x80;
  const hex = hash.toString("hex");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

/**
 * A key that may travel: it says nothing to who does not know the key itself. A target shows it of what it serves,
 * so that an initiator on the same host notices that source and replica are one volume.
 */
export function sameVolumeKey(key: string): string {
  if (key.startsWith("within:")) return `within:${sameVolumeKey(key.slice("within:".length))}`;
  return `same:${createHash("sha256").update("lunsync same volume\0").update(key).digest("hex").slice(0, 32)}`;
}

interface LoopBacking {
  readonly path: string;
  readonly whole: boolean;
}

async function loopBacking(numbers: string): Promise<LoopBacking | undefined> {
  const directory = `/sys/dev/block/${numbers}/loop`;
  const path = await textOf(`${directory}/backing_file`);
  if (path === "") return undefined;
  const whole =
    (await textOf(`${directory}/offset`)) === "0" && (await textOf(`${directory}/sizelimit`)) === "0";
  return { path, whole };
}

/**
 * The identity of an open file or device. Its UUID follows from the machine and from the canonical path (a loop
 * device's from the file behind it), so it is the same after a restart. The keys also hold device and inode numbers,
 * so that hard links, bind mounts and a loop device over a file are recognized as one volume.
 */
export async function localIdentity(path: string, file: BlockFile): Promise<LocalIdentity> {
  const machine = await machineId();
  const boot = await textOf("/proc/sys/kernel/random/boot_id");
  const canonical = await realpath(path);
  if (!file.blockDevice) {
    return {
      uuid: derivedUuid("lunsync volume", machine, canonical),
      keys: [`file:${boot}:${file.device}:${file.inode}`],
      description: "regular file",
    };
  }
  const numbers = majorMinor(file.specialDevice);
  const backing = await loopBacking(numbers);
  const keys = [`device:${boot}:${numbers}`, ...(await unitKeyOf(`/sys/dev/block/${numbers}`))];
  // A partition overlaps the disk that it lies on, but not the disk's other partitions.
  if ((await textOf(`/sys/dev/block/${numbers}/partition`)) !== "") {
    keys.push(`within:device:${boot}:${await textOf(`/sys/dev/block/${numbers}/../dev`)}`);
    for (const key of await unitKeyOf(`/sys/dev/block/${numbers}/..`)) keys.push(`within:${key}`);
  }
  if (backing?.whole) {
    const behind = await stat(backing.path).catch(() => undefined);
    if (behind) keys.push(`file:${boot}:${behind.dev}:${behind.ino}`);
  }
  const stable = backing?.whole ? backing.path : await stableDeviceName(numbers, canonical);
  const model = await textOf(`/sys/dev/block/${numbers}/device/model`);
  return {
    uuid: derivedUuid("lunsync volume", machine, stable),
    keys,
    description: backing
      ? `loop device over ${backing.path}`
      : model === ""
        ? "block device"
        : `block device ${model}`,
  };
}

/**
 * The key that a logical unit has at every initiator and on every path (unitKeys() of volume/unit-facts.ts), for a disk
 * that the kernel is attached to. Only names that are unique in the world count.
 */
async function unitKeyOf(directory: string): Promise<string[]> {
  const wwid = await textOf(`${directory}/device/wwid`);
  return /^(naa|eui)\.[0-9a-f]+$/.test(wwid) ? [`unit:${wwid}`] : [];
}

/** A name of the device that outlives a reboot: its WWID or DM UUID, else its path. */
async function stableDeviceName(numbers: string, path: string): Promise<string> {
  const directory = `/sys/dev/block/${numbers}`;
  for (const attribute of ["wwid", "device/wwid", "dm/uuid"]) {
    const value = await textOf(`${directory}/${attribute}`);
    if (value !== "") return `${attribute}:${value}`;
  }
  return path;
}

/** Sectors written to a device since it appeared: it changes with every write that reached the device. */
export async function deviceWriteCount(device: number): Promise<string | undefined> {
  const fields = (await textOf(`/sys/dev/block/${majorMinor(device)}/stat`)).split(/\s+/);
  // Documentation/block/stat.rst: fields 7 and 14 are sectors written and discarded. Not the count of writes: an empty
  // flush, such as this program's own, is one.
  return fields.length < 7 ? undefined : `${fields[6]}:${fields[13] ?? 0}`;
}

/** When a regular file was changed last, in ms since 1970; undefined for a device, of which nobody knows. */
export async function lastChangeMs(path: string): Promise<number | undefined> {
  const found = await stat(path);
  return found.isFile() ? Math.max(found.mtimeMs, found.ctimeMs) : undefined;
}

/** Who uses a volume, in words for a message: `mounted at /srv`, `opened for writing by tgtd (pid 812)`. */
export interface Use {
  readonly kind: "mounted" | "swap" | "held" | "loop" | "open";
  readonly words: string;
}

const unescapeMount = (text: string) =>
  text.replace(/\\([0-7]{3})/g, (_, octal) => String.fromCharCode(Number.parseInt(octal, 8)));

async function mountsByDevice(): Promise<Map<string, { where: string; readonly: boolean }>> {
  const mounts = new Map<string, { where: string; readonly: boolean }>();
  for (const line of (await textOf("/proc/self/mountinfo")).split("\n")) {
    const fields = line.split(" ");
    if (fields.length < 6) continue;
    mounts.set(fields[2]!, {
      where: unescapeMount(fields[4]!),
      readonly: fields[5]!.split(",").includes("ro"),
    });
  }
  return mounts;
}

/** The device itself and everything built on it: partitions, device mapper, RAID. */
async function deviceAndHolders(numbers: string, seen = new Set<string>()): Promise<Set<string>> {
  if (seen.has(numbers)) return seen;
  seen.add(numbers);
  const directory = `/sys/dev/block/${numbers}`;
  for (const holder of await listOf(`${directory}/holders`)) {
    const dev = await textOf(`${directory}/holders/${holder}/dev`);
    if (dev !== "") await deviceAndHolders(dev, seen);
  }
  for (const entry of await listOf(directory)) {
    if ((await textOf(`${directory}/${entry}/partition`)) === "") continue;
    const dev = await textOf(`${directory}/${entry}/dev`);
    if (dev !== "") await deviceAndHolders(dev, seen);
  }
  return seen;
}

async function loopsOver(file: { dev: number; ino: number }): Promise<string[]> {
  const found: string[] = [];
  for (const name of await listOf("/sys/block")) {
    if (!name.startsWith("loop")) continue;
    const backing = await textOf(`/sys/block/${name}/loop/backing_file`);
    if (backing === "") continue;
    const behind = await stat(backing).catch(() => undefined);
    if (behind && behind.dev === file.dev && behind.ino === file.ino) found.push(name);
  }
  return found;
}

/** The program of a process, for people: not the name of its thread, which may be anything. */
async function commandOf(pid: string): Promise<string> {
  const [first = "", ...rest] = (await textOf(`/proc/${pid}/cmdline`)).split("\0");
  const name = basename(first);
  const script = name === "node" ? rest.find((word) => !word.startsWith("-")) : undefined;
  return script === undefined ? name : basename(script);
}

async function writersOf(
  matches: (info: { dev: number; ino: number; rdev: number; block: boolean }) => boolean,
): Promise<Use[]> {
  const uses: Use[] = [];
  for (const pid of await listOf("/proc")) {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) continue;
    for (const fd of await listOf(`/proc/${pid}/fd`)) {
      const target = await readlink(`/proc/${pid}/fd/${fd}`).catch(() => "");
      if (!target.startsWith("/")) continue; // sockets, pipes
      const info = await stat(`/proc/${pid}/fd/${fd}`).catch(() => undefined);
      if (!info || !matches({ dev: info.dev, ino: info.ino, rdev: info.rdev, block: info.isBlockDevice() }))
        continue;
      const flags = /^flags:\s*([0-7]+)/m.exec(await textOf(`/proc/${pid}/fdinfo/${fd}`))?.[1];
      if (flags === undefined || (Number.parseInt(flags, 8) & 0o3) === 0) continue; // O_RDONLY
      const command = await commandOf(pid);
      uses.push({ kind: "open", words: `opened for writing by ${command || "a process"} (pid ${pid})` });
      break;
    }
  }
  return uses;
}

/** Everybody who uses the volume at `path` so that writing to it behind their back would do damage. */
export async function usesOf(path: string): Promise<Use[]> {
  const info = await stat(path).catch(() => undefined);
  if (!info) return [];
  const mounts = await mountsByDevice();
  const swaps = (await textOf("/proc/swaps"))
    .split("\n")
    .slice(1)
    .map((line) => line.split(/\s+/)[0]!);
  const uses: Use[] = [];
  const lookAt = async (numbers: string) => {
    for (const each of await deviceAndHolders(numbers)) {
      const mount = mounts.get(each);
      const name = await readlink(`/sys/dev/block/${each}`).then(
        (link) => link.split("/").pop()!,
        () => each,
      );
      const through = each === numbers ? "" : ` through ${name}`;
      if (mount) uses.push({ kind: "mounted", words: `mounted at ${mount.where}${through}` });
      else if (swaps.includes(`/dev/${name}`)) uses.push({ kind: "swap", words: `used as swap${through}` });
      else if (each !== numbers && (await listOf(`/sys/dev/block/${each}/slaves`)).length > 0) {
        uses.push({ kind: "held", words: `part of ${name}` });
      }
    }
  };
  if (info.isBlockDevice()) {
    await lookAt(majorMinor(info.rdev));
    uses.push(...(await writersOf((open) => open.block && open.rdev === info.rdev)));
    return uses;
  }
  if (swaps.includes(await realpath(path))) uses.push({ kind: "swap", words: "used as swap" });
  for (const loop of await loopsOver(info)) {
    const before = uses.length;
    await lookAt(await textOf(`/sys/block/${loop}/dev`));
    if (uses.length === before) uses.push({ kind: "loop", words: `behind /dev/${loop}` });
  }
  uses.push(...(await writersOf((open) => !open.block && open.dev === info.dev && open.ino === info.ino)));
  return uses;
}

/** If the volume at `path` is mounted, where; for a warning about a source that may change. */
export async function mountedAt(path: string): Promise<string | undefined> {
  const use = (await usesOf(path)).find((candidate) => candidate.kind === "mounted");
  return use?.words;
}
