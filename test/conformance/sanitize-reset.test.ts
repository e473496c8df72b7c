// The one case of libiscsi's suite that needs a LUN so slow that SANITIZE takes its time: aborts, resets and a lost
// session don't end it. At its end the tool waits in silence, minutes at a time; it is not waited for.
import { expect, test } from "vitest";
import { runSuite } from "../support/libiscsi.ts";
import { serve, WorkFolder } from "../support/lunsync.ts";
import { NbdFile } from "../support/machines.ts";

test("SANITIZE goes on through aborts, resets and a new session", async () => {
  await using folder = await WorkFolder.make();
  const bytesPerSecond = 8 * 1024 * 1024;
  await using slow = await NbdFile.at(folder.file("slow"), [
    "--filter=rate",
    "memory",
    `${15 * bytesPerSecond}`,
    `rate=${8 * bytesPerSecond}`,
  ]);
  await using served = await serve(["--lun", slow.path]);
  const { said } = await runSuite(
    "Sanitize.Reset",
    served.urls,
    "Wait until the SANITIZE operation has finished",
  );
  expect(said.get("Reset")).toMatch(/Verify that the SANITIZE is still going.*SANITIZE_IN_PROGRESS/s);
  expect(said.get("Reset")).not.toMatch(/FAIL/);
});
