// A volume of a logical unit that lies: whatever it answers, opening and using it ends in a result or an AgentError,
// after a bounded number of commands, and nothing is read outside of what it sent.
import { AgentError } from "../../src/base/errors.ts";
import { offeredDigests } from "../../src/digest/spec.ts";
import { systemClock } from "../../src/platform/clock.ts";
import type { ScsiCommand, ScsiDevice, ScsiOutcome } from "../../src/scsi/command.ts";
import { decodeSense, encodeSense } from "../../src/scsi/sense.ts";
import { ScsiVolume } from "../../src/volume/scsi-volume.ts";
import { below, bytesOf, oneOf } from "../support/data.ts";
import { nexusOf, UnitUnderTest } from "../support/unit.ts";
import { demand } from "./checked-session.ts";
import { chance, damage, type Random, reshaped } from "./mutate.ts";

const commandsMax = 5000;

/** A device whose answers are damaged now and then. */
class LyingDevice implements ScsiDevice {
  readonly name = "the liar";
  readonly cdbBytesMax: number;
  readonly queueDepth = 4;
  readonly transferBytesPreferred = 65_536;
  readonly traffic = { sent: 0, received: 0 };
  readonly #random: Random;
  readonly #probability: number;
  readonly #unit = new UnitUnderTest(256);
  readonly #nexus = nexusOf(1);
  #commands = 0;

  constructor(random: Random) {
    this.#random = random;
    this.#probability = oneOf(random, [0.02, 0.1, 0.4]);
    this.cdbBytesMax = oneOf(random, [16, 32]);
    this.#unit.server.nexusBegan(this.#nexus);
  }

  onReconnect(): void {}
  async [Symbol.asyncDispose](): Promise<void> {}

  async execute(command: ScsiCommand, signal?: AbortSignal): Promise<ScsiOutcome> {
    demand(++this.#commands < commandsMax, () => `more than ${commandsMax} commands`);
    signal?.throwIfAborted();
    const random = this.#random;
    // A command that waits for another (RECEIVE) is given up, as a transport would.
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(), 20);
    const result = await this.#unit.execute(
      this.#nexus,
      command.cdb,
      [...(command.dataOut ?? [])],
      late.signal,
    );
    clearTimeout(timer);
    if (late.signal.aborted) throw new AgentError("timeout", "no answer");
    const most = command.dataInBytes ?? command.dataIn?.length ?? 0;
    let dataIn = Buffer.concat(result.dataIn ?? []).subarray(0, most);
    result.release?.();
    let { status } = result;
    let sense = result.sense;
    if (chance(random, this.#probability)) {
      if (dataIn.length > 0 && chance(random, 0.8)) {
        dataIn = Buffer.from(dataIn);
        for (let places = 1 + below(random, 3); places > 0; places--) damage(random, dataIn);
        if (chance(random, 0.3)) dataIn = Buffer.from(reshaped(random, dataIn)).subarray(0, most);
      } else {
        status = oneOf(random, [0, 2, 2, 2, 8, 0x18, 0x28, 0x40, 0xff]);
        const bytes = sense ? encodeSense(sense) : Buffer.alloc(18);
        for (let places = below(random, 4); places > 0; places--) damage(random, bytes);
        sense = status === 2 ? decodeSense(bytes) : undefined;
      }
    }
    const into = command.dataIn?.subarray(0, dataIn.length);
    if (into) dataIn.copy(into);
    return { status, sense, dataIn: into ?? dataIn };
  }
}

export async function lyingUnitCase(random: Random): Promise<void> {
  // What a unit that is busy for ever would take is not waited for.
  const clock = { ...systemClock, sleep: async () => {}, monotonicMs: () => performance.now() };
  const agent = async (action: () => Promise<unknown>) => {
    try {
      await action();
    } catch (error) {
      if (!(error instanceof AgentError)) throw error;
    }
  };
  await agent(async () => {
    await using volume = await ScsiVolume.open(new LyingDevice(random), clock);
    const { blockBytes, blocks } = volume.geometry;
    demand(
      Number.isSafeInteger(blocks * blockBytes) && blocks > 0,
      () => `${blocks} blocks of ${blockBytes} bytes`,
    );
    const last = Math.max(0, Math.min(blocks, 256) - 32);
    for (let step = below(random, 12); step > 0; step--) {
      const lba = below(random, last + 1);
      const count = Math.min(blocks - lba, 1 + below(random, 32));
      const window = { lba, blocks: count };
      await agent(async () => {
        switch (below(random, 10)) {
          case 0:
            return volume.read(lba, Buffer.alloc(count * blockBytes), { fresh: chance(random, 0.5) });
          case 1:
            return volume.write(lba, [Buffer.alloc(count * blockBytes)], { durable: chance(random, 0.3) });
          case 2:
            return volume.zero(lba, count);
          case 3:
            return volume.flush();
          case 4:
          case 5: {
            const extents = Math.ceil(count / 4);
            const digests = {
              lba: lba - (lba % 4),
              extentBlocks: 4,
              extents,
              digest: oneOf(random, offeredDigests),
              initialValue: bytesOf(random, 16),
              width: oneOf(random, [8, 16] as const),
              fresh: chance(random, 0.5),
            };
            const answer = chance(random, 0.5)
              ? await volume.encodeDigests(digests)
              : await volume.decodeDigests(digests, bytesOf(random, extents * 16));
            const whole = answer.extents <= extents && answer.values.length >= answer.extents * digests.width;
            demand(whole, () => `${answer.extents} extents, ${answer.values.length} bytes`);
            return answer;
          }
          case 6: {
            const data = Buffer.alloc(count * blockBytes, below(random, 4));
            const runs = chance(random, 0.3) ? [window] : [{ ...window, data }, window];
            const options = { digest: oneOf(random, offeredDigests), level: below(random, 4) };
            return volume.traits.writesExtents && volume.writeExtents(runs, options);
          }
          case 7: {
            const digest = oneOf(random, offeredDigests);
            const identifier = bytesOf(random, digest.identifierBytes);
            const copies = Array.from({ length: below(random, 40) }, () => ({
              from: lba,
              to: below(random, last + 1),
              blocks: Math.min(count, 1 + below(random, 8)),
              identifier,
            }));
            if (!volume.traits.copiesExtents) return;
            const copied = await volume.copyExtents(copies, digest);
            demand(copied.length === copies.length, () => `${copied.length} of ${copies.length}`);
            return;
          }
          case 8: {
            const wanted = Math.min(blocks, 256) + below(random, 64);
            await volume.grow(wanted);
            const { geometry } = volume;
            demand(geometry.blocks >= wanted, () => `${geometry.blocks} blocks instead of ${wanted}`);
            return;
          }
          default: {
            const data = await volume.nextData(lba, count);
            const within =
              !data || (data.lba >= lba && data.blocks > 0 && data.lba + data.blocks <= lba + count);
            demand(within, () => `data at ${JSON.stringify(data)} within ${JSON.stringify(window)}`);
            return data;
          }
        }
      });
    }
  });
}
