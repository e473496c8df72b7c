// Sizes and positions: branded numbers so that units can't be mixed, and their text forms.
//
// Every quantity is a number below 2^53; 64-bit wire values are checked once at the edge (checkedNumber).

declare const unit: unique symbol;
type Branded<Name extends string> = number & { readonly [unit]: Name };

/** A logical block address. */
export type Lba = Branded<"lba">;
/** A count of logical blocks. */
export type Blocks = Branded<"blocks">;
/** A count of bytes, or a byte offset. */
export type Bytes = Branded<"bytes">;

export const lba = (n: number): Lba => n as Lba;
export const blocks = (n: number): Blocks => n as Blocks;
export const bytes = (n: number): Bytes => n as Bytes;

export const KiB = 1024;
export const MiB = 1024 * KiB;
export const GiB = 1024 * MiB;

/** A run of logical blocks: start and count. */
export interface BlockRange {
  readonly lba: number;
  readonly blocks: number;
}

/** A 64-bit wire value as a number, or undefined where it is 2^53 or more. */
export function checkedNumber(value: bigint): number | undefined {
  return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : undefined;
}

const suffixes: Record<string, number> = {
  "": 1,
  k: KiB,
  m: MiB,
  g: GiB,
  t: 1024 * GiB,
  p: 1024 * 1024 * GiB,
};

/**
 * Bytes of a size as people write it: `4096`, `64K`, `64KiB`, `1.5G`. Suffixes are powers of 1024.
 * Returns undefined for anything else (also for a size that is no whole number of bytes).
 */
export function parseSize(text: string): number | undefined {
  const match = /^(\d+)(?:\.(\d+))?\s*([kmgtp]?)(?:i?b)?$/i.exec(text.trim());
  if (!match) return undefined;
  const [, whole, fraction = "", suffix] = match;
  // In integers: a double would round a fraction away.
  const parts = 10n ** BigInt(fraction.length);
  const size = BigInt(whole + fraction) * BigInt(suffixes[suffix!.toLowerCase()]!);
  return size % parts === 0n ? checkedNumber(size / parts) : undefined;
}

const binaryUnits = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** `1.5 GiB`, `64 KiB`, `17 B`. */
export function formatBytes(count: number): string {
  let value = count;
  let index = 0;
  while (Math.round(value) >= 1024 && index < binaryUnits.length - 1) {
    value /= 1024;
    index++;
  }
  const digits = index === 0 || Number.isInteger(value) ? 0 : value < 10 ? 2 : value < 100 ? 1 : 0;
  return `${value.toFixed(digits)} ${binaryUnits[index]}`;
}

/** `1,048,576`. */
export function formatCount(count: number): string {
  return count.toLocaleString("en-US");
}

/** `0.4 s`, `12 s`, `3 min 05 s`, `2 h 10 min`. */
export function formatDuration(seconds: number): string {
  // The limits are those of what is shown: 59.6 s is a minute.
  if (seconds < 9.95) return `${seconds.toFixed(seconds < 0.995 ? 2 : 1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
  return `${Math.floor(whole / 3600)} h ${String(Math.floor((whole % 3600) / 60)).padStart(2, "0")} min`;
}
