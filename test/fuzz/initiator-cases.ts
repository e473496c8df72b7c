// The initiator under fuzzing: between it and an honest target sits somebody who damages, drops, doubles and swaps what
// the target answers.
//
// What must hold: every command ends in an outcome or an AgentError, in time; nothing is written beside the buffer that
// was lent; and where digests are on and were not made anew, what a READ calls good is what the target has.
import { connect, createServer, type Server, type Socket } from "node:net";
import { AgentError } from "../../src/base/errors.ts";
import { IscsiSession } from "../../src/initiator/session.ts";
import * as codes from "../../src/iscsi/codes.ts";
import { framePdu, type Pdu, PduDecoder } from "../../src/iscsi/framing.ts";
import { systemClock } from "../../src/platform/clock.ts";
import { crc32c } from "../../src/platform/native-digest.ts";
import { systemRandom } from "../../src/platform/random.ts";
import { read16, write16 } from "../../src/scsi/sbc-commands.ts";
import { below, bytesOf, oneOf, randomOf } from "../support/data.ts";
import { TestTarget, targetName } from "../support/target.ts";
import { demand } from "./checked-session.ts";
import { chance, damage, type Random, reshaped } from "./mutate.ts";

const blockBytes = 512;
const blocks = 2048;
const readable = blocks / 2;

/** What becomes of the PDUs that the target sends, one after another: the bytes that go on instead. */
type Meddle = (frame: (header: Buffer, data: Buffer) => Buffer, pdu: Pdu) => Buffer[];

/** Forwards one connection. `meddle` gets what the target sends. */
function relay(client: Socket, port: number, meddle: Meddle): void {
  const target = connect({ port, host: "127.0.0.1", noDelay: true });
  const digests = { headerDigest: false, dataDigest: false };
  const decoder = new PduDecoder(crc32c, 1 << 24);
  const frame = (header: Buffer, data: Buffer) =>
    Buffer.concat(framePdu(crc32c, digests, Buffer.from(header), data.length > 0 ? [data] : []));
  let agreed = digests;
  const pdu = (each: Pdu) => {
    for (const bytes of meddle(frame, each)) client.write(bytes);
    const isLogin = (each.header[0]! & 0x3f) === codes.opcode.loginResponse;
    const text = each.data.toString("latin1");
    agreed = {
      headerDigest: agreed.headerDigest || /HeaderDigest=CRC32C\0/.test(text),
      dataDigest: agreed.dataDigest || /DataDigest=CRC32C\0/.test(text),
    };
    if (isLogin && (each.header[1]! & 0x83) === 0x83) {
      Object.assign(digests, agreed);
      Object.assign(decoder.digests, agreed);
    }
  };
  target.on("data", (chunk) => decoder.push(chunk, { pdu }));
  client.on("data", (chunk) => target.write(chunk));
  for (const [one, other] of [
    [client, target],
    [target, client],
  ] as const) {
    one.on("error", () => {});
    one.on("close", () => other.destroy());
  }
}

/** Damage of the line: wrong bits that a digest finds; PDUs that are missing, twice, in another order. */
function noise(random: Random, probability: number): Meddle {
  let kept: Buffer | undefined;
  return (frame, { header, data }) => {
    const bytes = frame(header, data);
    const before = kept;
    kept = undefined;
    const out = before ? [bytes, before] : [bytes];
    if (!chance(random, probability)) return out;
    switch (below(random, 5)) {
      case 0:
        return [];
      case 1:
        return [...out, bytes];
      case 2:
        kept = bytes;
        return before ? [before] : [];
      default: {
        // Up to three wrong bits are always found by CRC-32C in segments of this size.
        const copy = Buffer.from(bytes);
        for (let flips = 1 + below(random, 3); flips > 0; flips--)
          copy[below(random, copy.length)]! ^= 1 << below(random, 8);
        return [copy];
      }
    }
  };
}

/** Lies of the target: damage for which the digests are made anew. */
function lies(random: Random, probability: number): Meddle {
  return (frame, { header, data }) => {
    if (!chance(random, probability)) return [frame(header, data)];
    const [head, body] = [Buffer.from(header), Buffer.from(data)];
    for (let places = 1 + below(random, 3); places > 0; places--) {
      if (chance(random, 0.8)) damage(random, head);
      else damage(random, body);
    }
    const told = chance(random, 0.1) ? reshaped(random, body) : body;
    // The length that the header tells is damaged as often as any other field.
    const keepsLength = chance(random, 0.8);
    if (keepsLength) head.writeUIntBE(told.length, 5, 3);
    const bytes = keepsLength ? frame(head, Buffer.from(told)) : Buffer.concat([head, told]);
    return chance(random, 0.1) ? [bytes, bytes] : [bytes];
  };
}

export class FuzzedInitiator implements AsyncDisposable {
  readonly #target: TestTarget;
  readonly #content: Buffer;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #meddle: () => Meddle =
    () =>
    (frame, { header, data }) => [frame(header, data)];

  private constructor(target: TestTarget, content: Buffer) {
    this.#target = target;
    this.#content = content;
    this.#server = createServer((socket) => {
      this.#sockets.add(socket);
      socket.on("close", () => this.#sockets.delete(socket));
      relay(socket, target.port, this.#meddle());
    });
  }

  static async start(): Promise<FuzzedInitiator> {
    const content = bytesOf(randomOf(3), blocks * blockBytes);
    const made = new FuzzedInitiator(await TestTarget.serving([content]), content);
    await new Promise<void>((resolve) => made.#server.listen(0, "127.0.0.1", resolve));
    return made;
  }

  async one(random: Random): Promise<void> {
    const honest = chance(random, 0.5);
    const probability = oneOf(random, [0.02, 0.1, 0.3]);
    const digests = honest || chance(random, 0.5);
    this.#meddle = () => (honest ? noise(random, probability) : lies(random, probability));
    const address = {
      host: "127.0.0.1",
      port: (this.#server.address() as { port: number }).port,
      targetName,
      lun: 0,
      chap: undefined,
      chapTarget: undefined,
      headerDigest: digests,
      dataDigest: digests,
    };
    const began = performance.now();
    try {
      await using session = await IscsiSession.open(address, {
        initiatorName: "iqn.2026-11.com.example:fuzzed",
        clock: systemClock,
        random: systemRandom,
        crc32c,
        reconnectMs: 200,
        openTimeoutMs: 200,
        commandTimeoutMs: 200,
      });
      await Promise.allSettled(
        Array.from({ length: 1 + below(random, 8) }, () => this.#command(session, random, honest)),
      ).then((results) => {
        for (const result of results) if (result.status === "rejected") throw result.reason;
      });
    } catch (error) {
      if (!(error instanceof AgentError)) throw error;
    }
    const ms = performance.now() - began;
    demand(ms < 15_000, () => `it took ${Math.round(ms)} ms`);
    for (const socket of this.#sockets) socket.destroy();
  }

  /** One command, in the middle of canaries; the upper half of the volume is for writing. */
  async #command(session: IscsiSession, random: Random, honest: boolean): Promise<void> {
    const count = 1 + below(random, 64);
    const lba = below(random, readable - count);
    const bytes = count * blockBytes;
    const address = { logicalBlockAddress: BigInt(lba), transferLength: count };
    const whole = Buffer.alloc(bytes + 8192, 0xca);
    const middle = whole.subarray(4096, 4096 + bytes);
    const writes = chance(random, 0.3);
    try {
      if (writes) {
        const cdb = write16.encode({ ...address, logicalBlockAddress: BigInt(lba + readable) });
        await session.execute({ cdb, dataOut: [middle] });
        return;
      }
      const outcome = await session.execute({ cdb: read16.encode(address), dataIn: middle });
      if (!honest || outcome.status !== 0) return;
      const due = this.#content.subarray(lba * blockBytes, lba * blockBytes + bytes);
      demand(
        outcome.dataIn.length === bytes,
        () => `a READ of ${bytes} bytes is good with ${outcome.dataIn.length}`,
      );
      demand(outcome.dataIn.equals(due), () => `a READ at LBA ${lba} is good with wrong data`);
    } catch (error) {
      if (!(error instanceof AgentError)) throw error;
    } finally {
      const around = Buffer.concat([whole.subarray(0, 4096), whole.subarray(4096 + bytes)]);
      demand(
        around.every((byte) => byte === 0xca) && (!writes || middle.every((byte) => byte === 0xca)),
        () => "a byte beside the buffer was written",
      );
    }
  }

  /** What the target had is still there. */
  async checkAll(): Promise<void> {
    const faults = this.#target.log.splice(0).filter((line) => line.startsWith("error"));
    demand(faults.length === 0, () => faults.join("\n"));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
    await this.#target[Symbol.asyncDispose]();
  }
}
