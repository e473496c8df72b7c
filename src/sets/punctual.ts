// Work of several for which nobody waits longer than for the others: a replica that hangs costs the others a few seconds.
//
// Guarantees: where one of several is not done a while after another one was, what is to be instead of it is taken, and the
// rest goes on; its own end is of no interest any more. A single one is waited for, however long it takes.
import type { Clock, Timer } from "../platform/clock.ts";

export interface Patience {
  readonly clock: Clock;
  readonly ms: number;
}

/** As Promise.all(); `late` gives what is to be instead of work that takes too long. `needed` is waited for in any case. */
export async function punctual<T>(
  works: readonly Promise<T>[],
  needed: Promise<unknown>,
  patience: Patience | undefined,
  late: (k: number) => T,
): Promise<T[]> {
  const over = Promise.withResolvers<void>();
  const done = works.map(() => false);
  const ended = works.map((work, k) =>
    work.then(
      () => {
        done[k] = true;
      },
      () => {
        done[k] = true;
      },
    ),
  );
  let timer: Timer | undefined;
  let isOver = false;
  if (patience && works.length > 1) {
    const another = Promise.all([needed.catch(() => {}), Promise.race(ended)]);
    void another.then(() => {
      if (!isOver) timer = patience.clock.after(patience.ms, over.resolve);
    });
  }
  const results = await Promise.allSettled(
    works.map((work, k) => Promise.race([work, over.promise.then(() => (done[k] ? work : late(k)))])),
  );
  isOver = true;
  timer?.cancel();
  return results.map((result) => {
    if (result.status === "rejected") throw result.reason;
    return result.value;
  });
}
