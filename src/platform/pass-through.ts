// SCSI pass-through by the addon: commands handed to the kernel's own SCSI stack through libsgutils2.
//
// Guarantees: a command runs on a thread of its own; its buffers are lent until its promise settles or it was given up,
// and untouched from then on. The library is looked for when the first device is opened.
import { AgentError } from "../base/errors.ts";
import { SystemError } from "./errno.ts";
import { loadAddon } from "./native.ts";

/** Sonames of Debian's releases, the newest first, then whatever a system may have. */
const libraryNames = [
  "libsgutils2-1.48.so.2",
  "libsgutils2-1.47.so.2",
  "libsgutils2-1.46.so.2",
  "libsgutils2-1.45.so.2",
  "libsgutils2.so.2",
  "libsgutils2.so",
];

interface NativeResult {
  tag: number;
  osError: number;
  refused: boolean;
  timedOut: boolean;
  category: number;
  status: number;
  hostStatus: number;
  transportWords: string;
  residual: number;
  dataInBytes: number;
  sense: Buffer;
}

interface Addon {
  start(names: readonly string[], callback: (result: NativeResult) => void): string;
  open(
    path: string,
    writable: boolean,
    claim: string,
  ): Promise<{ error: number; claimed: boolean; id: number }>;
  close(id: number): void;
  submit(
    tag: number,
    device: number,
    cdb: Uint8Array,
    dataOut: readonly Uint8Array[],
    dataIn: Uint8Array | undefined,
    timeoutSeconds: number,
  ): void;
  release(tag: number): void;
}

/** get_scsi_pt_result_category (sg_pt.h). */
export const category = { good: 0, status: 1, sense: 2, transportError: 3, osError: 4 } as const;

export interface PassThroughResult {
  /** The kernel did not take the command, or let go of it. */
  readonly osError: SystemError | undefined;
  /** The library found the command wrong, or gave it up. */
  readonly refused: boolean;
  readonly timedOut: boolean;
  readonly category: number;
  /** What the logical unit answered: SAM's status. */
  readonly status: number;
  /** How the kernel's host adapter fared (DID_…), and that with the driver's status in words. */
  readonly hostStatus: number;
  readonly transportWords: string;
  /** Bytes that were not transferred of those that were wanted. */
  readonly residual: number;
  readonly dataInBytes: number;
  readonly sense: Buffer;
}

export interface PassThroughCommand {
  readonly cdb: Uint8Array;
  readonly dataOut: readonly Uint8Array[];
  readonly dataIn: Uint8Array | undefined;
  readonly timeoutSeconds: number;
}

let addon: Addon | undefined;
let nextTag = 1;
const waiting = new Map<number, { resolve(result: PassThroughResult): void; held: unknown }>();

function start(): Addon {
  if (addon) return addon;
  const loaded = loadAddon("lunsync_sg") as unknown as Addon;
  const own = process.env.LUNSYNC_SGUTILS;
  const problem = loaded.start(own === undefined || own === "" ? libraryNames : [own], deliver);
  if (problem !== "") {
    throw new AgentError(
      "volume_unsuitable",
      `Cannot use SCSI pass-through: sg3_utils' library libsgutils2 can't be loaded (${problem}); ` +
        'install it: "apt-get install sg3-utils" brings it along',
    );
  }
  addon = loaded;
  return addon;
}

function deliver(result: NativeResult): void {
  const entry = waiting.get(result.tag);
  if (!entry) return; // it was given up
  waiting.delete(result.tag);
  addon!.release(result.tag);
  entry.resolve({
    ...result,
    osError: result.osError === 0 ? undefined : new SystemError(result.osError),
  });
}

/** A command under way. */
export interface PassThroughTask {
  readonly result: Promise<PassThroughResult>;
  /** Takes the buffers back and forgets the command, which the kernel may still carry out. */
  giveUp(): void;
}

/** An open SCSI device of the kernel: /dev/sgN, /dev/sdX or /dev/bsg/H:C:T:L. */
export class PassThrough {
  readonly #addon: Addon;
  readonly #id: number;
  #closed = false;

  private constructor(loaded: Addon, id: number) {
    this.#addon = loaded;
    this.#id = id;
  }

  /**
   * `claim`: a block device that nobody else shall take exclusively (mount, for example) meanwhile; its page cache is
   * written back and dropped.
   * @throws AgentError `volume_unsuitable` without the library; SystemError: what open(2) gives, EBUSY of the claim
   */
  static async open(path: string, writable: boolean, claim: string | undefined): Promise<PassThrough> {
    const loaded = start();
    const opened = await loaded.open(path, writable, claim ?? "");
    if (opened.error !== 0) throw new SystemError(opened.error);
    return new PassThrough(loaded, opened.id);
  }

  submit(command: PassThroughCommand): PassThroughTask {
    const tag = nextTag++;
    const result = new Promise<PassThroughResult>((resolve) => {
      waiting.set(tag, { resolve, held: command });
    });
    const { cdb, dataOut, dataIn, timeoutSeconds } = command;
    try {
      this.#addon.submit(tag, this.#id, cdb, dataOut, dataIn, timeoutSeconds);
    } catch (error) {
      waiting.delete(tag);
      throw error;
    }
    return {
      result,
      giveUp: () => {
        if (waiting.delete(tag)) this.#addon.release(tag);
      },
    };
  }

  /** Idempotent. What is under way still ends. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#addon.close(this.#id);
  }
}
