// CHAP: responses that others computed, and what RFC 7143, 12.1.3 forbids.
import { createHash } from "node:crypto";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ChapAuthenticator, ChapError, ChapResponder } from "../../src/iscsi/chap.ts";
import type { TextPairs } from "../../src/iscsi/text.ts";
import type { Random } from "../../src/platform/random.ts";
import { bytesOf, randomOf } from "../support/data.ts";

const agent = { name: "agent", secret: "correcthorse1" };
const disks = { name: "disks", secret: "staple the other way" };

const randomFrom = (seed: number): Random => {
  const random = randomOf(seed);
  return { bytes: (count) => bytesOf(random, count) };
};
/** Always the same bytes, as long as they are asked for. */
const fixed = (bytes: Buffer): Random => ({ bytes: (count) => Buffer.from(bytes.subarray(0, count)) });
const find = (pairs: TextPairs, key: string) => pairs.find(([name]) => name === key)?.[1];

function prove(algorithm: string, id: number, secret: string, challenge: Buffer): string {
  const hash = createHash(algorithm)
    .update(Buffer.from([id]))
    .update(secret)
    .update(challenge);
  return `0x${hash.digest("hex")}`;
}

// Origin: libiscsi 1.19 (iscsi-inq, iscsi-readcapacity16, iscsi-test-cu) logging in to tgt 1.0.85, captured by tshark.
const captured = [
  [
    1,
    "2f9021ddf732a095f483fa2a009b4f1bca541757876f0c94bdc5f6a460d4ec106f4353f9d9d8fa4f5b499e6f49ac2bc21750",
    "6FEB0413D364C1C15489AED6EF810C2B",
  ],
  [
    2,
    "8b1ce02fbb82537be340bfb564a0554345749c685184fc07bc0b69c76cd196068b102ca383673d6ca800318a639812deb311",
    "293C29F6E91AFE9CD02B59F2A2486926",
  ],
  [
    12,
    "a5cbbc06d27497ee27f862b580925a3406bc3ebababd5709dec94476b1ae60e76d9ab4ccb301be46e84bb181e9dbb157566d",
    "3FD1AAB82D1FCF3709B99FAB8DEC274C",
  ],
] as const;

test.each(captured)(
  "the response to challenge %i of tgt is what libiscsi answered",
  (id, challenge, response) => {
    const responder = new ChapResponder(agent, undefined, randomFrom(1));
    const answer = responder.step([
      ["CHAP_A", "5"],
      ["CHAP_I", String(id)],
      ["CHAP_C", `0x${challenge}`],
    ]);
    expect(find(answer, "CHAP_N")).toBe("agent");
    expect(find(answer, "CHAP_R")?.toLowerCase()).toBe(`0x${response.toLowerCase()}`);
  },
);

// IANA, PPP authentication algorithms: 5 MD5, 6 SHA-1, 7 SHA-256, 8 SHA3-256.
test.each([
  [5, "md5"],
  [6, "sha1"],
  [7, "sha256"],
  [8, "sha3-256"],
])("algorithm %i is %s, in both roles", (number, hash) => {
  const target = new ChapAuthenticator(agent, disks, randomFrom(2));
  const asked = target.step([["CHAP_A", String(number)]]);
  const challenge = Buffer.from(find(asked, "CHAP_C")!.slice(2), "hex");
  const own = Buffer.from("a challenge of the initiator's own");
  const proved = target.step([
    ["CHAP_N", agent.name],
    ["CHAP_R", prove(hash, Number(find(asked, "CHAP_I")), agent.secret, challenge)],
    ["CHAP_I", "200"],
    ["CHAP_C", `0b${own.toString("base64")}`],
  ]);
  expect(target.authenticated).toBe(true);
  expect(proved).toEqual([
    ["CHAP_N", disks.name],
    ["CHAP_R", prove(hash, 200, disks.secret, own)],
  ]);

  const initiator = new ChapResponder(agent, disks, randomFrom(3));
  const offered = find(initiator.offer(), "CHAP_A")!.split(",");
  expect(offered).toContain(String(number));
  const answer = initiator.step([
    ["CHAP_A", String(number)],
    ["CHAP_I", "7"],
    ["CHAP_C", "0x0102"],
  ]);
  expect(find(answer, "CHAP_R")).toBe(prove(hash, 7, agent.secret, Buffer.from([1, 2])));
  expect(initiator.done).toBe(false);
  const theirs = Buffer.from(find(answer, "CHAP_C")!.slice(2), "hex");
  initiator.step([
    ["CHAP_N", disks.name],
    ["CHAP_R", prove(hash, Number(find(answer, "CHAP_I")), disks.secret, theirs)],
  ]);
  expect(initiator.done).toBe(true);
});

test("a challenge is unpredictable, long, and another one every time", () => {
  const random = randomFrom(4);
  const challenges = Array.from({ length: 50 }, () =>
    find(new ChapAuthenticator(agent, undefined, random).step([["CHAP_A", "5"]]), "CHAP_C"),
  );
  expect(new Set(challenges).size).toBe(50);
  for (const challenge of challenges) expect(challenge).toMatch(/^0x[0-9a-f]{32,}$/);
});

describe("one secret for both directions is an authentication failure (12.1.3)", () => {
  const same = { ...disks, secret: agent.secret };

  test("at the target: a response that its own secret gives", () => {
    const target = new ChapAuthenticator(agent, same, randomFrom(5));
    const initiator = new ChapResponder(agent, undefined, randomFrom(6));
    const answer = initiator.step(target.step(initiator.offer()));
    expect(() => target.step(answer)).toThrow(ChapError);
    expect(target.authenticated).toBe(false);
  });

  test("at the initiator: likewise", () => {
    const initiator = new ChapResponder(agent, same, randomFrom(7));
    const answer = initiator.step([
      ["CHAP_A", "7"],
      ["CHAP_I", "1"],
      ["CHAP_C", "0x01"],
    ]);
    const challenge = Buffer.from(find(answer, "CHAP_C")!.slice(2), "hex");
    const proof = prove("sha256", Number(find(answer, "CHAP_I")), agent.secret, challenge);
    expect(() =>
      initiator.step([
        ["CHAP_N", same.name],
        ["CHAP_R", proof],
      ]),
    ).toThrow(ChapError);
    expect(initiator.done).toBe(false);
  });
});

describe("a failed exchange leaves nobody authenticated", () => {
  const exchange = (own: typeof disks | undefined, extra: (asked: TextPairs) => TextPairs) => {
    const target = new ChapAuthenticator(agent, own, randomFrom(8));
    const initiator = new ChapResponder(agent, undefined, randomFrom(9));
    const asked = target.step(initiator.offer());
    const answer = initiator.step(asked);
    expect(() => target.step([...answer, ...extra(asked)])).toThrow(ChapError);
    return target.authenticated;
  };

  test.each<[string, typeof disks | undefined, (asked: TextPairs) => TextPairs]>([
    ["a reflected challenge", disks, (asked) => asked.filter(([key]) => /CHAP_[IC]/.test(key))],
    [
      "mutual CHAP that is not configured",
      undefined,
      () => [
        ["CHAP_I", "1"],
        ["CHAP_C", "0x01"],
      ],
    ],
    ["a challenge without identifier", disks, () => [["CHAP_C", "0x01"]]],
    ["an identifier without challenge", disks, () => [["CHAP_I", "1"]]],
    [
      "an empty challenge",
      disks,
      () => [
        ["CHAP_I", "1"],
        ["CHAP_C", "0x"],
      ],
    ],
    [
      "a challenge of more than 1024 bytes",
      disks,
      () => [
        ["CHAP_I", "1"],
        ["CHAP_C", `0x${"00".repeat(1025)}`],
      ],
    ],
    [
      "an identifier of more than a byte",
      disks,
      () => [
        ["CHAP_I", "256"],
        ["CHAP_C", "0x01"],
      ],
    ],
  ])("%s", (_what, own, extra) => expect(exchange(own, extra)).toBe(false));

  test("the right secret under another name", () => {
    const target = new ChapAuthenticator(agent, undefined, randomFrom(10));
    const initiator = new ChapResponder({ ...agent, name: "Agent" }, undefined, randomFrom(11));
    const answer = initiator.step(target.step(initiator.offer()));
    expect(() => target.step(answer)).toThrow(ChapError);
    expect(target.authenticated).toBe(false);
  });
});

test("responses of any length and form but the right one are refused", () => {
  const right = prove("md5", 1, agent.secret, Buffer.alloc(32, 1)).slice(2);
  const response = fc.oneof(
    fc.uint8Array({ maxLength: 70 }).map((bytes) => `0x${Buffer.from(bytes).toString("hex")}`),
    fc.nat(right.length).map((end) => `0x${right.slice(0, end)}`),
    fc.constantFrom(`0x${right}00`, `0x00${right}`, right, `0b${right}`, "", "0x", `0x${right}g`),
    fc.string({ maxLength: 50 }),
  );
  fc.assert(
    fc.property(response, (given) => {
      fc.pre(given.toLowerCase() !== `0x${right}`);
      const target = new ChapAuthenticator(agent, undefined, fixed(Buffer.alloc(33, 1)));
      target.step([["CHAP_A", "5"]]);
      expect(() =>
        target.step([
          ["CHAP_N", agent.name],
          ["CHAP_R", given],
        ]),
      ).toThrow(ChapError);
      expect(target.authenticated).toBe(false);
    }),
    { numRuns: 1000 },
  );
  const target = new ChapAuthenticator(agent, undefined, fixed(Buffer.alloc(33, 1)));
  target.step([["CHAP_A", "5"]]);
  target.step([
    ["CHAP_N", agent.name],
    ["CHAP_R", `0x${right.toUpperCase()}`],
  ]);
  expect(target.authenticated).toBe(true);
});

test("the algorithm is one that both know; a target's choice must have been offered", () => {
  const choice = (offer: string) =>
    find(new ChapAuthenticator(agent, undefined, randomFrom(12)).step([["CHAP_A", offer]]), "CHAP_A");
  expect([choice("5"), choice("9,6,5"), choice("junk,,7")]).toEqual(["5", "6", "7"]);
  for (const offer of ["", "9", "4,128", "five", "0"]) expect(() => choice(offer)).toThrow(ChapError);
  for (const algorithm of ["9", "", "5,7", "-5"]) {
    const initiator = new ChapResponder(agent, undefined, randomFrom(13));
    const asked: TextPairs = [
      ["CHAP_A", algorithm],
      ["CHAP_I", "1"],
      ["CHAP_C", "0x01"],
    ];
    expect(() => initiator.step(asked)).toThrow(ChapError);
  }
});

test("no message holds a secret", () => {
  fc.assert(
    fc.property(
      fc.array(
        fc.tuple(
          fc.constantFrom("CHAP_A", "CHAP_I", "CHAP_C", "CHAP_N", "CHAP_R"),
          fc.constantFrom("5", "agent", "0x00", `0x${"00".repeat(16)}`),
        ),
        { maxLength: 5 },
      ),
      fc.boolean(),
      (pairs, first) => {
        const side = new ChapAuthenticator(agent, disks, randomFrom(14));
        try {
          if (!first) side.step([["CHAP_A", "5"]]);
          side.step(pairs);
        } catch (error) {
          expect(error).toBeInstanceOf(ChapError);
          expect((error as Error).message).not.toMatch(/correcthorse1|staple/);
        }
      },
    ),
  );
});
