// The restore points of a logical unit, by our vendor functions LIST POINTS, EXPOSE POINT and WITHDRAW POINT.
//
// Guarantees: each may be asked again after a reconnection, and then does nothing twice. What the unit answers is checked;
// anything else is a `protocol_error`.
import { isBlank } from "../base/bytes.ts";
import { AgentError } from "../base/errors.ts";
import { formatUuid, parseUuid } from "../scsi/inquiry-data.ts";
import { exposedAnswer, exposeList, pointEntry, pointsHeader, withdrawList } from "../scsi/point-lists.ts";
import { vendorFunction } from "../scsi/vendor-commands.ts";
import type { RestorePoint } from "./points.ts";
import type { ScsiDigests } from "./scsi-digests.ts";
import type { UnitCommands } from "./unit-commands.ts";
import { UnitQuestions } from "./unit-questions.ts";

export interface UnitPoint extends RestorePoint {
  /** Where the target shows it; undefined: nowhere. */
  readonly lun: number | undefined;
}

const listBytesMax = 256 * 1024;

export class ScsiPoints {
  readonly #name: string;
  readonly #volumeUuid: Buffer;
  readonly #unit: UnitQuestions;

  constructor(name: string, volumeUuid: string, digests: ScsiDigests, commands: UnitCommands) {
    this.#name = name;
    this.#volumeUuid = parseUuid(volumeUuid);
    this.#unit = new UnitQuestions(name, "its restore points", digests, commands);
  }

  /** The oldest first. */
  async list(signal?: AbortSignal): Promise<UnitPoint[]> {
    const answer = await this.#unit.ask(vendorFunction.listPoints, [], listBytesMax, signal);
    if (!answer.done) throw this.#unit.violation("it can't list them");
    const { data } = answer;
    const { numberOfPoints } = this.#unit.decoded(() => pointsHeader.decode(data));
    if (data.length < pointsHeader.bytes + numberOfPoints * pointEntry.bytes)
      throw this.#unit.violation(`${numberOfPoints} of them in ${data.length} bytes`);
    return Array.from({ length: numberOfPoints }, (_, i) =>
      this.#pointOf(data.subarray(pointsHeader.bytes + i * pointEntry.bytes)),
    );
  }

  #pointOf(bytes: Buffer): UnitPoint {
    const found = this.#unit.decoded(() => pointEntry.decode(bytes));
    const number = (value: bigint) => this.#unit.number(value);
    return {
      id: Buffer.from(found.point),
      number: number(found.number),
      madeMs: number(found.madeMs),
      ...(!isBlank(found.run) && { run: Buffer.from(found.run) }),
      ...(!isBlank(found.set) && {
        label: { set: Buffer.from(found.set), generation: number(found.generation) },
      }),
      volumeBytes: number(found.volumeBytes),
      keptExtents: number(found.keptExtents),
      keptBytes: number(found.keptBytes),
      last: found.last,
      doubtful: found.doubtful,
      lun: found.exposed ? found.lun : undefined,
    };
  }

  /** Shows a point as a LUN, which it returns; without an id the last whole generation. @throws AgentError `volume_missing` */
  async expose(
    point: Buffer | undefined,
    force: boolean,
    signal?: AbortSignal,
  ): Promise<{ readonly lun: number; readonly id: Buffer }> {
    const list = exposeList.encode({ volumeUuid: this.#volumeUuid, ...(point && { point }), force });
    const answer = await this.#unit.ask(vendorFunction.exposePoint, [list], exposedAnswer.bytes, signal);
    if (!answer.done) {
      const which = point ? `restore point ${formatUuid(point)}` : "last whole generation";
      throw new AgentError(
        "volume_missing",
        `Cannot show the ${which} of ${this.#name}: its target does not keep it any more, or it was written to past the ` +
          'target; "lunsync points list" says what there is, and --force shows what can\'t be relied on',
      );
    }
    const found = this.#unit.decoded(() => exposedAnswer.decode(answer.data));
    return { lun: found.lun, id: Buffer.from(found.point) };
  }

  /** Nothing happens where it is not shown. */
  async withdraw(point: Buffer, signal?: AbortSignal): Promise<void> {
    const list = withdrawList.encode({ volumeUuid: this.#volumeUuid, point });
    const answer = await this.#unit.ask(vendorFunction.withdrawPoint, [list], 0, signal);
    if (!answer.done) throw this.#unit.violation("it can't withdraw one");
  }
}
