// What a stranger's device or target had a part in reaches the terminal as one line that it does not obey.
import { afterEach, expect, test, vi } from "vitest";
import { AgentError } from "../../src/base/errors.ts";
import { reportFailure } from "../../src/cli/failure.ts";

afterEach(() => vi.restoreAllMocks());

test("a redirection to an escape sequence is shown as text", () => {
  const shown: string[] = [];
  vi.spyOn(process.stderr, "write").mockImplementation((text) => shown.push(String(text)) > 0);
  const address = "\u001b[2J\u009b31m\nlunsync: all volumes are equal\u202e";
  reportFailure(new AgentError("protocol_error", `Cannot log in to x: redirected to "${address}"`), false);
  expect(shown.length).toBe(1);
  expect(shown[0]).toMatch(/^lunsync: Cannot log in to x: redirected to "[^\p{Cc}\p{Cf}]+"\n$/u);
});
