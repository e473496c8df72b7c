// The last whole generation of a logical unit, by our vendor commands BEGIN WHOLE, COMMIT WHOLE, ROLL BACK, SET LABEL and
// WHOLE STATE.
//
// Guarantees: each may be asked again after a reconnection, and then does nothing twice. A roll back is waited for as long as
// the unit says that it goes on. What the unit answers is checked; anything else is a `protocol_error`.
import { AgentError } from "../base/errors.ts";
import type { Clock } from "../platform/clock.ts";
import { parseUuid } from "../scsi/inquiry-data.ts";
import { vendorFunction } from "../scsi/vendor-commands.ts";
import {
  rollBackList,
  rolledBackAnswer,
  setLabelList,
  wholeCommitList,
  wholeRunList,
  wholeStateAnswer,
} from "../scsi/whole-lists.ts";
import type { ScsiDigests } from "./scsi-digests.ts";
import type { UnitCommands } from "./unit-commands.ts";
import { type UnitAnswer, UnitQuestions } from "./unit-questions.ts";
import type { CommitOptions, RollBackOptions, RolledBack, SetLabel, WholeState } from "./volume.ts";

/** A unit of ours waits by itself for most of a roll back. */
const pollMs = 200;

export class ScsiWhole {
  readonly #name: string;
  readonly #volumeUuid: Buffer;
  readonly #unit: UnitQuestions;
  readonly #clock: Clock;

  constructor(name: string, volumeUuid: string, digests: ScsiDigests, commands: UnitCommands, clock: Clock) {
    this.#clock = clock;
    this.#name = name;
    this.#volumeUuid = parseUuid(volumeUuid);
    this.#unit = new UnitQuestions(name, "its whole generation", digests, commands);
  }

  async begin(run: Buffer, signal?: AbortSignal): Promise<void> {
    const list = [wholeRunList.encode({ volumeUuid: this.#volumeUuid, run })];
    const { done } = await this.#unit.ask(vendorFunction.beginWhole, list, 0, signal);
    if (done) return;
    throw new AgentError(
      "split_brain",
      `Cannot begin a run on ${this.#name}: it was handed out by a failover, and what was written to it since would be lost; ` +
        '"lunsync failback" brings both sides together',
    );
  }

  async commit(run: Buffer, { label }: CommitOptions = {}, signal?: AbortSignal): Promise<void> {
    const list = wholeCommitList.encode({
      volumeUuid: this.#volumeUuid,
      run,
      ...(label && { set: label.set, generation: BigInt(label.generation) }),
    });
    const { done } = await this.#unit.ask(vendorFunction.commitWhole, [list], 0, signal);
    if (done) return;
    throw new AgentError(
      "backup_mismatch",
      `Cannot commit the run ${run.toString("hex")} of ${this.#name}: it is not the one that is open there; somebody else ` +
        "has begun one since, or rolled it back. Run it again",
    );
  }

  async rollBack({ force = false }: RollBackOptions = {}, signal?: AbortSignal): Promise<RolledBack> {
    const doing = `Cannot roll back ${this.#name}`;
    if ((await this.state(signal)).foreign && !force) {
      throw new AgentError(
        "backup_mismatch",
        `${doing}: it was written to past its target since the run began, and old blocks would be put among new ones; ` +
          "nothing was put back. --force puts back what the run has overwritten all the same",
      );
    }
    const list = [rollBackList.encode({ volumeUuid: this.#volumeUuid, force })];
    for (;;) {
      let answer: UnitAnswer;
      try {
        answer = await this.#unit.ask(vendorFunction.rollBack, list, rolledBackAnswer.bytes, signal);
      } catch (error) {
        if (!(error instanceof AgentError) || error.code !== "medium_error") throw error;
        throw new AgentError(
          "backup_damaged",
          `${doing}: a before-image is damaged, or the medium is (the log of its target says which); nothing is lost of the ` +
            `others. --force puts back all but those that are damaged: ${error.message}`,
          { cause: error },
        );
      }
      if (!answer.done) {
        throw new AgentError(
          "backup_mismatch",
          `${doing}: it is smaller than it was when the run began; give it that size again and run it once more`,
        );
      }
      const { underWay, extents, bytes, unreadable, lost } = this.#unit.decoded(() =>
        rolledBackAnswer.decode(answer.data),
      );
      if (underWay) {
        await this.#clock.sleep(pollMs, signal);
        continue;
      }
      return {
        extents: this.#unit.number(extents),
        bytes: this.#unit.number(bytes),
        unreadable: this.#unit.number(unreadable),
        lost: this.#unit.number(lost),
      };
    }
  }

  async label(label: SetLabel | undefined, signal?: AbortSignal): Promise<void> {
    const list = setLabelList.encode({
      volumeUuid: this.#volumeUuid,
      ...(label && {
        set: label.set,
        generation: BigInt(label.generation),
        handedOut: label.handedOut,
      }),
    });
    const { done } = await this.#unit.ask(vendorFunction.setLabel, [list], 0, signal);
    if (done) return;
    throw new AgentError(
      "not_whole",
      `Cannot hand out ${this.#name}: a run is open, and it is a mixture of two generations; roll it back first`,
    );
  }

  async state(signal?: AbortSignal): Promise<WholeState> {
    const answer = await this.#unit.ask(vendorFunction.wholeState, [], wholeStateAnswer.bytes, signal);
    if (!answer.done) throw this.#unit.violation("it can't say how it is");
    const found = this.#unit.decoded(() => wholeStateAnswer.decode(answer.data));
    return {
      state: found.open ? "open" : "whole",
      ...(found.open && { run: Buffer.from(found.run) }),
      ...(found.set.some((byte) => byte !== 0) && {
        label: {
          set: Buffer.from(found.set),
          generation: this.#unit.number(found.generation),
          handedOut: found.handedOut,
        },
      }),
      keptExtents: this.#unit.number(found.keptExtents),
      keptBytes: this.#unit.number(found.keptBytes),
      sinceMs: this.#unit.number(found.sinceMs),
      rollingBack: found.rollingBack,
      foreign: found.foreign,
    };
  }
}
