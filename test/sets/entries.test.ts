// Entries of a window and the runs in which the truth database keeps them: thousands of tables go there and come back.
import { expect, test } from "vitest";
import { Contents, type Entry, isSameEntry } from "../../src/sets/entries.ts";
import { actions } from "../../src/truth/actions.ts";
import { below, bytesOf, oneOf, randomOf } from "../support/data.ts";

const width = 4;

test("what is pending comes back from its runs as it was, and what differs in anything is not the same", () => {
  for (let seed = 1; seed <= 3000; seed++) {
    const random = randomOf(seed);
    const [first, count] = [below(random, 3) * 64, 1 + below(random, 12)];
    const zeros = bytesOf(random, count * width);
    const contents = new Contents(first, width, zeros);
    // Few names, so that neighbours often have the same.
    const names = [bytesOf(random, width), bytesOf(random, width), undefined];
    const content = () => oneOf(random, names);
    const some = actions.slice(0, 1 + below(random, actions.length));
    const entryOf = (): Entry => ({
      action: oneOf(random, some),
      previous: content(),
      ...(random() < 0.5 && { sent: { content: content() } }),
    });
    const entries = new Map<number, Entry>();
    for (let i = 0; i < count; i++) if (random() < 0.7) entries.set(i, entryOf());
    const from = below(random, count);
    const runs = contents.runs(entries, from, count - from);
    const back = contents.entries(runs);
    const expected = new Map([...entries].filter(([i]) => i >= from));
    expect(back, `seed ${seed}`).toEqual(expected);
    for (const run of runs)
      for (const names of [run.previous, run.sent ?? run.previous])
        expect(names.length, `seed ${seed}`).toBe(run.count * width);
    const all = [...expected.values(), undefined, entryOf()];
    for (const one of all)
      for (const other of all) {
        let isSame = true;
        try {
          expect(one).toStrictEqual(other);
        } catch {
          isSame = false;
        }
        expect(isSameEntry(one, other), `seed ${seed}`).toBe(isSame);
      }
  }
});
