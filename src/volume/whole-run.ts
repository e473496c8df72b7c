// A synchronization as a run of a replica that keeps its last whole generation: begun before anything is written, committed
// when all was found equal.
//
// Guarantees: where the replica keeps its last whole generation, nothing is written outside of a run; a run that did not
// find everything equal stays open, so that the replica can be rolled back, or the next run goes on.
import { AgentError } from "../base/errors.ts";
import type { Random } from "../platform/random.ts";
import type { CommitOptions, Volume } from "./volume.ts";

export interface WholeRunOptions {
  readonly replica: Volume;
  readonly random: Random;
  readonly signal?: AbortSignal;
  readonly onNotice?: (notice: string) => void;
}

export class WholeRun {
  readonly #job: WholeRunOptions;
  readonly #run: Buffer;

  private constructor(job: WholeRunOptions, run: Buffer) {
    this.#job = job;
    this.#run = run;
  }

  /** Undefined for a replica that keeps nothing. @throws AgentError what keeps the run from beginning */
  static async begin(job: WholeRunOptions): Promise<WholeRun | undefined> {
    const { replica, random, signal } = job;
    if (!replica.traits.keepsWhole || !replica.beginWhole || !replica.commitWhole) return undefined;
    const run = random.bytes(16);
    await replica.beginWhole(run, signal);
    return new WholeRun(job, run);
  }

  /** The replica is whole. @throws AgentError `backup_mismatch` if somebody has rolled it back since */
  async end(options?: CommitOptions): Promise<void> {
    const { replica, signal } = this.#job;
    await replica.commitWhole!(this.#run, options, signal);
  }

  /** Likewise. Where it does not learn that, its run stays open, which is said. */
  async commit(options?: CommitOptions): Promise<void> {
    try {
      await this.end(options);
    } catch (error) {
      if (!(error instanceof AgentError)) throw error;
      this.#job.onNotice?.(`The replica is equal, but its run stays open: ${error.message}`);
    }
  }
}
