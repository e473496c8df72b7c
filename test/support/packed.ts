// The program with its Node and its packages as one archive, for a guest that has none of them.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { run } from "./lunsync.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** Writes `program.tar` into a folder; `unpackProgram` makes `lunsync` of it where the folder is at /share. */
export async function packProgram(folder: string): Promise<void> {
  const lock = JSON.parse(await readFile(join(root, "package-lock.json"), "utf8"));
  const packages = Object.entries<{ dev?: boolean; optional?: boolean }>(lock.packages)
    .filter(([path, { dev, optional }]) => path !== "" && !dev && !optional)
    .map(([path]) => path);
  const what = ["package.json", "bin", "dist", "build/Release", "node_modules/.bin/node", ...packages];
  const packed = await run("tar", ["-chf", join(folder, "program.tar"), "-C", root, ...what]);
  if (packed.status !== 0) throw new Error(`tar: ${packed.stderr}`);
}

/** Over 9p each file that is looked at takes its time; hence not from /share itself. */
export const unpackProgram = `
mkdir /run/program
tar -xf /share/program.tar -C /run/program
lunsync() { /run/program/bin/lunsync "$@" || echo "status $?"; }
`;
