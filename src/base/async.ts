// Small pieces for concurrent work: a bounded semaphore, a deferred promise, and a pipeline that keeps order.

export interface Deferred<T> {
  readonly promise: Promise<T>;
  resolve(value: T): void;
  reject(reason: unknown): void;
}

export function deferred<T>(): Deferred<T> {
  return Promise.withResolvers<T>();
}

/** As Promise.all(); but where one fails, all have come to an end before: nothing runs on behind the caller's back. */
export async function together<T extends readonly unknown[]>(
  work: {
    readonly [K in keyof T]: Promise<T[K]>;
  },
): Promise<T> {
  await Promise.allSettled(work);
  return (await Promise.all(work)) as unknown as T;
}

/** Admits holders of up to `capacity` units at a time, first come, first served. */
export class Semaphore {
  readonly capacity: number;
  #used = 0;
  #waiting: { units: number; admit: () => void }[] = [];

  constructor(capacity: number) {
    this.capacity = capacity;
  }

  get used(): number {
    return this.#used;
  }

  /** Waits for `units` (more than the capacity counts as all of it); returns the call that gives them back. */
  async acquire(units = 1): Promise<() => void> {
    const wanted = Math.min(units, this.capacity);
    if (this.#waiting.length > 0 || this.#used + wanted > this.capacity) {
      await new Promise<void>((admit) => this.#waiting.push({ units: wanted, admit }));
    } else {
      this.#used += wanted;
    }
    return this.#release(wanted);
  }

  /** Likewise, if that takes no waiting; undefined otherwise. */
  tryAcquire(units = 1): (() => void) | undefined {
    const wanted = Math.min(units, this.capacity);
    if (this.#waiting.length > 0 || this.#used + wanted > this.capacity) return undefined;
    this.#used += wanted;
    return this.#release(wanted);
  }

  #release(wanted: number): () => void {
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      this.#used -= wanted;
      this.#admit();
    };
  }

  #admit(): void {
    while (this.#waiting.length > 0 && this.#used + this.#waiting[0]!.units <= this.capacity) {
      const next = this.#waiting.shift()!;
      this.#used += next.units;
      next.admit();
    }
  }
}

/**
 * Keys for which something has to be done, by one `action` for all that have come since the last one began. One action at
 * a time.
 */
export class Batch<K> {
  readonly #action: (keys: readonly K[]) => Promise<void>;
  #wanted = new Map<K, PromiseWithResolvers<void>>();
  #busy = false;

  constructor(action: (keys: readonly K[]) => Promise<void>) {
    this.#action = action;
  }

  /** Resolves when an action that began after this call has ended for all of them. @throws what it threw */
  async want(keys: readonly K[]): Promise<void> {
    const waits = keys.map((key) => {
      let wanted = this.#wanted.get(key);
      if (!wanted) {
        wanted = Promise.withResolvers<void>();
        wanted.promise.catch(() => {}); // whoever waits sees it
        this.#wanted.set(key, wanted);
      }
      return wanted.promise;
    });
    void this.#run();
    await Promise.all(waits);
  }

  async #run(): Promise<void> {
    if (this.#busy) return;
    this.#busy = true;
    while (this.#wanted.size > 0) {
      const wanted = this.#wanted;
      this.#wanted = new Map();
      try {
        await this.#action([...wanted.keys()]);
        for (const { resolve } of wanted.values()) resolve();
      } catch (error) {
        for (const { reject } of wanted.values()) reject(error);
      }
    }
    this.#busy = false;
  }
}

/**
 * Applies `work` to the items with up to `depth` under way at once, and yields the results in the order of the items.
 * When `work` or the consumer fails, what is under way is awaited before the failure goes on, so that nothing runs
 * behind the caller's back.
 */
export async function* orderedPipeline<T, R>(
  items: Iterable<T> | AsyncIterable<T>,
  depth: number,
  work: (item: T) => Promise<R>,
): AsyncGenerator<R> {
  const underWay: Promise<R>[] = [];
  try {
    for await (const item of items) {
      const started = work(item);
      started.catch(() => {}); // observed where it is awaited, in order
      underWay.push(started);
      if (underWay.length >= depth) yield await underWay.shift()!;
    }
    while (underWay.length > 0) yield await underWay.shift()!;
  } finally {
    await Promise.allSettled(underWay);
  }
}
