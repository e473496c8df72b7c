// The functions of SUBMIT that are not about extents, but about the unit as a whole: its histories, and its size.
//
// Guarantees: SUBMIT counts as reading, since its CDB says nothing else; GROW is refused all the same wherever a WRITE
// would be: to an initiator that may not write, against a reservation, by write protection. A unit never gets shorter, and
// GROW for another volume than the one that is there changes nothing. docs/protocol.md is the reference.
import { checkedNumber } from "../base/units.ts";
import { status } from "../scsi/command.ts";
import * as vendor from "../scsi/vendor-commands.ts";
import type { GenerationChanges } from "../volume/volume.ts";
import type { LogicalUnit } from "./logical-unit.ts";
import type { Nexus } from "./nexus.ts";
import { ofPoints } from "./point-functions.ts";
import { checkCondition, invalidParameter, type ScsiResult } from "./scsi-task.ts";
import { answered, type ListHead as Head, type Submission } from "./submission.ts";
import { ofWhole } from "./whole-functions.ts";

const pairBytes = 16;
const generationBytes = 16;
/** As long as all results of a nexus together may be. */
const changesBytesMax = 1024 * 1024;

const place = vendor.parameterListHeader.fields;

/** What such a function begins, or what is wrong with its list; undefined for any other function. */
export function ofUnit(
  unit: LogicalUnit,
  nexus: Nexus,
  fields: Head,
  data: Buffer,
): Submission | ScsiResult | undefined {
  switch (fields.function) {
    case vendor.vendorFunction.beginGeneration:
    case vendor.vendorFunction.commitGeneration:
    case vendor.vendorFunction.changesSince:
      return ofHistories(unit, fields, data);
    case vendor.vendorFunction.grow:
      return growth(unit, nexus, fields, data);
    default:
      return ofWhole(unit, nexus, fields, data) ?? ofPoints(unit, nexus, fields, data);
  }
}

/** BEGIN GENERATION, COMMIT GENERATION, CHANGES SINCE GENERATION. */
function ofHistories(unit: LogicalUnit, fields: Head, data: Buffer): Submission | ScsiResult {
  if (!unit.volume.traits.keepsHistories) return invalidParameter(place.function.byte);
  const asks = fields.function === vendor.vendorFunction.changesSince;
  if (fields.dataLength !== pairBytes + (asks ? 0 : generationBytes))
    return invalidParameter(place.dataLength.byte);
  const pair = Buffer.from(data.subarray(0, pairBytes));
  const generation = Buffer.from(data.subarray(pairBytes));
  switch (fields.function) {
    case vendor.vendorFunction.beginGeneration:
      return { bytes: 0, work: () => unit.volume.beginGeneration(pair, generation).then(() => answered()) };
    case vendor.vendorFunction.commitGeneration:
      return { bytes: 0, work: () => unit.volume.commitGeneration(pair, generation).then(() => answered()) };
    default:
      return {
        bytes: changesBytesMax,
        work: () => unit.volume.changesSince(pair).then((changes) => answered(changesOf(changes))),
      };
  }
}

/** What does not fit is no history: the volumes are compared. */
function changesOf(changes: GenerationChanges | undefined): Buffer {
  const { changesHeader, changedRange } = vendor;
  const bytes = changesHeader.bytes + changedRange.bytes * (changes?.ranges.length ?? 0);
  if (!changes || bytes > changesBytesMax) return changesHeader.encode({});
  const head = changesHeader.encode({
    known: true,
    unchanged: changes.names === "unchanged",
    numberOfRanges: changes.ranges.length,
    generation: changes.generation,
  });
  const ranges = changes.ranges.map(({ first, count }) =>
    changedRange.encode({ first: BigInt(first), count }),
  );
  return Buffer.concat([head, ...ranges]);
}

/** GROW. */
function growth(unit: LogicalUnit, nexus: Nexus, fields: Head, data: Buffer): Submission | ScsiResult {
  const { growList, parameterListHeader } = vendor;
  const { traits, geometry } = unit.volume;
  if (!traits.grows) return invalidParameter(place.function.byte);
  if (fields.dataLength !== growList.bytes) return invalidParameter(place.dataLength.byte);
  if (!nexus.rights.writes) return checkCondition("writeProtected");
  if (unit.reservations.conflicts(nexus.key, "write")) return { status: status.reservationConflict };
  const { volumeUuid, numberOfBlocks } = growList.decode(data);
  const wrong = (field: { readonly byte: number }) =>
    invalidParameter(parameterListHeader.bytes + field.byte);
  if (!unit.uuid.equals(volumeUuid)) return wrong(growList.fields.volumeUuid);
  const blocks = checkedNumber(numberOfBlocks) ?? Number.POSITIVE_INFINITY;
  // No volume of ours has more bytes than a number counts, wherever they come from.
  if (blocks < geometry.blocks || !Number.isSafeInteger(blocks * geometry.blockBytes))
    return wrong(growList.fields.numberOfBlocks);
  if (unit.writeProtection) return checkCondition(unit.writeProtection);
  // Begun, it is ended whatever becomes of the session: the end of the program waits for it.
  const work = () => unit.inBackground(() => unit.grow(blocks, nexus)).then(() => answered());
  return { bytes: 0, work };
}
