// Gives up the restore points that nobody wants: those that the policy does not name are merged into the next older one, or
// dropped where there is none.
//
// Guarantees: a point that is shown to somebody stays. Nothing is merged into a layer that may be gone. Where something fails,
// all points are as good as before, and it is gone through again. Memory is bounded by that of merging.
import { Semaphore } from "../base/async.ts";
import type { Chain } from "./chain.ts";
import { type KeepPolicy, pointsToKeep } from "./keep-policy.ts";
import type { Layer } from "./layer.ts";

interface Step {
  readonly layer: Layer;
  readonly action: "drop" | "merge";
}

export interface TidyOptions {
  /** Undefined: points that a policy asked for when they were made are kept. */
  readonly keep?: KeepPolicy | undefined;
  /** The oldest points are given up where all together take more. */
  readonly spaceBytes?: number | undefined;
}

export class Tidy {
  readonly #chain: Chain;
  readonly #options: TidyOptions;
  readonly #turn = new Semaphore(1);
  /** What the volume still holds all of: nothing older needs them. */
  readonly #redundant = new Set<Layer>();

  constructor(chain: Chain, options: TidyOptions) {
    this.#chain = chain;
    this.#options = options;
  }

  /** A layer all of whose images are what the volume holds, and held when the layer after it was begun. */
  redundant(layer: Layer): void {
    this.#redundant.add(layer);
  }

  get isOverfull(): boolean {
    return this.#chain.sealedBytes > (this.#options.spaceBytes ?? Number.POSITIVE_INFINITY);
  }

  /** What is to be done next; undefined if all is as it should be. */
  next(): Step | undefined {
    const { keep } = this.#options;
    const { sealed } = this.#chain;
    const staying = sealed.filter(
      (layer) =>
        this.#chain.isPinned(layer) || !(this.#chain.isCondemned(layer) || this.#redundant.has(layer)),
    );
    const kept = new Set(
      keep
        ? pointsToKeep(keep, staying, ({ head }) => head.madeMs)
        : staying.filter(({ head }) => head.isPoint),
    );
    const [oldest] = sealed;
    if (oldest && this.isOverfull && !this.#chain.isPinned(oldest)) return { layer: oldest, action: "drop" };
    for (const [i, layer] of sealed.entries()) {
      if (kept.has(layer) || this.#chain.isPinned(layer)) continue;
      const drops = i === 0 || this.#chain.isCondemned(layer) || this.#redundant.has(layer);
      return { layer, action: drops ? "drop" : "merge" };
    }
    return undefined;
  }

  /** Does what takes no copying, unless somebody is at it already: nobody waits for that. @throws what removing gives */
  async drop(): Promise<void> {
    const leave = this.#turn.tryAcquire();
    if (leave) await this.#run(leave, (step) => step.action === "drop");
  }

  /** Does all there is to do. @throws what I/O gives, or the signal's reason */
  async run(signal?: AbortSignal): Promise<void> {
    await this.#run(await this.#turn.acquire(), () => true, signal);
  }

  async #run(leave: () => void, suits: (step: Step) => boolean, signal?: AbortSignal): Promise<void> {
    try {
      for (let step = this.next(); step && suits(step); step = this.next()) {
        signal?.throwIfAborted();
        if (step.action === "drop") await this.#chain.remove(step.layer);
        else {
          // With images of another one it is not that any more.
          this.#redundant.delete(sealedBefore(this.#chain, step.layer));
          await this.#chain.merge(step.layer, signal);
        }
        this.#redundant.delete(step.layer);
      }
    } finally {
      leave();
    }
  }
}

const sealedBefore = ({ sealed }: Chain, layer: Layer): Layer => sealed[sealed.indexOf(layer) - 1]!;
