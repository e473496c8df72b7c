// Values of options: text in, checked value out, or an error that says what is wanted.
import { InvalidArgumentError } from "commander";
import { messageOf } from "../base/errors.ts";
import { formatBytes, MiB, parseSize } from "../base/units.ts";
import { type DigestSpec, parseDigestSpec } from "../digest/spec.ts";

export const extentBytesMax = 16 * MiB;
export const extentBytesDefault = 65_536;

export function parseExtent(text: string): number {
  const bytes = parseSize(text);
  if (
    bytes === undefined ||
    bytes < 512 ||
    bytes > extentBytesMax ||
    2 ** Math.round(Math.log2(bytes)) !== bytes
  ) {
    throw new InvalidArgumentError(
      `an extent is a power of two from 512 to ${formatBytes(extentBytesMax)}, such as 64K.`,
    );
  }
  return bytes;
}

export function parseBlockSize(text: string): number {
  const bytes = parseSize(text);
  if (bytes !== 512 && bytes !== 4096)
    throw new InvalidArgumentError("logical blocks have 512 or 4096 bytes.");
  return bytes;
}

export function parseCompression(text: string): number {
  if (!/^[123]$/.test(text)) throw new InvalidArgumentError("a level of compression is 1, 2 or 3.");
  return Number(text);
}

/** Bytes a second: `50M`, `1.5G/s`. */
export function parseBandwidth(text: string): number {
  const bytes = parseSize(text.replace(/\/s$/i, ""));
  if (bytes === undefined || bytes < 1024) {
    throw new InvalidArgumentError("a bandwidth is a number of bytes a second of at least 1K, such as 50M.");
  }
  return bytes;
}

/** Bytes: `200G`. */
export function parseSpace(text: string): number {
  const bytes = parseSize(text);
  if (bytes === undefined || bytes < MiB)
    throw new InvalidArgumentError("a size is a number of bytes of at least 1M, such as 200G.");
  return bytes;
}

const durationUnits = { s: 1, m: 60, h: 3600, d: 86_400, w: 604_800 } as const;

/** Milliseconds: `90s`, `12h`, `7d`. */
export function parseDuration(text: string): number {
  const match = /^(\d{1,6})([smhdw])$/.exec(text.trim());
  const seconds = match && Number(match[1]) * durationUnits[match[2] as keyof typeof durationUnits];
  if (!seconds)
    throw new InvalidArgumentError("a duration is a number and one of s, m, h, d and w, such as 7d.");
  return 1000 * seconds;
}

export function parseDigest(text: string): DigestSpec {
  try {
    return parseDigestSpec(text);
  } catch (error) {
    throw new InvalidArgumentError(`${messageOf(error)}.`);
  }
}

export function parseWidth(text: string): 8 | 16 {
  if (text === "8") return 8;
  if (text === "16") return 16;
  throw new InvalidArgumentError("values have 8 or 16 bytes.");
}
