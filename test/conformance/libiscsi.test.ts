// The whole of libiscsi's conformance suite: every case passes on at least one kind of LUN and fails on none.
//
// Where a case can't pass, `exceptions` says why, and the test fails as soon as it does pass.
import { truncate, writeFile } from "node:fs/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { listedCases, runSuite } from "../support/libiscsi.ts";
import { type Served, serve, WorkFolder } from "../support/lunsync.ts";

const suites = listedCases();
const MiB = 1024 * 1024;

/** Cases that our target answers as the standard has it, and the suite sees otherwise; by kind of LUN. */
const exceptions: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  "512-byte blocks": {
    "GetLBAStatus.UnmapSingle": "expects an answer for another LBA than it asked for where LBPPB is not 1",
    "WriteSame10.UnmapUntilEnd": "sends FFh with UNMAP and expects zeros: SBC-3, 4.7.3.4.4 wants it written",
  },
  "4096-byte blocks": {
    "WriteSame10.UnmapUntilEnd": "sends FFh with UNMAP and expects zeros: SBC-3, 4.7.3.4.4 wants it written",
  },
};

/** Cases that pass and leave a part out, on every kind of LUN. */
const inPart: Readonly<Record<string, string>> = {
  "Sanitize.CryptoErase": "nothing is encrypted here, so there is no CRYPTOGRAPHIC ERASE",
  "Sanitize.Readonly": "the part about CRYPTOGRAPHIC ERASE",
  "Sanitize.Reservations": "the part about CRYPTOGRAPHIC ERASE",
  "WriteAtomic16.VPD": "there is neither an alignment nor a granularity to keep to",
};

interface Kind {
  readonly name: string;
  readonly lunOptions?: string;
  readonly blockBytes: number;
  readonly suites: readonly string[];
}

// This one waits for a minute; it has a file of its own.
const elsewhere = ["Sanitize.Reset"];

const kinds: readonly Kind[] = [
  { name: "512-byte blocks", blockBytes: 512, suites: [...suites.keys()] },
  { name: "4096-byte blocks", blockBytes: 4096, suites: [...suites.keys()] },
  {
    name: "a medium that can be removed",
    lunOptions: ",removable",
    blockBytes: 512,
    suites: ["NoMedia", "PreventAllow", "StartStopUnit"],
  },
  { name: "a LUN that is read only", lunOptions: ",ro", blockBytes: 512, suites: ["ReadOnly"] },
];

const passed = new Set<string>();

describe.each(kinds)("$name", ({ name: kind, lunOptions = "", blockBytes, suites: names }) => {
  let folder: WorkFolder;
  let served: Served;

  beforeAll(async () => {
    folder = await WorkFolder.make();
    await writeFile(folder.file("lun"), "");
    await truncate(folder.file("lun"), 200 * MiB);
    const listen = ["--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0"];
    const lun = ["--lun", `${folder.file("lun")}${lunOptions}`, "--block-size", String(blockBytes)];
    // The tool knows no CDBs of more than 16 bytes: it stumbles over the vendor commands where it sees them.
    lun.push("--initiator", "*,plain");
    lun.push("--state-dir", folder.file("state"));
    served = await serve([...listen, ...lun]);
    while (served.urls.length < 2) await new Promise((resolve) => setTimeout(resolve, 10));
  });

  afterAll(async () => {
    expect(await served.end()).toBe(0);
    await folder[Symbol.asyncDispose]();
  });

  test.each(names)("%s", async (suite) => {
    const { verdicts, said } = await runSuite(suite, served.urls);
    for (const name of suites.get(suite)!) {
      const full = `${suite}.${name}`;
      if (elsewhere.includes(full)) continue;
      const verdict = verdicts.get(name) ?? "failed";
      const reason = exceptions[kind]?.[full];
      if (reason !== undefined) expect([full, verdict]).toEqual([full, "failed"]);
      else if (verdict === "failed") throw new Error(`${full} failed:\n${said.get(name) ?? "it never ran"}`);
      if (verdict === "passed" || (verdict === "skipped" && full in inPart)) passed.add(full);
    }
  });
});

test("no case is left that passes on no LUN", () => {
  const all = [...suites].flatMap(([suite, names]) => names.map((name) => `${suite}.${name}`));
  expect(all.length).toBeGreaterThan(200);
  const excused = new Set([...elsewhere, ...Object.values(exceptions).flatMap((each) => Object.keys(each))]);
  const notPassed = all.filter((each) => !passed.has(each) && !excused.has(each));
  expect(notPassed).toEqual([]);
});
