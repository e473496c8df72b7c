// A bounded run of every fuzz mode; `npm run fuzz` goes on for longer and with other seeds.
import { describe, expect, test } from "vitest";
import { randomOf } from "../support/data.ts";
import { demand } from "./checked-session.ts";
import { cdbLayouts, commandOf } from "./commands.ts";
import { type FuzzMode, fuzzModes, runCases } from "./run.ts";

const cases: Record<FuzzMode, number> = { orderly: 1500, wild: 2500, login: 800, initiator: 60, unit: 8000 };

describe("a bounded run finds nothing", () => {
  test.each(Object.keys(fuzzModes) as FuzzMode[])("%s", async (mode) => {
    const findings: string[] = [];
    const more = (done: number) => done < cases[mode] && findings.length < 3;
    const ran = await runCases(fuzzModes[mode].start, 20_261_121, more, (seed, error) => {
      findings.push(`npm run fuzz -- ${mode} --seed ${seed} --cases 1: ${error.stack}`);
    });
    expect(findings).toEqual([]);
    expect(ran).toBe(cases[mode]);
  });
});

test("the same seed gives the same commands, and every command is among them", () => {
  const around = {
    blockBytes: 512,
    blocks: 1024,
    designators: [Buffer.alloc(8)],
    uuids: [Buffer.alloc(16)],
    ports: ["iqn.x:y,i,0x800000000001"],
  };
  const all = () => {
    const random = randomOf(7);
    return Array.from({ length: 3000 }, () => commandOf(random, around));
  };
  const commands = all();
  expect(all()).toEqual(commands);
  expect(new Set(commands.map(({ name }) => name)).size).toBe(cdbLayouts.length);
});

test("what goes wrong in a case or beside it is found, and the run goes on with a new start", async () => {
  let starts = 0;
  let at = 99;
  const start = async () => {
    starts++;
    return {
      one: async () => {
        at++;
        demand(at !== 103, () => "wrong");
        if (at === 105) void Promise.reject(new Error("beside it"));
        await new Promise((resolve) => setImmediate(resolve));
      },
      checkAll: async () => {},
      [Symbol.asyncDispose]: async () => {},
    };
  };
  const found: [number, string][] = [];
  const ran = await runCases(
    start,
    100,
    (done) => done < 10,
    (seed, error) => found.push([seed, error.message]),
  );
  expect([ran, starts]).toEqual([10, 2]);
  expect(found).toEqual([
    [103, "wrong"],
    [105, "beside it"],
  ]);
});
