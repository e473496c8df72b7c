// What the functions of SUBMIT about restore points send and answer: LIST POINTS, EXPOSE POINT, WITHDRAW POINT.
// docs/protocol.md is the reference; it is written from these tables.
import { flag, layout, raw, u16, u32, u64 } from "../base/layout.ts";

const source = "docs/protocol.md";

/** The head of the answer to LIST POINTS; entries follow it. */
export const pointsHeader = layout({
  name: "restore points of a unit",
  source,
  bytes: 8,
  fields: { numberOfPoints: u32(0) },
});

export const pointEntry = layout({
  name: "restore point",
  source,
  bytes: 104,
  fields: {
    point: raw(0, 16),
    number: u64(16),
    madeMs: u64(24),
    /** Zeros: others have written to the unit since the run before. */
    run: raw(32, 16),
    /** Zeros: the unit was a replica of no set. */
    set: raw(48, 16),
    generation: u64(64),
    volumeBytes: u64(72),
    keptExtents: u64(80),
    keptBytes: u64(88),
    last: flag(96, 0),
    doubtful: flag(96, 1),
    /** `lun` says where. */
    exposed: flag(96, 2),
    lun: u16(98),
  },
});

/** The data of a list of EXPOSE POINT. */
export const exposeList = layout({
  name: "restore point that is to be shown",
  source,
  bytes: 40,
  fields: {
    /** Of the unit that is meant, as its page DBh has it. */
    volumeUuid: raw(0, 16),
    /** Zeros: the last whole generation. */
    point: raw(16, 16),
    /** Also where somebody else has written since. */
    force: flag(32, 0),
  },
});

export const exposedAnswer = layout({
  name: "where a restore point is shown",
  source,
  bytes: 24,
  fields: { lun: u16(0), point: raw(8, 16) },
});

/** The data of a list of WITHDRAW POINT. */
export const withdrawList = layout({
  name: "restore point that is to be shown no more",
  source,
  bytes: 32,
  fields: { volumeUuid: raw(0, 16), point: raw(16, 16) },
});
