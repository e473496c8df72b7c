// Where persistent reservations with APTPL outlive the target: one file a unit.
//
// Guarantees: after save() the new state is on the medium, and at every instant the file holds the old or the new one,
// whole; a file that is damaged or of another unit is an error, never an empty state: who was fenced off stays so.
//
// docs/formats/reservations.md describes the file.
import { AgentError, messageOf } from "../base/errors.ts";
import { removeFile } from "../platform/durable-file.ts";
import { readChecked, writeChecked } from "./checked-text.ts";
import { noReservations, type PersistentState } from "./reservations.ts";

const format = "lunsync reservations 1";

interface Contents {
  readonly format: string;
  readonly volume: string;
  readonly generation: number;
  readonly registrations: readonly (readonly [port: string, key: string])[];
  readonly reservation: { type: number; holder?: string; key: string } | null;
}

export class ReservationStore {
  readonly #path: string;
  readonly #volume: string;

  /** `volume` is the UUID of the unit's volume. Nothing is made before the first save(). */
  constructor(path: string, volume: string) {
    this.#path = path;
    this.#volume = volume;
  }

  /** @throws AgentError `state_damaged` */
  async load(): Promise<PersistentState> {
    let body: string | undefined;
    try {
      body = await readChecked(this.#path);
    } catch (error) {
      throw this.#damaged(messageOf(error), error);
    }
    if (body === undefined) return noReservations;
    const found = JSON.parse(body) as Contents;
    if (found.format !== format) throw this.#damaged(`it is "${found.format}" and not "${format}"`);
    if (found.volume !== this.#volume) throw this.#damaged(`it belongs to the volume ${found.volume}`);
    const { reservation } = found;
    return {
      generation: found.generation,
      registrations: new Map(found.registrations.map(([port, key]) => [port, BigInt(key)])),
      reservation: reservation
        ? { type: reservation.type, holder: reservation.holder, key: BigInt(reservation.key) }
        : undefined,
      aptpl: true,
    };
  }

  /** @throws AgentError `io_error`; then the old state is still there */
  async save(state: PersistentState): Promise<void> {
    const hex = (key: bigint) => `0x${key.toString(16)}`;
    const { reservation } = state;
    const contents: Contents = {
      format,
      volume: this.#volume,
      generation: state.generation,
      registrations: [...state.registrations].map(([port, key]) => [port, hex(key)]),
      reservation: reservation
        ? {
            type: reservation.type,
            ...(reservation.holder !== undefined && { holder: reservation.holder }),
            key: hex(reservation.key),
          }
        : null,
    };
    const body = `${JSON.stringify(contents, null, 1)}\n`;
    try {
      await writeChecked(this.#path, body);
    } catch (error) {
      throw this.#failed("write", error);
    }
  }

  /** Nothing is kept any more. @throws AgentError `io_error` */
  async forget(): Promise<void> {
    try {
      await removeFile(this.#path);
    } catch (error) {
      throw this.#failed("remove", error);
    }
  }

  #failed(verb: string, cause: unknown): AgentError {
    return new AgentError(
      "io_error",
      `Cannot ${verb} the reservations "${this.#path}": ${messageOf(cause)}`,
      {
        cause,
      },
    );
  }

  #damaged(found: string, cause?: unknown): AgentError {
    return new AgentError(
      "state_damaged",
      `Cannot read the reservations "${this.#path}": ${found}; restore the file, or remove it to give all reservations up`,
      { cause },
    );
  }
}
