// The fuzzer: npm run fuzz [-- MODE... --seconds N --seed N --cases N]
//
// Each case is made by its seed alone. What the target does at the same time is not, so a finding may take several runs
// to show again. The exit status is 1 if something was found.
import { parseArgs } from "node:util";
import { type FuzzMode, fuzzModes, runCases } from "./run.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seconds: { type: "string", default: "60" },
    seed: { type: "string", default: `${Date.now() % 2 ** 31}` },
    cases: { type: "string" },
    help: { type: "boolean", default: false },
  },
});
const modes = (positionals.length > 0 ? positionals : Object.keys(fuzzModes)) as FuzzMode[];
const unknown = modes.filter((mode) => !Object.hasOwn(fuzzModes, mode));
const [seconds, seed, cases] = [values.seconds, values.seed, values.cases ?? "Infinity"].map(Number);
if (values.help || unknown.length > 0 || [seconds, seed, cases].some(Number.isNaN)) {
  console.log(`usage: npm run fuzz [-- MODE... --seconds N --seed N --cases N]

The modes; all of them if none is given, and each for N seconds:
${Object.entries(fuzzModes)
  .map(([name, { about }]) => `  ${name.padEnd(10)} ${about}`)
  .join("\n")}`);
  process.exit(values.help ? 0 : 2);
}
let found = 0;
for (const mode of modes) {
  const deadline = performance.now() + seconds! * 1000;
  const ran = await runCases(
    fuzzModes[mode].start,
    seed!,
    (done) => done < cases! && performance.now() < deadline,
    (caseSeed, error) => {
      found++;
      console.error(`FOUND ${mode}, seed ${caseSeed}: ${error.stack ?? error.message}`);
      console.error(`again: npm run fuzz -- ${mode} --seed ${caseSeed} --cases 1`);
    },
  );
  console.log(`${mode}: ${ran} cases from seed ${seed}, ${found} findings so far`);
}
process.exit(found > 0 ? 1 : 0);
