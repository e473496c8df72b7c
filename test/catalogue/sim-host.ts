// A host of the simulation: a volume, its catalogue and histories, and whoever owns them, until he lets go or dies.
import { AgentError } from "../../src/base/errors.ts";
import { Catalogue } from "../../src/catalogue/catalogue.ts";
import { CataloguedVolume } from "../../src/catalogue/catalogued-volume.ts";
import type { Header } from "../../src/catalogue/header.ts";
import { Histories } from "../../src/catalogue/history.ts";
import { fanOut, TreeShape } from "../../src/catalogue/shape.ts";
import { extentKnowledge } from "../../src/catalogue/tree.ts";
import { disbelief } from "../../src/catalogue/trust.ts";
import { parseDigestSpec } from "../../src/digest/spec.ts";
import { changedRanges } from "../../src/replicate/generations.ts";
import type { GenerationChanges, Volume, VolumeIdentity } from "../../src/volume/volume.ts";
import { below, bytesOf, oneOf } from "../support/data.ts";
import type { FakeClock } from "../support/fake-clock.ts";
import { Life, type Random, type Schedule, SimFolder, SimStorage, SimVolume, sha256 } from "./sim-media.ts";

export const blockBytes = 512;
export const extentBlocks = 2;
export const extentBytes = extentBlocks * blockBytes;
export const digest = parseDigestSpec("sha256");
const pair = Buffer.alloc(16, 0xab);

export class SimulationError extends Error {
  override readonly name = "SimulationError";
}

export interface World {
  readonly random: Random;
  readonly schedule: Schedule;
  readonly clock: FakeClock;
  /** Pages in memory. */
  readonly pagesMax: number;
  readonly counts: Record<
    | "writes"
    | "crashes"
    | "closings"
    | "anew"
    | "grown"
    | "believed"
    | "known"
    | "nodes"
    | "unchanged"
    | "lost",
    number
  >;
  /** Work in the background; what it throws ends the run, unless its host has died. */
  go(work: Promise<unknown>, life: Life): void;
  /** Until nothing is under way. */
  calm(): Promise<void>;
  /** What comes of it, while everything goes on. */
  settled<T>(work: Promise<T>): Promise<T>;
}

export class SimHost {
  readonly volume: SimVolume;
  life!: Life;
  catalogued!: CataloguedVolume;
  /** Writes of others than synchronizations: begun, and under way. */
  writes = 0;
  writing = 0;
  readonly #world: World;
  #storage = new SimStorage(0);
  #folder = new SimFolder();
  /** On the medium, if there is one. */
  #header: Header | undefined;
  /** When the volume was changed last by somebody who is not its owner. */
  #changedMs = 0;
  /** What the volume held when a generation was begun, extent by extent: of the one that is begun, and of those committed. */
  #begun: Buffer[] | undefined;
  #busy = false;
  #generation: Buffer = Buffer.alloc(0);
  readonly #generations = new Map<string, Buffer[]>();

  constructor(world: World, name: string, data: Buffer) {
    this.#world = world;
    this.volume = new SimVolume(name, data, blockBytes, world.random);
  }

  get identity(): VolumeIdentity {
    return { ...this.volume.identity, uuid: this.volume.name };
  }

  get catalogue(): Catalogue {
    return this.catalogued.catalogue;
  }

  get extents(): number {
    return Math.ceil(this.catalogued.geometry.blocks / extentBlocks);
  }

  /** The volume as an engine sees it that runs while both hosts live. */
  seenWith(other: SimHost): Volume {
    const lives = [this.life, other.life];
    const seen = (work: Promise<unknown>) => lives.reduce((result, life) => life.seen(result), work);
    const { identity } = this;
    // As the unit of a target tells its nexuses (LogicalUnit.flush()).
    let known = this.volume.lostWrites;
    const flush = async () => {
      const before = known;
      await seen(this.catalogued.flush());
      known = this.volume.lostWrites;
      if (known > before) throw new AgentError("medium_error", "another one was told of what was lost");
    };
    return new Proxy(this.catalogued, {
      get: (volume, key) => {
        if (key === "identity") return identity;
        if (key === "flush") return flush;
        const value: unknown = Reflect.get(volume, key, volume);
        if (typeof value !== "function") return value;
        return (...args: unknown[]) => {
          if (lives.some(({ dead }) => dead)) throw new AgentError("connection_lost", "a host is dead");
          const result: unknown = Reflect.apply(value, volume, args);
          return result instanceof Promise ? seen(result) : result;
        };
      },
    }) as Volume;
  }

  // --- its owner comes and goes ---

  async open(): Promise<void> {
    const { random, schedule, clock, pagesMax, counts } = this.#world;
    const life = new Life(schedule);
    this.life = life;
    this.volume.life = life;
    this.#busy = false;
    this.writing = 0;
    this.#begun = undefined;
    const { blocks } = this.volume.geometry;
    const extents = Math.ceil(blocks / extentBlocks);
    const subject = {
      blockBytes,
      blocks,
      extentBytes,
      digest: digest.text,
      volume: Buffer.from(this.volume.name),
    };
    const found = this.#header;
    const mark = await this.volume.changeMark();
    const why = found ? await disbelief(found, subject, mark, async () => this.#changedMs) : "there was none";
    const shape = new TreeShape(extents, digest.identifierBytes);
    if (why !== undefined) {
      counts.anew++;
      this.#storage = new SimStorage(shape.fileBytes);
    }
    const opening = Histories.open(this.#folder.over(life), extents, why !== undefined, { pagesMax });
    const histories = await this.#world.settled(opening);
    this.#header = {
      ...subject,
      sequence: 0,
      closed: false,
      generation: 0,
      beatMs: clock.nowMs(),
      mark: "",
      scrubNext: 0,
      scrubbedMs: 0,
    };
    const catalogue = new Catalogue(this.#storage.over(life), extents, extentBytes, digest, clock, pagesMax);
    this.catalogued = new CataloguedVolume(this.volume, catalogue, {
      extentBlocks,
      random: { bytes: (count) => bytesOf(random, count) },
      histories,
      discard: async () => {
        await life.pause();
        this.#header = undefined;
        await life.pause();
      },
      grow: async (more) => {
        await life.pause();
        this.#storage.extend(new TreeShape(Math.ceil(more / extentBlocks), digest.identifierBytes).fileBytes);
        await life.pause();
        this.#header = { ...this.#header!, blocks: more };
        await life.pause();
        counts.grown++;
      },
      log: () => {},
    });
  }

  /** Of the process, or of the power: nothing of what was under way goes on. */
  async crash(): Promise<void> {
    const { random, counts } = this.#world;
    // Everybody has come to where he waits: nobody of this life does anything in the next.
    await new Promise((resolve) => setImmediate(resolve));
    counts.crashes++;
    this.life.die();
    this.volume.orphaned();
    if (random() < 0.7) {
      this.volume.powerCut(random);
      this.#storage.powerCut(random);
      this.#folder.powerCut(random);
    }
    if (this.#header) this.#header = { ...this.#header, beatMs: this.#world.clock.nowMs() };
    await this.#between();
    await this.open();
  }

  /** Lets go in order. */
  async close(): Promise<void> {
    this.#world.counts.closings++;
    const { catalogue } = this;
    let inOrder = !catalogue.lost;
    const closing = async () => {
      await this.#believeWhole();
      await catalogue.flush();
    };
    this.#world.go(
      closing().catch((error) => {
        inOrder = false;
        throw error;
      }),
      this.life,
    );
    await this.#world.calm();
    if (inOrder) this.#header = { ...this.#header!, closed: true, mark: await this.volume.changeMark() };
    this.life.die();
    this.volume.orphaned();
    await this.#between();
    await this.open();
  }

  /** Nobody owns the volume: somebody may write to it, or give it another size. */
  async #between(): Promise<void> {
    const { random, clock } = this.#world;
    // Whoever writes within seconds of a crash is not noticed; docs/formats/catalogue.md says so.
    clock.advance(60_000);
    if (random() < 0.6) return;
    this.#changedMs = clock.nowMs();
    this.#generations.clear();
    this.writes++;
    if (random() < 0.3) this.volume.resize(this.otherSize());
    for (let times = 1 + below(random, 3); times > 0; times--)
      this.volume.change(
        below(random, this.volume.geometry.blocks) * blockBytes,
        bytesOf(random, oneOf(random, [blockBytes, 3 * blockBytes])),
      );
  }

  // --- what goes on while it is owned ---

  otherSize(): number {
    const { random } = this.#world;
    const { blocks } = this.volume.geometry;
    if (random() < 0.1) return 1 + below(random, blocks);
    return blocks + oneOf(random, [1, 2, 1 + below(random, 40), 64 * extentBlocks]);
  }

  /** Somebody gives the volume this size, and its owner comes to see it. */
  resize(blocks: number): void {
    if (this.#isResized) return;
    this.writes++;
    this.volume.resize(blocks);
    this.#world.go(this.catalogued.remeasure(), this.life);
  }

  /** Its owner has not seen it yet. */
  get #isResized(): boolean {
    return this.volume.geometry.blocks !== this.catalogued.geometry.blocks;
  }

  write(): void {
    const { random, counts, go } = this.#world;
    counts.writes++;
    this.writes++;
    const { blocks } = this.catalogued.geometry;
    const lba = below(random, blocks);
    const most = oneOf(random, [1, 2, 8, 300]);
    const count = 1 + below(random, Math.min(most, blocks - lba));
    const data = random() < 0.3 ? Buffer.alloc(count * blockBytes) : bytesOf(random, count * blockBytes);
    if (random() < 0.3 && this.catalogued.writeNow(lba, [data])) return;
    const { life } = this;
    const work = random() < 0.2 ? this.catalogued.zero(lba, count) : this.catalogued.write(lba, [data]);
    this.writing++;
    go(
      work.finally(() => {
        if (!life.dead) this.writing--;
      }),
      life,
    );
  }

  digestSome(): void {
    const { random, go } = this.#world;
    const first = below(random, this.extents);
    const count = 1 + below(random, Math.min(oneOf(random, [3, 100]), this.extents - first));
    go(this.catalogued.digest(first, count), this.life);
  }

  believe(): void {
    const work = async () => {
      const { random, counts } = this.#world;
      const { whole, idle } = this.catalogue.ready(0);
      if (idle.length > 0 && random() < 0.7) {
        const region = oneOf(random, idle);
        await this.catalogued.digest(region * fanOut, Math.min(fanOut, this.extents - region * fanOut));
      }
      counts.believed += whole.length;
      await this.#believeWhole(whole);
    };
    this.#world.go(work(), this.life);
  }

  #believeWhole(whole = this.catalogue.ready(0).whole): Promise<void> {
    return this.catalogue.believe(whole, () => this.catalogued.flush());
  }

  /** What an initiator asks for; now and then it fails. */
  flush(): void {
    const { random, go } = this.#world;
    this.volume.failsFlush = random() < 0.3;
    go(this.catalogued.flush(), this.life);
  }

  /** A quiet time: everything is digested and believed. */
  async knowAll(): Promise<void> {
    if (this.extents > 200) return;
    const { go, calm } = this.#world;
    await calm();
    go(
      this.catalogued.digest(0, this.extents).then(() => this.#believeWhole()),
      this.life,
    );
    await calm();
  }

  /** Begins one, or commits the one that was begun, while others go on writing. */
  nextGeneration(): void {
    const { random, go } = this.#world;
    if (this.#busy || !this.catalogue.isKept) return;
    const { life } = this;
    const done = (then: () => void) => () => {
      if (life.dead) return;
      this.#busy = false;
      then();
    };
    this.#busy = true;
    if (this.#begun && random() < 0.6) {
      const generation = this.#generation;
      this.#generations.set(generation.toString("hex"), this.#begun);
      this.#begun = undefined;
      go(this.catalogued.commitGeneration(pair, generation).finally(done(() => {})), life);
      return;
    }
    this.#begun = undefined;
    this.#generation = bytesOf(random, 16);
    // In this very moment: whatever is under way is in doubt, and counts as changed.
    const begun = done(() => {
      this.#begun = this.truth();
    });
    go(
      this.catalogued.beginGeneration(pair, this.#generation).then(
        begun,
        done(() => {}),
      ),
      life,
    );
  }

  /** Asks while others write, digest and believe: the answer is about the moment of the question. */
  askForChanges(): void {
    if (this.#isResized) return;
    const { life } = this;
    const truth = this.truth();
    const ask = async () => {
      const since = await this.catalogued.changesSince(pair);
      if (!life.dead && !this.#isResized) this.#checkChanges(since, truth);
    };
    this.#world.go(ask(), life);
  }

  // --- whether it is right ---

  truth(): Buffer[] {
    const { cache } = this.volume;
    return Array.from({ length: this.extents }, (_, i) =>
      sha256(cache.subarray(i * extentBytes, Math.min((i + 1) * extentBytes, cache.length))),
    );
  }

  /** While nothing is under way: no entry that is believed is wrong. */
  async check(): Promise<void> {
    const { go, calm, counts } = this.#world;
    const wait = <T>(work: Promise<T>): Promise<T> => {
      go(work, this.life);
      return calm().then(() => work);
    };
    const truth = this.truth();
    const { catalogue } = this;
    if (catalogue.lost) {
      counts.lost++;
      return;
    }
    const { identifiers, knowledge } = await wait(catalogue.look(0, truth.length));
    for (let i = 0; i < truth.length; i++) {
      if (knowledge[i] !== extentKnowledge.known) continue;
      counts.known++;
      if (!identifiers.subarray(32 * i, 32 * i + 32).equals(truth[i]!))
        throw new SimulationError(`extent ${i} is believed, and differs`);
    }
    this.#checkChanges(await wait(this.catalogued.changesSince(pair)), truth);
    let children = truth;
    for (let level = 1; level <= catalogue.shape.rootLevel; level++) {
      const nodes = Array.from({ length: catalogue.shape.nodes[level]! }, (_, i) =>
        sha256(Buffer.concat(children.slice(i * fanOut, (i + 1) * fanOut))),
      );
      const believed = await wait(catalogue.nodes(level, 0, nodes.length));
      believed.forEach((identifier, i) => {
        if (identifier === undefined) return;
        counts.nodes++;
        if (!identifier.equals(nodes[i]!)) throw new SimulationError(`node ${i} of level ${level} is wrong`);
      });
      children = nodes;
    }
  }

  #checkChanges(since: GenerationChanges | undefined, truth: readonly Buffer[]): void {
    if (!since) return;
    const before = this.#generations.get(since.generation.toString("hex"));
    if (!before) throw new SimulationError("a generation that nobody committed");
    const changed = new Set<number>();
    for (const { first, count } of changedRanges(since, truth.length))
      for (let extent = first; extent < first + count; extent++) changed.add(extent);
    for (let i = 0; i < truth.length; i++) {
      if (changed.has(i)) continue;
      this.#world.counts.unchanged++;
      if (!before[i]?.equals(truth[i]!))
        throw new SimulationError(`extent ${i} is said to be unchanged, and has changed`);
    }
  }
}
