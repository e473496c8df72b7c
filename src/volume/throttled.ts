// A volume whose data may not pass faster than so many bytes a second: reads and writes wait their turn.
//
// Digests are held up only where the volume has to be read for them; what is copied by the volume's own host is not.
import { Semaphore } from "../base/async.ts";
import { lengthOf } from "../base/bytes.ts";
import type { Clock } from "../platform/clock.ts";
import {
  type DigestWindow,
  type ExtentRun,
  type ReadOptions,
  type Volume,
  type WriteExtentsOptions,
  type WriteOptions,
  windowBlocks,
} from "./volume.ts";

/** Bytes that may pass at once after a pause. */
const burstSeconds = 0.25;

export function throttled(volume: Volume, bytesPerSecond: number, clock: Clock): Volume {
  let freeAtMs = clock.monotonicMs();
  const wait = async (bytes: number, signal?: AbortSignal): Promise<void> => {
    const now = clock.monotonicMs();
    freeAtMs = Math.max(freeAtMs, now - 1000 * burstSeconds) + (1000 * bytes) / bytesPerSecond;
    if (freeAtMs > now) await clock.sleep(freeAtMs - now, signal);
  };
  const extentsTurn = new Semaphore(1);
  const waitToDigest = async (window: DigestWindow, signal?: AbortSignal): Promise<void> => {
    if (volume.traits.digests !== "read") return;
    await wait(windowBlocks(window, volume.geometry) * volume.geometry.blockBytes, signal);
  };
  return new Proxy(volume, {
    get(target, property) {
      switch (property) {
        case "read":
          return async (lba: number, buffer: Buffer, options?: ReadOptions, signal?: AbortSignal) => {
            await wait(buffer.length, signal);
            await target.read(lba, buffer, options, signal);
          };
        case "write":
          return async (
            lba: number,
            pieces: readonly Buffer[],
            options?: WriteOptions,
            signal?: AbortSignal,
          ) => {
            await wait(lengthOf(pieces), signal);
            await target.write(lba, pieces, options, signal);
          };
        case "readNow":
        case "writeNow":
          return undefined; // whoever reads and writes waits
        case "zero":
          return async (lba: number, blocks: number, options?: { unmap?: boolean }, signal?: AbortSignal) => {
            if (!target.traits.thin) await wait(blocks * target.geometry.blockBytes, signal);
            await target.zero(lba, blocks, options, signal);
          };
        case "writeExtents": {
          if (!target.writeExtents) return undefined;
          const writeExtents = target.writeExtents.bind(target);
          return async (runs: readonly ExtentRun[], options: WriteExtentsOptions, signal?: AbortSignal) => {
            // Only afterwards it is known how much had to pass: whoever comes next waits for it.
            const leave = await extentsTurn.acquire();
            try {
              await wait(0, signal);
              const bytes = await writeExtents(runs, options, signal);
              freeAtMs += (1000 * bytes) / bytesPerSecond;
              return bytes;
            } finally {
              leave();
            }
          };
        }
        case "encodeDigests":
          return async (window: DigestWindow, signal?: AbortSignal) => {
            await waitToDigest(window, signal);
            return target.encodeDigests(window, signal);
          };
        case "decodeDigests":
        case "compareDigests":
          return async (window: DigestWindow, values: Buffer, signal?: AbortSignal) => {
            await waitToDigest(window, signal);
            return target[property](window, values, signal);
          };
        default: {
          const value: unknown = Reflect.get(target, property, target);
          return typeof value === "function" ? value.bind(target) : value;
        }
      }
    },
  });
}
