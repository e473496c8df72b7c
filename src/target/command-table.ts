// The commands of a device server as a table: one entry a command, keyed by operation code and service action.
//
// An entry's layout gives the decoding, the usage data of REPORT SUPPORTED OPERATION CODES and the length of the CDB,
// so that what is implemented and what is reported cannot drift apart.
import type { Field, Layout, ValuesOf } from "../base/layout.ts";
import type { LogicalUnit } from "./logical-unit.ts";
import type { ReservationClass } from "./reservations.ts";
import { invalidCdbField, type ScsiRequest, type ScsiResult } from "./scsi-task.ts";

type Fields = Record<string, Field<unknown>>;

export interface Call<V> {
  readonly unit: LogicalUnit;
  readonly request: ScsiRequest;
  readonly fields: V;
}

/**
 * What becomes of a command while the unit is reserved (SPC-4, 5.13.3; SBC-3, 4.17.3; SPC-2, 5.5.1):
 * "always" is carried out whoever holds it; "free" also against persistent reservations; "read" and "write" go by the
 * reservation's type; "reservation" and "reserve" are the commands that manage the two kinds.
 */
export type Access = "always" | ReservationClass | "reservation" | "reserve";

interface Options<V> {
  /** Bytes of Data-Out that the CDB asks for; none if absent. */
  readonly dataOutBytes?: (fields: V, blockBytes: number) => number;
  /** Bytes of Data-In that need a buffer of that size; what is small and built on the fly is not counted. */
  readonly dataInBytes?: (fields: V, blockBytes: number) => number;
  /** Reserved bits must be zero: for commands that no initiator of old times sends. */
  readonly strict?: boolean;
  /** Answered though a unit attention is pending, which stays pending (SPC-4, 5.14). */
  readonly passesAttentions?: boolean;
  /** Carried out also while the unit has no medium that can be used. */
  readonly withoutMedium?: boolean;
  /** One of the vendor commands: only for initiators with the right to digests. */
  readonly vendor?: boolean;
  /** Units that have the command; all of them if absent. */
  readonly offered?: (unit: LogicalUnit) => boolean;
}

export interface Command {
  readonly layout: Layout<Fields>;
  readonly operationCode: number;
  readonly serviceAction: number | undefined;
  readonly passesAttentions: boolean;
  readonly withoutMedium: boolean;
  readonly vendor: boolean;
  access(cdb: Buffer): Access;
  offeredBy(unit: LogicalUnit): boolean;
  dataOutBytes(cdb: Buffer, blockBytes: number): number;
  dataInBytes(cdb: Buffer, blockBytes: number): number;
  run(unit: LogicalUnit, request: ScsiRequest): ScsiResult | Promise<ScsiResult>;
}

/** One entry of the table. */
export function command<F extends Fields>(
  layout: Layout<F>,
  access: Access | ((fields: ValuesOf<F>) => Access),
  run: (call: Call<ValuesOf<F>>) => ScsiResult | Promise<ScsiResult>,
  options: Options<ValuesOf<F>> = {},
): Command {
  const operation = layout.fields.operationCode?.constant as number;
  const action = layout.fields.serviceAction?.constant as number | undefined;
  return {
    layout: layout as unknown as Layout<Fields>,
    operationCode: operation,
    serviceAction: action,
    passesAttentions: options.passesAttentions ?? false,
    withoutMedium: options.withoutMedium ?? false,
    vendor: options.vendor ?? false,
    access: typeof access === "function" ? (cdb) => access(layout.decode(cdb)) : () => access,
    offeredBy: (unit) => options.offered?.(unit) ?? true,
    dataOutBytes: (cdb, blockBytes) => options.dataOutBytes?.(layout.decode(cdb), blockBytes) ?? 0,
    dataInBytes: (cdb, blockBytes) => options.dataInBytes?.(layout.decode(cdb), blockBytes) ?? 0,
    run(unit, request) {
      if (options.strict) {
        const reserved = layout.reservedBitSet(request.cdb);
        if (reserved) return invalidCdbField(reserved.byte, reserved.bit);
      }
      return run({ unit, request, fields: layout.decode(request.cdb) });
    },
  };
}

/** Where the service action of an operation code stands; undefined for those that have none. */
export function serviceActionOf(cdb: Buffer): number | undefined {
  switch (cdb[0]) {
    case 0x7f:
      return cdb.length >= 10 ? cdb.readUInt16BE(8) : -1;
    case 0x48:
    case 0x5e:
    case 0x5f:
    case 0x83:
    case 0x84:
    case 0x9e:
    case 0x9f:
    case 0xa3:
    case 0xa4:
      return cdb[1]! & 0x1f;
    case 0xd1:
      return cdb[1];
    default:
      return undefined;
  }
}

/** What one unit has of a target's commands. */
export class CommandTable {
  readonly commands: readonly Command[];
  readonly #byKey: ReadonlyMap<number, Command>;
  readonly #operationCodes: ReadonlySet<number>;

  constructor(commands: readonly Command[]) {
    this.commands = commands;
    const key = CommandTable.#key;
    this.#byKey = new Map(commands.map((each) => [key(each.operationCode, each.serviceAction), each]));
    this.#operationCodes = new Set(commands.map((each) => each.operationCode));
  }

  static #key(operationCode: number, serviceAction: number | undefined): number {
    return serviceAction === undefined ? operationCode : 0x10000 * (operationCode + 1) + serviceAction;
  }

  get(operationCode: number, serviceAction: number | undefined): Command | undefined {
    return this.#byKey.get(CommandTable.#key(operationCode, serviceAction));
  }

  hasOperationCode(operationCode: number): boolean {
    return this.#operationCodes.has(operationCode);
  }

  find(cdb: Buffer): Command | undefined {
    return this.get(cdb[0]!, serviceActionOf(cdb));
  }
}
