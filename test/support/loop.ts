// Loop devices: block devices for tests, where the machine has them.
import { truncate, writeFile } from "node:fs/promises";
import { run, WorkFolder } from "./lunsync.ts";

export class LoopDevice implements AsyncDisposable {
  readonly path: string;

  private constructor(path: string) {
    this.path = path;
  }

  static async over(file: string, options: readonly string[] = []): Promise<LoopDevice> {
    const made = await run("losetup", ["--find", "--show", ...options, file]);
    if (made.status !== 0) throw new Error(made.stderr);
    return new LoopDevice(made.stdout.trim());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await run("losetup", ["--detach", this.path]);
  }
}

/** False where loop devices can't be made: in a container, or without root. */
export async function loopDevicesWork(): Promise<boolean> {
  await using folder = await WorkFolder.make();
  await writeFile(folder.file("probe"), "");
  await truncate(folder.file("probe"), 1024 * 1024);
  try {
    await using _device = await LoopDevice.over(folder.file("probe"));
    return true;
  } catch {
    return false;
  }
}
