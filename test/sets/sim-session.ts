// A volume of another host over a simulated network: what one run has of it, as over iSCSI.
//
// Commands take their time, and those of several volumes overtake each other. A connection that breaks is made again for a
// while, and what was under way is repeated, as the initiator does; nothing that was sent before arrives after that. Whatever
// becomes of the run, what it has sent may arrive late, and be carried out.
import { AgentError } from "../../src/base/errors.ts";
import type {
  CommitOptions,
  CompareAnswer,
  DigestAnswer,
  DigestWindow,
  Fence,
  GenerationChanges,
  IdentifierWindow,
  ReadOptions,
  RollBackOptions,
  RolledBack,
  SetLabel,
  Volume,
  WholeState,
} from "../../src/volume/volume.ts";
import { type Connection, command, type SimHost } from "./sim-host.ts";
import { chance, type Life, type Random } from "./sim-time.ts";

const reconnectMs = 15_000;
const timeoutMs = 30_000;

/** What lies between managers and volumes. */
export class SimNetwork {
  readonly random: Random;
  /** How many of the commands break their connection. */
  lossy = 0;
  /** Until when nothing passes between a manager and a host: by both names. */
  readonly cutUntilMs = new Map<string, number>();
  /** The most commands of one session at a time. */
  inFlightMax = 0;
  readonly counts = { broken: 0, late: 0, reconnected: 0, commands: 0 };

  constructor(random: Random) {
    this.random = random;
  }

  cutMs(life: Life, host: SimHost): number {
    return (this.cutUntilMs.get(`${life.name} ${host.name}`) ?? 0) - life.time.nowMs;
  }
}

class Broken extends Error {}

export class SimSession implements Volume {
  readonly name: string;
  readonly geometry: Volume["geometry"];
  readonly identity: Volume["identity"];
  readonly traits: Volume["traits"];
  readonly traffic = { sent: 0, received: 0 };
  readonly #network: SimNetwork;
  readonly #life: Life;
  readonly #find: () => SimHost;
  readonly #owner: string;
  #connection: Connection;
  #unflushed = false;
  #doubtful = false;
  #inFlight = 0;
  #closed = false;
  /** It could not be made again: nobody is told that it ends. */
  #lost = false;

  private constructor(
    network: SimNetwork,
    life: Life,
    find: () => SimHost,
    owner: string,
    connection: Connection,
    writable: boolean,
  ) {
    const { host, served } = connection;
    this.#network = network;
    this.#life = life;
    this.#find = find;
    this.#owner = owner;
    this.#connection = connection;
    this.name = host.name;
    this.geometry = served.geometry;
    this.identity = { uuid: host.uuid, keys: [], description: "simulated" };
    const { extentBytes, histories } = host.disk;
    const extentBlocks = extentBytes / served.geometry.blockBytes;
    this.traits = {
      ...served.traits,
      writable,
      ...(histories && {
        catalogue: { digest: "sha256", extentBlocks, fanOut: 64, rootLevel: 1 },
        keepsHistories: true,
      }),
    };
  }

  /** `find` says which host the address leads to. @throws AgentError `connection_refused` */
  static async open(
    network: SimNetwork,
    life: Life,
    find: () => SimHost,
    owner: string,
    writable: boolean,
  ): Promise<SimSession> {
    await life.pause();
    const host = find();
    if (network.cutMs(life, host) > 0) {
      await life.wait(Math.min(timeoutMs, network.cutMs(life, host)));
      throw new AgentError("connection_refused", `"${host.name}" does not answer`);
    }
    return new SimSession(network, life, find, owner, host.login(owner), writable);
  }

  async #send<T>(action: (served: Volume) => Promise<T>): Promise<T> {
    if (this.#closed) throw new Error(`a command to ${this.name} after it was closed`);
    this.#network.counts.commands++;
    this.#network.inFlightMax = Math.max(this.#network.inFlightMax, ++this.#inFlight);
    try {
      for (;;) {
        try {
          return await this.#once(action);
        } catch (error) {
          if (!(error instanceof Broken)) throw error;
          await this.#reconnect();
        }
      }
    } finally {
      this.#inFlight--;
    }
  }

  #once<T>(action: (served: Volume) => Promise<T>): Promise<T> {
    const [connection, network, life] = [this.#connection, this.#network, this.#life];
    const { host } = connection;
    const { time } = life;
    return new Promise<T>((resolve, reject) => {
      const lose = (afterMs: number) => time.after(afterMs, life, () => reject(new Broken()));
      if (connection.ended) {
        lose(time.delayMs());
        return;
      }
      const fail = () => void lose(time.delayMs());
      connection.waiting.add(fail);
      const cutMs = Math.max(0, network.cutMs(life, host));
      const fate = chance(network.random, network.lossy)
        ? (["request lost", "answer lost", "late"] as const)[Math.floor(network.random() * 3)]!
        : "passes";
      if (fate !== "passes") {
        network.counts.broken++;
        lose(time.delayMs());
      }
      if (cutMs > 0) lose(timeoutMs);
      if (fate === "request lost") return;
      const lateMs = fate === "late" ? network.random() * 40_000 : 0;
      const arrive = async () => {
        if (fate === "late" && !connection.ended) network.counts.late++;
        const reply = await replyTo(host, connection, action, resolve, reject);
        if (fate !== "passes" || connection.ended) return;
        const backMs = Math.max(0, network.cutMs(life, host));
        if (backMs > timeoutMs) lose(timeoutMs);
        time.after(time.delayMs() + backMs, life, () => {
          connection.waiting.delete(fail);
          if (!connection.ended) reply();
        });
      };
      time.after(time.delayMs() + cutMs + lateMs, undefined, () => void arrive());
    });
  }

  /** The unit is looked at again before anything is repeated. */
  async #reconnect(): Promise<void> {
    const old = this.#connection;
    const { time } = this.#life;
    const endMs = time.nowMs + reconnectMs;
    for (;;) {
      await this.#life.pause();
      if (this.#connection !== old && !this.#connection.ended) return; // another command has seen to it
      const host = this.#find();
      const reachable = host.up && !host.offline && this.#network.cutMs(this.#life, host) <= 0;
      if (reachable && host.uuid !== this.identity.uuid)
        throw new AgentError("identity_mismatch", `"${this.name}" is another volume than it was`);
      if (reachable) {
        this.#connection.break();
        const next = host.login(this.#owner);
        next.key = old.key;
        this.#connection = next;
        // A session that is made anew ends the tasks of the old one: what is carried out just now is waited for.
        while (old.underWay.size > 0 && old.life === next.life) await this.#life.wait(2);
        if (this.#unflushed) this.#doubtful = true;
        this.#network.counts.reconnected++;
        return;
      }
      if (time.nowMs > endMs) {
        this.#lost = true;
        throw new AgentError("connection_lost", `"${this.name}" is gone`);
      }
      await this.#life.wait(500);
    }
  }

  async read(lba: number, buffer: Buffer, options?: ReadOptions): Promise<void> {
    const data = await this.#send(async (served) => {
      const bytes = Buffer.alloc(buffer.length);
      await served.read(lba, bytes, options);
      return bytes;
    });
    data.copy(buffer);
  }

  async write(lba: number, pieces: readonly Buffer[]): Promise<void> {
    const data = Buffer.concat([...pieces]);
    this.#unflushed = true;
    await this.#send((served) => {
      told(lba, data);
      return served.write(lba, [data]);
    });
  }

  async zero(lba: number, blocks: number, options?: { unmap?: boolean }): Promise<void> {
    this.#unflushed = true;
    await this.#send((served) => {
      told(lba, Buffer.alloc(blocks * this.geometry.blockBytes));
      return served.zero(lba, blocks, options);
    });
  }

  async flush(): Promise<void> {
    await this.#send((served) => served.flush());
    this.#unflushed = false;
    if (!this.#doubtful) return;
    this.#doubtful = false;
    throw new AgentError("not_proved", `"${this.name}" was reconnected before its writes were flushed`);
  }

  nextData(lba: number, blocks: number): ReturnType<Volume["nextData"]> {
    return this.#send((served) => served.nextData(lba, blocks));
  }

  encodeDigests(window: DigestWindow): Promise<DigestAnswer> {
    return this.#send((served) => served.encodeDigests(window));
  }

  decodeDigests(window: DigestWindow, values: Buffer): Promise<DigestAnswer> {
    return this.#send((served) => served.decodeDigests(window, values));
  }

  compareDigests(window: DigestWindow, values: Buffer): Promise<CompareAnswer> {
    return this.#send((served) => served.compareDigests(window, values));
  }

  identifiers(window: IdentifierWindow): Promise<DigestAnswer> {
    return this.#send((served) => served.identifiers!(window));
  }

  async beginGeneration(pair: Buffer, generation: Buffer): Promise<void> {
    await this.#send(async () => this.#connection.host.disk.histories!.begin(pair, generation));
  }

  changesSince(pair: Buffer): Promise<GenerationChanges | undefined> {
    return this.#send(async () => this.#connection.host.disk.histories!.changes(pair));
  }

  async commitGeneration(pair: Buffer, generation: Buffer): Promise<void> {
    await this.#send(async () => this.#connection.host.disk.histories!.commit(pair, generation));
  }

  async beginWhole(run: Buffer): Promise<void> {
    await this.#change((served) => served.beginWhole!(run));
  }

  async commitWhole(run: Buffer, options?: CommitOptions): Promise<void> {
    await this.#change((served) => served.commitWhole!(run, options));
  }

  async labelWhole(label: SetLabel | undefined): Promise<void> {
    await this.#change((served) => served.labelWhole!(label));
  }

  rollBackWhole(options?: RollBackOptions): Promise<RolledBack> {
    return this.#change((served) => served.rollBackWhole!(options));
  }

  /** What only whoever has the volume may do. */
  #change<T>(action: (served: Volume) => Promise<T>): Promise<T> {
    return this.#send((served) => {
      const connection = command.getStore()!;
      connection.host.admit(connection);
      return action(served);
    });
  }

  fence({ number }: Fence, { ifFenced = false } = {}): Promise<boolean> {
    return this.#send(async () => {
      const { host } = this.#connection;
      return ifFenced && !host.fence ? false : host.take(this.#connection, number);
    });
  }

  takeFence(): Promise<boolean> {
    return this.#send(() => this.#connection.host.take(this.#connection));
  }

  async unfence(): Promise<void> {
    await this.#send(async () => {
      const { host, owner } = this.#connection;
      if (host.fence?.owner === owner) host.fence = undefined;
      this.#connection.key = undefined;
    });
  }

  wholeState(): Promise<WholeState> {
    return this.#send((served) => served.wholeState!());
  }

  async changeMark(): Promise<undefined> {}

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    if (!this.#lost) this.#connection.host.logout(this.#connection);
  }
}

/** Who watches the host learns of a write that arrives. */
function told(lba: number, data: Buffer): void {
  const connection = command.getStore()!;
  connection.host.admit(connection);
  connection.host.onWrite(connection, lba, data);
}

/** Carries out a command; returns the call by which its sender learns of that. */
async function replyTo<T>(
  host: SimHost,
  connection: Connection,
  action: (served: Volume) => Promise<T>,
  resolve: (answer: T) => void,
  reject: (error: unknown) => void,
): Promise<() => void> {
  try {
    const answer = await host.carryOut(connection, action);
    return () => resolve(answer as T);
  } catch (error) {
    return () => reject(error);
  }
}
