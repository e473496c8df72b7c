// What the digests that a replica proves say of its extents, one by one and by whole windows.
import { describe, expect, test } from "vitest";
import { encodeIdentifier, encodingBlock, initialValueBytes } from "../../src/digest/encoding.ts";
import { type ExtentWindow, type Proof, prove, proveExtents } from "../../src/truth/extent-state.ts";
import type { Pending } from "../../src/truth/pending.ts";
import { below, bytesOf, oneOf, randomOf } from "../support/data.ts";

const same = (a: Buffer, b: Buffer) => a.equals(b);
const of = (n: number) => Buffer.alloc(32, n);
const [before, sent, truth, foreign] = [of(1), of(2), of(3), of(4)];

describe("an extent of which an action is pending", () => {
  const update: Pending<Buffer> = { action: "UPDATE", previous: before, sent: { content: sent } };
  const add: Pending<Buffer> = { action: "ADD", previous: undefined, sent: { content: sent } };
  const remove: Pending<Buffer> = { action: "DELETE", previous: before, sent: { content: undefined } };
  const takenBack: Pending<Buffer> = { action: "NO_CHANGE", previous: undefined, sent: { content: sent } };

  test.each<[string, Buffer | undefined, Pending<Buffer>, Buffer | undefined, Partial<Proof>]>([
    // Applied, and the acknowledgement was lost.
    ["UPDATE, holds it", sent, update, sent, { outcome: "equal", pending: undefined }],
    ["ADD, holds it", sent, add, sent, { outcome: "equal", pending: undefined }],
    ["DELETE, holds nothing", undefined, remove, undefined, { outcome: "equal", pending: undefined }],
    // … and the truth has gone on since.
    ["UPDATE, holds what was sent", truth, update, sent, { outcome: "applied", pending: "UPDATE" }],
    ["ADD, holds what was sent", truth, add, sent, { outcome: "applied", pending: "UPDATE" }],
    [
      "ADD that was taken back, holds it",
      undefined,
      takenBack,
      sent,
      { outcome: "applied", pending: "DELETE" },
    ],
    [
      "DELETE, holds nothing, is there again",
      truth,
      { ...remove, action: "UPDATE" },
      undefined,
      { outcome: "applied", pending: "ADD" },
    ],
    // Not applied.
    ["UPDATE, holds what it held", sent, update, before, { outcome: "not_applied", pending: "UPDATE" }],
    ["ADD, holds nothing", sent, add, undefined, { outcome: "not_applied", pending: "ADD" }],
    ["DELETE, holds what it held", undefined, remove, before, { outcome: "not_applied", pending: "DELETE" }],
    [
      "ADD that was taken back, holds nothing",
      undefined,
      takenBack,
      undefined,
      { outcome: "equal", pending: undefined },
    ],
  ])("%s: nobody wrote", (_, truthNow, pending, proved, expected) => {
    expect(prove(truthNow, pending, proved, same)).toEqual({
      state: "NO_CHANGE",
      doubtful: false,
      ...expected,
    });
  });

  test.each([
    [update, foreign, "UPDATED"],
    [update, undefined, "DELETED"],
    [add, foreign, "ADDED"],
    [remove, foreign, "UPDATED"],
    [takenBack, foreign, "ADDED"],
  ] as const)("anything else: somebody wrote, or a write was cut off", (pending, proved, state) => {
    const proof = { outcome: "written", state, pending: pending.action };
    expect(prove(truth, pending, proved, same)).toEqual({ ...proof, doubtful: true });
    const { sent: _, ...unsent } = pending;
    expect(prove(truth, unsent, proved, same)).toEqual({ ...proof, doubtful: false });
  });
});

test.each([
  [truth, truth, "equal", "NO_CHANGE"],
  [undefined, undefined, "equal", "NO_CHANGE"],
  [truth, foreign, "written", "UPDATED"],
  [truth, undefined, "written", "DELETED"],
  [undefined, foreign, "written", "ADDED"],
] as const)(
  "an extent of which nothing is pending: it holds the truth, or somebody wrote (H5)",
  (now, proved, outcome, state) => {
    expect(prove<Buffer>(now, undefined, proved, same)).toEqual({
      outcome,
      state,
      pending: undefined,
      doubtful: false,
    });
  },
);

/** A window of random extents, and what each of them holds: absent is the identifier of zeros. */
function windowOf(seed: number) {
  const random = randomOf(seed);
  const count = 1 + below(random, 40);
  const valueBytes = oneOf(random, [8, 16, 32]);
  const zero = bytesOf(random, valueBytes);
  const palette = [zero, ...Array.from({ length: 3 }, () => bytesOf(random, valueBytes))];
  const column = (like?: Buffer[]) =>
    Array.from({ length: count }, (_, i) => (like && random() < 0.8 ? like[i]! : oneOf(random, palette)));
  const truths = column();
  const known = random() < 0.7;
  const previous = known ? column(truths) : truths;
  const sents = known && random() < 0.7 ? column(truths) : undefined;
  const proved = column(random() < 0.3 && sents ? sents : random() < 0.5 ? previous : truths);
  const action = known ? oneOf(random, ["NO_CHANGE", "ADD", "DELETE", "UPDATE"] as const) : undefined;
  return { count, valueBytes, zero, truths, previous, sents, proved, action, first: below(random, 1e9) };
}

test("windows prove what their extents prove, in as few runs as there can be", () => {
  for (let seed = 1; seed <= 3000; seed++) {
    const { count, valueBytes, zero, truths, previous, sents, proved, action, first } = windowOf(seed);
    const content = (value: Buffer) => (value.equals(zero) ? undefined : value);
    const expected = truths.map((value, i) =>
      prove(
        content(value),
        action && {
          action,
          previous: content(previous[i]!),
          ...(sents && { sent: { content: content(sents[i]!) } }),
        },
        content(proved[i]!),
        same,
      ),
    );
    const window: ExtentWindow = {
      first,
      count,
      valueBytes,
      pending: action,
      truth: Buffer.concat(truths),
      ...(action && { previous: Buffer.concat(previous) }),
      ...(sents && { sent: Buffer.concat(sents) }),
      proved: Buffer.concat(proved),
      zeros: seed % 2 ? zero : Buffer.concat(truths.map(() => zero)),
    };
    const runs = [...proveExtents(window)];
    const found = runs.flatMap(({ first: _, count: extents, ...proof }) =>
      Array.from({ length: extents }, () => proof),
    );
    expect(found, `seed ${seed}`).toEqual(expected);
    let at = first;
    for (const run of runs) {
      expect(run.first).toBe(at);
      at += run.count;
    }
    runs.slice(1).forEach((run, i) => {
      const { first: _, count: __, ...proof } = run;
      expect(runs[i]).not.toMatchObject(proof);
    });
  }
});

test("encoded values prove the same as the identifiers do", () => {
  const {
    count,
    valueBytes: identifierBytes,
    zero,
    truths,
    previous,
    sents,
    proved,
  } = windowOf(
    Array.from({ length: 100 }, (_, i) => i).find((seed) => {
      const { sents, count } = windowOf(seed);
      return sents && count > 20;
    })!,
  );
  const initialValue = bytesOf(randomOf(1), initialValueBytes);
  const encoded = (identifiers: readonly Buffer[]) =>
    Buffer.concat(
      identifiers.map((identifier, i) =>
        encodeIdentifier(identifier, encodingBlock(initialValue, i)).subarray(0, 8),
      ),
    );
  const proofs = (valueBytes: number, of: (identifiers: readonly Buffer[]) => Buffer) => [
    ...proveExtents({
      first: 0,
      count,
      valueBytes,
      pending: "UPDATE",
      truth: of(truths),
      previous: of(previous),
      sent: of(sents!),
      proved: of(proved),
      zeros: of(truths.map(() => zero)),
    }),
  ];
  expect(proofs(8, encoded)).toEqual(proofs(identifierBytes, Buffer.concat));
});
