// A PostgreSQL server of the test's own: Debian's programs, a temporary folder, a Unix socket in it, no port.
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { chown } from "node:fs/promises";
import pg from "pg";
import { run, WorkFolder } from "./lunsync.ts";

const versions = "/usr/lib/postgresql";

/** The folder of the newest server's programs; undefined: there is none. */
function programs(): string | undefined {
  try {
    const numbers = readdirSync(versions)
      .map(Number)
      .sort((a, b) => b - a);
    const folder = `${versions}/${numbers[0]}/bin`;
    return readdirSync(folder).includes("initdb") ? folder : undefined;
  } catch {
    return undefined;
  }
}

export const postgresIsThere = programs() !== undefined;

/** A server that refuses to run as root runs as somebody else. */
function unprivileged(command: readonly string[]): [string, string[]] {
  const all =
    process.getuid?.() === 0
      ? ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", ...command]
      : command;
  return [all[0]!, all.slice(1)];
}

function childrenOf(parent: number): number[] {
  const text = readFileSync(`/proc/${parent}/task/${parent}/children`, "utf8");
  return text.split(" ").filter(Boolean).map(Number);
}

const lives = (pid: number) => existsSync(`/proc/${pid}`);

export class PostgresServer implements AsyncDisposable {
  readonly #folder: WorkFolder;
  readonly #programs: string;
  #process: ChildProcess | undefined;
  #ended: Promise<unknown> = Promise.resolve();
  #log = "";
  #databases = 0;

  private constructor(folder: WorkFolder, programs: string) {
    this.#folder = folder;
    this.#programs = programs;
  }

  static async make(): Promise<PostgresServer> {
    const folder = await WorkFolder.make();
    if (process.getuid?.() === 0) {
      const id = (of: string) => Number(execFileSync("id", [of, "nobody"], { encoding: "utf8" }));
      await chown(folder.path, id("-u"), id("-g"));
    }
    const server = new PostgresServer(folder, programs()!);
    const options = [
      "-D",
      folder.file("data"),
      "-U",
      "test",
      "-A",
      "trust",
      "-E",
      "UTF8",
      "--locale=C.UTF-8",
    ];
    const [program, args] = unprivileged([`${server.#programs}/initdb`, ...options]);
    const made = await run(program, args, { cwd: folder.path });
    if (made.status !== 0) throw new Error(made.stderr);
    await server.start();
    return server;
  }

  /** Also one that was killed: it recovers. */
  async start(): Promise<void> {
    const options = ["listen_addresses=", "fsync=on", "max_connections=60", "shared_buffers=32MB"];
    const [program, args] = unprivileged([
      `${this.#programs}/postgres`,
      ...["-D", this.#folder.file("data"), "-k", this.#folder.path],
      ...options.flatMap((option) => ["-c", option]),
    ]);
    for (let i = 0; i < 600; i++) {
      // Children of a server that was killed hold its memory for a moment; it does not start then.
      if (!this.#process || this.#process.exitCode !== null || this.#process.signalCode !== null) {
        const child = spawn(program, args, { cwd: this.#folder.path, stdio: ["ignore", "ignore", "pipe"] });
        child.stderr.on("data", (text) => {
          this.#log = `${this.#log}${text}`.slice(-20_000);
        });
        this.#process = child;
        this.#ended = new Promise((resolve) => child.once("close", resolve));
      }
      try {
        await this.query("postgres", "select 1");
        return;
      } catch {
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    }
    throw new Error(`the server does not come up: ${this.#log}`);
  }

  /**
   * SIGQUIT: at once, without a checkpoint. SIGKILL: nobody is told; what is left of it ends by itself, or is killed
   * soon: no server starts beside it. Nothing happens to one that was killed already.
   */
  async kill(signal: "SIGQUIT" | "SIGKILL"): Promise<void> {
    if (this.#process!.exitCode !== null || this.#process!.signalCode !== null) return;
    const children = childrenOf(this.#process!.pid!);
    this.#process!.kill(signal);
    await new Promise((resolve) => this.#process!.once("exit", resolve));
    for (let i = 0; i < 20 && children.some(lives); i++)
      await new Promise((resolve) => setTimeout(resolve, 25));
    for (const child of children.filter(lives)) {
      try {
        process.kill(child, "SIGKILL");
      } catch {
        // It has ended since.
      }
    }
    await this.#ended;
  }

  url(database: string): string {
    return `postgres://test@localhost/${database}?host=${encodeURIComponent(this.#folder.path)}`;
  }

  async query(database: string, text: string): Promise<readonly Record<string, unknown>[]> {
    const client = new pg.Client({ connectionString: this.url(database) });
    client.on("error", () => {});
    try {
      await client.connect();
      return (await client.query(text)).rows;
    } finally {
      await client.end();
    }
  }

  /** A new one, by its URL. */
  async database(): Promise<string> {
    const name = `test${++this.#databases}`;
    await this.query("postgres", `create database ${name}`);
    return this.url(name);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill("SIGQUIT");
    await this.#folder[Symbol.asyncDispose]();
  }
}
