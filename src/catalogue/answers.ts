// What a catalogue answers when digests are asked for: what it believes, and for the rest what the data says.
//
// Guarantees: what is digested for an answer is remembered, where no write has touched it meanwhile. An extent that a scrub
// found to differ is answered for like one that can't be read.
import { AgentError } from "../base/errors.ts";
import { encodingBlock } from "../digest/encoding.ts";
import { encodeIdentifiers } from "../platform/native-digest.ts";
import type { Random } from "../platform/random.ts";
import { volumeIdentifiers } from "../volume/read-digests.ts";
import type { DigestAnswer, DigestWindow, Unreadable, Volume } from "../volume/volume.ts";
import type { Catalogue } from "./catalogue.ts";
import { fanOut } from "./shape.ts";
import { extentKnowledge } from "./tree.ts";

export interface AnswersOf {
  readonly catalogue: Catalogue;
  /** Without its catalogue. */
  readonly volume: Volume;
  readonly extentBlocks: number;
  readonly random: Random;
}

export class Answers {
  readonly #of: AnswersOf;

  constructor(of: AnswersOf) {
    this.#of = of;
  }

  #blocksOfValues(window: DigestWindow, step: number): Buffer {
    const blocks = Buffer.alloc(16 * window.extents);
    for (let i = 0; i < window.extents; i++) {
      encodingBlock(window.initialValue, window.lba + i * step, blocks, 16 * i);
    }
    return blocks;
  }

  /** Identifiers of extents: the catalogue's, and for the rest the data's. */
  async identify(
    first: number,
    extents: number,
    signal?: AbortSignal,
    catalogueOnly = false,
  ): Promise<{ identifiers: Buffer; extents: number; unreadable: Unreadable | undefined }> {
    const { catalogue, volume, extentBlocks } = this.#of;
    const { identifierBytes } = catalogue.shape;
    const { identifiers, knowledge } = await catalogue.look(first, extents);
    for (let i = 0; i < extents; ) {
      if (knowledge[i] === extentKnowledge.known) {
        i++;
        continue;
      }
      if (knowledge[i] === extentKnowledge.suspect) {
        const lba = (first + i) * extentBlocks;
        return {
          identifiers,
          extents: i,
          unreadable: { lba, reason: `the medium differs from what was written at LBA ${lba}` },
        };
      }
      if (catalogueOnly) throw this.#notKnown((first + i) * extentBlocks);
      let end = i + 1;
      while (end < extents && knowledge[end] === extentKnowledge.unknown) end++;
      let unreadable: Unreadable | undefined;
      const learnt = await catalogue.learn(first + i, end - i, async () => {
        const found = await volumeIdentifiers(
          volume,
          {
            lba: (first + i) * extentBlocks,
            extentBlocks,
            extents: end - i,
            digest: catalogue.digest,
            fresh: false,
          },
          signal,
        );
        unreadable = found.unreadable;
        return { identifiers: found.values, extents: found.extents };
      });
      learnt.identifiers.copy(identifiers, i * identifierBytes, 0, learnt.extents * identifierBytes);
      if (learnt.extents < end - i) return { identifiers, extents: i + learnt.extents, unreadable };
      i = end;
    }
    return { identifiers, extents, unreadable: undefined };
  }

  /** Values of extents, encoded; or, with `input` (16 bytes each), decoded. */
  async encoded(
    window: DigestWindow,
    input: Buffer | undefined,
    signal?: AbortSignal,
  ): Promise<DigestAnswer> {
    const { identifierBytes } = this.#of.catalogue.shape;
    const first = window.lba / window.extentBlocks;
    const found = await this.identify(first, window.extents, signal, window.catalogueOnly);
    const { extents, unreadable } = found;
    const blocks = (input ?? this.#blocksOfValues(window, window.extentBlocks)).subarray(0, 16 * extents);
    const identifiers = found.identifiers.subarray(0, identifierBytes * extents);
    const whole = encodeIdentifiers(identifiers, identifierBytes, blocks, input !== undefined);
    return { values: narrowed(whole, window.width), extents, unreadable };
  }

  #notKnown(lba: number): AgentError {
    return new AgentError(
      "not_known",
      `The catalogue of "${this.#of.volume.name}" knows nothing of LBA ${lba}`,
      {
        lba,
      },
    );
  }

  /** Nodes of the tree. One that is not believed is answered with what equals nothing. */
  async nodes(window: DigestWindow): Promise<DigestAnswer> {
    const level = window.level!;
    const { catalogue, extentBlocks, volume, random } = this.#of;
    const { identifierBytes, rootLevel, nodes } = catalogue.shape;
    const step = extentBlocks * fanOut ** level;
    const first = window.lba / step;
    const suits =
      window.digest.text === catalogue.digest.text &&
      window.extentBlocks === extentBlocks &&
      level <= rootLevel &&
      Number.isInteger(first) &&
      first + window.extents <= nodes[level]!;
    if (!suits)
      throw new AgentError("not_known", `The catalogue of "${volume.name}" has no such nodes (any more)`);
    const found = await catalogue.nodes(level, first, window.extents);
    const unknown = found.indexOf(undefined);
    if (window.catalogueOnly && unknown >= 0) throw this.#notKnown((first + unknown) * step);
    const identifiers = Buffer.concat(found.map((each) => each ?? random.bytes(identifierBytes)));
    const whole = encodeIdentifiers(identifiers, identifierBytes, this.#blocksOfValues(window, step), false);
    return { values: narrowed(whole, window.width), extents: window.extents, unreadable: undefined };
  }
}

/** Values of 16 bytes cut to their first `width`. */
function narrowed(values: Buffer, width: number): Buffer {
  if (width === 16) return values;
  const cut = Buffer.allocUnsafe((values.length / 16) * width);
  for (let from = 0, to = 0; from < values.length; from += 16, to += width) {
    values.copy(cut, to, from, from + width);
  }
  return cut;
}
