// An I_T nexus: one initiator port's relationship with one target.
//
// Source: SAM-5, 4.4; RFC 7143, 4.4.2: the initiator port is the initiator name with the ISID.
import type { Rights } from "./access.ts";

export interface Nexus {
  /** Equal for every session of the same initiator port. */
  readonly key: string;
  readonly initiatorName: string;
  readonly rights: Rights;
  /** Where it comes from, for the log. */
  readonly from: string;
}

export const nexusKey = (initiatorName: string, isid: Buffer): string =>
  `${initiatorName},i,0x${isid.toString("hex")}`;
