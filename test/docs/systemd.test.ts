// The units: systemd finds nothing wrong with them, and the way to install them is the one that they expect.
import { execFile } from "node:child_process";
import { mkdtemp, readdir, readFile, realpath, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";

const run = promisify(execFile);
const top = join(import.meta.dirname, "../..");
const units = join(top, "systemd");
const installed = "/usr/bin/lunsync";
let folder: string;
let names: string[];

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "lunsync-units-"));
  const launcher = await realpath(join(top, "bin/lunsync"));
  names = (await readdir(units)).filter((name) => /\.(service|timer)$/.test(name)).sort();
  for (const name of names) {
    const text = await readFile(join(units, name), "utf8");
    await writeFile(join(folder, name), text.replaceAll(installed, launcher));
  }
});
afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
});

test("there are a service that serves, one that synchronizes, and its timer", () => {
  expect(names).toEqual(["lunsync-serve.service", "lunsync-sync@.service", "lunsync-sync@.timer"]);
});

test("systemd-analyze verify finds nothing to say about the units", async () => {
  const paths = names.map((name) => join(folder, name));
  const { stdout, stderr } = await run("systemd-analyze", ["verify", "--man=no", ...paths]);
  expect(stdout + stderr).toBe("");
});

test("systemd-analyze verify notices a launcher that is not there", async () => {
  const path = join(folder, "lunsync-absent.service");
  const text = await readFile(join(units, "lunsync-serve.service"), "utf8");
  await writeFile(path, text.replaceAll(installed, join(folder, "absent")));
  await expect(run("systemd-analyze", ["verify", "--man=no", path])).rejects.toThrow("is not executable");
});

test("both services start the launcher where systemd/README.md installs it", async () => {
  for (const name of names.filter((each) => each.endsWith(".service"))) {
    const text = await readFile(join(units, name), "utf8");
    expect(text, name).toMatch(new RegExp(`^ExecStart=${installed} (serve|sync) `, "m"));
  }
  expect(await readFile(join(units, "README.md"), "utf8")).toContain(installed);
});
