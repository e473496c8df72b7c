// Linux mounts a restore point: an ext4 of some synchronizations ago, on a LUN that appears while the initiator is logged in,
// and stays what it is while the replica goes on.
import { writeFile } from "node:fs/promises";
import { beforeAll, describe, expect, test } from "vitest";
import { buildGuest, Guest, openIscsi, whyNoGuest } from "../support/guest.ts";
import { lunsync, run, serve, WorkFolder } from "../support/lunsync.ts";

const absent = whyNoGuest();
if (absent !== undefined) console.log(`skipped, no kernel to test with: ${absent}`);

/** An ext4 with one file that says which one it is, and some that fill it. */
async function fileSystem(folder: WorkFolder, name: string): Promise<string> {
  const [path, tree] = [folder.file(`${name}.img`), folder.file(`${name}.tree`)];
  await run("mkdir", [tree]);
  await writeFile(`${tree}/name`, `this is ${name}\n`);
  for (let i = 0; i < 40; i++) await writeFile(`${tree}/${i}`, Buffer.alloc(100_000, `${name} ${i} `));
  const made = await run("mkfs.ext4", ["-q", "-F", "-d", tree, path, "32M"]);
  expect(made.status).toBe(0);
  return path;
}

describe.skipIf(absent !== undefined)("a kernel's initiator", () => {
  beforeAll(buildGuest);

  test("finds a restore point as a disk of its own, mounts it, and reads it while the replica is synchronized", async () => {
    await using folder = await WorkFolder.make();
    const [first, second, third] = [
      await fileSystem(folder, "first"),
      await fileSystem(folder, "second"),
      await fileSystem(folder, "third"),
    ];
    const replica = folder.file("replica");
    await run("truncate", ["-s", "32M", replica]);
    await using served = await serve([
      ...["--lun", `${replica},whole`, "--keep", "9", "--state-dir", folder.file("state")],
    ]);
    const [, port, target] = /:(\d+)\/([^/]+)\/\d+$/.exec(served.url)!;
    for (const source of [first, second])
      expect((await lunsync(["sync", source!, served.url])).status).toBe(0);
    const guest = await Guest.boot(
      `${openIscsi}
      up
      login 127.0.0.1:${port} ${target}
      a=$(disk)
      echo "ready"
      until [ $(ls /sys/block | grep -c '^sd') -eq 2 ]; do
        iscsiadm -m session --rescan >/dev/null
        sleep 0.2
      done
      sleep 0.3
      for d in /sys/block/sd*; do [ "/dev/\${d##*/}" = "$a" ] || b=/dev/\${d##*/}; done
      echo "read-only: $(cat /sys/block/\${b##*/}/ro) $(cat /sys/block/\${a##*/}/ro)"
      cat /sys/block/\${a##*/}/device/wwid /sys/block/\${b##*/}/device/wwid
      mkdir -p /mnt/b
      mount -t ext4 -o ro,noload $b /mnt/b
      cat /mnt/b/name
      cat /mnt/b/[0-9]* | md5sum
      echo "mounted"
      until [ -e /share/synchronized ]; do sleep 0.1; done
      echo 3 >/proc/sys/vm/drop_caches
      cat /mnt/b/[0-9]* | md5sum
      umount /mnt/b
      fsck.ext4 -fn $b
      dd if=/dev/zero of=$b bs=4096 count=1 oflag=direct 2>/dev/null && echo "written" || echo "not written"
      iscsiadm -m node --logoutall=all >/dev/null`,
      { hostPorts: [Number(port)], share: folder.path },
    );
    await guest.said("ready");
    const shown = await lunsync(["points", "serve", served.url, "2", "--json"]);
    expect(shown.status).toBe(0);
    await guest.said("mounted");
    expect((await lunsync(["sync", third!, served.url, "--verify"])).status).toBe(0);
    await writeFile(folder.file("synchronized"), "");
    const { status, stdout, stderr } = await guest.ended;
    expect([status, stderr]).toEqual([0, expect.anything()]);
    expect(stdout).toContain("this is first\n");
    expect(stdout).toContain("read-only: 1 0\n");
    expect(stdout).toContain("not written\n");
    const names = stdout.match(/^t10\.LUNSYNC +[0-9a-f]{32}$/gm) ?? [];
    expect(new Set(names).size).toBe(2);
    const sums = [...stdout.matchAll(/^([0-9a-f]{32}) {2}-$/gm)].map(([, sum]) => sum);
    expect(sums.length).toBe(2);
    expect(sums[0]).toBe(sums[1]);
    expect((await run("cmp", [third!, replica])).status).toBe(0);
  });
});
