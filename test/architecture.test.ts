// The floors of the house: who may import whom. docs/architecture.md says why.
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const src = fileURLToPath(new URL("../src", import.meta.url));

/** Each floor, and those below it from which it may import. */
const floors: Readonly<Record<string, readonly string[]>> = {
  base: [],
  platform: ["base"],
  scsi: ["base"],
  iscsi: ["base", "platform"],
  digest: ["base", "platform"],
  volume: ["base", "platform", "scsi", "digest"],
  initiator: ["base", "platform", "scsi", "iscsi"],
  target: ["base", "platform", "scsi", "iscsi", "digest", "volume"],
  catalogue: ["base", "platform", "digest", "volume"],
  truth: ["base", "platform"],
  sets: ["base", "platform", "digest", "volume", "truth"],
  whole: ["base", "platform", "digest", "volume"],
  replicate: ["base", "platform", "scsi", "iscsi", "digest", "volume"],
  cli: [
    "base",
    "platform",
    "scsi",
    "iscsi",
    "digest",
    "volume",
    "initiator",
    "target",
    "replicate",
    "catalogue",
    "truth",
    "sets",
    "whole",
  ],
};

/** Modules of Node that only some places may use. */
const guarded: Readonly<Record<string, RegExp>> = {
  "node:net": /^(platform\/(tcp|outbox|network-set)|initiator\/connection|target\/(connection|target))\.ts$/,
  "node:sqlite": /^truth\/sqlite-connections\.ts$/,
  "node:module": /^platform\/native\.ts$/,
  "node:fs": /^(platform|cli)\//,
  "node:fs/promises":
    /^(platform\/|cli\/|volume\/file-volume|replicate\/(range-log|before-images|undo)|sets\/spool)/,
};

interface Source {
  readonly path: string;
  readonly imports: readonly { readonly from: string; readonly typeOnly: boolean }[];
}

function sources(folder = src): Source[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return sources(path);
    const text = readFileSync(path, "utf8");
    const imports = [
      ...text.matchAll(/^(?:import|export)\s+(type\s)?[^;]*?from "([^"]+)"|^import "([^"]+)"/gms),
    ].map((match) => ({
      typeOnly: match[1] !== undefined,
      from: match[2] ?? match[3]!,
    }));
    return [{ path, imports }];
  });
}

const files = sources();
const inHouse = (path: string) => relative(src, path);
const floorOf = (path: string) => inHouse(path).split("/")[0]!;

test("there is something to look at", () => {
  expect(files.length).toBeGreaterThan(70);
  expect(files.flatMap((file) => file.imports).length).toBeGreaterThan(300);
});

test("a floor imports only from those below it", () => {
  const wrong: string[] = [];
  for (const { path, imports } of files) {
    for (const { from } of imports) {
      if (!from.startsWith(".")) continue;
      const there = floorOf(resolve(dirname(path), from));
      const here = floorOf(path);
      if (here !== there && !floors[here]!.includes(there)) wrong.push(`${inHouse(path)} imports ${from}`);
    }
  }
  expect(wrong).toEqual([]);
});

test("no file imports itself by a detour, types aside", () => {
  const graph = new Map(
    files.map(({ path, imports }) => [
      path,
      imports
        .filter(({ from, typeOnly }) => from.startsWith(".") && !typeOnly)
        .map(({ from }) => resolve(dirname(path), from)),
    ]),
  );
  const done = new Set<string>();
  const cycles: string[] = [];
  const visit = (path: string, way: readonly string[]) => {
    if (way.includes(path)) cycles.push([...way.slice(way.indexOf(path)), path].map(inHouse).join(" → "));
    else if (!done.has(path)) {
      for (const next of graph.get(path) ?? []) visit(next, [...way, path]);
      done.add(path);
    }
  };
  for (const path of graph.keys()) visit(path, []);
  expect(cycles).toEqual([]);
});

test("files, sockets and the addon are used where they belong", () => {
  const wrong: string[] = [];
  for (const { path, imports } of files) {
    for (const { from } of imports) {
      const where = guarded[from];
      if (where && !where.test(inHouse(path))) wrong.push(`${inHouse(path)} imports ${from}`);
      if (/\.node"?$/.test(from)) wrong.push(`${inHouse(path)} loads an addon`);
    }
  }
  expect(wrong).toEqual([]);
});

test("packages from outside stay on the uppermost floor, but for the client of a database", () => {
  const outside = files.flatMap(({ path, imports }) =>
    imports
      .filter(({ from }) => !from.startsWith(".") && !from.startsWith("node:"))
      .map(({ from }) => `${floorOf(path)}: ${from}`),
  );
  expect([...new Set(outside)].sort()).toEqual(["cli: cli-progress", "cli: commander", "truth: pg"]);
});
