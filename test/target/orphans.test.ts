// Commands that still execute when their connection is gone: nothing that comes later may be overtaken by them.
import { expect, test, vi } from "vitest";
import * as codes from "../../src/iscsi/codes.ts";
import * as wire from "../../src/iscsi/pdu.ts";
import { write10 } from "../../src/scsi/sbc-commands.ts";
import { RawInitiator } from "../support/raw-initiator.ts";
import { TestTarget, targetName } from "../support/target.ts";

const isid = (last: number) => Buffer.from([0x80, 1, 2, 3, 4, last]);

/** A target with a WRITE that its volume holds back, whose connection is gone. */
async function orphaned() {
  const target = await TestTarget.serving([Buffer.alloc(64 * 1024)]);
  const { volume } = target.units[0]!;
  const gate = Promise.withResolvers<void>();
  const write = volume.write.bind(volume);
  let begun = false;
  volume.write = async (...args) => {
    begun = true;
    await gate.promise;
    await write(...args);
  };
  const raw = await RawInitiator.login(target.port, targetName, [], isid(1));
  await raw.settle();
  raw.sendCommand(
    write10.encode({ transferLength: 1 }),
    { write: true, expectedDataTransferLength: 512 },
    Buffer.alloc(512, 0xaa),
  );
  await vi.waitFor(() => expect(begun).toBe(true));
  raw.socket.destroy();
  await vi.waitFor(() => expect(target.log.join("\n")).toMatch(/ended: the initiator closed it/));
  return { target, release: gate.resolve };
}

/** Whether `promise` is settled after a while. */
async function settles(promise: Promise<unknown>, ms = 100): Promise<boolean> {
  const late = new Promise((resolve) => setTimeout(resolve, ms, "late"));
  return (await Promise.race([promise.then(() => "settled"), late])) === "settled";
}

test("the same initiator port logs in again only when they have ended", async () => {
  const { target, release } = await orphaned();
  await using _ = target;
  const again = RawInitiator.login(target.port, targetName, [], isid(1));
  expect(await settles(again)).toBe(false);
  await using other = await RawInitiator.login(target.port, targetName, [], isid(2)); // others need not wait
  expect(other.closed).toBe(false);
  release();
  await using raw = await again;
  await raw.settle();
});

test("a reset of their unit is complete only when they have ended", async () => {
  const { target, release } = await orphaned();
  await using _ = target;
  await using raw = await RawInitiator.login(target.port, targetName, [], isid(2));
  const { logicalUnitReset } = codes.taskFunction;
  raw.send(
    wire.taskManagementRequestPdu.encode({
      immediate: true,
      function: logicalUnitReset,
      initiatorTaskTag: 1,
      cmdSN: raw.cmdSN,
    }),
  );
  const response = raw.next();
  expect(await settles(response)).toBe(false);
  release();
  expect(wire.taskManagementResponsePdu.decode((await response).header).response).toBe(0);
});

test("the target has stopped only when they have ended", async () => {
  const { target, release } = await orphaned();
  const disposed = vi.fn();
  const { volume } = target.units[0]!;
  const dispose = volume[Symbol.asyncDispose].bind(volume);
  volume[Symbol.asyncDispose] = () => {
    disposed();
    return dispose();
  };
  const stopped = target[Symbol.asyncDispose]();
  expect(await settles(stopped)).toBe(false);
  expect(disposed).not.toHaveBeenCalled();
  release();
  await stopped;
  expect(disposed).toHaveBeenCalledOnce();
});
