// A session with one logical unit: commands in flight, the command window, and recovery at error recovery level 0.
//
// Guarantees: execute() settles once for every command, and its buffers are untouched from then on. A lost connection
// is made again, its unit checked by the owner, and what was under way is repeated in order; when that does not work
// within `reconnectMs`, everything fails with `connection_lost`. The number of commands outstanding is bounded by the
// target's window and by `queueDepth`.
//
// Repeating is safe: the new login reinstates the session (same ISID), so the target has ended the old tasks before it
// answers, and every command that is sent here gives the same result twice, or is refused at what has changed (COPY
// EXTENTS, which proves what it copies).
import { AgentError, messageOf } from "../base/errors.ts";
import type { Crc32c } from "../iscsi/framing.ts";
import type { Wishes } from "../iscsi/negotiation.ts";
import { serialDistance } from "../iscsi/serial.ts";
import type { Clock, Timer } from "../platform/clock.ts";
import type { Random } from "../platform/random.ts";
import type { ScsiCommand, ScsiDevice, ScsiOutcome } from "../scsi/command.ts";
import { formatAddress, type IscsiAddress } from "./address.ts";
import { Connection } from "./connection.ts";
import { Link } from "./link.ts";
import { Task } from "./task.ts";

export interface SessionOptions {
  readonly initiatorName: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly crc32c: Crc32c;
  /** How long a lost connection is tried to be made again. */
  readonly reconnectMs?: number;
  readonly openTimeoutMs?: number;
  readonly commandTimeoutMs?: number;
  /** The most commands outstanding. */
  readonly queueDepth?: number;
  /** Told when the connection is lost and when it is there again. */
  readonly onNotice?: (notice: string) => void;
}

const queueDepthDefault = 32;
const repeatsMax = 5;
const receiveSegmentBytes = 256 * 1024;

const lunField = (lun: number): bigint =>
  // SAM-5, 4.7.7: peripheral addressing up to 255, flat addressing above.
  BigInt(lun < 256 ? lun : 0x4000 | lun) << 48n;

export class IscsiSession implements ScsiDevice {
  readonly name: string;
  readonly cdbBytesMax = 260;
  readonly queueDepth: number;
  readonly address: IscsiAddress;
  readonly #options: SessionOptions;
  readonly #isid: Buffer;
  readonly #lun: bigint;
  #queue: Task[] = [];
  #link: Link | undefined;
  #state: "up" | "down" | "failed" | "closed" = "down";
  #failure: AgentError | undefined;
  #check: ((execute: (command: ScsiCommand) => Promise<ScsiOutcome>) => Promise<void>) | undefined;
  /** Traffic of connections that are over. */
  readonly #before = { sent: 0, received: 0 };
  readonly #closing = new AbortController();

  private constructor(address: IscsiAddress, options: SessionOptions) {
    this.address = address;
    this.name = formatAddress(address);
    this.#options = options;
    this.queueDepth = options.queueDepth ?? queueDepthDefault;
    this.#lun = lunField(address.lun);
    // RFC 7143, 11.12.5: type "random", so that two processes never share an ISID.
    this.#isid = Buffer.concat([Buffer.from([0x80]), options.random.bytes(5)]);
  }

  /** @throws AgentError `connection_refused`, `login_refused`, `protocol_error`, `timeout` */
  static async open(
    address: IscsiAddress,
    options: SessionOptions,
    signal?: AbortSignal,
  ): Promise<IscsiSession> {
    const session = new IscsiSession(address, options);
    session.#begin(await session.#connect(signal));
    session.#state = "up";
    return session;
  }

  get traffic(): { sent: number; received: number } {
    const now = this.#link?.traffic;
    return {
      sent: this.#before.sent + (now?.sent ?? 0),
      received: this.#before.received + (now?.received ?? 0),
    };
  }

  get transferBytesPreferred(): number {
    return 1024 * 1024;
  }

  onReconnect(check: (execute: (command: ScsiCommand) => Promise<ScsiOutcome>) => Promise<void>): void {
    this.#check = check;
  }

  execute(command: ScsiCommand, signal?: AbortSignal): Promise<ScsiOutcome> {
    return new Promise((resolve, reject) => {
      if (this.#failure) {
        reject(this.#failure);
        return;
      }
      if (signal?.aborted) {
        reject(signal.reason);
        return;
      }
      let timer: Timer | undefined;
      const onAbort = () => this.#abort(task, signal?.reason);
      const settle = () => {
        timer?.cancel();
        signal?.removeEventListener("abort", onAbort);
      };
      const task: Task = new Task(
        command,
        (outcome) => {
          settle();
          resolve(outcome);
        },
        (reason) => {
          settle();
          reject(reason);
        },
      );
      const timeoutMs = command.timeoutMs ?? this.#options.commandTimeoutMs ?? 60_000;
      timer = this.#options.clock.after(timeoutMs, () =>
        this.#abort(
          task,
          new AgentError("timeout", `${this.name} did not answer a command in ${timeoutMs / 1000} s`, {
            retry: "after_reconnect",
          }),
        ),
      );
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#queue.push(task);
      this.#pump();
    });
  }

  /** Logs out if it can. What is still under way fails. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#state === "closed") return;
    const link = this.#link;
    this.#state = "closed";
    this.#closing.abort(new AgentError("connection_lost", `${this.name} was closed`));
    await link?.logout();
    this.#failAll(new AgentError("connection_lost", `${this.name} was closed`));
  }

  // --- making and losing connections ---

  #connect(signal?: AbortSignal): Promise<Connection> {
    const { initiatorName, random, clock, crc32c } = this.#options;
    const digest = (wanted: boolean) => (wanted ? ["CRC32C"] : ["None", "CRC32C"]);
    const wishes: Wishes = {
      HeaderDigest: digest(this.address.headerDigest),
      DataDigest: digest(this.address.dataDigest),
      MaxRecvDataSegmentLength: receiveSegmentBytes,
      InitialR2T: false,
      ImmediateData: true,
      MaxBurstLength: 16_776_192,
      FirstBurstLength: 262_144,
      MaxOutstandingR2T: 1,
      MaxConnections: 1,
      DefaultTime2Wait: 0,
      DefaultTime2Retain: 0,
      DataPDUInOrder: true,
      DataSequenceInOrder: true,
      ErrorRecoveryLevel: 0,
    };
    return Connection.open(
      {
        portal: { host: this.address.host, port: this.address.port },
        peer: this.name,
        initiatorName,
        targetName: this.address.targetName,
        chap: this.address.chap,
        chapTarget: this.address.chapTarget,
        wishes,
        isid: this.#isid,
        random,
        clock,
        crc32c,
        openTimeoutMs: this.#options.openTimeoutMs ?? 10_000,
      },
      signal,
    );
  }

  #begin(connection: Connection): Link {
    const link: Link = new Link(connection, { name: this.name, lun: this.#lun }, this.#options.clock, {
      progress: () => this.#pump(),
      // Not at once: it may be over before it is in place.
      lost: (reason) => queueMicrotask(() => this.#lost(link, reason)),
    });
    this.#link = link;
    return link;
  }

  #lost(link: Link, reason: AgentError): void {
    if (this.#link !== link) return;
    this.#link = undefined;
    this.#before.sent += link.traffic.sent;
    this.#before.received += link.traffic.received;
    if (this.#state === "closed" || this.#state === "failed") {
      for (const task of link.tasks) task.reject(task.abortReason ?? this.#failure ?? reason);
      return;
    }
    // Sent once already: again, before everything that waits, in the order of their CmdSN.
    const repeated = link.tasks.toSorted((a, b) => serialDistance(b.cmdSN, a.cmdSN));
    const survivors: Task[] = [];
    for (const task of repeated) {
      if (task.abortReason !== undefined) task.reject(task.abortReason);
      else if (task.repeats >= repeatsMax) task.reject(reason);
      else {
        task.repeats++;
        task.restart();
        survivors.push(task);
      }
    }
    this.#queue = [...survivors, ...this.#queue];
    if (this.#state === "down") return; // the check after a reconnection was cut; the loop below goes on
    this.#state = "down";
    this.#options.onNotice?.(`${reason.message}; connecting again`);
    void this.#reconnect(reason);
  }

  async #reconnect(reason: AgentError): Promise<void> {
    const { clock } = this.#options;
    const deadlineMs = clock.monotonicMs() + (this.#options.reconnectMs ?? 15_000);
    let backoffMs = 100;
    let latest: unknown = reason;
    while (this.#state === "down") {
      try {
        await clock.sleep(backoffMs, this.#closing.signal);
        backoffMs = Math.min(backoffMs * 2, 2000);
        const link = this.#begin(await this.#connect(this.#closing.signal));
        if (this.#check) await this.#check((command) => this.#executeOn(link, command));
        if (this.#link !== link) throw reason;
        this.#state = "up";
        this.#options.onNotice?.(`The connection to ${this.name} is there again`);
        this.#pump();
        return;
      } catch (error) {
        latest = error;
        const hopeless = error instanceof AgentError && error.retry === "never";
        this.#link?.drop("the unit could not be checked");
        if (this.#state !== "down") return;
        if (hopeless || clock.monotonicMs() >= deadlineMs) break;
      }
    }
    if (this.#state !== "down") return;
    this.#state = "failed";
    const final =
      latest instanceof AgentError && latest.code !== "connection_refused" && latest.code !== "timeout";
    this.#failAll(
      final
        ? (latest as AgentError)
        : new AgentError(
            "connection_lost",
            `${reason.message}, and could not be made again: ${messageOf(latest)}`,
            {
              retry: "after_backoff",
              cause: latest,
            },
          ),
    );
  }

  #failAll(reason: AgentError): void {
    this.#failure = reason;
    const tasks = [...(this.#link?.tasks ?? []), ...this.#queue];
    this.#queue = [];
    for (const task of tasks) task.reject(task.abortReason ?? reason);
  }

  #pump(): void {
    const link = this.#link;
    if (!link || this.#state !== "up") return;
    while (this.#queue.length > 0 && link.taskCount < this.queueDepth && link.windowOpen) {
      link.send(this.#queue.shift()!);
    }
  }

  /** Past the queue, for the check after a reconnection. */
  #executeOn(link: Link, command: ScsiCommand): Promise<ScsiOutcome> {
    return new Promise((resolve, reject) => {
      if (this.#link !== link) {
        reject(
          new AgentError("connection_lost", `The connection to ${this.name} was lost`, {
            retry: "after_reconnect",
          }),
        );
        return;
      }
      const task = new Task(command, resolve, reject);
      task.repeats = repeatsMax; // never repeated on its own
      link.send(task);
    });
  }

  /** Ends one task early: a timeout, or the caller's signal. It is rejected once the target has let go of it. */
  #abort(task: Task, reason: unknown): void {
    const queued = this.#queue.indexOf(task);
    if (queued >= 0) {
      this.#queue.splice(queued, 1);
      task.reject(reason);
      return;
    }
    this.#link?.abort(task, reason);
  }
}
