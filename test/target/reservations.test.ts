// Reservations: the tables of the standards, thousands of histories with restarts, and what initiators are told.
import { readFile, writeFile } from "node:fs/promises";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import * as pr from "../../src/scsi/persistent-reservation.ts";
import * as sbc from "../../src/scsi/sbc-commands.ts";
import * as medium from "../../src/scsi/sbc-medium-commands.ts";
import * as spc from "../../src/scsi/spc-commands.ts";
import type { Nexus } from "../../src/target/nexus.ts";
import { ReservationStore } from "../../src/target/reservation-store.ts";
import { conflicts, noReservations, type PersistentState } from "../../src/target/reservations.ts";
import { UnitReservations } from "../../src/target/unit-reservations.ts";
import { WorkFolder } from "../support/lunsync.ts";
import { dataOf, nexusOf, reported, UnitUnderTest } from "../support/unit.ts";

const conflict = 0x18;
const volumeUuid = "12345678-9abc-4def-8123-456789abcdef";

interface Out {
  readonly key?: bigint;
  readonly action?: bigint;
  readonly type?: number;
  readonly aptpl?: boolean;
}

function send(target: UnitUnderTest, nexus: Nexus, layout: typeof pr.register, out: Out) {
  const list = pr.parameterList.encode({
    reservationKey: out.key ?? 0n,
    serviceActionReservationKey: out.action ?? 0n,
    aptpl: out.aptpl ?? false,
  });
  const cdb = layout.encode({ type: out.type ?? 0, parameterListLength: list.length });
  return target.execute(nexus, cdb, [list]);
}

/** Everything that READ FULL STATUS tells, in words. */
async function fullStatus(target: UnitUnderTest, nexus: Nexus) {
  const data = dataOf(await target.execute(nexus, pr.readFullStatus.encode({ allocationLength: 65535 })));
  const { generation, additionalLength } = pr.reservationHeader.decode(data);
  expect(data.length).toBe(8 + additionalLength);
  const ports = new Map<string, { key: bigint; holds: boolean; type: number }>();
  for (let at = 8; at < data.length; ) {
    const each = pr.fullStatusDescriptor.decode(data, at);
    const end = at + 24 + each.additionalDescriptorLength;
    const [port] = pr.decodeTransportIds(data.subarray(at + 24, end))!;
    ports.set(port!, { key: each.reservationKey, holds: each.rHolder, type: each.type });
    at = end;
  }
  return { generation, ports };
}

describe("who may do what", () => {
  // SPC-4, table 67, and SBC-3, table 13, for an initiator that does not hold the reservation.
  const table: [type: number, access: "read" | "write", registered: boolean, conflicts: boolean][] = [
    [1, "read", false, false],
    [1, "read", true, false],
    [1, "write", false, true],
    [1, "write", true, true],
    [3, "read", false, true],
    [3, "read", true, true],
    [3, "write", false, true],
    [3, "write", true, true],
    [5, "read", false, false],
    [5, "read", true, false],
    [5, "write", false, true],
    [5, "write", true, false],
    [6, "read", false, true],
    [6, "read", true, false],
    [6, "write", false, true],
    [6, "write", true, false],
    [7, "read", false, false],
    [7, "read", true, false],
    [7, "write", false, true],
    [7, "write", true, false],
    [8, "read", false, true],
    [8, "read", true, false],
    [8, "write", false, true],
    [8, "write", true, false],
  ];

  test.each(table)("type %i, %s, registered %s: conflict %s", (type, access, registered, expected) => {
    const registrations = new Map([["holder", 1n]]);
    if (registered) registrations.set("me", 2n);
    const reservation = { type, holder: type > 6 ? undefined : "holder", key: type > 6 ? 0n : 1n };
    const state: PersistentState = { ...noReservations, registrations, reservation };
    expect(conflicts(state, "me", access)).toBe(expected);
    expect(conflicts(state, "holder", access)).toBe(false);
    expect(conflicts(state, "me", "free")).toBe(false);
    expect(conflicts({ ...state, reservation: undefined }, "me", access)).toBe(false);
  });

  test("commands of each kind, sent by an initiator that is fenced off", async () => {
    const target = new UnitUnderTest();
    const [holder, other] = [target.nexus(1), target.nexus(2)];
    await send(target, holder, pr.register, { action: 1n });
    await send(target, holder, pr.reserve, { key: 1n, type: pr.reservationType.exclusiveAccess });
    const block = Buffer.alloc(512);
    const cases: [Buffer, Buffer[], number][] = [
      [spc.testUnitReady.encode({}), [], 0],
      [spc.inquiry.encode({ allocationLength: 96 }), [], 0],
      [spc.reportLuns.encode({ allocationLength: 64 }), [], 0],
      [sbc.readCapacity10.encode({}), [], 0],
      [pr.readKeys.encode({ allocationLength: 8 }), [], 0],
      [medium.startStopUnit.encode({ start: true }), [], 0],
      [medium.startStopUnit.encode({}), [], conflict],
      [medium.preventAllowMediumRemoval.encode({}), [], 0],
      [medium.preventAllowMediumRemoval.encode({ prevent: 1 }), [], conflict],
      [sbc.read10.encode({ transferLength: 1 }), [], conflict],
      [sbc.write10.encode({ transferLength: 1 }), [block], conflict],
      [sbc.synchronizeCache10.encode({}), [], conflict],
      [sbc.unmap.encode({}), [], conflict],
      [medium.sanitizeBlockErase.encode({}), [], conflict],
      [spc.modeSense6.encode({ pageCode: 8, allocationLength: 64 }), [], conflict],
    ];
    for (const [cdb, dataOut, status] of cases) {
      expect([cdb.toString("hex"), (await target.execute(other, cdb, dataOut)).status]).toEqual([
        cdb.toString("hex"),
        status,
      ]);
      if (!cdb.equals(medium.sanitizeBlockErase.encode({}))) {
        expect((await target.execute(holder, cdb, dataOut)).status).toBe(0);
      }
    }
  });
});

const words = (_: string, value: unknown) => (typeof value === "bigint" ? `${value}` : value);
const commandNames = [
  "register",
  "ignore",
  "reserve",
  "release",
  "clear",
  "preempt",
  "abort",
  "logout",
  "restart",
] as const;
const step = fc.record({
  name: fc.constantFrom(...commandNames),
  port: fc.nat(3),
  /** Mostly the right key. */
  rightKey: fc.integer({ min: 0, max: 9 }).map((n) => n > 0),
  action: fc.constantFrom(0n, 1n, 2n, 3n),
  type: fc.constantFrom(0, 1, 1, 3, 5, 6, 7, 8, 8, 9),
  aptpl: fc.boolean(),
});

test("whatever happens, registrations and reservation go by the standard, and restarts keep what APTPL kept", async () => {
  await using folder = await WorkFolder.make();
  const store = new ReservationStore(folder.file("state"), volumeUuid);
  let changes = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 15, maxLength: 40 }), async (steps) => {
      await store.forget();
      let target = new UnitUnderTest(8, { reservations: new UnitReservations(store, await store.load()) });
      // The model: plain facts, kept by other means than the program's.
      let keys: (bigint | undefined)[] = [undefined, undefined, undefined, undefined];
      let held: { type: number; by: number } | undefined;
      let generation = 0;
      let aptpl = false;
      const all = () => held !== undefined && held.type >= 7;
      const isHolder = (i: number) => held !== undefined && (all() ? keys[i] !== undefined : held.by === i);
      const nexuses = () => [0, 1, 2, 3].map((i) => target.nexus(i));
      let ports = nexuses();

      for (const { name, port: i, rightKey, action, type, aptpl: through } of steps) {
        const nexus = ports[i]!;
        const key = rightKey ? (keys[i] ?? 0n) : 7n;
        const matches = keys[i] !== undefined && key === keys[i];
        while (target.unit.takeAttention(nexus)); // told elsewhere
        const before = { keys: [...keys], held };
        let expected: number | string = 0;
        let result: Awaited<ReturnType<typeof send>> | undefined;
        switch (name) {
          case "register":
          case "ignore": {
            const layout = name === "ignore" ? pr.registerAndIgnore : pr.register;
            result = await send(target, nexus, layout, { key, action, aptpl: through });
            if (name === "register" && key !== (keys[i] ?? 0n)) expected = conflict;
            else if (action !== 0n || keys[i] !== undefined) {
              generation++;
              aptpl = through;
              if (
                action === 0n &&
                isHolder(i) &&
                (!all() || keys.filter((k) => k !== undefined).length === 1)
              )
                held = undefined;
              keys[i] = action === 0n ? undefined : action;
            }
            break;
          }
          case "reserve":
            result = await send(target, nexus, pr.reserve, { key, type });
            if (!matches) expected = conflict;
            else if (![1, 3, 5, 6, 7, 8].includes(type)) expected = "invalidFieldInCdb";
            else if (held) expected = isHolder(i) && held.type === type ? 0 : conflict;
            else held = { type, by: i };
            break;
          case "release":
            result = await send(target, nexus, pr.release, { key, type });
            if (!matches) expected = conflict;
            else if (isHolder(i)) {
              if (held!.type === type) held = undefined;
              else expected = "invalidReleaseOfReservation";
            }
            break;
          case "clear":
            result = await send(target, nexus, pr.clear, { key });
            if (!matches) expected = conflict;
            else {
              generation++;
              keys = [undefined, undefined, undefined, undefined];
              held = undefined;
            }
            break;
          case "preempt":
          case "abort": {
            const layout = name === "abort" ? pr.preemptAndAbort : pr.preempt;
            result = await send(target, nexus, layout, { key, action, type });
            const takes = held !== undefined && (all() ? action === 0n : keys[held.by] === action);
            if (!matches) expected = conflict;
            else if (action === 0n && !takes) expected = "invalidFieldInParameterList";
            else if (takes && ![1, 3, 5, 6, 7, 8].includes(type)) expected = "invalidFieldInCdb";
            else if (!takes && !keys.includes(action)) expected = conflict;
            else {
              generation++;
              const everybody = takes && all();
              keys = keys.map((k, j) =>
                k !== undefined && (everybody || k === action) && !(takes && j === i) ? undefined : k,
              );
              if (takes) held = { type, by: i };
              else if (all() && keys.every((k) => k === undefined)) held = undefined;
            }
            break;
          }
          case "logout": // neither registration nor reservation ends with the session
            target.server.nexusEnded(nexus);
            ports[i] = target.nexus(i);
            break;
          case "restart":
            target = new UnitUnderTest(8, { reservations: new UnitReservations(store, await store.load()) });
            ports = nexuses();
            if (!aptpl) {
              keys = [undefined, undefined, undefined, undefined];
              held = undefined;
              generation = 0;
            }
        }
        if (result) expect([name, reported(result)]).toEqual([name, expected]);
        if (JSON.stringify(before, words) !== JSON.stringify({ keys, held }, words)) changes++;
        const status = await fullStatus(target, ports[i]!);
        expect(status.generation).toBe(generation);
        const wanted = keys.flatMap((k, j) =>
          k === undefined
            ? []
            : [[nexusOf(j).key, { key: k, holds: isHolder(j), type: isHolder(j) ? held!.type : 0 }]],
        );
        expect([...status.ports].sort()).toEqual(wanted.sort());
      }
    }),
    { numRuns: 1200 },
  );
  expect(changes).toBeGreaterThan(3000);
});

test("those whom a change concerns are told, and nobody else", async () => {
  const target = new UnitUnderTest();
  const [a, b, c, stranger] = [target.nexus(1), target.nexus(2), target.nexus(3), target.nexus(4)];
  const told = () => [a, b, c, stranger].map((each) => target.unit.takeAttention(each)?.ascq);
  for (const [nexus, action] of [
    [a, 1n],
    [b, 2n],
    [c, 3n],
  ] as const)
    await send(target, nexus, pr.register, { action });
  await send(target, a, pr.reserve, { key: 1n, type: 5 });
  expect(told()).toEqual([undefined, undefined, undefined, undefined]);
  await send(target, a, pr.release, { key: 1n, type: 5 });
  expect(told()).toEqual([undefined, 4, 4, undefined]); // RESERVATIONS RELEASED
  await send(target, a, pr.reserve, { key: 1n, type: 5 });
  await send(target, b, pr.preempt, { key: 2n, action: 1n, type: 6 });
  expect(told()).toEqual([5, undefined, 4, undefined]); // REGISTRATIONS PREEMPTED
  await send(target, c, pr.clear, { key: 3n });
  expect(told()).toEqual([undefined, 3, undefined, undefined]); // RESERVATIONS PREEMPTED
});

test("PREEMPT AND ABORT names whose commands end; REGISTER AND MOVE hands the reservation on", async () => {
  const target = new UnitUnderTest();
  const [a, b] = [target.nexus(1), target.nexus(2)];
  await send(target, a, pr.register, { action: 1n });
  await send(target, b, pr.register, { action: 2n });
  await send(target, a, pr.reserve, { key: 1n, type: 1 });
  const id = pr.encodeTransportId(b.key);
  const move = pr.moveParameterList.encode({
    reservationKey: 1n,
    serviceActionReservationKey: 9n,
    relativeTargetPort: 1,
    transportIdLength: id.length,
    unreg: true,
  });
  const cdb = pr.registerAndMove.encode({ parameterListLength: move.length + id.length });
  expect(reported(await target.execute(a, cdb, [move, id]))).toBe(0);
  expect((await fullStatus(target, a)).ports).toEqual(new Map([[b.key, { key: 9n, holds: true, type: 1 }]]));
  await send(target, a, pr.register, { action: 1n });
  const result = await send(target, a, pr.preemptAndAbort, { key: 1n, action: 9n, type: 3 });
  expect(result.abortsCommandsOf).toEqual([b.key]);
});

test("SPEC_I_PT registers others by port and by name, all or none", async () => {
  const target = new UnitUnderTest();
  const [a, b] = [target.nexus(1), target.nexus(2)];
  const unknown = nexusOf(9);
  const specified = async (...ids: Buffer[]) => {
    const list = Buffer.concat(ids);
    const head = pr.parameterList.encode({ serviceActionReservationKey: 5n, specIPt: true });
    const length = Buffer.alloc(4);
    length.writeUInt32BE(list.length);
    const cdb = pr.register.encode({ parameterListLength: 28 + list.length });
    return reported(await target.execute(a, cdb, [head, length, list]));
  };
  const named = Buffer.alloc(4 + 40);
  named[0] = 5;
  named[3] = 40;
  named.write(b.initiatorName, 4);
  const nobody = Buffer.from(named);
  nobody.write("iqn.2026-11.com.example:nobody", 4);
  expect(await specified(pr.encodeTransportId(unknown.key), nobody)).toBe("invalidFieldInParameterList");
  expect((await fullStatus(target, a)).ports.size).toBe(0);
  expect(await specified(pr.encodeTransportId(unknown.key), named)).toBe(0);
  expect([...(await fullStatus(target, a)).ports.keys()].sort()).toEqual([a.key, b.key, unknown.key].sort());
});

test("TransportIDs of any bytes are read or refused", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => {
      const names = pr.decodeTransportIds(Buffer.from(bytes));
      for (const name of names ?? []) expect(name.length).toBeGreaterThan(0);
    }),
    { numRuns: 3000 },
  );
  const id = pr.encodeTransportId("iqn.2026-11.x:a,i,0x800000000001");
  expect(pr.decodeTransportIds(id)).toEqual(["iqn.2026-11.x:a,i,0x800000000001"]);
  // As Linux' sg_persist encodes one: SPC-4, 7.6.4.8.
  expect(id.subarray(0, 4).toString("hex")).toBe("45000024");
  for (const damage of [
    (copy: Buffer) => copy.writeUInt16BE(8, 2),
    (copy: Buffer) => copy.writeUInt16BE(400, 2),
    (copy: Buffer) => copy.fill(0x41, 4),
    (copy: Buffer) => copy.writeUInt8(0x05, 0),
    (copy: Buffer) => copy.writeUInt8(0x46, 0),
  ]) {
    const copy = Buffer.from(id);
    damage(copy);
    expect(pr.decodeTransportIds(copy)).toBeUndefined();
  }
});

describe("RESERVE", () => {
  test("is for one initiator until it releases, logs out or a reset ends it, and shuts persistent ones out", async () => {
    const target = new UnitUnderTest();
    const [a, b] = [target.nexus(1), target.nexus(2)];
    const run = async (nexus: Nexus, cdb: Buffer) => (await target.execute(nexus, cdb)).status;
    const [reserve, release, ready] = [
      pr.reserve6.encode({}),
      pr.release6.encode({}),
      spc.testUnitReady.encode({}),
    ];
    expect(await run(a, reserve)).toBe(0);
    expect(await run(a, pr.reserve10.encode({}))).toBe(0);
    expect([await run(b, reserve), await run(b, ready), await run(b, release), await run(b, ready)]).toEqual([
      conflict,
      conflict,
      0,
      conflict,
    ]);
    expect(await run(b, spc.inquiry.encode({ allocationLength: 36 }))).toBe(0);
    expect((await send(target, a, pr.register, { action: 1n })).status).toBe(conflict);
    expect(await run(a, release)).toBe(0);
    expect(await run(b, reserve)).toBe(0);
    target.server.nexusEnded(b);
    expect(await run(a, reserve)).toBe(0);
    target.unit.reset();
    target.unit.takeAttention(a);
    expect((await send(target, a, pr.register, { action: 1n })).status).toBe(0);
    expect([await run(a, reserve), await run(a, release)]).toEqual([conflict, conflict]);
  });
});

describe("the store", () => {
  test("refuses a file that is damaged or of another volume, and says what to do", async () => {
    await using folder = await WorkFolder.make();
    const store = new ReservationStore(folder.file("state"), volumeUuid);
    const state = { ...noReservations, registrations: new Map([["a,i,0x1", 2n ** 64n - 1n]]), aptpl: true };
    await store.save(state);
    expect(await store.load()).toEqual(state);
    const text = await readFile(folder.file("state"), "utf8");
    for (const damaged of [text.slice(0, -3), text.replace("0xf", "0xe"), "", text.slice(20)]) {
      await writeFile(folder.file("state"), damaged);
      await expect(store.load()).rejects.toMatchObject({ code: "state_damaged" });
    }
    await writeFile(folder.file("state"), text);
    const other = new ReservationStore(folder.file("state"), "00000000-0000-4000-8000-000000000000");
    await expect(other.load()).rejects.toThrow(/belongs to the volume 12345678/);
  });

  test("that can't be written leaves everything as it was, and the command fails", async () => {
    await using folder = await WorkFolder.make();
    await writeFile(folder.file("file"), "");
    const store = new ReservationStore(`${folder.file("file")}/state`, volumeUuid);
    const target = new UnitUnderTest(8, { reservations: new UnitReservations(store) });
    const a = target.nexus(1);
    const failed = await send(target, a, pr.register, { action: 1n, aptpl: true });
    expect(reported(failed)).toBe("insufficientRegistrationResources");
    expect((await fullStatus(target, a)).ports.size).toBe(0);
    expect((await send(target, a, pr.register, { action: 1n })).status).toBe(0);
  });

  test("is what APTPL needs: without one it is refused, and REPORT CAPABILITIES tells", async () => {
    const target = new UnitUnderTest();
    const a = target.nexus(1);
    expect(reported(await send(target, a, pr.register, { action: 1n, aptpl: true }))).toBe(
      "invalidFieldInParameterList",
    );
    const data = dataOf(await target.execute(a, pr.reportCapabilities.encode({ allocationLength: 8 })));
    expect(pr.capabilitiesData.decode(data)).toMatchObject({ ptplC: false, ptplA: false, sipC: true });
  });
});
