// What a run has decided, until it is written down in one transaction.
//
// Guarantees: memory is bounded by one piece; the file is unlinked as soon as it is open, so that nothing is left behind,
// however the process ends.
import { randomUUID } from "node:crypto";
import { type FileHandle, open, unlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { deserialize, serialize } from "node:v8";

export class Spool<T> implements AsyncDisposable {
  #file: FileHandle | undefined;
  #bytes = 0;

  async add(piece: T): Promise<void> {
    if (!this.#file) {
      const path = join(tmpdir(), `lunsync-spool-${randomUUID()}`);
      this.#file = await open(path, "wx+", 0o600);
      await unlink(path);
    }
    const body = serialize(piece);
    const head = Buffer.alloc(4);
    head.writeUInt32BE(body.length);
    const bytes = Buffer.concat([head, body]);
    await this.#file.write(bytes, 0, bytes.length, this.#bytes);
    this.#bytes += bytes.length;
  }

  get empty(): boolean {
    return this.#bytes === 0;
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
