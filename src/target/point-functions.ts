// The functions of SUBMIT about restore points of a unit: LIST POINTS, EXPOSE POINT, WITHDRAW POINT.
//
// Guarantees: the last two are refused to an initiator that may not write, and for another volume than the one that is there;
// no reservation stands against them, since nothing of the unit changes. docs/protocol.md is the reference.
import { isBlank } from "../base/bytes.ts";
import { exposedAnswer, exposeList, pointEntry, pointsHeader, withdrawList } from "../scsi/point-lists.ts";
import { parameterListHeader, vendorFunction } from "../scsi/vendor-commands.ts";
import type { ExposedPoints, ListedPoint } from "./exposed-points.ts";
import type { LogicalUnit } from "./logical-unit.ts";
import type { Nexus } from "./nexus.ts";
import { checkCondition, invalidParameter, type ScsiResult } from "./scsi-task.ts";
import { answered, type ListHead as Head, type Submission } from "./submission.ts";

/** More are not listed; no policy keeps as many. */
const pointsMax = 1024;

const place = parameterListHeader.fields;

/** What such a function begins, or what is wrong with its list; undefined for any other function. */
export function ofPoints(
  unit: LogicalUnit,
  nexus: Nexus,
  fields: Head,
  data: Buffer,
): Submission | ScsiResult | undefined {
  const { points } = unit;
  switch (fields.function) {
    case vendorFunction.listPoints:
      if (!points) return invalidParameter(place.function.byte);
      if (fields.dataLength !== 0) return invalidParameter(place.dataLength.byte);
      return {
        bytes: pointsHeader.bytes + pointsMax * pointEntry.bytes,
        work: async () => answered(listOf((await points.list()).slice(-pointsMax))),
      };
    case vendorFunction.exposePoint: {
      const checked = check(unit, nexus, fields, data, exposeList.bytes);
      if ("status" in checked) return checked;
      const { point, force } = exposeList.decode(data);
      const id = Buffer.from(point);
      const wanted = isBlank(id) ? undefined : id;
      return {
        bytes: exposedAnswer.bytes,
        work: async () => {
          const exposed = await unit.inBackground(() => checked.points.expose(wanted, force));
          return answered(exposedAnswer.encode({ lun: exposed.lun, point: exposed.id }));
        },
      };
    }
    case vendorFunction.withdrawPoint: {
      const checked = check(unit, nexus, fields, data, withdrawList.bytes);
      if ("status" in checked) return checked;
      const id = Buffer.from(withdrawList.decode(data).point);
      return {
        bytes: 0,
        work: () => unit.inBackground(() => checked.points.withdraw(id)).then(() => answered()),
      };
    }
    default:
      return undefined;
  }
}

/** The unit's points, or why the function is not carried out. */
function check(
  unit: LogicalUnit,
  nexus: Nexus,
  fields: Head,
  data: Buffer,
  bytes: number,
): { readonly points: ExposedPoints } | ScsiResult {
  const { points } = unit;
  if (!points) return invalidParameter(place.function.byte);
  if (fields.dataLength !== bytes) return invalidParameter(place.dataLength.byte);
  if (!nexus.rights.writes) return checkCondition("writeProtected");
  const { volumeUuid } = exposeList.fields; // in both lists
  const uuid = data.subarray(volumeUuid.byte, volumeUuid.byte + volumeUuid.length);
  if (!unit.uuid.equals(uuid)) return invalidParameter(parameterListHeader.bytes + volumeUuid.byte);
  return { points };
}

function listOf(points: readonly ListedPoint[]): Buffer {
  return Buffer.concat([
    pointsHeader.encode({ numberOfPoints: points.length }),
    ...points.map((point) =>
      pointEntry.encode({
        point: point.id,
        number: BigInt(point.number),
        madeMs: BigInt(Math.round(point.madeMs)),
        ...(point.run && { run: point.run }),
        ...(point.label && { set: point.label.set, generation: BigInt(point.label.generation) }),
        volumeBytes: BigInt(point.volumeBytes),
        keptExtents: BigInt(point.keptExtents),
        keptBytes: BigInt(point.keptBytes),
        last: point.last,
        doubtful: point.doubtful,
        ...(point.lun !== undefined && { exposed: true, lun: point.lun }),
      }),
    ),
  ]);
}
