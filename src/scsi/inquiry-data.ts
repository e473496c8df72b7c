// What a logical unit says of itself: standard INQUIRY data, device identification, and our vendor page.
//
// Decoders take any bytes a stranger's device may send and give a value or undefined; lengths inside are checked.
// Source: SPC-4, 6.6.2 (standard INQUIRY data), 7.8 (VPD pages).
import { assert } from "../base/assert.ts";
import { ascii, bits, constant, flag, layout, u8, u16 } from "../base/layout.ts";
import { digestEntryHeader, protocolVersion, vendorPageHeader } from "./vendor-commands.ts";

export const standardInquiry = layout({
  name: "standard INQUIRY data",
  source: "SPC-4, 6.6.2",
  bytes: 36,
  fields: {
    peripheralQualifier: bits(0, 7, 3),
    peripheralDeviceType: bits(0, 4, 5),
    rmb: flag(1, 7),
    version: u8(2),
    normAca: flag(3, 5),
    hiSup: flag(3, 4),
    responseDataFormat: bits(3, 3, 4),
    additionalLength: u8(4),
    sccs: flag(5, 7),
    tpgs: bits(5, 5, 2),
    threePC: flag(5, 3),
    protect: flag(5, 0),
    encServ: flag(6, 6),
    multiP: flag(6, 4),
    cmdQue: flag(7, 1),
    vendorIdentification: ascii(8, 8),
    productIdentification: ascii(16, 16),
    productRevisionLevel: ascii(32, 4),
  },
});

/** The head of every VPD page. */
export const vpdHeader = layout({
  name: "VPD page header",
  source: "SPC-4, 7.8.2",
  bytes: 4,
  fields: {
    peripheralQualifier: bits(0, 7, 3),
    peripheralDeviceType: bits(0, 4, 5),
    pageCode: u8(1),
    pageLengthHigh: u8(2),
    pageLengthLow: u8(3),
  },
});

/** The body of a VPD page, or undefined if `bytes` is not that page. */
export function decodeVpdPage(bytes: Buffer, pageCode: number): Buffer | undefined {
  if (bytes.length < 4 || bytes[1] !== pageCode) return undefined;
  return bytes.subarray(4, 4 + bytes.readUInt16BE(2));
}

export function encodeVpdPage(pageCode: number, body: Buffer, peripheral = 0): Buffer {
  const head = Buffer.from([peripheral, pageCode, 0, 0]);
  head.writeUInt16BE(body.length, 2);
  return Buffer.concat([head, body]);
}

/** 86h: what the unit does with tasks, caches and the like. What is left out is not supported. */
export const extendedInquiry = layout({
  name: "Extended INQUIRY Data VPD page",
  source: "SPC-4, 7.8.7",
  bytes: 64,
  fields: {
    peripheral: u8(0),
    pageCode: constant(u8(1), 0x86),
    pageLength: constant(u16(2), 0x3c),
    uaskSup: flag(5, 5),
    groupSup: flag(5, 4),
    priorSup: flag(5, 3),
    headSup: flag(5, 2),
    ordSup: flag(5, 1),
    simpSup: flag(5, 0),
    wuSup: flag(6, 3),
    crdSup: flag(6, 2),
    nvSup: flag(6, 1),
    vSup: flag(6, 0),
    luiclr: flag(7, 0),
    maximumSupportedSenseDataLength: u8(13),
  },
});

/** 87h: whose a set of mode parameters is. */
export const modePagePolicy = layout({
  name: "mode page policy descriptor",
  source: "SPC-4, 7.8.9",
  bytes: 4,
  fields: {
    policyPageCode: bits(0, 5, 6),
    policySubpageCode: u8(1),
    mlus: flag(2, 7),
    modePagePolicy: bits(2, 1, 2),
  },
});

/** 88h: the head of a SCSI port designation descriptor; the designators of the target port follow. */
export const portDesignation = layout({
  name: "SCSI port designation descriptor",
  source: "SPC-4, 7.8.15",
  bytes: 12,
  fields: {
    relativePortIdentifier: u16(2),
    initiatorPortTransportIdLength: u16(6),
    targetPortDescriptorsLength: u16(10),
  },
});

/** ASSOCIATION of a designator. */
export const association = { logicalUnit: 0, targetPort: 1, targetDevice: 2 } as const;
/** DESIGNATOR TYPE. */
export const designatorType = {
  vendorSpecific: 0,
  t10VendorId: 1,
  eui64: 2,
  naa: 3,
  relativeTargetPort: 4,
  targetPortGroup: 5,
  logicalUnitGroup: 6,
  scsiNameString: 8,
} as const;

export interface Designator {
  readonly association: number;
  readonly type: number;
  /** 1 binary, 2 ASCII, 3 UTF-8. */
  readonly codeSet: number;
  readonly designator: Buffer;
  /** PROTOCOL IDENTIFIER, where the PIV bit is set (5: iSCSI). */
  readonly protocol?: number | undefined;
}

export function encodeDesignators(designators: readonly Designator[]): Buffer {
  return Buffer.concat(
    designators.flatMap((each) => {
      assert(each.designator.length <= 0xff, "a designator has at most 255 bytes");
      const piv = each.protocol === undefined ? 0 : 0x80;
      const head = Buffer.from([
        ((each.protocol ?? 0) << 4) | each.codeSet,
        piv | (each.association << 4) | each.type,
        0,
        each.designator.length,
      ]);
      return [head, each.designator];
    }),
  );
}

/** All designators that are whole; what is cut off or malformed is left out. */
export function decodeDesignators(body: Buffer): Designator[] {
  const found: Designator[] = [];
  for (let at = 0; at + 4 <= body.length; ) {
    const length = body[at + 3]!;
    if (at + 4 + length > body.length) break;
    const second = body[at + 1]!;
    found.push({
      association: (second >> 4) & 0x03,
      type: second & 0x0f,
      codeSet: body[at]! & 0x0f,
      designator: Buffer.from(body.subarray(at + 4, at + 4 + length)),
      protocol: (second & 0x80) === 0 ? undefined : body[at]! >> 4,
    });
    at += 4 + length;
  }
  return found;
}

export interface DigestEntry {
  readonly index: number;
  readonly text: string;
  readonly identifierBytes: number;
}

/** VPD page DBh: what a replica that speaks our commands offers. Sizes are log2 of blocks. */
export interface VendorPage {
  readonly modeEncode: boolean;
  readonly modeDecode: boolean;
  readonly modeVerdict: boolean;
  readonly width8: boolean;
  readonly width16: boolean;
  /** 0 none, 1 in part, 2 valid. */
  readonly catalogueState: number;
  /** FIND EXTENTS is there: extents are found by their identifiers, in the catalogue. */
  readonly findExtents: boolean;
  /** BEGIN and COMMIT GENERATION, and CHANGES SINCE GENERATION are there. */
  readonly histories: boolean;
  /** GROW is there: the unit can be given more blocks. */
  readonly grow: boolean;
  /** It keeps before-images of the open run. */
  readonly whole: boolean;
  readonly points: boolean;
  /** What the catalogue is of: an index into the digests, log2 of blocks, log2 of the fan-out. */
  readonly catalogueDigest: number;
  readonly catalogueExtentSize: number;
  readonly catalogueFanOut: number;
  readonly catalogueRootLevel: number;
  readonly smallestExtentSize: number;
  readonly largestExtentSize: number;
  readonly preferredExtentSize: number;
  /** The most extents and bytes of one command, and the most commands outstanding on one I_T nexus. */
  readonly mostExtents: number;
  readonly mostBytes: number;
  readonly mostCommands: number;
  readonly resultLifetimeMs: number;
  readonly volumeUuid: string;
  readonly generation: number;
  readonly writeExtents: boolean;
  readonly copyExtents: boolean;
  /** The most bytes of the unit and the most runs of one list of WRITE EXTENTS or COPY EXTENTS. */
  readonly mostListBytes: number;
  readonly mostRuns: number;
  readonly digests: readonly DigestEntry[];
}

export function formatUuid(bytes: Buffer): string {
  const hex = bytes.toString("hex");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

export const parseUuid = (text: string): Buffer => Buffer.from(text.replaceAll("-", ""), "hex");

export function encodeVendorPage(page: VendorPage): Buffer {
  const entries = page.digests.map(({ index, text, identifierBytes }) => {
    const name = Buffer.from(text, "ascii");
    return Buffer.concat([
      digestEntryHeader.encode({ index, textLength: name.length, identifierBytes }),
      name,
    ]);
  });
  const list = Buffer.concat(entries);
  const head = vendorPageHeader.encode({
    ...page,
    protocolVersion,
    pageLength: vendorPageHeader.bytes - 4 + list.length,
    mostBytes: BigInt(page.mostBytes),
    volumeUuid: parseUuid(page.volumeUuid),
    generation: BigInt(page.generation),
    numberOfDigests: entries.length,
  });
  return Buffer.concat([head, list]);
}

const clamp = (value: bigint) =>
  Number(value > BigInt(Number.MAX_SAFE_INTEGER) ? Number.MAX_SAFE_INTEGER : value);

/** The page, or undefined for what is not ours (another signature, another version, lengths that do not add up). */
export function decodeVendorPage(bytes: Buffer): VendorPage | undefined {
  let head: ReturnType<typeof vendorPageHeader.decode>;
  try {
    head = vendorPageHeader.decode(bytes);
  } catch {
    return undefined;
  }
  if (head.protocolVersion !== protocolVersion) return undefined;
  const end = Math.min(bytes.length, 4 + head.pageLength);
  const digests: DigestEntry[] = [];
  let at = vendorPageHeader.bytes;
  for (let i = 0; i < head.numberOfDigests && at + digestEntryHeader.bytes <= end; i++) {
    const entry = digestEntryHeader.decode(bytes, at);
    at += digestEntryHeader.bytes;
    if (at + entry.textLength > end) break;
    digests.push({
      index: entry.index,
      text: bytes.toString("ascii", at, at + entry.textLength),
      identifierBytes: entry.identifierBytes,
    });
    at += entry.textLength;
  }
  return {
    ...head,
    mostBytes: clamp(head.mostBytes),
    volumeUuid: formatUuid(head.volumeUuid),
    generation: clamp(head.generation),
    digests,
  };
}
