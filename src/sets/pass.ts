// One pass over a replication set: gather, decide, write down, update, acknowledge (docs/truth.md).
//
// Guarantees: no volume is written to before truth and tables are written down, in one transaction. What a sync point can't
// be reached for stays pending, and costs the others nothing. Whatever dies, the next pass repairs it.
import { together } from "../base/async.ts";
import { AgentError } from "../base/errors.ts";
import { parseDigestSpec } from "../digest/spec.ts";
import type { Clock } from "../platform/clock.ts";
import type { Random } from "../platform/random.ts";
import type { Lease, Member, SetFacts, Transaction, TruthStore } from "../truth/store.ts";
import type { Volume } from "../volume/volume.ts";
import { WholeRun } from "../volume/whole-run.ts";
import { type CarriedOut, carryOut } from "./carry-out.ts";
import { gather, type PageNews, type Side, type Tally } from "./gather.ts";
import { History } from "./histories.ts";
import {
  isOnline,
  labelOf,
  leaveLate,
  type OnlinePoint,
  type OpenVolume,
  type Point,
  stateOf,
} from "./points.ts";
import { type Patience, punctual } from "./punctual.ts";
import { Spool, type SpoolFile } from "./spool.ts";
import type { Extents } from "./tally.ts";
import { extentsIn, type Shape } from "./values.ts";

export interface SetOptions {
  readonly store: TruthStore;
  readonly open: OpenVolume;
  readonly clock: Clock;
  readonly random: Random;
  /** Named to those who ask for the set meanwhile. */
  readonly owner: string;
  readonly signal: AbortSignal;
  readonly onNotice: (text: string) => void;
  /** Where what was decided is kept until it is written down; in a temporary file if it is left out. */
  readonly spoolFile?: () => Promise<SpoolFile>;
}

/** A set whose lease is held. */
export interface HeldSet extends SetOptions {
  readonly lease: Lease;
  readonly facts: SetFacts;
}

export interface Cast {
  /** Has the shape of all the others. */
  readonly leader: OnlinePoint;
  /** What the truth is taken from; the first one wins. */
  readonly sides: readonly Side[];
  readonly followers: readonly Point[];
  /** Members of which nothing is to be pending any more. */
  readonly dropped: readonly number[];
}

/** Keeps what lies there, before it is overwritten. */
export type Keep = (volume: Volume, lba: number, blocks: number) => Promise<void>;

export interface PassOptions {
  /** Looks at what was decided, right before it is written down. @throws AgentError to stop it */
  readonly check?: (tally: Tally, shape: Shape) => Promise<void> | void;
  /** How long the others are kept waiting for a replica. */
  readonly patience?: Patience;
  /** Looks at everything, whatever histories say. */
  readonly full?: boolean;
  /** Called when it is written down, before any volume is written to. */
  readonly whenWritten?: () => Promise<void>;
  /** What else belongs into the transaction. */
  readonly alsoWrite?: (transaction: Transaction, generation: number) => Promise<void>;
  /** For what is overwritten of a side, or of who was one: it may be somebody's change that nobody else has. */
  readonly keep?: Keep;
}

export interface ReplicaResult {
  readonly name: string;
  readonly address: string;
  /** `in step`: it holds the generation, proved. `behind`: something is pending still. `offline`: it was not reached. */
  readonly state: "in step" | "behind" | "offline";
  readonly reason: string | undefined;
  readonly carriedOut: CarriedOut | undefined;
  /** Extents that somebody else wrote to; they are overwritten. */
  readonly strayed: Pick<Extents, "count" | "ranges"> | undefined;
  readonly pending: number;
}

export interface RunResult {
  readonly set: string;
  readonly generation: number;
  readonly extents: number;
  /** Extents of which the truth is another one now. */
  readonly changed: number;
  /** Extents of the source that can't be read. */
  readonly unreadable: number;
  readonly replicas: readonly ReplicaResult[];
}

export interface Settled {
  readonly shape: Shape;
  readonly tally: Tally;
  readonly generation: number;
  /** By member. */
  readonly histories: ReadonlyMap<number, History>;
}

/** Gathers, decides and writes down; no volume is written to. @throws AgentError */
export async function settle(set: HeldSet, cast: Cast, options: PassOptions): Promise<Settled> {
  const { store, facts, random, signal } = set;
  const { sides, followers, dropped } = cast;
  const shape = shapeOf(facts, cast.leader);
  await using spool = new Spool<PageNews>(set.spoolFile);
  const histories = await historiesOf(set, cast, shape, options);
  const changedOf = (point: Point) => histories.get(point.member.id)?.changed;
  const { patience } = options;
  const question = { set: facts.name, store, shape, sides, followers, dropped, changedOf, random, signal };
  const tally = await gather({ ...question, ...(patience && { patience }) }, spool);
  await options.check?.(tally, shape);
  const generation = facts.generation + (tally.changed > 0 || facts.generation === 0 ? 1 : 0);
  const points = [...sides.map(({ point }) => point), ...followers];
  await writeDown(set, shape, generation, points, spool, options);
  await options.whenWritten?.();
  return { shape, tally, generation, histories };
}

/** By member. Where sides have gone their own ways, what they hold is no truth of any time. */
async function historiesOf(
  set: HeldSet,
  { sides, followers }: Cast,
  shape: Shape,
  { full = false, patience }: PassOptions,
): Promise<ReadonlyMap<number, History>> {
  const histories = new Map<number, History>();
  if (sides.length > 1 || sides.some(({ restates }) => restates)) return histories;
  const points = [...sides.map(({ point }) => point), ...followers.filter(isOnline)];
  const begun = await punctual(
    points.map(({ member, volume }) => History.begin(volume, member, { ...set, shape, full })),
    Promise.resolve(),
    patience,
    (k) => {
      // The side is waited for, where there is one.
      if (k >= sides.length) leaveLate(points[k]!);
      return undefined;
    },
  );
  begun.forEach((history, k) => {
    if (history) histories.set(points[k]!.member.id, history);
  });
  return histories;
}

/** @throws AgentError */
export async function pass(set: HeldSet, cast: Cast, options: PassOptions = {}): Promise<RunResult> {
  const { store, facts } = set;
  const { shape, tally, generation, histories } = await settle(set, cast, options);
  await rememberSides(set, cast, tally, histories);
  const sides = cast.sides.map(({ point }) => point);
  const pendingBefore = await store.pendingCounts(facts.name);
  const pendingFor = ({ member }: Point) => pendingBefore.get(member.id) ?? 0;
  const lacks = (side: Point) => pendingFor(side) > 0 || side.member.keptFirst;
  const targets = [...sides.slice(1), ...cast.followers, ...sides.slice(0, 1).filter(lacks)];
  const results = await together(
    targets.map((point) => {
      const isSide = sides.some((side) => side === point);
      const parted = isSide && sides.length > 1;
      return new Update(set, shape, generation, point, histories.get(point.member.id), parted).go(
        giversTo(point, cast, lacks),
        pendingFor(point),
        tally,
        isSide || point.member.keptFirst ? options.keep : undefined,
      );
    }),
  );
  const pending = await store.pendingCounts(facts.name);
  return {
    set: facts.name,
    generation,
    extents: extentsIn(shape),
    changed: tally.changed,
    unreadable: tally.unreadable,
    replicas: results.map((result, i) => ({ ...result, pending: pending.get(targets[i]!.member.id) ?? 0 })),
  };
}

/** All that the side held is the truth now; where there are two, neither was in step. */
async function rememberSides(
  { lease, store }: HeldSet,
  { sides }: Cast,
  tally: Tally,
  histories: ReadonlyMap<number, History>,
): Promise<void> {
  const members = sides.map(({ point }) => point.member);
  const names = await together(
    // What can't be read is not what the truth has.
    members.map(async ({ id }) => (tally.unreadable === 0 ? histories.get(id)?.commit() : undefined)),
  );
  const changed = members.map(({ id, history }, k) => ({ id, history, now: names[k] }));
  const news = changed.filter(({ history, now }) => history !== now);
  if (news.length === 0) return;
  await store.write(lease, async (transaction) => {
    for (const { id, now } of news) await transaction.updateMember(id, { history: now });
  });
}

/**
 * Who has what the truth says: the sides that it was taken from; and whoever follows a side that lacks some of it itself, as
 * after a failback that was cut off.
 */
function giversTo(point: Point, cast: Cast, lacks: (side: Point) => boolean): OnlinePoint[] {
  const { leader, sides, followers } = cast;
  const taken = sides.length > 0 ? sides.filter((side) => side.taken).map((side) => side.point) : [leader];
  const all = taken.some(lacks) ? [...taken, ...followers.filter(isOnline)] : taken;
  return all.filter((giver) => giver !== point);
}

/** @throws AgentError `size_mismatch` */
export function shapeOf(facts: SetFacts, { member, volume }: OnlinePoint): Shape {
  const { blockBytes, blocks } = volume.geometry;
  if (facts.blocks > 0 && (facts.blockBytes !== blockBytes || facts.blocks > blocks))
    throw new AgentError(
      "size_mismatch",
      `"${member.address}" has ${blocks} blocks of ${blockBytes} bytes, and had ${facts.blocks} of ${facts.blockBytes}: replicas ` +
        "are never cut off. Nothing was written; make it as long again, or make a new set",
    );
  return {
    digest: parseDigestSpec(facts.digest),
    extentBlocks: facts.extentBytes / blockBytes,
    blockBytes,
    blocks,
  };
}

/** Truth and tables, in one transaction. */
async function writeDown(
  { lease, store }: HeldSet,
  shape: Shape,
  generation: number,
  points: readonly Point[],
  spool: Spool<PageNews>,
  { alsoWrite }: PassOptions,
): Promise<void> {
  const buffer = (bytes: Uint8Array) => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  await store.write(lease, async (transaction) => {
    for await (const { page, truth, entries } of spool) {
      if (truth) await transaction.putTruth({ ...truth, identifiers: buffer(truth.identifiers) });
      for (const { member, runs } of entries)
        await transaction.putEntries(
          member,
          page,
          runs.map((run) => ({ ...run, previous: buffer(run.previous), sent: run.sent && buffer(run.sent) })),
        );
    }
    await transaction.updateSet({ generation, blocks: shape.blocks, blockBytes: shape.blockBytes });
    for (const { member, volume } of points) {
      const uuid = volume?.identity.uuid;
      if (uuid !== undefined && member.volumeUuid === undefined)
        await transaction.updateMember(member.id, { volumeUuid: uuid });
    }
    await alsoWrite?.(transaction, generation);
  });
}

const nothingToDo: CarriedOut = { written: 0, bytes: 0, proved: 0, later: 0, refused: 0 };
const isDone = ({ later, refused }: CarriedOut): boolean => later === 0 && refused === 0;

/** Bringing one sync point what it lacks. */
class Update {
  readonly #set: HeldSet;
  readonly #shape: Shape;
  readonly #generation: number;
  readonly #point: Point;
  readonly #history: History | undefined;
  /** It had gone its own way: what was written to it until its users were shut out is seen by the next pass only. */
  readonly #parted: boolean;

  constructor(
    set: HeldSet,
    shape: Shape,
    generation: number,
    point: Point,
    history: History | undefined,
    parted: boolean,
  ) {
    this.#history = history;
    this.#parted = parted;
    this.#set = set;
    this.#shape = shape;
    this.#generation = generation;
    this.#point = point;
  }

  async go(
    givers: readonly OnlinePoint[],
    pending: number,
    tally: Tally,
    keep: Keep | undefined,
  ): Promise<Omit<ReplicaResult, "pending">> {
    const { member, volume, why } = this.#point;
    const { signal, onNotice } = this.#set;
    const strayed = tally.strayed.of(member.id);
    if (strayed)
      onNotice(
        `Warning: somebody else has written to ${strayed.count} extents of "${member.name}"; they are made what the source has`,
      );
    let carriedOut: CarriedOut | undefined;
    let reason = why;
    if (volume) {
      try {
        carriedOut = await this.#bring(volume, givers, pending, keep);
      } catch (error) {
        if (signal.aborted || !(error instanceof AgentError)) throw error;
        reason = error.message;
      }
    }
    const isInStep = carriedOut !== undefined && isDone(carriedOut);
    const history = isInStep ? await this.#history?.commit() : undefined;
    const state: ReplicaResult["state"] = !volume ? "offline" : isInStep ? "in step" : "behind";
    await this.#note({
      lastResult: reason === undefined ? state : `${state}: ${reason}`,
      lastRunMs: this.#set.clock.nowMs(),
      ...(isInStep && { generation: this.#generation, unsettled: false }),
      ...(isInStep && !this.#parted && { keptFirst: false }),
      ...(history !== undefined && { history }),
    });
    return { name: member.name, address: member.address, state, reason, carriedOut, strayed };
  }

  async #note(facts: Parameters<Transaction["updateMember"]>[1]): Promise<void> {
    const { store, lease } = this.#set;
    await store.write(lease, (transaction) => transaction.updateMember(this.#point.member.id, facts));
  }

  async #bring(
    volume: Volume,
    givers: readonly OnlinePoint[],
    pending: number,
    keep: Keep | undefined,
  ): Promise<CarriedOut> {
    const { random, signal, onNotice, facts } = this.#set;
    // What it held is kept until it holds the generation as a whole.
    const state = await stateOf(volume);
    const begins = pending > 0 || state?.state === "open";
    if (begins && !this.#point.member.unsettled) await this.#note({ unsettled: true });
    const run = begins ? await WholeRun.begin({ replica: volume, random, signal, onNotice }) : undefined;
    const carriedOut = pending === 0 ? nothingToDo : await this.#carryOut(volume, givers, pending, keep);
    if (!isDone(carriedOut)) return carriedOut;
    const label = labelOf(facts, this.#generation);
    if (run) await run.end({ label });
    else if (state && state.label?.generation !== this.#generation) await volume.labelWhole?.(label, signal);
    return carriedOut;
  }

  /** From whoever has what the truth says. */
  async #carryOut(
    replica: Volume,
    givers: readonly OnlinePoint[],
    pending: number,
    keep: Keep | undefined,
  ): Promise<CarriedOut> {
    const { lease, store, random, signal } = this.#set;
    let all: CarriedOut = { ...nothingToDo, later: pending };
    for (const { volume } of givers) {
      const done = await carryOut({
        lease,
        store,
        member: this.#point.member.id,
        shape: this.#shape,
        source: volume,
        replica,
        random,
        signal,
        ...(keep && { keep: (lba, blocks) => keep(replica, lba, blocks) }),
      });
      all = {
        written: all.written + done.written,
        bytes: all.bytes + done.bytes,
        proved: all.proved + done.proved,
        later: done.later,
        refused: done.refused,
      };
      if (isDone(done)) break;
    }
    return all;
  }
}

/** The sync points of a set, in the order of their priorities. */
export const byPriority = (members: readonly Member[]): Member[] =>
  [...members].sort((a, b) => a.priority - b.priority);

export async function close(points: readonly Point[]): Promise<void> {
  for (const { volume, closing } of points) {
    await closing;
    await volume?.[Symbol.asyncDispose]();
  }
}
