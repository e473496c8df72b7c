// Reservations of one logical unit: who has registered, who holds it, and who may do what.
//
// A state machine without I/O: an action gives the next state and its effects, or says why not; whoever calls makes the
// state durable first, then puts it in force. A unit's state is bounded by registrationsMax.
//
// Source: SPC-4, 5.13 (persistent reservations); SPC-2, 5.5 (RESERVE and RELEASE).
import { reservationType as types } from "../scsi/persistent-reservation.ts";
import type { Condition } from "../scsi/sense.ts";

/** What a command does with the medium, for the tables of SPC-4, 5.13.3 and SBC-3, 4.17.3. */
export type ReservationClass = "free" | "read" | "write";

export interface Reservation {
  readonly type: number;
  /** The initiator port that holds it; undefined where all registrants do. */
  readonly holder: string | undefined;
  readonly key: bigint;
}

export interface PersistentState {
  readonly generation: number;
  /** Keys by initiator port (`NAME,i,0xISID`). */
  readonly registrations: ReadonlyMap<string, bigint>;
  readonly reservation: Reservation | undefined;
  /** The state survives a loss of power. */
  readonly aptpl: boolean;
}

/** What initiator ports are told. */
export interface Told {
  readonly ports: readonly string[];
  readonly condition: Condition;
}

export interface Change {
  readonly state: PersistentState;
  readonly told: readonly Told[];
  /** Ports whose commands are aborted (PREEMPT AND ABORT). */
  readonly aborted?: readonly string[];
}

/** RESERVATION CONFLICT, or a field that is wrong. */
export type Refusal =
  | "conflict"
  | { readonly cdbByte: number }
  | { readonly parameterByte: number }
  | Condition;

export type Outcome = Change | { readonly refused: Refusal };

export const registrationsMax = 1024;

export const noReservations: PersistentState = {
  generation: 0,
  registrations: new Map(),
  reservation: undefined,
  aptpl: false,
};

const typeNumbers: readonly number[] = Object.values(types);
const isAllRegistrants = (type: number) =>
  type === types.writeExclusiveAllRegistrants || type === types.exclusiveAccessAllRegistrants;
const isExclusiveAccess = (type: number) =>
  type === types.exclusiveAccess ||
  type === types.exclusiveAccessRegistrantsOnly ||
  type === types.exclusiveAccessAllRegistrants;
/** Types of which the registrants are told when the reservation is gone. */
const concernsRegistrants = (type: number) => type >= types.writeExclusiveRegistrantsOnly;

const refused = (why: Refusal): { refused: Refusal } => ({ refused: why });
const conflict = refused("conflict");
const nextGeneration = ({ generation }: PersistentState) => (generation + 1) >>> 0;

/** True if `port` holds the reservation. */
export function holds({ reservation, registrations }: PersistentState, port: string): boolean {
  if (!reservation) return false;
  return isAllRegistrants(reservation.type) ? registrations.has(port) : reservation.holder === port;
}

/** True if a command of that class from `port` conflicts with the reservation. */
export function conflicts(state: PersistentState, port: string, access: ReservationClass): boolean {
  const { reservation } = state;
  if (!reservation || access === "free" || holds(state, port)) return false;
  if (concernsRegistrants(reservation.type) && state.registrations.has(port)) return false;
  return access === "write" || isExclusiveAccess(reservation.type);
}

interface Registering {
  readonly key: bigint;
  readonly serviceActionKey: bigint;
  readonly aptpl: boolean;
  /** REGISTER AND IGNORE EXISTING KEY. */
  readonly ignoreKey: boolean;
  /** Further ports that are registered (SPEC_I_PT). */
  readonly alsoFor: readonly string[] | undefined;
}

export function register(state: PersistentState, port: string, asked: Registering): Outcome {
  const known = state.registrations.get(port);
  if (!asked.ignoreKey && asked.key !== (known ?? 0n)) return conflict;
  if (asked.alsoFor !== undefined && (known !== undefined || asked.ignoreKey))
    return refused({ parameterByte: 20 });
  const changed = { ...state, generation: nextGeneration(state), aptpl: asked.aptpl };
  if (asked.serviceActionKey === 0n) {
    if (known === undefined) return { state, told: [] };
    return unregister(changed, port);
  }
  const registrations = new Map(state.registrations);
  for (const each of [port, ...(asked.alsoFor ?? [])]) {
    if (each !== port && registrations.has(each)) return refused({ parameterByte: 24 });
    registrations.set(each, asked.serviceActionKey);
  }
  if (registrations.size > registrationsMax) return refused("insufficientRegistrationResources");
  const { reservation } = state;
  const held = reservation?.holder === port ? { ...reservation, key: asked.serviceActionKey } : reservation;
  return { state: { ...changed, registrations, reservation: held }, told: [] };
}

function unregister(state: PersistentState, port: string): Change {
  const registrations = new Map(state.registrations);
  registrations.delete(port);
  const { reservation } = state;
  const ends =
    reservation !== undefined &&
    (isAllRegistrants(reservation.type) ? registrations.size === 0 : reservation.holder === port);
  const told: Told[] = [];
  if (ends && concernsRegistrants(reservation.type)) {
    told.push({ ports: [...registrations.keys()], condition: "reservationsReleased" });
  }
  return { state: { ...state, registrations, reservation: ends ? undefined : reservation }, told };
}

interface Keyed {
  readonly key: bigint;
  readonly scope: number;
  readonly type: number;
}

const isRegisteredWith = (state: PersistentState, port: string, key: bigint) =>
  state.registrations.get(port) === key;

export function reserve(state: PersistentState, port: string, { key, scope, type }: Keyed): Outcome {
  if (!isRegisteredWith(state, port, key)) return conflict;
  if (scope !== 0 || !typeNumbers.includes(type)) return refused({ cdbByte: 2 });
  const { reservation } = state;
  if (reservation) return holds(state, port) && reservation.type === type ? { state, told: [] } : conflict;
  return { state: { ...state, reservation: made(port, key, type) }, told: [] };
}

const made = (port: string, key: bigint, type: number): Reservation =>
  isAllRegistrants(type) ? { type, holder: undefined, key: 0n } : { type, holder: port, key };

export function release(state: PersistentState, port: string, { key, scope, type }: Keyed): Outcome {
  if (!isRegisteredWith(state, port, key)) return conflict;
  const { reservation } = state;
  if (!reservation || !holds(state, port)) return { state, told: [] };
  if (scope !== 0 || reservation.type !== type) return refused("invalidReleaseOfReservation");
  const others = [...state.registrations.keys()].filter((each) => each !== port);
  const told = concernsRegistrants(type)
    ? [{ ports: others, condition: "reservationsReleased" } as const]
    : [];
  return { state: { ...state, reservation: undefined }, told };
}

export function clear(state: PersistentState, port: string, key: bigint): Outcome {
  if (!isRegisteredWith(state, port, key)) return conflict;
  const others = [...state.registrations.keys()].filter((each) => each !== port);
  return {
    state: { ...state, generation: nextGeneration(state), registrations: new Map(), reservation: undefined },
    told: [{ ports: others, condition: "reservationsPreempted" }],
  };
}

export function preempt(
  state: PersistentState,
  port: string,
  { key, scope, type, victim, abort }: Keyed & { victim: bigint; abort: boolean },
): Outcome {
  if (!isRegisteredWith(state, port, key)) return conflict;
  const { reservation, registrations } = state;
  const all = reservation !== undefined && isAllRegistrants(reservation.type);
  const takesOver = reservation !== undefined && (all ? victim === 0n : victim === reservation.key);
  if (victim === 0n && !takesOver) return refused({ parameterByte: 8 });
  if (takesOver && (scope !== 0 || !typeNumbers.includes(type))) return refused({ cdbByte: 2 });
  const named = [...registrations]
    .filter(([, each]) => (all && takesOver) || each === victim)
    .map(([each]) => each);
  // Whoever takes the reservation over keeps his own registration (SPC-4, 5.13.11.1.2).
  const removed = takesOver ? named.filter((each) => each !== port) : named;
  if (named.length === 0) return conflict;
  const left = new Map([...registrations].filter(([each]) => !removed.includes(each)));
  const others = [...left.keys()].filter((each) => each !== port);
  const told: Told[] = [
    { ports: removed.filter((each) => each !== port), condition: "registrationsPreempted" },
  ];
  let next: Reservation | undefined = reservation;
  if (takesOver) {
    next = made(port, key, type);
    if (reservation.type !== type) told.push({ ports: others, condition: "reservationsReleased" });
  } else if (all && left.size === 0) next = undefined;
  return {
    state: { ...state, generation: nextGeneration(state), registrations: left, reservation: next },
    told,
    ...(abort && { aborted: removed.filter((each) => each !== port) }),
  };
}

interface Moving {
  readonly key: bigint;
  readonly serviceActionKey: bigint;
  readonly to: string;
  readonly unregister: boolean;
  readonly aptpl: boolean;
}

export function registerAndMove(state: PersistentState, port: string, asked: Moving): Outcome {
  if (!isRegisteredWith(state, port, asked.key)) return conflict;
  const { reservation } = state;
  if (reservation?.holder !== port) return conflict; // also where all registrants hold it
  if (asked.serviceActionKey === 0n) return refused({ parameterByte: 8 });
  if (asked.to === port) return refused({ parameterByte: 24 });
  const registrations = new Map(state.registrations);
  registrations.set(asked.to, asked.serviceActionKey);
  if (asked.unregister) registrations.delete(port);
  if (registrations.size > registrationsMax) return refused("insufficientRegistrationResources");
  return {
    state: {
      generation: nextGeneration(state),
      registrations,
      reservation: { ...reservation, holder: asked.to, key: asked.serviceActionKey },
      aptpl: asked.aptpl,
    },
    told: [],
  };
}
