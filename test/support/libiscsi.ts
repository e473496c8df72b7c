// libiscsi's conformance suite (iscsi-test-cu of Debian's libiscsi-bin) against one LUN.
//
// A case is "skipped" if the tool said so anywhere in it, "failed" also if it never came to an end.
import { execFileSync, spawn } from "node:child_process";

export type Verdict = "passed" | "failed" | "skipped";

export interface SuiteRun {
  readonly verdicts: ReadonlyMap<string, Verdict>;
  /** All that the tool printed, by case. */
  readonly said: ReadonlyMap<string, string>;
}

/** Every case, by suite; the SCSI and iSCSI families. */
export function listedCases(): Map<string, string[]> {
  const suites = new Map<string, string[]>();
  for (const line of execFileSync("iscsi-test-cu", ["--list"], { encoding: "utf8" }).split("\n")) {
    const [family, suite, name] = line.trim().split(".");
    if (name === undefined || family !== "ALL") continue;
    suites.set(suite!, [...(suites.get(suite!) ?? []), name]);
  }
  return suites;
}

/**
 * Runs `suite`, or one case of it (`Suite.Case`), on one or two paths to a LUN. Destroys the LUN's data. The tool is
 * ended when it says `until`.
 */
export async function runSuite(suite: string, urls: readonly string[], until?: string): Promise<SuiteRun> {
  const child = spawn(
    "iscsi-test-cu",
    ["--dataloss", "--allow-sanitize", "-V", "-t", `ALL.${suite}`, ...urls],
    {
      stdio: ["ignore", "pipe", "pipe"],
    },
  );
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8");
    stream.on("data", (text: string) => {
      output += text;
      if (until !== undefined && output.includes(until)) child.kill();
    });
  }
  await new Promise((resolve) => child.on("close", resolve));
  return parse(output);
}

function parse(output: string): SuiteRun {
  const verdicts = new Map<string, Verdict>();
  const said = new Map<string, string>();
  const [, ...cases] = output.split(/^ {2}Test: /m);
  for (const each of cases) {
    const name = /^\S+/.exec(each)![0];
    // The verdict stands behind the dots or begins a line; "[FAILED]" is only a message.
    const verdict = /(?:\.\.\.|^)(passed|FAILED)/m.exec(each)?.[1];
    // What follows the verdict belongs to the tool's farewell.
    const own = verdict === undefined ? each : each.slice(0, each.search(/(?:\.\.\.|^)(?:passed|FAILED)/m));
    said.set(name, each);
    verdicts.set(name, verdict !== "passed" ? "failed" : own.includes("[SKIPPED]") ? "skipped" : "passed");
  }
  return { verdicts, said };
}
