// Block I/O through the addon: many requests go down in one call and come back in one.
//
// Guarantees: a promise settles when the addon's thread is done with the buffers that were lent; until then they
// are kept alive here. Requests that are made within one turn of the event loop are submitted together. What may
// block never runs on the event loop.
import { constants } from "node:os";
import { SystemError } from "./errno.ts";
import { native } from "./native.ts";

interface OpenResult {
  error: number;
  id: number;
  blockDevice: boolean;
  bytes: number;
  logicalBlockBytes: number;
  physicalBlockBytes: number;
  device: number;
  inode: number;
  specialDevice: number;
  canUnmap: boolean;
}

interface IdentifyArguments {
  tag: number;
  file: number;
  program: number;
  offset: number;
  bytes: number;
  extentBytes: number;
  blockBytes: number;
  direct: boolean;
  output: number;
  width: number;
  initialValue: Uint8Array | undefined;
  input: Uint8Array | undefined;
  values: Uint8Array;
  memory: Uint8Array | undefined;
}

const addon = native as unknown as {
  startIo(callback: (completions: Float64Array) => void, digestThreads: number): void;
  openFile(path: string, writable: boolean): Promise<OpenResult>;
  closeFile(id: number): void;
  submitIo(operations: Float64Array, buffers: readonly Uint8Array[]): void;
  readNow(file: number, offset: number, buffer: Uint8Array): number;
  writeNow(file: number, offset: number, buffers: readonly Uint8Array[]): number;
  compileDigest(operations: Uint8Array): { id: number; identifierBytes: number };
  identify(request: IdentifyArguments): void;
};

const kind = { read: 0, write: 1, zero: 2, flush: 3, nextData: 4, grow: 5 } as const;
const flagDirect = 1;
const flagDurable = 2;
const flagUnmap = 4;
const now = { done: 0, waits: 1, unknown: 2 } as const;
const output = { identifiers: 0, encode: 1, decode: 2 } as const;

/** More than this at once is left to the threads even if it takes no waiting: they copy beside the event loop. */
const nowBytesMax = 256 * 1024;
/** Likewise more than this in one turn of the event loop, of what is not small. */
const nowBytesOfTurnMax = 512 * 1024;
const smallBytes = 16 * 1024;
let nowBytesOfTurn = 0;

/** Whether so many bytes may be copied on the event loop. */
function mayCopyNow(bytes: number): boolean {
  if (bytes <= smallBytes) return true;
  if (bytes > nowBytesMax || nowBytesOfTurn + bytes > nowBytesOfTurnMax) return false;
  if (nowBytesOfTurn === 0) setImmediate(() => (nowBytesOfTurn = 0));
  nowBytesOfTurn += bytes;
  return true;
}

interface Completion {
  result: number;
  detail: number;
  error: number;
}

interface Waiting {
  resolve(completion: Completion): void;
  /** Lent to the addon. */
  held: unknown;
}

const waiting = new Map<number, Waiting>();
let nextTag = 1;
let started = false;
let operations: number[] = [];
let operationBuffers: Uint8Array[] = [];

function start(): void {
  if (started) return;
  started = true;
  const threads = Number(process.env.LUNSYNC_DIGEST_THREADS ?? 0);
  addon.startIo(deliver, Number.isInteger(threads) && threads > 0 ? threads : 0);
}

function deliver(completions: Float64Array): void {
  for (let i = 0; i < completions.length; i += 4) {
    const tag = completions[i]!;
    const entry = waiting.get(tag);
    waiting.delete(tag);
    entry?.resolve({ result: completions[i + 1]!, detail: completions[i + 2]!, error: completions[i + 3]! });
  }
}

function submitPending(): void {
  if (operations.length === 0) return; // close() was faster
  const numbers = Float64Array.from(operations);
  const buffers = operationBuffers;
  operations = [];
  operationBuffers = [];
  addon.submitIo(numbers, buffers);
}

function request(
  kindNumber: number,
  file: number,
  flags: number,
  offset: number,
  bytes: number,
  buffers: readonly Uint8Array[],
): Promise<Completion> {
  start();
  if (operations.length === 0) queueMicrotask(submitPending);
  const tag = nextTag++;
  operations.push(kindNumber, file, flags, offset, bytes, tag, buffers.length);
  for (const buffer of buffers) operationBuffers.push(buffer);
  return new Promise((resolve) => {
    waiting.set(tag, { resolve, held: buffers });
  });
}

async function settled(pending: Promise<Completion>): Promise<Completion> {
  const done = await pending;
  if (done.result < 0) throw new SystemError(-done.result, done.detail < 0 ? undefined : done.detail);
  return done;
}

/** A digest specification, compiled by the addon. Programs are few and live as long as the process. */
export interface DigestProgram {
  readonly id: number;
  readonly identifierBytes: number;
}

/** Compiles a postfix program (see native/digest/program.h). @throws TypeError for an invalid one */
export function compileDigest(operations: Uint8Array): DigestProgram {
  return addon.compileDigest(operations);
}

export interface IdentifyRequest {
  readonly program: DigestProgram;
  /** Byte offset of the first extent in the volume. */
  readonly offset: number;
  /** Bytes of all extents; the last may be shorter than `extentBytes`. */
  readonly bytes: number;
  readonly extentBytes: number;
  readonly blockBytes: number;
  readonly output: "identifiers" | "encode" | "decode";
  /** Bytes of one value: 1 to 16 for encode and decode, the program's identifierBytes otherwise. */
  readonly width: number;
  /** 16 bytes, for encode and decode. */
  readonly initialValue?: Uint8Array;
  /** 16 bytes an extent, for decode. */
  readonly input?: Uint8Array;
}

export interface IdentifyResult {
  /** `width` bytes for each extent; only the first `count` of them mean something. */
  readonly values: Buffer;
  readonly count: number;
  /** Why there are fewer than were asked for; offsetBytes names the block. */
  readonly error: SystemError | undefined;
}

async function identify(
  source: { file: number; memory: Uint8Array | undefined; direct: boolean },
  what: IdentifyRequest,
): Promise<IdentifyResult> {
  start();
  const extents = Math.ceil(what.bytes / what.extentBytes);
  const values = Buffer.allocUnsafeSlow(extents * what.width);
  const tag = nextTag++;
  const pending = new Promise<Completion>((resolve) => {
    waiting.set(tag, { resolve, held: [values, source.memory, what.input] });
  });
  try {
    addon.identify({
      tag,
      file: source.file,
      memory: source.memory,
      direct: source.direct,
      program: what.program.id,
      offset: what.offset,
      bytes: what.bytes,
      extentBytes: what.extentBytes,
      blockBytes: what.blockBytes,
      output: output[what.output],
      width: what.width,
      initialValue: what.initialValue,
      input: what.input,
      values,
    });
  } catch (error) {
    waiting.delete(tag);
    throw error;
  }
  const done = await pending;
  return {
    values,
    count: done.result,
    error:
      done.error === 0 ? undefined : new SystemError(done.error, done.detail < 0 ? undefined : done.detail),
  };
}

/** Identifiers of extents that lie in memory one after another. The memory is lent until the promise settles. */
export function identifyMemory(memory: Uint8Array, what: IdentifyRequest): Promise<IdentifyResult> {
  return identify({ file: 0, memory, direct: false }, what);
}

/** An open regular file or block device. All offsets and lengths are in bytes. */
export class BlockFile implements AsyncDisposable {
  readonly path: string;
  readonly writable: boolean;
  readonly blockDevice: boolean;
  /** As it was when it was opened. */
  readonly bytes: number;
  readonly logicalBlockBytes: number;
  readonly physicalBlockBytes: number;
  /** st_dev, st_ino and, for a block device, st_rdev. */
  readonly device: number;
  readonly inode: number;
  readonly specialDevice: number;
  readonly canUnmap: boolean;
  readonly #id: number;
  #closed = false;
  /** Whether the file system can tell beforehand that a request takes no waiting. */
  #readsNow = true;
  #writesNow = true;

  private constructor(path: string, writable: boolean, opened: OpenResult) {
    this.path = path;
    this.writable = writable;
    this.blockDevice = opened.blockDevice;
    this.bytes = opened.bytes;
    this.logicalBlockBytes = opened.logicalBlockBytes;
    this.physicalBlockBytes = opened.physicalBlockBytes;
    this.device = opened.device;
    this.inode = opened.inode;
    this.specialDevice = opened.specialDevice;
    this.canUnmap = opened.canUnmap;
    this.#id = opened.id;
  }

  /**
   * Opens `path`. For writing, a block device is opened exclusively and a file is locked.
   * @throws SystemError: EBUSY a device that is mounted or claimed, EAGAIN a file that somebody has locked,
   *   EISDIR or EINVAL what is neither file nor block device, and what open(2) gives
   */
  static async open(path: string, writable: boolean): Promise<BlockFile> {
    start();
    const opened = await addon.openFile(path, writable);
    if (opened.error !== 0) throw new SystemError(opened.error);
    return new BlockFile(path, writable, opened);
  }

  /**
   * Fills `buffer` at once and returns true, if that takes no waiting for a device; false otherwise, also where nobody
   * can tell, and for everything that goes wrong: read() will say what.
   */
  readNow(offset: number, buffer: Uint8Array): boolean {
    if (this.#closed || !this.#readsNow || !mayCopyNow(buffer.byteLength)) return false;
    const result = addon.readNow(this.#id, offset, buffer);
    if (result === now.unknown) this.#readsNow = false;
    return result === now.done;
  }

  /**
   * Writes the buffers into the page cache at once and returns true, if that takes no waiting; false otherwise, as for
   * readNow(): a part of them may then have been written.
   */
  writeNow(offset: number, buffers: readonly Uint8Array[]): boolean {
    if (this.#closed || !this.#writesNow) return false;
    let length = 0;
    for (const buffer of buffers) length += buffer.byteLength;
    if (!mayCopyNow(length)) return false;
    const result = addon.writeNow(this.#id, offset, buffers);
    if (result === now.unknown) this.#writesNow = false;
    return result === now.done;
  }

  /** Fills `buffer`. `direct` reads past the page cache. @throws SystemError; EIO names the first bad block */
  async read(offset: number, buffer: Uint8Array, options: { direct?: boolean } = {}): Promise<void> {
    await settled(
      request(kind.read, this.#file(), options.direct ? flagDirect : 0, offset, buffer.byteLength, [buffer]),
    );
  }

  /** Writes the buffers one after another. `durable`: on the medium when the promise resolves. */
  async write(
    offset: number,
    buffers: readonly Uint8Array[],
    options: { durable?: boolean } = {},
  ): Promise<void> {
    let length = 0;
    for (const buffer of buffers) length += buffer.byteLength;
    await settled(
      request(kind.write, this.#file(), options.durable ? flagDurable : 0, offset, length, buffers),
    );
  }

  /** Makes a range read as zeros; with `unmap` by deallocating it where that can be done. */
  async zero(offset: number, length: number, options: { unmap?: boolean } = {}): Promise<void> {
    await settled(request(kind.zero, this.#file(), options.unmap ? flagUnmap : 0, offset, length, []));
  }

  /** All writes that have resolved are on the medium when this resolves. */
  async flush(): Promise<void> {
    await settled(request(kind.flush, this.#file(), 0, 0, 0, []));
  }

  /** Gives a file this length if it is shorter; what is new is a hole, and durable after flush(). @throws SystemError */
  async grow(bytes: number): Promise<void> {
    await settled(request(kind.grow, this.#file(), 0, 0, bytes, []));
  }

  /** The first run of data at or behind `offset` within `length` bytes; undefined if all of it is a hole. */
  async nextData(offset: number, length: number): Promise<{ offset: number; bytes: number } | undefined> {
    const done = await settled(request(kind.nextData, this.#file(), 0, offset, length, []));
    return done.result === 0 ? undefined : { offset: done.detail, bytes: done.result };
  }

  async identify(what: IdentifyRequest, options: { direct?: boolean } = {}): Promise<IdentifyResult> {
    return identify({ file: this.#file(), memory: undefined, direct: options.direct ?? false }, what);
  }

  /** @throws SystemError EBADF: closed */
  #file(): number {
    if (this.#closed) throw new SystemError(constants.errno.EBADF);
    return this.#id;
  }

  /** Idempotent. What is under way still ends; nothing is flushed. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    submitPending(); // what was asked for before is under way
    addon.closeFile(this.#id);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }
}
