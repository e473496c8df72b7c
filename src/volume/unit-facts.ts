// What a logical unit is: asked once when it is opened, and again after a reconnection to see that it is the same.
//
// Only standard commands go to a unit that has not shown our vendor page: VPD page 00h is read first, then the pages
// that it lists (docs/protocol.md, "Discovery").
import { AgentError } from "../base/errors.ts";
import { checkedNumber } from "../base/units.ts";
import { type ScsiCommand, type ScsiOutcome, status } from "../scsi/command.ts";
import {
  association,
  type Designator,
  decodeDesignators,
  decodeVendorPage,
  decodeVpdPage,
  designatorType,
  standardInquiry,
  type VendorPage,
} from "../scsi/inquiry-data.ts";
import {
  blockLimits,
  logicalBlockProvisioning,
  readCapacity10,
  readCapacity10Data,
  readCapacity16,
  readCapacity16Data,
} from "../scsi/sbc-commands.ts";
import { describeSense } from "../scsi/sense.ts";
import { inquiry, modeSense6, testUnitReady } from "../scsi/spc-commands.ts";
import { vendorPageCode } from "../scsi/vendor-commands.ts";

export interface UnitFacts {
  readonly vendor: string;
  readonly product: string;
  readonly revision: string;
  readonly serial: string;
  /** `naa.6001405…`, `eui.…`, `t10.…`: the logical unit's own designators. */
  readonly designators: readonly string[];
  /** Keys that a target of ours shows of the file or device behind the unit; they change with the target's boot. */
  readonly sameVolumeKeys: readonly string[];
  readonly blockBytes: number;
  readonly blocks: number;
  readonly physicalBlockBytes: number;
  readonly writeProtected: boolean;
  /** DPOFUA: FUA is taken in READ and WRITE. A unit without it refuses the bit (LIO without a write cache). */
  readonly forcesUnitAccess: boolean;
  /** WRITE SAME (16) with UNMAP gives zeros and may deallocate. */
  readonly unmapByWriteSame: boolean;
  readonly deallocatedReadsZeros: boolean;
  readonly transferBlocksMax: number;
  readonly writeSameBlocksMax: number;
  /** Our vendor page, if it is one of ours. */
  readonly vendorPage: VendorPage | undefined;
}

type Execute = (command: ScsiCommand) => Promise<ScsiOutcome>;

const attentionsMax = 16;
/** Vendor specific designators of our target (src/target/vpd-pages.ts). */
const sameVolumeName = /^LUNSYNC ((?:within:)?same:.*)$/;

/** Data-In of a command that succeeded, or undefined. */
async function ask(execute: Execute, cdb: Buffer, dataInBytes: number): Promise<Buffer | undefined> {
  const outcome = await execute({ cdb, dataInBytes });
  return outcome.status === status.good ? outcome.dataIn : undefined;
}

async function askPage(execute: Execute, pageCode: number, bytes: number): Promise<Buffer | undefined> {
  return ask(execute, inquiry.encode({ evpd: true, pageCode, allocationLength: bytes }), bytes);
}

/** Waits until no unit attention is pending and the unit is ready. */
async function settle(execute: Execute, name: string): Promise<void> {
  for (let i = 0; ; i++) {
    const { status: code, sense } = await execute({ cdb: testUnitReady.encode({}) });
    if (code === status.good) return;
    const attention = sense?.key === 0x6;
    if (attention && i < attentionsMax) continue;
    throw new AgentError(
      "volume_unsuitable",
      `Cannot use ${name}: it is not ready: ${sense ? describeSense(sense) : `SCSI status ${code}`}`,
    );
  }
}

async function capacityOf(execute: Execute, name: string) {
  const long = await ask(execute, readCapacity16.encode({ allocationLength: 32 }), 32);
  if (long && long.length >= 16) {
    const data = readCapacity16Data.decode(Buffer.concat([long, Buffer.alloc(32)]).subarray(0, 32));
    const blocks = checkedNumber(data.returnedLogicalBlockAddress + 1n);
    if (blocks === undefined || !Number.isSafeInteger(blocks * data.blockLength)) {
      throw new AgentError("volume_unsuitable", `Cannot use ${name}: it claims more than 8 PiB`);
    }
    return {
      blocks,
      blockBytes: data.blockLength,
      physicalBlockBytes: data.blockLength * 2 ** data.logicalBlocksPerPhysicalBlockExponent,
      zeros: data.lbpme && data.lbprz,
    };
  }
  const short = await ask(execute, readCapacity10.encode({}), 8);
  if (!short || short.length < 8) {
    throw new AgentError("volume_unsuitable", `Cannot use ${name}: it does not tell its capacity`);
  }
  const data = readCapacity10Data.decode(short);
  return {
    blocks: data.returnedLogicalBlockAddress + 1,
    blockBytes: data.blockLength,
    physicalBlockBytes: data.blockLength,
    zeros: false,
  };
}

const naming: Record<number, string> = {
  [designatorType.naa]: "naa",
  [designatorType.eui64]: "eui",
  [designatorType.t10VendorId]: "t10",
};

function namesOf(designators: readonly Designator[]): string[] {
  return designators.flatMap((each) => {
    const prefix = naming[each.type];
    if (prefix !== undefined) {
      const text =
        each.codeSet === 1 ? each.designator.toString("hex") : each.designator.toString("latin1").trim();
      return [`${prefix}.${text}`];
    }
    return each.type === designatorType.scsiNameString
      ? [each.designator.toString("utf8").replace(/\0+$/, "")]
      : [];
  });
}

const sameVolumeKeysOf = (designators: readonly Designator[]): string[] =>
  designators
    .filter((each) => each.type === designatorType.vendorSpecific)
    .flatMap((each) => sameVolumeName.exec(each.designator.toString("latin1"))?.[1] ?? []);

/** @throws AgentError `volume_unsuitable` for what is no disk or not ready; whatever `execute` throws */
export async function readUnitFacts(execute: Execute, name: string): Promise<UnitFacts> {
  const first = await ask(execute, inquiry.encode({ allocationLength: 36 }), 36);
  if (!first || first.length < 36)
    throw new AgentError("volume_unsuitable", `Cannot use ${name}: no answer to INQUIRY`);
  const standard = standardInquiry.decode(first);
  if (standard.peripheralQualifier !== 0) {
    throw new AgentError("volume_missing", `Cannot use ${name}: the target has no such logical unit`);
  }
  if (standard.peripheralDeviceType !== 0) {
    throw new AgentError(
      "volume_unsuitable",
      `Cannot use ${name}: it is no disk (peripheral device type ${standard.peripheralDeviceType})`,
    );
  }
  await settle(execute, name);

  const listed = new Set(decodeVpdPage((await askPage(execute, 0x00, 255)) ?? Buffer.alloc(0), 0x00) ?? []);
  const page = async (code: number, bytes: number) =>
    listed.has(code)
      ? decodeVpdPage((await askPage(execute, code, bytes)) ?? Buffer.alloc(0), code)
      : undefined;
  const serial = (await page(0x80, 255))?.toString("latin1").trim() ?? "";
  const designators = decodeDesignators((await page(0x83, 1024)) ?? Buffer.alloc(0)).filter(
    (each) => each.association === association.logicalUnit,
  );
  const capacity = await capacityOf(execute, name);
  if (![512, 1024, 2048, 4096].includes(capacity.blockBytes)) {
    throw new AgentError(
      "volume_unsuitable",
      `Cannot use ${name}: logical blocks of ${capacity.blockBytes} bytes`,
    );
  }

  let transferBlocksMax = 0;
  let writeSameBlocksMax = 0;
  if (listed.has(0xb0)) {
    const bytes = await askPage(execute, 0xb0, blockLimits.bytes);
    if (bytes && bytes.length >= blockLimits.bytes && bytes[1] === 0xb0 && bytes.readUInt16BE(2) === 0x3c) {
      const limits = blockLimits.decode(bytes);
      transferBlocksMax = limits.maximumTransferLength;
      writeSameBlocksMax = checkedNumber(limits.maximumWriteSameLength) ?? 0;
    }
  }
  let unmapByWriteSame = false;
  if (listed.has(0xb2)) {
    const bytes = await askPage(execute, 0xb2, logicalBlockProvisioning.bytes);
    if (bytes && bytes.length >= logicalBlockProvisioning.bytes && bytes[1] === 0xb2) {
      unmapByWriteSame = (bytes[5]! & 0x40) !== 0;
    }
  }
  const mode = await ask(
    execute,
    modeSense6.encode({ dbd: true, pageCode: 0x3f, allocationLength: 192 }),
    192,
  );
  const vendorBytes = listed.has(vendorPageCode) ? await askPage(execute, vendorPageCode, 8192) : undefined;
  return {
    vendor: standard.vendorIdentification,
    product: standard.productIdentification,
    revision: standard.productRevisionLevel,
    serial,
    designators: namesOf(designators),
    sameVolumeKeys: sameVolumeKeysOf(designators),
    blockBytes: capacity.blockBytes,
    blocks: capacity.blocks,
    physicalBlockBytes: capacity.physicalBlockBytes,
    writeProtected: mode !== undefined && mode.length >= 4 && (mode[2]! & 0x80) !== 0,
    forcesUnitAccess: mode !== undefined && mode.length >= 4 && (mode[2]! & 0x10) !== 0,
    unmapByWriteSame,
    deallocatedReadsZeros: capacity.zeros,
    transferBlocksMax,
    writeSameBlocksMax,
    vendorPage: vendorBytes && decodeVendorPage(vendorBytes),
  };
}

/** The names by which a unit is recognized, the most trustworthy first. */
export function unitKeys(facts: UnitFacts): string[] {
  const keys: string[] = [];
  if (facts.vendorPage) keys.push(`uuid:${facts.vendorPage.volumeUuid}`);
  for (const name of facts.designators) keys.push(`unit:${name}`);
  if (keys.length === 0 && facts.serial !== "")
    keys.push(`unit:${facts.vendor}:${facts.product}:${facts.serial}`);
  return keys;
}
