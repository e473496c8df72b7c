// Which blocks of a logical unit are mapped, by GET LBA STATUS.
//
// Guarantees: a run is passed over only if the unit calls it deallocated; an answer for another place, or for no block,
// is a `protocol_error`. The run that was found to be mapped last is remembered: somebody else may have unmapped it
// since, which costs nothing but a comparison.
//
// Source: SBC-3, 5.6 (GET LBA STATUS).
import { AgentError } from "../base/errors.ts";
import { getLbaStatus, lbaStatusDescriptor } from "../scsi/sbc-commands.ts";
import type { Execute } from "./scsi-digests.ts";

/** Blocks of a unit, one after another. */
interface Run {
  readonly lba: number;
  readonly blocks: number;
}

export class ScsiMapping {
  readonly #name: string;
  readonly #execute: Execute;
  #mapped: Run = { lba: 0, blocks: 0 };

  constructor(name: string, execute: Execute) {
    this.#name = name;
    this.#execute = execute;
  }

  /** The first mapped run at or behind `lba` within `blocks`; undefined if there is none. @throws AgentError */
  async next(lba: number, blocks: number, signal?: AbortSignal): Promise<Run | undefined> {
    const end = lba + blocks;
    let at = lba;
    while (at < end) {
      const known = this.#mapped;
      if (at < known.lba || at >= known.lba + known.blocks) {
        const next = await this.#status(at, signal);
        if (next.deallocated) {
          at = next.lba + next.blocks;
          continue;
        }
        this.#mapped = next;
      }
      return { lba: at, blocks: Math.min(end, this.#mapped.lba + this.#mapped.blocks) - at };
    }
    return undefined;
  }

  /** These blocks may be unmapped soon; what is behind them is known still. */
  forget(lba: number, blocks: number): void {
    const end = this.#mapped.lba + this.#mapped.blocks;
    const from = Math.max(this.#mapped.lba, lba + blocks);
    this.#mapped = { lba: from, blocks: Math.max(0, end - from) };
  }

  /** What the unit says of the run of blocks that begins at `lba`. */
  async #status(lba: number, signal?: AbortSignal): Promise<Run & { readonly deallocated: boolean }> {
    const bytes = 8 + lbaStatusDescriptor.bytes;
    const cdb = getLbaStatus.encode({ startingLogicalBlockAddress: BigInt(lba), allocationLength: bytes });
    const { dataIn } = await this.#execute({ cdb, dataInBytes: bytes }, signal);
    if (dataIn.length === bytes) {
      const {
        logicalBlockAddress,
        numberOfLogicalBlocks: blocks,
        provisioningStatus,
      } = lbaStatusDescriptor.decode(dataIn, 8);
      if (logicalBlockAddress === BigInt(lba) && blocks > 0)
        return { lba, blocks, deallocated: provisioningStatus === 1 };
    }
    throw new AgentError("protocol_error", `${this.#name} answered GET LBA STATUS for LBA ${lba} wrongly`);
  }
}
