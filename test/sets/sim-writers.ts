// Those who write beside a replication set: users of the source, and strangers to whom a replica is no replica.
import { below, bytesOf } from "../support/data.ts";
import type { SimDisk } from "./sim-disk.ts";
import type { SimHost } from "./sim-host.ts";
import { chance, type Random, type SimTime } from "./sim-time.ts";

/** Some blocks. Zeros, too: an extent of zeros is no record. */
function blocksFor(random: Random, { geometry }: SimDisk): { lba: number; data: Buffer } {
  const { blocks, blockBytes } = geometry;
  const lba = below(random, blocks);
  const count = 1 + below(random, Math.min(8, blocks - lba));
  const bytes = count * blockBytes;
  return { lba, data: chance(random, 0.3) ? Buffer.alloc(bytes) : bytesOf(random, bytes) };
}

/** A user of the source: `times` writes, one after another. */
export function writer(time: SimTime, random: Random, disk: SimDisk, times: number): void {
  const { lba, data } = blocksFor(random, disk);
  disk.put(lba, data);
  if (times > 1) time.after(time.delayMs() * 4, undefined, () => writer(time, random, disk, times - 1));
}

/** Somebody else logs in to a replica, and writes. */
export function stranger(random: Random, host: SimHost): void {
  if (!host.up || host.offline) return;
  const connection = host.login("a stranger");
  const write = async () => {
    for (let times = 1 + below(random, 3); times > 0; times--) {
      const { lba, data } = blocksFor(random, host.disk);
      await host.carryOut(connection, async (served) => {
        host.admit(connection);
        await served.write(lba, [data]);
      });
    }
    if (chance(random, 0.5)) await host.carryOut(connection, (served) => served.flush());
  };
  // What becomes of it is his own business.
  void write().catch(() => {});
}
