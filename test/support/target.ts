// A target in this process, over files in a temporary folder.
import { writeFile } from "node:fs/promises";
import { type Clock, systemClock } from "../../src/platform/clock.ts";
import { crc32c } from "../../src/platform/native-digest.ts";
import { systemRandom } from "../../src/platform/random.ts";
import type { AccessPolicy } from "../../src/target/access.ts";
import { DeviceServer } from "../../src/target/device-server.ts";
import { LogicalUnit } from "../../src/target/logical-unit.ts";
import type { ChapPolicy } from "../../src/target/login.ts";
import { IscsiTarget } from "../../src/target/target.ts";
import { FileVolume } from "../../src/volume/file-volume.ts";
import type { Volume } from "../../src/volume/volume.ts";
import { WorkFolder } from "./lunsync.ts";

export const targetName = "iqn.2026-11.com.example:test";

export class TestTarget implements AsyncDisposable {
  readonly port: number;
  readonly log: string[];
  readonly files: readonly string[];
  readonly units: readonly LogicalUnit[];
  readonly #target: IscsiTarget;
  readonly #folder: WorkFolder;

  private constructor(made: {
    port: number;
    log: string[];
    files: string[];
    units: LogicalUnit[];
    target: IscsiTarget;
    folder: WorkFolder;
  }) {
    this.port = made.port;
    this.log = made.log;
    this.files = made.files;
    this.units = made.units;
    this.#target = made.target;
    this.#folder = made.folder;
  }

  /** One LUN for each of `contents`; `readonly` lists those that refuse writes. */
  static async serving(
    contents: readonly Buffer[],
    options: {
      chap?: ChapPolicy;
      access?: AccessPolicy;
      readonly?: readonly number[];
      clock?: Clock;
      wrap?: (volume: Volume, lun: number) => Promise<Volume>;
    } = {},
  ): Promise<TestTarget> {
    const clock = options.clock ?? systemClock;
    const folder = await WorkFolder.make();
    const files: string[] = [];
    const units: LogicalUnit[] = [];
    for (const [lun, content] of contents.entries()) {
      const file = folder.file(`lun-${lun}`);
      await writeFile(file, content);
      files.push(file);
      const readonly = options.readonly?.includes(lun) ?? false;
      const opened = await FileVolume.open(file, { writable: !readonly });
      const volume = (await options.wrap?.(opened, lun)) ?? opened;
      units.push(new LogicalUnit(lun, volume, { readonly, uuid: opened.identity.uuid!, clock }));
    }
    const log: string[] = [];
    const target = new IscsiTarget({
      deviceServer: new DeviceServer({ targetName, portalGroupTag: 1, revision: "0.1" }, units),
      chap: options.chap,
      access: options.access,
      clock,
      random: systemRandom,
      crc32c,
      log: (level, message) => log.push(`${level}: ${message}`),
    });
    return new TestTarget({ port: await target.listen("127.0.0.1", 0), log, files, units, target, folder });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#target.stop();
    for (const unit of this.units) await unit.volume[Symbol.asyncDispose]();
    await this.#folder[Symbol.asyncDispose]();
  }
}
