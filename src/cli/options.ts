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

/** Bytes a second: `50M`, `1.5G/s`. */
export function parseBandwidth(text: string): number {
  const bytes = parseSize(text.replace(/\/s$/i, ""));
  if (bytes === undefined || bytes < 1024) {
    throw new InvalidArgumentError("a bandwidth is a number of bytes a second of at least 1K, such as 50M.");
  }
  return bytes;
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
