// What REPORT TARGET PORT GROUPS returns: which ports reach a unit, and how well (asymmetric logical unit access).
//
// Source: SPC-4, 5.15 and 6.37.
import { bits, constant, flag, layout, u8, u16, u32 } from "../base/layout.ts";

/** PARAMETER DATA FORMAT of the CDB. */
export const dataFormat = { lengthOnly: 0, extended: 1 } as const;

/** ASYMMETRIC ACCESS STATE. */
export const accessState = { activeOptimized: 0 } as const;

/** TPGS in standard INQUIRY data: states change of the target's own accord, never by SET TARGET PORT GROUPS. */
export const implicitAccess = 1;

export const lengthOnlyHeader = layout({
  name: "REPORT TARGET PORT GROUPS header",
  source: "SPC-4, 6.37, length only header format",
  bytes: 4,
  fields: { returnDataLength: u32(0) },
});

export const extendedHeader = layout({
  name: "REPORT TARGET PORT GROUPS extended header",
  source: "SPC-4, 6.37, extended header format",
  bytes: 8,
  fields: {
    returnDataLength: u32(0),
    formatType: constant(bits(4, 6, 3), dataFormat.extended),
    /** Seconds; 0: not told. */
    implicitTransitionTime: u8(5),
  },
});

export const groupDescriptor = layout({
  name: "target port group descriptor",
  source: "SPC-4, 6.37",
  bytes: 8,
  fields: {
    pref: flag(0, 7),
    asymmetricAccessState: bits(0, 3, 4),
    tSup: flag(1, 7),
    oSup: flag(1, 6),
    lbdSup: flag(1, 4),
    uSup: flag(1, 3),
    sSup: flag(1, 2),
    anSup: flag(1, 1),
    aoSup: flag(1, 0),
    targetPortGroup: u16(2),
    statusCode: u8(5),
    targetPortCount: u8(7),
  },
});

export const portDescriptor = layout({
  name: "target port descriptor",
  source: "SPC-4, 6.37",
  bytes: 4,
  fields: { relativeTargetPortIdentifier: u16(2) },
});
