// What sync points have changed since they were in step, as their own hosts remember it: the rest need not be looked at.
//
// Guarantees: an extent is passed over only at a sync point whose host names the very generation that the truth database has for
// it, and does not name the extent as changed since. That generation began before the sync point was looked at, and was
// noted only when all that it held then was the truth. Whatever goes wrong with it, everything is looked at.
import { createHash } from "node:crypto";
import { AgentError } from "../base/errors.ts";
import { append, complement, type Range } from "../base/ranges.ts";
import type { Random } from "../platform/random.ts";
import type { Member, SetFacts } from "../truth/store.ts";
import type { Volume } from "../volume/volume.ts";
import type { Shape } from "./values.ts";

export interface HistoryOptions {
  readonly facts: SetFacts;
  readonly shape: Shape;
  readonly random: Random;
  readonly signal: AbortSignal;
  /** What has changed is not asked for. */
  readonly full: boolean;
  readonly onNotice: (text: string) => void;
}

export class History {
  readonly #volume: Volume;
  readonly #member: Member;
  readonly #pair: Buffer;
  readonly #generation: Buffer;
  readonly #options: HistoryOptions;
  /** Extents of the set that may have changed since it was in step, in order; undefined: nobody knows. */
  readonly changed: readonly Range[] | undefined;

  private constructor(
    volume: Volume,
    member: Member,
    pair: Buffer,
    generation: Buffer,
    options: HistoryOptions,
    changed: readonly Range[] | undefined,
  ) {
    this.#volume = volume;
    this.#member = member;
    this.#pair = pair;
    this.#generation = generation;
    this.#options = options;
    this.changed = changed;
  }

  /** Begins a generation, before anything is looked at; undefined where the volume's host keeps no histories. */
  static async begin(volume: Volume, member: Member, options: HistoryOptions): Promise<History | undefined> {
    const { facts, shape, random, signal, full, onNotice } = options;
    const { catalogue, keepsHistories } = volume.traits;
    if (!catalogue || !keepsHistories || !volume.beginGeneration || !volume.changesSince) return undefined;
    // Of this member of this set alone: nobody else begins or commits it.
    const pair = createHash("sha256").update(`${facts.uuid}\n${member.id}`).digest().subarray(0, 16);
    const generation = random.bytes(16);
    try {
      await volume.beginGeneration(pair, generation, signal);
      const since = full ? undefined : await volume.changesSince(pair, signal);
      const isKnown =
        since !== undefined &&
        member.history === since.generation.toString("hex") &&
        facts.blocks === shape.blocks;
      let changed: Range[] | undefined;
      if (isKnown) {
        const total = Math.ceil(shape.blocks / catalogue.extentBlocks);
        const ranges = since.names === "changed" ? since.ranges : complement(since.ranges, total);
        changed = scaled(ranges, catalogue.extentBlocks, shape);
      }
      return new History(volume, member, pair, generation, options, changed);
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof AgentError)) throw error;
      onNotice(`The history of "${member.name}" is of no use in this run: ${error.message}`);
      return undefined;
    }
  }

  /** All that it held when this began is the truth: the name under which its host remembers that, if it does. */
  async commit(): Promise<string | undefined> {
    const { signal, onNotice } = this.#options;
    try {
      await this.#volume.commitGeneration!(this.#pair, this.#generation, signal);
      return this.#generation.toString("hex");
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof AgentError)) throw error;
      onNotice(`The next run has to look at all of "${this.#member.name}": ${error.message}`);
      return undefined;
    }
  }
}

/** Ranges of extents of the catalogue's size, as extents of the set's. */
function scaled(ranges: readonly Range[], fromBlocks: number, { extentBlocks, blocks }: Shape): Range[] {
  const result: Range[] = [];
  for (const { first, count } of ranges) {
    const from = Math.floor((first * fromBlocks) / extentBlocks);
    const end = Math.ceil(Math.min((first + count) * fromBlocks, blocks) / extentBlocks);
    append(result, from, end - from);
  }
  return result;
}
