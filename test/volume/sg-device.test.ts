// sg: addresses that can't be opened: what is said, and how it ends. With a real device: test/kernel/sg-volume.test.ts.
import { writeFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { lunsync, WorkFolder } from "../support/lunsync.ts";

describe("an sg: address", () => {
  test("of nothing, of no device, of no SCSI device", async () => {
    await using folder = await WorkFolder.make();
    await writeFile(folder.file("source"), Buffer.alloc(4096));
    const compared = (address: string) => lunsync(["compare", folder.file("source"), address]);
    expect(await compared("sg:/dev/nothing-here")).toMatchObject({
      status: 3,
      stderr: expect.stringMatching(
        /Cannot open "sg:\/dev\/nothing-here" for reading: there is no such device/,
      ),
    });
    expect(await compared("sg:/dev/null")).toMatchObject({
      status: 3,
      stderr: expect.stringMatching(/Cannot open "sg:\/dev\/null" for reading: it is no SCSI device/),
    });
    expect(await compared("sg:/etc/passwd")).toMatchObject({
      status: 3,
      stderr: expect.stringMatching(/it is no device/),
    });
    expect(await compared("sg:null")).toMatchObject({
      status: 2,
      stderr: expect.stringMatching(/no pass-through address/),
    });
  });

  test("is nothing that can be served", async () => {
    expect(await lunsync(["serve", "--lun", "sg:/dev/sg0"])).toMatchObject({
      status: 2,
      stderr: expect.stringMatching(/a LUN is a file or a block device of this host/),
    });
  });
});
