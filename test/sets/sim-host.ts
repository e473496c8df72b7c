// A host that serves one volume, with a journal of its last whole generation or without one: it is started, killed, cut off
// from its power, and started again.
//
// Guarantees: commands are carried out by its own process, whoever sent them and whether he still lives; what it was carrying out
// when it died is cut off there.
import { AsyncLocalStorage } from "node:async_hooks";
import { AgentError } from "../../src/base/errors.ts";
import type { Volume } from "../../src/volume/volume.ts";
import { type Header, journalState } from "../../src/whole/format.ts";
import { Journal } from "../../src/whole/journal.ts";
import { WholeVolume } from "../../src/whole/whole-volume.ts";
import { bytesOf } from "../support/data.ts";
import { SimDisk as JournalDisk, SimJournalFile, SimLayerFolder } from "../whole/sim-journal.ts";
import type { SimDisk } from "./sim-disk.ts";
import { Life, type Random, type SimTime } from "./sim-time.ts";

/** Whose command is being carried out, whoever asks in the course of it. */
export const command = new AsyncLocalStorage<Connection>();

interface Fence {
  readonly owner: string;
  readonly number: number;
}

/** A login of somebody to a host. */
export class Connection {
  readonly owner: string;
  readonly host: SimHost;
  readonly served: Volume;
  readonly life: Life;
  /** Another login has taken its place, or its host is dead: nothing that it sent arrives any more. */
  ended = false;
  /** The fence that it has taken, if it has: somebody else's, or none, shuts it out. */
  key: Fence | undefined;
  readonly underWay = new Set<Promise<unknown>>();
  /** Told when the connection breaks. */
  readonly waiting = new Set<() => void>();

  constructor(owner: string, host: SimHost, served: Volume, life: Life) {
    this.owner = owner;
    this.host = host;
    this.served = served;
    this.life = life;
  }

  break(): void {
    this.ended = true;
    for (const fail of this.waiting) fail();
    this.waiting.clear();
  }
}

export class SimHost {
  readonly name: string;
  readonly uuid: string;
  readonly disk: SimDisk;
  /** What has its before-images; undefined: it keeps none. */
  readonly journal:
    | { readonly disk: JournalDisk; readonly file: SimJournalFile; readonly layers: SimLayerFolder }
    | undefined;
  /** Nobody can reach it. */
  offline = false;
  /** It has persistent reservations. */
  fences: boolean;
  /** Whose writes it takes alone, and the number of the run; undefined: everybody's. It is remembered over restarts. */
  fence: Fence | undefined;
  /** Commands that came from somebody else than who had fenced it. */
  refused = 0;
  onWhole: (header: Header) => void = () => {};
  /** Called when somebody's write arrives. */
  onWrite: (connection: Connection, lba: number, data: Buffer) => void = () => {};
  readonly #time: SimTime;
  readonly #random: Random;
  #life: Life;
  #served: Volume | undefined;
  #connections = new Set<Connection>();

  constructor(time: SimTime, random: Random, disk: SimDisk, keepsWhole: boolean) {
    this.#time = time;
    this.#random = random;
    this.name = disk.name;
    this.uuid = `uuid of ${disk.name}`;
    this.disk = disk;
    this.fences = random() < 0.5;
    this.#life = new Life(time, disk.name);
    if (keepsWhole) {
      const journalDisk = new JournalDisk();
      const file = new SimJournalFile(journalDisk);
      this.journal = { disk: journalDisk, file, layers: new SimLayerFolder(journalDisk) };
      let before: number = journalState.whole;
      file.onHeader = (header) => {
        if (header.state === journalState.whole && before !== journalState.whole) this.onWhole(header);
        before = header.state;
      };
    }
    void this.#start();
  }

  get served(): WholeVolume | undefined {
    return this.#served instanceof WholeVolume ? this.#served : undefined;
  }

  get up(): boolean {
    return this.#served !== undefined;
  }

  async #start(): Promise<void> {
    const life = this.#life;
    this.disk.life = life;
    if (!this.journal) {
      this.#served = this.disk;
      return;
    }
    const { file, layers } = this.journal;
    const random = { bytes: (count: number) => bytesOf(this.#random, count) };
    for (;;) {
      try {
        const journal = await Journal.open(
          file.over(life),
          layers.over(life),
          this.disk,
          Buffer.alloc(32, 7),
          {
            path: `${this.name}.journal`,
            random,
            nowMs: () => life.clock.nowMs(),
            isForeign: async () => false,
            log: () => {},
          },
        );
        this.#served = new WholeVolume(this.disk, journal);
        return;
      } catch (error) {
        if (!(error instanceof AgentError) || error.code !== "io_error") throw error;
        await life.wait(1000); // systemd starts it again
      }
    }
  }

  /** The process dies, or with it the power; somebody starts it again. */
  crash({ power }: { readonly power: boolean }, backAfterMs: number): void {
    this.#time.tell(() => `${this.name} crashes`);
    this.#life.die();
    this.#served = undefined;
    for (const connection of this.#connections) connection.break();
    this.#connections.clear();
    if (power) {
      this.disk.powerCut();
      this.journal?.file.powerCut(this.#random);
      this.journal?.layers.powerCut(this.#random);
    } else this.disk.evict();
    this.#life = new Life(this.#time, this.name);
    this.disk.life = this.#life;
    this.#time.after(backAfterMs, this.#life, () => void this.#start());
  }

  /** @throws AgentError `connection_refused` */
  login(owner: string): Connection {
    if (this.offline || !this.#served)
      throw new AgentError("connection_refused", `"${this.name}" can't be reached`);
    const connection = new Connection(owner, this, this.#served, this.#life);
    this.#connections.add(connection);
    return connection;
  }

  logout(connection: Connection): void {
    connection.ended = true;
    this.#connections.delete(connection);
  }

  /** A run takes it, or an operator (`number` undefined); what others were about has ended then. @throws AgentError `volume_in_use` */
  async take(connection: Connection, number = this.fence?.number): Promise<boolean> {
    const { owner } = connection;
    if (!this.fences || number === undefined) return false;
    if (this.fence && this.fence.number > number) throw inUse(this.name, this.fence.owner);
    this.#time.tell(() => `${owner} fences ${this.name}`);
    this.fence = { owner, number };
    connection.key = this.fence;
    const others = [...this.#connections].filter((each) => each.owner !== owner);
    await Promise.all(others.flatMap(({ underWay }) => [...underWay].map((work) => work.catch(() => {}))));
    return true;
  }

  /** @throws AgentError `volume_in_use` if somebody else has it */
  admit({ owner, key }: Connection): void {
    const isIts = key ? this.fence?.owner === owner : !this.fence || this.fence.owner === owner;
    if (isIts) return;
    this.refused++;
    throw inUse(this.name, this.fence?.owner ?? "others");
  }

  /** A command arrives. Undefined: nobody hears of it. */
  async carryOut<T>(connection: Connection, action: (served: Volume) => Promise<T>): Promise<T | undefined> {
    if (connection.ended || connection.life !== this.#life) return undefined;
    const work = this.#life.seen(command.run(connection, () => action(connection.served)));
    connection.underWay.add(work);
    try {
      return await work;
    } finally {
      connection.underWay.delete(work);
    }
  }
}

const inUse = (name: string, owner: string) =>
  new AgentError("volume_in_use", `"${name}" takes writes of ${owner}: reservation conflict`);
