// The address of a logical unit that the kernel is attached to: sg:/dev/sgN[?timeout=SECONDS].
import { AgentError } from "../base/errors.ts";

export interface SgAddress {
  readonly path: string;
  /** After this the kernel is to abort a command. */
  readonly timeoutSeconds: number;
}

export const isSgAddress = (text: string): boolean => /^sg:/i.test(text);

const timeoutSecondsDefault = 60;
const timeoutSecondsMax = 3600;

/** @throws AgentError `usage` */
export function parseSgAddress(text: string): SgAddress {
  const fail = (what: string) =>
    new AgentError(
      "usage",
      `"${text}" is no pass-through address: ${what}; the form is sg:/dev/sgN or sg:/dev/sdX, with ?timeout=SECONDS behind it if wanted`,
    );
  const match = /^sg:([^?]*)(?:\?(.*))?$/i.exec(text);
  const path = match?.[1] ?? "";
  if (!path.startsWith("/")) throw fail("it names no device by an absolute path");
  let timeoutSeconds = timeoutSecondsDefault;
  for (const [key, value] of new URLSearchParams(match?.[2] ?? "")) {
    if (key !== "timeout") throw fail(`it has the unknown option ${key}`);
    timeoutSeconds = Number(value);
    if (!/^\d+$/.test(value) || timeoutSeconds < 1 || timeoutSeconds > timeoutSecondsMax)
      throw fail(`${value} is no timeout from 1 to ${timeoutSecondsMax} seconds`);
  }
  return { path, timeoutSeconds };
}
