// What the kernel says of a command, as outcome or in words. Host statuses as in Linux' include/scsi/scsi_status.h.
import { describe, expect, test } from "vitest";
import { SystemError } from "../../src/platform/errno.ts";
import type { PassThroughResult } from "../../src/platform/pass-through.ts";
import { status } from "../../src/scsi/command.ts";
import { parseSgAddress } from "../../src/volume/sg-address.ts";
import { judge } from "../../src/volume/sg-outcome.ts";

const good: PassThroughResult = {
  osError: undefined,
  refused: false,
  timedOut: false,
  category: 0,
  status: 0,
  hostStatus: 0,
  transportWords: "",
  residual: 0,
  dataInBytes: 0,
  sense: Buffer.alloc(0),
};
const at = (result: Partial<PassThroughResult>, dataOut: Buffer[] = []) =>
  judge(
    { ...good, ...result },
    {
      name: "sg:/dev/sg0",
      command: { cdb: Buffer.from("8a000000000000000000000000010000", "hex"), dataOut },
      timeoutMs: 60_000,
      outcome: () => ({ status: result.status ?? 0, sense: undefined, dataIn: Buffer.alloc(0) }),
    },
  );
const errno = (number: number) => new SystemError(number);

describe("a command through the kernel", () => {
  test("that the unit answered is delivered, whatever it answered", () => {
    for (const code of [0x00, 0x02, 0x08, 0x18, 0x28]) {
      expect(at({ status: code, category: code === 0 ? 0 : 1 })).toMatchObject({
        kind: "delivered",
        outcome: { status: code },
      });
    }
    // DID_NEXUS_FAILURE: how older kernels class RESERVATION CONFLICT.
    expect(at({ status: 0x18, hostStatus: 0x11, category: 3 })).toMatchObject({
      kind: "delivered",
      outcome: { status: status.reservationConflict },
    });
  });

  test("that the transport dropped is repeated; a lost path and a timeout end in words", () => {
    for (const hostStatus of [0x02, 0x07, 0x08, 0x0b, 0x0c, 0x0d, 0x0e, 0x14])
      expect(at({ hostStatus, category: 3 }).kind).toBe("repeat");
    for (const hostStatus of [0x01, 0x04, 0x0f]) {
      expect(
        at({ hostStatus, category: 3, transportWords: "Host_status=0x01 [DID_NO_CONNECT]" }),
      ).toMatchObject({
        kind: "failed",
        error: { code: "connection_lost", message: expect.stringMatching(/DID_NO_CONNECT.*run again/) },
      });
    }
    for (const late of [{ hostStatus: 0x03, category: 3 }, { timedOut: true }]) {
      expect(at(late)).toMatchObject({
        kind: "failed",
        error: { code: "timeout", message: expect.stringMatching(/command 8ah in 60 s/) },
      });
    }
    expect(at({ hostStatus: 0x7f, category: 3 }).kind).toBe("failed");
    expect(at({ category: 3, transportWords: "Driver_status=0x06" }).kind).toBe("failed");
  });

  test("that the kernel did not take: waited out, repeated, or said", () => {
    for (const [number, wanted] of [
      [12, { kind: "delivered", outcome: { status: status.busy } }], // ENOMEM
      [4, { kind: "repeat" }], // EINTR
      [19, { kind: "failed", error: { code: "connection_lost" } }], // ENODEV
      [
        1,
        { kind: "failed", error: { code: "volume_unreadable", message: expect.stringMatching(/as root/) } },
      ], // EPERM
      [22, { kind: "failed", error: { code: "command_failed" } }], // EINVAL
      [5, { kind: "failed", error: { code: "io_error" } }], // EIO
    ] as const) {
      expect(at({ osError: errno(number), category: 4 })).toMatchObject(wanted);
    }
  });

  test("of which not all data was taken does not count as done", () => {
    const data = [Buffer.alloc(512), Buffer.alloc(512)];
    expect(at({}, data).kind).toBe("delivered");
    expect(at({ residual: 512 }, data)).toMatchObject({
      kind: "failed",
      error: { code: "protocol_error", message: expect.stringMatching(/took 512 of 1024 bytes/) },
    });
    expect(at({ residual: 512, status: 0x02, category: 2 }, data).kind).toBe("delivered");
  });
});

test("addresses", () => {
  expect(parseSgAddress("sg:/dev/sg3")).toEqual({ path: "/dev/sg3", timeoutSeconds: 60 });
  expect(parseSgAddress("SG:/dev/sda?timeout=5")).toEqual({ path: "/dev/sda", timeoutSeconds: 5 });
  for (const [text, words] of [
    ["sg:", /absolute path/],
    ["sg:sg0", /absolute path/],
    ["sg:/dev/sg0?timeout=0", /no timeout/],
    ["sg:/dev/sg0?timeout=1e2", /no timeout/],
    ["sg:/dev/sg0?timeout=9999", /no timeout/],
    ["sg:/dev/sg0?depth=4", /unknown option depth/],
  ] as const) {
    expect(() => parseSgAddress(text)).toThrow(words);
  }
});
