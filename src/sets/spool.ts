// What a run has decided, until it is written down in one transaction.
//
// Guarantees: memory is bounded by one piece; the file is unlinked as soon as it is open, so that nothing is left behind,
// however the process ends.
import { randomUUID } from "node:crypto";
import { open, unlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { deserialize, serialize } from "node:v8";
import { AgentError, messageOf } from "../base/errors.ts";

/** A temporary file; what system calls fail with has a `code`. */
export interface SpoolFile {
  write(buffer: Buffer, offset: number, length: number, at: number): Promise<{ bytesWritten: number }>;
  read(buffer: Buffer, offset: number, length: number, at: number): Promise<unknown>;
  close(): Promise<void>;
}

async function unlinked(): Promise<SpoolFile> {
  const path = join(tmpdir(), `lunsync-spool-${randomUUID()}`);
  const file = await open(path, "wx+", 0o600);
  await unlink(path);
  return file;
}

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
    const head = Buffer.alloc(4);
    head.writeUInt32BE(body.length);
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

  /** In the order in which they were added. Buffers in them come back as Uint8Arrays. */
  async *[Symbol.asyncIterator](): AsyncGenerator<T> {
    const head = Buffer.alloc(4);
    for (let at = 0; at < this.#bytes; ) {
      await this.#file!.read(head, 0, 4, at);
      const body = Buffer.alloc(head.readUInt32BE());
      await this.#file!.read(body, 0, body.length, at + 4);
      at += 4 + body.length;
      yield deserialize(body) as T;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file?.close();
    this.#file = undefined;
  }
}
