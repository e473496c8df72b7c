// Runs cases of one kind, one after another; what goes wrong in a case, or anywhere in the process meanwhile, is a
// finding.
import { randomOf } from "../support/data.ts";
import { FuzzedInitiator } from "./initiator-cases.ts";
import type { Random } from "./mutate.ts";
import { FuzzedTarget, loginCase, orderlyCase, wildCase } from "./target-cases.ts";
import { lyingUnitCase } from "./unit-cases.ts";

export interface Prepared extends AsyncDisposable {
  one(random: Random): Promise<void>;
  /** After some cases, and in the end. */
  checkAll(): Promise<void>;
}

async function target(one: (fuzzed: FuzzedTarget, random: Random) => Promise<void>): Promise<Prepared> {
  const fuzzed = await FuzzedTarget.start();
  return {
    one: async (random) => {
      await one(fuzzed, random);
      await fuzzed.check();
    },
    checkAll: () => fuzzed.checkAll(),
    [Symbol.asyncDispose]: () => fuzzed[Symbol.asyncDispose](),
  };
}

export const fuzzModes = {
  orderly: { about: "initiators that keep the rules, with any commands", start: () => target(orderlyCase) },
  wild: { about: "initiators that log in and send damaged PDUs", start: () => target(wildCase) },
  login: { about: "logins in any order, without the secret", start: () => target(loginCase) },
  initiator: {
    about: "answers of a target that are damaged on their way to the initiator",
    start: () => FuzzedInitiator.start(),
  },
  unit: {
    about: "a logical unit that lies about what it is and has",
    start: async () => ({
      one: lyingUnitCase,
      checkAll: async () => {},
      [Symbol.asyncDispose]: async () => {},
    }),
  },
} satisfies Record<string, { about: string; start: () => Promise<Prepared> }>;

export type FuzzMode = keyof typeof fuzzModes;

const checkAllEvery = 200;
const caseMs = 60_000;

/** Runs cases with the seeds `seed`, `seed + 1`, … while `more` says so. Returns how many there were. */
export async function runCases(
  start: () => Promise<Prepared>,
  seed: number,
  more: (done: number) => boolean,
  found: (seed: number, error: Error) => void,
): Promise<number> {
  let done = 0;
  const stray = (error: unknown) => found(seed + done, error as Error);
  process.on("unhandledRejection", stray);
  process.on("uncaughtException", stray);
  let prepared = await start();
  try {
    for (; more(done); done++) {
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<never>((_, reject) => {
        timer = setTimeout(() => reject(new Error(`the case took more than ${caseMs / 1000} s`)), caseMs);
      });
      try {
        await Promise.race([prepared.one(randomOf(seed + done)), late]);
        if (done % checkAllEvery === checkAllEvery - 1) await prepared.checkAll();
      } catch (error) {
        found(seed + done, error as Error);
        // What it left behind must not be found again and again.
        await prepared[Symbol.asyncDispose]();
        prepared = await start();
      } finally {
        clearTimeout(timer);
      }
    }
    await prepared.checkAll().catch((error) => found(seed + done, error));
  } finally {
    await prepared[Symbol.asyncDispose]();
    process.off("unhandledRejection", stray);
    process.off("uncaughtException", stray);
  }
  return done;
}
