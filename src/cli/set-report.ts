// What a run of a set, and a set's state, look like on a terminal.
import { formatCount } from "../base/units.ts";
import type { ReplicaResult, RunResult } from "../sets/pass.ts";
import { leaderOf } from "../sets/run.ts";
import type { Member, SetFacts } from "../truth/store.ts";

export function runText({ generation, extents, changed, unreadable, replicas }: RunResult): string {
  const lines = [`generation ${generation}: ${changed} of ${extents} extents have changed at the source`];
  if (unreadable > 0)
    lines.push(`${unreadable} extents of the source can't be read; they were left as they are`);
  for (const { name, state, carriedOut, pending, reason, strayed } of replicas) {
    const wrote = carriedOut ? `, ${carriedOut.written} extents written, ${carriedOut.proved} proved` : "";
    const rest = pending > 0 ? `, ${pending} pending` : "";
    lines.push(`${name}: ${state}${wrote}${rest}${reason === undefined ? "" : `: ${reason}`}`);
    if (strayed) lines.push(`  ${strayedText(strayed)}`);
  }
  return `${lines.join("\n")}\n`;
}

const rangesShown = 8;

/** Which extents somebody else wrote to. */
function strayedText({ count, ranges }: NonNullable<ReplicaResult["strayed"]>): string {
  const some = ranges
    .slice(0, rangesShown)
    .map(({ first, count: extents }) => (extents === 1 ? `${first}` : `${first}–${first + extents - 1}`));
  const more = ranges.length > rangesShown ? " …" : "";
  return `somebody else had written to ${formatCount(count)} extents: ${some.join(", ")}${more}`;
}

export interface SetStatus {
  readonly facts: SetFacts;
  readonly holder: { readonly owner: string; readonly untilMs: number } | undefined;
  readonly members: readonly (Member & { readonly pending: number })[];
}

export function statusText({ facts, holder, members }: SetStatus, nowMs: number): string {
  const isRun = holder !== undefined && holder.untilMs > nowMs;
  const handedOut = members.find(({ id }) => id === facts.handedOutTo);
  const head = [
    `${facts.name}: generation ${facts.generation}`,
    ...(facts.paused ? ["paused"] : []),
    ...(handedOut ? [`handed out to ${handedOut.name}`] : []),
    ...(isRun ? [`being run by ${holder.owner}`] : []),
  ].join(", ");
  const rows = members.map((member) => {
    const { name, role, address, split } = member;
    const what = role === "source" ? "source" : "replica";
    const title = name === what ? `  ${name}  ${address}` : `  ${name} (${what})  ${address}`;
    if (split)
      return `${title}: on its own since the failover${pendingText(member)}; "lunsync failback" settles that`;
    if (member === handedOut) return `${title}: the set follows it`;
    if (role === "source" && !handedOut) return title;
    return `${title}: ${stateText(member)}`;
  });
  return `${[head, ...rows].join("\n")}\n`;
}

export interface SetSummary {
  readonly name: string;
  readonly generation: number;
  readonly paused: boolean;
  /** The replica that the set follows; null: its source. */
  readonly handedOutTo: string | null;
  readonly replicas: number;
  /** Of these, what lack something, or hold another generation, or have gone their own way. */
  readonly behind: number;
}

export function summaryOf({ facts, members }: SetStatus): SetSummary {
  const { name, generation, paused, handedOutTo } = facts;
  const leader = leaderOf(facts, members);
  const followers = members.filter((member) => member !== leader);
  const isBehind = (member: SetStatus["members"][number]) =>
    member.split || member.pending > 0 || member.generation !== generation || generation === 0;
  return {
    name,
    generation,
    paused,
    handedOutTo: handedOutTo === undefined ? null : leader.name,
    replicas: followers.length,
    behind: followers.filter(isBehind).length,
  };
}

export function summaryText({ name, generation, paused, handedOutTo, replicas, behind }: SetSummary): string {
  const marks = [
    ...(paused ? ["paused"] : []),
    ...(handedOutTo === null ? [] : [`handed out to ${handedOutTo}`]),
  ];
  const count = `${replicas} ${replicas === 1 ? "replica" : "replicas"}, ${behind} behind`;
  return `${[name, `generation ${generation}`, count, ...marks].join("  ")}\n`;
}

const pendingText = ({ pending }: { readonly pending: number }): string =>
  pending > 0 ? `, ${formatCount(pending)} extents pending` : "";

function stateText(member: SetStatus["members"][number]): string {
  const { generation, lastResult, lastRunMs } = member;
  if (lastRunMs === undefined) return "was never run";
  return `generation ${generation}${pendingText(member)}; last run: ${lastResult} (${new Date(lastRunMs).toISOString()})`;
}
