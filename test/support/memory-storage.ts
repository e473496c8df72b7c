// A file in memory for a catalogue.
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
