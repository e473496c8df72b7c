// lunsync failover and failback: a replica is handed out, and brought together with its source again.
import { join } from "node:path";
import type { Command } from "commander";
import { Semaphore } from "../base/async.ts";
import { AgentError, exitStatus } from "../base/errors.ts";
import { formatCount } from "../base/units.ts";
import { systemClock } from "../platform/clock.ts";
import { crc32c, isZero } from "../platform/native-digest.ts";
import { BeforeImages } from "../replicate/before-images.ts";
import { type FailedBack, failBack } from "../sets/failback.ts";
import { failOver, handOutAlone } from "../sets/failover.ts";
import type { Keep } from "../sets/pass.ts";
import { ConflictError, type ConflictReport } from "../sets/verdict.ts";
import type { RolledBack } from "../volume/volume.ts";
import { extentBytesDefault } from "./options.ts";
import { runText } from "./set-report.ts";
import { print, running, type StoreOptions, stateDirOf, withStore, withStoreOptions } from "./truth-store.ts";
import { openVolume } from "./volumes.ts";

export function addFailover(program: Command): void {
  withStoreOptions(
    program
      .command("failover")
      .summary("hand a replica out, to be written to")
      .description(
        "Hands a replica of a set out at its last whole generation, rolling back what an unfinished run has overwritten. From then on the set follows it, and nobody writes to the source that was left before a failback.",
      )
      .argument("[SET]", "the set")
      .argument("[REPLICA]", "the replica's name in the set")
      .option("--force", "also a replica that can't be returned to one whole generation")
      .option(
        "--volume <URL>",
        "instead of SET and REPLICA, where the truth database is lost or away: the replica itself, as it is served with `,whole`",
      ),
  )
    .addHelpText(
      "after",
      `
Examples:
  lunsync failover db east
  lunsync failover db east --store postgres://truth.example/lunsync
  lunsync failover --volume iscsi://localhost/iqn.2026-11.com.example:disks/0

Exit status: 0 it is handed out, 4 it is no whole generation, 2 and more trouble.`,
    )
    .action(failover);
}

interface FailoverOptions extends StoreOptions {
  readonly force?: boolean;
  readonly volume?: string;
}

async function failover(
  set: string | undefined,
  replica: string | undefined,
  options: FailoverOptions,
): Promise<void> {
  const force = options.force ?? false;
  if (options.volume !== undefined) {
    if (set !== undefined) throw new AgentError("usage", "--volume stands instead of SET and REPLICA");
    await using volume = await openVolume(options.volume, { writable: true });
    const done = await handOutAlone(volume, force);
    print(
      options,
      { volume: options.volume, ...done, set: done.set.toString("hex") },
      `"${options.volume}" is handed out at generation ${done.generation}${rolledBackText(done.rolledBack)}\n`,
    );
    return;
  }
  if (set === undefined || replica === undefined)
    throw new AgentError("usage", "failover takes SET and REPLICA, or --volume");
  const done = await withStore(options, (store) =>
    failOver(set, { ...running(store, "run it once more"), replica, force }),
  );
  const lines = [
    `"${replica}" is handed out: ${done.address}${rolledBackText(done.rolledBack)}`,
    done.already ? "It was already." : `It holds generation ${done.holds}; the set follows it from here on.`,
  ];
  if (done.behind > 0)
    lines.push(
      `${formatCount(done.behind)} extents are not what the source was last known to hold; a failback settles that.`,
    );
  print(options, done, `${lines.join("\n")}\n`);
}

const rolledBackText = (done: RolledBack | undefined): string =>
  done && done.extents > 0 ? `; ${formatCount(done.extents)} extents of an unfinished run were put back` : "";

export function addFailback(program: Command): void {
  withStoreOptions(
    program
      .command("failback")
      .summary("bring a replica that was handed out and its source together again")
      .description(
        "Finds what each side has changed since the failover, ships only that, and lets the set follow its source again. Where both sides have changed something, nothing is written before --prefer says whose way it goes.",
      )
      .argument("<SET>", "the set")
      .option(
        "--prefer <NAME>",
        "whose changes stay where both sides have some: `source`, the replica, or `priority`",
      )
      .option("--mix", "take each extent from who has changed it, although no two writers fit together so")
      .option("--to <NAME>", "whom the set follows afterwards, for good (default: its source)")
      .option(
        "--backup-dir <DIR>",
        "where what is overwritten of a side with changes of its own is kept (default STATE-DIR/before-images/SET)",
      ),
  )
    .addHelpText(
      "after",
      `
Examples:
  lunsync failback db
  lunsync failback db --prefer east
  lunsync failback db --to east

Exit status: 0 all are one again, 4 both sides have changed (nothing was written), 5 a replica is behind, 2 and more trouble.`,
    )
    .action(failback);
}

interface FailbackOptions extends StoreOptions {
  readonly prefer?: string;
  readonly mix?: boolean;
  readonly to?: string;
  readonly backupDir?: string;
}

async function failback(set: string, options: FailbackOptions): Promise<void> {
  const folder = options.backupDir ?? join(stateDirOf(options), "before-images", set);
  await using kept = new Kept(folder);
  let done: FailedBack;
  try {
    done = await withStore(options, (store) =>
      failBack(set, {
        ...running(store, "run it once more"),
        prefer: options.prefer,
        mix: options.mix ?? false,
        to: options.to,
        keep: kept.keep,
      }),
    );
  } catch (error) {
    if (error instanceof ConflictError && !options.json) process.stdout.write(conflictText(error.conflict));
    throw error;
  }
  const backups = await kept.end();
  print(options, { ...done, backups }, textOf(done, backups));
  const isDone = done.run?.replicas.every(({ state }) => state === "in step") ?? true;
  process.exitCode = isDone ? exitStatus.equal : exitStatus.incomplete;
}

function conflictText({ leader, rival, onlyLeader, onlyRival, both, map }: ConflictReport): string {
  return [
    `changed since the failover: ${formatCount(onlyLeader.count)} extents by "${leader}" alone (<), ` +
      `${formatCount(onlyRival.count)} by "${rival}" alone (>), ${formatCount(both.count)} by both (X)`,
    `|${map}|`,
    "",
  ].join("\n");
}

function textOf({ source, settled, run }: FailedBack, backups: readonly string[]): string {
  if (!run) return `The set follows "${source}", and nobody has gone his own way: there is nothing to do\n`;
  const lines: string[] = [];
  if (settled) {
    lines.push(conflictText(settled).trimEnd());
    lines.push(
      settled.mixed ? "each extent was taken from who had changed it" : `"${settled.winner}" had its way`,
    );
  }
  lines.push(runText(run).trimEnd());
  for (const backup of backups) lines.push(`what was overwritten is in ${backup}`);
  lines.push(`the set follows "${source}"`);
  return `${lines.join("\n")}\n`;
}

/** Before-images of what is overwritten, a folder for each volume. */
class Kept implements AsyncDisposable {
  readonly #folder: string;
  readonly #images = new Map<string, BeforeImages>();
  /** One after another: each is on the medium before its extent is overwritten. */
  readonly #turn = new Semaphore(1);

  constructor(folder: string) {
    this.#folder = folder;
  }

  readonly keep: Keep = async (volume, lba, blocks) => {
    const leave = await this.#turn.acquire();
    try {
      let images = this.#images.get(volume.name);
      images ??= new BeforeImages(this.#folder, { crc32c, isZero }, () => systemClock.nowMs());
      this.#images.set(volume.name, images);
      await images.keep(volume, { source: "failback", extentBytes: extentBytesDefault, pass: 0 }, [
        { lba, blocks },
      ]);
    } finally {
      leave();
    }
  };

  /** Folders of what was kept. */
  async end(): Promise<string[]> {
    const folders: string[] = [];
    for (const images of this.#images.values()) {
      const problem = await images.end();
      if (problem !== undefined) process.stderr.write(`Warning: ${problem}\n`);
      if (images.folder !== undefined) folders.push(images.folder);
    }
    this.#images.clear();
    return folders;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end();
  }
}
