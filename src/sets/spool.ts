// What a run has decided, until it is written down in one transaction.
//
// Guarantees: memory is bounded by one piece; the file is unlinked as soon as it is open, so that nothing is left behind,
// however the process ends. What comes back is what was added, by its checksum, or it is an error.
import { randomUUID } from "node:crypto";
import { open, unlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { deserialize, serialize } from "node:v8";
import { crc32 } from "node:zlib";
import { AgentError, messageOf } from "../base/errors.ts";

/** A temporary file; what system calls fail with has a `code`. */
export interface SpoolFile {
  write(buffer: Buffer, offset: number, length: number, at: number): Promise<{ bytesWritten: number }>;
  read(buffer: Buffer, offset: number, length: number, at: number): Promise<{ bytesRead: number }>;
  close(): Promise<void>;
}

async function unlinked(): Promise<SpoolFile> {
  const path = join(tmpdir(), `lunsync-spool-${randomUUID()}`);
  const file = await open(path, "wx+", 0o600);
  await unlink(path);
  return file;
}

/** Length and CRC-32 of the piece behind it. */
const headBytes = 8;
/** So that zeros are no piece. */
const crcStart = 1;

/** Takes what was decided, piece by piece. */
export interface Sink<T> {
  add(piece: T): Promise<void>;
}

/** Where only the count matters. */
export const nowhere: Sink<unknown> = { add: async () => {} };

export class Spool<T> implements Sink<T>, AsyncDisposable {
  readonly #make: () => Promise<SpoolFile>;
  #file: SpoolFile | undefined;
  #bytes = 0;

  constructor(make: () => Promise<SpoolFile> = unlinked) {
    this.#make = make;
  }

  /** @throws AgentError `no_space`, `io_error` */
  async add(piece: T): Promise<void> {
    const body = serialize(piece);
    const head = Buffer.alloc(headBytes);
    head.writeUInt32BE(body.length);
    head.writeUInt32BE(crc32(body, crcStart), 4);
    const bytes = Buffer.concat([head, body]);
    try {
      this.#file ??= await this.#make();
      for (let done = 0; done < bytes.length; ) {
        const { bytesWritten } = await this.#file.write(bytes, done, bytes.length - done, this.#bytes + done);
        done += bytesWritten;
      }
    } catch (error) {
      const code = (error as { code?: string }).code === "ENOSPC" ? "no_space" : "io_error";
      throw new AgentError(
        code,
        `Cannot keep what was decided in a temporary file in "${tmpdir()}": ${messageOf(error)}; ` +
          "nothing was written to a replica. Make room there, or set TMPDIR",
        { cause: error },
      );
    }
    this.#bytes += bytes.length;
  }

  /** In the order in which they were added. Buffers in them come back as Uint8Arrays. @throws AgentError `io_error` */
  async *[Symbol.asyncIterator](): AsyncGenerator<T> {
    for (let at = 0; at < this.#bytes; ) {
      const head = await this.#read(at, headBytes);
      const bodyBytes = head.readUInt32BE();
      if (at + headBytes + bodyBytes > this.#bytes) throw notAsItWas("it was changed");
      const body = await this.#read(at + headBytes, bodyBytes);
      if (crc32(body, crcStart) !== head.readUInt32BE(4)) throw notAsItWas("it was changed");
      at += headBytes + bodyBytes;
      yield deserialize(body) as T;
    }
  }

  async #read(at: number, bytes: number): Promise<Buffer> {
    const buffer = Buffer.alloc(bytes);
    for (let done = 0; done < bytes; ) {
      const { bytesRead } = await this.#file!.read(buffer, done, bytes - done, at + done).catch(
        (error: unknown) => {
          throw notAsItWas(messageOf(error), error);
        },
      );
      if (bytesRead === 0) throw notAsItWas("it was cut off");
      done += bytesRead;
    }
    return buffer;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file?.close();
    this.#file = undefined;
  }
}

const notAsItWas = (found: string, cause?: unknown): AgentError =>
  new AgentError(
    "io_error",
    `Cannot read what was decided from a temporary file in "${tmpdir()}": ${found}; nothing was written to a replica. See to ` +
      "the medium there, or set TMPDIR, and run again",
    { cause },
  );
