// A logical unit as an initiator's volume has it, with nothing in between: for what ScsiVolume sends and believes.
import type { ScsiCommand, ScsiDevice, ScsiOutcome } from "../../src/scsi/command.ts";
import { nexusOf, UnitUnderTest } from "./unit.ts";

export class UnitDevice implements ScsiDevice {
  readonly name = "unit";
  readonly cdbBytesMax: number;
  readonly queueDepth = 4;
  readonly transferBytesPreferred: number;
  readonly traffic = { sent: 0, received: 0 };
  readonly target: UnitUnderTest;
  readonly commands: ScsiCommand[] = [];
  /** May change a command on its way, or an outcome on its way back. */
  before: (command: ScsiCommand) => ScsiCommand = (command) => command;
  after: (outcome: ScsiOutcome, command: ScsiCommand) => ScsiOutcome = (outcome) => outcome;
  /** What the volume does after a reconnection. */
  recognize: (execute: (command: ScsiCommand) => Promise<ScsiOutcome>) => Promise<void> = async () => {};
  readonly #nexus = nexusOf(1);

  constructor(target = new UnitUnderTest(), { cdbBytesMax = 32, transferBytesPreferred = 1024 * 1024 } = {}) {
    this.target = target;
    this.cdbBytesMax = cdbBytesMax;
    this.transferBytesPreferred = transferBytesPreferred;
    target.server.nexusBegan(this.#nexus);
  }

  /** Commands of an operation code and service action, as D1h and 7Fh have it. */
  sent(cdb: Buffer): ScsiCommand[] {
    const from = cdb[0] === 0x7f ? 8 : 1;
    const to = cdb[0] === 0x7f ? 10 : 2;
    const same = (other: Buffer) => other[0] === cdb[0] && other.compare(cdb, from, to, from, to) === 0;
    return this.commands.filter((command) => same(command.cdb));
  }

  onReconnect(check: typeof this.recognize): void {
    this.recognize = check;
  }

  async [Symbol.asyncDispose](): Promise<void> {}

  async execute(asked: ScsiCommand): Promise<ScsiOutcome> {
    this.commands.push(asked);
    const command = this.before(asked);
    const result = await this.target.execute(this.#nexus, command.cdb, [...(command.dataOut ?? [])]);
    const most = command.dataInBytes ?? command.dataIn?.length ?? 0;
    const arrived = Buffer.concat(result.dataIn ?? []).subarray(0, most);
    result.release?.();
    const into = command.dataIn?.subarray(0, arrived.length);
    if (into) arrived.copy(into);
    return this.after({ status: result.status, sense: result.sense, dataIn: into ?? arrived }, command);
  }
}
