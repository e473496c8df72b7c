// The main job as an administrator does it: serve, compare, sync, undo, inquiry.
import { readFile, stat, truncate, writeFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { differingRanges, randomOf, volumeOf, writePair } from "../support/data.ts";
import { lunsync, run, serve, WorkFolder } from "../support/lunsync.ts";

const extentBytes = 65536;

describe("over iSCSI", () => {
  test("compare finds what differs, sync ships just that, compare finds nothing more", async () => {
    await using folder = await WorkFolder.make();
    const [source, replica] = [folder.file("source"), folder.file("replica")];
    // No multiple of the extent.
    const { original, other } = await writePair(source, replica, 1, 20 * 1024 * 1024 + 512 * 7, 60);
    const expected = differingRanges(original, other, extentBytes, 512);
    await using target = await serve(["--lun", replica]);

    const compared = await lunsync(["compare", source, target.url, "--json"]);
    expect(compared.stderr).toBe("");
    expect(compared.status).toBe(1);
    const report = compared.json();
    expect(report.ranges).toEqual(expected);
    const extents = Math.ceil(original.length / extentBytes);
    expect(report.identical).toBe(false);
    expect(report.extents).toMatchObject({ total: extents, compared: extents });
    expect(report.bytes.volume).toBe(original.length);
    // Figure: at most 16 bytes an extent, all overhead included (a small volume has a login besides).
    expect(report.bytes.sent + report.bytes.received).toBeLessThan(16 * extents);
    expect(await readFile(replica)).toEqual(other);

    const shipped = await lunsync(["sync", source, target.url, "--json", "--verify"]);
    expect(shipped.status).toBe(0);
    const blocks = expected.reduce((sum, range) => sum + range.blocks, 0);
    expect(shipped.json()).toMatchObject({
      identical: true,
      ranges: expected,
      shipped: { extents: report.extents.differing, bytes: blocks * 512 },
      proved: report.extents.differing,
    });
    expect(await readFile(replica)).toEqual(original);

    const again = await lunsync(["compare", source, target.url]);
    expect(again.status).toBe(0);
    expect(again.stdout).toContain("IDENTICAL");
    expect(await target.end()).toBe(0);
  });

  test.each([
    ["encode", "sha256", 8],
    ["decode", "sha1", 8],
    ["decode", "md5", 16],
    ["verdict", "crc32c+md5", 8],
    ["verdict", "crc64", 16],
    ["encode", "crc32c(md5)", 16],
    ["encode", "sha512(crc64+sha1)", 8],
  ])("mode %s, digest %s, values of %i bytes", async (mode, digest, width) => {
    await using folder = await WorkFolder.make();
    const [source, replica] = [folder.file("source"), folder.file("replica")];
    const { original, other } = await writePair(source, replica, 2, 3 * 1024 * 1024 + 512, 12);
    await using target = await serve(["--lun", replica]);
    const common = ["--mode", mode, "--extent", "16K", "--width", `${width}`, "--json"];
    const offered = !digest.includes("sha512(");
    const compared = await lunsync(["compare", source, target.url, "--digest", digest, ...common]);
    if (!offered) {
      // A combination that the target does not list is refused, not guessed.
      expect(compared.status).toBe(2);
      expect(compared.json().error.code).toBe("digest_unknown");
      return;
    }
    expect(compared.json().ranges).toEqual(differingRanges(original, other, 16384, 512));
    expect((await lunsync(["sync", source, target.url, "--digest", digest, ...common])).status).toBe(0);
    expect(await readFile(replica)).toEqual(original);
  });

  test("both sides by iSCSI, blocks of 4096 bytes, several LUNs, a name of one's own", async () => {
    await using folder = await WorkFolder.make();
    const [source, replica] = [folder.file("source"), folder.file("replica")];
    const { original } = await writePair(source, replica, 3, 4096 * 700, 9);
    const name = "iqn.2026-11.com.example:disks";
    await using target = await serve([
      "--lun",
      `${source},ro`,
      "--lun",
      replica,
      "--block-size",
      "4096",
      "--target",
      name,
    ]);
    expect(target.urls).toHaveLength(2);
    expect(target.urls[1]).toMatch(/^iscsi:\/\/127\.0\.0\.1:\d+\/iqn\.2026-11\.com\.example:disks\/1$/);
    const shipped = await lunsync(["sync", target.urls[0]!, target.urls[1]!, "--json"]);
    expect(shipped.json()).toMatchObject({ identical: true, blockBytes: 4096 });
    expect(await readFile(replica)).toEqual(original);
  });

  test("header and data digests, CHAP in one direction and in both", async () => {
    await using folder = await WorkFolder.make();
    const [source, replica] = [folder.file("source"), folder.file("replica")];
    const { original } = await writePair(source, replica, 4, 2 * 1024 * 1024, 9);
    await writeFile(folder.file("secret"), "correct horse battery\n");
    await writeFile(folder.file("other"), "staple the other way\n");
    const chap = ["--chap", "agent", "--chap-secret-file", folder.file("secret")];
    const mutual = ["--mutual-chap", "disks", "--mutual-chap-secret-file", folder.file("other")];
    await using target = await serve(["--lun", replica, ...chap, ...mutual]);
    const url = target.url.replace("iscsi://", "iscsi://agent@");
    const env = { LUNSYNC_CHAP_SECRET: "correct horse battery" };
    const both = {
      ...env,
      LUNSYNC_CHAP_TARGET_USER: "disks",
      LUNSYNC_CHAP_TARGET_SECRET: "staple the other way",
    };
    expect((await lunsync(["compare", source, url], { env })).status).toBe(1);
    const query = "?header_digest=crc32c&data_digest=crc32c";
    expect((await lunsync(["sync", source, url + query, "--extent", "4K"], { env: both })).status).toBe(0);
    expect(await readFile(replica)).toEqual(original);
    const wrong = await lunsync(["compare", source, url], {
      env: { ...both, LUNSYNC_CHAP_TARGET_SECRET: "another one, wrong" },
    });
    expect(wrong.status).toBe(3);
    expect(wrong.stderr).toContain("did not prove its secret");
  });

  test("libiscsi's tools see a disk", async () => {
    await using folder = await WorkFolder.make();
    await writeFile(folder.file("disk"), volumeOf(randomOf(5), 1024 * 1024));
    await using target = await serve(["--lun", folder.file("disk")]);
    const portal = /^(iscsi:\/\/[^/]+)\//.exec(target.url)![1]!;
    const listed = await run("iscsi-ls", ["-s", portal]);
    expect(listed.stdout).toContain("Lun:0");
    const copied = await run("qemu-img", [
      "convert",
      "-f",
      "raw",
      "-O",
      "raw",
      target.url,
      folder.file("copy"),
    ]);
    expect(copied.stderr).toBe("");
    expect((await readFile(folder.file("copy"))).equals(await readFile(folder.file("disk")))).toBe(true);
  });
});

describe("options", () => {
  test("--dry-run writes nothing and says what differs", async () => {
    await using folder = await WorkFolder.make();
    const [source, replica] = [folder.file("source"), folder.file("replica")];
    const { other } = await writePair(source, replica, 6, 1024 * 1024, 5);
    const dry = await lunsync(["sync", source, replica, "--dry-run", "--json"]);
    expect(dry.status).toBe(1);
    expect(dry.json()).toMatchObject({ identical: false, dryRun: true, shipped: { extents: 0, bytes: 0 } });
    expect(await readFile(replica)).toEqual(other);
  });

  test("--backup-dir keeps what is overwritten; undo puts it back, once", async () => {
    await using folder = await WorkFolder.make();
    const [source, replica, kept] = [folder.file("source"), folder.file("replica"), folder.file("kept")];
    const { original, other } = await writePair(source, replica, 7, 5 * 1024 * 1024 + 512, 25);
    await using target = await serve(["--lun", replica]);
    const shipped = await lunsync(["sync", source, target.url, "--backup-dir", kept, "--json"]);
    expect(shipped.status).toBe(0);
    expect(await readFile(replica)).toEqual(original);
    const manifest = JSON.parse(await readFile(`${shipped.json().backup}/backup.json`, "utf8"));
    expect(manifest).toMatchObject({ format: "lunsync before-images", source, replica: target.url });
    expect(Date.parse(manifest.ended) - Date.parse(manifest.begun)).toBeGreaterThanOrEqual(0);
    // Onto the same volume by its path, where it was overwritten by iSCSI.
    await target.end();
    const undone = await lunsync(["undo", kept, replica]);
    expect(undone.stderr).toBe("");
    expect(undone.status).toBe(0);
    expect(await readFile(replica)).toEqual(other);
    expect((await lunsync(["undo", kept, replica])).status).toBe(3);
  });

  test("undo refuses another volume and a damaged folder, and writes nothing then", async () => {
    await using folder = await WorkFolder.make();
    const [source, replica, kept] = [folder.file("source"), folder.file("replica"), folder.file("kept")];
    const { original } = await writePair(source, replica, 8, 2 * 1024 * 1024, 20);
    await writeFile(folder.file("stranger"), original);
    const shipped = await lunsync(["sync", source, replica, "--backup-dir", kept, "--json"]);
    const strange = await lunsync(["undo", kept, folder.file("stranger"), "--json"]);
    expect(strange.status).toBe(4);
    expect(strange.json().error.code).toBe("identity_mismatch");
    const images = `${shipped.json().backup}/images-1`;
    const bytes = await readFile(images);
    for (const at of [3, 20, 70, Math.floor(bytes.length / 2), bytes.length - 700]) {
      const damaged = Buffer.from(bytes);
      damaged[at]! ^= 0x10;
      await writeFile(images, damaged);
      const refused = await lunsync(["undo", kept, replica, "--json"]);
      expect([at, refused.status, refused.json().error.code]).toEqual([at, 3, "backup_damaged"]);
    }
    expect(await readFile(replica)).toEqual(original);
  });

  test("--bandwidth holds data up, not digests", async () => {
    await using folder = await WorkFolder.make();
    const [source, replica] = [folder.file("source"), folder.file("replica")];
    const random = randomOf(9);
    await writeFile(source, volumeOf(random, 4 * 1024 * 1024));
    await writeFile(replica, Buffer.alloc(4 * 1024 * 1024));
    const compared = await lunsync(["compare", source, replica, "--bandwidth", "1M", "--json"]);
    expect(compared.json().seconds).toBeLessThan(3); // the data would take four
    const shipped = await lunsync(["sync", source, replica, "--bandwidth", "2M", "--json"]);
    const { seconds, shipped: done } = shipped.json();
    // A quarter of a second's worth may pass at once.
    expect(seconds).toBeGreaterThan(done.bytes / (2 * 1024 * 1024) - 1);
  });

  test("sparse files stay sparse", async () => {
    await using folder = await WorkFolder.make();
    const [source, replica] = [folder.file("source"), folder.file("replica")];
    const data = volumeOf(randomOf(10), 1024 * 1024);
    await writeFile(source, data);
    await truncate(source, 64 * 1024 * 1024);
    await writeFile(replica, Buffer.alloc(8 * 1024 * 1024, 0x55));
    await truncate(replica, 64 * 1024 * 1024);
    await using target = await serve(["--lun", replica]);
    const shipped = await lunsync(["sync", source, target.url, "--json"]);
    expect(shipped.status).toBe(0);
    expect(shipped.json().shipped.zeroed).toBeGreaterThan(100);
    await target.end();
    expect((await readFile(replica)).equals(await readFile(source))).toBe(true);
    const allocated = (await stat(replica)).blocks * 512;
    expect(allocated).toBeLessThan(2 * 1024 * 1024);
  });
});

test("inquiry says what a volume is", async () => {
  await using folder = await WorkFolder.make();
  await writeFile(folder.file("disk"), Buffer.alloc(1024 * 1024));
  const local = (await lunsync(["inquiry", folder.file("disk"), "--json"])).json();
  expect(local).toMatchObject({
    bytes: 1024 * 1024,
    blockBytes: 512,
    blocks: 2048,
    description: "regular file",
  });
  await using target = await serve(["--lun", `${folder.file("disk")},ro`]);
  const remote = (await lunsync(["inquiry", target.url, "--json"])).json();
  expect(remote).toMatchObject({
    bytes: 1024 * 1024,
    vendorCommands: true,
    writeProtected: true,
    uuid: local.uuid,
  });
  expect(remote.digests).toContain("crc32c(md5)");
  expect((await lunsync(["inquiry", target.url])).stdout).toContain("Vendor commands:");
  const [portal, host, name] = /^iscsi:\/\/([^/]+)\/([^/]+)/.exec(target.url)!;
  const found = (await lunsync(["inquiry", portal.replace(/\/iqn.*/, ""), "--json"])).json();
  expect(found).toEqual({ portal: host, targets: [{ name, addresses: [`${host},1`] }] });
});

test("every command has help with examples, and starts quickly", async () => {
  for (const command of ["serve", "compare", "sync", "undo", "inquiry"]) {
    const help = await lunsync([command, "--help"]);
    expect(help.status).toBe(0);
    expect(help.stdout).toMatch(/Examples:\n {2}lunsync /);
  }
});
