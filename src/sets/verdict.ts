// Who has his way when two sides of a set have gone their own ways since a failover.
//
// Pure. Guarantees: the extents of two writers are never mixed in one volume unless that was asked for; where both have
// changed something, nobody wins unless the operator says who.
import { AgentError } from "../base/errors.ts";
import type { Member } from "../truth/store.ts";
import type { Side, Tally } from "./gather.ts";
import type { ChangeMap, Extents } from "./tally.ts";

export interface Rivals {
  /** The side that the set follows: the one that was handed out. */
  readonly leader: { readonly name: string; readonly priority: number };
  readonly rival: { readonly name: string; readonly priority: number };
  /** The leader is the first side of it. */
  readonly map: ChangeMap;
  /**
   * Nobody knows what both held when they parted, so that what one of them did not change may be a change that it lost: the
   * rival was handed out without the truth database, or the leader when it had changes of its own already.
   */
  readonly baseUnknown: boolean;
}

export interface Preference {
  /** A name, or `priority`: the first in the operator's order. */
  readonly prefer: string | undefined;
  /** Each extent is taken from who has changed it; where both have, from the one that is preferred. */
  readonly mix: boolean;
}

/** `same`: both hold the same already. `mixed`: extent by extent, the winner first. */
export interface Verdict {
  readonly winner: "leader" | "rival";
  readonly mixed: boolean;
  /** Whether the other side's changes may be lost. */
  readonly mayLose: boolean;
}

/** What both have changed, to be shown. */
export interface ConflictReport {
  readonly leader: string;
  readonly rival: string;
  readonly onlyLeader: Pick<Extents, "count" | "ranges">;
  readonly onlyRival: Pick<Extents, "count" | "ranges">;
  readonly both: Pick<Extents, "count" | "ranges">;
  readonly alike: number;
  /** 64 cells from the volume's beginning to its end. */
  readonly map: string;
}

export const conflictReport = ({ leader, rival, map }: Rivals): ConflictReport => ({
  leader: leader.name,
  rival: rival.name,
  onlyLeader: map.of("first"),
  onlyRival: map.of("second"),
  both: map.of("both"),
  alike: map.of("alike").count,
  map: map.text({ first: "<", second: ">", both: "X" }),
});

export class ConflictError extends AgentError {
  readonly conflict: ConflictReport;

  constructor(message: string, conflict: ConflictReport) {
    super("split_brain", message, { details: { conflict } });
    this.conflict = conflict;
  }
}

/**
 * @throws ConflictError where both have changed something, and nobody is preferred
 * @throws AgentError `usage` for a preference that names neither
 */
export function verdictOn(rivals: Rivals, { prefer, mix }: Preference): Verdict {
  const { leader, rival, map, baseUnknown } = rivals;
  const preferred = prefer === undefined ? undefined : preferredOf(rivals, prefer);
  const both = map.of("both").count;
  const [ours, theirs] = [map.of("first").count + both, map.of("second").count + both];
  // Who changed nothing has nothing to lose, whoever is preferred.
  if (theirs === 0 && (!baseUnknown || ours === 0)) return { winner: "leader", mixed: false, mayLose: false };
  if (ours === 0 && !baseUnknown) return { winner: "rival", mixed: false, mayLose: false };
  if (mix && baseUnknown)
    throw new ConflictError(
      `Nobody knows what "${leader.name}" and "${rival.name}" both held when they parted, so that extents can't be taken from whoever ` +
        "changed them. Nothing was written; prefer one side as a whole (--prefer)",
      conflictReport(rivals),
    );
  // Extents that only one of them has changed need no preference.
  if (mix && both === 0) return { winner: preferred ?? "leader", mixed: true, mayLose: false };
  if (preferred !== undefined) return { winner: preferred, mixed: mix, mayLose: true };
  throw new ConflictError(
    `Both sides have changed since the failover: "${leader.name}" ${ours} extents, "${rival.name}" ${theirs}, ${both} of them to ` +
      `something else on both. Nothing was written. --prefer ${leader.name} or --prefer ${rival.name} takes one side as a whole and ` +
      "keeps what is overwritten as before-images; --prefer priority takes the first in the set's order; --mix takes each " +
      "extent from who has changed it, which no file system or database survives",
    conflictReport(rivals),
  );
}

function preferredOf({ leader, rival }: Rivals, prefer: string): "leader" | "rival" {
  if (prefer === leader.name) return "leader";
  if (prefer === rival.name) return "rival";
  if (prefer === "priority") return leader.priority < rival.priority ? "leader" : "rival";
  throw new AgentError(
    "usage",
    `Cannot prefer "${prefer}": it is between "${leader.name}" and "${rival.name}"; "priority" takes the first of them in the set's order`,
  );
}

/** @throws AgentError `not_whole` if whoever is to have its way as a whole can't be read in full */
export function checkReadable({ unreadable }: Tally, { address, name }: Member): void {
  if (unreadable === 0) return;
  throw new AgentError(
    "not_whole",
    `${unreadable} extents can't be read of "${address}" ("${name}"), which is to have its way: what it held there is ` +
      "nowhere. Nothing was written; mend it, or prefer the other side (--prefer)",
  );
}

/** @throws AgentError `split_brain` for changes that were made after it was decided that there are none */
export function checkLosses(tally: Tally, sides: readonly Side[], verdict: Verdict | undefined): void {
  if (!verdict || verdict.mayLose) return;
  for (const { point } of sides) {
    const lost = tally.lost.of(point.member.id);
    if (lost)
      throw new AgentError(
        "split_brain",
        `"${point.member.name}" was written to while both sides were compared: stop who uses it, and run the failback again. ` +
          "Nothing was written",
      );
  }
}
