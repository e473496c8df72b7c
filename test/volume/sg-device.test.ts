// sg: addresses that can't be opened: what is said, and how it ends. With a real device: test/kernel/sg-volume.test.ts.
import { writeFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { lunsync, WorkFolder } from "../support/lunsync.ts";

describe("an sg: address", () => {
  test("of nothing, of no SCSI device, and without the library of sg3_utils", async () => {
    await using folder = await WorkFolder.make();
    await writeFile(folder.file("source"), Buffer.alloc(4096));
    const compared = (address: string, env = {}) =>
      lunsync(["compare", folder.file("source"), address], { env });
    expect(await compared("sg:/dev/nothing-here")).toMatchObject({
      status: 3,
      stderr: expect.stringMatching(/Cannot open "sg:\/dev\/nothing-here": no such file or directory/),
    });
    expect(await compared("sg:/dev/null")).toMatchObject({
      status: 3,
      stderr: expect.stringMatching(/sg:\/dev\/null is no SCSI device such as \/dev\/sg0/),
    });
    expect(await compared("sg:/dev/null", { LUNSYNC_SGUTILS: "libnot-there.so" })).toMatchObject({
      status: 3,
      stderr: expect.stringMatching(/libnot-there\.so.*install the package sg3-utils/),
    });
  });

  test("is nothing that can be served", async () => {
    expect(await lunsync(["serve", "--lun", "sg:/dev/sg0"])).toMatchObject({
      status: 2,
      stderr: expect.stringMatching(/a LUN is a file or a block device of this host/),
    });
  });
});
