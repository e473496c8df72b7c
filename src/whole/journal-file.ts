// The files of a journal of before-images, or what stands for them in a simulation: one of the journal itself, and a folder
// with one for each of its layers.
//
// Guarantees: one process at a time has them; they are sparse, and take no more room than what was written to them. A layer
// is made and removed on the medium, or an error says that nobody knows.
import { createHash } from "node:crypto";
import { join } from "node:path";
import { AgentError, messageOf } from "../base/errors.ts";
import { BlockFile } from "../platform/block-file.ts";
import { fileExists, lastingFilesIn, makeFile, removeFile } from "../platform/durable-file.ts";
import type { Volume } from "../volume/volume.ts";
import { tableAt } from "./format.ts";

export interface JournalFile {
  /** `direct`: from the medium, past the page cache. */
  read(offset: number, buffer: Buffer, options?: { direct?: boolean }): Promise<void>;
  write(offset: number, pieces: readonly Buffer[]): Promise<void>;
  flush(): Promise<void>;
  nextData(offset: number, length: number): Promise<{ offset: number; bytes: number } | undefined>;
  close(): void;
}

/** The layers of a volume, by their epochs. */
export interface LayerFolder {
  /** For messages. */
  readonly path: string;
  /** Those that were removed don't come back, whatever cuts the power. */
  list(): Promise<number[]>;
  /** One hole of so many bytes, whatever there was before. */
  create(epoch: number, bytes: number): Promise<JournalFile>;
  open(epoch: number): Promise<JournalFile>;
  /** Also where there is none. */
  remove(epoch: number): Promise<void>;
}

const fileOf = (file: BlockFile): JournalFile => ({
  read: (offset, buffer, options) => file.read(offset, buffer, options),
  write: (offset, pieces) => file.write(offset, pieces),
  flush: () => file.flush(),
  nextData: (offset, length) => file.nextData(offset, length),
  close: () => file.close(),
});

function pathOf(folder: string, volume: Volume, what: string): string {
  const { uuid, keys } = volume.identity;
  const name = uuid ?? createHash("sha256").update(keys.join("\n")).digest("hex").slice(0, 32);
  return join(folder, "whole", `${name}.${what}`);
}

/** The journal of a volume. */
export const journalPath = (folder: string, volume: Volume): string => pathOf(folder, volume, "journal");

/** Its layers. */
export function layerFolder(folder: string, volume: Volume): LayerFolder {
  const path = pathOf(folder, volume, "layers");
  const at = (epoch: number) => join(path, `${epoch}`);
  const open = async (epoch: number) => fileOf(await BlockFile.open(at(epoch), true));
  return {
    path,
    list: async () => (await lastingFilesIn(path)).filter((name) => /^[1-9]\d{0,14}$/.test(name)).map(Number),
    create: async (epoch, bytes) => {
      if (fileExists(at(epoch))) await removeFile(at(epoch));
      await makeFile(at(epoch), bytes);
      return open(epoch);
    },
    open,
    remove: (epoch) => removeFile(at(epoch)),
  };
}

/** Opens the file, which is made where there is none. @throws AgentError `volume_in_use`, `no_space`, `io_error` */
export async function openJournalFile(path: string, name: string): Promise<JournalFile> {
  try {
    const isNew = !fileExists(path);
    await makeFile(path, tableAt);
    const file = await BlockFile.open(path, true);
    // Whatever becomes of the disk, there is room to say how the volume is.
    if (isNew) await file.write(0, [Buffer.alloc(tableAt)], { durable: true });
    return fileOf(file);
  } catch (error) {
    const { code } = error as { code?: string };
    throw new AgentError(
      code === "EAGAIN" ? "volume_in_use" : code === "ENOSPC" || code === "EDQUOT" ? "no_space" : "io_error",
      `Cannot open the before-images "${path}" of "${name}": ${messageOf(error)}` +
        (code === "EAGAIN"
          ? "; whoever serves the volume has them: ask it by its URL, or stop it first"
          : ""),
      { cause: error },
    );
  }
}
