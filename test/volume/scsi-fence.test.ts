// The fence of a replica: whatever sleeps, dies, or is still on its way, no run writes after a later one has the unit.
import { readFile, writeFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { AgentError } from "../../src/base/errors.ts";
import { openVolume } from "../../src/cli/volumes.ts";
import { systemClock } from "../../src/platform/clock.ts";
import type { ScsiCommand, ScsiDevice, ScsiOutcome } from "../../src/scsi/command.ts";
import * as pr from "../../src/scsi/persistent-reservation.ts";
import { inquiry } from "../../src/scsi/spc-commands.ts";
import type { Nexus } from "../../src/target/nexus.ts";
import type { ScsiResult } from "../../src/target/scsi-task.ts";
import { UnitReservations } from "../../src/target/unit-reservations.ts";
import { reservationKey } from "../../src/volume/scsi-fence.ts";
import { ScsiVolume } from "../../src/volume/scsi-volume.ts";
import { below, randomOf } from "../support/data.ts";
import { serve, WorkFolder } from "../support/lunsync.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { nexusOf, UnitUnderTest } from "../support/unit.ts";

const set = "ab34567812345678123456781234567f";
const fence = (number: number, of = set) => ({ set: of, number });
const block = (byte: number) => [Buffer.alloc(512, byte)];
const write10 = 0x8a;

const settled = () => new Promise((resolve) => setImmediate(resolve));

/** A path to a unit, with a port of its own, on which commands and answers may wait. */
class Path implements ScsiDevice {
  readonly name = "unit";
  readonly cdbBytesMax = 32;
  readonly queueDepth = 8;
  readonly transferBytesPreferred = 1024 * 1024;
  readonly traffic = { sent: 0, received: 0 };
  readonly nexus: Nexus;
  readonly unit: UnitUnderTest;
  /** Commands under way to the unit, and answers that the process has not taken. */
  readonly sent: (() => Promise<void>)[] = [];
  readonly answered: (() => void)[] = [];
  waits = false;
  written: (status: number) => void = () => {};
  recognize: (execute: (command: ScsiCommand) => Promise<ScsiOutcome>) => Promise<void> = async () => {};

  constructor(unit: UnitUnderTest, port: number) {
    this.unit = unit;
    this.nexus = nexusOf(port);
    unit.server.nexusBegan(this.nexus);
  }

  async [Symbol.asyncDispose](): Promise<void> {}

  onReconnect(check: typeof this.recognize): void {
    this.recognize = check;
  }

  /** What the unit makes of a command, when it comes to that. */
  async now(command: ScsiCommand): Promise<ScsiOutcome> {
    const { status, sense, dataIn, release }: ScsiResult = await this.unit.execute(this.nexus, command.cdb, [
      ...(command.dataOut ?? []),
    ]);
    if (command.cdb[0] === write10) this.written(status);
    const arrived = Buffer.concat(dataIn ?? []).subarray(
      0,
      command.dataInBytes ?? command.dataIn?.length ?? 0,
    );
    release?.();
    command.dataIn?.set(arrived);
    return { status, sense, dataIn: command.dataIn?.subarray(0, arrived.length) ?? arrived };
  }

  async execute(command: ScsiCommand, signal?: AbortSignal): Promise<ScsiOutcome> {
    if (!this.waits) return this.now(command);
    return new Promise((resolve, reject) => {
      signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
      this.sent.push(async () => {
        const outcome = await this.now(command);
        this.answered.push(() => resolve(outcome));
      });
    });
  }
}

async function opened(unit: UnitUnderTest, port: number): Promise<{ path: Path; volume: ScsiVolume }> {
  const path = new Path(unit, port);
  return { path, volume: await ScsiVolume.open(path, systemClock) };
}

const refusal = (promise: Promise<unknown>) =>
  promise.then(
    () => "done",
    (error: unknown) => (error instanceof AgentError ? `${error.code}: ${error.message}` : error),
  );

async function keysOf(unit: UnitUnderTest): Promise<string[]> {
  const { state } = unit.unit.reservations;
  const { reservation } = state;
  return [
    ...[...state.registrations.values()].map((key) => key.toString(16)),
    `${reservation?.type} by ${reservation?.key.toString(16)}`,
  ];
}

interface Tally {
  writes: number;
  refused: number;
  taken: number;
}

/**
 * Runs of a set, begun one after another, that sleep anywhere, die and leave commands on their way. Whoever comes later has
 * the higher fence.
 */
async function simulate(seed: number, tally: Tally): Promise<void> {
  const random = randomOf(seed);
  const unit = new UnitUnderTest();
  const paths: Path[] = [];
  let latest = 0;
  const ended: Promise<unknown>[] = [];
  const asleep = new Set<Path>();

  const begin = async (number: number) => {
    const { path, volume } = await opened(unit, number);
    path.waits = true;
    path.written = (status) => {
      tally.writes++;
      if (status !== 0) tally.refused++;
      else if (number < latest)
        throw new Error(`run ${number} has written after run ${latest} took the unit`);
    };
    paths.push(path);
    ended.push(
      (async () => {
        await volume.fence(fence(number));
        tally.taken++;
        if (number < latest) throw new Error(`run ${number} took the unit from run ${latest}`);
        latest = number;
        for (let i = 0; i < 4; i++)
          await Promise.all([0, 1, 2].map((lba) => volume.write(lba, block(number))));
        await volume.flush();
        return "done";
      })().catch((error: unknown) => {
        if (error instanceof AgentError && error.code === "volume_in_use") return "refused";
        throw error;
      }),
    );
  };
  // What is thrown anywhere ends the case.
  const failed = Promise.withResolvers<never>();
  const runs = 2 + below(random, 4);
  for (let number = 1; number <= runs; ) {
    if (paths.length < number && random() < 0.15) {
      await begin(number++);
      ended.at(-1)!.catch(failed.reject);
    }
    const path = paths[below(random, paths.length)];
    if (path) {
      if (random() < 0.05) asleep.add(path);
      else if (random() < 0.1) asleep.delete(path);
      // What was sent arrives, whether the process sleeps or not; what is answered waits for it.
      const next = path.sent.shift();
      if (next && random() < 0.7) await Promise.race([next(), failed.promise]);
      else if (next) path.sent.unshift(next);
      if (!asleep.has(path) && random() < 0.8) path.answered.shift()?.();
    }
    await settled();
  }
  // All wake up.
  const all = Promise.all(ended);
  all.catch(failed.reject);
  for (;;) {
    const busy = paths.filter(({ sent, answered }) => sent.length + answered.length > 0);
    if (busy.length === 0) break;
    const path = busy[below(random, busy.length)]!;
    await Promise.race([path.sent.shift()?.() ?? settled(), failed.promise]);
    path.answered.shift()?.();
    await settled();
  }
  const states = await all;
  expect([seed, states.at(-1), await keysOf(unit)]).toEqual([
    seed,
    "done",
    [reservationKey(fence(runs)).toString(16), `5 by ${reservationKey(fence(runs)).toString(16)}`],
  ]);
}

test("no run writes after a later one has the unit, whatever sleeps and whatever is on its way", async () => {
  const tally = { writes: 0, refused: 0, taken: 0 };
  const cases = Number(process.env.LUNSYNC_TEST_CASES ?? 2000);
  for (let seed = 1; seed <= cases; seed++) await simulate(seed, tally);
  // It did something: runs have come to write, and were refused in the middle.
  expect(tally.writes).toBeGreaterThan(10 * cases);
  expect(tally.refused).toBeGreaterThan(cases / 4);
  expect(tally.taken).toBeGreaterThan(1.5 * cases);
});

describe("a unit that was taken", () => {
  test("stays with the run that has ended: a stranger is told what it is, and may read", async () => {
    const unit = new UnitUnderTest();
    const { volume } = await opened(unit, 1);
    expect(await volume.fence(fence(7))).toBe(true);
    await volume.write(0, block(7));
    await volume.flush();
    unit.server.nexusEnded(nexusOf(1));
    const stranger = await opened(unit, 2);
    const told =
      /^volume_in_use: Cannot write to unit: it is a replica of a replication set.*0x4c53ab3400000007.*"lunsync set release SET REPLICA"$/;
    expect(await refusal(stranger.volume.write(0, block(1)))).toMatch(told);
    expect(await refusal(stranger.volume.zero(0, 8))).toMatch(told);
    const data = Buffer.alloc(512);
    await stranger.volume.read(0, data);
    expect(data).toEqual(block(7)[0]);
  });

  test("is taken over by the next run, and not by an earlier one, another set's, or beside a cluster", async () => {
    const unit = new UnitUnderTest();
    const first = await opened(unit, 1);
    await first.volume.fence(fence(5));
    const second = await opened(unit, 2);
    await second.volume.fence(fence(6));
    expect(await keysOf(unit)).toEqual(["4c53ab3400000006", "5 by 4c53ab3400000006"]);
    const late = /^volume_in_use: unit has been taken from this run/;
    expect(await refusal(first.volume.write(0, block(5)))).toMatch(late);
    // For good, also for what a reservation does not concern.
    expect(await refusal(first.volume.read(0, Buffer.alloc(512)))).toMatch(late);
    expect(await refusal(first.volume.write(0, block(5)))).toMatch(late);
    await second.volume.write(0, block(6));

    const third = await opened(unit, 3);
    expect(await refusal(third.volume.fence(fence(4)))).toMatch(
      /run 6 of the set has taken it, and this is run 4, which is late/,
    );
    expect(await refusal(third.volume.fence(fence(9, "cd34".padEnd(32, "0"))))).toMatch(
      /a replica of another set.*0x4c53ab3400000006.*--force/,
    );
    expect(await keysOf(unit)).toEqual(["4c53ab3400000006", "5 by 4c53ab3400000006"]);
    await second.volume.unfence();
    expect(await keysOf(unit)).toEqual(["undefined by undefined"]);
    await third.volume.write(0, block(1));

    const list = pr.parameterList.encode({ serviceActionReservationKey: 0x123n });
    const cdb = pr.registerAndIgnore.encode({ parameterListLength: list.length });
    await unit.execute(nexusOf(3), cdb, [list]);
    expect(await refusal((await opened(unit, 4)).volume.fence(fence(10)))).toMatch(
      /somebody else has registered with the key 0x0000000000000123, a cluster perhaps/,
    );
    expect(await keysOf(unit)).toEqual(["123", "undefined by undefined"]);
    // The administrator's way out.
    const fifth = await opened(unit, 5);
    expect(await fifth.volume.fence(fence(10), { force: true })).toBe(true);
    expect(await keysOf(unit)).toEqual(["4c53ab340000000a", "5 by 4c53ab340000000a"]);
  });

  test("is taken in the place of the run that has it, by who rolls it back", async () => {
    const unit = new UnitUnderTest();
    const run = await opened(unit, 1);
    const administrator = await opened(unit, 2);
    expect(await administrator.volume.takeFence()).toBe(false);
    await run.volume.fence(fence(5));
    expect(await administrator.volume.takeFence()).toBe(true);
    await administrator.volume.write(0, block(1));
    expect(await refusal(run.volume.write(0, block(5)))).toMatch(/has been taken from this run/);
    const next = await opened(unit, 3);
    await next.volume.fence(fence(6));
    await next.volume.write(0, block(6));
    expect(await refusal(administrator.volume.write(0, block(1)))).toMatch(/has been taken/);
  });

  test("is taken from who has died without giving it up, and from nobody else", async () => {
    const unit = new UnitUnderTest();
    const [dead, late, next] = [await opened(unit, 1), await opened(unit, 2), await opened(unit, 3)];
    const ifFenced = { ifFenced: true };
    // Whoever uses it goes on with that.
    expect(await next.volume.fence(fence(7), ifFenced)).toBe(false);
    expect(await keysOf(unit)).toEqual(["undefined by undefined"]);
    await dead.volume.fence(fence(6));
    expect(await refusal(late.volume.fence(fence(5), ifFenced))).toMatch(/this is run 5, which is late/);
    expect(await next.volume.fence(fence(7), ifFenced)).toBe(true);
    expect(await keysOf(unit)).toEqual(["4c53ab3400000007", "5 by 4c53ab3400000007"]);
    expect(await refusal(dead.volume.write(0, block(5)))).toMatch(/has been taken from this run/);
  });

  test("is looked at after a reconnection, before anything is repeated", async () => {
    for (const taken of [false, true]) {
      const unit = new UnitUnderTest();
      const { path, volume } = await opened(unit, 1);
      await volume.fence(fence(5));
      unit.server.nexusEnded(path.nexus);
      if (taken) await (await opened(unit, 2)).volume.fence(fence(6));
      unit.server.nexusBegan(path.nexus);
      const checked = await refusal(path.recognize((command) => path.now(command)));
      expect([taken, checked]).toEqual([
        taken,
        taken ? expect.stringMatching(/^volume_in_use: unit has been taken/) : "done",
      ]);
    }
  });

  test("commands that it does not answer any more are not waited for", async () => {
    const unit = new UnitUnderTest();
    const { path, volume } = await opened(unit, 1);
    await volume.fence(fence(5));
    path.waits = true;
    const aborted = refusal(volume.write(0, block(5)));
    path.sent.length = 0; // PREEMPT AND ABORT says nothing to who sent it
    path.waits = false;
    await (await opened(unit, 2)).volume.fence(fence(6));
    expect(await refusal(volume.read(0, Buffer.alloc(512)))).toMatch(/has been taken/);
    expect(await aborted).toMatch(/has been taken/);
  });
});

test("over a socket: what a run has sent is gone with its connection, also when the unit was given up since", async () => {
  await using folder = await WorkFolder.make();
  const file = folder.file("lun");
  await writeFile(file, Buffer.alloc(65_536));
  await using served = await serve(["--lun", file, "--state-dir", folder.file("state")]);
  await using proxy = await TcpProxy.to(served.url);
  await using slow = await openVolume(proxy.url, { writable: true });
  await slow.fence!(fence(5));
  const held = proxy.holdAfter(0);
  const writes = Array.from({ length: 8 }, (_, lba) => refusal(slow.write(lba, block(5))));
  await held;
  await using next = await openVolume(served.url, { writable: true });
  await next.fence!(fence(6));
  await next.unfence!();
  proxy.letGo();
  for (const written of await Promise.all(writes)) expect(written).toMatch(/has been taken from this run/);
  expect(await readFile(file)).toEqual(Buffer.alloc(65_536));
  await next.write(0, block(6));
});

test("a unit that answers everything with RESERVATION CONFLICT is not asked for ever", async () => {
  const { path, volume } = await opened(new UnitUnderTest(), 1);
  path.now = async () => ({ status: 0x18, sense: undefined, dataIn: Buffer.alloc(0) });
  expect(await refusal(volume.write(0, block(1)))).toMatch(/^volume_in_use: Command 8ah failed/);
  expect(await refusal(volume.fence(fence(1)))).toMatch(/^(volume_in_use|protocol_error): /);
});

test("a unit without persistent reservations is not fenced, and one that tells nonsense is not believed", async () => {
  const unit = new UnitUnderTest();
  const { path, volume } = await opened(unit, 1);
  const lacking = new Proxy(path, {
    get(target, key) {
      if (key !== "execute") {
        const value: unknown = Reflect.get(target, key, target);
        return typeof value === "function" ? value.bind(target) : value;
      }
      // An operation code that nobody has.
      return (command: ScsiCommand) =>
        target.now(
          command.cdb[0] === 0x5e ? { ...command, cdb: Buffer.from(command.cdb).fill(0xc7, 0, 1) } : command,
        );
    },
  });
  const without = await ScsiVolume.open(lacking, systemClock);
  expect(await without.fence(fence(1))).toBe(false);
  await without.write(0, block(1));
  for (const answer of [Buffer.alloc(0), Buffer.alloc(7), Buffer.alloc(8, 0xff), Buffer.alloc(20, 0x10)]) {
    const now = path.now.bind(path);
    path.now = async (command) => {
      const outcome = await now(command);
      return command.cdb[0] === 0x5e ? { ...outcome, dataIn: answer } : outcome;
    };
    expect(await refusal(volume.fence(fence(2)))).toMatch(/^protocol_error: .*wrongly, or in part only/);
    path.now = now;
  }
  expect(unit.unit.reservations).toBeInstanceOf(UnitReservations);
  expect((await unit.execute(path.nexus, inquiry.encode({ allocationLength: 36 }))).status).toBe(0);
  expect(() => reservationKey(fence(2 ** 32))).toThrow(/no reservation key/);
  expect(() => reservationKey(fence(1, "xy"))).toThrow(/no reservation key/);
});
