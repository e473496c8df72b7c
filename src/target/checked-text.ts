// Small files of the state directory whose last line is the SHA-256 of the lines before it.
//
// Guarantees: at every instant the file holds the old or the new text, whole; one that is damaged is an error, never an
// empty one.
import { createHash } from "node:crypto";
import { readTextFile, replaceFile } from "../platform/durable-file.ts";

const digestOf = (body: string) => createHash("sha256").update(body).digest("hex");

/** Undefined if there is none. @throws Error that says what is wrong with it */
export async function readChecked(path: string): Promise<string | undefined> {
  const text = await readTextFile(path);
  if (text === undefined) return undefined;
  const end = text.lastIndexOf("\n", text.length - 2);
  const body = text.slice(0, end + 1);
  if (text.slice(end + 1).trimEnd() !== digestOf(body)) throw new Error("its checksum is wrong");
  return body;
}

/** `body` ends with a newline. On the medium when it resolves. */
export const writeChecked = (path: string, body: string): Promise<void> =>
  replaceFile(path, `${body}${digestOf(body)}\n`);
