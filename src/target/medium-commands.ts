// Commands about the medium as a whole: loading and ejecting it, prefetching, defects.
//
// Guarantees: a medium is ejected only when everything that was written is on it, and only where nobody prevents it;
// only units that are served as removable can be ejected. A stop of any other unit takes it from nobody.
//
// Source: SBC-3, 5.11 to 5.13, 5.20, 5.21, 5.25.
import { status } from "../scsi/command.ts";
import * as sbc from "../scsi/sbc-medium-commands.ts";
import { outOfRange, rangeIn } from "./block-commands.ts";
import { type Call, type Command, command } from "./command-table.ts";
import { checkCondition, dataInResult, good, invalidCdbField, type ScsiResult } from "./scsi-task.ts";
import { failedResult } from "./volume-errors.ts";

async function startStop({
  unit,
  request,
  fields,
}: Call<{ powerCondition: number; noFlush: boolean; loej: boolean; start: boolean }>): Promise<ScsiResult> {
  if (unit.sanitize.state === "under way") return checkCondition("sanitizeInProgress");
  // With a power condition LOEJ and START are ignored; the unit is always active (SBC-3, table 88).
  if (fields.powerCondition !== 0) return good;
  if (fields.loej && !unit.removable) return invalidCdbField(4, 1);
  if (fields.loej && unit.removalPrevented) return checkCondition("mediumRemovalPrevented");
  const flushes = !fields.start && unit.notReady === undefined && !unit.readonly;
  if (flushes && (!fields.noFlush || fields.loej)) {
    try {
      await unit.flush(request.nexus);
    } catch (error) {
      return failedResult(error, "write");
    }
  }
  if (fields.loej) unit.load(fields.start, request.nexus);
  return good;
}

function preventAllow({ unit, request, fields }: Call<{ prevent: number }>): ScsiResult {
  if (fields.prevent > 1) return invalidCdbField(4, 1); // 10b and 11b are obsolete
  unit.preventRemoval(request.nexus, fields.prevent === 1);
  return good;
}

/** Not worth a read of its own: GOOD says that the cache does not hold all of it (SBC-3, 5.11). */
function preFetch({
  unit,
  fields,
}: Call<{ logicalBlockAddress: number | bigint; length: number }>): ScsiResult {
  return rangeIn(unit, fields.logicalBlockAddress, fields.length) === undefined ? outOfRange() : good;
}

/** The lists are empty: defects are the business of the devices below. */
function defectData(
  {
    fields,
  }: Call<{ reqPlist: boolean; reqGlist: boolean; defectListFormat: number; allocationLength: number }>,
  headBytes: number,
): ScsiResult {
  const head = Buffer.alloc(headBytes);
  head[1] = (fields.reqPlist ? 0x10 : 0) | (fields.reqGlist ? 0x08 : 0) | fields.defectListFormat;
  return { ...dataInResult(head, fields.allocationLength), status: status.good };
}

/** Starting and allowing take nothing from anybody (SPC-4, table 67; SBC-3, table 13). */
const startStopClass = ({ start, powerCondition }: { start: boolean; powerCondition: number }) =>
  start && powerCondition === 0 ? "free" : "write";
const preventClass = ({ prevent }: { prevent: number }) => (prevent === 0 ? "free" : "write");

export const mediumCommands: readonly Command[] = [
  command(sbc.startStopUnit, startStopClass, startStop, { withoutMedium: true }),
  command(sbc.preventAllowMediumRemoval, preventClass, preventAllow, { withoutMedium: true }),
  command(sbc.preFetch10, "read", preFetch),
  command(sbc.preFetch16, "read", preFetch),
  command(sbc.readDefectData10, "read", (call) => defectData(call, 4)),
  command(sbc.readDefectData12, "read", (call) => defectData(call, 8)),
];
