// Files in memory for a catalogue and its histories; those of a folder can go wrong.
import type { HistoryFolder } from "../../src/catalogue/history.ts";
import { Histories } from "../../src/catalogue/history.ts";
import type { Storage } from "../../src/catalogue/page-store.ts";

/** It grows as it is written to. */
export function memoryStorage(bytes: number): Storage {
  let file = Buffer.alloc(bytes);
  return {
    read: async (offset, buffer) => void buffer.fill(0).set(file.subarray(offset, offset + buffer.length)),
    write: async (offset, pieces) => {
      const data = Buffer.concat([...pieces]);
      const more = offset + data.length - file.length;
      if (more > 0) file = Buffer.concat([file, Buffer.alloc(more)]);
      data.copy(file, offset);
    },
    flush: async () => {},
    close: () => {},
  };
}

/** A folder in memory. What `fails` names (`write`, `flush`, `remove`) fails; a flush only once. */
export class MemoryFolder implements HistoryFolder {
  readonly files = new Map<string, Storage>();
  readonly fails = new Set<"write" | "flush" | "remove">();

  #fail(operation: "write" | "flush" | "remove"): void {
    if (!this.fails.has(operation)) return;
    if (operation === "flush") this.fails.delete(operation);
    throw new Error(`EIO: ${operation}`);
  }

  async list(): Promise<string[]> {
    return [...this.files.keys()];
  }

  async create(name: string, bytes: number): Promise<Storage> {
    const storage = memoryStorage(bytes);
    this.files.set(name, {
      ...storage,
      write: async (offset, pieces) => {
        this.#fail("write");
        await storage.write(offset, pieces);
      },
      flush: async () => this.#fail("flush"),
    });
    return this.open(name);
  }

  async open(name: string): Promise<Storage> {
    return this.files.get(name)!;
  }

  async rename(from: string, to: string): Promise<void> {
    this.files.set(to, this.files.get(from)!);
    this.files.delete(from);
  }

  async extend(): Promise<void> {}

  async remove(name: string): Promise<void> {
    this.#fail("remove");
    this.files.delete(name);
  }
}

export const memoryHistories = (extents: number): Promise<Histories> =>
  Histories.open(new MemoryFolder(), extents, false);
