// Histories as files of a folder.
import { join } from "node:path";
import { BlockFile } from "../platform/block-file.ts";
import {
  emptyFile,
  fileExists,
  filesIn,
  makeFile,
  removeFile,
  renameFile,
} from "../platform/durable-file.ts";
import type { HistoryFolder } from "./history.ts";

export function historyFolder(path: string): HistoryFolder {
  const file = (name: string) => join(path, `${name}.history`);
  return {
    list: async () =>
      (await filesIn(path)).flatMap(
        (name) => /^([0-9a-f]+-(?:[0-9a-f]+|pending))\.history$/.exec(name)?.[1] ?? [],
      ),
    create: async (name, bytes) => {
      if (fileExists(file(name))) await emptyFile(file(name), bytes);
      else await makeFile(file(name), bytes);
      return BlockFile.open(file(name), true);
    },
    open: (name) => BlockFile.open(file(name), true),
    rename: (from, to) => renameFile(file(from), file(to)),
    remove: (name) => removeFile(file(name)),
    extend: (name, bytes) => makeFile(file(name), bytes),
  };
}
