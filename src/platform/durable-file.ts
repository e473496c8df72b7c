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

/** Makes the folder of a file, and those above it. */
async function makeFolderOf(path: string): Promise<void> {
  const folder = dirname(path);
  const first = await mkdir(folder, { recursive: true, mode: 0o700 });
  if (first === undefined) return;
  for (let made = folder; made.length >= first.length; made = dirname(made)) await syncFolder(made);
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
  await makeFolderOf(path);
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

/** Likewise, and a power cut brings none back that was removed. */
export async function lastingFilesIn(path: string): Promise<string[]> {
  const names = await filesIn(path);
  if (existsSync(path)) await syncFolder(`${path}/.`);
  return names;
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
  await makeFolderOf(path);
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
  await makeFolderOf(path);
  try {
    await using _file = await open(path, "wx", 0o600);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return (await stat(path)).size;
    throw error;
  }
  await syncFolder(path);
  return 0;
}
