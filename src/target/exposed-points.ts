// Restore points of a unit as logical units of their own, while the unit goes on.
//
// Guarantees: a point that is shown is write-protected, has a UUID of its own, and is kept until it is withdrawn, also over a restart:
// it is written down before its LUN is there. Whoever finds the unit finds its points, and nobody else. Showing and
// withdrawing again changes nothing.
import { Semaphore } from "../base/async.ts";
import { AgentError, messageOf } from "../base/errors.ts";
import type { Clock } from "../platform/clock.ts";
import { formatUuid } from "../scsi/inquiry-data.ts";
import type { PointSource, RestorePoint, ShownPoint } from "../volume/points.ts";
import type { DeviceServer } from "./device-server.ts";
import type { ExposedStore } from "./exposed-store.ts";
import { LogicalUnit } from "./logical-unit.ts";

/** Behind those that an administrator numbers; up to what peripheral addressing reaches. */
const lunMin = 100;
const lunMax = 255;

export interface ExposedOptions {
  readonly unit: LogicalUnit;
  readonly source: PointSource;
  readonly server: Pick<DeviceServer, "add" | "remove" | "has">;
  readonly store: ExposedStore;
  readonly clock: Clock;
  readonly log: (level: "info" | "warning" | "error", message: string) => void;
}

export interface ListedPoint extends RestorePoint {
  /** Where it is shown. */
  readonly lun: number | undefined;
}

interface Exposed extends ShownPoint {
  readonly unit: LogicalUnit;
}

export class ExposedPoints implements AsyncDisposable {
  readonly #options: ExposedOptions;
  /** One at a time shows or withdraws. */
  readonly #turn = new Semaphore(1);
  #exposed: Exposed[] = [];

  constructor(options: ExposedOptions) {
    this.#options = options;
  }

  /** Shows again what was shown before a restart; what can't be shown is logged. @throws AgentError `state_damaged` */
  async restore(): Promise<void> {
    const { server, store, source, log, unit } = this.#options;
    for (const { id, lun } of await store.load()) {
      try {
        if (server.has(lun)) throw new AgentError("usage", `LUN ${lun} is another volume now`);
        const shown = await source.open(id);
        this.#add(shown, lun);
        log("info", `the ${shown.volume.name} is LUN ${lun}`);
      } catch (error) {
        const what = `the restore point ${formatUuid(id)} of "${unit.volume.name}"`;
        log("warning", `${what} is not LUN ${lun} any more: ${messageOf(error)}`);
      }
    }
  }

  async list(): Promise<ListedPoint[]> {
    const points = await this.#options.source.list();
    return points.map((point) => ({ ...point, lun: this.#find(point.id)?.unit.lun }));
  }

  /** Shows a point, or without an id the last whole generation. @throws AgentError what the source and the store give */
  async expose(
    id: Buffer | undefined,
    force: boolean,
  ): Promise<{ readonly lun: number; readonly id: Buffer }> {
    return this.#alone(async () => {
      const { source, log } = this.#options;
      const shown = await source.open(id, { force });
      try {
        const { point } = shown;
        const already = this.#find(point.id);
        if (already) {
          await shown.volume[Symbol.asyncDispose]();
          return { lun: already.unit.lun, id: point.id };
        }
        const lun = this.#freeLun();
        await this.#save([...this.#exposed, { lun, id: point.id }]);
        this.#add(shown, lun);
        log("info", `the ${shown.volume.name} is LUN ${lun}`);
        return { lun, id: point.id };
      } catch (error) {
        await shown.volume[Symbol.asyncDispose]();
        throw error;
      }
    });
  }

  /** What reads it meanwhile finds no unit any more. @throws AgentError what the store gives */
  async withdraw(id: Buffer): Promise<void> {
    await this.#alone(async () => {
      const { server, log } = this.#options;
      const exposed = this.#find(id);
      if (!exposed) return;
      const rest = this.#exposed.filter((each) => each !== exposed);
      await this.#save(rest);
      this.#exposed = rest;
      await server.remove(exposed.unit);
      await exposed.volume[Symbol.asyncDispose]();
      log("info", `the ${exposed.volume.name} is no LUN any more`);
    });
  }

  #find(id: Buffer): Exposed | undefined {
    return this.#exposed.find(({ point }) => point.id.equals(id));
  }

  #freeLun(): number {
    for (let lun = lunMin; lun <= lunMax; lun++) if (!this.#options.server.has(lun)) return lun;
    throw new AgentError(
      "no_space",
      `Cannot show a restore point: LUNs ${lunMin} to ${lunMax} are all in use; withdraw one`,
    );
  }

  #save(points: readonly (Exposed | { readonly lun: number; readonly id: Buffer })[]): Promise<void> {
    return this.#options.store.save(
      points.map((each) => ("unit" in each ? { lun: each.unit.lun, id: each.point.id } : each)),
    );
  }

  #add(shown: ShownPoint, lun: number): void {
    const { unit: replica, server, clock } = this.#options;
    const uuid = formatUuid(shown.point.id);
    const unit = new LogicalUnit(lun, shown.volume, { readonly: true, uuid, clock, seenWith: replica.lun });
    this.#exposed.push({ ...shown, unit });
    server.add(unit);
  }

  async #alone<T>(action: () => Promise<T>): Promise<T> {
    const leave = await this.#turn.acquire();
    try {
      return await action();
    } finally {
      leave();
    }
  }

  /** They stay written down. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const { volume } of this.#exposed) await volume[Symbol.asyncDispose]();
  }
}
