// What a logical unit tells of itself by INQUIRY: the standard data and the vital product data pages.
//
// Source: SPC-4, 6.6 and 7.8; SBC-3, 6.6.
import * as data from "../scsi/inquiry-data.ts";
import { blockLimits, logicalBlockProvisioning } from "../scsi/sbc-commands.ts";
import { implicitAccess } from "../scsi/target-port-groups.ts";
import { vendorPageCode } from "../scsi/vendor-commands.ts";
import type { Rights } from "./access.ts";
import { compareAndWriteBlocksMax } from "./atomic-commands.ts";
import { atomicBytesMax } from "./atomic-journal.ts";
import { transferBytesMax } from "./block-commands.ts";
import { thirdPartyCopyPage } from "./copy-commands.ts";
import { vendorPageOf } from "./digest-commands.ts";
import type { LogicalUnit } from "./logical-unit.ts";
import { unmapBlocksMax, unmapDescriptorsMax, writeSameBlocksMax } from "./provisioning-commands.ts";
import { portDesignators, portNames, relativeTargetPort, type TargetNames } from "./target-port.ts";

const vendorIdentification = "LUNSYNC";
const productIdentification = "VOLUME";
/** Version descriptors: SAM-5, SPC-4, SBC-3, iSCSI (SPC-4, table 142). */
const versionDescriptors = [0x00a0, 0x0460, 0x04c0, 0x0960];

/** Standard INQUIRY data; for a LUN without a unit with PERIPHERAL QUALIFIER 3. */
export function standardInquiryData(names: TargetNames, unit: LogicalUnit | undefined): Buffer {
  const head = data.standardInquiry.encode({
    peripheralQualifier: unit ? 0 : 3,
    peripheralDeviceType: unit ? 0 : 0x1f,
    rmb: unit?.removable ?? false,
    version: 6, // SPC-4
    hiSup: true,
    responseDataFormat: 2,
    additionalLength: 96 - 5,
    tpgs: implicitAccess,
    threePC: true,
    cmdQue: true,
    vendorIdentification,
    productIdentification,
    productRevisionLevel: names.revision,
  });
  const tail = Buffer.alloc(60);
  versionDescriptors.forEach((descriptor, i) => {
    tail.writeUInt16BE(descriptor, 58 - 36 + 2 * i);
  });
  return Buffer.concat([head, tail]);
}

function unitSerialNumber(unit: LogicalUnit): Buffer {
  return Buffer.from(unit.serialNumber, "ascii");
}

const vendorText = (text: string) => Buffer.from(`${vendorIdentification.padEnd(8)}${text}`, "ascii");

/** What names the unit itself, and no other: by these EXTENDED COPY finds it. */
export function unitDesignators(unit: LogicalUnit): data.Designator[] {
  const { designatorType: type } = data;
  const unitName = { association: data.association.logicalUnit };
  return [
    { ...unitName, type: type.naa, codeSet: 1, designator: unit.naa },
    { ...unitName, type: type.t10VendorId, codeSet: 2, designator: vendorText(unit.serialNumber) },
  ];
}

/**
 * By these an initiator on the same host recognizes its own volume. Two units on one disk may have one in common, and
 * operating systems take a unit by its T10 vendor designators: so the type is the one that nobody takes for a name.
 */
function sameVolumeDesignators(unit: LogicalUnit): data.Designator[] {
  return unit.sameVolumeKeys.map((key) => ({
    association: data.association.logicalUnit,
    type: data.designatorType.vendorSpecific,
    codeSet: 2,
    designator: vendorText(key),
  }));
}

function deviceIdentification(unit: LogicalUnit, names: TargetNames): Buffer {
  return data.encodeDesignators([
    ...unitDesignators(unit),
    ...sameVolumeDesignators(unit),
    ...portDesignators(names),
  ]);
}

function extendedInquiryPage(): Buffer {
  // Every task is treated as SIMPLE, whatever its attribute; there is a volatile cache, and none that is not.
  return data.extendedInquiry.encode({ simpSup: true, vSup: true }).subarray(4);
}

function modePagePolicyPage(): Buffer {
  // All pages and subpages: one set of parameters for all initiators, of this unit alone.
  return data.modePagePolicy.encode({ policyPageCode: 0x3f, policySubpageCode: 0xff, modePagePolicy: 0 });
}

function scsiPortsPage(_unit: LogicalUnit, names: TargetNames): Buffer {
  const designators = data.encodeDesignators(portNames(names));
  const head = data.portDesignation.encode({
    relativePortIdentifier: relativeTargetPort,
    targetPortDescriptorsLength: designators.length,
  });
  return Buffer.concat([head, designators]);
}

function blockLimitsPage(unit: LogicalUnit): Buffer {
  const { blockBytes } = unit.volume.geometry;
  const { thin } = unit.volume.traits;
  return blockLimits
    .encode({
      optimalTransferLengthGranularity: 4096 / blockBytes,
      maximumCompareAndWriteLength: compareAndWriteBlocksMax,
      maximumTransferLength: transferBytesMax / blockBytes,
      optimalTransferLength: (1024 * 1024) / blockBytes,
      maximumUnmapLbaCount: thin ? unmapBlocksMax : 0,
      maximumUnmapBlockDescriptorCount: thin ? unmapDescriptorsMax : 0,
      optimalUnmapGranularity: thin ? 4096 / blockBytes : 0,
      ugavalid: thin,
      maximumWriteSameLength: BigInt(writeSameBlocksMax),
      ...(unit.journal && { maximumAtomicTransferLength: atomicBytesMax / blockBytes }),
    })
    .subarray(4);
}

function blockDeviceCharacteristics(): Buffer {
  const body = Buffer.alloc(60);
  body.writeUInt16BE(1, 0); // MEDIUM ROTATION RATE: not rotating
  body[3] = 0x40; // WABEREQ: what was erased by SANITIZE can be read
  return body;
}

function provisioningPage(unit: LogicalUnit): Buffer {
  const { thin } = unit.volume.traits;
  return logicalBlockProvisioning
    .encode({ lbpu: thin, lbpws: thin, lbpws10: thin, lbprz: thin ? 1 : 0, provisioningType: thin ? 2 : 0 })
    .subarray(4);
}

const pages: Readonly<Record<number, (unit: LogicalUnit, names: TargetNames) => Buffer>> = {
  128: unitSerialNumber,
  131: deviceIdentification,
  134: extendedInquiryPage,
  135: modePagePolicyPage,
  136: scsiPortsPage,
  143: thirdPartyCopyPage,
  176: blockLimitsPage,
  177: blockDeviceCharacteristics,
  178: provisioningPage,
  [vendorPageCode]: (unit) => vendorPageOf(unit).subarray(4),
};

/** A page with its head; undefined for one that is not here. */
export function vpdPage(
  pageCode: number,
  unit: LogicalUnit,
  names: TargetNames,
  rights: Rights,
): Buffer | undefined {
  const shown = Object.keys(pages)
    .map(Number)
    .filter((code) => rights.digests || code !== vendorPageCode);
  if (pageCode !== 0 && !shown.includes(pageCode)) return undefined;
  const codes = [0, ...shown].sort((a, b) => a - b);
  if (pageCode === 0) return data.encodeVpdPage(0, Buffer.from(codes));
  const body = pages[pageCode]?.(unit, names);
  return body && data.encodeVpdPage(pageCode, body);
}
