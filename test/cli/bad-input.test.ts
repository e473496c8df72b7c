// What goes wrong from the start: each ends in a clear message and its own exit status, and nothing is written.
import { chmod, chown, mkdir, readFile, symlink, truncate, writeFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { exitStatus } from "../../src/base/errors.ts";
import { randomOf, volumeOf, writePair } from "../support/data.ts";
import { LoopDevice, loopDevicesWork } from "../support/loop.ts";
import { type Finished, lunsync, run, serve, WorkFolder } from "../support/lunsync.ts";

const MiB = 1024 * 1024;

function expectRefusal(finished: Finished, code: string, status: number, words: RegExp): void {
  expect([finished.json().error.code, finished.status]).toEqual([code, status]);
  expect(finished.stderr).toMatch(words);
  // One line for people, no stack.
  expect(
    finished.stderr
      .trimEnd()
      .split("\n")
      .filter((line) => line.includes("    at ")),
  ).toEqual([]);
}

test("usage: unknown digest, mode, extent, command, option; missing arguments", async () => {
  for (const [args, words] of [
    [["compare", "a", "b", "--digest", "sha3"], /unknown digest "sha3"/],
    [["compare", "a", "b", "--digest", "md5("], /lacks a name/],
    [["compare", "a", "b", "--mode", "guess"], /encode, decode, verdict/],
    [["compare", "a", "b", "--extent", "100K"], /power of two/],
    [["compare", "a", "b", "--extent", "64M"], /power of two/],
    [["sync", "a", "b", "--bandwidth", "fast"], /bytes a second/],
    [["compare", "a"], /missing required argument/],
    [["sync", "a", "b", "--frobnicate"], /unknown option/],
    [["replicate", "a", "b"], /unknown command/],
    [["serve"], /--lun/],
    [["serve", "--lun", "a", "--target", "disks"], /no target name/],
    [["serve", "--lun", "a", "--listen", "nowhere"], /HOST:PORT/],
    [["serve", "--lun", "a", "--chap", "me"], /--chap-secret-file/],
    [["serve", "--lun", "a", "--chap-secret-file", "f"], /needs --chap/],
    [["serve", "--lun", "iscsi://127.0.0.1/iqn.2026-11.x:y/0"], /a LUN is a file or a block device/],
    [
      ["compare", "a", "iscsi://u%p@host/iqn.2026-11.x:y/0?target_user=t"],
      /the target's user and its secret, both/,
    ],
    [["compare", "a", "iscsi://host/iqn.2026-11.x"], /no iSCSI address/],
    [["compare", "a", "iscsi://user@host/iqn.2026-11.x:y/0"], /LUNSYNC_CHAP_SECRET/],
  ] as const) {
    const finished = await lunsync(args);
    expect([args, finished.status]).toEqual([args, exitStatus.usage]);
    expect(finished.stderr).toMatch(words);
  }
});

test("with --json, wrong usage is an object too", async () => {
  const finished = await lunsync(["compare", "a", "b", "--width", "9", "--json"]);
  expect([finished.status, finished.json().error.code]).toEqual([2, "usage"]);
});

test("a secret in a URL is in no message", async () => {
  const finished = await lunsync([
    "inquiry",
    "iscsi://me%verysecretword@127.0.0.1:1/iqn.2026-11.x:y/0",
    "--json",
  ]);
  expect(finished.status).toBe(exitStatus.cannotOpen);
  expect(finished.stdout + finished.stderr).not.toContain("verysecretword");
});

describe("volumes that can't be opened", () => {
  test("missing, a folder, empty, no whole number of blocks, not readable", async () => {
    await using folder = await WorkFolder.make();
    const good = folder.file("good");
    await writeFile(good, Buffer.alloc(MiB));
    await writeFile(folder.file("empty"), "");
    await writeFile(folder.file("odd"), Buffer.alloc(1000));
    await mkdir(folder.file("folder"));
    const compare = (name: string) => lunsync(["compare", good, folder.file(name), "--json"]);
    expectRefusal(
      await compare("missing"),
      "volume_missing",
      3,
      /Cannot open ".*missing" for reading: no such file/,
    );
    expectRefusal(
      await compare("folder"),
      "volume_unsuitable",
      3,
      /neither a regular file nor a block device/,
    );
    expectRefusal(await compare("empty"), "volume_unsuitable", 3, /it is empty/);
    expectRefusal(await compare("odd"), "volume_unsuitable", 3, /1000 bytes are no whole number of 512-byte/);

    // Root reads everything unless it gives the capability away.
    const secret = folder.file("secret");
    await writeFile(secret, Buffer.alloc(MiB));
    await chown(secret, 65534, 65534);
    await chmod(secret, 0);
    const without = "-dac_override,-dac_read_search";
    const through =
      process.getuid?.() === 0 ? ["setpriv", "--bounding-set", without, "--inh-caps", without] : [];
    const denied = await lunsync(["compare", good, secret, "--json"], { through });
    expectRefusal(denied, "volume_unreadable", 3, /permission denied/);
  });

  test("nobody listens, no such target, no such LUN, another protocol", async () => {
    await using folder = await WorkFolder.make();
    const disk = folder.file("disk");
    await writeFile(disk, Buffer.alloc(MiB));
    await using target = await serve(["--lun", disk]);
    const inquiry = (url: string) => lunsync(["inquiry", url, "--json"]);
    const [, portal] = /^iscsi:\/\/([^/]+)\//.exec(target.url)!;
    const nobody = await inquiry("iscsi://127.0.0.1:1/iqn.2026-11.com.example:x/0");
    expectRefusal(nobody, "connection_refused", 3, /Cannot connect to .*ECONNREFUSED.*is the target running/);
    expectRefusal(
      await inquiry(`iscsi://${portal}/iqn.2026-11.com.example:x/0`),
      "login_refused",
      3,
      /no such target/,
    );
    expectRefusal(await inquiry(target.url.replace(/0$/, "7")), "volume_missing", 3, /no such logical unit/);
  });

  test("a wrong CHAP secret, a missing one, one where none is wanted", async () => {
    await using folder = await WorkFolder.make();
    const disk = folder.file("disk");
    await writeFile(disk, Buffer.alloc(MiB));
    await writeFile(folder.file("secret"), "correct horse battery");
    await using open = await serve(["--lun", `${disk},ro`]);
    await using closed = await serve([
      "--lun",
      `${disk},ro`,
      "--chap",
      "me",
      "--chap-secret-file",
      folder.file("secret"),
    ]);
    const as = (url: string, login: string) =>
      lunsync(["inquiry", url.replace("//", `//${login}@`), "--json"]);
    expectRefusal(
      await as(closed.url, "me%incorrect horse battery"),
      "login_refused",
      3,
      /authentication failure/,
    );
    expectRefusal(
      await as(closed.url, "you%correct horse battery"),
      "login_refused",
      3,
      /authentication failure/,
    );
    expectRefusal(
      await lunsync(["inquiry", closed.url, "--json"]),
      "login_refused",
      3,
      /wants CHAP|authentication/,
    );
    expectRefusal(await as(open.url, "me%correct horse battery"), "login_refused", 3, /authenticat/);
    expect((await as(closed.url, "me%correct horse battery")).status).toBe(0);
    expect(closed.stderr).not.toContain("horse");
  });
});

describe("pairs that must not be", () => {
  test("another size, the same volume by any name", async () => {
    await using folder = await WorkFolder.make();
    const disk = folder.file("disk");
    await writeFile(disk, volumeOf(randomOf(1), MiB));
    await writeFile(folder.file("larger"), Buffer.alloc(MiB + 512));
    await symlink(disk, folder.file("link"));
    await run("ln", [disk, folder.file("hard")]);
    const sync = (source: string, replica: string) => lunsync(["sync", source, replica, "--json"]);
    expectRefusal(await sync(disk, folder.file("larger")), "size_mismatch", 4, /1048576 bytes.*1049088/);
    for (const name of ["disk", "link", "hard"]) {
      expectRefusal(await sync(disk, folder.file(name)), "volume_same", 4, /same volume/);
    }
    await using target = await serve(["--lun", folder.file("hard")]);
    expectRefusal(await sync(disk, target.url), "volume_same", 4, /same volume/);
    expectRefusal(await sync(target.url, disk), "volume_in_use", 4, /opened for writing by/);
  });

  test("another block size", async () => {
    await using folder = await WorkFolder.make();
    const [a, b] = [folder.file("a"), folder.file("b")];
    await writePair(a, b, 2, MiB, 3);
    await using target = await serve(["--lun", a]);
    await using other = await serve(["--lun", b, "--block-size", "4096"]);
    const refused = await lunsync(["sync", target.url, other.url, "--json"]);
    expectRefusal(refused, "block_size_mismatch", 4, /logical blocks of 512 bytes, the replica of 4096/);
    // A file has no blocks of its own: it takes the other side's.
    await target.end();
    expect((await lunsync(["sync", a, other.url])).status).toBe(0);
  });

  test("a replica that is read-only", async () => {
    await using folder = await WorkFolder.make();
    const [source, replica] = [folder.file("source"), folder.file("replica")];
    const { other } = await writePair(source, replica, 3, MiB, 3);
    await using target = await serve(["--lun", `${replica},ro`]);
    expectRefusal(
      await lunsync(["sync", source, target.url, "--json"]),
      "volume_readonly",
      4,
      /is read-only/,
    );
    expect((await lunsync(["compare", source, target.url])).status).toBe(1);
    expect(await readFile(replica)).toEqual(other);
  });

  test("a replica that somebody else writes", async () => {
    await using folder = await WorkFolder.make();
    const [source, replica] = [folder.file("source"), folder.file("replica")];
    await writePair(source, replica, 4, MiB, 3);
    await using _target = await serve(["--lun", replica]);
    expectRefusal(
      await lunsync(["sync", source, replica, "--json"]),
      "volume_in_use",
      4,
      /opened for writing by .*pid/,
    );
    await expect(serve(["--lun", replica])).rejects.toThrow(/opened for writing by/);
  });
});

describe.skipIf(!(await loopDevicesWork()))("block devices", () => {
  test("a loop device as source and as replica, by path and by iSCSI", async () => {
    await using folder = await WorkFolder.make();
    const [source, replica] = [folder.file("source"), folder.file("replica")];
    const { original } = await writePair(source, replica, 5, 4 * MiB, 12);
    await using from = await LoopDevice.over(source);
    await using to = await LoopDevice.over(replica);
    expect((await lunsync(["compare", from.path, to.path])).status).toBe(1);
    {
      await using target = await serve(["--lun", to.path]);
      expect((await lunsync(["sync", from.path, target.url, "--verify", "--json"])).json().identical).toBe(
        true,
      );
      expect(await target.end()).toBe(0);
    }
    expect(await readFile(replica)).toEqual(original);
    // The file behind a device is the device.
    expectRefusal(await lunsync(["compare", replica, to.path, "--json"]), "volume_same", 4, /same volume/);
    expectRefusal(await lunsync(["sync", source, replica, "--json"]), "volume_in_use", 4, /loop/);
  });

  test("a device with blocks of 4096 bytes", async () => {
    await using folder = await WorkFolder.make();
    const [source, replica] = [folder.file("source"), folder.file("replica")];
    const { original } = await writePair(source, replica, 6, 4 * MiB, 12);
    await using to = await LoopDevice.over(replica, ["--sector-size", "4096"]);
    const shipped = await lunsync(["sync", source, to.path, "--json"]);
    expect(shipped.json()).toMatchObject({ identical: true, blockBytes: 4096 });
    expect(await readFile(replica)).toEqual(original);
  });

  test("a device that is mounted is neither written nor served for writing", async () => {
    await using folder = await WorkFolder.make();
    const [source, replica] = [folder.file("source"), folder.file("replica")];
    for (const path of [source, replica]) {
      await writeFile(path, "");
      await truncate(path, 16 * MiB);
    }
    expect((await run("mkfs.ext4", ["-q", replica])).status).toBe(0);
    await using device = await LoopDevice.over(replica);
    await mkdir(folder.file("mount"));
    expect((await run("mount", [device.path, folder.file("mount")])).status).toBe(0);
    try {
      expectRefusal(
        await lunsync(["sync", source, device.path, "--json"]),
        "volume_mounted",
        4,
        /mounted at .*unmount/,
      );
      expectRefusal(
        await lunsync(["sync", source, replica, "--json"]),
        "volume_mounted",
        4,
        /mounted at .*unmount/,
      );
      await expect(serve(["--lun", device.path])).rejects.toThrow(/mounted at/);
      await using served = await serve(["--lun", `${device.path},ro`]);
      expect(served.stderr).toMatch(/warning: .*mounted at/);
    } finally {
      await run("umount", [folder.file("mount")]);
    }
  });
});
