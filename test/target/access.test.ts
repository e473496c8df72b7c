// Who gets in: rules by name and address, what each initiator may do, and a flood of strangers that stops nobody.
import { readFile } from "node:fs/promises";
import { connect, type Socket } from "node:net";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { taskFunction as func, taskResponse as response } from "../../src/iscsi/codes.ts";
import * as wire from "../../src/iscsi/pdu.ts";
import { parseNetwork } from "../../src/platform/network-set.ts";
import { read10, write10 } from "../../src/scsi/sbc-commands.ts";
import {
  inquiry,
  modeSense6,
  reportLuns,
  reportSupportedOperationCodes,
} from "../../src/scsi/spc-commands.ts";
import { encodeDigests32 } from "../../src/scsi/vendor-commands.ts";
import { AccessPolicy, allRights, parseInitiatorRule } from "../../src/target/access.ts";
import { RefusalLog } from "../../src/target/refusal-log.ts";
import { bytesOf, randomOf } from "../support/data.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { lunsync, run, serve, WorkFolder } from "../support/lunsync.ts";
import { RawInitiator } from "../support/raw-initiator.ts";
import { TestTarget, targetName } from "../support/target.ts";
import { dataOf, nexusOf, reported, UnitUnderTest } from "../support/unit.ts";

const content = Buffer.alloc(64 * 512, 5);
const rule = (text: string) => parseInitiatorRule(text)!;
const rawName = "iqn.2026-11.com.example:raw";

describe("rules", () => {
  test("the first that names an initiator decides; without rules everybody may do everything", () => {
    const policy = new AccessPolicy(["iqn.x:db1,ro", "iqn.x:db*", "iqn.y:*,plain,ro"].map(rule));
    expect(policy.rightsOf("iqn.x:db1")).toEqual({ writes: false, digests: true });
    expect(policy.rightsOf("IQN.X:DB12")).toEqual(allRights);
    expect(policy.rightsOf("iqn.y:")).toEqual({ writes: false, digests: false });
    for (const stranger of ["iqn.x:d", "iqn.x", "", "xiqn.y:a"])
      expect(policy.rightsOf(stranger)).toBeUndefined();
    expect(new AccessPolicy().rightsOf("anybody")).toEqual(allRights);
  });

  test("addresses go by their network, IPv4 within IPv6 too", () => {
    const policy = new AccessPolicy(
      [],
      ["192.0.2.0/24", "2001:db8::/32", "127.0.0.1"].map((text) => parseNetwork(text)!),
    );
    for (const inside of ["192.0.2.77", "::ffff:192.0.2.77", "2001:db8:1::9", "127.0.0.1"])
      expect([inside, policy.admits(inside)]).toEqual([inside, true]);
    for (const outside of [
      "192.0.3.1",
      "::ffff:192.0.3.1",
      "2001:db9::1",
      "127.0.0.2",
      undefined,
      "nonsense",
    ])
      expect([outside, policy.admits(outside)]).toEqual([outside, false]);
    fc.assert(
      fc.property(fc.ipV4(), fc.integer({ min: 0, max: 32 }), fc.ipV4(), (network, prefix, address) => {
        const number = (text: string) => text.split(".").reduce((sum, each) => sum * 256 + Number(each), 0);
        const shift = 2 ** (32 - prefix);
        const same = Math.floor(number(network) / shift) === Math.floor(number(address) / shift);
        expect(new AccessPolicy([], [{ address: network, prefix }]).admits(address)).toBe(same);
      }),
    );
  });

  test("of a wrong form are refused when the program starts", async () => {
    for (const text of ["", "a b", "iqn.*x", "iqn.x,rw"]) expect(parseInitiatorRule(text)).toBeUndefined();
    for (const text of ["", "host", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.1/x"])
      expect(parseNetwork(text)).toBeUndefined();
    const none = await lunsync(["serve", "--lun", "/dev/null", "--initiator", "iqn.2026-11.x:y,lun=1"]);
    expect([none.status, none.stderr]).toEqual([
      2,
      expect.stringMatching(/names LUN 1; the last one .* is 0/),
    ]);
    const refused = await lunsync(["serve", "--lun", "/dev/null", "--from", "10.0.0.0/64"]);
    expect(refused.status).toBe(2);
    expect(refused.stderr).toMatch(/"10\.0\.0\.0\/64" is no value of --from: the form is/);
  });
});

describe("an initiator", () => {
  test("that no rule names finds no target and can't log in", async () => {
    await using target = await TestTarget.serving([content], {
      access: new AccessPolicy([rule("iqn.other:*")]),
    });
    await expect(RawInitiator.login(target.port, targetName)).rejects.toThrow("login status 2/3"); // 0203h
    expect(target.log.some((line) => line.includes(rawName))).toBe(true);
    const discovered = await run("iscsi-ls", [`iscsi://127.0.0.1:${target.port}/`]);
    expect(discovered.stdout).not.toContain(targetName);
  });

  test("without the right to write reads, is refused writes of every kind, and sees WP", async () => {
    const target = new UnitUnderTest(64);
    const nexus = { ...nexusOf(1), rights: { writes: false, digests: true } };
    target.server.nexusBegan(nexus);
    target.unit.takeAttention(nexus);
    expect(reported(await target.execute(nexus, read10.encode({ transferLength: 1 })))).toBe(0);
    expect(
      reported(await target.execute(nexus, write10.encode({ transferLength: 1 }), [Buffer.alloc(512)])),
    ).toBe("writeProtected");
    const sensed = dataOf(
      await target.execute(nexus, modeSense6.encode({ pageCode: 8, allocationLength: 64 })),
    );
    expect(sensed[2]! & 0x80).toBe(0x80);
  });

  test("without the right to digests finds no trace of the vendor commands", async () => {
    const target = new UnitUnderTest(64);
    const nexus = { ...nexusOf(1), rights: { writes: true, digests: false } };
    const other = target.nexus(2);
    target.server.nexusBegan(nexus);
    target.unit.takeAttention(nexus);
    const list = reportSupportedOperationCodes.encode({ allocationLength: 65535 });
    const codes = async (of: typeof other) => {
      const data = dataOf(await target.execute(of, list));
      return new Set(Array.from({ length: data.readUInt32BE(0) / 8 }, (_, i) => data[4 + 8 * i]));
    };
    expect([...(await codes(nexus))].some((code) => code === 0x7f || code! >= 0xc0)).toBe(false);
    expect((await codes(other)).has(0x7f)).toBe(true);
    const cdb = encodeDigests32.encode({});
    expect(reported(await target.execute(nexus, cdb))).toBe("invalidOperationCode");
    expect(reported(await target.execute(other, cdb))).not.toBe("invalidOperationCode");
    const pages = dataOf(await target.execute(nexus, inquiry.encode({ evpd: true, allocationLength: 255 })));
    expect([...pages.subarray(4)].every((code) => code < 0xc0)).toBe(true);
    for (const code of [0xc0, 0xd1, 0xf0])
      expect(
        reported(
          await target.execute(nexus, inquiry.encode({ evpd: true, pageCode: code, allocationLength: 255 })),
        ),
      ).toBe("invalidFieldInCdb");
  });
});

describe("an initiator whose rule names LUNs", () => {
  const other = bytesOf(randomOf(2), 64 * 512);
  const access = new AccessPolicy([rule(`${rawName},lun=1`), rule("iqn.*")]);

  test("finds those, and the others as if they were not there", async () => {
    await using target = await TestTarget.serving([content, other, other], { access });
    await using raw = await RawInitiator.login(target.port, targetName);
    await raw.settle(1n << 48n);
    for (const lun of [0n, 1n << 48n, 7n << 48n]) {
      const list = (await raw.command(reportLuns.encode({ allocationLength: 256 }), 256, undefined, lun))
        .dataIn;
      expect(list.toString("hex")).toBe("00000008000000000001000000000000");
    }
    for (const lun of [0n, 2n << 48n, 7n << 48n]) {
      const found = await raw.command(inquiry.encode({ allocationLength: 96 }), 96, undefined, lun);
      expect(found.dataIn[0]).toBe(0x7f);
      const page = inquiry.encode({ evpd: true, pageCode: 0x83, allocationLength: 255 });
      expect((await raw.command(page, 255, undefined, lun)).sense).toMatchObject({ key: 5, asc: 0x24 });
      const read = await raw.command(read10.encode({ transferLength: 1 }), 512, undefined, lun);
      expect([read.status, read.sense?.asc, read.dataIn.length]).toEqual([2, 0x25, 0]);
      raw.sendCommand(
        write10.encode({ transferLength: 1 }),
        { write: true, lun, expectedDataTransferLength: 512 },
        Buffer.alloc(512, 0xee),
      );
      expect((await raw.outcome()).sense?.asc).toBe(0x25);
    }
    const read = await raw.command(read10.encode({ transferLength: 1 }), 512, undefined, 1n << 48n);
    expect(read.dataIn.equals(other.subarray(0, 512))).toBe(true);
    expect(await readFile(target.files[0]!)).toEqual(content);
  });

  test("resets those alone; nobody else is disturbed", async () => {
    await using target = await TestTarget.serving([content, other], { access });
    await using raw = await RawInitiator.login(target.port, targetName);
    const name = "iqn.2026-11.com.example:else";
    await using undisturbed = await RawInitiator.login(target.port, targetName, [], undefined, name);
    for (const lun of [0n, 1n << 48n]) await undisturbed.settle(lun);
    for (const [lun, what, due] of [
      [0n, func.logicalUnitReset, response.lunDoesNotExist],
      [0n, func.clearTaskSet, response.lunDoesNotExist],
      [0n, func.targetWarmReset, response.authorizationFailed],
      [0n, func.targetColdReset, response.authorizationFailed],
      [1n << 48n, func.targetColdReset, response.authorizationFailed],
      [1n << 48n, func.logicalUnitReset, response.functionComplete],
    ] as const) {
      const fields = { immediate: true, function: what, lun, initiatorTaskTag: 9, cmdSN: raw.cmdSN };
      raw.send(wire.taskManagementRequestPdu.encode(fields));
      expect(wire.taskManagementResponsePdu.decode((await raw.next()).header).response).toBe(due);
    }
    expect((await undisturbed.command(Buffer.alloc(6))).status).toBe(0);
    const other1 = await undisturbed.command(Buffer.alloc(6), 0, undefined, 1n << 48n);
    expect(other1.sense).toMatchObject({ key: 6, asc: 0x29 });
  });
});

test("a connection from an address that is not allowed is closed before it can say anything", async () => {
  await using target = await TestTarget.serving([content], {
    access: new AccessPolicy([], [{ address: "192.0.2.0", prefix: 24 }]),
  });
  await expect(RawInitiator.login(target.port, targetName)).rejects.toThrow();
  expect(target.log).toContain("warning: refused 127.0.0.1: its address is not allowed");
});

test("the log of strangers is bounded, and says what it left out", () => {
  const clock = new FakeClock();
  const lines: string[] = [];
  const log = new RefusalLog(clock, (_, message) => lines.push(message));
  for (let i = 0; i < 5000; i++) log.add("warning", `stranger ${i}`);
  expect(lines.length).toBe(20);
  clock.advance(10_000);
  expect(lines.at(-1)).toBe("4980 more refused connections in the last seconds");
  log.add("warning", "later");
  expect(lines.at(-1)).toBe("later");
});

test("a thousand idle, slow and half-done connections stop nobody", async () => {
  await using folder = await WorkFolder.make();
  await run("truncate", ["-s", "8M", folder.file("lun")]);
  await using served = await serve(["--lun", folder.file("lun"), "--state-dir", folder.file("state")]);
  const { port, pathname } = new URL(served.url.replace("iscsi:", "http:"));
  const name = decodeURIComponent(pathname.split("/")[1]!);
  await using working = await RawInitiator.login(Number(port), name);
  const cdb = read10.encode({ transferLength: 8 });
  await working.command(cdb, 4096); // power on
  const half = wire.loginRequestPdu.encode({ versionMax: 0, currentStage: 1 }).subarray(0, 20);
  const sockets: Socket[] = [];
  let slow: NodeJS.Timeout | undefined;
  try {
    for (let i = 0; i < 1000; i++) {
      const socket = connect({ port: Number(port), host: "127.0.0.1" });
      socket.on("error", () => {});
      if (i % 3 === 1) socket.write(half);
      sockets.push(socket);
      if (i % 50 === 0) {
        await new Promise((resolve) => setImmediate(resolve));
        expect((await working.command(cdb, 4096)).dataIn.length).toBe(4096);
      }
    }
    slow = setInterval(() => {
      for (const socket of sockets) if (socket.writable) socket.write("\x43");
    }, 100);
    // Others still get in, and the one that was there goes on.
    for (let i = 0; i < 5; i++) {
      await using another = await RawInitiator.login(
        Number(port),
        name,
        [],
        Buffer.from([0x80, 0, 0, 0, 1, i]),
      );
      await another.command(cdb, 4096);
      expect((await another.command(cdb, 4096)).dataIn.length).toBe(4096);
      expect((await working.command(cdb, 4096)).dataIn.length).toBe(4096);
    }
    expect(served.stderr.split("\n").length).toBeLessThan(100);
  } finally {
    clearInterval(slow);
    for (const socket of sockets) socket.destroy();
  }
  expect(await served.end()).toBe(0);
});
