// What sync points hold: a side whose changes the truth may take, by name; a replica that follows, as a proof.
//
// Guarantees: a volume of another host proves what it holds, and only what nobody knows by name is read over the wire.
// What was sent to it and not acknowledged is looked at on its medium: a cache may have what was lost on the way there.
// What can't be read is told, and has no name. Memory is bounded by one window.
import { AgentError } from "../base/errors.ts";
import type { Range } from "../base/ranges.ts";
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

/** What is looked at, and whether on the medium. */
interface Look extends Range {
  readonly fresh: boolean;
}

/** The whole window; then, on the medium, what is pending for the sync point. */
function looks({ first, truth, table, shape }: Question): Look[] {
  const count = truth.length / shape.digest.identifierBytes;
  const pending = table.flatMap((run) => Array.from({ length: run.count }, (_, j) => run.first + j));
  return [{ first, count, fresh: false }, ...runsOf(pending).map((range) => ({ ...range, fresh: true }))];
}

export async function namesOf(volume: Volume, question: Question): Promise<Named> {
  const named = { identifiers: Buffer.from(question.truth), unreadable: new Set<number>() };
  for (const look of looks(question)) {
    const unknown = volume.identifiers
      ? [look]
      : runsOf(await byProof(volume, question, look, named.identifiers));
    for (const range of unknown) await byDigesting(volume, question, { ...range, fresh: look.fresh }, named);
  }
  return named;
}

/** Its own host digests, or it is read. */
async function byDigesting(
  volume: Volume,
  { shape, first, signal }: Question,
  { first: from, count, fresh }: Look,
  named: { identifiers: Buffer; unreadable: Set<number> },
): Promise<void> {
  const { digest, extentBlocks } = shape;
  const width = digest.identifierBytes;
  const into = named.identifiers.subarray((from - first) * width, (from - first + count) * width);
  const unreadable = await ask(volume, from, count, into, (at, extents) =>
    volumeIdentifiers(volume, { lba: at * extentBlocks, extentBlocks, extents, digest, fresh }, signal),
  );
  for (const extent of unreadable) named.unreadable.add(extent - first);
}

/** Puts names where the proof fits one that is known; returns the extents of which it fits none. */
async function byProof(volume: Volume, question: Question, look: Look, names: Buffer): Promise<number[]> {
  const { shape, first, truth, table, random, signal } = question;
  const width = shape.digest.identifierBytes;
  const { first: from, count, fresh } = look;
  const { values, initialValue } = await provedBy(volume, shape, from, count, { fresh, random, signal });
  const cut = (identifiers: Buffer) =>
    identifiers.subarray((from - first) * width, (from - first + count) * width);
  const candidates = [
    truth,
    ...["previous" as const, "sent" as const].map((which) => overlaid(which, question)),
  ].map(cut);
  const wanted = candidates.map((identifiers) => encoded(shape, from, identifiers, initialValue));
  const tried = table.length === 0 ? 1 : candidates.length;
  const unknown: number[] = [];
  for (let i = 0; i < count; i++) {
    const at = i * valueBytes;
    let k = 0;
    while (k < tried && values.compare(wanted[k]!, at, at + valueBytes, at, at + valueBytes) !== 0) k++;
    if (k === tried) unknown.push(from + i);
    else candidates[k]!.copy(cut(names), i * width, i * width, (i + 1) * width);
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
  const width = shape.digest.identifierBytes;
  const count = truthNames.length / width;
  const parts: Part[] = [];
  for (const { fresh, ...range } of looks(question)) {
    const answer = await provedBy(volume, shape, range.first, range.count, { fresh, random, signal });
    parts.push({ ...range, ...answer });
  }
  /** By place, the part that was looked at last. */
  const partAt = new Array<Part>(count);
  for (const part of parts) partAt.fill(part, part.first - first, part.first - first + part.count);
  const cut = (names: Buffer, from: number, extents: number) =>
    names.subarray((from - first) * width, (from - first + extents) * width);
  const proofs = new Array<Proof>(count);
  const take = (
    from: number,
    extents: number,
    entry: EntryRun | undefined,
    into = proofs,
    part = partAt[from - first]!,
  ) => {
    if (extents === 0) return;
    const encode = (identifiers: Buffer) => encoded(shape, from, identifiers, part.initialValue);
    const at = (from - part.first) * valueBytes;
    const window = {
      first: from,
      count: extents,
      valueBytes,
      pending: entry?.action,
      truth: encode(cut(truthNames, from, extents)),
      proved: part.values.subarray(at, at + extents * valueBytes),
      zeros: encode(cut(zeroNames, from, extents)),
      ...(entry && { previous: encode(entry.previous) }),
      ...(entry?.sent && { sent: encode(entry.sent) }),
    };
    for (const { first: start, count: length, ...proof } of proveExtents(window))
      into.fill(proof, start - first, start - first + length);
  };
  let at = first;
  for (const entry of table) {
    take(at, entry.first - at, undefined);
    take(entry.first, entry.count, entry);
    at = entry.first + entry.count;
  }
  take(at, first + count - at, undefined);
  // What was refused may be in a cache, and lost on its way to the medium: what the two say is nobody's then, and written anew.
  const cached = new Array<Proof>(count);
  for (const entry of table.filter(({ sent }) => !sent))
    take(entry.first, entry.count, entry, cached, parts[0]);
  const disputed = new Set(
    [...cached.keys()].filter((i) => cached[i] && cached[i].outcome !== proofs[i]!.outcome),
  );
  for (const i of disputed)
    proofs[i] = { ...proofs[i]!, outcome: "written", state: "UPDATED", doubtful: true };
  return {
    proofs,
    holds: (identifiers) => {
      const held = new Map(
        parts.map((part) => [
          part,
          encoded(shape, part.first, cut(identifiers, part.first, part.count), part.initialValue),
        ]),
      );
      return (i) => {
        const part = partAt[i]!;
        const place = (first + i - part.first) * valueBytes;
        return (
          !disputed.has(i) &&
          part.values.compare(held.get(part)!, place, place + valueBytes, place, place + valueBytes) === 0
        );
      };
    },
    allEqual: proofs.every(({ outcome }) => outcome === "equal"),
  };
}

/** What a replica has answered, by one initial value. */
interface Part extends Range {
  readonly values: Buffer;
  readonly initialValue: Buffer;
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
