// A journal's files for simulations: what was not flushed may be lost or torn, a disk that is full, a flush that fails and
// is told to one caller, as Linux does it: the page cache goes on having what the medium does not. A name that was removed may
// come back after a power cut, as long as the folder was not flushed.
import { SystemError } from "../../src/platform/errno.ts";
import { decodeHeader, type Header, headerBytes, tableAt } from "../../src/whole/format.ts";
import type { JournalFile, LayerFolder } from "../../src/whole/journal-file.ts";
import type { Life, Random } from "../catalogue/sim-media.ts";
import { oneOf } from "../support/data.ts";

const sectorBytes = 512;
const [eio, enospc] = [5, 28];

/** What goes wrong with the disk that has them. */
export class SimDisk {
  /** Nothing that makes a file longer, or fills a hole, fits. */
  full = false;
  failsFlush = false;
  failsRemoval = false;
  /** Mutations: what a correct program must not survive. */
  flushes = true;
}

export class SimJournalFile {
  readonly #disk: SimDisk;
  #cache: Buffer;
  #medium: Buffer;
  #unflushed: { offset: number; bytes: Buffer }[] = [];

  constructor(disk: SimDisk, bytes = tableAt) {
    this.#disk = disk;
    this.#cache = Buffer.alloc(bytes);
    this.#medium = Buffer.alloc(bytes);
  }

  onHeader: (header: Header) => void = () => {};

  over(life: Pick<Life, "pause">): JournalFile {
    return {
      read: async (offset, buffer, options) => {
        await life.pause();
        if (offset + buffer.length > this.#cache.length) throw new SystemError(eio);
        this.#cache.copy(buffer, 0, offset);
        if (!options?.direct) return;
        // What is dirty is written back first; what the kernel has dropped is not there.
        const medium = Buffer.from(this.#medium);
        for (const { offset: at, bytes } of this.#unflushed) bytes.copy(medium, at);
        medium.copy(buffer, 0, offset);
      },
      write: async (offset, pieces) => {
        const bytes = Buffer.concat([...pieces]);
        await life.pause();
        const isHole = (at: number) =>
          at >= tableAt && this.#cache.subarray(at, at + 4096).every((byte) => byte === 0);
        if (
          this.#disk.full &&
          (offset + bytes.length > this.#cache.length || isHole(offset - (offset % 4096)))
        )
          throw new SystemError(enospc);
        this.#extend(offset + bytes.length);
        bytes.copy(this.#cache, offset);
        this.#unflushed.push({ offset, bytes });
        const header = offset === 0 ? decodeHeader(bytes.subarray(0, headerBytes)) : undefined;
        if (header) this.onHeader(header);
        await life.pause();
      },
      flush: async () => {
        await life.pause();
        if (!this.#disk.flushes) return;
        const covered = this.#unflushed;
        this.#unflushed = [];
        if (this.#disk.failsFlush && covered.length > 0) {
          this.#disk.failsFlush = false;
          // Some of it got there.
          for (const { offset, bytes } of covered.slice(covered.length / 2)) bytes.copy(this.#medium, offset);
          throw new SystemError(eio);
        }
        for (const { offset, bytes } of covered) bytes.copy(this.#medium, offset);
        await life.pause();
      },
      nextData: async (offset, length) => {
        const end = Math.min(offset + length, this.#cache.length);
        for (let at = offset; at < end; at += 4096) {
          const bytes = Math.min(4096, end - at);
          if (this.#cache.subarray(at, at + bytes).some((byte) => byte !== 0)) return { offset: at, bytes };
        }
        return undefined;
      },
      close: () => {},
    };
  }

  #extend(bytes: number): void {
    const more = bytes - this.#cache.length;
    if (more <= 0) return;
    this.#cache = Buffer.concat([this.#cache, Buffer.alloc(more)]);
    this.#medium = Buffer.concat([this.#medium, Buffer.alloc(more)]);
  }

  powerCut(random: Random): void {
    for (const { offset, bytes } of this.#unflushed) {
      const keep = oneOf(random, [0, 0.5, 1]);
      for (let at = offset; at < offset + bytes.length; at += sectorBytes) {
        if (random() < keep) bytes.copy(this.#medium, at, at - offset, at - offset + sectorBytes);
      }
    }
    this.#unflushed = [];
    this.#medium.copy(this.#cache);
  }
}

export class SimLayerFolder {
  readonly #disk: SimDisk;
  readonly #files = new Map<number, SimJournalFile>();
  /** Removed, as far as the page cache goes. */
  #removed = new Map<number, SimJournalFile>();

  constructor(disk: SimDisk) {
    this.#disk = disk;
  }

  over(life: Pick<Life, "pause">): LayerFolder {
    return {
      path: "sim.layers",
      list: async () => {
        await life.pause();
        this.#removed.clear();
        return [...this.#files.keys()];
      },
      create: async (epoch, bytes) => {
        await life.pause();
        if (this.#disk.full) throw new SystemError(enospc);
        this.#files.set(epoch, new SimJournalFile(this.#disk, bytes));
        this.#removed.clear();
        await life.pause();
        return this.#files.get(epoch)!.over(life);
      },
      open: async (epoch) => this.#files.get(epoch)!.over(life),
      remove: async (epoch) => {
        await life.pause();
        const file = this.#files.get(epoch);
        if (file) {
          this.#removed.set(epoch, file);
          this.#disk.full = false;
        }
        this.#files.delete(epoch);
        await life.pause();
        if (this.#disk.failsRemoval) {
          this.#disk.failsRemoval = false;
          throw new SystemError(eio);
        }
        this.#removed.clear();
        await life.pause();
      },
    };
  }

  powerCut(random: Random): void {
    for (const [epoch, file] of this.#removed)
      if (random() < 0.5 && !this.#files.has(epoch)) this.#files.set(epoch, file);
    this.#removed.clear();
    for (const file of this.#files.values()) file.powerCut(random);
  }
}
