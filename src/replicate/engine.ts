// The engine: passes over two volumes until they are compared, or equal.
//
// Guarantees: the outcome says `equal` only if every extent was proved equal while the source was not written to, and
// everything that was shipped is on the replica's medium. Whatever ends a run early, nothing goes on behind it, and the
// outcome says what was done. Memory is bounded, whatever the size of the volumes.
import { orderedPipeline } from "../base/async.ts";
import { AgentError } from "../base/errors.ts";
import type { Volume } from "../volume/volume.ts";
import { volumeBytes } from "../volume/volume.ts";
import { WholeRun } from "../volume/whole-run.ts";
import { compareWindow, extentState, type WindowVerdict } from "./compare-window.ts";
import { commonCatalogue, descend } from "./descend.ts";
import { Generations } from "./generations.ts";
import type { BadExtent, JobOptions, Outcome, SynchronizeOptions } from "./job.ts";
import { canMove, Mover } from "./moves.ts";
import { narrowed } from "./narrow.ts";
import {
  checkDigest,
  checkPair,
  checkWritable,
  extentBlocksOf,
  type PlannedWindow,
  windowExtents,
  windowsOf,
} from "./plan.ts";
import { RangeLog } from "./range-log.ts";
import { Shipper } from "./ship.ts";
import { Trimmer } from "./trim.ts";

const passesMax = 3;
const badKeptMax = 1000;

/** Compares. @throws AgentError for a pair that can't be compared; what goes wrong later is in the outcome */
export function compare(job: JobOptions): Promise<Outcome> {
  return new Run(job, undefined).run();
}

/** Makes the replica equal to the source. @throws AgentError as compare(), and `volume_readonly` */
export function synchronize(job: SynchronizeOptions): Promise<Outcome> {
  checkWritable(job.replica);
  return new Run(job, job).run();
}

interface PassResult {
  readonly changed: boolean;
  /** What was shipped has to be looked at once more. */
  readonly uncertain: boolean;
}

class Run {
  readonly #job: JobOptions;
  /** Set when differences are shipped. */
  readonly #shipping: SynchronizeOptions | undefined;
  readonly #ranges = new RangeLog();
  #bad: BadExtent[] = [];
  #badExtents = 0;
  #differing = 0;
  #changesNoticed = true;
  #generations: Generations | undefined;
  #committed = false;
  /** Files of before-images so far: one for each pass, and one for what is trimmed behind it. */
  #images = 0;

  constructor(job: JobOptions, shipping: SynchronizeOptions | undefined) {
    this.#job = job;
    this.#shipping = shipping;
  }

  async run(): Promise<Outcome> {
    const { source, replica, digest, extentBytes, clock, counters } = this.#job;
    const volumes = [source, replica];
    checkPair(source, replica);
    checkDigest(volumes, digest);
    const extentBlocks = extentBlocksOf(volumes, extentBytes);
    counters.extents = Math.ceil(source.geometry.blocks / extentBlocks);
    const sizes = sizesOf(volumes);
    const begunMs = clock.monotonicMs();
    const trafficBefore = trafficOf(volumes);
    let failure: unknown;
    let last: PassResult = { changed: false, uncertain: false };
    try {
      const whole = this.#shipping && (await WholeRun.begin(this.#shipping));
      if (this.#shipping) this.#generations = await Generations.begin(this.#shipping);
      for (counters.pass = 1; ; counters.pass++) {
        last = await this.#pass(extentBlocks);
        const again = this.#shipping !== undefined && (last.changed || last.uncertain);
        if (!again || counters.pass === passesMax) break;
        this.#job.onNotice?.(
          last.changed
            ? `${source.name} was written to while it was read: comparing once more`
            : "Not all that was shipped is certain to be there: comparing once more",
        );
      }
      if (sizesOf(volumes) !== sizes) throw new Error("their sizes have changed");
      if (this.#verdict(last, undefined) === "equal") {
        this.#committed = (await this.#generations?.commit()) ?? false;
        await whole?.commit();
      }
    } catch (error) {
      // Whatever it ran into then: nothing was planned for it.
      const resized = sizesOf(volumes) !== sizes;
      failure = resized
        ? new AgentError("size_mismatch", `"${source.name}" or "${replica.name}" got another size meanwhile`)
        : error;
      if (this.#shipping) await replica.flush().catch(() => {}); // what was shipped is kept if that can be done
    }
    const traffic = trafficOf(volumes);
    return {
      verdict: this.#verdict(last, failure),
      failure: failure === undefined ? undefined : asAgentError(failure),
      extents: { total: counters.extents, compared: counters.compared, differing: this.#differing },
      shipped: {
        extents: counters.shippedExtents,
        bytes: counters.shippedBytes,
        zeroed: counters.zeroedExtents,
      },
      proved: counters.provedExtents,
      copied: counters.copiedExtents,
      trimmed: { extents: counters.trimmedExtents, bytes: counters.trimmedBytes },
      history: this.#generations && {
        used: this.#generations.changed !== undefined,
        committed: this.#committed,
      },
      passes: Math.min(counters.pass, passesMax),
      ranges: this.#ranges,
      bad: this.#bad,
      badExtents: this.#badExtents,
      bytes: {
        volume: volumeBytes(source.geometry),
        sent: traffic.sent - trafficBefore.sent,
        received: traffic.received - trafficBefore.received,
      },
      seconds: (clock.monotonicMs() - begunMs) / 1000,
      changesNoticed: this.#changesNoticed,
    };
  }

  #verdict(last: PassResult, failure: unknown): Outcome["verdict"] {
    if (failure instanceof AgentError && failure.code === "interrupted") return "interrupted";
    if (failure !== undefined) return "failed";
    if (this.#badExtents > 0 || last.uncertain) return "incomplete";
    if (last.changed) return "changed";
    return this.#differing === 0 || this.#shipping ? "equal" : "different";
  }

  async #pass(extentBlocks: number): Promise<PassResult> {
    const { source, replica, counters } = this.#job;
    counters.compared = 0;
    counters.differing = 0;
    this.#bad = [];
    this.#badExtents = 0;
    const onBad = (bad: BadExtent) => {
      this.#badExtents++;
      if (this.#bad.length < badKeptMax) this.#bad.push(bad);
    };
    const pieces = this.#pieces(extentBlocks);
    const images = ++this.#images;
    const shipper =
      this.#shipping &&
      new Shipper({ ...this.#shipping, extentBytes: pieces.bytes }, pieces.blocks, images, onBad);
    const ship = async (verdict: WindowVerdict) => {
      if (pieces.blocks === extentBlocks) return shipper?.ship(verdict);
      const { source: ours, replica: theirs } = this.#job;
      const most = windowExtents([ours, theirs], pieces.blocks);
      return shipper?.ship(await narrowed(this.#job, verdict, extentBlocks, pieces.blocks, most, onBad));
    };
    const mover =
      shipper && this.#shipping && !this.#shipping.shipMoved && canMove(this.#shipping)
        ? new Mover(this.#shipping, extentBlocks, images, (lba, encode) =>
            shipper.copied(lba, extentBlocks, encode),
          )
        : undefined;
    const markBefore = await source.changeMark();
    if (markBefore === undefined) this.#changesNoticed = false;
    const windows = this.#windows(extentBlocks, counters.pass === 1 ? this.#generations : undefined);
    const inFlight = Math.max(2, Math.min(source.traits.windowsInFlight, replica.traits.windowsInFlight));
    // What the trees leave is small windows far apart: their round trips go side by side.
    const depth = commonCatalogue(this.#job) ? 4 * inFlight : inFlight;
    try {
      const verdicts = orderedPipeline(windows, depth, async (window) => {
        if (shipper && pieces.blocks === extentBlocks && (await this.#isBlank(window, extentBlocks))) {
          return { verdict: await shipper.shipBlank(window), shipped: true };
        }
        return { verdict: await compareWindow(this.#job, extentBlocks, window), shipped: false };
      });
      for await (const { verdict, shipped } of verdicts) {
        await this.#take(verdict, extentBlocks, onBad, shipper !== undefined);
        if (shipped) await shipper?.proveIfMany();
        else for (const each of (await mover?.take(verdict)) ?? [verdict]) await ship(each);
      }
      for (const each of (await mover?.rest()) ?? []) await ship(each);
      const certain = (await shipper?.prove()) ?? true;
      this.#job.signal?.throwIfAborted();
      const changed = (await source.changeMark()) !== markBefore;
      const equal = certain && !changed && this.#badExtents === 0;
      if (!equal || !this.#shipping?.trim) return { changed, uncertain: !certain };
      const trimmed = await new Trimmer(this.#shipping, extentBlocks, ++this.#images, onBad).run();
      // Marked again: what was a hole may have been written to meanwhile.
      return { changed: (await source.changeMark()) !== markBefore, uncertain: !trimmed };
    } finally {
      await shipper?.settled().catch(() => {}); // its failure is on its way already
    }
  }

  /** In what extents that differ are shipped. */
  #pieces(extentBlocks: number): { bytes: number; blocks: number } {
    const { extentBytes, source } = this.#job;
    const bytes = Math.min(this.#shipping?.narrowBytes ?? extentBytes, extentBytes);
    const blocks = bytes / source.geometry.blockBytes;
    // An extent is a power of two, and so is a piece: one goes into the other, if it has a block at least.
    return Number.isInteger(blocks) ? { bytes, blocks } : { bytes: extentBytes, blocks: extentBlocks };
  }

  /** What has to be compared: all of it, or what the digest trees do not prove equal. */
  #windows(
    extentBlocks: number,
    generations: Generations | undefined,
  ): Iterable<PlannedWindow> | AsyncIterable<PlannedWindow> {
    const { source, replica, counters } = this.#job;
    const extents = windowExtents([source, replica], extentBlocks);
    const catalogue = commonCatalogue(this.#job);
    if (!catalogue) return windowsOf(source.geometry.blocks, extentBlocks, extents);
    const passed = (count: number) => {
      counters.compared += count;
    };
    if (generations?.changed) return generations.windows(extents, passed);
    return descend(this.#job, catalogue, extents, passed);
  }

  /**
   * The replica says that nothing of the window is mapped, which then reads as zeros. Where before-images are kept, the
   * ordinary way knows what to keep before anything is written.
   */
  async #isBlank(window: PlannedWindow, extentBlocks: number): Promise<boolean> {
    const { replica, signal } = this.#job;
    if (!replica.traits.thin || this.#shipping?.beforeImages) return false;
    const blocks = Math.min(window.extents * extentBlocks, replica.geometry.blocks - window.lba);
    return (await replica.nextData(window.lba, blocks, signal)) === undefined;
  }

  /** Counts a window, and notes where it differs. */
  async #take(
    verdict: WindowVerdict,
    extentBlocks: number,
    onBad: (bad: BadExtent) => void,
    shipping: boolean,
  ): Promise<void> {
    const { counters, source } = this.#job;
    const { states, lba } = verdict;
    for (let i = 0; i < states.length; i++) {
      const state = states[i];
      if (state === extentState.equal || state === extentState.differs) counters.compared++;
      if (state !== extentState.differs) continue;
      counters.differing++;
      this.#differing++;
      const start = lba + i * extentBlocks;
      await this.#ranges.add(start, Math.min(extentBlocks, source.geometry.blocks - start));
    }
    for (const bad of verdict.bad) {
      // What the replica can't read is shipped anew, and reported only if that fails.
      if (bad.side === "source" || !shipping) onBad(bad);
    }
  }
}

const sizesOf = (volumes: readonly Volume[]): string => volumes.map(({ geometry }) => geometry.blocks).join();

function trafficOf(volumes: readonly Volume[]): { sent: number; received: number } {
  const sum = { sent: 0, received: 0 };
  for (const { traffic } of volumes) {
    sum.sent += traffic.sent;
    sum.received += traffic.received;
  }
  return sum;
}

function asAgentError(error: unknown): AgentError {
  if (error instanceof AgentError) return error;
  return new AgentError("internal", error instanceof Error ? (error.stack ?? error.message) : String(error), {
    cause: error,
  });
}
