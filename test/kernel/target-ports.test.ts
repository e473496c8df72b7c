// What a kernel with two paths to one LUN learns of ports, groups and names; dm-multipath with its ALUA handler on top.
import { truncate, writeFile } from "node:fs/promises";
import { beforeAll, describe, expect, test } from "vitest";
import { buildGuest, inGuest, openIscsi, whyNoGuest } from "../support/guest.ts";
import { serve, WorkFolder } from "../support/lunsync.ts";

const MiB = 1024 * 1024;

describe.skipIf(whyNoGuest() !== undefined)("a Linux kernel with two portals", () => {
  beforeAll(() => buildGuest());

  test("takes them for one port group that is always active, and for one unit", async () => {
    await using folder = await WorkFolder.make();
    const file = folder.file("lun");
    await writeFile(file, "");
    await truncate(file, 32 * MiB);
    await using served = await serve([
      "--lun",
      file,
      "--state-dir",
      folder.file("state"),
      "--listen",
      "127.0.0.1:0",
      "--listen",
      "127.0.0.1:0",
    ]);
    const ports = served.urls.map((url) => Number(/:(\d+)\//.exec(url)![1]));
    const target = decodeURIComponent(/\/([^/]+)\/0$/.exec(served.url)![1]!);
    const [a, b] = ports as [number, number];
    const output = await inGuest(
      `${openIscsi}
      up
      modprobe -a scsi_dh_alua dm_multipath dm_round_robin
      for port in ${a} ${b}; do
        login 127.0.0.1:$port ${target} >/dev/null
      done
      until [ -e /dev/sda ] && [ -e /dev/sdb ] && [ -e /dev/sg1 ]; do sleep 0.1; done
      for d in sda sdb; do
        i=0
        until grep -q active /sys/block/$d/device/access_state || [ $i = 100 ]; do i=$((i + 1)); sleep 0.1; done
        echo "$d: $(cat /sys/block/$d/device/dh_state) $(cat /sys/block/$d/device/access_state)"
        echo "$d: wwid $(cat /sys/block/$d/device/wwid)"
      done
      dmesg | grep 'alua: port group'
      sg_rtpg -d /dev/sg0
      sg_rtpg -d -e /dev/sg1
      sg_opcodes -t /dev/sg0
      sg_logs -a /dev/sg0
      for page in ei mpp sp; do sg_vpd -p $page /dev/sg0; done
      size=$(cat /sys/block/sda/size)
      dmsetup create --noudevsync --noudevrules both --table \
        "0 $size multipath 0 1 alua 1 1 round-robin 0 2 1 $(cat /sys/block/sda/dev) 1 $(cat /sys/block/sdb/dev) 1"
      dmsetup mknodes both
      dd if=/dev/zero of=/dev/mapper/both bs=1M count=4 oflag=direct 2>/dev/null
      dmsetup status both
      dmsetup remove both`,
      { hostPorts: ports },
    );
    for (const disk of ["sda", "sdb"]) {
      expect(output).toContain(`${disk}: alua active/optimized\n`);
    }
    const names = [...output.matchAll(/: wwid (.*)/g)].map(([, name]) => name);
    expect(names).toHaveLength(2);
    expect(names[0]).toBe(names[1]);
    expect(names[0]).toMatch(/^(naa\.3[0-9a-f]{15}|t10\.LUNSYNC +[0-9a-f]{32})$/);
    expect(output).toMatch(/alua: port group 01 state A non-preferred supports tolusnA/);
    expect(output.match(/asymmetric access state : 0x00 \(active\/optimized\)/g)).toHaveLength(2);
    expect(output).toMatch(/Abort task set\n.*Logical unit reset/s);
    expect(output).toMatch(/Informational Exceptions page {2}\[0x2f\]/);
    expect(output).toMatch(/MLUS=0, {2}Policy: shared.*Relative port=1/s);
    expect(output).toMatch(/ multipath .* A 0 2 0 \d+:\d+ A 0 \d+:\d+ A 0/);
    expect(await served.end()).toBe(0);
  });
});
