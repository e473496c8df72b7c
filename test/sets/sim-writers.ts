// Those who write beside a replication set: users of the source, and of whoever is a side since a failover; strangers to whom a
// replica is no replica.
import { below, bytesOf } from "../support/data.ts";
import type { SimDisk } from "./sim-disk.ts";
import type { SimHost } from "./sim-host.ts";
import type { SimManager } from "./sim-process.ts";
import type { Roles } from "./sim-roles.ts";
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

interface Used {
  readonly time: SimTime;
  readonly random: Random;
  readonly judge: { readonly roles: Roles };
  readonly managers: readonly SimManager[];
}

/**
 * A user of a member: he writes as long as it is a side. Where its host can't refuse him, he was told to stop before a
 * failback; where it can, he goes on until it does.
 */
export function user(world: Used, host: SimHost, times: number): void {
  const { time, random, judge, managers } = world;
  const { lba, data } = blocksFor(random, host.disk);
  if (times > 1) time.after(time.delayMs() * 4, undefined, () => user(world, host, times - 1));
  if (!host.up || host.offline || !judge.roles.isSide(host)) return;
  const refuses = host.fences || host.served?.journal.header.label !== undefined;
  if (!refuses) {
    if (!host.journal && !managers.some(({ bringing }) => bringing)) host.disk.put(lba, data);
    return;
  }
  const connection = host.login(`a user of ${host.name}`);
  const write = () =>
    host.carryOut(connection, async (served) => {
      host.admit(connection);
      await served.write(lba, [data]);
      if (chance(random, 0.3)) await served.flush();
    });
  void write().catch(() => {});
}
