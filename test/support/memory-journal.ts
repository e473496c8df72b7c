// A journal's files in memory, and a volume above them that keeps its last whole generation: nothing goes wrong with them.
import { systemRandom } from "../../src/platform/random.ts";
import type { Volume } from "../../src/volume/volume.ts";
import { tableAt } from "../../src/whole/format.ts";
import { Journal, type JournalOptions } from "../../src/whole/journal.ts";
import type { JournalFile, LayerFolder } from "../../src/whole/journal-file.ts";
import { WholeVolume } from "../../src/whole/whole-volume.ts";

function memoryFile(length = tableAt): JournalFile {
  let bytes = Buffer.alloc(length);
  return {
    read: async (offset, buffer) => void bytes.copy(buffer, 0, offset),
    write: async (offset, pieces) => {
      const data = Buffer.concat([...pieces]);
      const missing = offset + data.length - bytes.length;
      if (missing > 0) bytes = Buffer.concat([bytes, Buffer.alloc(missing)]);
      data.copy(bytes, offset);
    },
    flush: async () => {},
    nextData: async (offset, wanted) => ({ offset, bytes: wanted }),
    close: () => {},
  };
}

function memoryLayers(): LayerFolder {
  const files = new Map<number, JournalFile>();
  return {
    path: "memory",
    list: async () => [...files.keys()],
    create: async (epoch, length) => {
      files.set(epoch, memoryFile(length));
      return files.get(epoch)!;
    },
    open: async (epoch) => files.get(epoch)!,
    remove: async (epoch) => void files.delete(epoch),
  };
}

export async function memoryWhole(
  volume: Volume,
  nowMs: () => number,
  options: Partial<JournalOptions> = {},
): Promise<WholeVolume> {
  const journal = await Journal.open(memoryFile(), memoryLayers(), volume, Buffer.alloc(32), {
    path: "memory",
    random: systemRandom,
    nowMs,
    isForeign: async () => false,
    log: () => {},
    ...options,
  });
  return new WholeVolume(volume, journal);
}
