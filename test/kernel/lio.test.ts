// Linux as the target: our initiator synchronizes to LIO, which has none of our vendor commands.
import { randomBytes } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { beforeAll, describe, expect, test } from "vitest";
import { buildGuest, Guest, whyNoGuest } from "../support/guest.ts";
import { lunsync, WorkFolder } from "../support/lunsync.ts";
import { freePort } from "../support/machines.ts";

const MiB = 1024 * 1024;
const secret = "twelve-or-more";

/** LIO with a file as LUN 0, open and by CHAP, until /run/stop is there. */
const lio = (port: number) => `
  modprobe -a target_core_mod target_core_file iscsi_target_mod
  cfg=/sys/kernel/config/target
  mkdir -p $cfg/iscsi $cfg/core/fileio_0/file
  truncate -s 32M /run/lun
  echo "fd_dev_name=/run/lun,fd_dev_size=$((32 << 20))" >$cfg/core/fileio_0/file/control
  echo 1 >$cfg/core/fileio_0/file/enable
  echo 1 >$cfg/core/fileio_0/file/attrib/emulate_tpu
  echo 1 >$cfg/core/fileio_0/file/attrib/emulate_tpws
  for name in open chap; do
    t=$cfg/iscsi/iqn.2026-11.com.example:$name/tpgt_1
    mkdir -p $t/np/0.0.0.0:${port} $t/lun/lun_0
    ln -s $cfg/core/fileio_0/file $t/lun/lun_0/file
    echo 1 >$t/attrib/generate_node_acls
    echo 0 >$t/attrib/demo_mode_write_protect
    echo 0 >$t/attrib/authentication
    if [ $name = chap ]; then
      echo 1 >$t/attrib/authentication
      printf joe >$t/auth/userid
      printf ${secret} >$t/auth/password
    fi
    echo 1 >$t/enable
  done
  echo up
  sleep 300`;

describe.skipIf(whyNoGuest() !== undefined)("Linux' own target", () => {
  beforeAll(() => buildGuest());

  test("is synchronized and compared by READ and WRITE, with CHAP as well", async () => {
    await using folder = await WorkFolder.make();
    const source = folder.file("source");
    const content = randomBytes(32 * MiB);
    content.fill(0, 8 * MiB, 16 * MiB);
    await writeFile(source, content);
    const port = await freePort();
    const guest = await Guest.boot(lio(port), { guestPorts: [port] });
    try {
      await guest.said("up");
      const url = (name: string) => `iscsi://127.0.0.1:${port}/iqn.2026-11.com.example:${name}/0`;
      const first = await lunsync(["sync", source, url("open"), "--json"]);
      expect([first.status, first.stderr]).toEqual([0, expect.stringMatching(/no digest commands|READ/i)]);
      const same = await lunsync(["compare", source, url("open"), "--json"]);
      expect(same.status).toBe(0);

      content.write("changed", 20 * MiB);
      await writeFile(source, content);
      const env = { LUNSYNC_CHAP_SECRET: secret };
      const refused = await lunsync(["compare", source, url("chap")]);
      expect(refused.status).toBe(3);
      const withUser = url("chap").replace("iscsi://", "iscsi://joe@");
      const wrong = await lunsync(["compare", source, withUser], {
        env: { LUNSYNC_CHAP_SECRET: "something-else" },
      });
      expect(wrong.status).toBe(3);
      const differs = await lunsync(["compare", source, withUser, "--json"], { env });
      expect(differs.status).toBe(1);
      expect(differs.json().ranges.length).toBe(1);
      const shipped = await lunsync(["sync", source, withUser, "--json", "--verify"], { env });
      expect([shipped.status, shipped.stderr]).toEqual([0, expect.anything()]);
      expect(shipped.json().shipped.extents).toBe(1);
      expect((await lunsync(["compare", source, url("open")])).status).toBe(0);
    } finally {
      await guest.kill();
    }
  });
});
