// Small files that must survive a power cut: replaced as a whole, or made with a fixed size.
//
// Guarantees: when a call resolves, file and directory entry are on the medium; a replaced file is the old or the new
// one at every instant. Errors are Node's, with their codes.
import { existsSync } from "node:fs";
import { mkdir, open, readdir, readFile, rename, rm, stat, truncate } from "node:fs/promises";
import { dirname } from "node:path";

async function syncFolder(path: string): Promise<void> {
  await using folder = await open(dirname(path), "r");
  await folder.sync();
}

export const fileExists = (path: string): boolean => existsSync(path);

/** The text of a file; undefined if there is none. */
export async function readTextFile(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** Puts `text` in the place of what the file held; makes its folders. */
export async function replaceFile(path: string, text: string): Promise<void> {
  const next = `${path}.new`;
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  {
    await using file = await open(next, "w", 0o600);
    await file.writeFile(text);
    await file.sync();
  }
  await rename(next, path);
  await syncFolder(path);
}

/** Makes a file one hole of `bytes`, whatever it held. */
export async function emptyFile(path: string, bytes: number): Promise<void> {
  await truncate(path, 0);
  await makeFile(path, bytes);
}

/** The names in a folder; none where there is no folder. */
export async function filesIn(path: string): Promise<string[]> {
  try {
    return await readdir(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}

/** Gives a file another name in its folder. */
export async function renameFile(from: string, to: string): Promise<void> {
  await rename(from, to);
  await syncFolder(to);
}

/** Also where there is none. */
export async function removeFile(path: string): Promise<void> {
  await rm(path, { force: true });
  await syncFolder(path);
}

/** Makes a file of at least `bytes` zeros where it is not there yet, and its folders. */
export async function makeFile(path: string, bytes: number): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  await using file = await open(path, "a", 0o600);
  if ((await file.stat()).size < bytes) {
    await file.truncate(bytes);
    await file.sync();
  }
  await syncFolder(path);
}

/**
 * Makes an empty file that only its owner may read where there is none, and its folders. A file that is there is not even
 * opened: closing it would end the locks that this process has on it. Returns its size.
 */
export async function makePrivateFile(path: string): Promise<number> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  try {
    await using _file = await open(path, "wx", 0o600);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return (await stat(path)).size;
    throw error;
  }
  await syncFolder(path);
  return 0;
}

/** Leaves the first `kept` bytes of a file as they are, and makes the rest of it a hole, up to `bytes`. */
export async function emptyFileBehind(path: string, kept: number, bytes: number): Promise<void> {
  await using file = await open(path, "r+");
  await file.truncate(kept);
  await file.truncate(bytes);
  await file.sync();
}
