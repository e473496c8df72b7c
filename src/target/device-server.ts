// The device server: takes a command for a LUN, finds its entry, and gives the result. It knows no transport.
//
// Guarantees: every request gets a result, whatever its bytes are; a pending unit attention is reported before a
// command is carried out (SAM-5, 5.14); nothing reaches a volume whose LUN is not there for the initiator that asks: it
// finds what it would find if there were none.

import { BufferPool } from "../base/buffer-pool.ts";
import { LayoutError } from "../base/layout.ts";
import { MiB } from "../base/units.ts";
import { status } from "../scsi/command.ts";
import { encodeSense, sense } from "../scsi/sense.ts";
import { inquiry, reportLuns, requestSense } from "../scsi/spc-commands.ts";
import { sees } from "./access.ts";
import { atomicCommands } from "./atomic-commands.ts";
import { blockCommands } from "./block-commands.ts";
import { type Command, CommandTable, serviceActionOf } from "./command-table.ts";
import { copyCommands } from "./copy-commands.ts";
import { digestCommands } from "./digest-commands.ts";
import type { Named } from "./extended-copy.ts";
import { extentCommands } from "./extent-commands.ts";
import { logCommands } from "./log-commands.ts";
import type { LogicalUnit } from "./logical-unit.ts";
import { mediumCommands } from "./medium-commands.ts";
import { modeCommands } from "./mode-commands.ts";
import type { Nexus } from "./nexus.ts";
import { inquiryResult, primaryCommands, reportLunsResult } from "./primary-commands.ts";
import { provisioningCommands } from "./provisioning-commands.ts";
import { reservationCommands } from "./reservation-commands.ts";
import { sanitizeCommands } from "./sanitize-commands.ts";
import {
  checkCondition,
  dataInResult,
  invalidCdbField,
  type ScsiRequest,
  type ScsiResult,
} from "./scsi-task.ts";
import type { TargetNames } from "./target-port.ts";
import { targetPortCommands } from "./target-port-commands.ts";
import { verifyCommands } from "./verify-commands.ts";
import { unitDesignators } from "./vpd-pages.ts";

const idleBytesMax = 32 * MiB;
const naca = 0x04;

/** Where CONTROL stands: at the CDB's end, but in byte 1 of a variable-length CDB (SAM-5, 5.2). */
const controlByte = (cdb: Buffer, layoutBytes: number) => (cdb[0] === 0x7f ? cdb[1]! : cdb[layoutBytes - 1]!);

/** The LUN of an eight-byte LUN field, or undefined for one that cannot be here (SAM-5, 4.7). */
export function lunOf(field: bigint): number | undefined {
  if ((field & 0xffff_ffff_ffffn) !== 0n) return undefined;
  const first = Number(field >> 48n);
  switch (first >> 14) {
    case 0: // peripheral device addressing; bus 0 only
      return first < 256 ? first : undefined;
    case 1: // flat space addressing
      return first & 0x3fff;
    default:
      return undefined;
  }
}

export class DeviceServer {
  readonly names: TargetNames;
  /** For data in both directions. */
  readonly buffers = new BufferPool(idleBytesMax);
  readonly #units: Map<number, LogicalUnit>;
  readonly #tables = new Map<LogicalUnit, Record<"all" | "plain", CommandTable>>();
  readonly #commands: readonly Command[];
  readonly #nexuses = new Set<Nexus>();

  constructor(names: TargetNames, units: readonly LogicalUnit[]) {
    this.names = names;
    this.#units = new Map(units.map((unit) => [unit.lun, unit]));
    this.#commands = [
      ...primaryCommands({
        names,
        luns: (nexus) => this.#reportedLuns(nexus),
        table: (unit, nexus) => this.#table(unit, nexus),
      }),
      ...targetPortCommands,
      ...modeCommands,
      ...logCommands,
      ...blockCommands(this.buffers),
      ...verifyCommands(this.buffers),
      ...atomicCommands(this.buffers),
      ...mediumCommands,
      ...sanitizeCommands,
      ...reservationCommands(),
      ...copyCommands({ named: (nexus) => this.#named(nexus) }, this.buffers),
      ...provisioningCommands,
      ...digestCommands,
      ...extentCommands(this.buffers),
    ];
    for (const unit of units) this.#offer(unit);
  }

  #offer(unit: LogicalUnit): void {
    const offered = this.#commands.filter((each) => each.offeredBy(unit));
    const plain = offered.filter((each) => !each.vendor);
    this.#tables.set(unit, { all: new CommandTable(offered), plain: new CommandTable(plain) });
  }

  has(lun: number): boolean {
    return this.#units.has(lun);
  }

  /** A unit that was not there. Initiators that find it are told that there are others now. */
  add(unit: LogicalUnit): void {
    this.#units.set(unit.lun, unit);
    this.#offer(unit);
    this.#inventoryChanged(unit);
    for (const nexus of this.#nexuses) if (sees(nexus.rights, unit.seenWith)) unit.nexusBegan(nexus);
  }

  /** A unit that is not there any more, and does nothing when this resolves but what was read of it before. */
  async remove(unit: LogicalUnit): Promise<void> {
    if (this.#units.get(unit.lun) !== unit) return;
    this.#units.delete(unit.lun);
    this.#inventoryChanged(unit);
    await unit.stop();
    this.#tables.delete(unit);
  }

  #inventoryChanged(by: LogicalUnit): void {
    const told = [...this.#nexuses].filter(({ rights }) => sees(rights, by.seenWith)).map(({ key }) => key);
    for (const unit of this.#units.values()) if (unit !== by) unit.tell(told, "reportedLunsChanged");
  }

  /** What REPORT LUNS answers; who has asked need not be told any more (SPC-4, 6.33). */
  #reportedLuns(nexus: Nexus): number[] {
    for (const unit of this.units(nexus)) unit.dropAttention(nexus, "reportedLunsChanged");
    return this.#luns(nexus);
  }

  /** Ends what goes on without a task. */
  async stop(): Promise<void> {
    await Promise.all([...this.#units.values()].map((unit) => unit.stop()));
  }

  /** The units that are there for an initiator. */
  units({ rights }: Nexus): readonly LogicalUnit[] {
    return [...this.#units.values()].filter((unit) => sees(rights, unit.seenWith));
  }

  /** The unit at a LUN, if it is there for an initiator. */
  unit({ rights }: Nexus, lunField: bigint): LogicalUnit | undefined {
    const lun = lunOf(lunField);
    const unit = lun === undefined ? undefined : this.#units.get(lun);
    return unit && sees(rights, unit.seenWith) ? unit : undefined;
  }

  /** True if an initiator may do what concerns all units. */
  seesAll({ rights }: Nexus): boolean {
    return [...this.#units.values()].every((unit) => sees(rights, unit.seenWith));
  }

  /** The commands that an initiator has: those that it may not use are as if they were not there. */
  #table(unit: LogicalUnit, { rights }: Nexus): CommandTable {
    return this.#tables.get(unit)![rights.digests ? "all" : "plain"];
  }

  nexusBegan(nexus: Nexus): void {
    this.#nexuses.add(nexus);
    for (const unit of this.units(nexus)) unit.nexusBegan(nexus);
  }

  nexusEnded(nexus: Nexus): void {
    this.#nexuses.delete(nexus);
    for (const unit of this.units(nexus)) unit.nexusEnded(nexus);
  }

  /** The Data-Out that the CDB asks for, and the memory that its Data-In will take: bytes. */
  transferOf(nexus: Nexus, lunField: bigint, cdb: Buffer): { dataOut: number; dataIn: number } {
    const unit = this.unit(nexus, lunField);
    const entry = unit && this.#table(unit, nexus).find(cdb);
    if (!unit || !entry || cdb.length < entry.layout.bytes) return { dataOut: 0, dataIn: 0 };
    const { blockBytes } = unit.volume.geometry;
    try {
      return { dataOut: entry.dataOutBytes(cdb, blockBytes), dataIn: entry.dataInBytes(cdb, blockBytes) };
    } catch (error) {
      if (error instanceof LayoutError) return { dataOut: 0, dataIn: 0 };
      throw error;
    }
  }

  /** The result, at once where the command takes no waiting. */
  execute(request: ScsiRequest): ScsiResult | Promise<ScsiResult> {
    const unit = this.unit(request.nexus, request.lun);
    if (!unit) return this.#withoutUnit(request);
    const table = this.#table(unit, request.nexus);
    const entry = table.find(request.cdb);
    if (!entry?.passesAttentions) {
      const attention = unit.takeAttention(request.nexus);
      if (attention) return { status: status.checkCondition, sense: attention };
    }
    const wrong = this.#check(request.cdb, entry, table);
    if (wrong) return wrong;
    if (!request.nexus.rights.writes && entry!.access(request.cdb) === "write") {
      return checkCondition("writeProtected");
    }
    if (unit.reservations.any && this.#conflicts(unit, request, entry!)) {
      return { status: status.reservationConflict };
    }
    if (!entry!.withoutMedium && unit.notReady) return checkCondition(unit.notReady);
    const finished = (result: ScsiResult) =>
      result.sense && unit.modes.descriptorSense ? { ...result, descriptorSense: true } : result;
    const failed = (error: unknown) => {
      if (error instanceof LayoutError) return invalidCdbField(error.byte, error.bit);
      throw error;
    };
    try {
      const result = entry!.run(unit, request);
      return result instanceof Promise ? result.then(finished).catch(failed) : finished(result);
    } catch (error) {
      return failed(error);
    }
  }

  /** The designators of the units that are there for an initiator. */
  #named(nexus: Nexus): Named[] {
    return this.units(nexus).flatMap((unit) => unitDesignators(unit).map((each) => ({ unit, ...each })));
  }

  #luns(nexus: Nexus): number[] {
    return this.units(nexus).map((unit) => unit.lun);
  }

  #conflicts(unit: LogicalUnit, { nexus, cdb }: ScsiRequest, entry: Command): boolean {
    const access = entry.access(cdb);
    if (access === "always" || access === "reserve") return false;
    const { reservedBy } = unit.reservations;
    // SPC-2, 5.5.1: what is reserved by RESERVE conflicts with persistent reservations for everybody.
    if (reservedBy !== undefined) return access === "reservation" || reservedBy !== nexus.key;
    return access !== "reservation" && unit.reservations.conflicts(nexus.key, access);
  }

  #check(cdb: Buffer, entry: Command | undefined, table: CommandTable): ScsiResult | undefined {
    if (!entry) {
      if (!table.hasOperationCode(cdb[0]!)) return checkCondition("invalidOperationCode");
      // The operation code is known, its service action is not.
      const action = serviceActionOf(cdb);
      return cdb[0] === 0x7f
        ? invalidCdbField(action === -1 ? 7 : 8)
        : invalidCdbField(1, cdb[0] === 0xd1 ? 7 : 4);
    }
    // A variable-length CDB has the length that it says, and that its command has.
    const said = cdb[0] === 0x7f ? 8 + cdb[7]! : entry.layout.bytes;
    if (said !== entry.layout.bytes || cdb.length < said || (cdb[0] === 0x7f && cdb.length !== said)) {
      return invalidCdbField(7);
    }
    if ((controlByte(cdb, entry.layout.bytes) & naca) !== 0) {
      return invalidCdbField(cdb[0] === 0x7f ? 1 : entry.layout.bytes - 1, 2);
    }
    return undefined;
  }

  #withoutUnit({ cdb, nexus }: ScsiRequest): ScsiResult {
    switch (cdb[0]) {
      case 0x12:
        return inquiryResult(undefined, this.names, nexus, inquiry.decode(cdb));
      case 0xa0:
        return reportLunsResult(this.#reportedLuns(nexus), reportLuns.decode(cdb));
      case 0x03: {
        const { desc, allocationLength } = requestSense.decode(cdb);
        return dataInResult(encodeSense(sense("logicalUnitNotSupported"), desc), allocationLength);
      }
      default:
        return checkCondition("logicalUnitNotSupported");
    }
  }
}
