// What a logical unit is as a volume: its identity, its traits and how much one command transfers, by what it was asked
// when it was opened (unit-facts.ts) and by its transport.
//
// Guarantees: nothing is sent for it. Of a unit without our vendor page nothing is expected beyond SPC and SBC.
//
// Source: SBC-3, 6.6.4 (block limits), 6.6.7 (provisioning); docs/protocol.md for the vendor page.
import { AgentError } from "../base/errors.ts";
import { MiB } from "../base/units.ts";
import { sameVolumeKey } from "../platform/local-volumes.ts";
import type { VendorPage } from "../scsi/inquiry-data.ts";
import { type UnitFacts, unitKeys } from "./unit-facts.ts";
import type { CatalogueOffer, VolumeIdentity, VolumeTraits } from "./volume.ts";

const windowsInFlightMax = 4;
/** A window of a unit that is read. */
const readWindow = { extents: 65535, bytes: 8 * MiB };

/** `localKeys`: names that this host has for the device behind the transport. */
export function unitIdentity(facts: UnitFacts, localKeys: readonly string[] = []): VolumeIdentity {
  return {
    uuid: facts.vendorPage?.volumeUuid,
    keys: [...unitKeys(facts), ...facts.sameVolumeKeys, ...localKeys, ...localKeys.map(sameVolumeKey)],
    description: [facts.vendor, facts.product, facts.revision].filter((part) => part !== "").join(" "),
  };
}

function catalogueOf(page: VendorPage | undefined): CatalogueOffer | undefined {
  const entry = page?.digests.find(({ index }) => index === page.catalogueDigest);
  if (!page || !entry || page.catalogueState === 0 || page.catalogueFanOut === 0) return undefined;
  return {
    digest: entry.text,
    extentBlocks: 2 ** page.catalogueExtentSize,
    fanOut: 2 ** page.catalogueFanOut,
    rootLevel: page.catalogueRootLevel,
  };
}

/** `lists`: whether it takes WRITE EXTENTS and COPY EXTENTS; `commandBytes`: what one command should transfer. */
export function unitTraits(
  facts: UnitFacts,
  lists: { readonly writes: boolean; readonly copies: boolean } | undefined,
  commandBytes: number,
): VolumeTraits {
  const page = facts.vendorPage;
  const catalogue = catalogueOf(page);
  return {
    writable: !facts.writeProtected,
    thin: facts.unmapByWriteSame && facts.deallocatedReadsZeros,
    digests: page ? "own" : "read",
    catalogue,
    digestsOffered: page?.digests.map((entry) => entry.text),
    // A list has up to 16 bytes for each extent behind its head of 48, and one command takes it whole.
    windowExtentsMax: page
      ? Math.min(65535, page.mostExtents, Math.floor(commandBytes / 16) - 3)
      : readWindow.extents,
    windowBytesMax: page ? page.mostBytes : readWindow.bytes,
    windowsInFlight: page ? Math.max(1, Math.min(windowsInFlightMax, page.mostCommands)) : windowsInFlightMax,
    writesExtents: lists?.writes ?? false,
    copiesExtents: lists?.copies ?? false,
    keepsHistories: catalogue !== undefined && (page?.histories ?? false),
    findsExtents: catalogue !== undefined && (page?.findExtents ?? false),
    grows: page?.grow ?? false,
    keepsWhole: page?.whole ?? false,
  };
}

/** The most blocks of one READ or WRITE: what its transport prefers, as far as the unit takes it. */
export function unitTransferBlocksMax(facts: UnitFacts, commandBytes: number): number {
  const limits = [Math.floor(commandBytes / facts.blockBytes)];
  if (facts.transferBlocksMax > 0) limits.push(facts.transferBlocksMax);
  return Math.max(1, Math.min(...limits));
}

/**
 * Checks that what answers now is the unit that was there before, of the same size; `growingTo`: or of the size that it was
 * asked to have. @throws AgentError `identity_mismatch`, `size_mismatch`
 */
export function checkSameUnit(name: string, before: UnitFacts, now: UnitFacts, growingTo?: number): void {
  const [was, is] = [unitKeys(before), unitKeys(now)];
  if (was.length !== is.length || is.some((key, i) => key !== was[i])) {
    throw new AgentError(
      "identity_mismatch",
      `${name} is another volume after the reconnection: it was ${was[0] ?? "nameless"} and is ` +
        `${is[0] ?? "nameless"}; nothing more was written`,
    );
  }
  const fits = now.blocks === before.blocks || now.blocks === growingTo;
  if (!fits || now.blockBytes !== before.blockBytes) {
    throw new AgentError(
      "size_mismatch",
      `${name} has another size after the reconnection; nothing more was written`,
    );
  }
}
