// What the functions of SUBMIT about whole generations send and answer: BEGIN WHOLE, COMMIT WHOLE, ROLL BACK, WHOLE STATE,
// SET LABEL.
// docs/protocol.md is the reference; it is written from these tables.
import { flag, layout, raw, u64 } from "../base/layout.ts";

const source = "docs/protocol.md";

/** The data of a list of BEGIN WHOLE. */
export const wholeRunList = layout({
  name: "run of a unit",
  source,
  bytes: 32,
  fields: {
    /** Of the unit that is meant, as its page DBh has it. */
    volumeUuid: raw(0, 16),
    run: raw(16, 16),
  },
});

/** The data of a list of COMMIT WHOLE. */
export const wholeCommitList = layout({
  name: "run that has ended",
  source,
  bytes: 64,
  fields: {
    volumeUuid: raw(0, 16),
    run: raw(16, 16),
    /** Zeros: its label stays as it is. */
    set: raw(32, 16),
    generation: u64(48),
  },
});

/** The data of a list of SET LABEL. */
export const setLabelList = layout({
  name: "replication set of a unit",
  source,
  bytes: 48,
  fields: {
    volumeUuid: raw(0, 16),
    /** Zeros: the unit is a replica of none. */
    set: raw(16, 16),
    generation: u64(32),
    handedOut: flag(40, 0),
  },
});

/** The data of a list of ROLL BACK. */
export const rollBackList = layout({
  name: "unit that is to be rolled back",
  source,
  bytes: 24,
  fields: {
    volumeUuid: raw(0, 16),
    /** Also where somebody else has written since, and past what is damaged. */
    force: flag(16, 0),
  },
});

export const rolledBackAnswer = layout({
  name: "what a roll back did",
  source,
  bytes: 40,
  fields: {
    /** It goes on; ROLL BACK asks again. Nothing else is told then. */
    underWay: flag(0, 0),
    extents: u64(8),
    bytes: u64(16),
    unreadable: u64(24),
    lost: u64(32),
  },
});

export const wholeStateAnswer = layout({
  name: "whether a unit is whole",
  source,
  bytes: 80,
  fields: {
    open: flag(0, 0),
    rollingBack: flag(0, 1),
    foreign: flag(0, 2),
    /** The unit was handed out to be written to. */
    handedOut: flag(0, 3),
    keptExtents: u64(8),
    keptBytes: u64(16),
    sinceMs: u64(24),
    run: raw(32, 16),
    /** Zeros: the unit is a replica of no set. */
    set: raw(48, 16),
    generation: u64(64),
  },
});
