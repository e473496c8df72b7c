// Key=value text of login and text PDUs.
//
// decodeText() takes any bytes and gives pairs or a TextError; it never gives more pairs than fit `textBytesMax`.
// Text with control characters is refused: names and values end up in logs and on terminals.
//
// Source: RFC 7143, 6.1 Text Format: keys of 1 to 63 characters, values terminated by NUL.

export class TextError extends Error {
  override readonly name = "TextError";
}

export type TextPairs = [key: string, value: string][];

/** The most bytes of text that one negotiation step may carry, all continuation PDUs together. */
export const textBytesMax = 64 * 1024;

const keyBytesMax = 63;

/** Controls, formats that turn or hide text, line and paragraph separators: all but the NULs between the pairs. */
const unprintable = /(?!\0)[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u;

function itemsOf(bytes: Buffer): string[] {
  const text = bytes.toString("utf8");
  if (unprintable.test(text)) throw new TextError("the text holds control characters");
  return text.split("\0").filter((item) => item !== ""); // initiators pad with NULs
}

/** @throws TextError */
export function decodeText(bytes: Buffer): TextPairs {
  if (bytes.length > textBytesMax) throw new TextError(`more than ${textBytesMax} bytes of text`);
  if (bytes.length === 0) return [];
  if (bytes[bytes.length - 1] !== 0) throw new TextError("the text does not end with NUL");
  const pairs: TextPairs = [];
  const seen = new Set<string>();
  for (const item of itemsOf(bytes)) {
    const equals = item.indexOf("=");
    if (equals < 1) throw new TextError(`"${item.slice(0, 40)}" is no key=value pair`);
    const key = item.slice(0, equals);
    if (key.length > keyBytesMax)
      throw new TextError(`the key "${key.slice(0, 40)}…" is longer than ${keyBytesMax}`);
    if (!/^[A-Z][A-Za-z0-9.\-+@_#]*$/.test(key)) throw new TextError(`"${key}" is no key name`);
    if (seen.has(key)) throw new TextError(`the key "${key}" comes twice`);
    seen.add(key);
    pairs.push([key, item.slice(equals + 1)]);
  }
  return pairs;
}

/** As {@link decodeText}, where one key may come several times: the answer to SendTargets. @throws TextError */
export function decodeTextList(bytes: Buffer): TextPairs {
  const pairs: TextPairs = [];
  for (const item of itemsOf(bytes)) {
    const equals = item.indexOf("=");
    if (equals < 1) throw new TextError(`"${item.slice(0, 40)}" is no key=value pair`);
    pairs.push([item.slice(0, equals), item.slice(equals + 1)]);
  }
  return pairs;
}

export function encodeText(pairs: readonly (readonly [key: string, value: string])[]): Buffer {
  return Buffer.from(pairs.map(([key, value]) => `${key}=${value}\0`).join(""), "utf8");
}

/** A number as RFC 7143 writes them: decimal, or hexadecimal with 0x; undefined for anything else. */
export function parseNumber(text: string): number | undefined {
  if (!/^(?:\d{1,10}|0[xX][0-9a-fA-F]{1,8})$/.test(text)) return undefined;
  const value = Number(text);
  return value <= 0xffffffff ? value : undefined;
}

/** Binary values: `0x…` hexadecimal or `0b…` base64; undefined for anything else. */
export function parseBinary(text: string): Buffer | undefined {
  const hex = /^0[xX]([0-9a-fA-F]+)$/.exec(text);
  if (hex) return Buffer.from(hex[1]!.length % 2 === 0 ? hex[1]! : `0${hex[1]}`, "hex");
  const base64 = /^0[bB]([A-Za-z0-9+/]+={0,2})$/.exec(text);
  if (base64) return Buffer.from(base64[1]!, "base64");
  return undefined;
}

export const formatBinary = (bytes: Buffer): string => `0x${bytes.toString("hex")}`;
