// The functions of SUBMIT about the last whole generation of a unit: BEGIN WHOLE, COMMIT WHOLE, ROLL BACK, SET LABEL,
// WHOLE STATE.
//
// Guarantees: all but the last are refused wherever a WRITE would be: to an initiator that may not write, against a
// reservation, by write protection; and for another volume than the one that is there. A roll back that was begun goes on
// whatever becomes of the session, and is asked after by the same list. docs/protocol.md is the reference.
import { isBlank } from "../base/bytes.ts";
import { status } from "../scsi/command.ts";
import { parameterListHeader, vendorFunction } from "../scsi/vendor-commands.ts";
import {
  rollBackList,
  rolledBackAnswer,
  setLabelList,
  wholeCommitList,
  wholeRunList,
  wholeStateAnswer,
} from "../scsi/whole-lists.ts";
import type { RolledBack, WholeState } from "../volume/volume.ts";
import type { LogicalUnit } from "./logical-unit.ts";
import type { Nexus } from "./nexus.ts";
import { checkCondition, invalidParameter, type ScsiResult } from "./scsi-task.ts";
import { answered, type ListHead as Head, type Submission } from "./submission.ts";

/** Shorter than an initiator waits for a command. */
const rollBackWaitMs = 10_000;

const place = parameterListHeader.fields;

/** What such a function begins, or what is wrong with its list; undefined for any other function. */
export function ofWhole(
  unit: LogicalUnit,
  nexus: Nexus,
  fields: Head,
  data: Buffer,
): Submission | ScsiResult | undefined {
  switch (fields.function) {
    case vendorFunction.beginWhole: {
      const wrong = refusal(unit, nexus, fields, data, wholeRunList.bytes);
      if (wrong) return wrong;
      const run = Buffer.from(wholeRunList.decode(data).run);
      return changing(unit, () => unit.beginWhole(run));
    }
    case vendorFunction.commitWhole: {
      const wrong = refusal(unit, nexus, fields, data, wholeCommitList.bytes);
      if (wrong) return wrong;
      const { run, ...named } = wholeCommitList.decode(data);
      const label = labelOf(named);
      const asked = Buffer.from(run);
      return changing(unit, () => unit.volume.commitWhole(asked, label && { label }));
    }
    case vendorFunction.setLabel: {
      const wrong = refusal(unit, nexus, fields, data, setLabelList.bytes);
      if (wrong) return wrong;
      const named = setLabelList.decode(data);
      const label = labelOf(named);
      return changing(unit, () => unit.volume.labelWhole(label && { ...label, handedOut: named.handedOut }));
    }
    case vendorFunction.rollBack: {
      const wrong = refusal(unit, nexus, fields, data, rollBackList.bytes);
      if (wrong) return wrong;
      const { force } = rollBackList.decode(data);
      return {
        bytes: rolledBackAnswer.bytes,
        work: async () => answered(rolledBack(await unit.rollBack(force, nexus, rollBackWaitMs))),
      };
    }
    case vendorFunction.wholeState:
      if (!unit.volume.traits.keepsWhole) return invalidParameter(place.function.byte);
      if (fields.dataLength !== 0) return invalidParameter(place.dataLength.byte);
      return {
        bytes: wholeStateAnswer.bytes,
        work: async () => answered(stateOf(await unit.volume.wholeState())),
      };
    default:
      return undefined;
  }
}

/** What ends without an answer, whatever becomes of who has asked for it. */
const changing = (unit: LogicalUnit, action: () => Promise<void>): Submission => ({
  bytes: 0,
  work: () => unit.inBackground(action).then(() => answered()),
});

/** Undefined for a list that names no set. */
function labelOf({ set, generation }: { readonly set: Buffer; readonly generation: bigint }) {
  if (isBlank(set)) return undefined;
  return { set: Buffer.from(set), generation: Number(generation) };
}

/** Why a function that leads to writing is not carried out. */
function refusal(
  unit: LogicalUnit,
  nexus: Nexus,
  fields: Head,
  data: Buffer,
  bytes: number,
): ScsiResult | undefined {
  if (!unit.volume.traits.keepsWhole) return invalidParameter(place.function.byte);
  if (fields.dataLength !== bytes) return invalidParameter(place.dataLength.byte);
  if (!nexus.rights.writes) return checkCondition("writeProtected");
  if (unit.reservations.conflicts(nexus.key, "write")) return { status: status.reservationConflict };
  const { volumeUuid } = wholeRunList.fields; // in all of these lists
  const uuid = data.subarray(volumeUuid.byte, volumeUuid.byte + volumeUuid.length);
  if (!unit.uuid.equals(uuid)) return invalidParameter(parameterListHeader.bytes + volumeUuid.byte);
  return unit.writeProtection && checkCondition(unit.writeProtection);
}

function rolledBack(done: RolledBack | undefined): Buffer {
  if (!done) return rolledBackAnswer.encode({ underWay: true });
  return rolledBackAnswer.encode({
    extents: BigInt(done.extents),
    bytes: BigInt(done.bytes),
    unreadable: BigInt(done.unreadable),
    lost: BigInt(done.lost),
  });
}

function stateOf(state: WholeState): Buffer {
  return wholeStateAnswer.encode({
    open: state.state === "open",
    rollingBack: state.rollingBack,
    foreign: state.foreign,
    keptExtents: BigInt(state.keptExtents),
    keptBytes: BigInt(state.keptBytes),
    sinceMs: BigInt(Math.round(state.sinceMs)),
    ...(state.run && { run: state.run }),
    ...(state.label && {
      set: state.label.set,
      generation: BigInt(state.label.generation),
      handedOut: state.label.handedOut,
    }),
  });
}
