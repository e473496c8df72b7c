// The primary commands: who are you, are you ready, what can you do (SPC-4).

import { encodeSense, sense } from "../scsi/sense.ts";
import * as spc from "../scsi/spc-commands.ts";
import { lunListHeader } from "../scsi/spc-commands.ts";
import { type Call, type Command, type CommandTable, command } from "./command-table.ts";
import type { LogicalUnit } from "./logical-unit.ts";
import type { Nexus } from "./nexus.ts";
import { dataInResult, good, invalidCdbField, type ScsiResult } from "./scsi-task.ts";
import type { TargetNames } from "./target-port.ts";
import { standardInquiryData, vpdPage } from "./vpd-pages.ts";

/** REPORT LUNS parameter data for LUNs by peripheral (≤ 255) and flat addressing (SAM-5, 4.7.7). */
export function reportLunsResult(
  luns: readonly number[],
  fields: { selectReport: number; allocationLength: number },
): ScsiResult {
  if (fields.selectReport > 2) return invalidCdbField(2);
  if (fields.allocationLength < 16) return invalidCdbField(6);
  // 1 asks for well-known units alone, of which there are none.
  const shown = fields.selectReport === 1 ? [] : luns;
  const list = Buffer.alloc(8 * shown.length);
  shown.forEach((lun, i) => {
    list.writeUInt16BE(lun < 256 ? lun : 0x4000 | lun, 8 * i);
  });
  return dataInResult(
    Buffer.concat([lunListHeader.encode({ lunListLength: list.length }), list]),
    fields.allocationLength,
  );
}

/** INQUIRY, also of a LUN without a unit. */
export function inquiryResult(
  unit: LogicalUnit | undefined,
  names: TargetNames,
  nexus: Nexus,
  fields: { evpd: boolean; pageCode: number; allocationLength: number },
): ScsiResult {
  if (!fields.evpd) {
    if (fields.pageCode !== 0) return invalidCdbField(2);
    return dataInResult(standardInquiryData(names, unit), fields.allocationLength);
  }
  const page = unit && vpdPage(fields.pageCode, unit, names, nexus.rights);
  return page ? dataInResult(page, fields.allocationLength) : invalidCdbField(2);
}

function requestSense({
  unit,
  request,
  fields,
}: Call<{ desc: boolean; allocationLength: number }>): ScsiResult {
  const pending = unit.takeAttention(request.nexus) ?? sense(unit.notReady ?? "noSense");
  return dataInResult(encodeSense(pending, fields.desc), fields.allocationLength);
}

const timeoutDescriptorBytes = 12;

function usageOf(each: Command): Buffer {
  const usage = Buffer.from(each.layout.usage);
  usage[0] = each.operationCode;
  const field = each.layout.fields.serviceAction;
  if (field && each.serviceAction !== undefined) {
    if (field.length === 2) usage.writeUInt16BE(each.serviceAction, field.byte);
    else
      usage[field.byte] =
        (usage[field.byte]! & ~((2 ** field.width - 1) << (field.msb - field.width + 1))) |
        each.serviceAction;
  }
  return usage;
}

function timeouts(): Buffer {
  const descriptor = Buffer.alloc(timeoutDescriptorBytes);
  descriptor.writeUInt16BE(timeoutDescriptorBytes - 2, 0); // no times are given
  return descriptor;
}

type ReportFields = {
  rctd: boolean;
  reportingOptions: number;
  requestedOperationCode: number;
  requestedServiceAction: number;
  allocationLength: number;
};

function reportAll(table: CommandTable, fields: ReportFields): ScsiResult {
  const descriptors = table.commands.map((each) => {
    const descriptor = Buffer.alloc(8);
    descriptor[0] = each.operationCode;
    descriptor.writeUInt16BE(each.serviceAction ?? 0, 2);
    descriptor[5] = (fields.rctd ? 0x02 : 0) | (each.serviceAction === undefined ? 0 : 0x01);
    descriptor.writeUInt16BE(each.layout.bytes, 6);
    return fields.rctd ? Buffer.concat([descriptor, timeouts()]) : descriptor;
  });
  const list = Buffer.concat(descriptors);
  const head = Buffer.alloc(4);
  head.writeUInt32BE(list.length, 0);
  return dataInResult(Buffer.concat([head, list]), fields.allocationLength);
}

/** REPORTING OPTIONS: 0 all, 1 by operation code, 2 with service action, 3 either. */
function reportSupported(table: CommandTable, fields: ReportFields): ScsiResult {
  const { reportingOptions: options, requestedOperationCode: code, requestedServiceAction: action } = fields;
  if (options === 0) return reportAll(table, fields);
  if (options > 3) return invalidCdbField(2, 2);
  const plain = table.get(code, undefined);
  const withAction = table.get(code, action);
  const hasActions = table.hasOperationCode(code) && plain === undefined;
  if (options === 1 && hasActions) return invalidCdbField(4);
  if (options === 2 && plain) return invalidCdbField(4);
  const found =
    options === 1 ? plain : options === 2 ? withAction : action === 0 && plain ? plain : withAction;
  const usage = found ? usageOf(found) : Buffer.alloc(0);
  const head = Buffer.alloc(4);
  head[1] = (fields.rctd && found ? 0x80 : 0) | (found ? 0x03 : 0x01);
  head.writeUInt16BE(usage.length, 2);
  const parts = fields.rctd && found ? [head, usage, timeouts()] : [head, usage];
  return dataInResult(Buffer.concat(parts), fields.allocationLength);
}

/** The functions that task-management.ts carries out; those of other protocols' and of SAM-5's later ones it refuses. */
function reportTaskManagement({ fields }: Call<{ repd: boolean; allocationLength: number }>): ScsiResult {
  if (fields.allocationLength < 4) return invalidCdbField(6);
  const supported = { ats: true, atss: true, ctss: true, lurs: true, trs: true };
  const data = fields.repd
    ? spc.supportedTaskManagementLong.encode(supported)
    : spc.supportedTaskManagement.encode(supported);
  return dataInResult(data, fields.allocationLength);
}

/** What the primary commands need to know of the target around the unit. */
export interface Surroundings {
  readonly names: TargetNames;
  /** What an initiator finds. */
  luns(nexus: Nexus): readonly number[];
  /** The commands of a unit that an initiator has. */
  table(unit: LogicalUnit, nexus: Nexus): CommandTable;
}

export function primaryCommands(around: Surroundings): Command[] {
  const passesAttentions = { passesAttentions: true, withoutMedium: true };
  return [
    command(spc.testUnitReady, "free", () => good),
    command(spc.requestSense, "always", requestSense, passesAttentions),
    command(
      spc.inquiry,
      "always",
      ({ unit, request, fields }) => inquiryResult(unit, around.names, request.nexus, fields),
      passesAttentions,
    ),
    command(
      spc.reportLuns,
      "always",
      ({ request, fields }) => reportLunsResult(around.luns(request.nexus), fields),
      passesAttentions,
    ),
    command(
      spc.reportSupportedOperationCodes,
      "read",
      ({ unit, request, fields }) => reportSupported(around.table(unit, request.nexus), fields),
      { withoutMedium: true },
    ),
    command(spc.reportSupportedTaskManagementFunctions, "read", reportTaskManagement, {
      withoutMedium: true,
    }),
  ];
}
