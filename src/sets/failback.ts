// Failback: what has gone its own way since a failover is brought together again, and the set follows its source, or
// whoever the operator makes that.
//
// Guarantees: nothing is written before it is known what each side has changed since they parted; where both have, nothing is
// written unless the operator says whose way it goes. What is overwritten of a side that had changes of its own is kept first.
// The set follows the new side only when that was proved to hold all of the truth, and the other has not changed meanwhile.
// Who is cut off in the middle does it again.
import { AgentError } from "../base/errors.ts";
import type { Member } from "../truth/store.ts";
import type { Volume } from "../volume/volume.ts";
import { gather, type Side } from "./gather.ts";
import { whileLeased } from "./lease.ts";
import {
  byPriority,
  close,
  type HeldSet,
  type Keep,
  type PassOptions,
  pass,
  type RunResult,
  type SetOptions,
  shapeOf,
} from "./pass.ts";
import {
  fenceOf,
  giveOut,
  labelOf,
  type OnlinePoint,
  openFollower,
  openLeader,
  type Point,
  stateOf,
  takeFromDead,
} from "./points.ts";
import { leaderOf } from "./run.ts";
import { nowhere } from "./spool.ts";
import {
  type ConflictReport,
  checkLosses,
  checkReadable,
  conflictReport,
  type Preference,
  type Verdict,
  verdictOn,
} from "./verdict.ts";

export interface FailBackOptions extends SetOptions, Preference {
  /** The member that the set follows afterwards; the source if it is left out. */
  readonly to: string | undefined;
  readonly keep: Keep;
}

export interface FailedBack {
  readonly set: string;
  /** Whom the set follows now. */
  readonly source: string;
  /** What each side had changed, and who had his way; undefined where nobody had gone his own way. */
  readonly settled: (ConflictReport & { readonly winner: string; readonly mixed: boolean }) | undefined;
  /** The last run; undefined: there was nothing to do. */
  readonly run: RunResult | undefined;
}

/** Runs until nothing changes any more: what is written to the side that was handed out meanwhile must not be lost. */
const passesMax = 4;

/** @throws ConflictError, AgentError */
export async function failBack(name: string, options: FailBackOptions): Promise<FailedBack> {
  return whileLeased(name, options, async (lease, signal) => {
    const { facts, members } = await options.store.set(name);
    const set: HeldSet = { ...options, signal, lease, facts };
    return new FailBack(set, members, options).go();
  });
}

class FailBack {
  #set: HeldSet;
  #members: readonly Member[];
  readonly #options: FailBackOptions;
  #settled: FailedBack["settled"];
  /** Whose users were shut out. */
  readonly #taken = new Set<number>();

  constructor(set: HeldSet, members: readonly Member[], options: FailBackOptions) {
    this.#set = set;
    this.#members = members;
    this.#options = options;
  }

  async go(): Promise<FailedBack> {
    const target = this.#target();
    const rival = await this.#rival(target);
    const { handedOutTo } = this.#set.facts;
    const isThere = handedOutTo === undefined && target.role === "source";
    // A failback that was cut off may have left something pending.
    const pending = await this.#set.store.pendingCounts(this.#name);
    const isDone = this.#members.every(({ id, keptFirst }) => !keptFirst && (pending.get(id) ?? 0) === 0);
    if (!rival && isThere && isDone) {
      // One that was cut off may have left its users out. Nothing is written to it, so that it may be in use.
      const { volume } = await openLeader(target, this.#set.open);
      await using _ = volume;
      await takeFromDead(this.#set, volume);
      await this.#giveOut(volume);
      return { set: this.#name, source: target.name, settled: undefined, run: undefined };
    }
    let run: RunResult | undefined;
    for (let passes = 0; passes < passesMax; passes++) {
      const last = await this.#pass(target.name, passes === 0 ? rival : undefined);
      run = run ? together(run, last.run) : last.run;
      await this.#refresh();
      if (last.isThere) return { set: this.#name, source: target.name, settled: this.#settled, run };
      const found = run.replicas.find((replica) => replica.name === target.name);
      if (found && found.state !== "in step") {
        throw new AgentError(
          "not_whole",
          `"${target.name}" could not be brought to the truth (${found.state}: ${found.reason ?? `${found.pending} extents pending`}); ` +
            `the set goes on following "${leaderOf(this.#set.facts, this.#members).name}". Run the failback again`,
        );
      }
    }
    throw new AgentError(
      "volume_in_use",
      `"${leaderOf(this.#set.facts, this.#members).name}" goes on being written to: stop who uses it, and run the failback again`,
    );
  }

  get #name(): string {
    return this.#set.facts.name;
  }

  async #refresh(): Promise<void> {
    const { facts, members } = await this.#set.store.set(this.#name);
    this.#set = { ...this.#set, facts };
    this.#members = members;
  }

  #target(): Member {
    const { to } = this.#options;
    const found = this.#members.find(({ role, name }) =>
      to === undefined ? role === "source" : name === to,
    );
    if (!found) throw new AgentError("not_known", `The set "${this.#name}" has no member "${to}"`);
    return found;
  }

  /** Who has gone his own way, and can be brought together with the others now: the target first. */
  async #rival(target: Member): Promise<Member | undefined> {
    if (target.split) return target;
    const leader = leaderOf(this.#set.facts, this.#members);
    const others = byPriority(this.#members).filter((each) => each !== leader && each !== target);
    const { handedOutTo } = this.#set.facts;
    // Whoever is the set's no more, and the set follows the target already, is brought back by the next failback.
    return (
      others.find((each) => each.split && (handedOutTo === undefined || target === leader)) ??
      this.#handedOut(target === leader ? others : [target, ...others])
    );
  }

  /**
   * Whom his host has handed out: without the truth database; or by a command of the set that was cut off, or came late. The old
   * source, too, where its host keeps a label.
   */
  async #handedOut(members: readonly Member[]): Promise<Member | undefined> {
    for (const member of members.filter(({ split }) => !split)) {
      try {
        await using volume = await this.#set.open(member.address, false);
        if ((await stateOf(volume))?.label?.handedOut) return member;
      } catch (error) {
        if (!(error instanceof AgentError)) throw error; // who is offline is no rival now
      }
    }
    return undefined;
  }

  /** One pass, with a rival the first time; says whether the set follows the target now. */
  async #pass(to: string, rival: Member | undefined): Promise<{ run: RunResult; isThere: boolean }> {
    const { open } = this.#set;
    const points: Point[] = [];
    try {
      const leader = await openLeader(leaderOf(this.#set.facts, this.#members), open, true);
      points.push(leader);
      const opposed = rival && (await this.#openRival(rival, to));
      if (opposed) points.push(opposed);
      const rest = byPriority(this.#members).filter(
        ({ id }) => id !== leader.member.id && id !== opposed?.member.id,
      );
      const followers = await Promise.all(
        rest.map((member) =>
          openFollower(member, leader.volume, this.#set.facts, this.#set.lease, open, true),
        ),
      );
      points.push(...followers);
      return await this.#bring(to, leader, opposed, followers);
    } finally {
      await close(points);
    }
  }

  /** Undefined: it can't be reached, and need not be: it goes on having its own way. */
  async #openRival(rival: Member, to: string): Promise<OnlinePoint | undefined> {
    try {
      return await openLeader(rival, this.#set.open, true);
    } catch (error) {
      if (!(error instanceof AgentError)) throw error;
      if (rival.name === to) {
        const leader = leaderOf(this.#set.facts, this.#members).name;
        const message =
          `${error.message}. The set goes on following "${leader}"; if "${to}" is gone for good: ` +
          `lunsync failback ${this.#name} --to ${leader}`;
        throw new AgentError(error.code, message, { cause: error });
      }
      this.#set.onNotice(`Warning: "${rival.name}" stays as it is, and on its own: ${error.message}`);
      return undefined;
    }
  }

  async #bring(
    to: string,
    leader: OnlinePoint,
    rival: OnlinePoint | undefined,
    followers: readonly Point[],
  ): Promise<{ run: RunResult; isThere: boolean }> {
    for (const point of rival ? [leader, rival] : [leader]) {
      // One that a failback has taken back before takes the writes of that alone.
      await takeFromDead(this.#set, point.volume);
      if (point === rival) await this.#restore(point);
      await point.volume.flush();
    }
    const verdict = rival && (await this.#judge(leader, rival));
    const sides: Side[] = [{ point: leader, leads: true, taken: true, restates: false }];
    if (rival && verdict) {
      const { winner, mixed } = verdict;
      sides[0] = { point: leader, leads: true, taken: winner === "leader" || mixed, restates: false };
      const other = {
        point: rival,
        leads: false,
        taken: winner === "rival" || mixed,
        restates: winner === "rival" && !mixed,
      };
      if (winner === "rival") sides.unshift(other);
      else sides.push(other);
    }
    const rivalWins = verdict?.winner === "rival" && !verdict.mixed;
    // What the truth takes of it nobody else has until it was shipped.
    if (rival && verdict?.mixed) await this.#fence(rival);
    const options: PassOptions = {
      check: (tally) => {
        if (rivalWins) checkReadable(tally, rival!.member);
        checkLosses(tally, sides, verdict);
      },
      whenWritten: async () => {
        // From here on nobody else is to write to either; but who is only read, and followed afterwards, stays in use. Until it
        // was written down, a host that alone has handed a replica out is all that keeps runs from it.
        const isWrittenTo = verdict?.mixed === true || leader.member.keptFirst;
        const staysInUse = leader.member.name === to && sides[0]!.point === leader && !isWrittenTo;
        for (const point of [staysInUse ? undefined : leader, rival]) if (point) await this.#takeBack(point);
      },
      keep: this.#options.keep,
      alsoWrite: async (transaction) => {
        // From here on they are written to: nothing of it goes unkept, whoever goes on with it.
        for (const { point } of rival ? sides : [])
          await transaction.updateMember(point.member.id, {
            split: false,
            baseUnknown: false,
            keptFirst: verdict?.mixed === true || point.member.name !== this.#settled?.winner,
          });
        // It holds all of the truth at this instant; the one that was handed out follows it from here on.
        if (rival && rivalWins) await this.#follow(transaction, rival.member);
      },
    };
    // What was written until then may be missing in what this pass gathers.
    const wasTaken = this.#taken.has(leader.member.id);
    const run = await pass(this.#set, { leader, sides, followers, dropped: [] }, options);
    await this.#refresh();
    // Who has lost may have been written to until his users were shut out: the next pass sees that, and keeps it.
    const isThere = rival === undefined && (await this.#end(to, run, wasTaken ? leader : undefined));
    const target = [leader, ...followers].find(({ member }) => member.name === to);
    if (isThere && target?.volume) await this.#giveOut(target.volume);
    return { run, isThere };
  }

  /**
   * The set follows the target if that holds all of the truth, and nobody can have changed it meanwhile. `quiet`: whom it
   * followed so far, if his users were shut out before anything was gathered.
   */
  async #end(to: string, run: RunResult, quiet: OnlinePoint | undefined): Promise<boolean> {
    const { facts, store, lease } = this.#set;
    const target = this.#members.find(({ name }) => name === to)!;
    const leads = leaderOf(facts, this.#members).id === target.id;
    const result = run.replicas.find((replica) => replica.name === to);
    const isQuiet = run.changed === 0 && result?.state === "in step" && result.carriedOut?.written === 0;
    // Who is followed already is among those that were brought something if an earlier failback has mixed that into the truth.
    const isComplete = result === undefined || result.state === "in step";
    if (leads ? !isComplete : !(isQuiet && quiet)) return false;
    const old = leaderOf(facts, this.#members);
    const lacks = (await store.pendingCounts(facts.name)).get(old.id) ?? 0;
    if (lacks === 0 && !leads && quiet) await this.#label(quiet.volume);
    await store.write(lease, async (transaction) => {
      await this.#follow(transaction, target);
      if (lacks > 0 || leads) return;
      const inStep = { lastResult: "in step", lastRunMs: this.#set.clock.nowMs() };
      await transaction.updateMember(old.id, { generation: facts.generation, ...inStep });
    });
    return true;
  }

  async #follow(
    transaction: Parameters<NonNullable<PassOptions["alsoWrite"]>>[0],
    target: Member,
  ): Promise<void> {
    await transaction.updateSet({ handedOutTo: target.role === "source" ? undefined : target.id });
    if (target.name !== this.#target().name || target.role === "source") return;
    // For good: the old source is a replica from here on.
    const old = this.#members.find(({ role }) => role === "source")!;
    await transaction.updateMember(old.id, { role: "replica" });
    await transaction.updateMember(target.id, { role: "source" });
    await transaction.updateSet({ handedOutTo: undefined });
  }

  /** A rival that an earlier failback had begun to overwrite is again what it was before, where its host keeps that. */
  async #restore({ member, volume }: OnlinePoint): Promise<void> {
    const { signal, onNotice } = this.#set;
    const state = await stateOf(volume);
    const done = state?.state === "open" ? await volume.rollBackWhole!({}, signal) : undefined;
    const isMixture = done ? done.unreadable + done.lost > 0 : member.split && member.unsettled && !state;
    if (isMixture)
      onNotice(
        `Warning: "${member.name}" has some of what a failback that was cut off has written, and is not what its users had; what that has ` +
          'overwritten was kept, and "lunsync undo" puts it back',
      );
  }

  /** Finds out what each has changed. @throws ConflictError */
  async #judge(leader: OnlinePoint, rival: OnlinePoint): Promise<Verdict> {
    const { store, facts, random, signal } = this.#set;
    const shape = shapeOf(facts, leader);
    if (
      rival.volume.geometry.blocks !== shape.blocks ||
      rival.volume.geometry.blockBytes !== shape.blockBytes
    )
      throw new AgentError(
        "size_mismatch",
        `"${rival.member.address}" has ${rival.volume.geometry.blocks} blocks, "${leader.member.address}" ${shape.blocks}: make them ` +
          "as long as each other first. Nothing was written",
      );
    const plain = (point: OnlinePoint): Side => ({
      point,
      leads: point === leader,
      taken: true,
      restates: false,
    });
    const question = { set: facts.name, store, shape, followers: [], dropped: [], random, signal };
    const { map } = await gather({ ...question, sides: [plain(leader), plain(rival)] }, nowhere);
    // What both held when they parted is known from the failover; or if the rival was whole then, and handed out as that.
    const label = (await stateOf(rival.volume))?.label;
    const wasWhole = !rival.member.unsettled && label?.generation === rival.member.generation;
    const rivals = {
      leader: leader.member,
      rival: rival.member,
      map,
      baseUnknown: rival.member.split ? rival.member.baseUnknown : !wasWhole,
    };
    const verdict = verdictOn(rivals, this.#options);
    const winner = verdict.winner === "leader" ? leader : rival;
    this.#settled = { ...conflictReport(rivals), winner: winner.member.name, mixed: verdict.mixed };
    return verdict;
  }

  /** Its host knows which generation it holds. */
  async #label(volume: Volume): Promise<void> {
    const { facts, signal } = this.#set;
    const state = await stateOf(volume);
    if (state?.state === "whole") await volume.labelWhole?.(labelOf(facts, facts.generation), signal);
  }

  async #fence({ volume }: OnlinePoint): Promise<void> {
    const { facts, lease, signal } = this.#set;
    await volume.fence?.(fenceOf(facts, lease), {}, signal);
  }

  /** It is the set's again: its host refuses the writes of others. */
  async #takeBack(point: OnlinePoint): Promise<void> {
    const { volume } = point;
    const { facts, signal } = this.#set;
    this.#taken.add(point.member.id);
    await this.#fence(point);
    const label = (await stateOf(volume))?.label;
    if (label?.handedOut) await volume.labelWhole?.(labelOf(facts, label.generation), signal);
  }

  /** The set follows it from here on: it takes the writes of others. */
  async #giveOut(volume: Volume): Promise<void> {
    const { facts } = this.#set;
    const label = (await stateOf(volume))?.label;
    const isNew = label !== undefined && !label.handedOut;
    await giveOut(this.#set, volume, isNew ? labelOf(facts, facts.generation, true) : undefined);
  }
}

/** What two passes have done, and how it is after the later one. */
function together(before: RunResult, now: RunResult): RunResult {
  const replicas = now.replicas.map((replica) => {
    const was = before.replicas.find(({ name }) => name === replica.name);
    const [one, other] = [was?.carriedOut, replica.carriedOut];
    if (!one || !other)
      return { ...replica, carriedOut: other ?? one, strayed: replica.strayed ?? was?.strayed };
    const sum = {
      written: one.written + other.written,
      bytes: one.bytes + other.bytes,
      proved: one.proved + other.proved,
    };
    return { ...replica, carriedOut: { ...other, ...sum }, strayed: replica.strayed ?? was?.strayed };
  });
  const gone = before.replicas.filter(({ name }) => now.replicas.every((replica) => replica.name !== name));
  return { ...now, changed: before.changed + now.changed, replicas: [...replicas, ...gone] };
}
