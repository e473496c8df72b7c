// Who may use a target: initiators by name, connections by address, and what each initiator may do.
//
// Guarantees: where rules are given, whoever none of them names gets nothing; the first rule that names an initiator
// decides. Without rules everybody may do everything.
import { BlockList, isIP } from "node:net";

export interface Rights {
  /** Commands that write. */
  readonly writes: boolean;
  /** The vendor commands: digests of what the volumes hold. */
  readonly digests: boolean;
}

export const allRights: Rights = { writes: true, digests: true };

export interface InitiatorRule {
  /** In lower case; one `*` at its end stands for any rest. */
  readonly name: string;
  readonly rights: Rights;
}

export interface AddressRule {
  readonly address: string;
  /** Bits of the network; all of the address if absent. */
  readonly prefix?: number | undefined;
}

const family = (address: string) => (isIP(address) === 6 ? "ipv6" : "ipv4");
const bitsOf = (address: string) => (isIP(address) === 6 ? 128 : 32);

export class AccessPolicy {
  readonly #initiators: readonly InitiatorRule[];
  readonly #addresses: BlockList | undefined;

  /** An empty list of either kind allows all. */
  constructor(initiators: readonly InitiatorRule[] = [], addresses: readonly AddressRule[] = []) {
    this.#initiators = initiators;
    if (addresses.length === 0) return;
    this.#addresses = new BlockList();
    for (const { address, prefix } of addresses) {
      this.#addresses.addSubnet(address, prefix ?? bitsOf(address), family(address));
    }
  }

  /** Undefined for an initiator that may not log in, nor know of the target. */
  rightsOf(initiatorName: string): Rights | undefined {
    if (this.#initiators.length === 0) return allRights;
    const name = initiatorName.toLowerCase();
    return this.#initiators.find((rule) =>
      rule.name.endsWith("*") ? name.startsWith(rule.name.slice(0, -1)) : name === rule.name,
    )?.rights;
  }

  /** True if connections from that address are taken; an IPv4 address mapped to IPv6 counts as what it is. */
  admits(address: string | undefined): boolean {
    if (!this.#addresses) return true;
    return address !== undefined && isIP(address) !== 0 && this.#addresses.check(address, family(address));
  }
}

/** `IQN[,ro][,plain]`; undefined if it is none. */
export function parseInitiatorRule(text: string): InitiatorRule | undefined {
  const [name, ...options] = text.split(",");
  if (!/^[^\s*]*\*?$/.test(name!) || name === "") return undefined;
  if (!options.every((each) => each === "ro" || each === "plain")) return undefined;
  const rights = { writes: !options.includes("ro"), digests: !options.includes("plain") };
  return { name: name!.toLowerCase(), rights };
}

/** `ADDRESS[/PREFIX]`; undefined if it is none. */
export function parseAddressRule(text: string): AddressRule | undefined {
  const [, address, digits] = /^([0-9a-f.:]+)(?:\/(\d{1,3}))?$/i.exec(text) ?? [];
  if (address === undefined || isIP(address) === 0) return undefined;
  const prefix = digits === undefined ? undefined : Number(digits);
  return prefix !== undefined && prefix > bitsOf(address) ? undefined : { address, prefix };
}
