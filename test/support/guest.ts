// A Linux kernel of Debian's in QEMU, with open-iscsi, LIO, sg and dm: this machine's own may have none of them.
import { execFileSync, spawn } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import type { Finished } from "./lunsync.ts";
import { WorkFolder } from "./lunsync.ts";

const script = (name: string) => fileURLToPath(new URL(`../kernel/${name}`, import.meta.url));
const images = fileURLToPath(new URL("../../.stamps/guest", import.meta.url));

/** Why there can be no guest on this machine; undefined if there can. */
export function whyNoGuest(): string | undefined {
  try {
    execFileSync("qemu-system-x86_64", ["--version"], { stdio: "ignore" });
  } catch {
    return "qemu-system-x86_64 can't be run here";
  }
  return process.getuid?.() === 0 ? undefined : "guests are built as root";
}

/** Makes the guest where it is not there yet. */
export function buildGuest(): void {
  execFileSync(script("guest-build"), [images], { stdio: ["ignore", "inherit", "inherit"] });
}

export interface GuestOptions {
  /** Ports of the host's loopback that the guest reaches at its own. */
  readonly hostPorts?: readonly number[];
  /** Ports of the guest that the host reaches at its loopback. */
  readonly guestPorts?: readonly number[];
  readonly disks?: readonly string[];
  readonly share?: string;
  readonly memoryMiB?: number;
  readonly timeoutSeconds?: number;
}

/** A guest that runs a script of sh, and what it prints so far. */
export class Guest {
  readonly ended: Promise<Finished>;
  stdout = "";
  stderr = "";
  readonly #kill: () => void;
  readonly #waiting = new Set<() => void>();

  private constructor(path: string, folder: WorkFolder, options: GuestOptions) {
    const args = ["--images", images, "--timeout", String(options.timeoutSeconds ?? 240)];
    for (const port of options.hostPorts ?? []) args.push("--hostport", String(port));
    for (const port of options.guestPorts ?? []) args.push("--guestport", String(port));
    for (const disk of options.disks ?? []) args.push("--disk", disk);
    if (options.share !== undefined) args.push("--share", options.share);
    if (options.memoryMiB !== undefined) args.push("--memory", String(options.memoryMiB));
    const child = spawn(script("guest-run"), [...args, "--", path], { stdio: ["ignore", "pipe", "pipe"] });
    this.#kill = () => child.kill("SIGTERM");
    for (const name of ["stdout", "stderr"] as const) {
      child[name].setEncoding("utf8");
      child[name].on("data", (text: string) => {
        this[name] += text;
        for (const look of this.#waiting) look();
      });
    }
    this.ended = new Promise((resolve) => {
      child.on("close", (code) => {
        for (const look of this.#waiting) look();
        void folder[Symbol.asyncDispose]().then(() =>
          resolve({
            status: code ?? -1,
            stdout: this.stdout,
            stderr: this.stderr,
            json: () => JSON.parse(this.stdout),
          }),
        );
      });
    });
  }

  static async boot(text: string, options: GuestOptions = {}): Promise<Guest> {
    const folder = await WorkFolder.make();
    const path = folder.file("script");
    await writeFile(path, `#!/bin/sh\nset -eu\n${text}`);
    return new Guest(path, folder, options);
  }

  /** Resolves when the guest has printed that line. @throws Error if it ended before */
  async said(line: string): Promise<void> {
    const has = () => this.stdout.split("\n").includes(line);
    let over = false;
    void this.ended.then(() => {
      over = true;
    });
    while (!has()) {
      if (over) throw new Error(`the guest ended before it said "${line}":\n${this.stdout}\n${this.stderr}`);
      await new Promise<void>((resolve) => {
        const look = () => {
          this.#waiting.delete(look);
          resolve();
        };
        this.#waiting.add(look);
        void this.ended.then(look);
      });
    }
  }

  /** Cuts the power. */
  async kill(): Promise<void> {
    this.#kill();
    await this.ended;
  }
}

/** Runs a script to its end. @throws Error with all that was printed if it failed */
export async function inGuest(text: string, options: GuestOptions = {}): Promise<string> {
  const guest = await Guest.boot(text, options);
  const { status, stdout, stderr } = await guest.ended;
  if (status !== 0) throw new Error(`the guest's script ended with ${status}:\n${stdout}\n${stderr}`);
  return stdout;
}

/** Shell functions for open-iscsi: `up` starts it, `login PORTAL TARGET [KEY=VALUE...]` logs in, `disk` names the disk. */
export const openIscsi = `
up() {
  modprobe -a iscsi_tcp sd_mod sg ext4 crc32c_generic
  mkdir -p /run/lock /var/lib
  ln -sfn /run/lock /var/lock
  echo "InitiatorName=\${1:-iqn.2026-11.com.example:guest}" >/etc/iscsi/initiatorname.iscsi
  iscsid
}
login() {
  portal=$1 target=$2
  shift 2
  iscsiadm -m node -T "$target" -p "$portal" -o new >/dev/null
  for s in node.session.timeo.replacement_timeout=60 "$@"; do
    iscsiadm -m node -T "$target" -p "$portal" -o update -n "\${s%%=*}" -v "\${s#*=}"
  done
  iscsiadm -m node -T "$target" -p "$portal" --login
}
disk() {
  i=0
  until ls /sys/block | grep -q '^sd'; do
    i=$((i + 1))
    [ $i -lt 100 ] || return 1
    sleep 0.1
  done
  sleep 0.3
  for d in /sys/block/sd*; do echo "/dev/\${d##*/}"; done
}
`;
