// A list of block ranges of any length in bounded memory: past a limit it goes to a temporary file.
//
// Guarantees: neighbouring ranges become one; ranges come back in the order in which they were added. The file is
// unlinked as soon as it is open, so that nothing is left behind, however the process ends.

import { randomUUID } from "node:crypto";
import { type FileHandle, open, unlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { BlockRange } from "../base/units.ts";

const rangeBytes = 16;

export class RangeLog implements AsyncDisposable {
  readonly #memoryRangesMax: number;
  #memory: Float64Array;
  #inMemory = 0;
  #file: FileHandle | undefined;
  #inFile = 0;
  #last: { lba: number; blocks: number } | undefined;
  #blocks = 0;

  /** Up to `memoryRangesMax` ranges (16 bytes each) are kept in memory. */
  constructor(memoryRangesMax = 65_536) {
    this.#memoryRangesMax = memoryRangesMax;
    this.#memory = new Float64Array(2 * Math.min(1024, memoryRangesMax));
  }

  get count(): number {
    return this.#inFile + this.#inMemory + (this.#last ? 1 : 0);
  }

  /** Blocks of all ranges. */
  get blocks(): number {
    return this.#blocks;
  }

  async add(lba: number, blocks: number): Promise<void> {
    this.#blocks += blocks;
    const last = this.#last;
    if (last && last.lba + last.blocks === lba) {
      last.blocks += blocks;
      return;
    }
    if (last) {
      if (this.#inMemory === this.#memoryRangesMax) await this.#spill();
      if (2 * this.#inMemory === this.#memory.length) {
        const larger = new Float64Array(Math.min(4 * this.#inMemory, 2 * this.#memoryRangesMax));
        larger.set(this.#memory);
        this.#memory = larger;
      }
      this.#memory[2 * this.#inMemory] = last.lba;
      this.#memory[2 * this.#inMemory + 1] = last.blocks;
      this.#inMemory++;
    }
    this.#last = { lba, blocks };
  }

  async #spill(): Promise<void> {
    if (!this.#file) {
      const path = join(tmpdir(), `lunsync-ranges-${randomUUID()}`);
      this.#file = await open(path, "wx+", 0o600);
      await unlink(path);
    }
    const bytes = Buffer.from(this.#memory.buffer, 0, this.#inMemory * rangeBytes);
    await this.#file.write(bytes, 0, bytes.length, this.#inFile * rangeBytes);
    this.#inFile += this.#inMemory;
    this.#inMemory = 0;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<BlockRange> {
    const chunk = new Float64Array(2 * 4096);
    for (let at = 0; at < this.#inFile; ) {
      const count = Math.min(4096, this.#inFile - at);
      const bytes = Buffer.from(chunk.buffer, 0, count * rangeBytes);
      await this.#file!.read(bytes, 0, bytes.length, at * rangeBytes);
      for (let i = 0; i < count; i++) yield { lba: chunk[2 * i]!, blocks: chunk[2 * i + 1]! };
      at += count;
    }
    for (let i = 0; i < this.#inMemory; i++) {
      yield { lba: this.#memory[2 * i]!, blocks: this.#memory[2 * i + 1]! };
    }
    if (this.#last) yield { ...this.#last };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file?.close();
    this.#file = undefined;
  }
}
