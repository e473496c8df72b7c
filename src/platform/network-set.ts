// Networks, and whether an address lies in one of them. An IPv4 address mapped to IPv6 counts as what it is.
import { BlockList, isIP } from "node:net";

export interface Network {
  readonly address: string;
  /** Bits of the network; all of the address if absent. */
  readonly prefix?: number | undefined;
}

const family = (address: string) => (isIP(address) === 6 ? "ipv6" : "ipv4");
const bitsOf = (address: string) => (isIP(address) === 6 ? 128 : 32);

export class NetworkSet {
  readonly #list = new BlockList();

  constructor(networks: readonly Network[]) {
    for (const { address, prefix } of networks) {
      this.#list.addSubnet(address, prefix ?? bitsOf(address), family(address));
    }
  }

  has(address: string): boolean {
    return isIP(address) !== 0 && this.#list.check(address, family(address));
  }
}

/** `ADDRESS[/PREFIX]`; undefined if it is none. */
export function parseNetwork(text: string): Network | undefined {
  const [, address, digits] = /^([0-9a-f.:]+)(?:\/(\d{1,3}))?$/i.exec(text) ?? [];
  if (address === undefined || isIP(address) === 0) return undefined;
  const prefix = digits === undefined ? undefined : Number(digits);
  return prefix !== undefined && prefix > bitsOf(address) ? undefined : { address, prefix };
}
