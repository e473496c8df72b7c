// The manual pages agree with the program: with what --help prints, and with the exit statuses of src/base/errors.ts.
import { execFile } from "node:child_process";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { describe, expect, test } from "vitest";
import { errorCodes, exitStatus } from "../../src/base/errors.ts";

const run = promisify(execFile);
const top = join(import.meta.dirname, "../..");
const launcher = join(top, "bin/lunsync");
const manual = join(top, "man");
const commands = [
  "serve",
  "compare",
  "sync",
  "undo",
  "rollback",
  "points",
  "scrub",
  "set",
  "failover",
  "failback",
  "inquiry",
];

const source = (page: string) => readFile(join(manual, `${page}.1`), "utf8");
const pageOf = (command: string) => (command === "" ? "lunsync" : `lunsync-${command}`);

async function help(command: string): Promise<string> {
  const { stdout } = await run(launcher, [...(command === "" ? [] : [command]), "--help"]);
  return stdout;
}

/** The entries of the usage's section, as they stand at the left: `--lun <PATH[,ro]>`, `serve [options]`. */
function entriesOf(usage: string, section: string): string[] {
  const lines = usage.split("\n");
  const from = lines.indexOf(`${section}:`);
  expect(from, `${section} in the usage`).toBeGreaterThanOrEqual(0);
  const rest = lines.slice(from + 1);
  const end = rest.indexOf("");
  return rest.slice(0, end).flatMap((line) => /^ {2}(\S.*?)(?: {2,}|$)/.exec(line)?.[1] ?? []);
}

/** Option names and the words for their values: `--lun PATH[,ro]`. */
function helpedOptions(usage: string): string[] {
  return entriesOf(usage, "Options").map((entry) => entry.replace(/[<>]/g, ""));
}

/** A request line of roff as it is read: without macros, fonts, escapes and quotes. */
function plain(line: string): string {
  return line
    .replace(/^\.\w+ /, "")
    .replace(/\\f[BIPR]/g, "")
    .replace(/\\-/g, "-")
    .replace(/\\[&e]/g, "")
    .replace(/ "/g, "\0")
    .replace(/" /g, "\0")
    .replace(/"/g, "")
    .replace(/ /g, "")
    .replace(/\0/g, "")
    .replace(/,--/, ", --");
}

/** The lines of a section of a page. */
function sectionOf(page: string, title: string): string[] {
  const lines = page.split("\n");
  const from = lines.findIndex((line) => line === `.SH ${title}` || line === `.SH "${title}"`);
  expect(from, `section ${title}`).toBeGreaterThanOrEqual(0);
  const rest = lines.slice(from + 1);
  const end = rest.findIndex((line) => line.startsWith(".SH"));
  return end < 0 ? rest : rest.slice(0, end);
}

/** The tags of a section's paragraphs. */
function tagsOf(lines: readonly string[]): string[] {
  return lines.filter((_, i) => lines[i - 1] === ".TP");
}

/** As in the usage, a blank between an option and its value. */
function documentedOptions(page: string): string[] {
  return tagsOf(sectionOf(page, "OPTIONS"))
    .filter((line) => line.includes("\\-"))
    .map((line) => {
      const [, name, value] = /^\.BI (\S+) "\s*(.*)"$/.exec(line) ?? [];
      return name === undefined ? plain(line) : `${plain(name)} ${plain(value!)}`;
    });
}

describe("the manual pages agree with --help", () => {
  test("there is a page for the program and one for each command, and no other", async () => {
    const listed = entriesOf(await help(""), "Commands").map((entry) => entry.split(" ")[0]!);
    expect(listed).toEqual([...commands, "help"]);
    expect(tagsOf(sectionOf(await source("lunsync"), "COMMANDS")).map(plain)).toEqual(listed);
    const pages = (await readdir(manual)).sort();
    expect(pages).toEqual(["", ...commands].map((command) => `${pageOf(command)}.1`).sort());
  });

  for (const command of ["", ...commands]) {
    test(`${pageOf(command)}(1) has the options of its --help, no more and no fewer`, async () => {
      const helped = helpedOptions(await help(command));
      expect(documentedOptions(await source(pageOf(command))).sort()).toEqual(helped.sort());
    });
  }

  test.each(["set", "points"])(
    "lunsync-%s(1) has the commands and options of each one's --help",
    async (of) => {
      const page = await source(pageOf(of));
      const listed = entriesOf(await help(of), "Commands").map((entry) => entry.split(" ")[0]!);
      const tags = tagsOf(sectionOf(page, "COMMANDS")).map((tag) => /^\.BI? "?([a-z\\-]+)/.exec(tag)![1]);
      expect(tags.map((tag) => tag!.replaceAll("\\", ""))).toEqual(
        listed.filter((command) => command !== "help"),
      );
      const text = plain(page);
      for (const command of listed.filter((each) => each !== "help")) {
        const { stdout } = await run(launcher, [of, command, "--help"]);
        for (const option of helpedOptions(stdout)) {
          const name = /--[a-z-]+/.exec(option)![0];
          expect([command, text.includes(name) && name]).toEqual([command, name]);
        }
      }
    },
  );

  for (const command of commands.filter((each) => !["set", "points"].includes(each))) {
    test(`${pageOf(command)}(1) has the arguments of its --help`, async () => {
      const usage = await help(command);
      const synopsis = sectionOf(await source(pageOf(command)), "SYNOPSIS").join(" ");
      const names = usage.includes("\nArguments:\n") ? entriesOf(usage, "Arguments") : [];
      for (const name of names) expect(synopsis).toContain(name);
      expect(usage.split("\n")[0]!.replaceAll(/ \[([A-Z]+)\]/g, " <$1>")).toBe(
        `Usage: lunsync ${[command, "[options]", ...names.map((name) => `<${name}>`)].join(" ")}`,
      );
    });
  }
});

describe("the manual pages agree with the exit statuses", () => {
  /** Status → what stands behind it, for a page. */
  async function statuses(page: string): Promise<Map<number, string>> {
    const lines = sectionOf(await source(page), "EXIT STATUS");
    const found = new Map<number, string>();
    lines.forEach((line, i) => {
      const status = lines[i - 1] === ".TP" ? /^\.B (\d+)$/.exec(line)?.[1] : undefined;
      if (status === undefined) return;
      const rest = lines.slice(i + 1);
      const end = rest.findIndex((each) => each === ".TP" || each === ".PP");
      found.set(Number(status), rest.slice(0, end < 0 ? undefined : end).join(" "));
    });
    return found;
  }

  test("lunsync(1) lists every status once, in their order", async () => {
    expect([...(await statuses("lunsync")).keys()]).toEqual(Object.values(exitStatus));
  });

  test("lunsync(1) lists each error code with the status that it ends a command with", async () => {
    const documented = new Map<string, number>();
    for (const [status, text] of await statuses("lunsync")) {
      const codes = /Codes: ([a-z_, ]+)\.$/.exec(text)?.[1];
      for (const code of codes?.split(", ") ?? []) documented.set(code, status);
    }
    expect(Object.fromEntries(documented)).toEqual(errorCodes);
  });

  test("the commands' pages name statuses that exist", async () => {
    const known = new Set<number>(Object.values(exitStatus));
    for (const command of commands) {
      for (const status of (await statuses(pageOf(command))).keys()) expect(known).toContain(status);
    }
  });
});

describe("the manual pages are clean roff", () => {
  for (const command of ["", ...commands]) {
    const page = pageOf(command);
    test(`${page}(1) is formatted without a warning`, async () => {
      const path = join(manual, `${page}.1`);
      const { stdout, stderr } = await run("man", ["--warnings", "-E", "UTF-8", "-l", path], {
        env: { ...process.env, LC_ALL: "C.UTF-8", MANWIDTH: "80", MANPAGER: "cat" },
      });
      expect(stderr).toBe("");
      expect(stdout).toContain("NAME");
    });
  }
});
