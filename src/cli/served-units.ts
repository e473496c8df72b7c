// The volumes that `lunsync serve` offers, each as a logical unit with all that is kept for it.
//
// Guarantees: what an earlier run left unfinished (WRITE ATOMIC, a catalogue) is dealt with before anybody can use the
// unit; after disposal nothing of them is open, and their catalogues are closed in order.
import { join } from "node:path";
import { AgentError, messageOf } from "../base/errors.ts";
import { CatalogueKeeper } from "../catalogue/keeper.ts";
import { defaultDigest, parseDigestSpec } from "../digest/spec.ts";
import { systemClock } from "../platform/clock.ts";
import { lastChangeMs, mountedAt } from "../platform/local-volumes.ts";
import { Loop } from "../platform/loop.ts";
import { systemRandom } from "../platform/random.ts";
import { parseUuid } from "../scsi/inquiry-data.ts";
import { AtomicJournal } from "../target/atomic-journal.ts";
import type { DeviceServer } from "../target/device-server.ts";
import { ExposedPoints } from "../target/exposed-points.ts";
import { ExposedStore } from "../target/exposed-store.ts";
import { LogicalUnit } from "../target/logical-unit.ts";
import { ReservationStore } from "../target/reservation-store.ts";
import { UnitReservations } from "../target/unit-reservations.ts";
import type { Volume } from "../volume/volume.ts";
import { type KeepPolicy, parseKeep } from "../whole/keep-policy.ts";
import { openWhole, type WholeKeeper } from "../whole/keeper.ts";
import { WholePoints } from "../whole/points.ts";
import { logLine } from "./log.ts";
import { extentBytesDefault } from "./options.ts";
import { isScsiAddress, openVolume } from "./volumes.ts";

const sizeWatchMs = 2_000;

interface LunOptions {
  readonly path: string;
  readonly readonly: boolean;
  readonly removable: boolean;
  readonly catalogue: boolean;
  readonly whole: boolean;
  /** Which restore points are kept; what `--keep` says if undefined. */
  readonly keep: KeepPolicy | undefined;
}

export function parseLun(text: string): LunOptions {
  if (isScsiAddress(text)) {
    throw new AgentError("usage", `Cannot serve "${text}": a LUN is a file or a block device of this host`);
  }
  const [, path, options] = /^(.*?)((?:,(?:ro|rw|removable|catalogue|whole|keep=[^,]*))*)$/s.exec(text)!;
  const given = options!.split(",");
  const keep = given.findLast((each) => each.startsWith("keep="));
  if (keep && !given.includes("whole"))
    throw new AgentError("usage", `Cannot keep restore points of "${path}": ",${keep}" needs ",whole"`);
  return {
    path: path!,
    readonly: given.includes("ro"),
    removable: given.includes("removable"),
    catalogue: given.includes("catalogue"),
    whole: given.includes("whole"),
    keep: keep === undefined ? undefined : parseKeep(keep.slice("keep=".length)),
  };
}

/** The journal of WRITE ATOMIC, after what an earlier run left unfinished is undone. */
async function recoveredJournal(stateFolder: string, volume: Volume, uuid: string): Promise<AtomicJournal> {
  const path = join(stateFolder, "atomic", `${uuid}.journal`);
  const journal = new AtomicJournal(path, parseUuid(uuid), volume.geometry.blockBytes);
  const found = await journal.recover(volume);
  if (found === "restored") logLine("warning", `an interrupted WRITE ATOMIC of "${volume.name}" was undone`);
  if (found === "foreign") {
    logLine(
      "warning",
      `"${path}" has an interrupted WRITE ATOMIC of "${volume.name}", which was written to since`,
    );
  }
  return journal;
}

interface Kept {
  readonly unit: LogicalUnit;
  readonly keeper: WholeKeeper;
}

interface Surroundings {
  readonly stateFolder: string;
  /** Logical blocks of files; the default if undefined. */
  readonly blockSize: number | undefined;
  /** Which restore points are kept of what keeps its last whole generation, and what they may take. */
  readonly keep: KeepPolicy | undefined;
  readonly keepBytes: number | undefined;
  /** Of what has a catalogue; none if undefined. */
  readonly scrub: { readonly everyMs: number; readonly bytesPerSecond: number } | undefined;
}

export class ServedUnits implements AsyncDisposable {
  readonly units: LogicalUnit[] = [];
  /** In the order in which they are to be closed. */
  readonly #keepers: AsyncDisposable[] = [];
  readonly #kept: Kept[] = [];
  readonly #exposed: ExposedPoints[] = [];

  /** Opens what `--lun` names, in this order. @throws AgentError what openVolume() throws, `state_damaged`, … */
  static async open(luns: readonly string[], around: Surroundings): Promise<ServedUnits> {
    const served = new ServedUnits();
    try {
      for (const text of luns) await served.#add(parseLun(text), around);
      return served;
    } catch (error) {
      await served[Symbol.asyncDispose]();
      throw error;
    }
  }

  async #add(options: LunOptions, around: Surroundings): Promise<void> {
    const { path, readonly, removable } = options;
    const { stateFolder, blockSize } = around;
    if ((options.catalogue || options.whole) && readonly) {
      const what = options.catalogue ? "a catalogue" : "the last whole generation";
      throw new AgentError(
        "usage",
        `Cannot keep ${what} of "${path}": it is served read-only, so that others may write to it unseen`,
      );
    }
    let volume = await openVolume(path, { writable: !readonly, blockBytes: blockSize });
    let keeper: CatalogueKeeper | undefined;
    let whole: WholeKeeper | undefined;
    try {
      const mounted = readonly ? await mountedAt(path) : undefined;
      if (mounted) logLine("warning", `${path} is ${mounted}: what is read of it may change meanwhile`);
      const uuid = volume.identity.uuid!;
      const store = new ReservationStore(join(stateFolder, "reservations", uuid), uuid);
      const reservations = new UnitReservations(store, await store.load());
      if (options.whole) {
        whole = await openWhole(volume, {
          folder: stateFolder,
          clock: systemClock,
          random: systemRandom,
          log: logLine,
          changedMs: () => lastChangeMs(path),
          keep: options.keep ?? around.keep,
          keepBytes: around.keepBytes,
        });
        volume = whole.volume;
      }
      // Above it: a roll back is a write that a catalogue has to know of.
      if (options.catalogue) {
        keeper = await this.#keeper(volume, around);
        volume = keeper.volume;
      }
      const journal = readonly ? undefined : await recoveredJournal(stateFolder, volume, uuid);
      const clock = systemClock;
      const lun = this.units.length;
      const about = { readonly, removable, reservations, journal, uuid, clock };
      const unit = new LogicalUnit(lun, volume, about);
      this.units.push(unit);
      if (whole) this.#kept.push({ unit, keeper: whole });
      for (const each of [keeper, whole]) if (each) this.#keepers.push(each);
      keeper?.start();
    } catch (error) {
      await keeper?.[Symbol.asyncDispose]();
      await whole?.[Symbol.asyncDispose]();
      await volume[Symbol.asyncDispose]();
      throw error;
    }
  }

  #keeper(volume: Volume, { stateFolder, scrub }: Surroundings): Promise<CatalogueKeeper> {
    return CatalogueKeeper.open(volume, {
      folder: stateFolder,
      digest: parseDigestSpec(defaultDigest),
      extentBytes: extentBytesDefault,
      clock: systemClock,
      random: systemRandom,
      log: logLine,
      changedMs: () => lastChangeMs(volume.name),
      fill: true,
      scrub,
    });
  }

  /** Shows restore points as LUNs of `server`; those that are shown already come first. @throws AgentError `state_damaged` */
  async offerPoints(server: DeviceServer, stateFolder: string): Promise<void> {
    for (const { unit, keeper } of this.#kept) {
      const store = new ExposedStore(join(stateFolder, "exposed", unit.volumeUuid), unit.volumeUuid);
      const source = new WholePoints(keeper.volume);
      const points = new ExposedPoints({ unit, source, server, store, clock: systemClock, log: logLine });
      await points.restore();
      this.#exposed.push(points);
      unit.points = points;
      keeper.start();
    }
  }

  /** Everything that was written is on disk. @throws AgentError for the first volume of which that is not so */
  async flush(): Promise<void> {
    const writable = this.units.filter((unit) => !unit.readonly);
    const results = await Promise.allSettled(writable.map((unit) => unit.volume.flush()));
    for (const result of results) if (result.status === "rejected") throw result.reason;
  }

  /** Looks every few seconds whether a volume has grown or shrunk, by whomever: initiators, and the log, are told then. */
  watchSizes(): AsyncDisposable {
    const logged = new Map(this.units.map((unit) => [unit, unit.volume.geometry.blocks]));
    return new Loop(
      systemClock,
      sizeWatchMs,
      async () => {
        for (const unit of this.units) {
          await unit.remeasure();
          const { blocks, blockBytes } = unit.volume.geometry;
          if (blocks === logged.get(unit)) continue;
          logged.set(unit, blocks);
          logLine(
            "info",
            `LUN ${unit.lun} ("${unit.volume.name}") has ${blocks} blocks of ${blockBytes} bytes now`,
          );
        }
      },
      (error) => logLine("error", `the size of what is served can't be told: ${messageOf(error)}`),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const points of this.#exposed) await points[Symbol.asyncDispose]();
    for (const keeper of this.#keepers) await keeper[Symbol.asyncDispose]();
    for (const { volume, journal } of this.units) {
      await volume[Symbol.asyncDispose]();
      await journal?.[Symbol.asyncDispose]();
    }
  }
}
