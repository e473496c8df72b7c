// Range locks: whoever has an exclusive range has it alone, and nobody waits for ever.
import fc from "fast-check";
import { expect, test } from "vitest";
import { type Access, type Leave, RangeLocks } from "../../src/base/range-locks.ts";

const request = fc.record({
  start: fc.nat(20),
  blocks: fc.integer({ min: 1, max: 8 }),
  access: fc.constantFrom<Access>("read", "write", "exclusive"),
});
type Request = { start: number; blocks: number; access: Access };

const overlap = (one: Request, other: Request) =>
  one.start < other.start + other.blocks && other.start < one.start + one.blocks;
/** What must never be inside at the same time. A read that began before an exclusive action may go on. */
const excluded = (later: Request, earlier: Request) =>
  overlap(later, earlier) &&
  (earlier.access === "exclusive" || (later.access === "exclusive" && earlier.access === "write"));

test("of thousands of schedules none lets two in that exclude one another, and all get in", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(request, { maxLength: 24 }),
      fc.array(fc.nat(), { maxLength: 80 }),
      async (requests, choices) => {
        const locks = new RangeLocks();
        const inside = new Map<number, Leave>();
        let done = 0;
        const enter = (i: number) => {
          const come = (leave: Leave) => {
            for (const other of inside.keys()) {
              if (excluded(requests[i]!, requests[other]!)) throw new Error(`${i} came to ${other}`);
            }
            inside.set(i, leave);
          };
          const entered = locks.enter(requests[i]!.start, requests[i]!.blocks, requests[i]!.access);
          return typeof entered === "function" ? come(entered) : entered.then(come);
        };
        const waiting: (Promise<void> | undefined)[] = [];
        let next = 0;
        const leaveOne = (choice: number) => {
          const [key, leave] = [...inside][choice % inside.size]!;
          inside.delete(key);
          leave();
          leave(); // twice is once
          done++;
        };
        for (const choice of choices) {
          if (choice % 2 === 0 && next < requests.length)
            waiting.push(enter(next++) as Promise<void> | undefined);
          else if (inside.size > 0) leaveOne(choice);
          await Promise.resolve();
        }
        while (next < requests.length) waiting.push(enter(next++) as Promise<void> | undefined);
        while (done < requests.length) {
          for (let i = 0; i < 4; i++) await Promise.resolve();
          if (inside.size === 0) throw new Error(`${requests.length - done} wait for ever`);
          leaveOne(0);
        }
        await Promise.all(waiting);
      },
    ),
    { numRuns: 3000 },
  );
});

test("an exclusive action is not overtaken by writes that come after it", async () => {
  const locks = new RangeLocks();
  const first = locks.enter(0, 8, "write") as Leave;
  const order: string[] = [];
  const exclusive = (locks.enter(4, 8, "exclusive") as Promise<Leave>).then((leave) => {
    order.push("exclusive");
    leave();
  });
  const late = (locks.enter(10, 1, "write") as Promise<Leave>).then((leave) => {
    order.push("late");
    leave();
  });
  expect(typeof locks.enter(100, 1, "write")).toBe("function");
  first();
  await Promise.all([exclusive, late]);
  expect(order).toEqual(["exclusive", "late"]);
});
