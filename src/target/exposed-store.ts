// Which restore points of a volume are shown as LUNs, so that they are again after a restart: one file a volume.
//
// Guarantees: after save() the new list is on the medium; a file that is damaged, or of another volume, is an error, never an empty
// list: what is shown to somebody is not given up. docs/formats/whole.md describes the file.
import { AgentError, messageOf } from "../base/errors.ts";
import { readChecked, writeChecked } from "./checked-text.ts";

const format = "lunsync exposed points 1";

export interface ExposedPoint {
  /** 16 bytes. */
  readonly id: Buffer;
  readonly lun: number;
}

interface Contents {
  readonly format: string;
  readonly volume: string;
  readonly points: readonly { readonly id: string; readonly lun: number }[];
}

export class ExposedStore {
  readonly #path: string;
  readonly #volume: string;

  /** `volume` is the UUID of the volume. Nothing is made before the first save(). */
  constructor(path: string, volume: string) {
    this.#path = path;
    this.#volume = volume;
  }

  /** @throws AgentError `state_damaged` */
  async load(): Promise<ExposedPoint[]> {
    try {
      const body = await readChecked(this.#path);
      if (body === undefined) return [];
      const found = JSON.parse(body) as Contents;
      if (found.format !== format) throw new Error(`it is "${found.format}" and not "${format}"`);
      if (found.volume !== this.#volume) throw new Error(`it belongs to the volume ${found.volume}`);
      return found.points.map(({ id, lun }) => ({ id: Buffer.from(id, "hex"), lun }));
    } catch (cause) {
      throw new AgentError(
        "state_damaged",
        `Cannot read which restore points are shown, "${this.#path}": ${messageOf(cause)}; restore the file, or remove it to ` +
          "show none",
        { cause },
      );
    }
  }

  /** @throws AgentError `io_error`; then the old list is still there */
  async save(points: readonly ExposedPoint[]): Promise<void> {
    const contents: Contents = {
      format,
      volume: this.#volume,
      points: points.map(({ id, lun }) => ({ id: id.toString("hex"), lun })),
    };
    try {
      await writeChecked(this.#path, `${JSON.stringify(contents, null, 1)}\n`);
    } catch (cause) {
      const doing = `Cannot write down which restore points are shown in "${this.#path}"`;
      throw new AgentError("io_error", `${doing}: ${messageOf(cause)}`, { cause });
    }
  }
}
