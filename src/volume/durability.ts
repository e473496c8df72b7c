// What is put on a medium, by flushes and durable writes that go on at the same time.
//
// The kernel tells one caller of writes that it could not put on the medium, and forgets them (errseq_t in
// linux/lib/errseq.c: once for each open file). Whoever flushes the same open file next is told that all is well.
//
// Guarantees: an action that ends well has lost nothing that any other one of its time was told of; each that was told of
// something is counted.
import { AgentError } from "../base/errors.ts";

export class Durability {
  readonly #name: string;
  readonly #underWay = new Set<Promise<void>>();
  /** How many of them have failed so far. */
  lost = 0;

  constructor(name: string) {
    this.#name = name;
  }

  /** Runs a flush or a durable write. @throws what it throws, and AgentError `medium_error` if another one was told */
  async run(action: () => Promise<void>): Promise<void> {
    const before = this.lost;
    const trial = action().catch((error: unknown) => {
      this.lost++;
      throw error;
    });
    this.#underWay.add(trial);
    try {
      await trial;
    } finally {
      this.#underWay.delete(trial);
    }
    // Told before this one was, but not heard of yet.
    await Promise.allSettled([...this.#underWay]);
    if (this.lost !== before)
      throw new AgentError(
        "medium_error",
        `Cannot put on the medium all that was written to "${this.#name}"`,
      );
  }
}
