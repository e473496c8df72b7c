// PERSISTENT RESERVE IN and OUT, RESERVE and RELEASE: from CDB and parameter list to the state machine and back.
//
// Guarantees: an action that is answered GOOD is in force, and durable where APTPL was asked for; whom it concerns is
// told by a unit attention; PREEMPT AND ABORT is answered when the commands of those preempted have ended.
//
// Source: SPC-4, 6.15 and 6.16.
import { AgentError } from "../base/errors.ts";
import type { FieldsOf } from "../base/layout.ts";
import { status } from "../scsi/command.ts";
import * as pr from "../scsi/persistent-reservation.ts";
import { type Call, type Command, command } from "./command-table.ts";
import type { LogicalUnit } from "./logical-unit.ts";
import * as actions from "./reservations.ts";
import {
  checkCondition,
  dataInResult,
  good,
  invalidCdbField,
  invalidParameter,
  joined,
  type ScsiResult,
} from "./scsi-task.ts";
import { relativeTargetPort } from "./target-port.ts";

const conflict: ScsiResult = { status: status.reservationConflict };
const parameterBytesMax = 24 + 4 + 64 * 1024;

function headed({ state }: LogicalUnit["reservations"], body: Buffer): Buffer {
  const head = pr.reservationHeader.encode({ generation: state.generation, additionalLength: body.length });
  return Buffer.concat([head, body]);
}

function readKeys(unit: LogicalUnit): Buffer {
  const keys = [...unit.reservations.state.registrations.values()];
  const body = Buffer.alloc(8 * keys.length);
  keys.forEach((key, i) => {
    body.writeBigUInt64BE(key, 8 * i);
  });
  return headed(unit.reservations, body);
}

function readReservation(unit: LogicalUnit): Buffer {
  const { reservation } = unit.reservations.state;
  if (!reservation) return headed(unit.reservations, Buffer.alloc(0));
  const { key, type } = reservation;
  return headed(unit.reservations, pr.reservationDescriptor.encode({ reservationKey: key, type }));
}

function capabilities(unit: LogicalUnit): Buffer {
  return pr.capabilitiesData.encode({
    sipC: true,
    atpC: true, // one target port: ALL_TG_PT changes nothing
    ptplC: unit.reservations.store !== undefined,
    ptplA: unit.reservations.state.aptpl,
    tmv: true,
    writeExclusive: true,
    exclusiveAccess: true,
    writeExclusiveRegistrantsOnly: true,
    exclusiveAccessRegistrantsOnly: true,
    writeExclusiveAllRegistrants: true,
    exclusiveAccessAllRegistrants: true,
  });
}

function readFullStatus(unit: LogicalUnit): Buffer {
  const { state } = unit.reservations;
  const descriptors = [...state.registrations].map(([port, reservationKey]) => {
    const rHolder = actions.holds(state, port);
    const transportId = pr.encodeTransportId(port);
    const head = pr.fullStatusDescriptor.encode({
      reservationKey,
      allTgPt: true,
      rHolder,
      type: rHolder ? state.reservation!.type : 0,
      relativeTargetPort,
      additionalDescriptorLength: transportId.length,
    });
    return Buffer.concat([head, transportId]);
  });
  return headed(unit.reservations, Buffer.concat(descriptors));
}

type OutFields = FieldsOf<typeof pr.register>;
type OutCall = Call<OutFields>;

function refusal(why: actions.Refusal): ScsiResult {
  if (why === "conflict") return conflict;
  if (typeof why === "string") return checkCondition(why);
  return "cdbByte" in why ? invalidCdbField(why.cdbByte) : invalidParameter(why.parameterByte);
}

async function act(
  unit: LogicalUnit,
  action: (state: actions.PersistentState) => actions.Outcome,
): Promise<ScsiResult> {
  let outcome: actions.Outcome;
  try {
    outcome = await unit.reservations.act(action);
  } catch (error) {
    if (error instanceof AgentError) return checkCondition("insufficientRegistrationResources");
    throw error;
  }
  if ("refused" in outcome) return refusal(outcome.refused);
  for (const { ports, condition } of outcome.told) unit.tell(ports, condition);
  return outcome.aborted && outcome.aborted.length > 0
    ? { ...good, abortsCommandsOf: outcome.aborted }
    : good;
}

/** The ports that SPEC_I_PT names; undefined for a list that can't be read or a name that nobody has. */
function namedPorts(unit: LogicalUnit, list: Buffer): string[] | undefined {
  if (list.length < 28) return undefined;
  const length = list.readUInt32BE(24);
  if (28 + length > list.length) return undefined;
  const names = pr.decodeTransportIds(list.subarray(28, 28 + length));
  const ports = names?.map((name) => (name.includes(",") ? [name] : unit.knownPorts(name)));
  return ports?.every((each) => each.length > 0) ? ports.flat() : undefined;
}

type OutAction = (
  call: OutCall,
  values: FieldsOf<typeof pr.parameterList>,
  list: Buffer,
) => ScsiResult | Promise<ScsiResult>;

/** Checks what all service actions but REGISTER AND MOVE share. */
const withList =
  (run: OutAction, registers = false) =>
  (call: OutCall): ScsiResult | Promise<ScsiResult> => {
    const { unit, request, fields } = call;
    const list = joined(request.dataOut);
    if (fields.parameterListLength < 24 || list.length < fields.parameterListLength) {
      return checkCondition("parameterListLengthError");
    }
    const values = pr.parameterList.decode(list);
    const aptplRefused = registers && values.aptpl && unit.reservations.store === undefined;
    if (aptplRefused) return invalidParameter(20, 0);
    if (values.specIPt && !registers) return invalidParameter(20, 3);
    if (!values.specIPt && fields.parameterListLength !== 24)
      return checkCondition("parameterListLengthError");
    return run(call, values, list);
  };

const registering =
  (ignoreKey: boolean): OutAction =>
  async ({ unit, request }, values, list) => {
    const alsoFor = values.specIPt ? namedPorts(unit, list) : undefined;
    if (values.specIPt && alsoFor === undefined) return invalidParameter(24);
    return act(unit, (state) =>
      actions.register(state, request.nexus.key, {
        key: values.reservationKey,
        serviceActionKey: values.serviceActionReservationKey,
        aptpl: values.aptpl,
        ignoreKey,
        alsoFor,
      }),
    );
  };

const keyed = (call: OutCall, values: FieldsOf<typeof pr.parameterList>) => ({
  key: values.reservationKey,
  scope: call.fields.scope,
  type: call.fields.type,
});

const preempting =
  (abort: boolean): OutAction =>
  (call, values) =>
    act(call.unit, (state) =>
      actions.preempt(state, call.request.nexus.key, {
        ...keyed(call, values),
        victim: values.serviceActionReservationKey,
        abort,
      }),
    );

function moving({ unit, request, fields }: OutCall): ScsiResult | Promise<ScsiResult> {
  const list = joined(request.dataOut);
  const header = pr.moveParameterList;
  if (fields.parameterListLength < header.bytes || list.length < fields.parameterListLength) {
    return checkCondition("parameterListLengthError");
  }
  const values = header.decode(list);
  if (header.bytes + values.transportIdLength !== fields.parameterListLength) {
    return checkCondition("parameterListLengthError");
  }
  if (values.aptpl && unit.reservations.store === undefined) return invalidParameter(17, 0);
  if (values.relativeTargetPort !== relativeTargetPort) return invalidParameter(18);
  const [to, ...others] = pr.decodeTransportIds(list.subarray(24, 24 + values.transportIdLength)) ?? [];
  if (to === undefined || others.length > 0 || !to.includes(",")) return invalidParameter(24);
  return act(unit, (state) =>
    actions.registerAndMove(state, request.nexus.key, {
      key: values.reservationKey,
      serviceActionKey: values.serviceActionReservationKey,
      to,
      unregister: values.unreg,
      aptpl: values.aptpl,
    }),
  );
}

/** RESERVE (10) of a third party or of extents is not for block devices; its parameter list is empty. */
const reserve = ({ unit, request }: Call<unknown>): ScsiResult =>
  unit.reservations.reserve(request.nexus.key) ? good : conflict;
const release = ({ unit, request }: Call<unknown>): ScsiResult => {
  if (unit.reservations.state.registrations.size > 0) return conflict;
  unit.reservations.release(request.nexus.key);
  return good;
};

export function reservationCommands(): Command[] {
  const options = { withoutMedium: true };
  const reading = (layout: typeof pr.readKeys, data: (unit: LogicalUnit) => Buffer) =>
    command(
      layout,
      "reservation",
      ({ unit, fields }) => dataInResult(data(unit), fields.allocationLength),
      options,
    );
  const changing = (layout: typeof pr.register, run: (call: OutCall) => ScsiResult | Promise<ScsiResult>) =>
    command(layout, "reservation", run, {
      ...options,
      dataOutBytes: ({ parameterListLength }) => Math.min(parameterListLength, parameterBytesMax),
    });
  return [
    reading(pr.readKeys, readKeys),
    reading(pr.readReservation, readReservation),
    reading(pr.reportCapabilities, capabilities),
    reading(pr.readFullStatus, readFullStatus),
    changing(pr.register, withList(registering(false), true)),
    changing(pr.registerAndIgnore, withList(registering(true), true)),
    changing(
      pr.reserve,
      withList((call, values) =>
        act(call.unit, (state) => actions.reserve(state, call.request.nexus.key, keyed(call, values))),
      ),
    ),
    changing(
      pr.release,
      withList((call, values) =>
        act(call.unit, (state) => actions.release(state, call.request.nexus.key, keyed(call, values))),
      ),
    ),
    changing(
      pr.clear,
      withList((call, values) =>
        act(call.unit, (state) => actions.clear(state, call.request.nexus.key, values.reservationKey)),
      ),
    ),
    changing(pr.preempt, withList(preempting(false))),
    changing(pr.preemptAndAbort, withList(preempting(true))),
    changing(pr.registerAndMove, moving),
    command(pr.reserve6, "reserve", reserve, options),
    command(pr.reserve10, "reserve", reserve, options),
    command(pr.release6, "reserve", release, options),
    command(pr.release10, "reserve", release, options),
  ];
}
