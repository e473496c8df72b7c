// Histories in a synchronization: what neither side has changed since the generation that they have in common is passed
// over, by its name alone.
//
// Guarantees: extents are passed over only if both sides name the same generation of this very pair, and neither names
// them as changed. A generation is committed, on both sides, only after a run that found everything equal; what was
// written since that run began counts as changed since the generation. Whatever goes wrong with histories, the volumes
// are compared.

import { createHash } from "node:crypto";
import { together } from "../base/async.ts";
import { AgentError } from "../base/errors.ts";
import { complement, type Range, union } from "../base/ranges.ts";
import type { CatalogueOffer, GenerationChanges } from "../volume/volume.ts";
import { commonCatalogue } from "./descend.ts";
import type { SynchronizeOptions } from "./job.ts";
import type { PlannedWindow } from "./plan.ts";

/** The ranges that have changed, of `total` extents. */
export const changedRanges = ({ names, ranges }: GenerationChanges, total: number): Range[] =>
  names === "changed" ? [...ranges] : complement(ranges, total);

export class Generations {
  readonly #job: SynchronizeOptions;
  readonly #pair: Buffer;
  readonly #generation: Buffer;
  readonly #catalogue: CatalogueOffer;
  /** What may have changed since the generation in common; undefined if there is none. */
  readonly changed: readonly Range[] | undefined;

  private constructor(
    job: SynchronizeOptions,
    pair: Buffer,
    generation: Buffer,
    catalogue: CatalogueOffer,
    changed: readonly Range[] | undefined,
  ) {
    this.#job = job;
    this.#pair = pair;
    this.#generation = generation;
    this.#catalogue = catalogue;
    this.changed = changed;
  }

  /** Begins a generation on both sides, and asks them what has changed since the last; undefined if one keeps none. */
  static async begin(job: SynchronizeOptions): Promise<Generations | undefined> {
    const { source, replica, random, signal } = job;
    const catalogue = commonCatalogue(job);
    const [ours, theirs] = [source.identity.uuid, replica.identity.uuid];
    const kept = [source, replica].every(
      (volume) => volume.traits.keepsHistories && volume.beginGeneration && volume.changesSince,
    );
    if (!catalogue || !kept || ours === undefined || theirs === undefined) return undefined;
    const pair = createHash("sha256").update(`${ours}\n${theirs}`).digest().subarray(0, 16);
    try {
      // Before anything is looked at: what changes from here on belongs to the next run. Whoever begins another one
      // meanwhile keeps this one from being committed.
      const generation = random.bytes(16);
      await together([
        source.beginGeneration!(pair, generation, signal),
        replica.beginGeneration!(pair, generation, signal),
      ]);
      const [since, sinceTheirs] = await together([
        source.changesSince!(pair, signal),
        replica.changesSince!(pair, signal),
      ]);
      const total = Math.ceil(source.geometry.blocks / catalogue.extentBlocks);
      const common = since && sinceTheirs && since.generation.equals(sinceTheirs.generation);
      const changed = common && union(changedRanges(since, total), changedRanges(sinceTheirs, total));
      return new Generations(job, pair, generation, catalogue, changed || undefined);
    } catch (error) {
      if (!(error instanceof AgentError) || error.code === "interrupted") throw error;
      job.onNotice?.(`There is no use of histories in this run: ${error.message}`);
      return undefined;
    }
  }

  /** Windows of what may have changed. */
  *windows(extents: number, passed: (extents: number) => void): Generator<PlannedWindow> {
    const { extentBlocks } = this.#catalogue;
    const total = Math.ceil(this.#job.source.geometry.blocks / extentBlocks);
    let at = 0;
    for (const { first, count } of this.changed ?? []) {
      passed(first - at);
      at = first + count;
      for (let done = 0; done < count; done += extents) {
        yield { lba: (first + done) * extentBlocks, extents: Math.min(extents, count - done) };
      }
    }
    passed(total - at);
  }

  /** Both sides are equal: that is their generation in common. If one of them does not learn it, they have none; false. */
  async commit(): Promise<boolean> {
    const { source, replica, signal, onNotice } = this.#job;
    try {
      await replica.commitGeneration!(this.#pair, this.#generation, signal);
      await source.commitGeneration!(this.#pair, this.#generation, signal);
      return true;
    } catch (error) {
      if (!(error instanceof AgentError)) throw error;
      onNotice?.(`The next run has to compare anew: ${error.message}`);
      return false;
    }
  }
}
