// The restore points of a volume that keeps its last whole generation, to be listed and shown.
//
// Guarantees: a point that is shown is not given up before its view is disposed.
import { isBlank } from "../base/bytes.ts";
import { AgentError } from "../base/errors.ts";
import type { PointSource, RestorePoint, ShownPoint } from "../volume/points.ts";
import type { Layer } from "./layer.ts";
import { PointView } from "./point-view.ts";
import type { WholeVolume } from "./whole-volume.ts";

export class WholePoints implements PointSource {
  readonly #whole: WholeVolume;

  constructor(whole: WholeVolume) {
    this.#whole = whole;
  }

  async list(): Promise<RestorePoint[]> {
    return this.#whole.journal.chain.points.map((layer) => this.#pointOf(layer));
  }

  async open(id: Buffer | undefined, { force = false } = {}): Promise<ShownPoint> {
    const { chain } = this.#whole.journal;
    const pin = ({ head }: Layer) => chain.pin(head.id);
    // In the turn in which it is found: nothing gives it up in between.
    const layer = id ? chain.find(id) : await this.#whole.record(pin);
    if (id && layer) pin(layer);
    if (!layer) {
      throw new AgentError(
        "volume_missing",
        `"${this.#whole.name}" has no restore point of that name any more: list them again`,
      );
    }
    const point = this.#pointOf(layer);
    if (point.doubtful && !force) {
      chain.unpin(layer.head.id);
      throw new AgentError(
        "backup_mismatch",
        `Cannot show the restore point ${point.number} of "${this.#whole.name}": somebody else has written to the volume ` +
          "since, past lunsync. --force shows it all the same: some of it may be what was written then",
      );
    }
    return { point, volume: new PinnedView(this.#whole, layer) };
  }

  #pointOf(layer: Layer): RestorePoint {
    const { journal } = this.#whole;
    const { head, keptExtents, keptBytes } = layer;
    const isRun = !isBlank(head.run);
    return {
      id: head.id,
      number: head.epoch,
      madeMs: head.madeMs,
      ...(isRun && { run: head.run }),
      ...(head.label && { label: head.label }),
      volumeBytes: head.volumeBytes,
      keptExtents,
      keptBytes,
      last: layer === journal.chain.current,
      doubtful: journal.isDoubtful(layer),
    };
  }
}

/** Keeps its point until it is disposed. */
class PinnedView extends PointView {
  readonly #unpin: () => void;
  #disposed = false;

  constructor({ volume, journal: { chain } }: WholeVolume, layer: Layer) {
    super(volume, chain, layer);
    this.#unpin = () => chain.unpin(layer.head.id);
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#unpin();
  }
}
