// Another process that uses a store: `node store-child.ts ADDRESS hold|pattern SET`. It says on standard output what it does.
import { createInterface } from "node:readline";
import { AgentError } from "../../src/base/errors.ts";
import { writePattern } from "./pattern.ts";
import { eventually, openStore, pageNumbered } from "./stores.ts";

const [address, command, set] = process.argv.slice(2) as [string, string, string];
const say = (line: string) => process.stdout.write(`${line}\n`);
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

const store = await openStore(address);
if (command === "hold") {
  // Takes a short lease and begins a transaction with each line that it reads, whenever that is.
  const lease = await eventually("the lease", () => store.acquire(set, "child", 200));
  say(`fence ${lease.fence}`);
  for (let line = await lines.next(); !line.done; line = await lines.next()) {
    try {
      if (line.value === "renew") await lease.renew();
      else
        await store.write(lease, (transaction) => transaction.putTruth(pageNumbered(0, Number(line.value))));
      say("done");
    } catch (error) {
      say(error instanceof AgentError ? error.code : String(error));
    }
  }
} else {
  // One pattern after another, until it is killed. The lease of the one that was killed before runs out soon.
  const lease = await eventually("the lease", () => store.acquire(set, "child", 300));
  const { facts } = await store.set(set);
  for (let number = facts.generation + 1; ; number++) {
    say(`begun ${number}`);
    await store.write(lease, (transaction) => writePattern(transaction, number));
    say(`done ${number}`);
  }
}
