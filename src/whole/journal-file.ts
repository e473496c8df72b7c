// The file of a journal of before-images, or what stands for it in a simulation.
//
// Guarantees: one process at a time has it; it is sparse, and takes no more room than what was written to it.
import { createHash } from "node:crypto";
import { join } from "node:path";
import { AgentError, messageOf } from "../base/errors.ts";
import { BlockFile } from "../platform/block-file.ts";
import { emptyFileBehind, fileExists, makeFile } from "../platform/durable-file.ts";
import type { Volume } from "../volume/volume.ts";
import { tableAt } from "./format.ts";

export interface JournalFile {
  /** `direct`: from the medium, past the page cache. */
  read(offset: number, buffer: Buffer, options?: { direct?: boolean }): Promise<void>;
  write(offset: number, pieces: readonly Buffer[]): Promise<void>;
  flush(): Promise<void>;
  nextData(offset: number, length: number): Promise<{ offset: number; bytes: number } | undefined>;
  /** Leaves the headers as they are; all behind them is one hole, up to `bytes`. */
  reset(bytes: number): Promise<void>;
  close(): void;
}

/** The file of a volume's before-images. */
export function journalPath(folder: string, volume: Volume): string {
  const { uuid, keys } = volume.identity;
  const name = uuid ?? createHash("sha256").update(keys.join("\n")).digest("hex").slice(0, 32);
  return join(folder, "whole", `${name}.journal`);
}

/** Opens the file, which is made where there is none. @throws AgentError `volume_in_use`, `no_space`, `io_error` */
export async function openJournalFile(path: string, name: string): Promise<JournalFile> {
  try {
    const isNew = !fileExists(path);
    await makeFile(path, tableAt);
    const file = await BlockFile.open(path, true);
    // Whatever becomes of the disk, there is room to say how the volume is.
    if (isNew) await file.write(0, [Buffer.alloc(tableAt)], { durable: true });
    return {
      read: (offset, buffer, options) => file.read(offset, buffer, options),
      write: (offset, pieces) => file.write(offset, pieces),
      flush: () => file.flush(),
      nextData: (offset, length) => file.nextData(offset, length),
      reset: (bytes) => emptyFileBehind(path, tableAt, bytes),
      close: () => file.close(),
    };
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
