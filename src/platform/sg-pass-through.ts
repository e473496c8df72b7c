// SCSI commands to a device of this host, through the kernel's SG_IO and sg3_utils' library.
//
// Guarantees: a promise settles when the kernel is done with the buffers that were lent; until then they are kept alive
// here. Nothing blocks the event loop but opening the device, which does not wait.
import { readdirSync, readFileSync, realpathSync } from "node:fs";
import { basename } from "node:path";
import { native } from "./native.ts";

const addon = native as unknown as {
  sgStart(libraries: readonly string[], callback: Callback): string | undefined;
  sgOpen(path: string, writable: boolean): number;
  sgClose(descriptor: number): void;
  sgHold(busy: boolean): void;
  sgExecute(
    tag: number,
    descriptor: number,
    cdb: Uint8Array,
    dataOut: Uint8Array | undefined,
    dataIn: Uint8Array | undefined,
    timeoutSeconds: number,
  ): void;
};

type Callback = (
  tag: number,
  category: number,
  status: number,
  residual: number,
  osError: number,
  sense: Buffer,
  transport: string,
) => void;

const categories = ["good", "status", "sense", "transport", "system"] as const;

export interface PassThroughResult {
  /** Who ended the command: the device (the first three), the way to it, or this system. */
  readonly category: (typeof categories)[number];
  readonly status: number;
  /** Bytes of the buffer that were not used. */
  readonly residual: number;
  /** errno, for "system". */
  readonly osError: number;
  readonly sense: Buffer;
  /** The library's words, for "transport": `Host_status=0x03 [DID_TIME_OUT]`. */
  readonly transport: string;
}

interface Waiting {
  resolve(result: PassThroughResult): void;
  /** Lent to the addon. */
  held: unknown;
}

/** Debian's names of the library, the newest first; others follow the same scheme. */
const libraries = [
  "libsgutils2-1.48.so.2",
  "libsgutils2-1.47.so.2",
  "libsgutils2-1.46.so.2",
  "libsgutils2-1.45.so.2",
  "libsgutils2.so.2",
  "libsgutils2.so",
];

const waiting = new Map<number, Waiting>();
let nextTag = 1;

function settle(...[tag, category, status, residual, osError, sense, transport]: Parameters<Callback>): void {
  const entry = waiting.get(tag);
  waiting.delete(tag);
  if (waiting.size === 0) addon.sgHold(false);
  entry?.resolve({ category: categories[category] ?? "system", status, residual, osError, sense, transport });
}

/** Why SCSI pass-through can't be used here; undefined if it can. */
export function whyNoPassThrough(): string | undefined {
  const named = process.env.LUNSYNC_SGUTILS;
  return addon.sgStart(named === undefined ? libraries : [named], settle);
}

/** A descriptor, or a negative errno. */
export const openPassThrough = (path: string, writable: boolean): number => addon.sgOpen(path, writable);

export const closePassThrough = (descriptor: number): void => addon.sgClose(descriptor);

/** At most one of the buffers; the timeout is rounded up to seconds. */
export function passThrough(
  descriptor: number,
  cdb: Buffer,
  dataOut: Buffer | undefined,
  dataIn: Buffer | undefined,
  timeoutMs: number,
): Promise<PassThroughResult> {
  const tag = nextTag++;
  if (waiting.size === 0) addon.sgHold(true);
  return new Promise((resolve) => {
    waiting.set(tag, { resolve, held: [dataOut, dataIn] });
    addon.sgExecute(tag, descriptor, cdb, dataOut, dataIn, Math.max(1, Math.ceil(timeoutMs / 1000)));
  });
}

/** The block device (`sda`) of an sg, bsg or block device node; undefined if it has none. */
export function blockDeviceOf(path: string): string | undefined {
  try {
    const name = basename(realpathSync(path));
    for (const folder of [
      `/sys/class/scsi_generic/${name}/device/block`,
      `/sys/class/bsg/${name}/device/block`,
    ]) {
      try {
        return readdirSync(folder)[0];
      } catch {
        // the other kind
      }
    }
    return readdirSync("/sys/class/block").includes(name) ? name : undefined;
  } catch {
    return undefined;
  }
}

/** The most bytes that the kernel passes in one request to a block device; undefined if it does not say. */
export function requestBytesMax(blockDevice: string): number | undefined {
  try {
    return 1024 * Number(readFileSync(`/sys/class/block/${blockDevice}/queue/max_sectors_kb`, "utf8"));
  } catch {
    return undefined;
  }
}
