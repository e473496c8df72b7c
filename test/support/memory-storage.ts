// Files in memory for a catalogue and its histories.
import { Histories } from "../../src/catalogue/history.ts";
import type { Storage } from "../../src/catalogue/page-store.ts";

export function memoryStorage(bytes: number): Storage {
  const file = Buffer.alloc(bytes);
  return {
    read: async (offset, buffer) => void file.copy(buffer, 0, offset, offset + buffer.length),
    write: async (offset, pieces) => void Buffer.concat([...pieces]).copy(file, offset),
    flush: async () => {},
    close: () => {},
  };
}

/** Histories in memory. */
export function memoryHistories(extents: number): Promise<Histories> {
  const files = new Map<string, Storage>();
  return Histories.open(
    {
      list: async () => [],
      create: async (name, bytes) => {
        const storage = memoryStorage(bytes);
        files.set(name, storage);
        return storage;
      },
      open: async (name) => files.get(name)!,
      rename: async () => {},
      remove: async () => {},
    },
    extents,
    false,
  );
}
