// The pass-through addon without any SCSI device: the library is found or named as missing, what the kernel refuses comes
// back as an errno, and nothing is left of commands when a thread or process ends.
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { expect, test } from "vitest";
import { AgentError } from "../../src/base/errors.ts";
import { SystemError } from "../../src/platform/errno.ts";
import { PassThrough } from "../../src/platform/pass-through.ts";
import { run } from "../support/lunsync.ts";

const compiled = fileURLToPath(new URL("../../dist/platform/pass-through.js", import.meta.url));
const command = (dataIn?: Buffer) => ({ cdb: Buffer.alloc(6), dataOut: [], dataIn, timeoutSeconds: 5 });

test("commands to what takes none come back with the kernel's error, however many there are", async () => {
  const device = await PassThrough.open("/dev/null", true, undefined);
  const buffers = Array.from({ length: 200 }, () => Buffer.alloc(4096, 7));
  const results = await Promise.all(buffers.map((dataIn) => device.submit(command(dataIn)).result));
  for (const { osError, dataInBytes } of results) {
    expect([osError?.code, dataInBytes]).toEqual(["ENOTTY", 0]);
  }
  for (const buffer of buffers) expect(buffer.every((byte) => byte === 7)).toBe(true);
  device.close();
  device.close();
  expect(() => device.submit(command())).toThrow(TypeError);
});

test("a device that is not there or can't be claimed is the system's error", async () => {
  for (const [path, claim, code] of [
    ["/dev/none", undefined, "ENOENT"],
    ["/dev/null", "/dev/none", "ENOENT"],
  ] as const) {
    const error = await PassThrough.open(path, false, claim).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(SystemError);
    expect((error as SystemError).code).toBe(code);
  }
});

test("a command that was given up is forgotten", async () => {
  const device = await PassThrough.open("/dev/null", false, undefined);
  const task = device.submit(command(Buffer.alloc(512)));
  task.giveUp();
  task.giveUp();
  const settled = await Promise.race([
    task.result.then(() => "settled"),
    device.submit(command()).result.then(() => "the next"),
  ]);
  expect(settled).toBe("the next");
  device.close();
});

test("wrong arguments are refused before anything is sent", async () => {
  const device = await PassThrough.open("/dev/null", false, undefined);
  const both = { ...command(Buffer.alloc(8)), dataOut: [Buffer.alloc(8)] };
  expect(() => device.submit(both)).toThrow(/one way/);
  expect(() => device.submit({ ...command(), timeoutSeconds: 0 })).toThrow(/timeout/);
  device.close();
});

test("a missing library is named, and what to install", async () => {
  const script = `
    process.env.LUNSYNC_SGUTILS = "libsgutils2-none.so";
    const { PassThrough } = await import(${JSON.stringify(compiled)});
    await PassThrough.open("/dev/null", false, undefined).catch((error) => console.log(error.code, error.message));`;
  const { stdout } = await run(process.execPath, ["--input-type=module", "-e", script]);
  expect(stdout).toMatch(/^volume_unsuitable .*libsgutils2-none\.so.*apt-get install sg3-utils/);
  expect(AgentError).toBeDefined();
});

test("threads and processes end with commands under way", async () => {
  const code = `
    import(${JSON.stringify(compiled)}).then(async ({ PassThrough }) => {
      const device = await PassThrough.open("/dev/null", false, undefined);
      for (let i = 0; i < 100; i++) {
        device.submit({ cdb: Buffer.alloc(6), dataOut: [Buffer.alloc(65536)], dataIn: undefined, timeoutSeconds: 5 });
      }
      process.exit(7);
    });`;
  for (let i = 0; i < 5; i++) {
    const worker = new Worker(code, { eval: true });
    expect(await new Promise((resolve) => worker.on("exit", resolve))).toBe(7);
  }
  expect((await run(process.execPath, ["-e", code])).status).toBe(7);
});
