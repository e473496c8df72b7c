// What sync points hold: a side whose changes the truth may take, by name; a replica that follows, as a proof.
//
// Guarantees: a volume of another host proves what it holds, and only what nobody knows by name is read over the wire.
// What can't be read is told, and has no name. Memory is bounded by one window.
import { AgentError } from "../base/errors.ts";
import type { Random } from "../platform/random.ts";
import { type Proof, proveExtents } from "../truth/extent-state.ts";
import type { EntryRun } from "../truth/store.ts";
import { volumeIdentifiers } from "../volume/read-digests.ts";
import type { Volume } from "../volume/volume.ts";
import { ask, encoded, provedBy, type Shape, valueBytes } from "./values.ts";

export interface Question {
  readonly shape: Shape;
  /** The window's first extent. */
  readonly first: number;
  /** The truth's identifiers of the window. */
  readonly truth: Buffer;
  /** What is pending for the sync point. */
  readonly table: readonly EntryRun[];
  readonly random: Random;
  readonly signal: AbortSignal;
}

/** What a side holds, by name; the truth's name stands where it can't be read. */
export interface Named {
  readonly identifiers: Buffer;
  /** Places in the window. */
  readonly unreadable: ReadonlySet<number>;
}

export async function namesOf(volume: Volume, question: Question): Promise<Named> {
  const { shape, first, truth } = question;
  const count = truth.length / shape.digest.identifierBytes;
  const named = { identifiers: Buffer.from(truth), unreadable: new Set<number>() };
  if (volume.identifiers) {
    await byDigesting(volume, question, first, count, named);
    return named;
  }
  const unknown = await byProof(volume, question, named.identifiers);
  for (const range of runsOf(unknown)) await byDigesting(volume, question, range.first, range.count, named);
  return named;
}

/** Its own host digests, or it is read. */
async function byDigesting(
  volume: Volume,
  { shape, first, signal }: Question,
  from: number,
  count: number,
  named: { identifiers: Buffer; unreadable: Set<number> },
): Promise<void> {
  const { digest, extentBlocks } = shape;
  const width = digest.identifierBytes;
  const into = named.identifiers.subarray((from - first) * width, (from - first + count) * width);
  const unreadable = await ask(volume, from, count, into, (at, extents) =>
    volumeIdentifiers(
      volume,
      { lba: at * extentBlocks, extentBlocks, extents, digest, fresh: false },
      signal,
    ),
  );
  for (const extent of unreadable) named.unreadable.add(extent - first);
}

/** Puts names where the proof fits one that is known; returns the extents of which it fits none. */
async function byProof(volume: Volume, question: Question, names: Buffer): Promise<number[]> {
  const { shape, first, truth, table, random, signal } = question;
  const width = shape.digest.identifierBytes;
  const count = truth.length / width;
  const { values, initialValue } = await provedBy(volume, shape, first, count, {
    fresh: false,
    random,
    signal,
  });
  const candidates = [
    truth,
    ...["previous" as const, "sent" as const].map((which) => overlaid(which, question)),
  ];
  const wanted = candidates.map((identifiers) => encoded(shape, first, identifiers, initialValue));
  const tried = table.length === 0 ? 1 : candidates.length;
  if (values.equals(wanted[0]!)) return [];
  const unknown: number[] = [];
  for (let i = 0; i < count; i++) {
    const at = i * valueBytes;
    let k = 0;
    while (k < tried && values.compare(wanted[k]!, at, at + valueBytes, at, at + valueBytes) !== 0) k++;
    if (k === tried) unknown.push(first + i);
    else candidates[k]!.copy(names, i * width, i * width, (i + 1) * width);
  }
  return unknown;
}

/** The truth, and what the table names instead where it does. */
function overlaid(which: "previous" | "sent", { first, truth, table, shape }: Question): Buffer {
  const names = Buffer.from(truth);
  for (const run of table) run[which]?.copy(names, (run.first - first) * shape.digest.identifierBytes);
  return names;
}

/** Neighbours of a sorted list, as ranges. */
export function runsOf(extents: readonly number[]): { first: number; count: number }[] {
  const runs: { first: number; count: number }[] = [];
  for (const extent of extents) {
    const last = runs.at(-1);
    if (last && last.first + last.count === extent) last.count++;
    else runs.push({ first: extent, count: 1 });
  }
  return runs;
}

/** What a replica that follows has proved. */
export interface Proved {
  readonly proofs: readonly Proof[];
  /** Whether it holds at a place what these identifiers name. */
  readonly holds: (identifiers: Buffer) => (i: number) => boolean;
  /** It holds the truth everywhere. */
  readonly allEqual: boolean;
}

/** @throws AgentError of the volume */
export async function proofOf(volume: Volume, question: Question, zeroNames: Buffer): Promise<Proved> {
  const { shape, first, truth: truthNames, table, random, signal } = question;
  const count = truthNames.length / shape.digest.identifierBytes;
  const { values: proved, initialValue } = await provedBy(volume, shape, first, count, {
    fresh: false,
    random,
    signal,
  });
  const encode = (from: number, identifiers: Buffer) => encoded(shape, from, identifiers, initialValue);
  const [truth, zeros] = [encode(first, truthNames), encode(first, zeroNames)];
  const cut = (buffer: Buffer, from: number, extents: number) =>
    buffer.subarray((from - first) * valueBytes, (from - first + extents) * valueBytes);
  const proofs = new Array<Proof>(count);
  const take = (from: number, extents: number, entry: EntryRun | undefined) => {
    if (extents === 0) return;
    const part = {
      first: from,
      count: extents,
      valueBytes,
      pending: entry?.action,
      truth: cut(truth, from, extents),
      proved: cut(proved, from, extents),
      zeros: cut(zeros, from, extents),
      ...(entry && { previous: encode(from, entry.previous) }),
      ...(entry?.sent && { sent: encode(from, entry.sent) }),
    };
    for (const { first: at, count: length, ...proof } of proveExtents(part))
      proofs.fill(proof, at - first, at - first + length);
  };
  let at = first;
  for (const entry of table) {
    take(at, entry.first - at, undefined);
    take(entry.first, entry.count, entry);
    at = entry.first + entry.count;
  }
  take(at, first + count - at, undefined);
  return {
    proofs,
    holds: (identifiers) => {
      const held = encode(first, identifiers);
      return (i) => {
        const place = i * valueBytes;
        return proved.compare(held, place, place + valueBytes, place, place + valueBytes) === 0;
      };
    },
    allEqual: proved.equals(truth),
  };
}

/** Of a replica that is known to hold the truth without being asked. */
export function proofOfTruth(truth: Buffer, width: number): Proved {
  const equal: Proof = { outcome: "equal", state: "NO_CHANGE", pending: undefined, doubtful: false };
  return {
    proofs: new Array<Proof>(truth.length / width).fill(equal),
    holds: (identifiers) => (i) =>
      truth.compare(identifiers, i * width, (i + 1) * width, i * width, (i + 1) * width) === 0,
    allEqual: true,
  };
}

/** Undefined, and the reason is told, where the volume fails; what aborts the run is thrown on. */
export async function unlessItFails<T>(
  work: Promise<T>,
  signal: AbortSignal,
  failed: (error: AgentError) => Promise<void>,
): Promise<T | undefined> {
  const outcome = await work.then(
    (value) => ({ value }),
    (error: unknown) => ({ error }),
  );
  if ("value" in outcome) return outcome.value;
  signal.throwIfAborted();
  if (!(outcome.error instanceof AgentError)) throw outcome.error;
  await failed(outcome.error);
  return undefined;
}
