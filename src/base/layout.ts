// A wire format written once: one table of fields gives the decoder, the encoder, the type, the map of
// reserved bits and a generator of random values.
//
// Guarantees: decode() reads exactly `bytes` bytes and never outside them; a constant that does not match or
// a short buffer is a LayoutError that names the field, never a wrong value. encode() leaves reserved bits 0
// and refuses values that do not fit. All integers are big-endian, as in every SCSI and iSCSI format.
//
// The decoder and encoder are compiled from the table when a layout is declared: they run for every PDU, and
// a loop over field descriptions costs four times as much. The compiled text comes from the table alone.
import { assert } from "./assert.ts";

/** Bytes do not fit their layout. `byte` and `bit` point at the field, as SCSI's field pointers do. */
export class LayoutError extends Error {
  override readonly name = "LayoutError";
  readonly byte: number;
  readonly bit: number;

  constructor(message: string, byte = 0, bit = 7) {
    super(message);
    this.byte = byte;
    this.bit = bit;
  }
}

type Kind = "uint" | "u64" | "flag" | "bytes" | "ascii";

/** One field: where it lies and what it holds. Made by {@link u8} … {@link constant}. */
export interface Field<T> {
  readonly kind: Kind;
  readonly byte: number;
  readonly length: number;
  /** Most significant bit within `byte`, for fields of bits. */
  readonly msb: number;
  /** Width in bits; 8 × length for whole bytes. */
  readonly width: number;
  readonly constant?: T;
}

/** A field that the encoder fills and the decoder checks; it is no part of the values. */
export interface ConstantField<T> extends Field<T> {
  readonly constant: T;
}

const whole = (byte: number, length: number, kind: Kind): Field<never> => ({
  kind,
  byte,
  length,
  msb: 7,
  width: 8 * length,
});
export const u8 = (byte: number): Field<number> => whole(byte, 1, "uint");
export const u16 = (byte: number): Field<number> => whole(byte, 2, "uint");
export const u24 = (byte: number): Field<number> => whole(byte, 3, "uint");
export const u32 = (byte: number): Field<number> => whole(byte, 4, "uint");
export const u48 = (byte: number): Field<number> => whole(byte, 6, "uint");
export const u64 = (byte: number): Field<bigint> => whole(byte, 8, "u64");
/** One bit; bit 7 is the most significant. */
export const flag = (byte: number, bit: number): Field<boolean> => ({
  kind: "flag",
  byte,
  length: 1,
  msb: bit,
  width: 1,
});
/** `width` bits of one byte, the most significant of them at `msb`. */
export const bits = (byte: number, msb: number, width: number): Field<number> => ({
  kind: "uint",
  byte,
  length: 1,
  msb,
  width,
});
/** A run of raw bytes; decoded as a view, not a copy. */
export const raw = (byte: number, length: number): Field<Buffer> => whole(byte, length, "bytes");
/** ASCII, left-aligned, padded with spaces (SPC-4, 4.3.1); decoded without the padding. */
export const ascii = (byte: number, length: number): Field<string> => whole(byte, length, "ascii");
export const constant = <T>(field: Field<T>, value: T): ConstantField<T> => ({ ...field, constant: value });

type Fields = Record<string, Field<unknown>>;
type ValueOf<F> = F extends Field<infer T> ? T : never;
type VariableKeys<F extends Fields> = {
  [K in keyof F]: F[K] extends ConstantField<unknown> ? never : K;
}[keyof F];

/** The values of a table of fields, constants left out. */
export type ValuesOf<F extends Fields> = { [K in VariableKeys<F>]: ValueOf<F[K]> };

/** The values of a layout. */
export type FieldsOf<L> = L extends Layout<infer F> ? ValuesOf<F> : never;

export interface Layout<F extends Fields> {
  readonly name: string;
  /** The standard and section that it is taken from. */
  readonly source: string;
  readonly bytes: number;
  readonly fields: F;
  /** One bit set for every bit that a field owns (reserved bits are 0). */
  readonly usage: Buffer;
  /** Reads the values at `at`. @throws LayoutError */
  decode(buffer: Buffer, at?: number): ValuesOf<F>;
  /** Writes the values at `at`; fields left out are zero. @throws LayoutError for a value that does not fit */
  encodeInto(buffer: Buffer, values: Partial<ValuesOf<F>>, at?: number): void;
  /** A new buffer of `bytes` bytes. @throws LayoutError for a value that does not fit */
  encode(values: Partial<ValuesOf<F>>): Buffer;
  /** The first reserved bit that is set, or undefined. */
  reservedBitSet(buffer: Buffer, at?: number): { byte: number; bit: number } | undefined;
  /** Values drawn by `random` (0 ≤ result < 1), for round-trip tests. */
  sample(random: () => number): ValuesOf<F>;
}

// The tail of Buffer's methods: a fixed width is several times faster than the variable one.
function integerMethod(length: number, at: string, value = ""): string {
  return length === 2 || length === 4 ? `${8 * length}BE(${value}${at})` : `BE(${value}${at},${length})`;
}

function readExpression(field: Field<unknown>): string {
  const at = `at+${field.byte}`;
  switch (field.kind) {
    case "flag":
      return `(b[${at}]&${1 << field.msb})!==0`;
    case "u64":
      return `b.readBigUInt64BE(${at})`;
    case "bytes":
      return `b.subarray(${at},${at}+${field.length})`;
    case "ascii":
      return `b.latin1Slice(${at},${at}+${field.length}).trimEnd()`;
    case "uint":
      if (field.width < 8) {
        return `(b[${at}]>>${field.msb - field.width + 1})&${2 ** field.width - 1}`;
      }
      return field.length === 1 ? `b[${at}]` : `b.readUInt${integerMethod(field.length, at)}`;
  }
}

function writeStatement(name: string, field: Field<unknown>): string {
  const at = `at+${field.byte}`;
  const value = field.constant === undefined ? `v.${name}` : "c";
  const fits = (test: string) => `if(!(${test}))unfit(${JSON.stringify(name)},x);`;
  let body: string;
  switch (field.kind) {
    case "flag":
      body = `if(x)b[${at}]|=${1 << field.msb};`;
      break;
    case "u64":
      body = `${fits("typeof x==='bigint'&&x>=0n&&x<18446744073709551616n")}b.writeBigUInt64BE(x,${at});`;
      break;
    case "bytes":
      body = `${fits(`x.length<=${field.length}`)}b.set(x,${at});`;
      break;
    case "ascii":
      body =
        `${fits(`x.length<=${field.length}&&/^[\\x20-\\x7e]*$/.test(x)`)}` +
        `b.latin1Write(x.padEnd(${field.length}," "),${at});`;
      break;
    case "uint":
      body = fits(`Number.isInteger(x)&&x>=0&&x<${2 ** field.width}`);
      body +=
        field.width < 8
          ? `b[${at}]|=x<<${field.msb - field.width + 1};`
          : field.length === 1
            ? `b[${at}]=x;`
            : `b.writeUInt${integerMethod(field.length, at, "x,")};`;
      break;
  }
  if (field.constant !== undefined) {
    const literal =
      typeof field.constant === "bigint" ? `${field.constant}n` : JSON.stringify(field.constant);
    return `{const x=${literal};${body}}`;
  }
  // A text field left out is spaces; every other one is zero.
  const absent = field.kind === "ascii" ? `{const x="";${body}}` : "";
  return `{const x=${value};if(x!==undefined){${body}}${absent ? `else${absent}` : ""}}`;
}

function usageOf(name: string, size: number, fields: Fields): Buffer {
  const usage = Buffer.alloc(size);
  for (const [key, field] of Object.entries(fields)) {
    assert(field.byte + field.length <= size, `layout ${name}: field ${key} ends outside it`);
    for (let i = 0; i < field.length; i++) {
      const mask = field.width < 8 ? (2 ** field.width - 1) << (field.msb - field.width + 1) : 0xff;
      assert((usage[field.byte + i]! & mask) === 0, `layout ${name}: field ${key} overlaps another`);
      usage[field.byte + i]! |= mask;
    }
  }
  return usage;
}

function sampleField(field: Field<unknown>, random: () => number): unknown {
  const byte = () => Math.floor(random() * 256);
  switch (field.kind) {
    case "flag":
      return random() < 0.5;
    case "uint":
      return Math.floor(random() * 2 ** field.width);
    case "u64":
      return Buffer.from(Array.from({ length: 8 }, byte)).readBigUInt64BE();
    case "bytes":
      return Buffer.from(Array.from({ length: field.length }, byte));
    case "ascii":
      return String.fromCharCode(
        ...Array.from({ length: field.length }, () => 0x21 + Math.floor(random() * 94)),
      );
  }
}

/** Declares a format of `bytes` bytes. See the head of this file for what the result guarantees. */
export function layout<const F extends Fields>(table: {
  name: string;
  source: string;
  bytes: number;
  fields: F;
}): Layout<F> {
  const { name, source, bytes, fields } = table;
  const usage = usageOf(name, bytes, fields);
  const entries = Object.entries(fields);

  const short = (length: number): never => {
    throw new LayoutError(`${name}: ${length} bytes where ${bytes} are needed`, Math.max(0, length));
  };
  const mismatch = (key: string, found: unknown, field: Field<unknown>): never => {
    throw new LayoutError(
      `${name}: ${key} is ${String(found)} and must be ${String(field.constant)}`,
      field.byte,
      field.msb,
    );
  };
  const unfit = (key: string, value: unknown): never => {
    throw new LayoutError(`${name}: ${String(value)} does not fit the field ${key}`, fields[key]!.byte);
  };

  const checks = entries
    .filter(([, field]) => field.constant !== undefined)
    .map(([key, field]) => {
      const literal =
        typeof field.constant === "bigint" ? `${field.constant}n` : JSON.stringify(field.constant);
      const text = JSON.stringify(key);
      return `{const x=${readExpression(field)};if(x!==${literal})mismatch(${text},x,fields[${text}]);}`;
    });
  const reads = entries
    .filter(([, field]) => field.constant === undefined)
    .map(([key, field]) => `${key}:${readExpression(field)}`);
  const decode = new Function(
    "short",
    "mismatch",
    "fields",
    `return function decode(b,at=0){if(b.length-at<${bytes})short(b.length-at);${checks.join("")}return {${reads.join(",")}};}`,
  )(short, mismatch, fields);
  const encodeInto = new Function(
    "unfit",
    "short",
    `return function encodeInto(b,v,at=0){if(b.length-at<${bytes})short(b.length-at);` +
      `b.fill(0,at,at+${bytes});${entries.map(([key, field]) => writeStatement(key, field)).join("")}}`,
  )(unfit, short);

  return {
    name,
    source,
    bytes,
    fields,
    usage,
    decode,
    encodeInto,
    encode(values) {
      const buffer = Buffer.alloc(bytes);
      encodeInto(buffer, values);
      return buffer;
    },
    reservedBitSet(buffer, at = 0) {
      for (let byte = 0; byte < bytes; byte++) {
        const set = buffer[at + byte]! & ~usage[byte]!;
        if (set !== 0) return { byte, bit: 31 - Math.clz32(set) };
      }
      return undefined;
    },
    sample(random) {
      const values: Record<string, unknown> = {};
      for (const [key, field] of entries) {
        if (field.constant === undefined) values[key] = sampleField(field, random);
      }
      return values as ValuesOf<F>;
    },
  };
}
