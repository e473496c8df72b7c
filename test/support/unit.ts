// A device server over one volume in memory, and commands to it without a transport.
import { lengthOf } from "../../src/base/bytes.ts";
import { systemClock } from "../../src/platform/clock.ts";
import type { Condition } from "../../src/scsi/sense.ts";
import { condition } from "../../src/scsi/sense.ts";
import { allRights } from "../../src/target/access.ts";
import { DeviceServer } from "../../src/target/device-server.ts";
import { LogicalUnit } from "../../src/target/logical-unit.ts";
import { type Nexus, nexusKey } from "../../src/target/nexus.ts";
import type { ScsiResult } from "../../src/target/scsi-task.ts";
import type { Volume } from "../../src/volume/volume.ts";
import { MemoryVolume } from "./memory-volume.ts";

export const nexusOf = (port: number): Nexus => {
  const initiatorName = `iqn.2026-11.com.example:host-${port}`;
  return {
    key: nexusKey(initiatorName, Buffer.from([0x80, 0, 0, 0, 0, port])),
    initiatorName,
    rights: allRights,
    from: "here",
  };
};

export class UnitUnderTest {
  readonly volume: MemoryVolume;
  readonly unit: LogicalUnit;
  readonly server: DeviceServer;
  readonly blockBytes: number;

  constructor(
    blocks = 256,
    options: Partial<ConstructorParameters<typeof LogicalUnit>[2]> & {
      blockBytes?: number;
      over?: Volume;
    } = {},
  ) {
    const { blockBytes = 512, over, ...more } = options;
    this.blockBytes = blockBytes;
    this.volume = new MemoryVolume("memory", Buffer.alloc(blocks * blockBytes), blockBytes);
    const uuid = "12345678-9abc-4def-8123-456789abcdef";
    this.unit = new LogicalUnit(0, over ?? this.volume, {
      readonly: false,
      uuid,
      clock: systemClock,
      ...more,
    });
    const names = { targetName: "iqn.2026-11.com.example:disks", portalGroupTag: 1, revision: "0.1" };
    this.server = new DeviceServer(names, [this.unit]);
  }

  /** A nexus that has been told of its power on. */
  nexus(port: number): Nexus {
    const nexus = nexusOf(port);
    this.server.nexusBegan(nexus);
    this.unit.takeAttention(nexus);
    return nexus;
  }

  async execute(
    nexus: Nexus,
    cdb: Buffer,
    dataOut: readonly Buffer[] = [],
    signal = new AbortController().signal,
  ): Promise<ScsiResult> {
    const whole = Buffer.alloc(Math.max(16, cdb.length));
    cdb.copy(whole);
    const dataOutBytesAnnounced = lengthOf(dataOut);
    return this.server.execute({
      nexus,
      lun: 0n,
      cdb: whole,
      dataOut,
      dataOutBytesAnnounced,
      dataInBytesMax: 1 << 20,
      signal,
    });
  }
}

/** The name of the condition that a result reports; its status where there is none. */
export function reported({ sense, status }: ScsiResult): Condition | number {
  if (!sense) return status;
  const found = Object.entries(condition).find(
    ([, [key, asc, ascq]]) => sense.key === key && sense.asc === asc && sense.ascq === ascq,
  );
  return (found?.[0] ?? -1) as Condition;
}

export const dataOf = (result: ScsiResult): Buffer => Buffer.concat(result.dataIn ?? []);
