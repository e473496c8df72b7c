// Who may use a target: initiators by name, connections by address, and what each initiator may do.
//
// Guarantees: where rules are given, whoever none of them names gets nothing; the first rule that names an initiator
// decides; one that names LUNs shows those and no others. Without rules everybody may do everything.
import { type Network, NetworkSet } from "../platform/network-set.ts";

export interface Rights {
  /** Commands that write. */
  readonly writes: boolean;
  /** The vendor commands: digests of what the volumes hold. */
  readonly digests: boolean;
  /** The LUNs that are there for it; all if absent. */
  readonly luns?: ReadonlySet<number> | undefined;
}

/** What has no right to a LUN finds nothing there, as if the LUN did not exist. */
export const sees = ({ luns }: Rights, lun: number): boolean => luns?.has(lun) ?? true;

export const allRights: Rights = { writes: true, digests: true };

export interface InitiatorRule {
  /** In lower case; one `*` at its end stands for any rest. */
  readonly name: string;
  readonly rights: Rights;
}

export class AccessPolicy {
  readonly #initiators: readonly InitiatorRule[];
  readonly #networks: NetworkSet | undefined;

  /** An empty list of either kind allows all. */
  constructor(initiators: readonly InitiatorRule[] = [], networks: readonly Network[] = []) {
    this.#initiators = initiators;
    this.#networks = networks.length === 0 ? undefined : new NetworkSet(networks);
  }

  /** Undefined for an initiator that may not log in, nor know of the target. */
  rightsOf(initiatorName: string): Rights | undefined {
    if (this.#initiators.length === 0) return allRights;
    const name = initiatorName.toLowerCase();
    return this.#initiators.find((rule) =>
      rule.name.endsWith("*") ? name.startsWith(rule.name.slice(0, -1)) : name === rule.name,
    )?.rights;
  }

  /** True if connections from that address are taken. */
  admits(address: string | undefined): boolean {
    return this.#networks === undefined || (address !== undefined && this.#networks.has(address));
  }
}

/** `IQN[,ro][,plain][,lun=N...]`; undefined if it is none. */
export function parseInitiatorRule(text: string): InitiatorRule | undefined {
  const [name, ...options] = text.split(",");
  if (!/^[^\s*]*\*?$/.test(name!) || name === "") return undefined;
  if (!options.every((each) => /^(?:ro|plain|lun=\d{1,5})$/.test(each))) return undefined;
  const luns = options.filter((each) => each.startsWith("lun=")).map((each) => Number(each.slice(4)));
  const rights = {
    writes: !options.includes("ro"),
    digests: !options.includes("plain"),
    luns: luns.length === 0 ? undefined : new Set(luns),
  };
  return { name: name!.toLowerCase(), rights };
}
