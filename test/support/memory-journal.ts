// A journal's file in memory: nothing goes wrong with it.

import { tableAt } from "../../src/whole/format.ts";
import type { JournalFile } from "../../src/whole/journal-file.ts";

export function memoryJournal(): JournalFile {
  let bytes = Buffer.alloc(tableAt);
  const extend = (length: number) => {
    if (length > bytes.length) bytes = Buffer.concat([bytes, Buffer.alloc(length - bytes.length)]);
  };
  return {
    read: async (offset, buffer) => void bytes.copy(buffer, 0, offset),
    write: async (offset, pieces) => {
      const data = Buffer.concat([...pieces]);
      extend(offset + data.length);
      data.copy(bytes, offset);
    },
    flush: async () => {},
    nextData: async (offset, length) => ({ offset, bytes: length }),
    reset: async (length) => {
      bytes = Buffer.from(bytes.subarray(0, tableAt));
      extend(length);
    },
    close: () => {},
  };
}
