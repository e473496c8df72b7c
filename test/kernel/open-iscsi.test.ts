// Linux as the initiator: open-iscsi logs in to our target every way, uses it as a disk, and sg3_utils look at it.
import { createHash, randomBytes } from "node:crypto";
import { readFile, truncate, writeFile } from "node:fs/promises";
import { beforeAll, describe, expect, test } from "vitest";
import { encodeDigests32, submit16 } from "../../src/scsi/vendor-commands.ts";
import { buildGuest, Guest, inGuest, openIscsi, whyNoGuest } from "../support/guest.ts";
import { type Served, serve, WorkFolder } from "../support/lunsync.ts";

const absent = whyNoGuest();
if (absent !== undefined) console.log(`skipped, no kernel to test with: ${absent}`);
const MiB = 1024 * 1024;

const partsOf = (served: Served) => {
  const [, port, target] = /:(\d+)\/([^/]+)\/\d+$/.exec(served.url)!;
  return { port: Number(port), portal: `127.0.0.1:${port}`, target: decodeURIComponent(target!) };
};
const hex = (bytes: Buffer) => bytes.toString("hex").replace(/../g, "$& ").trim();

describe.skipIf(absent !== undefined)("a Linux kernel", () => {
  beforeAll(() => buildGuest());

  test("discovers, proves itself both ways, checks digests, makes a file system and finds it whole", async () => {
    await using folder = await WorkFolder.make();
    const file = folder.file("lun");
    await writeFile(file, "");
    await truncate(file, 64 * MiB);
    await writeFile(folder.file("in"), "initiator-secret", { mode: 0o600 });
    await writeFile(folder.file("out"), "target-secret-12", { mode: 0o600 });
    const chap = ["--chap", "joe", "--chap-secret-file", folder.file("in")];
    const mutual = ["--mutual-chap", "disks", "--mutual-chap-secret-file", folder.file("out")];
    await using served = await serve([
      "--lun",
      file,
      "--state-dir",
      folder.file("state"),
      ...chap,
      ...mutual,
    ]);
    const { port, portal, target } = partsOf(served);
    const output = await inGuest(
      `${openIscsi}
      up
      auth="authmethod=CHAP username=joe password=initiator-secret username_in=disks password_in=target-secret-12"
      iscsiadm -m discoverydb -t sendtargets -p ${portal} -o new >/dev/null
      for s in $auth; do iscsiadm -m discoverydb -t sendtargets -p ${portal} -o update -n discovery.sendtargets.auth.\${s%%=*} -v \${s#*=}; done
      iscsiadm -m discoverydb -t sendtargets -p ${portal} --discover
      login ${portal} ${target} && exit 9
      login ${portal} ${target} node.session.auth.authmethod=CHAP node.session.auth.username=joe \\
        node.session.auth.password=wrong-secret-123 && exit 8
      keys=; for s in $auth; do keys="$keys node.session.auth.$s"; done
      login ${portal} ${target} $keys node.conn[0].iscsi.HeaderDigest=CRC32C node.conn[0].iscsi.DataDigest=CRC32C
      d=$(disk)
      iscsiadm -m session -P 2 | grep -i digest
      mkfs.ext4 -q $d
      mkdir -p /mnt/a
      mount -t ext4 $d /mnt/a
      dd if=/dev/urandom of=/mnt/a/file bs=1M count=12 2>/dev/null
      sync
      md5sum </mnt/a/file
      umount /mnt/a
      fsck.ext4 -fn $d
      echo 3 >/proc/sys/vm/drop_caches
      mount -t ext4 $d /mnt/a
      md5sum </mnt/a/file
      umount /mnt/a
      iscsiadm -m node --logoutall=all >/dev/null`,
      { hostPorts: [port] },
    );
    expect(output).toContain(`${portal},1 ${target}`);
    expect(output).toMatch(/HeaderDigest: CRC32C\s+DataDigest: CRC32C/);
    const sums = [...output.matchAll(/^([0-9a-f]{32}) {2}-$/gm)].map(([, sum]) => sum);
    expect(sums.length).toBe(2);
    expect(sums[0]).toBe(sums[1]);
    expect(served.stderr).not.toMatch(/initiator-secret|target-secret|wrong-secret/);
    expect(await served.end()).toBe(0);
  });

  test("looks at it by sg3_utils, sends our vendor commands, and two initiators fence each other", async () => {
    await using folder = await WorkFolder.make();
    const file = folder.file("lun");
    const content = randomBytes(16 * MiB);
    await writeFile(file, content);
    await using served = await serve(["--lun", file, "--state-dir", folder.file("state")]);
    const { port, portal, target } = partsOf(served);
    // 16 extents of 64 KiB by SHA-256, and the 16-byte command with Data-Out.
    const encode = encodeDigests32.encode({
      digest: 2,
      extentSize: 7, // 128 blocks
      numberOfExtents: 16,
      initialValue: 0x1122334455667788n,
      allocationLength: 128,
    });
    const submit = submit16.encode({ parameterListLength: 4 });
    const output = await inGuest(
      `${openIscsi}
      up iqn.2026-11.com.example:one
      login ${portal} ${target}
      iscsiadm -m iface -I second -o new >/dev/null
      iscsiadm -m iface -I second -o update -n iface.initiatorname -v iqn.2026-11.com.example:two
      iscsiadm -m node -T ${target} -p ${portal} -I second -o new >/dev/null
      iscsiadm -m node -T ${target} -p ${portal} -I second --login
      until [ -e /dev/sg1 ]; do sleep 0.1; done
      sleep 0.5
      a=/dev/sg0 b=/dev/sg1
      say() { echo "== $*"; }
      say inq; sg_inq $a
      for p in 0x80 0x83 0x8f 0xb0 0xb1 0xb2; do say vpd $p; sg_vpd -p $p $a; done
      say opcodes; sg_opcodes $a
      say luns; sg_luns $a
      say readcap; sg_readcap -16 $a
      say modes; sg_modes -a $a | head -30
      say unmap; sg_unmap --force --lba=2048 --num=128 $a && sg_get_lba_status --lba=2048 $a
      say zeros; sg_dd if=$a skip=2048 bs=512 count=128 of=/run/zeros 2>/dev/null; tr -d '\\000' </run/zeros | wc -c
      say caw
      dd if=/dev/sda of=/run/now bs=512 count=1 2>/dev/null
      { cat /run/now; head -c 512 /dev/zero; } >/run/pair
      sg_compare_and_write --in=/run/pair --lba=0 --num=1 --xferlen=1024 $a; echo "first $?"
      sg_compare_and_write --in=/run/pair --lba=0 --num=1 --xferlen=1024 $a 2>&1 || echo "second $?"
      say vendor32; sg_raw -r 128 -b -o /run/digests $a ${hex(encode)} 2>&1 || true
      wc -c </run/digests
      say vendor16; head -c 4 /dev/zero >/run/list; sg_raw -s 4 -i /run/list $a ${hex(submit)} 2>&1 || true
      say persist
      sg_persist --out --register --param-sark=0xa1 $a
      sg_persist --out --register --param-sark=0xb2 $b
      sg_persist --out --reserve --param-rk=0xa1 --prout-type=5 $a
      sg_persist --in --read-full-status $b
      sg_persist --out --register --param-rk=0xb2 --param-sark=0 $b
      dd if=/dev/zero of=/dev/sdb bs=4096 seek=64 count=1 oflag=direct 2>/dev/null && echo "fenced: no" || echo "fenced: yes"
      dd if=/dev/zero of=/dev/sda bs=4096 seek=64 count=1 oflag=direct 2>/dev/null && echo "holder writes: yes"
      dd if=/dev/sdb of=/dev/null bs=4096 count=1 iflag=direct 2>/dev/null && echo "fenced reads: yes"
      sg_persist --out --register --param-sark=0xb2 $b
      sg_persist --out --preempt-abort --param-rk=0xb2 --param-sark=0xa1 --prout-type=1 $b
      dd if=/dev/zero of=/dev/sda bs=4096 seek=64 count=1 oflag=direct 2>/dev/null && echo "now fenced: no" || echo "now fenced: yes"
      sg_persist --in --read-reservation $b
      iscsiadm -m node --logoutall=all >/dev/null`,
      { hostPorts: [port] },
    );
    const part = (name: string) => output.split(`== ${name}\n`)[1]!.split("\n== ")[0]!;
    expect(part("inq")).toMatch(/LUNSYNC.*VOLUME/s);
    expect(part("vpd 0x83")).toMatch(/NAA, {2}code set: Binary\n\s+0x3/);
    expect(part("vpd 0x8f")).toMatch(/Third party copy/i);
    expect(part("vpd 0xb2")).toMatch(/Provisioning type: 2/);
    expect(part("opcodes")).toMatch(/Persistent reserve out.*Extended copy.*Compare and write/is);
    expect(part("unmap")).toMatch(/deallocated/i);
    expect(part("zeros").trim()).toBe("0");
    expect(part("caw")).toMatch(/first 0\n.*second 14/s); // SG_LIB_CAT_MISCOMPARE
    expect(part("vendor32")).not.toMatch(/Invalid command operation code/i);
    expect(part("vendor16")).not.toMatch(/Invalid command operation code/i);
    expect(part("persist")).toMatch(/Write Exclusive, registrants only/);
    for (const said of ["fenced: yes", "holder writes: yes", "fenced reads: yes", "now fenced: yes"]) {
      expect(output).toContain(`${said}\n`);
    }
    expect(part("persist")).toMatch(/Key=0xb2/);
  });

  test("writes on through the death of the target, and through a connection that is cut", async () => {
    await using folder = await WorkFolder.make();
    const file = folder.file("lun");
    const content = randomBytes(24 * MiB);
    await writeFile(file, "");
    await truncate(file, 32 * MiB);
    await writeFile(folder.file("data"), content);
    let served = await serve(["--lun", file, "--state-dir", folder.file("state")]);
    const { port, portal, target } = partsOf(served);
    const options = [
      "--lun",
      file,
      "--state-dir",
      folder.file("state"),
      "--listen",
      portal,
      "--target",
      target,
    ];
    try {
      const guest = await Guest.boot(
        `${openIscsi}
        up
        login ${portal} ${target} node.conn[0].timeo.noop_out_interval=1 node.conn[0].timeo.noop_out_timeout=2
        d=$(disk)
        echo ready
        i=0
        while [ $i -lt 24 ]; do
          dd if=/share/data of=$d bs=1M skip=$i seek=$i count=1 oflag=direct 2>/dev/null
          echo "block $i"
          i=$((i + 1))
        done
        sync
        md5sum <$d | cut -c1-32
        echo done`,
        { hostPorts: [port], share: folder.path },
      );
      await guest.said("block 3");
      await served.end("SIGKILL");
      await new Promise((resolve) => setTimeout(resolve, 1500));
      served = await serve(options);
      await guest.said("block 12");
      await served.end("SIGKILL");
      served = await serve(options);
      const { status, stdout, stderr } = await guest.ended;
      expect([status, stderr]).toEqual([0, expect.anything()]);
      expect(stdout).toContain("done\n");
      expect(await served.end()).toBe(0);
      const whole = await readFile(file);
      expect(whole.subarray(0, content.length).equals(content)).toBe(true);
      expect(stdout).toContain(createHash("md5").update(whole).digest("hex"));
    } finally {
      await served[Symbol.asyncDispose]();
    }
  });

  test("sees the LUN grow while it is in use", async () => {
    await using folder = await WorkFolder.make();
    const file = folder.file("lun");
    await writeFile(file, "");
    await truncate(file, 16 * MiB);
    await using served = await serve(["--lun", file, "--state-dir", folder.file("state")]);
    const { port, portal, target } = partsOf(served);
    const guest = await Guest.boot(
      `${openIscsi}
      up
      login ${portal} ${target}
      d=$(disk)
      cat /sys/block/\${d#/dev/}/size
      echo ready
      i=0
      # The kernel hears of it by a unit attention, and looks when it is told to.
      until dmesg | grep -q 'Capacity data has changed'; do
        dd if=$d of=/dev/null bs=4096 count=1 iflag=direct 2>/dev/null || true
        i=$((i + 1)); [ $i -lt 200 ]; sleep 0.2
      done
      iscsiadm -m session -R >/dev/null
      sleep 0.5
      cat /sys/block/\${d#/dev/}/size
      dd if=/dev/zero of=$d bs=1M seek=30 count=1 oflag=direct 2>/dev/null && echo "wrote past the old end"`,
      { hostPorts: [port] },
    );
    await guest.said("ready");
    await truncate(file, 32 * MiB);
    const { status, stdout } = await guest.ended;
    expect(stdout).toMatch(/^32768\nready\n65536\nwrote past the old end$/m);
    expect(status).toBe(0);
    expect(served.stderr).toMatch(/LUN 0 .* has 65536 blocks of 512 bytes now/);
  });
});
