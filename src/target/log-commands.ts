// LOG SENSE: the log pages, which are few. Nothing is counted, so there is nothing to reset or save.
//
// Source: SPC-4, 6.8 and 7.3.
import * as log from "../scsi/log-pages.ts";
import * as spc from "../scsi/spc-commands.ts";
import { type Call, type Command, command } from "./command-table.ts";
import { dataInResult, invalidCdbField, type ScsiResult } from "./scsi-task.ts";

const noTemperature = 0xff;

interface LogSense {
  readonly ppc: boolean;
  readonly sp: boolean;
  readonly pageCode: number;
  readonly subpageCode: number;
  readonly parameterPointer: number;
  readonly allocationLength: number;
}

/** Every page with its code and subpage code, in order. */
const pages: readonly { code: number; subpage: number; body: () => Buffer }[] = [
  {
    code: log.logPageCode.supported,
    subpage: 0,
    body: () => Buffer.from(pages.filter(({ subpage }) => subpage === 0).map(({ code }) => code)),
  },
  {
    code: log.logPageCode.supported,
    subpage: log.allSubpages,
    body: () => Buffer.from(pages.flatMap(({ code, subpage }) => [code, subpage])),
  },
  {
    // DEXCPT is 1 in the mode page of that name: exceptions are told by the commands that meet them, none is kept here.
    code: log.logPageCode.informationalExceptions,
    subpage: 0,
    body: () => log.informationalExceptions.encode({ mostRecentTemperatureReading: noTemperature }),
  },
];

function logSense({ fields }: Call<LogSense>): ScsiResult {
  if (fields.ppc) return invalidCdbField(1, 1);
  if (fields.sp) return invalidCdbField(1, 0);
  const found = pages.filter(({ code }) => code === fields.pageCode);
  if (found.length === 0) return invalidCdbField(2, 5);
  const page = found.find(({ subpage }) => subpage === fields.subpageCode);
  if (!page) return invalidCdbField(3);
  // No page has a parameter code above 0.
  if (fields.parameterPointer !== 0) return invalidCdbField(5);
  const body = page.body();
  const head = log.logPageHeader.encode({
    ds: true, // nothing is saved
    spf: page.subpage !== 0,
    pageCode: page.code,
    subpageCode: page.subpage,
    pageLength: body.length,
  });
  return dataInResult(Buffer.concat([head, body]), fields.allocationLength);
}

export const logCommands: readonly Command[] = [
  command(spc.logSense, "free", logSense, { withoutMedium: true }),
];
