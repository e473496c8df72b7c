// The truth database: what each replication set's volumes should hold, and what is still to be done to each sync point.
//
// Interface only; sqlite-store.ts keeps it in a file, postgres-store.ts in a server that several hosts share. Both do the
// same for the same calls (test/truth/store-contract.ts).
//
// Guarantees of every implementation:
// - A transaction is there as a whole or not at all, whatever dies; when it resolves, it is on the medium.
// - Only who holds the lease of a set writes its truth and tables. A lease that has run out and was taken by somebody else is
//   known by its fence: whoever wakes up late is refused, inside the transaction.
// - Memory is bounded: pages and entries are read and written piece by piece.
import type { Action } from "./actions.ts";

/** Extents whose identifiers lie in one page of truth. */
export const extentsOfPage = 64;

export interface SetFacts {
  readonly name: string;
  /** Given at creation, never again. */
  readonly uuid: string;
  /** Of an extent. */
  readonly extentBytes: number;
  readonly blockBytes: number;
  /** Of the volumes; 0 until the first run has seen the source. */
  readonly blocks: number;
  /** Canonical text of the digest specification. */
  readonly digest: string;
  /** Counts the transactions that changed the truth; 0: there is none yet. */
  readonly generation: number;
  readonly paused: boolean;
  /** Highest share of a volume that a run may change without being asked, 0 to 1; undefined: any. */
  readonly maxChange: number | undefined;
  /** The replica that a failover has handed out: the truth follows it, and not the source. Undefined: none. */
  readonly handedOutTo: number | undefined;
  readonly createdMs: number;
}

/** What a set is made with. */
export type NewSet = Omit<SetFacts, "generation" | "paused" | "blocks" | "handedOutTo">;

export interface Member {
  /** Number within the set, given once, never again. */
  readonly id: number;
  /** Unique in the set: `source`, or what the operator called the replica. */
  readonly name: string;
  /** A path or an iSCSI URL. */
  readonly address: string;
  readonly role: "source" | "replica";
  /** The lower, the earlier: whose change wins. */
  readonly priority: number;
  /** Of the volume, learnt when it was seen first: it must be the same ever after. Undefined until then. */
  readonly volumeUuid: string | undefined;
  /** The last generation that it is known to hold as a whole; 0: none. */
  readonly generation: number;
  /** What the last run said of it, for `lunsync set status`. */
  readonly lastResult: string | undefined;
  readonly lastRunMs: number | undefined;
  /**
   * What it holds may have gone another way than the truth since a failover, and competes with the truth as a whole: no run
   * writes to it before a failback has settled that. Its entries begin there: they say where the truth has gone on since.
   */
  readonly split: boolean;
  /**
   * Of one that is split: the truth went back to the content of somebody who had changes of his own when they parted, so that what
   * it holds otherwise may be its own change, or one of the other's that it never had.
   */
  readonly baseUnknown: boolean;
  /**
   * A failback has decided against changes that it holds: what is overwritten of it has to be kept first, which only a
   * failback does, until it is in step.
   */
  readonly keptFirst: boolean;
  /** How its host calls the time at which it was in step last; undefined: it does not remember one. */
  readonly history: string | undefined;
  /** A run has begun to write to it and has not ended: it may be rolled back to what it held before. */
  readonly unsettled: boolean;
}

export type NewMember = Omit<Member, "id" | "split" | "baseUnknown" | "keptFirst" | "history" | "unsettled">;

/** Identifiers of `extentsOfPage` neighbours, as the truth has them. */
export interface TruthPage {
  /** Its first extent is `number * extentsOfPage`. */
  readonly number: number;
  /** One after another; an extent of zeros has the identifier of zeros. Fewer in a volume's last page. */
  readonly identifiers: Buffer;
  /** The member whose change it was, for each extent; 0: nobody knows. */
  readonly origins: Uint16Array;
}

/** What is pending for neighbours within one page, and what the sync point may hold (see pending.ts). */
export interface EntryRun {
  readonly first: number;
  readonly count: number;
  readonly action: Action;
  /** Identifiers, one for each. */
  readonly previous: Buffer;
  /** Likewise; undefined if nothing was sent since `previous`. */
  readonly sent: Buffer | undefined;
}

export interface Lease {
  readonly set: string;
  /** Higher than that of every earlier lease of the set. */
  readonly fence: number;
  /**
   * For as long as it was taken, from now. Also after it has run out, if nobody has taken it since.
   *
   * @throws AgentError `not_known` if somebody else has it now
   */
  renew(): Promise<void>;
  /** Nothing happens if it is lost already. */
  release(): Promise<void>;
}

/**
 * What one transaction does; its calls may be many, best in order of their page or extent numbers. Buffers are lent until the
 * call resolves. After a call has failed, so does the transaction.
 */
export interface Transaction {
  putTruth(page: TruthPage): Promise<void>;
  /** All entries of the member for the extents of this page are these; none if empty. */
  putEntries(member: number, page: number, entries: readonly EntryRun[]): Promise<void>;
  updateSet(
    facts: Partial<
      Pick<SetFacts, "blocks" | "blockBytes" | "generation" | "paused" | "maxChange" | "handedOutTo">
    >,
  ): Promise<void>;
  updateMember(
    id: number,
    facts: Partial<
      Pick<
        Member,
        | "address"
        | "role"
        | "priority"
        | "volumeUuid"
        | "generation"
        | "lastResult"
        | "lastRunMs"
        | "split"
        | "baseUnknown"
        | "keptFirst"
        | "history"
        | "unsettled"
      >
    >,
  ): Promise<void>;
}

export interface TruthStore extends AsyncDisposable {
  /** Members get the numbers 1, 2, … in this order. @throws AgentError `usage` if there is one of that name */
  createSet(facts: NewSet, members: readonly NewMember[]): Promise<void>;
  /** In the order in which they were made. */
  sets(): Promise<SetFacts[]>;
  /** @throws AgentError `not_known` */
  set(name: string): Promise<{ readonly facts: SetFacts; readonly members: readonly Member[] }>;
  /** With all of its truth and tables. */
  removeSet(lease: Lease): Promise<void>;
  /** Its number. @throws AgentError `usage` if there is one of that name */
  addMember(lease: Lease, member: NewMember): Promise<number>;
  /** And its entries. Pages go on naming it as an origin; its number is not given again. @throws AgentError `not_known` */
  removeMember(lease: Lease, id: number): Promise<void>;

  /**
   * The right to write a set, for `ttlMs` from now and from each renewal; undefined if somebody else has it. `owner` says who:
   * it is named to those who ask in vain; two of one name are still two.
   *
   * @throws AgentError `not_known` if there is no such set
   */
  acquire(set: string, owner: string, ttlMs: number): Promise<Lease | undefined>;
  /** Who holds the lease, and until when (ms since 1970): that may be past, if nobody has taken it since. */
  holder(set: string): Promise<{ readonly owner: string; readonly untilMs: number } | undefined>;

  /**
   * Runs `action` in one transaction, and renews the lease with it. It may read from the store meanwhile (it gets what was
   * before), but not write in any other way: it would wait for itself.
   *
   * @throws AgentError `not_known` if the lease was lost; what `action` throws: nothing is kept. Also if the transaction can't
   * be brought to its end, or is in doubt: whoever gathers again is right in any case
   */
  write(lease: Lease, action: (transaction: Transaction) => Promise<void>): Promise<void>;

  /** Those of the `count` pages from `first` on that were ever written, in order. */
  truth(set: string, first: number, count: number): Promise<TruthPage[]>;
  /** Entries of a member in these pages, in order. */
  entries(set: string, member: number, firstPage: number, pages: number): Promise<EntryRun[]>;
  /** The first page from `page` on that has an entry of this member, or of any; undefined if none has. */
  nextPending(set: string, page: number, member?: number): Promise<number | undefined>;
  /** Extents for which each member has an entry; 0 for those that have none. */
  pendingCounts(set: string): Promise<ReadonlyMap<number, number>>;
}
