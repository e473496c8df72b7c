// What must hold when members of a simulated set change their roles, and when their users write; the judge of all the rest is
// in sim-judge.ts.
//
// A side is a member that has users: whom the set follows, who was left by a failover, whom his host has handed out by himself.
// 1. The set follows exactly one member, and that has not gone its own way.
// 2. What is handed out is one generation as a whole, and what its own users have made of it since.
// 3. A run writes to no side. A failback writes to one only after it was judged, and to whom the set follows only where extents
//    are mixed.
// 4. What a side's user wrote, and the truth never had, is overwritten only after it was kept, by a failback.
// 5. What a failback has judged is right (sim-verdict.ts).
// 6. Who is followed no more has nothing that the truth lacks.
import type { SetLabel } from "../../src/volume/volume.ts";
import type { MemberState, TruthState } from "./sim-database.ts";
import type { SimHost } from "./sim-host.ts";
import type { RunFacts } from "./sim-judge.ts";
import { Verdicts } from "./sim-verdict.ts";

/** What the judge knows. */
export interface Court {
  readonly hosts: readonly SimHost[];
  readonly truthOf: (extent: number) => Buffer;
  readonly zerosOf: (extent: number) => Buffer;
  /** What a generation of that number was; there are several after the database was put back. */
  readonly generations: (number: number) => readonly (readonly Buffer[])[];
  /** Extents that somebody else wrote to, or of which nobody knows what they have. */
  readonly strangeOf: (host: SimHost) => ReadonlySet<number>;
  readonly demand: (holds: boolean, what: string) => void;
}

/** The one that the set follows. */
export function leaderIn({ members, handedOutTo }: TruthState): MemberState | undefined {
  return members.find(({ id, role }) => (handedOutTo === undefined ? role === "source" : id === handedOutTo));
}

export class Roles {
  readonly counts = { handedOut: 0, alone: 0, verdicts: 0, mixed: 0, follows: 0, kept: 0, written: 0 };
  readonly #court: Court;
  /** Extents that a side's user wrote, of which nobody has decided yet, and what they held before. */
  readonly #owed = new Map<SimHost, Map<number, Buffer>>();
  /** Extents that its users wrote since it was in step, and those which its disk has lost. */
  readonly #own = new Map<SimHost, Set<number>>();
  /** Extents that a roll back has put back. */
  readonly #returned = new Map<SimHost, Set<number>>();
  readonly #kept = new Set<string>();
  readonly #verdicts: Verdicts;
  /** When it was a side last. */
  readonly #sideMs = new Map<SimHost, number>();
  /** By owner. */
  readonly #writers = new Set<string>();
  #state: TruthState;

  constructor(court: Court, state: TruthState) {
    this.#court = court;
    this.#verdicts = new Verdicts(court);
    this.#state = state;
    for (const host of court.hosts) {
      this.#owed.set(host, new Map());
      for (const map of [this.#own, this.#returned]) map.set(host, new Set());
    }
  }

  hostOf(member: MemberState | undefined): SimHost | undefined {
    return (
      member &&
      this.#court.hosts.find(
        ({ uuid, name }) => uuid === (member.uuid ?? `uuid of ${name}`) && name === member.name,
      )
    );
  }

  #memberOf(host: SimHost, { members }: TruthState): MemberState | undefined {
    return members.find(({ name, uuid }) => name === host.name && (uuid === undefined || uuid === host.uuid));
  }

  leads(host: SimHost, state = this.#state): boolean {
    return this.hostOf(leaderIn(state)) === host;
  }

  /** It has users. */
  isSide(host: SimHost, state = this.#state): boolean {
    return (
      this.leads(host, state) ||
      this.#memberOf(host, state)?.split === true ||
      labelOf(host)?.handedOut === true
    );
  }

  /** Who is a side now. */
  look(nowMs: number): void {
    for (const host of this.#court.hosts) if (this.isSide(host)) this.#sideMs.set(host, nowMs);
  }

  /** At some instant since then. */
  wasSide(host: SimHost, sinceMs: number): boolean {
    return (this.#sideMs.get(host) ?? -1) >= sinceMs;
  }

  /** What is known of it is not what the truth says there. */
  isReturned(host: SimHost, extent: number): boolean {
    return this.#returned.get(host)!.has(extent);
  }

  // --- writes ---

  /** A user's, or a stranger's, before it is there. */
  written(host: SimHost, extents: readonly number[]): void {
    if (!this.isSide(host)) return;
    this.counts.written++;
    for (const extent of extents) {
      const owed = this.#owed.get(host)!;
      owed.set(extent, owed.get(extent) ?? host.disk.inCache(extent));
      this.#own.get(host)!.add(extent);
    }
  }

  /** Its disk has lost something, and said so or not: what it holds there is nobody's. */
  lost(host: SimHost, extents: readonly number[]): void {
    for (const extent of extents) {
      this.#own.get(host)!.add(extent);
      this.#owed.get(host)!.delete(extent);
    }
  }

  /** A roll back's. */
  rolledBack(host: SimHost, extents: readonly number[], run: RunFacts | undefined): void {
    const failsBack = run?.what === "failback";
    this.#court.demand(
      run === undefined ||
        (failsBack ? this.#memberOf(host, this.#state)?.split === true : run.target === host.name),
      `a failover of "${run?.target}", or a failback, rolls nobody else back, and not "${host.name}"`,
    );
    for (const extent of extents) this.#returned.get(host)!.add(extent);
  }

  /** A run's, or a failback's, by whoever has the set. */
  overwritten(host: SimHost, extents: readonly number[], run: RunFacts): void {
    const { demand, truthOf } = this.#court;
    this.#writers.add(run.owner);
    const member = this.#memberOf(host, this.#state);
    const failsBack = run.what === "failback";
    const what = `${run.owner} (${run.what}) writes to "${host.name}", which`;
    demand(member?.split !== true, `${what} has gone its own way, before that was settled`);
    demand(labelOf(host)?.handedOut !== true, `${what} its host has handed out`);
    demand(failsBack || member?.keptFirst !== true, `${what} has something to be kept first`);
    demand(!this.leads(host) || (failsBack && member?.keptFirst === true), `${what} the set follows`);
    const owed = this.#owed.get(host)!;
    for (const extent of extents) {
      this.#returned.get(host)!.delete(extent);
      const before = owed.get(extent);
      if (!before) continue;
      owed.delete(extent);
      const held = host.disk.inCache(extent);
      const isKept = this.#kept.has(keyOf(host.name, extent, held));
      demand(
        isKept ||
          host.disk.unreadable.size > 0 ||
          [before, truthOf(extent)].some((each) => each.equals(held)),
        `what a user wrote to extent ${extent} of "${host.name}" is kept first`,
      );
    }
  }

  /** What a failback has kept. */
  keep(name: string, extent: number, identifier: Buffer): void {
    this.counts.kept++;
    this.#kept.add(keyOf(name, extent, identifier));
  }

  // --- transactions ---

  committed(before: TruthState, now: TruthState, run: RunFacts | undefined): void {
    const { demand, hosts } = this.#court;
    this.#state = now;
    if (run) this.#writers.add(run.owner);
    const leader = leaderIn(now);
    const sources = now.members.filter(({ role }) => role === "source").length;
    demand(
      leader !== undefined && sources === 1,
      `the set follows one member, and not ${leader?.name} of ${sources} sources`,
    );
    demand(leader?.split !== true, `"${leader?.name}", whom the set follows, has not gone its own way`);
    this.#refresh();
    const old = leaderIn(before);
    if (old && old.id !== leader?.id) this.#follows(before, now, run);
    else if (run?.what === "failover" && leader && this.#isKept(before, leader)) this.#isTruth(leader);
    const settled = now.members.filter(({ id, split, keptFirst }) => {
      const was = before.members.find((each) => each.id === id);
      return was !== undefined && ((was.split && !split) || (!was.keptFirst && keptFirst));
    });
    if (run?.what === "failback" && settled.length > 0) this.#settled(before, run, settled);
    for (const host of hosts) {
      const [was, is] = [this.#memberOf(host, before), this.#memberOf(host, now)];
      if (is?.split && !was?.split) {
        // What is pending for it from then on says where the truth has gone on since they parted, and nothing else.
        demand(
          is.entries.size === 0,
          `nothing is pending for "${host.name}", which goes its own way from there`,
        );
        const had = before.members.find(({ id }) => id === leader?.id);
        const isSure = had?.split === true || had?.keptFirst === true || was?.keptFirst === true;
        // Its label may have come late, on its way from somebody who was killed.
        const perhaps = labelOf(this.hostOf(leader)!)?.handedOut ? "perhaps" : undefined;
        this.#verdicts.parts(host, isSure ? "surely" : perhaps);
      }
      if (was && is && is.generation > was.generation && !this.leads(host)) this.#inStep(host);
    }
  }

  /** A failback was cut off that had decided about it. */
  #isKept({ members }: TruthState, member: MemberState): boolean {
    return members.some(({ id, keptFirst }) => id === member.id && keptFirst);
  }

  /** What is on the medium as the truth has it is nobody's any more. */
  #refresh(): void {
    for (const host of this.#court.hosts) {
      const returned = this.#returned.get(host)!;
      for (const extent of returned) if (this.isRight(host, extent)) returned.delete(extent);
    }
  }

  isRight({ disk }: SimHost, extent: number): boolean {
    return disk.onMedium(extent).equals(this.#court.truthOf(extent)) && disk.isSettled(extent);
  }

  /** Who has what the truth has has lost nothing. */
  #forgive(host: SimHost): void {
    const owed = this.#owed.get(host)!;
    for (const [extent, before] of owed) {
      const held = host.disk.inCache(extent);
      if ([before, this.#court.truthOf(extent)].some((each) => each.equals(held))) owed.delete(extent);
    }
  }

  #inStep(host: SimHost): void {
    this.#forgive(host);
    this.#own.get(host)!.clear();
  }

  #follows(before: TruthState, now: TruthState, run: RunFacts | undefined): void {
    const { demand, hosts } = this.#court;
    const [old, leader] = [leaderIn(before), leaderIn(now)!];
    this.counts.follows++;
    const [left, host] = [this.hostOf(old), this.hostOf(leader)];
    demand(
      run !== undefined && run.what !== "run",
      `whom the set follows is changed by a failover or a failback alone`,
    );
    demand(
      run === undefined || run.target === undefined || run.what !== "failover" || run.target === leader.name,
      `the set follows whom it was told to`,
    );
    if (!host || !run) return;
    this.#isTruth(leader);
    if (run.what === "failover") {
      this.counts.handedOut++;
      const parted = now.members.find(({ id }) => id === old?.id);
      demand(parted?.split === true && parted.entries.size === 0, "who is left goes his own way from there");
      const was = before.members.find(({ id }) => id === leader.id)!;
      if (!run.force && !was.split) this.#isGeneration(host, labelOf(host)?.generation ?? was.generation);
      for (const each of hosts) this.#forgive(each);
      return;
    }
    const stays = now.members.find(({ id }) => id === old?.id);
    if (!left || !stays || stays.split || stays.keptFirst) return;
    this.#forgive(left);
    // A volume that neither reserves nor knows a label takes writes to the last: the next run names those.
    const isShut = left.fences || labelOf(left) !== undefined;
    const owed = this.#owed.get(left)!;
    if (!isShut) owed.clear();
    const lost = [...owed.keys()].filter((extent) => left.disk.isReadable(extent));
    demand(
      lost.length === 0,
      `the truth has extents ${lost} of "${left.name}", which is followed no more, as its user wrote them`,
    );
  }

  /** What is followed from now on is the truth. */
  #isTruth(leader: MemberState): void {
    const { demand, strangeOf, truthOf } = this.#court;
    const host = this.hostOf(leader);
    if (!host) return;
    demand(leader.entries.size === 0, `nothing is pending for "${leader.name}", which is followed`);
    for (let extent = 0; extent < host.disk.extents; extent++)
      demand(
        strangeOf(host).has(extent) || host.disk.inSight(extent).equals(truthOf(extent)),
        `"${leader.name}", which is followed, has extent ${extent} as the truth has it`,
      );
  }

  #isGeneration(host: SimHost, number: number): void {
    const { demand, generations, strangeOf } = this.#court;
    const [own, strange] = [this.#own.get(host)!, strangeOf(host)];
    const { disk } = host;
    const holds = (generation: readonly Buffer[]) =>
      generation.every(
        (identifier, extent) =>
          own.has(extent) ||
          strange.has(extent) ||
          disk.inCache(extent).equals(identifier) ||
          disk.onMedium(extent).equals(identifier),
      );
    demand(
      generations(number).some(holds),
      `"${host.name}", which is handed out, is generation ${number} as a whole`,
    );
  }

  /** Its host alone has handed it out. */
  handedOutAlone(host: SimHost, { generation }: SetLabel): void {
    this.counts.alone++;
    this.#isGeneration(host, generation);
  }

  /** A failback has judged. */
  #settled(before: TruthState, run: RunFacts, settled: readonly MemberState[]): void {
    const { hosts } = this.#court;
    this.counts.verdicts++;
    const first = leaderIn(before)!;
    const other = settled.find(({ id }) => id !== first.id) ?? leaderIn(this.#state)!;
    const [leader, rival] = [this.hostOf(first), this.hostOf(other)];
    if (!leader || !rival || leader === rival) return;
    const its = this.#memberOf(rival, before)!;
    const base = its.split ? undefined : this.#wholeAt(rival);
    const isMixed = this.#verdicts.judge(
      before,
      run,
      { host: leader, member: first },
      { host: rival, member: its },
      base,
    );
    if (isMixed) this.counts.mixed++;
    for (const host of hosts) this.#forgive(host);
  }

  /** What its host called whole when it handed it out by itself; undefined where somebody else has written there. */
  #wholeAt(host: SimHost): readonly Buffer[] | undefined {
    const [generation, another] = this.#court.generations(labelOf(host)?.generation ?? -1);
    return another || this.#court.strangeOf(host).size > this.#own.get(host)!.size ? undefined : generation;
  }

  /** A failback was refused, since both have changed something. */
  refused(owner: string): void {
    this.#court.demand(!this.#writers.has(owner), `${owner}, which was refused, has written nothing`);
  }

  /** Who was handed out, or is followed since a failback, takes the writes of its user. */
  taken(name: string, owner: string): void {
    const host = this.hostOf(leaderIn(this.#state));
    // Who is down does so when he is up again; what somebody else does to it meanwhile, who may be dead, is found by the next failback.
    if (host?.name === name && host.up && (!host.fence || host.fence.owner === owner))
      this.#takesWrites(host);
  }

  #takesWrites(host: SimHost): void {
    const { demand } = this.#court;
    const label = labelOf(host);
    demand(
      host.fence === undefined,
      `"${host.name}", which is followed, is not fenced by ${host.fence?.owner}`,
    );
    demand(!label || label.handedOut, `"${host.name}", which is followed, takes writes of its user`);
  }

  /** Nobody goes on: whoever is followed takes the writes of its user, and nobody else of the set does. */
  atRest(): void {
    const { demand, hosts } = this.#court;
    for (const host of hosts) {
      if (!this.#memberOf(host, this.#state)) continue;
      const label = labelOf(host);
      if (this.leads(host)) {
        this.#takesWrites(host);
        continue;
      }
      demand(label?.handedOut !== true, `"${host.name}", which follows, takes no writes of others`);
      demand(!host.fences || host.fence !== undefined, `"${host.name}", which follows, is fenced`);
    }
  }
}

const keyOf = (name: string, extent: number, identifier: Buffer): string =>
  `${name} ${extent} ${identifier.toString("latin1")}`;

/** What its host remembers, if it does and is up. */
const labelOf = (host: SimHost): SetLabel | undefined => host.served?.journal.header.label;
