// Unit attention conditions: who is told what, in which order, how often (SAM-5, 5.14), and which commands pass them.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { condition, decodeSense, type Sense } from "../../src/scsi/sense.ts";
import { reportLuns, requestSense } from "../../src/scsi/spc-commands.ts";
import { receive16, submit16 } from "../../src/scsi/vendor-commands.ts";
import { allRights } from "../../src/target/access.ts";
import { DeviceServer, lunOf } from "../../src/target/device-server.ts";
import { LogicalUnit } from "../../src/target/logical-unit.ts";
import { type Nexus, nexusKey } from "../../src/target/nexus.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { MemoryVolume } from "../support/memory-volume.ts";

const uuid = "00112233-4455-6677-8899-aabbccddeeff";
const unitOf = (lun = 0, clock = new FakeClock()) =>
  new LogicalUnit(lun, new MemoryVolume("m", Buffer.alloc(8192), 512), { readonly: false, uuid, clock });
const nexus = (port: number): Nexus => {
  const isid = Buffer.from([0x80, 0, 0, 0, 0, port]);
  return {
    key: nexusKey("iqn.2026-11.x:a", isid),
    initiatorName: "iqn.2026-11.x:a",
    rights: allRights,
    from: "here",
  };
};
const [first, second] = [nexus(1), nexus(2)];

const codes = (value: Sense | undefined) => value && [value.key, value.asc, value.ascq];
/** Everything that is pending, in order. */
function drain(unit: LogicalUnit, of: Nexus) {
  const all = [];
  for (let each = unit.takeAttention(of); each; each = unit.takeAttention(of)) all.push(codes(each));
  return all;
}

describe("a logical unit", () => {
  test("tells a new nexus of power on, one that comes back of a nexus loss, each once", () => {
    const unit = unitOf();
    unit.nexusBegan(first);
    expect(drain(unit, first)).toEqual([[6, 0x29, 0x00]]);
    unit.nexusEnded(first);
    expect(drain(unit, first)).toEqual([]);
    unit.nexusBegan(first);
    unit.nexusBegan(second);
    expect([drain(unit, first), drain(unit, second)]).toEqual([[[6, 0x29, 0x07]], [[6, 0x29, 0x00]]]);
  });

  test("tells every nexus but the one that did it, in the order in which it happened", () => {
    const unit = unitOf();
    for (const each of [first, second]) unit.nexusBegan(each);
    for (const each of [first, second]) drain(unit, each);
    unit.raiseAttention("commandsCleared", first);
    unit.raiseAttention("reportedLunsChanged");
    expect(drain(unit, first)).toEqual([[6, 0x3f, 0x0e]]);
    expect(drain(unit, second)).toEqual([
      [6, 0x2f, 0x00],
      [6, 0x3f, 0x0e],
    ]);
  });

  test("an equal one that is pending is not told twice; a reset outranks what came before", () => {
    const unit = unitOf();
    unit.nexusBegan(first);
    drain(unit, first);
    for (let i = 0; i < 1000; i++) unit.raiseAttention(i % 2 ? "capacityChanged" : "modeParametersChanged");
    unit.raiseAttention("deviceReset");
    unit.raiseAttention("capacityChanged");
    expect(drain(unit, first)).toEqual([
      [6, 0x29, 0x03],
      [6, 0x2a, 0x09],
    ]);
  });

  test("whatever happens: at most one of each kind is pending", () => {
    const names = [
      "capacityChanged",
      "modeParametersChanged",
      "commandsCleared",
      "deviceReset",
      "nexusLoss",
      "reportedLunsChanged",
    ] as const;
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...names), { maxLength: 40 }), (raised) => {
        const unit = unitOf();
        unit.nexusBegan(first);
        for (const name of raised) unit.raiseAttention(name);
        const pending = drain(unit, first).map(String);
        expect(new Set(pending).size).toBe(pending.length);
        const [, ...behind] = pending;
        // Resets come first: whatever was pending before one is gone.
        expect(behind.every((each) => !each.startsWith("6,41"))).toBe(true);
        const last = raised.at(-1);
        if (last) expect(pending).toContain(condition[last].join());
      }),
    );
  });
});

describe("a device server", () => {
  const serve = (clock = new FakeClock()) => {
    const unit = unitOf(0, clock);
    const server = new DeviceServer(
      { targetName: "iqn.2026-11.x:disks", portalGroupTag: 1, revision: "0.1" },
      [unit],
    );
    server.nexusBegan(first);
    const execute = (cdb: Buffer, more: { lun?: bigint; signal?: AbortSignal; dataOut?: Buffer[] } = {}) =>
      server.execute({
        nexus: first,
        lun: more.lun ?? 0n,
        cdb: Buffer.concat([cdb, Buffer.alloc(Math.max(0, 16 - cdb.length))]),
        dataOut: more.dataOut ?? [],
        dataOutBytesAnnounced: 0,
        dataInBytesMax: 4096,
        signal: more.signal ?? new AbortController().signal,
      });
    return { unit, server, execute, clock };
  };
  const inquiryCdb = Buffer.from("120000006000", "hex");
  const testUnitReady = Buffer.alloc(6);

  test("INQUIRY and REPORT LUNS pass an attention and leave it pending; any other command reports it", async () => {
    const { execute } = serve();
    expect((await execute(inquiryCdb)).status).toBe(0);
    expect((await execute(reportLuns.encode({ allocationLength: 16 }))).status).toBe(0);
    const told = await execute(testUnitReady);
    expect([told.status, codes(told.sense)]).toEqual([2, [6, 0x29, 0]]);
    expect((await execute(testUnitReady)).status).toBe(0);
  });

  test("REQUEST SENSE gives the attention as data, and it is told then", async () => {
    for (const desc of [false, true]) {
      const { execute } = serve();
      const asked = await execute(requestSense.encode({ desc, allocationLength: 252 }));
      expect(asked.status).toBe(0);
      const bytes = Buffer.concat(asked.dataIn!);
      expect(bytes[0]! & 0x7f).toBe(desc ? 0x72 : 0x70);
      expect(codes(decodeSense(bytes))).toEqual([6, 0x29, 0]);
      expect((await execute(testUnitReady)).status).toBe(0);
    }
  });

  test("a command that nobody knows reports the attention first", async () => {
    const { execute } = serve();
    expect(codes((await execute(Buffer.from("ff", "hex"))).sense)).toEqual([6, 0x29, 0]);
    expect(codes((await execute(Buffer.from("ff", "hex"))).sense)).toEqual([5, 0x20, 0]);
  });

  test("a LUN without a unit answers INQUIRY, REPORT LUNS and REQUEST SENSE, and nothing else", async () => {
    const { execute } = serve();
    const lun = 7n << 48n;
    const inquired = await execute(inquiryCdb, { lun });
    expect([inquired.status, inquired.dataIn![0]![0]]).toEqual([0, 0x7f]);
    expect((await execute(reportLuns.encode({ allocationLength: 16 }), { lun })).status).toBe(0);
    const asked = await execute(requestSense.encode({ allocationLength: 252 }), { lun });
    expect(codes(decodeSense(Buffer.concat(asked.dataIn!)))).toEqual([5, 0x25, 0]);
    expect(codes((await execute(testUnitReady, { lun })).sense)).toEqual([5, 0x25, 0]);
  });

  test("a RECEIVE that waits for its SUBMIT ends when it is aborted, and the next one is served", async () => {
    const { execute, clock } = serve();
    await execute(testUnitReady);
    const abort = new AbortController();
    const waiting = execute(receive16.encode({ listIdentifier: 5, allocationLength: 64 }), {
      signal: abort.signal,
    });
    abort.abort();
    expect(codes((await waiting).sense)).toEqual([5, 0x24, 0]);
    expect(clock.pending).toBe(0);
    const again = execute(receive16.encode({ listIdentifier: 5, allocationLength: 64 }));
    const wrong = Buffer.alloc(48, 0xff);
    const cdb = submit16.encode({ listIdentifier: 5, parameterListLength: 48 });
    expect((await execute(cdb, { dataOut: [wrong] })).status).toBe(2);
    expect((await again).status).toBe(2); // told at once that its SUBMIT failed
    const gone = new AbortController();
    gone.abort();
    await execute(receive16.encode({ listIdentifier: 6, allocationLength: 64 }), { signal: gone.signal });
    expect(clock.pending).toBe(0);
  });
});

// SAM-5, 4.7: peripheral device addressing (00b) of bus 0, flat space addressing (01b); the rest is not here.
test.each([
  [0x0000_0000_0000_0000n, 0],
  [0x0005_0000_0000_0000n, 5],
  [0x00ff_0000_0000_0000n, 255],
  [0x0100_0000_0000_0000n, undefined],
  [0x4005_0000_0000_0000n, 5],
  [0x7fff_0000_0000_0000n, 16383],
  [0x8005_0000_0000_0000n, undefined],
  [0xc101_0000_0000_0000n, undefined],
  [0x0005_0000_0000_0001n, undefined],
] as const)("the LUN field %# is LUN %s", (field, lun) => expect(lunOf(field)).toBe(lun));
