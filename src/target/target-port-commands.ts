// REPORT TARGET PORT GROUPS: by which ports a unit is reached, and how well.
//
// There is one port in one group, and by it every unit is active and optimized, always: SET TARGET PORT GROUPS is no
// command here. What can happen to a medium (ejected, being sanitized) is no matter of ports.
//
// Source: SPC-4, 6.37.
import * as spc from "../scsi/spc-commands.ts";
import * as groups from "../scsi/target-port-groups.ts";
import { type Call, type Command, command } from "./command-table.ts";
import { dataInResult, invalidCdbField, type ScsiResult } from "./scsi-task.ts";
import { relativeTargetPort, targetPortGroup } from "./target-port.ts";

const theGroup = Buffer.concat([
  groups.groupDescriptor.encode({
    asymmetricAccessState: groups.accessState.activeOptimized,
    aoSup: true,
    targetPortGroup,
    targetPortCount: 1,
  }),
  groups.portDescriptor.encode({ relativeTargetPortIdentifier: relativeTargetPort }),
]);

function reportTargetPortGroups({
  fields,
}: Call<{ parameterDataFormat: number; allocationLength: number }>): ScsiResult {
  const { lengthOnlyHeader, extendedHeader, dataFormat } = groups;
  let head: Buffer;
  if (fields.parameterDataFormat === dataFormat.lengthOnly) {
    head = lengthOnlyHeader.encode({ returnDataLength: theGroup.length });
  } else if (fields.parameterDataFormat === dataFormat.extended) {
    head = extendedHeader.encode({ returnDataLength: extendedHeader.bytes - 4 + theGroup.length });
  } else return invalidCdbField(1, 7);
  return dataInResult(Buffer.concat([head, theGroup]), fields.allocationLength);
}

export const targetPortCommands: readonly Command[] = [
  command(spc.reportTargetPortGroups, "free", reportTargetPortGroups, { withoutMedium: true }),
];
