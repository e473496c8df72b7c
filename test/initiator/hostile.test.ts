// Targets that send what they must not: the command fails with an AgentError, in time, and no byte lands where it may not.
import { createServer, type Server, type Socket } from "node:net";
import { afterEach, describe, expect, test } from "vitest";
import { AgentError } from "../../src/base/errors.ts";
import { IscsiSession } from "../../src/initiator/session.ts";
import * as codes from "../../src/iscsi/codes.ts";
import { framePdu, type Pdu, PduDecoder } from "../../src/iscsi/framing.ts";
import * as wire from "../../src/iscsi/pdu.ts";
import { systemClock } from "../../src/platform/clock.ts";
import { crc32c } from "../../src/platform/native-digest.ts";
import { systemRandom } from "../../src/platform/random.ts";
import { read16, write16 } from "../../src/scsi/sbc-commands.ts";
import { TargetLogin } from "../../src/target/login.ts";
import { below, bytesOf, oneOf, randomOf } from "../support/data.ts";

const noDigests = { headerDigest: false, dataDigest: false };
const name = "iqn.2026-11.com.example:hostile";

interface Peer {
  send(header: Buffer, data?: Buffer): void;
  raw(bytes: Buffer): void;
  readonly socket: Socket;
}
type Behaviour = (
  peer: Peer,
  pdu: Pdu,
  numbers: { statSN: number; expCmdSN: number; maxCmdSN: number },
) => void;

let server: Server | undefined;
const sockets = new Set<Socket>();
afterEach(async () => {
  for (const socket of sockets) socket.destroy();
  await new Promise<void>((resolve) => (server ? server.close(() => resolve()) : resolve()));
  server = undefined;
});

/** A target that logs everybody in and then does as it likes. Returns its port. */
async function hostile(behaviour: Behaviour): Promise<number> {
  const made = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    const login = new TargetLogin({
      hasTarget: () => true,
      chapFor: () => undefined,
      wishes: {
        InitialR2T: false,
        ImmediateData: true,
        MaxRecvDataSegmentLength: 65536,
        MaxBurstLength: 65536,
        FirstBurstLength: 65536,
      },
      portalGroupTag: 1,
      random: systemRandom,
    });
    const decoder = new PduDecoder(crc32c, 1 << 24);
    const raw = (bytes: Buffer) => void socket.write(bytes);
    const peer = {
      raw,
      socket,
      send: (header: Buffer, data?: Buffer) =>
        raw(Buffer.concat(framePdu(crc32c, noDigests, header, data ? [data] : []))),
    };
    let full = false;
    let statSN = 0;
    const pdu = (each: Pdu) => {
      if (full && (each.header[0]! & 0x3f) === codes.opcode.logoutRequest) {
        socket.destroy();
        return;
      }
      if (full) {
        const cmdSN = each.header.readUInt32BE(24);
        behaviour(peer, each, {
          statSN: statSN++,
          expCmdSN: (cmdSN + 1) >>> 0,
          maxCmdSN: (cmdSN + 30) >>> 0,
        });
        return;
      }
      const step = login.step(each.header, each.data);
      const reply = "reply" in step ? step.reply : login.accept(1, 1, 31);
      peer.send(reply.header, reply.data.length > 0 ? reply.data : undefined);
      if ("agreement" in step) {
        full = true;
        statSN = wire.loginResponsePdu.decode(reply.header).statSN + 1;
      }
    };
    socket.on("data", (chunk) => decoder.push(chunk, { pdu }));
  });
  server = made;
  await new Promise<void>((resolve) => made.listen(0, "127.0.0.1", resolve));
  return (made.address() as { port: number }).port;
}

function open(port: number) {
  const address = {
    host: "127.0.0.1",
    port,
    targetName: name,
    lun: 0,
    chap: undefined,
    chapTarget: undefined,
    headerDigest: false,
    dataDigest: false,
  };
  return IscsiSession.open(address, {
    initiatorName: "iqn.2026-11.com.example:agent",
    clock: systemClock,
    random: systemRandom,
    crc32c,
    reconnectMs: 100,
    openTimeoutMs: 1000,
    commandTimeoutMs: 1500,
  });
}

/** Reads 4096 bytes into the middle of a buffer of canaries. */
async function read(session: IscsiSession): Promise<{ outcome: string; intact: boolean; data: Buffer }> {
  const whole = Buffer.alloc(3 * 4096, 0xca);
  const dataIn = whole.subarray(4096, 8192);
  let outcome: string;
  try {
    const done = await session.execute({ cdb: read16.encode({ transferLength: 8 }), dataIn });
    outcome = `status ${done.status}, ${done.dataIn.length} bytes`;
  } catch (error) {
    if (!(error instanceof AgentError)) throw error;
    outcome = error.code;
  }
  const canaries = Buffer.concat([whole.subarray(0, 4096), whole.subarray(8192)]);
  return { outcome, intact: canaries.every((byte) => byte === 0xca), data: dataIn };
}

const dataIn = (pdu: Pdu, numbers: object, more: Parameters<typeof wire.dataInPdu.encode>[0] = {}) =>
  wire.dataInPdu.encode({
    final: true,
    hasStatus: true,
    initiatorTaskTag: pdu.header.readUInt32BE(16),
    targetTransferTag: codes.noTag,
    ...numbers,
    ...more,
  });
const page = Buffer.alloc(4096, 0x11);

test("an honest answer is taken", async () => {
  await using session = await open(
    await hostile((peer, pdu, numbers) => peer.send(dataIn(pdu, numbers), page)),
  );
  const { outcome, data } = await read(session);
  expect(outcome).toBe("status 0, 4096 bytes");
  expect(data.equals(page)).toBe(true);
});

describe("answers that must not be", () => {
  const response = (
    pdu: Pdu,
    numbers: object,
    more: Parameters<typeof wire.scsiResponsePdu.encode>[0] = {},
  ) => wire.scsiResponsePdu.encode({ initiatorTaskTag: pdu.header.readUInt32BE(16), ...numbers, ...more });
  const cases: [string, Behaviour][] = [
    [
      "more data than asked for",
      (peer, pdu, numbers) => peer.send(dataIn(pdu, numbers), Buffer.alloc(8192, 0xbb)),
    ],
    [
      "data behind the buffer",
      (peer, pdu, numbers) => peer.send(dataIn(pdu, numbers, { bufferOffset: 4096 }), page),
    ],
    [
      "data at an offset of 4 GiB",
      (peer, pdu, numbers) => peer.send(dataIn(pdu, numbers, { bufferOffset: 0xfffff000 }), page),
    ],
    [
      "data out of order",
      (peer, pdu, numbers) => peer.send(dataIn(pdu, numbers, { bufferOffset: 512 }), page.subarray(0, 512)),
    ],
    ["a wrong DataSN", (peer, pdu, numbers) => peer.send(dataIn(pdu, numbers, { dataSN: 9 }), page)],
    [
      "data for nobody",
      (peer, pdu, numbers) => peer.send(dataIn(pdu, numbers, { initiatorTaskTag: 0x55555555 }), page),
    ],
    [
      "a status for nobody",
      (peer, pdu, numbers) => peer.send(response(pdu, numbers, { initiatorTaskTag: 0x55555555 })),
    ],
    [
      "the same status twice",
      (peer, pdu, numbers) => {
        peer.send(response(pdu, { ...numbers, statSN: numbers.statSN + 1 }));
        peer.send(response(pdu, { ...numbers, statSN: numbers.statSN + 1 }));
      },
    ],
    [
      "a StatSN that is not due",
      (peer, pdu, numbers) => peer.send(dataIn(pdu, { ...numbers, statSN: 0x7fff0000 }), page),
    ],
    [
      "sense data longer than its segment",
      (peer, pdu, numbers) =>
        peer.send(response(pdu, numbers, { status: 2 }), Buffer.from([0xff, 0xff, 0x70, 0])),
    ],
    [
      "an R2T for a read",
      (peer, pdu, numbers) =>
        peer.send(
          wire.r2tPdu.encode({
            ...numbers,
            initiatorTaskTag: pdu.header.readUInt32BE(16),
            desiredDataTransferLength: 4096,
          }),
        ),
    ],
    [
      "an R2T for nobody",
      (peer, _pdu, numbers) =>
        peer.send(
          wire.r2tPdu.encode({ ...numbers, initiatorTaskTag: 0x55555555, desiredDataTransferLength: 512 }),
        ),
    ],
    [
      "a login response",
      (peer, pdu) =>
        peer.send(wire.loginResponsePdu.encode({ initiatorTaskTag: pdu.header.readUInt32BE(16) })),
    ],
    [
      "a Reject",
      (peer, pdu, numbers) =>
        peer.send(wire.rejectPdu.encode({ ...numbers, reason: 4 }), Buffer.from(pdu.header)),
    ],
    [
      "a segment longer than declared",
      (peer, pdu, numbers) => {
        const header = dataIn(pdu, numbers);
        header.writeUIntBE(0x800000, 5, 3);
        peer.raw(header);
      },
    ],
    [
      "half a PDU, then the end",
      (peer, pdu, numbers) => {
        peer.raw(dataIn(pdu, numbers).subarray(0, 30));
        peer.socket.end();
      },
    ],
    ["the end at once", (peer) => peer.socket.destroy()],
    ["noise", (peer) => peer.raw(bytesOf(randomOf(4), 5000))],
    ["nothing at all", () => {}],
  ];

  test.each(cases)("%s", async (_what, behaviour) => {
    await using session = await open(await hostile(behaviour));
    const { outcome, intact } = await read(session);
    expect([
      "protocol_error",
      "connection_lost",
      "connection_refused",
      "timeout",
      "command_failed",
    ]).toContain(outcome);
    expect(intact).toBe(true);
  });

  test("an R2T past what is written, and one of another burst length", async () => {
    for (const [bufferOffset, desiredDataTransferLength] of [
      [0, 0x1000000],
      [4096, 4096],
      [0, 0],
      [0xfffffff0, 512],
    ] as const) {
      const port = await hostile((peer, pdu, numbers) => {
        if ((pdu.header[0]! & 0x3f) !== codes.opcode.scsiCommand) return;
        peer.send(
          wire.r2tPdu.encode({
            ...numbers,
            initiatorTaskTag: pdu.header.readUInt32BE(16),
            bufferOffset,
            desiredDataTransferLength,
          }),
        );
      });
      await using session = await open(port);
      const written = session.execute({ cdb: write16.encode({ transferLength: 8 }), dataOut: [page] });
      await expect(written).rejects.toThrow(AgentError);
      for (const socket of sockets) socket.destroy();
      await new Promise<void>((resolve) => server?.close(() => resolve()));
    }
  });
});

test("answers with random damage: an outcome or an AgentError, and no byte astray", async () => {
  const random = randomOf(77);
  const port = await hostile((peer, pdu, numbers) => {
    const header = dataIn(pdu, numbers);
    header.writeUIntBE(4096, 5, 3);
    // Where something stands: opcode, flags, lengths, tags, numbers, offsets.
    const places = [0, 1, 4, 5, 6, 7, 16, 17, 18, 19, 24, 25, 26, 27, 36, 37, 38, 39, 40, 41, 42, 43];
    if (random() < 0.9) header[oneOf(random, places)] = below(random, 256);
    peer.raw(Buffer.concat([header, page]));
  });
  let failed = 0;
  for (let i = 0; i < 40; i++) {
    await using session = await open(port);
    const { outcome, intact, data } = await read(session);
    expect(intact).toBe(true);
    if (outcome === "status 0, 4096 bytes") expect(data.equals(page)).toBe(true);
    else failed++;
  }
  expect(failed).toBeGreaterThan(5); // the others were repeated, and came whole
});
