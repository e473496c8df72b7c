// Real parts that fail or that are others': a file with bad sectors, a small file system, tgt.
import { type ChildProcess, spawn } from "node:child_process";
import { mkdir, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { run } from "./lunsync.ts";

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

async function until(what: string, done: () => Promise<boolean>): Promise<void> {
  for (let i = 0; i < 500; i++) {
    if (await done()) return;
    await pause(20);
  }
  throw new Error(`timed out: ${what}`);
}

/** A file that nbdkit provides, through FUSE. */
export class NbdFile implements AsyncDisposable {
  readonly path: string;
  readonly #mountPoint: string;
  readonly #process: ChildProcess;

  private constructor(mountPoint: string, process: ChildProcess) {
    this.path = `${mountPoint}/disk`;
    this.#mountPoint = mountPoint;
    this.#process = process;
  }

  /** The file appears in `mountPoint`, which is made; `plugin` are nbdkit's arguments. */
  static async at(mountPoint: string, plugin: readonly string[]): Promise<NbdFile> {
    await mkdir(mountPoint);
    const args = [`${mountPoint}/disk`, "--command", "nbdkit", "-s", ...plugin];
    const file = new NbdFile(mountPoint, spawn("nbdfuse", args, { stdio: "inherit" }));
    await until("nbdfuse", () =>
      stat(file.path).then(
        () => true,
        () => false,
      ),
    );
    return file;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = new Promise((resolve) => this.#process.on("close", resolve));
    await run("fusermount3", ["-u", this.#mountPoint]);
    await ended;
  }
}

/** `file` with sectors that are unreadable until they are written; `lba` counts sectors of 512 bytes. */
export function withBadSector(file: string, folder: string, lba: number): Promise<NbdFile> {
  const mended = `${folder}/mended-${lba}`;
  const start = lba * 512;
  const covers = `[ $4 -le ${start} ] && [ $(($4 + $3)) -ge ${start + 512} ]`;
  const overlaps = `[ $4 -lt ${start + 512} ] && [ $(($4 + $3)) -gt ${start} ]`;
  const copy = "dd iflag=skip_bytes,count_bytes,fullblock oflag=seek_bytes bs=128k status=none";
  return NbdFile.at(`${folder}/bad-${lba}`, [
    "eval",
    `get_size=stat -c %s ${file}`,
    "can_write=true",
    "can_flush=true",
    "flush=true",
    `pread=if ${overlaps} && [ ! -e ${mended} ]; then echo EIO bad sector >&2; exit 1; fi; ${copy} if=${file} skip=$4 count=$3`,
    `pwrite=${copy} of=${file} seek=$4 conv=notrunc; if ${covers}; then touch ${mended}; fi`,
  ]);
}

/** A file system of `bytes` in memory. */
export class SmallDisk implements AsyncDisposable {
  readonly path: string;

  private constructor(path: string) {
    this.path = path;
  }

  static async at(path: string, bytes: number): Promise<SmallDisk> {
    await mkdir(path);
    const mounted = await run("mount", ["-t", "tmpfs", "-o", `size=${bytes}`, "lunsync-test", path]);
    if (mounted.status !== 0) throw new Error(mounted.stderr);
    return new SmallDisk(path);
  }

  async grow(bytes: number): Promise<void> {
    await run("mount", ["-o", `remount,size=${bytes}`, this.path]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await run("umount", [this.path]);
  }
}

export function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}

/** tgt, serving one file as LUN 1. */
export class Tgt implements AsyncDisposable {
  readonly url: string;
  readonly #process: ChildProcess;

  private constructor(url: string, process: ChildProcess) {
    this.url = url;
    this.#process = process;
  }

  static async serving(file: string): Promise<Tgt> {
    const port = await freePort();
    const control = `${20_000 + (port % 10_000)}`;
    const process = spawn("tgtd", ["-f", "-C", control, "--iscsi", `portal=127.0.0.1:${port}`], {
      stdio: "ignore",
    });
    const admin = (...args: string[]) => run("tgtadm", ["-C", control, "--lld", "iscsi", ...args]);
    const name = "iqn.2026-11.com.example:tgt";
    await until("tgtd", async () => (await admin("--op", "show", "--mode", "target")).status === 0);
    await admin("--op", "new", "--mode", "target", "--tid", "1", "-T", name);
    await admin("--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", file);
    await admin("--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL");
    return new Tgt(`iscsi://127.0.0.1:${port}/${name}/1`, process);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = new Promise((resolve) => this.#process.on("close", resolve));
    this.#process.kill("SIGKILL");
    await ended;
  }
}

/** False where file systems can't be mounted, or FUSE is missing: in a container, or without root. */
export async function mountsWork(folder: string): Promise<boolean> {
  try {
    await using disk = await SmallDisk.at(`${folder}/probe-disk`, 1 << 20);
    await writeFile(`${disk.path}/file`, "x".repeat(4096));
    await using bad = await withBadSector(`${disk.path}/file`, folder, 1);
    return (await stat(bad.path)).size === 4096;
  } catch {
    return false;
  }
}
