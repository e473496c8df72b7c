// The program as its users run it: bin/lunsync in processes of its own, on files in a temporary folder.
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const launcher = fileURLToPath(new URL("../../bin/lunsync", import.meta.url));

export interface Finished {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
  /** The JSON object on standard output. */
  // biome-ignore lint/suspicious/noExplicitAny: what it holds is what the tests look at
  json(): any;
}

export interface RunOptions {
  readonly env?: Record<string, string>;
  /** Runs it through another program: its arguments come before the launcher. */
  readonly through?: readonly string[];
  readonly cwd?: string;
}

const environment = (extra: Record<string, string> = {}) => {
  const env: Record<string, string | undefined> = { ...process.env, ...extra };
  for (const name of ["JOURNAL_STREAM", "LUNSYNC_CHAP_SECRET"]) if (!(name in extra)) delete env[name];
  return env as Record<string, string>;
};

/** Any program, to its end. */
export function run(program: string, args: readonly string[], options: RunOptions = {}): Promise<Finished> {
  return new Promise((resolve) => {
    execFile(
      program,
      [...args],
      { maxBuffer: 1 << 30, env: environment(options.env), ...(options.cwd && { cwd: options.cwd }) },
      (error, stdout, stderr) => {
        const status = error === null ? 0 : typeof error.code === "number" ? error.code : -1;
        resolve({ status, stdout, stderr, json: () => JSON.parse(stdout) });
      },
    );
  });
}

export function lunsync(args: readonly string[], options: RunOptions = {}): Promise<Finished> {
  const [program, ...before] = [...(options.through ?? []), launcher];
  return run(program!, [...before, ...args], options);
}

/** A command that is still running. */
export class Running implements AsyncDisposable {
  readonly child: ChildProcess;
  stdout = "";
  stderr = "";
  readonly ended: Promise<number>;

  constructor(args: readonly string[], options: RunOptions = {}) {
    const [program, ...before] = [...(options.through ?? []), launcher];
    this.child = spawn(program!, [...before, ...args], { env: environment(options.env) });
    this.child.stdout!.on("data", (chunk) => {
      this.stdout += chunk;
    });
    this.child.stderr!.on("data", (chunk) => {
      this.stderr += chunk;
    });
    this.ended = new Promise((resolve) => this.child.on("close", (code) => resolve(code ?? -1)));
  }

  async end(signal: NodeJS.Signals = "SIGTERM"): Promise<number> {
    this.child.kill(signal);
    return this.ended;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.child.kill("SIGKILL");
    await this.ended;
  }
}

export class Served extends Running {
  urls: string[] = [];

  get url(): string {
    return this.urls[0]!;
  }
}

/** `lunsync serve`, on a free port of loopback if `args` name none, once it has printed its URLs. */
export async function serve(args: readonly string[], options: RunOptions = {}): Promise<Served> {
  const listen = args.includes("--listen") ? [] : ["--listen", "127.0.0.1:0"];
  const served = new Served(["serve", ...listen, ...args], options);
  const count = (option: string) => args.filter((argument) => argument === option).length;
  const urls = count("--lun") * Math.max(1, count("--listen"));
  const over = served.ended.then(() => "over");
  for (;;) {
    served.urls = served.stdout.split("\n").filter((line) => line.startsWith("iscsi://"));
    if (served.urls.length >= urls) return served;
    const waited = await Promise.race([over, new Promise((resolve) => setTimeout(resolve, 10))]);
    if (waited === "over") throw new Error(`serve ended: ${served.stderr}`);
  }
}

export class WorkFolder implements AsyncDisposable {
  readonly path: string;

  private constructor(path: string) {
    this.path = path;
  }

  static async make(parent = tmpdir()): Promise<WorkFolder> {
    return new WorkFolder(await mkdtemp(join(parent, "lunsync-test-")));
  }

  file(name: string): string {
    return join(this.path, name);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.path, { recursive: true, force: true });
  }
}
