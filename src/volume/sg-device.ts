// A logical unit that the kernel is attached to, by SCSI pass-through: the commands go over the kernel's own initiator,
// whatever that is (iSCSI, Fibre Channel, SAS).
//
// Guarantees: execute() settles once for every command, and its buffers are untouched from then on. What the transport
// lost on the way is repeated, a bounded number of times, and only after the owner has checked that the unit is
// still the same; so it is after a unit attention that says reset, and after a flush that a new connection of the kernel
// may have come before. A command that the kernel doesn't let go of ends the device.
//
// Repeating is safe: every command that is sent here gives the same result twice, or is refused at what has changed.
import { lengthOf } from "../base/bytes.ts";
import { AgentError, messageOf } from "../base/errors.ts";
import type { Clock } from "../platform/clock.ts";
import { SystemError } from "../platform/errno.ts";
import { PassThrough, type PassThroughResult } from "../platform/pass-through.ts";
import { connectionMark, type ScsiHostDevice, scsiHostDevice } from "../platform/scsi-host.ts";
import { type ScsiCommand, type ScsiDevice, type ScsiOutcome, status } from "../scsi/command.ts";
import { synchronizeCache10, synchronizeCache16 } from "../scsi/sbc-commands.ts";
import { decodeSense } from "../scsi/sense.ts";
import { parseSgAddress } from "./sg-address.ts";
import { cdbRefused, describeCommand, judge, type Verdict } from "./sg-outcome.ts";

export interface SgOptions {
  readonly writable: boolean;
  readonly clock: Clock;
  /** Told when the path is disturbed and when it works again. */
  readonly onNotice?: ((notice: string) => void) | undefined;
}

const queueDepth = 8;
const transferBytesWanted = 1024 * 1024;
const repeatsMax = 5;
/** How long a disturbed path is tried again. */
const recoverMs = 15_000;
/** What the kernel gets beyond a command's own time: its error handling may reset unit, target and host in turn. */
const graceMs = 60_000;
/** No more often than this is the connection looked at between commands. */
const markEveryMs = 200;

const flushes: readonly number[] = [synchronizeCache10, synchronizeCache16].map(
  (command) => command.encode({})[0]!,
);

type Check = (execute: (command: ScsiCommand) => Promise<ScsiOutcome>) => Promise<void>;

export class SgDevice implements ScsiDevice {
  readonly name: string;
  readonly queueDepth = queueDepth;
  readonly transferBytesPreferred: number;
  readonly localKeys: readonly string[];
  /** CDBs and data; what the kernel's transport adds is not known. */
  readonly traffic = { sent: 0, received: 0 };
  #cdbBytesMax = 16;
  readonly #pass: PassThrough;
  readonly #host: ScsiHostDevice;
  readonly #clock: Clock;
  readonly #timeoutMs: number;
  readonly #onNotice: (notice: string) => void;
  #check: Check | undefined;
  #checking: Promise<void> | undefined;
  #failure: AgentError | undefined;
  #closed = false;
  #mark = "";
  #markedMs = 0;
  #running = 0;
  readonly #waiting: (() => void)[] = [];

  private constructor(
    name: string,
    pass: PassThrough,
    host: ScsiHostDevice,
    timeoutMs: number,
    options: SgOptions,
  ) {
    this.name = name;
    this.#pass = pass;
    this.#host = host;
    this.#clock = options.clock;
    this.#timeoutMs = timeoutMs;
    this.#onNotice = options.onNotice ?? (() => {});
    this.transferBytesPreferred = Math.min(transferBytesWanted, host.transferBytesMax);
    this.localKeys = host.keys;
  }

  /**
   * Opens `sg:PATH`. For writing, the disk that the kernel made of the unit is taken exclusively, and `refuse` is asked
   * about it and about the unit's other paths before.
   * @throws AgentError `usage`, `volume_missing`, `volume_unreadable`, `volume_unsuitable`, `volume_in_use`; and what
   *   the first command gives
   */
  static async open(
    address: string,
    options: SgOptions,
    refuse: (blockDevice: string) => Promise<void>,
  ): Promise<SgDevice> {
    const { path, timeoutSeconds } = parseSgAddress(address);
    const name = `sg:${path}`;
    const doing = `Cannot open "${name}" for ${options.writable ? "writing" : "reading"}`;
    const host = await scsiHostDevice(path, doing);
    if (options.writable) for (const blockDevice of host.blockDevices) await refuse(blockDevice);
    let pass: PassThrough;
    try {
      pass = await PassThrough.open(path, options.writable, options.writable ? host.blockDevice : undefined);
    } catch (error) {
      throw error instanceof SystemError ? openError(doing, host, error) : error;
    }
    const device = new SgDevice(name, pass, host, timeoutSeconds * 1000, options);
    try {
      device.#mark = await connectionMark(host.directory);
      await device.#probeCdbBytes();
    } catch (error) {
      pass.close();
      throw error;
    }
    return device;
  }

  get cdbBytesMax(): number {
    return this.#cdbBytesMax;
  }

  onReconnect(check: Check): void {
    this.#check = check;
  }

  async execute(command: ScsiCommand, signal?: AbortSignal): Promise<ScsiOutcome> {
    signal?.throwIfAborted();
    if (this.#running >= queueDepth) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    else this.#running++;
    try {
      return await this.#deliver(command, signal);
    } finally {
      const next = this.#waiting.shift();
      if (next) next();
      else this.#running--;
    }
  }

  /** What is under way still ends. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#failure ??= new AgentError("connection_lost", `${this.name} was closed`);
    this.#pass.close();
  }

  /**
   * Host adapters take CDBs of at most 16, 32 or more bytes, and the kernel does not tell. READ (32) of no blocks shows
   * it: it moves nothing, and a unit that does not have it says so (SBC-3, 5.13).
   */
  async #probeCdbBytes(): Promise<void> {
    const cdb = Buffer.alloc(32);
    cdb[0] = 0x7f; // variable length
    cdb[7] = 24; // ADDITIONAL CDB LENGTH
    cdb.writeUInt16BE(0x0009, 8); // SERVICE ACTION: READ (32)
    const result = await this.#once({ cdb });
    if (cdbRefused(result)) return;
    this.#cdbBytesMax = 32;
    const verdict = this.#judge(result, { cdb }, Buffer.alloc(0));
    if (verdict.kind === "failed") throw verdict.error;
  }

  async #deliver(command: ScsiCommand, signal?: AbortSignal): Promise<ScsiOutcome> {
    for (let repeats = 0; ; repeats++) {
      await this.#lookAtConnection(false);
      while (this.#checking !== undefined) await this.#checking;
      signal?.throwIfAborted();
      if (this.#failure) throw this.#failure;
      const verdict = await this.#attempt(command);
      if (verdict.kind === "failed") throw verdict.error;
      if (verdict.kind === "delivered") {
        const { outcome } = verdict;
        // Who gets the unit attention of a reset is checked for having become another unit before anything else goes.
        if (outcome.sense?.key === 0x6 && [0x28, 0x29, 0x3f].includes(outcome.sense.asc))
          await this.#recognize();
        else if (flushes.includes(command.cdb[0]!)) await this.#lookAtConnection(true);
        return outcome;
      }
      if (repeats === repeatsMax) throw verdict.error;
      if (repeats === 0) this.#onNotice(`${verdict.error.message}; trying again`);
      await this.#clock.sleep(Math.min(100 * 2 ** repeats, 2000), signal);
      await this.#recognize();
    }
  }

  async #attempt(command: ScsiCommand): Promise<Verdict> {
    const wanted = command.dataInBytes ?? command.dataIn?.length ?? 0;
    const dataIn = command.dataIn?.subarray(0, wanted) ?? Buffer.allocUnsafe(wanted);
    return this.#judge(await this.#once(command, dataIn), command, dataIn);
  }

  #judge(result: PassThroughResult, command: ScsiCommand, dataIn: Buffer): Verdict {
    return judge(result, {
      name: this.name,
      command,
      timeoutMs: command.timeoutMs ?? this.#timeoutMs,
      outcome: () => ({
        status: result.status,
        sense: result.status === status.checkCondition ? decodeSense(result.sense) : undefined,
        dataIn: dataIn.subarray(0, result.dataInBytes),
      }),
    });
  }

  /** Hands one command to the kernel and waits until it lets go of it, or for too long. */
  #once(command: ScsiCommand, dataIn: Buffer = Buffer.alloc(0)): Promise<PassThroughResult> {
    const timeoutMs = command.timeoutMs ?? this.#timeoutMs;
    const dataOut = command.dataOut ?? [];
    this.traffic.sent += command.cdb.length + lengthOf(dataOut);
    return new Promise((resolve, reject) => {
      const task = this.#pass.submit({
        cdb: command.cdb,
        dataOut,
        dataIn: dataIn.length > 0 ? dataIn : undefined,
        timeoutSeconds: Math.ceil(timeoutMs / 1000),
      });
      const timer = this.#clock.after(timeoutMs + graceMs, () => {
        task.giveUp();
        // The kernel may still carry it out: nothing must be sent behind it.
        this.#failure ??= new AgentError(
          "timeout",
          `${this.name} did not answer ${describeCommand(command)} in ${timeoutMs / 1000} s, and the kernel has not let go of it ` +
            `in ${graceMs / 1000} s more; look for its path in "dmesg", and run again when that works`,
          { retry: "after_backoff" },
        );
        reject(this.#failure);
      });
      void task.result.then((result) => {
        timer.cancel();
        this.traffic.received += result.dataInBytes;
        resolve(result);
      });
    });
  }

  /** Whether the kernel has connected anew since the last look; then the unit is checked. */
  async #lookAtConnection(now: boolean): Promise<void> {
    if (this.#mark === "" || !this.#check) return;
    const nowMs = this.#clock.monotonicMs();
    if (!now && nowMs - this.#markedMs < markEveryMs) return;
    this.#markedMs = nowMs;
    const mark = await connectionMark(this.#host.directory);
    if (mark === this.#mark || mark === "") return;
    this.#mark = mark;
    this.#onNotice(`The kernel has connected to ${this.name} anew`);
    await this.#recognize();
  }

  /** Has the owner check the unit. One check at a time; other commands wait for it. */
  #recognize(): Promise<void> {
    const check = this.#check;
    if (!check) return Promise.resolve();
    this.#checking ??= this.#recover(check).finally(() => {
      this.#checking = undefined;
    });
    return this.#checking;
  }

  async #recover(check: Check): Promise<void> {
    const deadlineMs = this.#clock.monotonicMs() + recoverMs;
    for (;;) {
      try {
        await check(async (command) => {
          const verdict = await this.#attempt(command);
          if (verdict.kind !== "delivered") throw verdict.error;
          return verdict.outcome;
        });
        return;
      } catch (error) {
        if (this.#failure) throw this.#failure;
        const hopeless = !(error instanceof AgentError) || error.retry === "never";
        if (hopeless || this.#clock.monotonicMs() >= deadlineMs) {
          this.#failure =
            error instanceof AgentError
              ? error
              : new AgentError("internal", `Cannot check ${this.name}: ${messageOf(error)}`, {
                  cause: error,
                });
          throw this.#failure;
        }
        await this.#clock.sleep(500);
      }
    }
  }
}

function openError(doing: string, host: ScsiHostDevice, cause: SystemError): AgentError {
  switch (cause.code) {
    case "EBUSY":
      return new AgentError(
        "volume_in_use",
        `${doing}: ${host.blockDevice ?? "the device"} is in use (${cause.message}); unmount it or stop who uses it`,
        { cause },
      );
    case "EACCES":
    case "EPERM":
      return new AgentError("volume_unreadable", `${doing}: ${cause.message}; run as root`, { cause });
    case "EROFS":
      return new AgentError("volume_readonly", `${doing}: ${cause.message}`, { cause });
    case "ENOENT":
    case "ENXIO":
    case "ENODEV":
      return new AgentError("volume_missing", `${doing}: ${cause.message}`, { cause });
    default:
      return new AgentError("volume_unreadable", `${doing}: ${cause.message}`, { cause });
  }
}
