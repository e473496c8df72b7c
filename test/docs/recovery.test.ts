// docs/recovery.md: each line names a test that there is.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));
const page = readFileSync(`${root}docs/recovery.md`, "utf8");

/** Rows of tables, without their heads. */
const rows = page
  .split("\n")
  .filter((line) => line.startsWith("| ") && !line.startsWith("| ---") && !line.startsWith("| dies or fails"))
  .map((line) => line.slice(2, -2).split(" | "));

test("each line says what fails, what that leaves, what repairs it, and names a test that there is", () => {
  expect(rows.length).toBeGreaterThan(30);
  for (const row of rows) {
    expect([row, row.length]).toEqual([row, 4]);
    for (const cell of row) expect(cell.trim()).not.toBe("");
    const [, file, name] = /^`(test\/[\w/-]+\.test\.ts)`: (.+)$/.exec(row[3]!.trim()) ?? [];
    expect([row[3], file]).toEqual([row[3], expect.any(String)]);
    const text = readFileSync(`${root}${file}`, "utf8");
    const titles = [...text.matchAll(/\btest(?:\.skipIf\([^)]*\))?\(\s*"([^"]+)"/g)].map((match) => match[1]);
    expect([file, titles]).toEqual([file, expect.arrayContaining([name])]);
  }
});

test("what is tested of recovery stands in the page", () => {
  const text = readFileSync(`${root}test/sets/recovery.test.ts`, "utf8");
  for (const [, title] of text.matchAll(/\btest\(\s*"([^"]+)"/g)) expect(page).toContain(title);
});
