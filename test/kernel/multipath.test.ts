// Two portals of one target, one multipath device: the loss of a path is survived, and the path comes back.
import { createHash, randomBytes } from "node:crypto";
import { readFile, truncate, writeFile } from "node:fs/promises";
import { beforeAll, describe, expect, test } from "vitest";
import { buildGuest, inGuest, openIscsi, whyNoGuest } from "../support/guest.ts";
import { serve, WorkFolder } from "../support/lunsync.ts";
import { freePort } from "../support/machines.ts";

const MiB = 1024 * 1024;
const target = "iqn.2026-11.com.example:paths";

describe.skipIf(whyNoGuest() !== undefined)("dm-multipath over two portals", () => {
  beforeAll(() => buildGuest());

  test("goes on when one of them is lost, and takes it back", async () => {
    await using folder = await WorkFolder.make();
    const file = folder.file("lun");
    await writeFile(file, "");
    await truncate(file, 32 * MiB);
    const content = randomBytes(24 * MiB);
    await writeFile(folder.file("data"), content);
    const ports = [await freePort(), await freePort()];
    const listen = ports.flatMap((port) => ["--listen", `127.0.0.1:${port}`]);
    await using served = await serve([
      "--lun",
      file,
      "--state-dir",
      folder.file("state"),
      "--target",
      target,
      ...listen,
    ]);
    const output = await inGuest(
      `${openIscsi}
      up
      modprobe -a dm_multipath dm_round_robin
      quick="node.session.timeo.replacement_timeout=2 node.conn[0].timeo.noop_out_interval=2 node.conn[0].timeo.noop_out_timeout=5"
      login 127.0.0.1:${ports[0]} ${target} $quick
      login 127.0.0.1:${ports[1]} ${target} $quick
      until [ -b /dev/sdb ]; do sleep 0.1; done
      sleep 0.5
      same=$(for d in /dev/sda /dev/sdb; do sg_vpd -p di --quiet $d 2>/dev/null || sg_vpd -p 0x83 $d; done | grep -c '0x3')
      echo "one unit: $same"
      sectors=$(cat /sys/block/sda/size)
      echo "0 $sectors multipath 1 queue_if_no_path 0 1 1 round-robin 0 2 1 8:0 8 8:16 8" | dmsetup create mp
      dmsetup mknodes
      mp=/dev/mapper/mp
      # What multipathd does; on a slow machine, a path may be lost although nobody has cut it.
      watch() {
        while sleep 0.5; do
          for path in 8:0=sda 8:16=sdb; do
            disk=\${path#*=}
            dmsetup status mp | grep -q " \${path%=*} F " || continue
            [ "$(cat /sys/block/$disk/device/state)" = running ] || continue
            dd if=/dev/$disk of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null || continue
            dmsetup message mp 0 reinstate_path \${path%=*}
          done
        done
      }
      watch &
      becomes() { until dmsetup status mp | grep "$1"; do sleep 0.2; done; }
      copy() { dd if=/share/data of=$mp bs=1M skip=$1 seek=$1 count=$2 oflag=direct 2>/dev/null && echo "copied $1"; }
      copy 0 6
      nft add table ip cut
      nft 'add chain ip cut out { type filter hook output priority -200; }'
      nft add rule ip cut out tcp dport ${ports[0]} drop
      copy 6 6
      becomes '8:0 F [0-9]*.*8:16 A'
      nft flush chain ip cut out
      becomes '8:0 A [0-9]*.*8:16 A'
      nft add rule ip cut out tcp dport ${ports[1]} drop
      copy 12 12
      becomes '8:0 A [0-9]*.*8:16 F'
      nft flush chain ip cut out
      sync
      echo 3 >/proc/sys/vm/drop_caches
      md5sum <$mp | cut -c1-32`,
      { hostPorts: ports, share: folder.path },
    );
    for (const start of [0, 6, 12]) expect(output).toContain(`copied ${start}\n`);
    // The first path failed, the second active; both; and the other way round.
    expect(output).toMatch(/8:0 F \d+.*8:16 A \d+[\s\S]*8:0 A \d+.*8:16 A \d+[\s\S]*8:0 A \d+.*8:16 F \d+/);
    const whole = await readFile(file);
    expect(whole.subarray(0, content.length).equals(content)).toBe(true);
    expect(output).toContain(createHash("md5").update(whole).digest("hex"));
    expect(await served.end()).toBe(0);
  });
});
