// One run of a replication set: gather, decide, write down, update, acknowledge (docs/truth.md).
//
// Guarantees: one run of a set at a time, by the lease. No replica is written to before truth and tables are written down,
// in one transaction. What a replica can't be reached for stays pending, and costs the others nothing. Whatever dies, the
// next run repairs it.
import { together } from "../base/async.ts";
import { AgentError } from "../base/errors.ts";
import { parseDigestSpec } from "../digest/spec.ts";
import type { Clock } from "../platform/clock.ts";
import { Loop } from "../platform/loop.ts";
import type { Random } from "../platform/random.ts";
import type { Lease, Member, SetFacts, TruthStore } from "../truth/store.ts";
import { WholeRun } from "../volume/whole-run.ts";
import { type CarriedOut, carryOut } from "./carry-out.ts";
import { type Gathered, gather, type PageNews } from "./gather.ts";
import { type OpenVolume, openPoints, type Point } from "./points.ts";
import { Spool, type SpoolFile } from "./spool.ts";
import { extentsIn, type Shape } from "./values.ts";

const leaseMs = 15_000;
const leasePollMs = 250;

export interface RunOptions {
  readonly store: TruthStore;
  readonly open: OpenVolume;
  readonly clock: Clock;
  readonly random: Random;
  /** Named to those who ask for the set meanwhile. */
  readonly owner: string;
  /** Instead of the set's own; 0 to 1. */
  readonly maxChange?: number | undefined;
  readonly signal: AbortSignal;
  readonly onNotice: (text: string) => void;
  /** Where what was decided is kept until it is written down; in a temporary file if it is left out. */
  readonly spoolFile?: () => Promise<SpoolFile>;
}

export interface ReplicaResult {
  readonly name: string;
  readonly address: string;
  /** `in step`: it holds the generation, proved. `behind`: something is pending still. `offline`: it was not reached. */
  readonly state: "in step" | "behind" | "offline";
  readonly reason: string | undefined;
  readonly carriedOut: CarriedOut | undefined;
  /** Extents that somebody else wrote to; they are overwritten. */
  readonly strayed: { readonly count: number; readonly first: readonly number[] } | undefined;
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

/**
 * Takes the lease of a set. Whoever died with it loses it within seconds: that is waited for.
 * @throws AgentError `volume_in_use` if somebody has it and goes on renewing it
 */
export async function leased(
  store: TruthStore,
  set: string,
  owner: string,
  clock: Clock,
  signal?: AbortSignal,
): Promise<Lease> {
  let first: number | undefined;
  for (;;) {
    const lease = await store.acquire(set, owner, leaseMs);
    if (lease) return lease;
    const holder = await store.holder(set);
    first ??= holder?.untilMs;
    if (holder && holder.untilMs !== first)
      throw new AgentError(
        "volume_in_use",
        `The set "${set}" is in use by ${holder.owner}; wait until it has ended, or stop it`,
      );
    await clock.sleep(leasePollMs, signal);
  }
}

/** Runs a set once. @throws AgentError */
export async function runSet(name: string, options: RunOptions): Promise<RunResult> {
  const { store, owner } = options;
  const lease = await leased(store, name, owner, options.clock, options.signal);
  const lost = new AbortController();
  const renewing = new Loop(
    options.clock,
    leaseMs / 4,
    () => lease.renew(),
    (error) => {
      // Somebody else has it: nothing more is written.
      if (error instanceof AgentError && error.code === "not_known") lost.abort(error);
    },
  );
  try {
    const signal = AbortSignal.any([options.signal, lost.signal]);
    return await runLeased(name, lease, { ...options, signal });
  } finally {
    await renewing[Symbol.asyncDispose]();
    await lease.release().catch(() => {}); // it runs out by itself
  }
}

async function runLeased(name: string, lease: Lease, options: RunOptions): Promise<RunResult> {
  const { store } = options;
  const { facts, members } = await store.set(name);
  if (facts.paused)
    throw new AgentError("usage", `The set "${name}" is paused; "lunsync set resume ${name}" lets it run`);
  const fence = { set: facts.uuid, number: lease.fence };
  const { source, replicas } = await openPoints(facts, members, options.open, fence, options.signal);
  try {
    const shape = shapeOf(facts, source);
    const inOrder = replicas.sort((a, b) => a.member.priority - b.member.priority);
    await using spool = new Spool<PageNews>(options.spoolFile);
    const gathered = await gather(
      {
        set: name,
        store,
        shape,
        source,
        replicas: inOrder,
        random: options.random,
        signal: options.signal,
        reached: () => {},
      },
      spool,
    );
    checkChange(facts, gathered, shape, options);
    const generation = await writeDown(lease, facts, shape, gathered, [source, ...replicas], spool, store);
    const toDo = await store.pendingCounts(name);
    const results = await together(
      replicas.map((point) =>
        update(point, lease, generation, shape, source, gathered, toDo.get(point.member.id) ?? 0, options),
      ),
    );
    const pending = await store.pendingCounts(name);
    return {
      set: name,
      generation,
      extents: extentsIn(shape),
      changed: gathered.changed,
      unreadable: gathered.unreadable,
      replicas: results.map((result, i) => ({
        ...result,
        pending: pending.get(replicas[i]!.member.id) ?? 0,
      })),
    };
  } finally {
    for (const { volume } of [source, ...replicas]) await volume?.[Symbol.asyncDispose]();
  }
}

function shapeOf(facts: SetFacts, source: Point): Shape {
  const { blockBytes, blocks } = source.volume!.geometry;
  if (facts.blocks > 0 && (facts.blockBytes !== blockBytes || facts.blocks > blocks))
    throw new AgentError(
      "size_mismatch",
      `"${source.member.address}" has ${blocks} blocks of ${blockBytes} bytes, and had ${facts.blocks} of ${facts.blockBytes}; ` +
        "a set does not shrink: make a new one",
    );
  return {
    digest: parseDigestSpec(facts.digest),
    extentBlocks: facts.extentBytes / blockBytes,
    blockBytes,
    blocks,
  };
}

function checkChange(facts: SetFacts, { changed }: Gathered, shape: Shape, options: RunOptions): void {
  const most = options.maxChange ?? facts.maxChange;
  const share = changed / extentsIn(shape);
  // The first run brings everything.
  if (most === undefined || facts.generation === 0 || share <= most) return;
  const percent = (value: number) => `${(100 * value).toFixed(1)} %`;
  throw new AgentError(
    "change_too_large",
    `${percent(share)} of the source have changed (${changed} extents), and no more than ${percent(most)} may be changed without being asked; ` +
      `nothing was written. If that is right: lunsync set run ${facts.name} --max-change 100%`,
  );
}

/** Truth and tables, in one transaction; returns the generation. */
async function writeDown(
  lease: Lease,
  facts: SetFacts,
  shape: Shape,
  gathered: Gathered,
  points: readonly Point[],
  spool: Spool<PageNews>,
  store: TruthStore,
): Promise<number> {
  const generation = facts.generation + (gathered.changed > 0 || facts.generation === 0 ? 1 : 0);
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
  });
  return generation;
}

const nothingToDo: CarriedOut = { written: 0, bytes: 0, proved: 0, later: 0, refused: 0 };
const isDone = ({ later, refused }: CarriedOut): boolean => later === 0 && refused === 0;

async function update(
  { member, volume, why }: Point,
  lease: Lease,
  generation: number,
  shape: Shape,
  source: Point,
  gathered: Gathered,
  pending: number,
  options: RunOptions,
): Promise<Omit<ReplicaResult, "pending">> {
  const { store, random, signal, clock, onNotice } = options;
  const strayed = gathered.strayed.get(member.id);
  if (strayed)
    onNotice(
      `Warning: somebody else has written to ${strayed.count} extents of "${member.name}"; they are made what the source has`,
    );
  let carriedOut: CarriedOut | undefined;
  let reason = why;
  if (volume) {
    try {
      // What it held is kept until it holds the generation as a whole.
      const isOpen = volume.traits.keepsWhole && (await volume.wholeState?.(signal))?.state !== "whole";
      const run =
        pending > 0 || isOpen
          ? await WholeRun.begin({ replica: volume, random, signal, onNotice })
          : undefined;
      carriedOut =
        pending === 0
          ? nothingToDo
          : await carryOut({
              lease,
              store,
              member: member.id,
              shape,
              source: source.volume!,
              replica: volume,
              random,
              signal,
            });
      if (isDone(carriedOut)) await run?.commit();
    } catch (error) {
      if (signal.aborted || !(error instanceof AgentError)) throw error;
      reason = error.message;
    }
  }
  const isInStep = carriedOut !== undefined && isDone(carriedOut);
  const state: ReplicaResult["state"] = !volume ? "offline" : isInStep ? "in step" : "behind";
  const facts: Partial<Pick<Member, "generation" | "lastResult" | "lastRunMs">> = {
    lastResult: reason === undefined ? state : `${state}: ${reason}`,
    lastRunMs: clock.nowMs(),
    ...(isInStep && { generation }),
  };
  await store.write(lease, (transaction) => transaction.updateMember(member.id, facts));
  return { name: member.name, address: member.address, state, reason, carriedOut, strayed };
}
