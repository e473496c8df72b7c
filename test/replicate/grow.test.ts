// What is looked at before a replica grows: nobody makes it shorter again.
import { expect, test } from "vitest";
import { parseDigestSpec } from "../../src/digest/spec.ts";
import { growReplica } from "../../src/replicate/grow.ts";
import { checkPair } from "../../src/replicate/plan.ts";
import type { VolumeTraits } from "../../src/volume/volume.ts";
import { MemoryVolume } from "../support/memory-volume.ts";

const volume = (name: string, blocks: number, traits: Partial<VolumeTraits> = {}, blockBytes = 512) =>
  new MemoryVolume(name, Buffer.alloc(blocks * blockBytes, name), blockBytes, traits);

const grow = (source: MemoryVolume, replica: MemoryVolume, { extentBytes = 4096, dryRun = false } = {}) =>
  growReplica({ source, replica, digest: parseDigestSpec("sha256"), extentBytes }, dryRun);

test("a replica that is smaller gets the source's size; one that is as large is left alone", async () => {
  const [source, replica] = [volume("s", 300), volume("r", 100)];
  expect(await grow(source, replica)).toEqual({ from: 51_200, to: 153_600 });
  expect(replica.medium.equals(Buffer.concat([Buffer.alloc(51_200, "r"), Buffer.alloc(102_400)]))).toBe(true);
  checkPair(source, replica);
  replica.before = (operation) => expect(operation).not.toBe("grow");
  expect(await grow(source, replica)).toBeUndefined();
});

test.each([
  ["a replica that is larger", volume("s", 100), volume("r", 300), {}, "size_mismatch"],
  ["blocks of another size", volume("s", 300), volume("r", 10, {}, 4096), {}, "block_size_mismatch"],
  ["one volume", volume("s", 300), volume("s", 100), {}, "volume_same"],
  [
    "a replica that is read-only",
    volume("s", 300),
    volume("r", 100, { writable: false }),
    {},
    "volume_readonly",
  ],
  [
    "a digest that the replica does not offer",
    volume("s", 300),
    volume("r", 100, { digestsOffered: ["md5"] }),
    {},
    "digest_unknown",
  ],
  ["an extent of no whole blocks", volume("s", 300), volume("r", 100), { extentBytes: 600 }, "usage"],
  ["a dry run", volume("s", 300), volume("r", 100), { dryRun: true }, "size_mismatch"],
] as const)("%s is refused before anything grows", async (_what, source, replica, options, code) => {
  const blocks = replica.geometry.blocks;
  await expect(grow(source, replica, options)).rejects.toMatchObject({ code });
  expect(replica.geometry.blocks).toBe(blocks);
});
