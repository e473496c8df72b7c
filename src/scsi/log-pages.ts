// Log pages, as LOG SENSE returns them.
//
// Source: SPC-4, 7.3.
import { bits, constant, flag, layout, u8, u16 } from "../base/layout.ts";

export const logPageCode = { supported: 0x00, informationalExceptions: 0x2f } as const;
export const allSubpages = 0xff;

export const logPageHeader = layout({
  name: "log page header",
  source: "SPC-4, 7.3.2",
  bytes: 4,
  fields: {
    ds: flag(0, 7),
    spf: flag(0, 6),
    pageCode: bits(0, 5, 6),
    subpageCode: u8(1),
    pageLength: u16(2),
  },
});

/** The one parameter that the page must have. */
export const informationalExceptions = layout({
  name: "Informational Exceptions General log parameter",
  source: "SPC-4, 7.3.11",
  bytes: 8,
  fields: {
    parameterCode: constant(u16(0), 0),
    /** FORMAT AND LINKING 11b: a list in binary format. */
    control: constant(u8(2), 0x03),
    parameterLength: constant(u8(3), 4),
    additionalSenseCode: u8(4),
    additionalSenseCodeQualifier: u8(5),
    /** Degrees Celsius; FFh: there is none. */
    mostRecentTemperatureReading: u8(6),
  },
});
