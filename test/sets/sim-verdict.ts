// What must hold when a failback has judged two sides that have gone their own ways.
//
// The truth becomes what the side has that is to have its way; or, where extents are mixed, each extent what that side has that
// changed it. Nobody's changes are given up without a preference; nor is anything of sides that parted when the one that is
// followed had changes of its own.
import type { MemberState, TruthState } from "./sim-database.ts";
import type { SimHost } from "./sim-host.ts";
import type { RunFacts } from "./sim-judge.ts";
import type { Court } from "./sim-roles.ts";

interface Side {
  readonly host: SimHost;
  /** As it was before. */
  readonly member: MemberState;
}

export class Verdicts {
  readonly #court: Court;
  /** What the truth was when a member was left. */
  readonly #parted = new Map<SimHost, readonly Buffer[]>();
  /** Who was left when the one that is followed had changes of its own, or may have had some. */
  readonly #apart = new Map<SimHost, "surely" | "perhaps">();

  constructor(court: Court) {
    this.#court = court;
  }

  /** A member is left. */
  parts(host: SimHost, apart: "surely" | "perhaps" | undefined): void {
    this.#parted.set(
      host,
      Array.from({ length: host.disk.extents }, (_, extent) => this.#court.truthOf(extent)),
    );
    if (apart) this.#apart.set(host, apart);
    else this.#apart.delete(host);
  }

  /** Whether both have changed something, and it was mixed. `whole`: what one that was not left was whole at, if that is known. */
  judge(
    before: TruthState,
    run: RunFacts,
    leader: Side,
    rival: Side,
    whole: readonly Buffer[] | undefined,
  ): boolean {
    const { demand, truthOf } = this.#court;
    const isQuiet = [leader, rival].every(
      ({ host: { disk } }) => disk.changedMs < run.sinceMs && disk.unreadable.size === 0,
    );
    const isSplit = rival.member.split;
    const base = isSplit ? this.#parted.get(rival.host) : whole;
    if (!isQuiet || !base) return false;
    const at = ({ host }: Side, extent: number) => host.disk.inSight(extent);
    const truthWas = (extent: number) => before.truth.get(extent) ?? this.#court.zerosOf(extent);
    const isSent = (extent: number) =>
      [leader, rival].some(({ member }) => member.entries.get(extent)?.sent !== undefined);
    const extents = [...base.keys()].filter((extent) => !isSent(extent));
    const differ = extents.filter((extent) => !at(leader, extent).equals(at(rival, extent)));
    // What the truth has had meanwhile was the leader's, also where it has come back to what it was.
    const ours = differ.filter(
      (extent) =>
        rival.member.entries.has(extent) ||
        [at(leader, extent), truthWas(extent)].some((each) => !each.equals(base[extent]!)),
    );
    // Whoever has what the truth has had has seen it.
    const theirs = differ.filter((extent) =>
      [base[extent]!, truthWas(extent)].every((each) => !each.equals(at(rival, extent))),
    );
    const isLeaderFirst =
      run.prefer === "priority"
        ? leader.member.priority < rival.member.priority
        : run.prefer === leader.member.name;
    const preferred = run.prefer === undefined ? undefined : isLeaderFirst ? leader : rival;
    const ofWhom = (extent: number) => {
      const [one, two] = [ours.includes(extent), theirs.includes(extent)];
      return one && two ? preferred : one ? leader : rival;
    };
    const isAs = (whose: (extent: number) => Side | undefined) =>
      differ.every((extent) => {
        const side = whose(extent);
        return side !== undefined && truthOf(extent).equals(at(side, extent));
      });
    const apart = isSplit ? this.#apart.get(rival.host) : undefined;
    const isMixed = run.mix === true && ours.length > 0 && theirs.length > 0;
    // Who was handed out without the database may have lost what nobody knows of: then it may be preferred although it changed nothing.
    const mayPrefer = (ours.length > 0 && theirs.length > 0) || !isSplit;
    const wins = (side: Side, others: readonly number[]) =>
      (others.length === 0 || (mayPrefer && preferred === side)) && isAs(() => side);
    const isRight = () => {
      if (apart && (differ.length === 0 || (!run.mix && isAs(() => preferred)))) return true;
      if (apart === "surely") return false;
      return isMixed ? isAs(ofWhom) : wins(leader, theirs) || wins(rival, ours);
    };
    const names = [leader, rival].map(({ member }) => member.name);
    demand(
      isRight(),
      `who should has his way, of "${names[0]}" (${ours}) and "${names[1]}" (${theirs}), preferring ${preferred?.member.name}`,
    );
    demand(
      extents.every((extent) => differ.includes(extent) || truthOf(extent).equals(at(leader, extent))),
      `what "${names[0]}" and "${names[1]}" agree on is the truth`,
    );
    return isMixed;
  }
}
