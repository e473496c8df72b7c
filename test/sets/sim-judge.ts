// What must hold after every step of a simulation of replication sets, as somebody sees it who sees all media at once.
//
// 1. An extent without an entry is on the replica's medium as the truth has it, unless somebody else wrote there. An entry goes
//    when the replica has proved to hold the truth.
// 2. A replica that is said to hold a generation, or that is whole by its journal, is one generation as a whole. A generation is
//    what the source was found to hold: all at once if it was quiet, or else each extent at some instant of the run.
// 3. What a transaction kept is there after a power cut; what it did not keep is there as a whole, or not at all.
// 4. A run writes what was written down before, over what the replica has proved to hold, to the volume that was seen first
//    under its name; within a run of that volume, if it keeps its last whole generation. To a volume that is fenced nothing that is
//    late is written.
// 5. Commands in flight are bounded.
// 6. What sim-roles.ts has of failovers and failbacks.
//
// Who writes to a replica without holding the set's lease is a stranger: a run that wakes up late, too.
import { assert } from "../../src/base/assert.ts";
import { type Header, journalState } from "../../src/whole/format.ts";
import type { MemberState, SimDatabase, TruthState } from "./sim-database.ts";
import { identified } from "./sim-disk.ts";
import { type Connection, command, type SimHost } from "./sim-host.ts";
import { Roles } from "./sim-roles.ts";
import type { SimTime } from "./sim-time.ts";

export class SimulationError extends Error {
  override readonly name = "SimulationError";
}

/** A run, a failover or a failback, as far as the judge has to know it. */
export interface RunFacts {
  readonly what: "run" | "failover" | "alone" | "failback";
  readonly owner: string;
  readonly sinceMs: number;
  readonly maxChange?: number | undefined;
  /** Who is handed out; of a failback, who is to be followed. */
  readonly target?: string | undefined;
  readonly force?: boolean;
  readonly prefer?: string | undefined;
  readonly mix?: boolean;
}

/** Who rolls back replicas by hand. */
export const operator = "an operator";

type Generation = readonly Buffer[];

export class Judge {
  readonly counts = { strange: 0, late: 0, generations: 0, wholes: 0, checks: 0, inStep: 0 };
  readonly #time: SimTime;
  readonly #database: SimDatabase;
  readonly #hosts: readonly SimHost[];
  readonly roles: Roles;
  readonly #zeros: (extent: number) => Buffer;
  readonly #runs = new Map<string, RunFacts>();
  /** By host: extents that somebody else wrote to, or may have. */
  readonly #strange = new Map<SimHost, Set<number>>();
  readonly #generations = new Map<number, Generation[]>();
  /** By host, asker and extent: what was answered lately, the newest first; one that came late may be another's question. */
  readonly #answers = new Map<SimHost, Map<string, Map<number, readonly Buffer[]>>>();
  #state: TruthState;
  #failure: SimulationError | undefined;

  constructor(
    time: SimTime,
    database: SimDatabase,
    hosts: readonly SimHost[],
    zeros: (extent: number) => Buffer,
  ) {
    this.#time = time;
    this.#database = database;
    this.#hosts = hosts;
    this.#zeros = zeros;
    this.#state = database.look();
    const court = {
      hosts,
      truthOf: (extent: number) => this.truthOf(extent),
      zerosOf: zeros,
      generations: (number: number) => this.#generations.get(number) ?? [],
      strangeOf: (host: SimHost) => this.strangeOf(host),
      demand: (holds: boolean, what: string) => this.#demand(holds, what),
    };
    this.roles = new Roles(court, this.#state);
    database.onCommit = () => this.#committed(database.look());
    database.onCut = (may) => {
      const now = database.look();
      const kept = may.some(({ text }) => text === now.text);
      this.#demand(kept, "what a transaction kept is there after a power cut, and nothing else");
      this.#committed(now);
    };
    for (const host of hosts) {
      this.#strange.set(host, new Set());
      this.#answers.set(host, new Map());
      host.disk.onLoss = (extents) => {
        this.roles.lost(host, extents);
        // What a disk has lost of a roll back and lied about is handed out as its cache has it.
        if (this.#runs.get(this.#database.holder() ?? "")?.what === "failover")
          for (const extent of extents) this.strangeOf(host).add(extent);
      };
      host.disk.onPut = (extents) => this.#put(host, extents);
      host.disk.onAnswer = (extent, identifier) => {
        const to = command.getStore()?.owner ?? "";
        const answers = this.#answers.get(host)!;
        const known = answers.get(to) ?? new Map<number, readonly Buffer[]>();
        answers.set(to, known.set(extent, [identifier, ...(known.get(extent) ?? []).slice(0, 2)]));
      };
      host.onWrite = (connection, lba, data) => this.#write(host, connection, lba, data);
      host.onWhole = (header) => this.#whole(host, header);
    }
  }

  begin(run: RunFacts): void {
    this.#runs.set(run.owner, run);
  }

  get state(): TruthState {
    return this.#state;
  }

  #demand(holds: boolean, what: string): void {
    if (holds || this.#failure) return;
    this.#failure = new SimulationError(`not so at ${this.#time.nowMs.toFixed(1)} ms: ${what}`);
  }

  /** @throws SimulationError for what was found since it was asked last */
  check(): void {
    this.roles.look(this.#time.nowMs);
    for (const host of this.#hosts) {
      const touched = host.disk.touched();
      if (touched.size > 0) this.#clean(host, touched);
    }
    if (this.#failure) throw this.#failure;
  }

  truthOf(extent: number): Buffer {
    return this.#state.truth.get(extent) ?? this.#zeros(extent);
  }

  strangeOf(host: SimHost): Set<number> {
    return this.#strange.get(host)!;
  }

  memberOf(host: SimHost): MemberState | undefined {
    return this.#state.members.find(({ uuid }) => uuid === host.uuid);
  }

  // --- 1 ---

  #clean(host: SimHost, extents: Iterable<number>): void {
    const member = this.memberOf(host);
    if (!member || member.generation === 0 || member.split || this.roles.leads(host)) return;
    const strange = this.#strange.get(host)!;
    for (const extent of extents) {
      this.counts.checks++;
      if (member.entries.has(extent) || strange.has(extent) || this.roles.isReturned(host, extent)) continue;
      const right = host.disk.onMedium(extent).equals(this.truthOf(extent));
      this.#demand(
        right,
        `extent ${extent} of "${host.name}", that is clean, is on its medium as the truth has it`,
      );
    }
  }

  #answersTo(owner: string, host: SimHost, extent: number): readonly Buffer[] {
    return this.#answers.get(host)!.get(owner)?.get(extent) ?? [];
  }

  /** Entries go with the proof that nothing is pending any more. */
  #acknowledged(host: SimHost, was: MemberState, is: MemberState): void {
    const holder = this.#database.holder();
    const isForced = this.#runs.get(holder ?? "")?.force === true;
    for (const [extent, { previous, sent }] of was.entries) {
      if (is.entries.has(extent) || (isForced && this.strangeOf(host).has(extent))) continue;
      const truth = this.truthOf(extent);
      const proved = this.#answersTo(holder ?? "", host, extent)[0]?.equals(truth) ?? false;
      const neverSent = sent === undefined && previous.equals(truth);
      this.#demand(
        proved || neverSent,
        `"${host.name}" has proved to hold extent ${extent} before its entry left the table`,
      );
    }
  }

  // --- 2 ---

  #committed(now: TruthState): void {
    const before = this.#state;
    this.#state = now;
    if (now.text === before.text) return;
    this.#time.tell(
      () =>
        `${this.#database.holder()} commits generation ${now.generation}; pending ` +
        now.members
          .map(({ name, generation, entries }) => `${name}: ${generation}, ${[...entries.keys()]}`)
          .join("; "),
    );
    const extents = Array.from({ length: this.#hosts[0]!.disk.extents }, (_, extent) => extent);
    const run = this.#runs.get(this.#database.holder() ?? "");
    const changed = extents.filter(
      (extent) => !(before.truth.get(extent) ?? this.#zeros(extent)).equals(this.truthOf(extent)),
    );
    if (run?.what === "failover" && run.force) this.#forced(run);
    this.#demand(now.generation >= before.generation, "generations go up");
    this.#demand(
      changed.length === 0 || now.generation > before.generation,
      "another truth is another generation",
    );
    if (now.generation > before.generation) {
      this.counts.generations++;
      const known = this.#generations.get(now.generation) ?? [];
      this.#generations.set(now.generation, [...known, extents.map((extent) => this.truthOf(extent))]);
      this.#gathered(before, changed);
    }
    this.roles.committed(before, now, run);
    for (const host of this.#hosts) {
      const strange = this.strangeOf(host);
      const isUsed = this.roles.isSide(host, before) || this.roles.isSide(host, now);
      for (const extent of isUsed ? strange : [])
        if (this.roles.isRight(host, extent)) strange.delete(extent);
    }
    for (const host of this.#hosts) {
      const [was, is] = [before.members.find(({ uuid }) => uuid === host.uuid), this.memberOf(host)];
      if (is && was?.id === is.id && !is.split) this.#acknowledged(host, was, is);
      // What was pending for who is no member any more is forgotten: a disk that has lied may do so unnoticed.
      if (was && was.id !== is?.id) for (const extent of was.entries.keys()) this.strangeOf(host).add(extent);
      this.#clean(host, extents);
      // Who is followed from now on is told so by its host later.
      const leads = this.roles.leads(host, now);
      if (is && is.generation > (was?.generation ?? 0)) this.#inStep(host, is, leads);
    }
  }

  /** What a replica holds that is handed out by force may be anything where its disk has failed. */
  #forced({ target }: RunFacts): void {
    for (const host of this.#hosts.filter(({ name }) => name === target))
      for (let extent = 0; extent < host.disk.extents; extent++)
        if (!host.disk.isReadable(extent) || !host.disk.isSettled(extent)) this.strangeOf(host).add(extent);
  }

  /** The truth is another one: it is what those had whose changes it takes. */
  #gathered(before: TruthState, changed: readonly number[]): void {
    const run = this.#runs.get(this.#database.holder() ?? "");
    assert(run !== undefined, "nobody writes without a lease");
    const sides = this.#hosts.filter((host) => {
      if (run.what === "failover") return host.name === run.target;
      return run.what === "failback" ? this.roles.wasSide(host, run.sinceMs) : this.roles.leads(host, before);
    });
    const isFound = ({ disk }: SimHost, extent: number) =>
      (disk.answered.get(extent)?.get(this.truthOf(extent).toString("latin1")) ?? -1) >= run.sinceMs;
    for (const extent of changed)
      this.#demand(
        sides.some((host) => isFound(host, extent)),
        `what the truth takes of extent ${extent} was at the source in the course of the run`,
      );
    for (const host of sides.length === 1 ? sides : []) {
      const { disk } = host;
      const quiet = disk.changedMs < run.sinceMs && disk.unreadable.size === 0;
      // Who lacks what a failback has mixed into the truth is not what that is.
      const entries = this.memberOf(host)?.entries;
      const isUnknown = (extent: number) => entries?.has(extent) || this.strangeOf(host).has(extent);
      for (let extent = 0; quiet && extent < disk.extents; extent++)
        this.#demand(
          isUnknown(extent) || this.truthOf(extent).equals(disk.inSight(extent)),
          `a generation of a quiet source is the source, at extent ${extent}`,
        );
    }
    const most = run.maxChange ?? 1;
    this.#demand(
      before.generation === 0 || changed.length <= most * this.#hosts[0]!.disk.extents,
      `no more than ${most} is changed without being asked`,
    );
  }

  #inStep(host: SimHost, member: MemberState, leads: boolean): void {
    this.counts.inStep++;
    this.#demand(
      member.generation === this.#state.generation,
      `"${host.name}" holds the generation of which that is said`,
    );
    this.#demand(member.entries.size === 0, `nothing is pending for "${host.name}", which is in step`);
    const header = host.served?.journal.header;
    this.#demand(
      leads || header === undefined || header.label?.generation === member.generation,
      `"${host.name}", which is in step, is that generation to its own host`,
    );
    const strange = this.#strange.get(host)!;
    for (let extent = 0; extent < host.disk.extents; extent++)
      if (!strange.has(extent))
        this.#demand(
          host.disk.onMedium(extent).equals(this.truthOf(extent)),
          `"${host.name}", which is in step, holds extent ${extent} on its medium`,
        );
  }

  #whole(host: SimHost, header: Header): void {
    const isCommit = header.run.some((byte) => byte !== 0);
    if (!isCommit) return;
    this.counts.wholes++;
    const strange = this.#strange.get(host)!;
    const { disk } = host;
    const holds = (generation: Generation) =>
      generation.every(
        (identifier, extent) => strange.has(extent) || disk.onMedium(extent).equals(identifier),
      );
    const said = header.label
      ? (this.#generations.get(header.label.generation) ?? [])
      : [...this.#generations.values()].flat();
    this.#demand(said.some(holds), `"${host.name}", which is whole, is the generation of which that is said`);
  }

  // --- 4 ---

  /** Somebody writes to a volume that is none of the set's. */
  foreign(host: SimHost): void {
    const connection = command.getStore();
    const isRun = connection !== undefined && this.#runs.has(connection.owner);
    // Whoever was removed and added anew is whom a run sees first.
    this.#demand(
      !isRun || this.memberOf(host) !== undefined,
      `nothing is written to another volume, at "${host.name}"`,
    );
  }

  #put(host: SimHost, extents: readonly number[]): void {
    const connection = command.getStore();
    const who = connection?.owner;
    this.#time.tell(
      () => `${who} writes extents ${extents} of "${host.name}", the holder is ${this.#database.holder()}`,
    );
    const strange = this.#strange.get(host)!;
    const run = this.#runs.get(who ?? "");
    const rollsBack = host.served?.journal.header.state === journalState.rollingBack;
    const mayRollBack = run?.what === "failback" && rollsBack;
    if (run?.what === "failover" || run?.what === "alone" || who === operator || mayRollBack) {
      this.roles.rolledBack(host, extents, run);
      return;
    }
    if (!run || !connection || who !== this.#database.holder()) {
      if (!run) this.roles.written(host, extents);
      if (connection && run) {
        this.counts.late++;
        const { owner } = connection;
        const mayStill = !host.fences || host.fence?.owner === owner;
        this.#demand(mayStill, `${owner}, which is late, does not write to "${host.name}", which is fenced`);
      }
      for (const extent of extents) strange.add(extent);
      this.counts.strange += extents.length;
      return;
    }
    this.roles.overwritten(host, extents, run);
    for (const extent of extents) strange.delete(extent);
    const journal = host.served?.journal;
    this.#demand(
      !journal?.header.label || journal.isOpen,
      `a run writes to "${host.name}" within a run of its own there`,
    );
  }

  /** A command to write arrives. */
  #write(host: SimHost, { owner }: Connection, lba: number, data: Buffer): void {
    if (owner !== this.#database.holder() || !this.#runs.has(owner)) return;
    const member = this.memberOf(host);
    this.#demand(
      member !== undefined,
      `a run writes to the volume that was seen first, and not to "${host.name}"`,
    );
    const { extentBytes, geometry } = host.disk;
    const from = lba * geometry.blockBytes;
    for (const extent of host.disk.extentsOf(lba, data.length)) {
      const entry = member?.entries.get(extent);
      const at = extent * extentBytes - from;
      const identifier = identified(data.subarray(at, at + extentBytes));
      this.#demand(
        entry?.sent?.equals(identifier) ?? false,
        `what is written to extent ${extent} of "${host.name}" was written down before`,
      );
      const answers = this.#answersTo(owner, host, extent);
      const may = entry ? [entry.previous, entry.sent, this.truthOf(extent)] : [];
      const isNobodys = entry?.previous.every((byte) => byte === 0xff) ?? false;
      const short = (each: Buffer | undefined) => each?.toString("hex", 0, 4);
      this.#time.tell(
        () =>
          `extent ${extent} answered ${short(answers[0])}; previous ${short(entry?.previous)} sent ${short(entry?.sent)}`,
      );
      this.#demand(
        isNobodys || answers.some((answer) => may.some((each) => each?.equals(answer))),
        `what is overwritten of extent ${extent} of "${host.name}" is what that may hold`,
      );
    }
  }
}
