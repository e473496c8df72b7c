// The fence of a replica: a persistent reservation by which a logical unit itself refuses whoever is not the latest run of
// the replica's set, as clusters fence their members.
//
// Guarantees: when take() has resolved with true, the unit takes writes of this I_T nexus alone, all commands of earlier runs
// have ended or were aborted, and none will be carried out later, whatever is still in a buffer on its way. It stays so when
// the run has ended, until a later run takes the unit, or it is given up. A run that is not the latest never gets that far, and
// takes nothing from the one that is. Whoever else has registered keeps the unit.
//
// A run registers first and looks then who else has: of two, the later one sees the earlier, and takes its registration away;
// or the earlier registers after that, sees the later one, and withdraws. So none may be ended between runs.
//
// Source: SPC-4, 5.13 (persistent reservations), 6.15, 6.16.
import { AgentError } from "../base/errors.ts";
import { type ScsiCommand, type ScsiOutcome, status } from "../scsi/command.ts";
import * as pr from "../scsi/persistent-reservation.ts";
import { condition, type Sense } from "../scsi/sense.ts";
import type { UnitCommands } from "./unit-commands.ts";
import type { Fence, FenceOptions } from "./volume.ts";

const scope = 0;
const type = pr.reservationType.writeExclusiveRegistrantsOnly;
/** READ KEYS is asked for so many; a unit of ours has no more. */
const keysMax = 1024;
/** Keys that are taken away, and times that somebody else was faster. */
const roundsMax = 64;

// --- keys ---

/** "LS" */
const prefix = 0x4c53n;
const fenceMax = 2 ** 32 - 1;

/** "LS", two bytes of the set's UUID, and the fence of its lease. */
export function reservationKey({ set, number }: Fence): bigint {
  const tag = /^[0-9a-f]{4}/i.exec(set.replaceAll("-", ""))?.[0];
  if (tag === undefined || !Number.isInteger(number) || number < 1 || number > fenceMax)
    throw new AgentError("internal", `There is no reservation key for the fence ${number} of the set ${set}`);
  return (prefix << 48n) | (BigInt(`0x${tag}`) << 32n) | BigInt(number);
}

export const isOurs = (key: bigint): boolean => key >> 48n === prefix;
const setOf = (key: bigint): bigint => key >> 32n;
const fenceOf = (key: bigint): bigint => key & 0xffff_ffffn;
const hex = (key: bigint): string => `0x${key.toString(16).padStart(16, "0")}`;

const release = '"lunsync set release SET REPLICA --force" gives it up';

// --- what the unit says ---

/** Who has reserved a unit. */
export interface Holder {
  /** Of the reservation, in hexadecimal. */
  readonly key: string;
  /** The fence of a run of a replication set; undefined: somebody else. */
  readonly run: number | undefined;
}

interface Found {
  readonly keys: readonly bigint[];
  readonly reservation: { readonly key: bigint; readonly type: number } | undefined;
}

/** The sense of a unit that does not have the command, or not the service action. */
const lacks = (sense: Sense): boolean => sense.key === 0x5;

const reading = (layout: typeof pr.readKeys, dataInBytes: number): ScsiCommand => ({
  cdb: layout.encode({ allocationLength: dataInBytes }),
  dataInBytes,
});

const askKeys = reading(pr.readKeys, pr.reservationHeader.bytes + 8 * keysMax);
const askReservation = reading(
  pr.readReservation,
  pr.reservationHeader.bytes + pr.reservationDescriptor.bytes,
);
const askCapabilities = reading(pr.reportCapabilities, pr.capabilitiesData.bytes);

const partial = (name: string) =>
  new AgentError("protocol_error", `${name} told its persistent reservations wrongly, or in part only`);

function capabilitiesOf(name: string, bytes: Buffer) {
  try {
    return pr.capabilitiesData.decode(bytes);
  } catch {
    throw partial(name);
  }
}

/** What follows the header, whole. */
function bodyOf(name: string, { dataIn }: ScsiOutcome): Buffer {
  const { bytes } = pr.reservationHeader;
  const length = dataIn.length < bytes ? -1 : pr.reservationHeader.decode(dataIn).additionalLength;
  const body = dataIn.subarray(bytes, bytes + Math.max(0, length));
  if (length >= 0 && body.length === length) return body;
  throw partial(name);
}

function keysOf(name: string, outcome: ScsiOutcome): bigint[] {
  const body = bodyOf(name, outcome);
  return Array.from({ length: Math.floor(body.length / 8) }, (_, i) => body.readBigUInt64BE(8 * i));
}

function reservationOf(name: string, outcome: ScsiOutcome): Found["reservation"] {
  const body = bodyOf(name, outcome);
  if (body.length < pr.reservationDescriptor.bytes) return undefined;
  const descriptor = pr.reservationDescriptor.decode(body);
  return { key: descriptor.reservationKey, type: descriptor.type };
}

const attentions: readonly (readonly [number, number, number])[] = [
  condition.reservationsPreempted,
  condition.reservationsReleased,
  condition.registrationsPreempted,
];

/** A unit attention by which somebody else's taking a reservation or a registration away is told. */
const isTakenAway = (sense: Sense): boolean =>
  attentions.some(([key, asc, ascq]) => sense.key === key && sense.asc === asc && sense.ascq === ascq);

// --- the fence ---

export class ScsiFence {
  readonly #name: string;
  readonly #commands: UnitCommands;
  /** What this side has registered with. */
  #key: bigint | undefined;

  constructor(name: string, commands: UnitCommands) {
    this.#name = name;
    this.#commands = commands;
    commands.whenRefused = (error) => this.#explain(error);
  }

  /** False if the unit has no persistent reservations of this kind. @throws AgentError `volume_in_use` */
  async take(
    fence: Fence,
    { force = false, ifFenced = false }: FenceOptions = {},
    signal?: AbortSignal,
  ): Promise<boolean> {
    const key = reservationKey(fence);
    const persists = await this.#persists(signal);
    if (persists === undefined) return false;
    if (!force) {
      const found = await this.#found(signal);
      if (ifFenced && !found.reservation) return false;
      this.#judge(found, key);
    }
    await this.#registered(key, persists, signal, async () => {
      if (force) await this.#clear(key, persists, signal);
      await this.#takeOver(key, signal);
    });
    return true;
  }

  /** Takes the place of whichever run has it; false if none has. @throws AgentError `volume_in_use` */
  async inherit(signal?: AbortSignal): Promise<boolean> {
    const persists = await this.#persists(signal);
    if (persists === undefined) return false;
    const { reservation } = await this.#found(signal);
    if (!reservation || !isOurs(reservation.key)) return false;
    const { key } = reservation;
    await this.#registered(key, persists, signal, async () => {
      await this.#preempt(key, key, signal);
      await this.#takeOver(key, signal);
    });
    return true;
  }

  /** Registers, and has the unit from when `action` has ended; else the registration is taken back. */
  async #registered(
    key: bigint,
    persists: boolean,
    signal: AbortSignal | undefined,
    action: () => Promise<void>,
  ): Promise<void> {
    await this.#out(pr.registerAndIgnore, { serviceActionReservationKey: key, aptpl: persists }, signal);
    try {
      await action();
    } catch (error) {
      await this.#withdraw(key, persists, signal).catch(() => {});
      throw error;
    }
    this.#key = key;
    this.#commands.loseAt(isTakenAway, () => this.#late());
  }

  /**
   * Whoever is registered may write. But a reservation would end with the registration, and runs that it keeps out could write
   * until a later one has made its own: that is left to that one.
   */
  async #withdraw(key: bigint, persists: boolean, signal?: AbortSignal): Promise<void> {
    const { reservation } = await this.#found(signal);
    if (reservation?.key === key) return;
    await this.#out(pr.register, { reservationKey: key, aptpl: persists }, signal);
  }

  /** Who has reserved the unit; undefined if nobody has, or it has no persistent reservations. Nothing is changed. */
  async holder(signal?: AbortSignal): Promise<Holder | undefined> {
    const outcome = await this.#commands.execute(askReservation, signal, lacks);
    const reservation = outcome.status === status.good ? reservationOf(this.#name, outcome) : undefined;
    if (!reservation) return undefined;
    const { key } = reservation;
    return { key: hex(key), run: isOurs(key) ? Number(fenceOf(key)) : undefined };
  }

  /** Everybody may write again, from here on. */
  async give(signal?: AbortSignal): Promise<void> {
    const key = this.#key;
    if (key === undefined) return;
    this.#commands.loseAt(undefined);
    this.#key = undefined;
    await this.#out(pr.clear, { reservationKey: key }, signal);
  }

  /** After a reconnection, before anything is repeated. @throws AgentError `volume_in_use` if the unit is somebody else's now */
  async check(execute: (command: ScsiCommand) => Promise<ScsiOutcome>): Promise<void> {
    if (this.#key === undefined) return;
    const ask = async (command: ScsiCommand) => {
      const outcome = await execute(command);
      if (outcome.status === status.good) return outcome;
      throw new AgentError("protocol_error", `${this.#name} did not tell its persistent reservations`, {
        retry: "after_reconnect",
      });
    };
    const keys = keysOf(this.#name, await ask(askKeys));
    const reservation = reservationOf(this.#name, await ask(askReservation));
    if (!keys.includes(this.#key) || reservation?.key !== this.#key) throw this.#late();
  }

  /** Whether registrations survive a loss of power; undefined if there are none. */
  async #persists(signal?: AbortSignal): Promise<boolean | undefined> {
    const keys = await this.#commands.execute(askKeys, signal, lacks);
    if (keys.status !== status.good) return undefined;
    const outcome = await this.#commands.execute(askCapabilities, signal, lacks);
    if (outcome.status !== status.good || outcome.dataIn.length < askCapabilities.dataInBytes!) return false;
    const capabilities = capabilitiesOf(this.#name, outcome.dataIn);
    if (capabilities.tmv && !capabilities.writeExclusiveRegistrantsOnly) return undefined;
    return capabilities.ptplC;
  }

  async #found(signal?: AbortSignal): Promise<Found> {
    const ask = (command: ScsiCommand) => this.#commands.execute(command, signal, undefined, true);
    const keys = keysOf(this.#name, await ask(askKeys));
    return { keys, reservation: reservationOf(this.#name, await ask(askReservation)) };
  }

  /** @throws AgentError `volume_in_use` if the unit is not this run's to take */
  #judge({ keys, reservation }: Found, key: bigint): void {
    const doing = `Cannot write to ${this.#name}`;
    const all = reservation ? [reservation.key, ...keys] : keys;
    const refuse = (why: string) => {
      throw new AgentError("volume_in_use", `${doing}: ${why}`);
    };
    for (const each of all) {
      if (each === key) continue;
      // A reservation of all registrants has no key of its own; theirs are in the list.
      if (each === 0n && keys.some((other) => other !== key)) continue;
      if (!isOurs(each))
        refuse(
          `${reservation ? "it is reserved, and " : ""}somebody else has registered with the key ${hex(each)}, a cluster perhaps; ` +
            `take it out of that, or if nobody uses it any more: ${release}`,
        );
      if (setOf(each) !== setOf(key))
        refuse(
          `it is a replica of another set, which has registered with the key ${hex(each)}; remove it from that set, ` +
            `or if there is no such set any more: ${release}`,
        );
      if (fenceOf(each) > fenceOf(key))
        refuse(
          `run ${fenceOf(each)} of the set has taken it, and this is run ${fenceOf(key)}, which is late. ` +
            `If the truth database was put back from a copy: ${release}`,
        );
    }
  }

  /** Registered, this run takes away what earlier ones have left, until it is alone. */
  async #takeOver(key: bigint, signal?: AbortSignal): Promise<void> {
    for (let round = 0; round < roundsMax; round++) {
      const found = await this.#found(signal);
      this.#judge(found, key);
      if (!found.keys.includes(key)) throw this.#late();
      const { reservation } = found;
      const earlier =
        reservation && reservation.key !== key ? reservation.key : found.keys.find((each) => each !== key);
      // A conflict: somebody else was faster. What he did is looked at in the next round.
      if (!reservation) await this.#out(pr.reserve, { reservationKey: key }, signal, true);
      else if (earlier !== undefined) await this.#preempt(key, earlier, signal);
      else if (reservation.type !== type) await this.#preempt(key, key, signal);
      else return;
    }
    throw new AgentError(
      "volume_in_use",
      `Cannot write to ${this.#name}: others go on registering with it; end them`,
      { retry: "after_backoff" },
    );
  }

  /** Commands of who is preempted have ended when it resolves. */
  #preempt(key: bigint, victim: bigint, signal?: AbortSignal): Promise<void> {
    const keys = { reservationKey: key, serviceActionReservationKey: victim };
    return this.#out(pr.preemptAndAbort, keys, signal, true);
  }

  /** All registrations go, whosever; then this one is made anew. */
  async #clear(key: bigint, persists: boolean, signal?: AbortSignal): Promise<void> {
    await this.#out(pr.clear, { reservationKey: key }, signal);
    await this.#out(pr.registerAndIgnore, { serviceActionReservationKey: key, aptpl: persists }, signal);
  }

  async #out(
    layout: typeof pr.register,
    list: Parameters<typeof pr.parameterList.encode>[0],
    signal?: AbortSignal,
    conflictPasses = false,
  ): Promise<void> {
    const dataOut = [pr.parameterList.encode(list)];
    const cdb = layout.encode({ scope, type, parameterListLength: pr.parameterList.bytes });
    await this.#commands.execute({ cdb, dataOut }, signal, undefined, conflictPasses);
  }

  #late(): AgentError {
    return new AgentError(
      "volume_in_use",
      `${this.#name} has been taken from this run: a later run of its set, or its administrator, has its reservation now; ` +
        "nothing more is written to it by this one",
    );
  }

  /** What a conflict with somebody's reservation means. */
  async #explain(error: AgentError): Promise<AgentError> {
    if (this.#key !== undefined) return this.#late();
    const found = await this.#found().catch(() => undefined);
    if (!found?.reservation) return error;
    const { key } = found.reservation;
    if (!isOurs(key))
      return new AgentError("volume_in_use", `${error.message}, with the key ${hex(key)}`, { cause: error });
    return new AgentError(
      "volume_in_use",
      `Cannot write to ${this.#name}: it is a replica of a replication set, and reserved for its runs (key ${hex(key)}). ` +
        'Let the set write to it ("lunsync set run SET"), or give it up: "lunsync set release SET REPLICA"',
      { cause: error },
    );
  }
}
