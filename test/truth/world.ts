// A small world for the rules of replication sets: sync points whose users change what they hold, and that die, are cut
// off, lose acknowledgements and tear writes; and one that knows everything, and is told by nobody (the witness).
//
// Two kinds: of extents, where a record's number is its place; and of volumes, where each sync point gives records local
// names (handles) of its own, and a record carries a key by which duplicates are known.
import { assert } from "../../src/base/assert.ts";
import type { Pending } from "../../src/truth/pending.ts";
import { below, oneOf, randomOf } from "../support/data.ts";

export type Kind = "extents" | "volumes";

/** What a record holds. No two changes make the same. */
export interface Content {
  readonly key: string;
  readonly id: number;
  readonly torn: boolean;
}

export const same = (a: Content, b: Content): boolean => a.id === b.id;
const equal = (a: Content | undefined, b: Content | undefined): boolean => a?.id === b?.id;

/** Of a change that a user made. */
interface Fate {
  taken: boolean;
  reported: boolean;
}

/** Sees every change and every loss. */
export class Witness {
  readonly #fates = new Map<number, Fate>();
  /** Who has ever held what. */
  readonly #seen = new Map<string, Set<number>>();
  /** What users have deleted, by sync point and handle, until somebody brings it back. */
  readonly #deletions = new Map<string, Fate>();
  readonly counts = { taken: 0, lost: 0, overruled: 0, torn: 0, runs: 0, refused: 0, deaths: 0, acksLost: 0 };

  made(point: string, content: Content): void {
    this.#fates.set(content.id, { taken: false, reported: false });
    this.saw(point, content);
  }

  saw(point: string, content: Content): void {
    const seen = this.#seen.get(point) ?? new Set();
    this.#seen.set(point, seen.add(content.id));
  }

  /** `known`: whether the manager can know that it was there; if not, nobody can tell that it's gone. */
  deleted(point: string, handle: string, known: boolean): void {
    this.#deletions.set(`${point} ${handle}`, { taken: !known, reported: false });
  }

  /** By the user himself. */
  broughtBack(point: string, handle: string): void {
    this.#deletions.delete(`${point} ${handle}`);
  }

  /** The sync point's own change of it, deletion or content, was named as lost. */
  reported(point: string, handle: string | undefined, content: Content | undefined): void {
    this.counts.lost++;
    const fate = content ? this.#fates.get(content.id) : this.#deletions.get(`${point} ${handle}`);
    if (fate) fate.reported = true;
  }

  deletionTaken(point: string, handle: string | undefined): void {
    const fate = this.#deletions.get(`${point} ${handle}`);
    if (fate) fate.taken = true;
  }

  /** The truth goes from `old` to `next`; those in `by` have made the same change. */
  truthBecame(
    old: Content | undefined,
    next: Content | undefined,
    by: readonly string[],
    truthReported: boolean,
  ): void {
    if (next) {
      assert(!next.torn, `a torn write went into the truth: ${next.id}`);
      const fate = this.#fates.get(next.id)!;
      assert(!fate.taken, `what was in the truth before came back without anybody's change: ${next.id}`);
      fate.taken = true;
      this.counts.taken++;
    }
    if (!old) return;
    const seen = by.some((point) => this.#seen.get(point)?.has(old.id));
    assert(seen || truthReported, `${old.id} was in the truth and was lost silently to ${by.join(", ")}`);
  }

  /** A sync point has carried out an action. */
  overwrote(point: string, handle: string, old: Content | undefined, next: Content | undefined): void {
    if (old && !old.torn && !equal(old, next)) {
      const fate = this.#fates.get(old.id)!;
      assert(fate.taken || fate.reported, `${point}'s own change ${old.id} was overwritten silently`);
    }
    if (!old && next) {
      const fate = this.#deletions.get(`${point} ${handle}`);
      assert(
        !fate || fate.taken || fate.reported,
        `${point}'s own deletion of ${handle} was undone silently`,
      );
    }
    if (next && !next.torn) this.saw(point, next);
    this.#deletions.delete(`${point} ${handle}`);
  }
}

/** A volume or a host of volumes: it carries out actions on the condition that it holds what it has proved. */
export class Point {
  readonly name: string;
  readonly changesTaken: boolean;
  readonly records = new Map<string, Content>();
  online = true;
  #handles = 0;
  readonly #kind: Kind;
  readonly #witness: Witness;

  constructor(name: string, changesTaken: boolean, kind: Kind, witness: Witness) {
    this.name = name;
    this.changesTaken = changesTaken;
    this.#kind = kind;
    this.#witness = witness;
  }

  /** Where a user's new record goes. */
  newHandle(key: string): string {
    return this.#kind === "extents" ? key : `${this.name}:${this.#handles++}`;
  }

  /** The handle of the record that it has by this key. */
  byKey(key: string): string | undefined {
    for (const [handle, content] of this.records) if (content.key === key) return handle;
    return undefined;
  }

  /** The handle as an acknowledgement; "refused" if it holds what nobody has gathered. `torn`: it dies meanwhile. */
  carryOut(handle: string | undefined, entry: Pending<Content>, torn: Content | undefined): string {
    const next = entry.sent!.content;
    // Under the name that it was given, or that a user has given it since.
    const key = (next ?? entry.previous)?.key;
    const there =
      handle !== undefined && this.records.has(handle)
        ? handle
        : this.#kind === "extents"
          ? handle
          : key && this.byKey(key);
    const old = there === undefined ? undefined : this.records.get(there);
    if (!equal(old, entry.previous) && !equal(old, next)) return "refused";
    const at = there ?? (next ? this.newHandle(next.key) : "nowhere");
    const written = torn && !equal(old, next) ? torn : next;
    this.#witness.overwrote(this.name, at, old, written);
    if (written) this.records.set(at, written);
    else this.records.delete(at);
    return at;
  }
}

/** What happens, by a seed. */
export class World {
  readonly kind: Kind;
  readonly random: () => number;
  readonly witness = new Witness();
  readonly points: readonly Point[];
  readonly keys: readonly string[];
  /** What happened, to be read when a seed has failed. */
  readonly log: string[] = [];
  /** Users change things, and everything fails that can. */
  turbulent = true;
  #ids = 0;
  /** How often things go wrong, in this world. */
  readonly #wild: number;

  constructor(kind: Kind, seed: number) {
    this.kind = kind;
    this.random = randomOf(seed);
    this.#wild = oneOf(this.random, [0.02, 0.06, 0.15]);
    const followers = this.random() < 0.3;
    this.points = ["a", "b", "c", "d"]
      .slice(0, 2 + below(this.random, 3))
      .map((name, i) => new Point(name, i === 0 || !followers, kind, this.witness));
    this.keys = ["0", "1", "2", "3", "4"].slice(0, 3 + below(this.random, 3));
  }

  say(text: string): void {
    this.log.push(text);
  }

  /** Whether something goes wrong now. */
  unlucky(times = 1): boolean {
    return this.turbulent && this.random() < this.#wild * times;
  }

  content(key: string, torn = false): Content {
    return { key, id: ++this.#ids, torn };
  }

  /** Between any two steps: users change something, lines go down and come up again. */
  instant(known: (point: Point, handle: string) => boolean): void {
    if (!this.turbulent) return;
    const point = oneOf(this.random, this.points);
    if (this.unlucky(2)) this.#change(point, known);
    const other = oneOf(this.random, this.points);
    if (other.online ? this.unlucky(0.7) : this.random() < 0.1) {
      other.online = !other.online;
      this.say(`${other.name} is ${other.online ? "online" : "offline"}`);
    }
  }

  #change(point: Point, known: (point: Point, handle: string) => boolean): void {
    const key = oneOf(this.random, this.keys);
    const handle = point.byKey(key);
    const remove = (at: string) => {
      this.witness.deleted(point.name, at, known(point, at));
      point.records.delete(at);
    };
    if (handle !== undefined && this.random() < 0.3) {
      remove(handle);
      this.say(`${point.name}: user deletes ${handle}`);
      return;
    }
    const replaced = handle !== undefined && this.kind === "volumes" && this.random() < 0.2;
    const at = handle === undefined || replaced ? point.newHandle(key) : handle;
    if (replaced && this.random() < 0.3) {
      const content = point.records.get(handle)!;
      point.records.delete(handle);
      point.records.set(at, content);
      this.say(`${point.name}: user renames ${handle} to ${at}`);
      return;
    }
    if (replaced) point.records.delete(handle);
    const content = this.content(key);
    this.witness.made(point.name, content);
    this.witness.broughtBack(point.name, at);
    point.records.set(at, content);
    this.say(`${point.name}: user ${replaced ? "replaces" : "writes"} ${at} (${key}) = ${content.id}`);
  }
}
