// Identifiers of neighbouring extents, and what they look like encoded: how what a sync point proves is compared with what
// the truth database knows.
import { encodingBlock, newInitialValue } from "../digest/encoding.ts";
import { type DigestSpec, identifierOf } from "../digest/spec.ts";
import { encodeIdentifiers } from "../platform/native-digest.ts";
import type { Random } from "../platform/random.ts";
import type { DigestAnswer, Volume } from "../volume/volume.ts";

export const valueBytes = 16;

/**
 * Asks a volume for `count` neighbouring extents from `first` on, as many at a time as it takes, past what can't be read.
 * Values come into their places of `values`; the others stay as they are. Returns those that could not be read.
 */
export async function ask(
  volume: Volume,
  first: number,
  count: number,
  values: Buffer,
  question: (first: number, extents: number) => Promise<DigestAnswer>,
): Promise<number[]> {
  const width = values.length / count;
  const unreadable: number[] = [];
  for (let i = 0; i < count; ) {
    const answer = await question(first + i, Math.min(count - i, volume.traits.windowExtentsMax));
    answer.values.copy(values, i * width, 0, answer.extents * width);
    i += answer.extents;
    if (!answer.unreadable) continue;
    unreadable.push(first + i);
    i++;
  }
  return unreadable;
}

/** What a replica proves of neighbouring extents, with a new initial value; what it can't read equals nothing. */
export async function provedBy(
  replica: Volume,
  { digest, extentBlocks }: Shape,
  first: number,
  count: number,
  how: { readonly fresh: boolean; readonly random: Random; readonly signal: AbortSignal },
): Promise<{ values: Buffer; initialValue: Buffer }> {
  const { fresh, random, signal } = how;
  const initialValue = newInitialValue(random);
  const values = random.bytes(count * valueBytes);
  await ask(replica, first, count, values, (at, extents) =>
    replica.encodeDigests(
      { lba: at * extentBlocks, extentBlocks, extents, digest, initialValue, width: valueBytes, fresh },
      signal,
    ),
  );
  return { values, initialValue };
}

/** The shape of a set's volumes. */
export interface Shape {
  readonly digest: DigestSpec;
  readonly extentBlocks: number;
  readonly blockBytes: number;
  readonly blocks: number;
}

export const extentsIn = ({ blocks, extentBlocks }: Shape): number => Math.ceil(blocks / extentBlocks);

/** Identifiers of zeros, one for each of `count` extents from `first` on: the volume's last one may be shorter. */
export class Zeros {
  readonly #shape: Shape;
  readonly #whole: Buffer;
  readonly #last: Buffer;

  constructor(shape: Shape) {
    this.#shape = shape;
    const { digest, extentBlocks, blockBytes, blocks } = shape;
    const rest = blocks % extentBlocks;
    this.#whole = identifierOf(digest, Buffer.alloc(extentBlocks * blockBytes));
    this.#last = rest === 0 ? this.#whole : identifierOf(digest, Buffer.alloc(rest * blockBytes));
  }

  of(first: number, count: number): Buffer {
    const { length } = this.#whole;
    const identifiers = Buffer.alloc(count * length);
    for (let i = 0; i < count; i++) this.at(first + i).copy(identifiers, i * length);
    return identifiers;
  }

  at(extent: number): Buffer {
    return extent === extentsIn(this.#shape) - 1 ? this.#last : this.#whole;
  }
}

/** Identifiers as a sync point encodes them with this initial value. */
export function encoded(shape: Shape, first: number, identifiers: Buffer, initialValue: Buffer): Buffer {
  const { identifierBytes } = shape.digest;
  const count = identifiers.length / identifierBytes;
  const blocks = Buffer.alloc(16 * count);
  for (let i = 0; i < count; i++)
    encodingBlock(initialValue, (first + i) * shape.extentBlocks, blocks, 16 * i);
  return encodeIdentifiers(identifiers, identifierBytes, blocks, false);
}

/** What no extent has: the content of a sync point that nobody could name. */
export const unnamed = (identifierBytes: number): Buffer => Buffer.alloc(identifierBytes, 0xff);
