// lunsync through a kernel's own initiator: sg:/dev/sgN of a LUN that is attached in the guest, the target on the host.
import { randomBytes } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { setTimeout as pause } from "node:timers/promises";
import { beforeAll, describe, expect, test } from "vitest";
import { buildGuest, Guest, inGuest, openIscsi, whyNoGuest } from "../support/guest.ts";
import { serve, WorkFolder } from "../support/lunsync.ts";
import { Tgt } from "../support/machines.ts";
import { packProgram, unpackProgram } from "../support/packed.ts";

const absent = whyNoGuest();
if (absent !== undefined) console.log(`skipped, no kernel to test with: ${absent}`);
const MiB = 1024 * 1024;

const partsOf = (url: string) => {
  const [, port, target] = /:(\d+)\/([^/]+)\/\d+$/.exec(url)!;
  return { port: Number(port), portal: `127.0.0.1:${port}`, target: decodeURIComponent(target!) };
};

/** `lunsync` is the program; `attach PORTAL TARGET` makes the LUN /dev/sg0 and /dev/sda, and gives up a lost path soon. */
const attached = `${openIscsi}${unpackProgram}
attach() {
  modprobe virtio_blk
  up
  portal=$1 target=$2
  shift 2
  login $portal $target node.session.timeo.replacement_timeout=5 "$@" >/dev/null
  disk >/dev/null
  until [ -e /dev/sg0 ]; do sleep 0.1; done
}
`;

/** What `lunsync --json` printed, each with its exit status. */
const reportsOf = (stdout: string) =>
  [...stdout.matchAll(/^(\{.*\})$(?:\n^status (\d+)$)?/gm)].map(([, json, status]) => ({
    status: Number(status ?? 0),
    report: JSON.parse(json!),
  }));

/** A source, a LUN that differs from it in every extent, what to serve the LUN with, and the program for the guest. */
async function differingIn(folder: WorkFolder) {
  const [source, lun] = [folder.file("source"), folder.file("lun")];
  const content = randomBytes(16 * MiB);
  await writeFile(source, content);
  await writeFile(lun, Buffer.alloc(16 * MiB, 1));
  await packProgram(folder.path);
  return { source, lun, content, options: ["--lun", lun, "--state-dir", folder.file("state")] };
}

describe.skipIf(absent !== undefined)("a LUN of a Linux kernel", () => {
  beforeAll(() => buildGuest());

  test("is compared and synchronized by its own digests; refused where it is mounted, no whole disk or the source", async () => {
    await using folder = await WorkFolder.make();
    const [source, lun] = [folder.file("source"), folder.file("lun")];
    const content = randomBytes(16 * MiB);
    await writeFile(source, content);
    const other = Buffer.from(content);
    for (const extent of [3, 100, 101, 255]) randomBytes(512).copy(other, extent * 65536);
    await writeFile(lun, other);
    await packProgram(folder.path);
    await using served = await serve(["--lun", lun, "--state-dir", folder.file("state")]);
    const { port, portal, target } = partsOf(served.url);
    const stdout = await inGuest(
      `${attached}
      attach ${portal} ${target}
      lunsync inquiry sg:/dev/sg0 --json
      lunsync compare /dev/vda sg:/dev/sg0 --json
      lunsync compare sg:/dev/sda /dev/vda --json --mode decode
      lunsync compare /dev/sda sg:/dev/sg0 --json
      lunsync compare sg:/dev/sg0 ${served.url} --json
      lunsync compare /dev/vda sg:/dev/vda --json
      lunsync sync /dev/vda sg:/dev/sg0 --json --verify --backup-dir /run/backup
      cmp /dev/vda /dev/sda && echo "the kernel reads what was written"
      lunsync compare /dev/vda sg:/dev/bsg/$(ls /sys/block/sda/device/bsg) --json
      lunsync undo /run/backup sg:/dev/sda
      lunsync compare /dev/vda sg:/dev/sg0 --json
      mkfs.ext4 -q /dev/sda
      mkdir /mnt/a
      mount -t ext4 /dev/sda /mnt/a
      lunsync sync /dev/vda sg:/dev/sg0 --json
      umount /mnt/a
      LUNSYNC_SGUTILS=libsgutils2-none.so lunsync compare /dev/vda sg:/dev/sg0 --json`,
      { hostPorts: [port], disks: [source], share: folder.path, memoryMiB: 1024 },
    );
    const [looked, compared, decoded, same, iscsi, virtio, synced, equal, undone, mounted, missing] =
      reportsOf(stdout);
    expect(looked!.report).toMatchObject({ volume: "sg:/dev/sg0", vendorCommands: true, bytes: 16 * MiB });
    for (const each of [compared!, decoded!, undone!]) {
      expect([each.status, each.report.extents.differing]).toEqual([1, 4]);
    }
    // Digests travelled, no data.
    expect(compared!.report.bytes.received).toBeLessThan(64 * 1024);
    for (const each of [same!, iscsi!])
      expect([each.status, each.report.error.code]).toEqual([4, "volume_same"]);
    expect(virtio!.report.error.message).toMatch(/no SCSI device/);
    expect([synced!.status, synced!.report.shipped.extents]).toEqual([0, 4]);
    expect(synced!.report.bytes.sent).toBeLessThan(MiB);
    expect(stdout).toContain("the kernel reads what was written\n");
    expect([equal!.status, equal!.report.identical]).toEqual([0, true]);
    expect([mounted!.status, mounted!.report.error.code]).toEqual([4, "volume_mounted"]);
    expect(mounted!.report.error.message).toMatch(/\/dev\/sda is mounted at \/mnt\/a/);
    expect(missing!.report.error.message).toMatch(/libsgutils2-none\.so.*apt-get install sg3-utils/);
    expect(await served.end()).toBe(0);
  });

  test("of another maker (tgt) is read; its controller is no disk", async () => {
    await using folder = await WorkFolder.make();
    const [source, replica] = [folder.file("source"), folder.file("replica")];
    const content = randomBytes(8 * MiB);
    await writeFile(source, content);
    const other = Buffer.from(content);
    randomBytes(512).copy(other, 77 * 65536);
    await writeFile(replica, other);
    await packProgram(folder.path);
    await using tgt = await Tgt.serving(replica);
    const { port, portal, target } = partsOf(tgt.url);
    const stdout = await inGuest(
      `${attached}
      attach ${portal} ${target}
      disk=$(basename /sys/block/sda/device/scsi_generic/*)
      lunsync compare /dev/vda sg:/dev/$disk --json
      lunsync sync /dev/vda sg:/dev/$disk --json --verify
      lunsync inquiry sg:/dev/sg0 --json`,
      { hostPorts: [port], disks: [source], share: folder.path, memoryMiB: 1024 },
    );
    const [compared, synced, controller] = reportsOf(stdout);
    expect([compared!.status, compared!.report.extents.differing]).toEqual([1, 1]);
    expect(compared!.report.bytes.received).toBeGreaterThanOrEqual(8 * MiB);
    expect([synced!.status, synced!.report.shipped.extents]).toEqual([0, 1]);
    expect(controller!.report.error.message).toMatch(/no disk \(peripheral device type 12\)/);
    expect((await readFile(replica)).equals(content)).toBe(true);
  });

  test("that is lost in the middle ends the run in words; when it is back, the next run goes on", async () => {
    await using folder = await WorkFolder.make();
    const { source, lun, options } = await differingIn(folder);
    let served = await serve(options);
    try {
      const { port, portal, target } = partsOf(served.url);
      const guest = await Guest.boot(
        `${attached}
        attach ${portal} ${target}
        echo begin
        lunsync sync /dev/vda sg:/dev/sg0 --json --bandwidth 1M
        echo lost
        until grep -q LOGGED_IN /sys/class/iscsi_session/*/state; do sleep 0.2; done
        until grep -q running /sys/block/sda/device/state; do echo running >/sys/block/sda/device/state || sleep 0.5; done
        lunsync compare /dev/vda sg:/dev/sg0 --json`,
        { hostPorts: [port], disks: [source], share: folder.path, memoryMiB: 1024 },
      );
      await guest.said("begin");
      while ((await readFile(lun)).at(2 * MiB) === 1) await pause(50);
      await served.end("SIGKILL");
      await guest.said("lost");
      served = await serve([...options, "--listen", portal, "--target", target]);
      const { stdout, stderr, status } = await guest.ended;
      expect([status, stderr]).toEqual([0, expect.anything()]);
      const [lost, back] = reportsOf(stdout);
      expect([lost!.status, lost!.report.error.code]).toEqual([6, "connection_lost"]);
      expect(lost!.report.error.message).toMatch(/lost the path to sg:\/dev\/sg0 .*bring it back/);
      expect([back!.status, back!.report.verdict]).toEqual([1, "different"]);
    } finally {
      await served[Symbol.asyncDispose]();
    }
  });

  test("whose target dies and comes back is checked, and written again until it is proved", async () => {
    await using folder = await WorkFolder.make();
    const { source, lun, content, options } = await differingIn(folder);
    let served = await serve(options);
    try {
      const { port, portal, target } = partsOf(served.url);
      const guest = await Guest.boot(
        `${attached}
        attach ${portal} ${target} node.session.timeo.replacement_timeout=60
        echo begin
        lunsync sync /dev/vda sg:/dev/sg0 --json --bandwidth 2M`,
        { hostPorts: [port], disks: [source], share: folder.path, memoryMiB: 1024 },
      );
      await guest.said("begin");
      while ((await readFile(lun)).at(3 * MiB) === 1) await pause(50);
      await served.end("SIGKILL");
      served = await serve([...options, "--listen", portal, "--target", target]);
      const { stdout, stderr, status } = await guest.ended;
      expect([status, stderr]).toEqual([0, expect.stringMatching(/connected to sg:\/dev\/sg0 anew/)]);
      const [synced] = reportsOf(stdout);
      expect([synced!.status, synced!.report.passes]).toEqual([0, 2]);
      expect((await readFile(lun)).equals(content)).toBe(true);
    } finally {
      await served[Symbol.asyncDispose]();
    }
  });

  test("that does not answer in time: the kernel aborts the command, and the run ends in words", async () => {
    await using folder = await WorkFolder.make();
    const lun = folder.file("lun");
    await writeFile(lun, Buffer.alloc(MiB));
    await packProgram(folder.path);
    await using served = await serve(["--lun", lun, "--state-dir", folder.file("state")]);
    const { port, portal, target } = partsOf(served.url);
    // The kernel gives a command as much time again if it was sent later than it was made (iscsi_eh_cmd_timed_out()), and
    // looks once a second.
    const guest = await Guest.boot(
      `${attached}
      attach ${portal} ${target} node.conn[0].timeo.noop_out_interval=0 \\
        node.conn[0].timeo.noop_out_timeout=0 node.session.err_timeo.abort_timeout=120
      count=/sys/block/sda/device/iotmo_cnt
      before=$(cat $count)
      echo attached
      until [ -e /share/silent ]; do sleep 0.2; done
      lunsync inquiry 'sg:/dev/sg0?timeout=2' --json >/run/said 2>/dev/null &
      until [ "$(cat $count)" != "$before" ]; do sleep 0.2; done
      sleep 7
      echo late
      wait
      cat /run/said`,
      { hostPorts: [port], share: folder.path, memoryMiB: 1024 },
    );
    await guest.said("attached");
    served.child.kill("SIGSTOP");
    await writeFile(folder.file("silent"), "");
    await guest.said("late");
    served.child.kill("SIGCONT");
    const { stdout, status } = await guest.ended;
    const [silent] = reportsOf(stdout);
    expect([status, silent!.status, silent!.report.error.code]).toEqual([0, 6, "timeout"]);
    expect(silent!.report.error.message).toMatch(
      /did not answer command [0-9a-f]{2}h in 2 s, and the kernel aborted/,
    );
  });
});
