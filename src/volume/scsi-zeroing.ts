// Blocks of a logical unit that are made zeros and unmapped, where the unit can.
//
// Guarantees: what it says it has done reads as zeros. UNMAP alone is only a hint; WRITE SAME of zeros with the UNMAP bit gives
// zeros in every case (SBC-3, 5.44). A unit that turns out not to have it is not asked again.
import { AgentError } from "../base/errors.ts";
import { writeSame16 } from "../scsi/sbc-commands.ts";
import type { UnitCommands } from "./unit-commands.ts";
import type { UnitFacts } from "./unit-facts.ts";

/** At most, in one command, of a unit that does not say. */
const blocksMax = 65536;

export class ScsiZeroing {
  readonly #commands: UnitCommands;
  #works = true;

  constructor(commands: UnitCommands) {
    this.#commands = commands;
  }

  /** How many of these blocks are zeros now, from the first on; the others are to be written. @throws AgentError */
  async unmapped(facts: UnitFacts, lba: number, blocks: number, signal?: AbortSignal): Promise<number> {
    const stepMax = facts.writeSameBlocksMax > 0 ? facts.writeSameBlocksMax : blocksMax;
    let done = 0;
    while (done < blocks && this.#works && facts.unmapByWriteSame) {
      const count = Math.min(stepMax, blocks - done);
      const cdb = writeSame16.encode({
        unmap: true,
        logicalBlockAddress: BigInt(lba + done),
        numberOfLogicalBlocks: count,
      });
      try {
        await this.#commands.execute({ cdb, dataOut: [Buffer.alloc(facts.blockBytes)] }, signal);
        done += count;
      } catch (error) {
        if (!(error instanceof AgentError) || error.code !== "command_failed") throw error;
        this.#works = false;
      }
    }
    return done;
  }
}
