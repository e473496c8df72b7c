// One run of synchronization after another over a small world, by the rules of src/truth: gather, decide, write down,
// update, acknowledge, write back. The manager dies anywhere, and knows afterwards what was written down.
import type { Action } from "../../src/truth/actions.ts";
import { type Decision, decide, type Report, reportOf, reportOffline } from "../../src/truth/decide.ts";
import { type Proof, prove } from "../../src/truth/extent-state.ts";
import { entryRefused, entryToKeep, entryToSend, type Pending } from "../../src/truth/pending.ts";
import { type Recovered, recover } from "../../src/truth/recovery.ts";
import { type Content, type Point, same, type World } from "./world.ts";

class Death extends Error {}

interface Truth {
  readonly content: Content | undefined;
  readonly origin: string | undefined;
}

/** What is written down. Never changed in place. */
interface Database {
  readonly truth: Map<string, Truth>;
  /** By sync point and record. */
  readonly tables: Map<string, Map<string, Pending<Content>>>;
  /** By sync point and record: under which local name it has it. */
  readonly handles: Map<string, Map<string, string>>;
  records: number;
}

const copy = (db: Database): Database => ({
  truth: new Map(db.truth),
  tables: new Map([...db.tables].map(([name, table]) => [name, new Map(table)])),
  handles: new Map([...db.handles].map(([name, handles]) => [name, new Map(handles)])),
  records: db.records,
});

/** Of one record of one sync point, after it was asked. */
interface Gathered {
  readonly held: Content | undefined;
  readonly handle: string | undefined;
  readonly proof: Proof;
  readonly recovered: Recovered;
}

const isDone = ({ outcome }: Proof) => outcome === "equal" || outcome === "applied";
const keyOf = (entry: Pending<Content>) => (entry.sent?.content ?? entry.previous)?.key;

export class Manager {
  readonly #world: World;
  #db: Database;
  /** What the manager tells the witness when a transaction is through, even if nobody hears of that. */
  #toTell: (() => void)[] = [];

  constructor(world: World) {
    this.#world = world;
    this.#db = {
      truth: new Map(),
      tables: new Map(world.points.map(({ name }) => [name, new Map()])),
      handles: new Map(world.points.map(({ name }) => [name, new Map()])),
      records: 0,
    };
  }

  /** Why the world is not as it should be after a run; undefined if all hold the truth, and nothing is left to do. */
  unfinished(): string | undefined {
    const list = (contents: Iterable<Content | undefined>) =>
      [...contents]
        .flatMap((content) => (content ? [`${content.key}=${content.id}`] : []))
        .sort()
        .join(" ");
    const truth = list([...this.#db.truth.values()].map(({ content }) => content));
    for (const { name, records } of this.#world.points) {
      const holds = list(records.values());
      if (holds !== truth) return `${name} holds ${holds}, the truth is ${truth}`;
      if (this.#db.tables.get(name)!.size > 0) return `${name} has entries left`;
    }
    return undefined;
  }

  /** True if the run ended, false if the manager died. */
  run(): boolean {
    this.#world.witness.counts.runs++;
    try {
      this.#run();
      return true;
    } catch (error) {
      if (!(error instanceof Death)) throw error;
      this.#world.witness.counts.deaths++;
      this.#world.say("the manager dies");
      return false;
    }
  }

  #step(): void {
    this.#world.instant((point, handle) => this.#knows(point, handle));
    if (this.#world.unlucky(0.3)) throw new Death();
  }

  /**
   * Whether it can be known from the outside that it is gone: it was acknowledged or proved that the sync point has it, and
   * no deletion by the manager was sent that would have done the same.
   */
  #knows(point: Point, handle: string): boolean {
    const known = [...this.#db.handles.get(point.name)!].find(([, its]) => its === handle);
    const record = this.#world.kind === "extents" ? handle : known?.[0];
    if (record === undefined) return false;
    const entry = this.#db.tables.get(point.name)!.get(record);
    if (entry?.sent && entry.sent.content === undefined) return false;
    return entry ? entry.previous !== undefined : this.#db.truth.get(record)?.content !== undefined;
  }

  /** All or nothing; the manager may die before it, and after it without having heard. */
  #commit(draft: Database): void {
    const told = this.#toTell;
    this.#toTell = [];
    this.#step();
    this.#db = copy(draft);
    for (const tell of told) tell();
    this.#step();
  }

  #run(): void {
    const { points } = this.#world;
    this.#toTell = [];
    const draft = copy(this.#db);
    const gathered = new Map<Point, Map<string, Gathered>>();
    const added = new Map<string, string>();
    for (const point of points) {
      this.#step();
      if (point.online) gathered.set(point, this.#gather(point, draft, added));
    }
    const records = new Set([...draft.truth.keys(), ...added.values()]);
    for (const table of draft.tables.values()) for (const record of table.keys()) records.add(record);
    for (const all of gathered.values()) for (const record of all.keys()) records.add(record);
    for (const record of records) this.#decide(record, draft, gathered);
    this.#commit(draft);
    for (const point of gathered.keys()) this.#update(point, draft);
    this.#commit(draft);
  }

  /** What one sync point holds, record by record; gives records their identities. */
  #gather(point: Point, draft: Database, added: Map<string, string>): Map<string, Gathered> {
    const table = draft.tables.get(point.name)!;
    const handles = draft.handles.get(point.name)!;
    const gathered = new Map<string, Gathered>();
    const proofOf = (record: string, held: Content | undefined) =>
      prove(draft.truth.get(record)?.content, table.get(record), held, same);
    const take = (record: string, handle: string | undefined, proof: Proof, recovered: Recovered) => {
      const held = handle === undefined ? undefined : point.records.get(handle);
      gathered.set(record, { held, handle, proof, recovered });
      if (recovered.overruled) {
        this.#world.witness.counts.overruled++;
        this.#toTell.push(() => this.#world.witness.reported(point.name, handle, held));
      }
      // Two who delete the same make one change, even if the truth has gone on since.
      if (!held && isDone(proof))
        this.#toTell.push(() => this.#world.witness.deletionTaken(point.name, handle));
      if (held && handle !== undefined) handles.set(record, handle);
      else handles.delete(record);
    };
    if (this.#world.kind === "extents")
      for (const handle of point.records.keys()) handles.set(handle, handle);
    const known = new Set(handles.values());
    for (const [handle, content] of point.records) {
      if (known.has(handle)) continue;
      const olds = [...draft.truth].filter(([, { content: of }]) => of?.key === content.key);
      const entries = [...table].filter(([, entry]) => keyOf(entry) === content.key);
      const proofs = [...olds, ...entries].map(([record]) => [record, proofOf(record, content)] as const);
      const [old, proof] = proofs.find(([, { outcome }]) => outcome !== "written") ?? proofs[0] ?? [];
      const place = old === undefined ? undefined : handles.get(old);
      const recovered = recover({
        pending: undefined,
        state: "ADDED",
        ...(old !== undefined && {
          duplicate: {
            pending: table.get(old)?.action,
            outcome: proof!.outcome,
            beside: place !== undefined && point.records.has(place),
          },
        }),
      });
      this.#world.say(`${point.name}: ${handle} is new, rule ${recovered.rule}, old record ${old}`);
      if (recovered.identity === "the old record's") take(old!, handle, proof!, recovered);
      else if (recovered.presented) {
        const record = added.get(content.key) ?? `r${draft.records++}`;
        added.set(content.key, record);
        take(record, handle, proofOf(record, content), recovered);
      }
    }
    const all = new Set([...draft.truth.keys(), ...table.keys(), ...handles.keys()]);
    for (const record of all) {
      if (gathered.has(record)) continue;
      const handle = handles.get(record);
      const proof = proofOf(record, handle === undefined ? undefined : point.records.get(handle));
      const recovered = recover({ pending: proof.pending, state: proof.state });
      take(record, handle, proof, recovered);
    }
    return gathered;
  }

  #decide(record: string, draft: Database, gathered: Map<Point, Map<string, Gathered>>): void {
    const { points } = this.#world;
    const { content: before, origin } = draft.truth.get(record) ?? { content: undefined, origin: undefined };
    const found = points.map((point) => gathered.get(point)?.get(record));
    const reports: Report[] = points.map(({ name }, i) => {
      const one = found[i];
      return one
        ? reportOf(one.proof, one.recovered)
        : reportOffline(draft.tables.get(name)!.get(record)?.action);
    });
    const sameAt = (a: number, b: number) => found[a]!.held?.id === found[b]!.held?.id;
    const decision = decide(points, { there: before !== undefined, origin }, reports, sameAt);
    const taker = points.findIndex(({ name }) => name === decision.takes);
    const truth = taker < 0 ? before : found[taker]!.held;
    draft.truth.set(record, { content: truth, origin: decision.truth.origin });
    points.forEach(({ name }, i) => {
      const table = draft.tables.get(name)!;
      const action: Action = decision.actions[i] ?? "NO_CHANGE";
      const entry = gathered.has(points[i]!)
        ? entryToSend(action, found[i]?.held, truth)
        : entryToKeep(action, table.get(record), before);
      if (entry) table.set(record, entry);
      else table.delete(record);
    });
    this.#tell(decision, before, truth, found, reports, sameAt);
    if (taker >= 0 || decision.conflict)
      this.#world.say(
        `record ${record}: ${before?.id} → ${truth?.id}, ${JSON.stringify(decision)}, reports ${JSON.stringify(reports)}`,
      );
  }

  /** What the witness learns once the decision is written down. */
  #tell(
    { takes, conflict }: Decision,
    before: Content | undefined,
    truth: Content | undefined,
    found: readonly (Gathered | undefined)[],
    reports: readonly Report[],
    sameAt: (a: number, b: number) => boolean,
  ): void {
    const { points, witness } = this.#world;
    this.#toTell.push(() => {
      const losers = conflict?.losers ?? [];
      for (const { syncPoint, lost } of losers) {
        const i = points.findIndex(({ name }) => name === syncPoint);
        if (lost === "its own change")
          witness.reported(syncPoint!, this.#handleOf(found[i]!), found[i]!.held);
      }
      if (takes === undefined) return;
      const winner = points.findIndex(({ name }) => name === takes);
      const by = [...points.keys()].filter((i) => reports[i]!.actual !== "NO_CHANGE" && sameAt(winner, i));
      for (const i of by)
        if (!found[i]!.held) witness.deletionTaken(points[i]!.name, this.#handleOf(found[i]!));
      witness.truthBecame(
        before,
        truth,
        by.map((i) => points[i]!.name),
        losers.some(({ lost }) => lost === "the truth's change"),
      );
    });
  }

  #handleOf = ({ handle }: Gathered) => handle;

  /** Sends what is in the table, DELETE first: it makes room. */
  #update(point: Point, draft: Database): void {
    const table = draft.tables.get(point.name)!;
    const handles = draft.handles.get(point.name)!;
    const urgency = ({ action }: Pending<Content>) => (action === "DELETE" ? 0 : 1);
    for (const [record, entry] of [...table].sort(([, a], [, b]) => urgency(a) - urgency(b))) {
      this.#step();
      if (!point.online) return;
      const key = entry.sent!.content?.key ?? record;
      const torn =
        this.#world.kind === "extents" && this.#world.unlucky() ? this.#world.content(key, true) : undefined;
      const handle = this.#world.kind === "extents" ? record : handles.get(record);
      const answer = point.carryOut(handle, entry, torn);
      this.#world.say(
        `${point.name}: ${entry.action} of ${record} = ${entry.sent!.content?.id}: ${torn ? "dies" : answer}`,
      );
      if (torn) {
        this.#world.witness.counts.torn++;
        point.online = false;
        return;
      }
      if (this.#world.unlucky()) point.carryOut(answer === "refused" ? handle : answer, entry, undefined);
      if (this.#world.unlucky()) {
        this.#world.witness.counts.acksLost++;
        continue;
      }
      if (answer === "refused") {
        this.#world.witness.counts.refused++;
        table.set(record, entryRefused(entry));
      } else {
        table.delete(record);
        if (entry.action === "DELETE") handles.delete(record);
        else handles.set(record, answer);
      }
      if (this.#world.random() < 0.3) this.#commit(draft);
    }
  }
}
