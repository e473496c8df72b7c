// Moved data: extents that differ, and whose new content the replica has at another place, are copied there by the
// replica itself.
//
// Guarantees: what is copied is proved by the replica against the source's identifier before it is written; nothing that
// is still to be copied is overwritten before. What was not copied, for whatever reason, is left to be shipped.
import { encodingBlock } from "../digest/encoding.ts";
import { identifierOf } from "../digest/spec.ts";
import { encodeIdentifiers } from "../platform/native-digest.ts";
import { volumeIdentifiers } from "../volume/read-digests.ts";
import { extentState, type WindowVerdict } from "./compare-window.ts";
import type { SynchronizeOptions } from "./job.ts";

/** A digest that nobody can make collide: the replica writes what has it, without having seen the source's data. */
const trusted = new Set(["sha256", "sha512"]);
const extentsAtFirst = 4096;
const extentsMax = 262_144;
/** Of what is looked for, one in this many has to be found, or it is given up for the pass. */
const worthwhile = 16;

export interface Move {
  readonly from: number;
  readonly to: number;
}

/** Copies in an order in which none overwrites what a later one reads. What a circle would need is left out. */
export function orderedMoves(moves: readonly Move[]): Move[] {
  const byTarget = new Map(moves.map((move) => [move.to, move]));
  const readers = new Map<number, number>();
  for (const { from } of moves) readers.set(from, (readers.get(from) ?? 0) + 1);
  const free = moves.filter(({ to }) => !readers.has(to));
  const ordered: Move[] = [];
  const done = (move: Move) => {
    byTarget.delete(move.to);
    const left = readers.get(move.from)! - 1;
    readers.set(move.from, left);
    const blocked = left === 0 ? byTarget.get(move.from) : undefined;
    if (blocked) free.push(blocked);
  };
  while (byTarget.size > 0) {
    for (let next = free.pop(); next; next = free.pop()) {
      ordered.push(next);
      done(next);
    }
    // What is left goes round in circles: one of them is shipped, after all copies.
    const [left] = byTarget.values();
    if (left) done(left);
  }
  return ordered;
}

/** Whether both sides can do it for what this job compares. */
export function canMove(job: SynchronizeOptions): boolean {
  const { source, replica, digest, extentBytes } = job;
  const { traits } = replica;
  return (
    source.identifiers !== undefined &&
    replica.findExtents !== undefined &&
    replica.copyExtents !== undefined &&
    traits.findsExtents === true &&
    traits.copiesExtents === true &&
    !job.fresh && // what is found is found by catalogues
    trusted.has(digest.text) &&
    traits.catalogue?.digest === digest.text &&
    traits.catalogue.extentBlocks * replica.geometry.blockBytes === extentBytes
  );
}

interface Candidate {
  readonly lba: number;
  readonly identifier: Buffer;
  readonly verdict: WindowVerdict;
  readonly index: number;
}

export class Mover {
  readonly #job: SynchronizeOptions;
  readonly #extentBlocks: number;
  readonly #pass: number;
  /** Told of what was copied, to prove it later: the values that it has to have, encoded by `encode`. */
  readonly #copied: (lba: number, encode: (initialValue: Buffer) => Buffer) => void;
  #verdicts: WindowVerdict[] = [];
  #waiting = 0;
  #most = extentsAtFirst;
  #givenUp = false;
  /** The identifier of an extent of zeros. */
  readonly #zeros: Buffer;

  constructor(
    job: SynchronizeOptions,
    extentBlocks: number,
    pass: number,
    copied: (lba: number, encode: (initialValue: Buffer) => Buffer) => void,
  ) {
    this.#job = job;
    this.#extentBlocks = extentBlocks;
    this.#pass = pass;
    this.#copied = copied;
    this.#zeros = identifierOf(job.digest, Buffer.alloc(job.extentBytes));
  }

  /** Takes a verdict, and gives back those that have to be shipped now. */
  async take(verdict: WindowVerdict): Promise<readonly WindowVerdict[]> {
    if (this.#givenUp) return [verdict];
    let differing = 0;
    for (const state of verdict.states) if (state === extentState.differs) differing++;
    if (differing === 0) return [verdict];
    this.#verdicts.push(verdict);
    this.#waiting += differing;
    return this.#waiting >= this.#most ? this.rest() : [];
  }

  /** Copies what can be copied, and gives back what has to be shipped. */
  async rest(): Promise<readonly WindowVerdict[]> {
    const verdicts = this.#verdicts;
    this.#verdicts = [];
    this.#waiting = 0;
    if (verdicts.length === 0) return [];
    const candidates = await this.#candidates(verdicts);
    const copied = await this.#copy(candidates);
    if (copied * worthwhile < candidates.length) this.#givenUp = true;
    else this.#most = Math.min(extentsMax, 4 * this.#most);
    return verdicts;
  }

  async #candidates(verdicts: readonly WindowVerdict[]): Promise<Candidate[]> {
    const { source, digest, signal } = this.#job;
    const extentBlocks = this.#extentBlocks;
    const { identifierBytes } = digest;
    const found: Candidate[] = [];
    for (const verdict of verdicts) {
      const { states } = verdict;
      for (let i = 0; i < states.length; ) {
        if (states[i] !== extentState.differs) {
          i++;
          continue;
        }
        let end = i + 1;
        while (end < states.length && states[end] === extentState.differs) end++;
        const lba = verdict.lba + i * extentBlocks;
        const window = { lba, extentBlocks, extents: end - i, digest, fresh: false };
        const answer = await volumeIdentifiers(source, window, signal);
        for (let j = 0; j < answer.extents; j++) {
          const identifier = Buffer.from(
            answer.values.subarray(j * identifierBytes, (j + 1) * identifierBytes),
          );
          if (identifier.equals(this.#zeros)) continue; // unmapped for less
          found.push({ lba: lba + j * extentBlocks, identifier, verdict, index: i + j });
        }
        i = end;
      }
    }
    return found;
  }

  async #copy(candidates: readonly Candidate[]): Promise<number> {
    const { replica, source, digest, extentBytes, counters, beforeImages, signal } = this.#job;
    const places = await replica.findExtents!(
      Buffer.concat(candidates.map((each) => each.identifier)),
      signal,
    );
    const byLba = new Map<number, Candidate>();
    const moves: Move[] = [];
    candidates.forEach((candidate, i) => {
      const from = places[i];
      if (from === undefined || from === candidate.lba) return;
      byLba.set(candidate.lba, candidate);
      moves.push({ from, to: candidate.lba });
    });
    if (moves.length === 0) return 0;
    const blocksAt = (lba: number) => Math.min(this.#extentBlocks, replica.geometry.blocks - lba);
    const ordered = orderedMoves(moves).filter(({ from, to }) => blocksAt(from) === blocksAt(to));
    if (beforeImages) {
      const runs = ordered.map(({ to }) => ({ lba: to, blocks: blocksAt(to) })).sort((a, b) => a.lba - b.lba);
      await beforeImages.keep(replica, { source: source.name, extentBytes, pass: this.#pass }, runs);
    }
    const copies = ordered.map(({ from, to }) => ({
      from,
      to,
      blocks: blocksAt(to),
      identifier: byLba.get(to)!.identifier,
    }));
    const flags = await replica.copyExtents!(copies, digest, signal);
    let copied = 0;
    copies.forEach(({ to, identifier }, i) => {
      if (!flags[i]) return;
      copied++;
      const { verdict, index } = byLba.get(to)!;
      verdict.states[index] = extentState.equal;
      this.#copied(to, (initialValue) =>
        encodeIdentifiers(identifier, identifier.length, encodingBlock(initialValue, to), false),
      );
    });
    counters.copiedExtents += copied;
    return copied;
  }
}
