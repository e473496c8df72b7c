// A logical unit that is given more blocks, by our vendor command GROW.
//
// Guarantees: what answers afterwards is the unit that was there before, and it has the size that was asked for; what its
// target said of itself before counts no more, since the catalogue of a unit grows with it.
import { AgentError } from "../base/errors.ts";
import type { ScsiDigests } from "./scsi-digests.ts";
import type { UnitCommands } from "./unit-commands.ts";
import { readUnitFacts, type UnitFacts } from "./unit-facts.ts";
import { checkSameUnit } from "./unit-traits.ts";

export interface GrowingUnit {
  readonly name: string;
  readonly facts: UnitFacts;
  readonly commands: UnitCommands;
  /** Undefined if the unit's target is none of ours. */
  readonly digests: ScsiDigests | undefined;
}

/** GROW and its RECEIVE. A result that is held is gone after a reconnection; a unit that has grown already says so. */
async function ask(
  { commands }: GrowingUnit,
  digests: ScsiDigests,
  blocks: number,
  signal?: AbortSignal,
): Promise<boolean> {
  for (;;) {
    const { epoch } = commands;
    try {
      return await digests.grow(blocks, signal);
    } catch (error) {
      const lost = error instanceof AgentError && error.code === "command_failed" && epoch !== commands.epoch;
      if (!lost) throw error;
    }
  }
}

/** What the unit is when it has grown. @throws AgentError */
export async function growUnit(unit: GrowingUnit, blocks: number, signal?: AbortSignal): Promise<UnitFacts> {
  const { name, facts, commands, digests } = unit;
  const [from, to] = [facts.blocks * facts.blockBytes, blocks * facts.blockBytes];
  const doing = `Cannot grow ${name} from ${from} to ${to} bytes`;
  if (!digests) {
    throw new AgentError(
      "size_mismatch",
      `${doing}: its target does not speak lunsync's vendor commands; extend the logical unit there, and run it again`,
    );
  }
  if (!facts.vendorPage?.grow) {
    throw new AgentError(
      "size_mismatch",
      `${doing}: its target does not offer the function GROW, which older ones do not have; extend the volume there, and run it again`,
    );
  }
  let now: UnitFacts;
  try {
    if (!(await ask(unit, digests, blocks, signal))) {
      throw new AgentError(
        "size_mismatch",
        "the device behind it has the size that was given to it; extend it there with lvextend, or with what it was made by, and run it again",
      );
    }
    now = await readUnitFacts((command) => commands.once(command, signal), name);
  } catch (error) {
    if (!(error instanceof AgentError) || error.code === "interrupted") throw error;
    const { code, retry } = error;
    throw new AgentError(code, `${doing}: ${error.message}`, { retry, cause: error });
  }
  checkSameUnit(name, facts, now, blocks);
  if (now.blocks < blocks)
    throw new AgentError("protocol_error", `${doing}: its target says that it has grown, and it has not`);
  return now;
}
