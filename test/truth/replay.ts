// A world of test/truth/model.test.ts again, with all that happens in it: node test/truth/replay.ts KIND SEED
import { live } from "./live.ts";
import type { Kind } from "./world.ts";

const [kind, seed] = process.argv.slice(2);
console.log(live(kind as Kind, Number(seed), console.log));
