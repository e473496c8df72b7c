// Two sides of a set, one case each: who may have his way without being asked for, and what is found of those who write at the
// wrong instant.
import { expect, test } from "vitest";
import { handOutAlone } from "../../src/sets/failover.ts";
import { world } from "./roles-fixture.ts";

test("who was handed out by his host alone, and then by a failover, does not lose what was written to him between", async () => {
  await using made = await world(2); // east keeps whole generations
  const east = made.site("east");
  await made.run();
  await handOutAlone(east.volume, false);
  made.write("east", [0]);
  const held = east.content;
  await made.failOver("east");
  // The old source differs there, and has changed nothing.
  await expect(made.failBack()).rejects.toMatchObject({ code: "split_brain" });
  expect(east.content.equals(held)).toBe(true);
  await made.failBack({ prefer: "east" });
  for (const site of made.sites) expect([site.name, site.content.equals(held)]).toEqual([site.name, true]);
});

test("who writes after a verdict that he has changed nothing stops the failback before anything is written", async () => {
  for (const [changed, late] of [
    ["east", "source"],
    ["source", "east"],
  ] as const) {
    await using made = await world(2);
    await made.run();
    await made.failOver();
    made.write(changed, [0]);
    const truth = made.store.truth.bind(made.store);
    let asked = 0;
    made.store.truth = (...how) => {
      // First for the verdict, then for the pass that carries it out.
      if (++asked === 2) made.write(late, [1]);
      return truth(...how);
    };
    await expect(made.failBack()).rejects.toMatchObject({
      code: "split_brain",
      message: expect.stringMatching(`"${late}" was written to while both sides were compared`),
    });
    made.store.truth = truth;
    const held = made.sites.map(({ content }) => content);
    await expect(made.failBack()).rejects.toMatchObject({ code: "split_brain" });
    expect(made.sites.map((site, k) => site.content.equals(held[k]!))).toEqual([true, true, true]);
    await made.failBack({ prefer: late });
    for (const site of made.sites)
      expect([late, site.name, site.content.equals(made.site(late).content)]).toEqual([
        late,
        site.name,
        true,
      ]);
  }
});
