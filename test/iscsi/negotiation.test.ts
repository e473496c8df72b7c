// Negotiation and login, both roles against each other: they always agree, or fail in an orderly way.
import { createHash } from "node:crypto";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { AgentError } from "../../src/base/errors.ts";
import { Login, type LoginOptions } from "../../src/initiator/login.ts";
import { ChapAuthenticator, ChapError, ChapResponder } from "../../src/iscsi/chap.ts";
import { loginStatus } from "../../src/iscsi/codes.ts";
import {
  defaultParameters,
  Negotiation,
  NegotiationError,
  type Parameters,
  type Wishes,
} from "../../src/iscsi/negotiation.ts";
import { loginResponsePdu } from "../../src/iscsi/pdu.ts";
import { serialAdd, serialBefore, serialDistance } from "../../src/iscsi/serial.ts";
import {
  decodeText,
  encodeText,
  parseBinary,
  parseNumber,
  TextError,
  type TextPairs,
} from "../../src/iscsi/text.ts";
import type { Random } from "../../src/platform/random.ts";
import { type ChapPolicy, type LoginHost, TargetLogin } from "../../src/target/login.ts";
import { bytesOf, randomOf } from "../support/data.ts";

const wishes: fc.Arbitrary<Wishes> = fc.record(
  {
    HeaderDigest: fc.constantFrom(["None"], ["CRC32C", "None"], ["None", "CRC32C"]),
    DataDigest: fc.constantFrom(["None"], ["CRC32C", "None"]),
    MaxRecvDataSegmentLength: fc.integer({ min: 512, max: 0xffffff }),
    InitialR2T: fc.boolean(),
    ImmediateData: fc.boolean(),
    MaxBurstLength: fc.integer({ min: 512, max: 0xffffff }),
    FirstBurstLength: fc.integer({ min: 512, max: 0xffffff }),
    MaxOutstandingR2T: fc.integer({ min: 1, max: 65535 }),
    DefaultTime2Wait: fc.integer({ min: 0, max: 3600 }),
    DefaultTime2Retain: fc.integer({ min: 0, max: 3600 }),
    ErrorRecoveryLevel: fc.integer({ min: 0, max: 2 }),
  },
  { requiredKeys: [] },
);

const shared = ({ MaxRecvDataSegmentLength: _, ...rest }: Parameters) => rest;

test("two sides with any wishes end with the same parameters", () => {
  fc.assert(
    fc.property(wishes, wishes, (ours, theirs) => {
      const initiator = new Negotiation(ours);
      const target = new Negotiation(theirs);
      let pairs = initiator.offers();
      for (let i = 0; pairs.length > 0; i++) {
        expect(i).toBeLessThan(5);
        const answers = target.receive(pairs);
        pairs = initiator.receive(answers);
      }
      const [a, b] = [initiator.finish(), target.finish()];
      expect(shared(a)).toEqual(shared(b));
      expect(a.FirstBurstLength).toBeLessThanOrEqual(a.MaxBurstLength);
      expect(b.MaxRecvDataSegmentLength).toBe(ours.MaxRecvDataSegmentLength ?? 8192);
    }),
    { numRuns: 1000 },
  );
});

test("answers that the rules do not allow are refused", () => {
  const improper: [Wishes, TextPairs][] = [
    [{ MaxBurstLength: 65536 }, [["MaxBurstLength", "131072"]]],
    [{ DefaultTime2Wait: 5 }, [["DefaultTime2Wait", "2"]]],
    [{ ImmediateData: false }, [["ImmediateData", "Yes"]]],
    [{ InitialR2T: true }, [["InitialR2T", "No"]]],
    [{ HeaderDigest: ["CRC32C"] }, [["HeaderDigest", "None"]]],
    [{ HeaderDigest: ["CRC32C"] }, [["HeaderDigest", "Reject"]]],
    [{ MaxBurstLength: 65536 }, [["MaxBurstLength", "many"]]],
    [{ MaxBurstLength: 65536 }, [["MaxBurstLength", "511"]]],
    [{ ImmediateData: true }, [["ImmediateData", "Maybe"]]],
  ];
  for (const [wish, answer] of improper) {
    const side = new Negotiation(wish);
    side.offers();
    expect(() => side.receive(answer)).toThrow(NegotiationError);
  }
  const side = new Negotiation({ MaxBurstLength: 65536 });
  side.offers();
  expect(side.receive([["MaxBurstLength", "Irrelevant"]])).toEqual([]);
  expect(side.parameters.MaxBurstLength).toBe(defaultParameters().MaxBurstLength);
  expect(side.receive([["X-what", "1"]])).toEqual([["X-what", "NotUnderstood"]]);
});

test("serial numbers by RFC 1982", () => {
  expect(serialAdd(0xffffffff, 1)).toBe(0);
  for (const [a, b] of [
    [0, 1],
    [0, 44],
    [44, 100],
    [0xfffffff0, 3],
    [200, 0x7fffffff],
  ] as const) {
    expect([serialBefore(a, b), serialBefore(b, a), serialBefore(a, a)]).toEqual([true, false, false]);
    expect(serialDistance(a, b)).toBe((b - a) | 0);
  }
});

test("text: what was encoded is decoded; any bytes are pairs or a TextError", () => {
  const pair = fc.tuple(fc.stringMatching(/^[A-Z][A-Za-z0-9.]{0,60}$/), fc.stringMatching(/^[ -~]{0,100}$/));
  fc.assert(
    fc.property(fc.uniqueArray(pair, { selector: ([key]) => key, maxLength: 20 }), (pairs) => {
      expect(decodeText(encodeText(pairs))).toEqual(pairs);
    }),
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      try {
        decodeText(Buffer.from(bytes));
      } catch (error) {
        expect(error).toBeInstanceOf(TextError);
      }
    }),
    { numRuns: 1000 },
  );
  expect([parseNumber("0x1F"), parseNumber("31"), parseNumber("-1"), parseNumber("4294967296")]).toEqual([
    31,
    31,
    undefined,
    undefined,
  ]);
  expect(parseBinary("0x0aFf")).toEqual(Buffer.from([0x0a, 0xff]));
  expect(parseBinary("0bCv8=")).toEqual(Buffer.from([0x0a, 0xff]));
});

const own = { name: "agent", secret: "correct horse battery" };
const theirs = { name: "disks", secret: "staple the other way" };
const randomFrom = (seed: number): Random => {
  const random = randomOf(seed);
  return { bytes: (count) => bytesOf(random, count) };
};

describe("CHAP", () => {
  test("the response is MD5 of identifier, secret and challenge (RFC 1994)", () => {
    const responder = new ChapResponder(own, undefined, randomFrom(1));
    const answer = responder.step([
      ["CHAP_A", "5"],
      ["CHAP_I", "23"],
      ["CHAP_C", "0x0102030405060708"],
    ]);
    const hash = createHash("md5")
      .update(Buffer.from([23]))
      .update(own.secret)
      .update(Buffer.from("0102030405060708", "hex"));
    expect(answer).toEqual([
      ["CHAP_N", own.name],
      ["CHAP_R", `0x${hash.digest("hex")}`],
    ]);
    expect(responder.done).toBe(true);
  });

  test("one way and both ways; a wrong secret, a reflected challenge", () => {
    const run = (mine: typeof own, known: typeof own, mutual?: typeof own, proof?: typeof own) => {
      const target = new ChapAuthenticator(known, proof, randomFrom(2));
      const initiator = new ChapResponder(mine, mutual, randomFrom(3));
      const answer = initiator.step(target.step(initiator.offer()));
      const proved = target.step(answer);
      if (proved.length > 0) initiator.step(proved);
      return [target.authenticated, initiator.done];
    };
    expect(run(own, own)).toEqual([true, true]);
    expect(run(own, own, theirs, theirs)).toEqual([true, true]);
    expect(() => run({ ...own, secret: "guessed" }, own)).toThrow(ChapError);
    expect(() => run(own, own, theirs, { ...theirs, secret: "guessed" })).toThrow(ChapError);
    expect(() => run(own, own, theirs, undefined)).toThrow(ChapError);
    const target = new ChapAuthenticator(own, theirs, randomFrom(4));
    const [algorithm, id, challenge] = target.step([["CHAP_A", "5"]]);
    const initiator = new ChapResponder(own, undefined, randomFrom(5));
    const answer = initiator.step([algorithm!, id!, challenge!]);
    expect(() => target.step([...answer, id!, challenge!])).toThrow(/reflected/);
  });

  test("any pairs end in an answer or a ChapError", () => {
    const value = fc.oneof(
      fc.string({ maxLength: 40 }),
      fc.constantFrom("5", "5,7", "0x", "0x00", "255", "256", `0x${"ab".repeat(16)}`),
    );
    const key = fc.constantFrom("CHAP_A", "CHAP_I", "CHAP_C", "CHAP_N", "CHAP_R", "X");
    fc.assert(
      fc.property(
        fc.array(fc.array(fc.tuple(key, value), { maxLength: 5 }), { maxLength: 4 }),
        fc.boolean(),
        (steps, isTarget) => {
          const side = isTarget
            ? new ChapAuthenticator(own, theirs, randomFrom(6))
            : new ChapResponder(own, theirs, randomFrom(7));
          try {
            for (const pairs of steps) side.step(pairs);
          } catch (error) {
            expect(error).toBeInstanceOf(ChapError);
          }
          expect(side instanceof ChapAuthenticator ? side.authenticated : side.done).toBe(false);
        },
      ),
      { numRuns: 2000 },
    );
  });
});

describe("login", () => {
  const host = (policy?: ChapPolicy): LoginHost => ({
    hasTarget: (name) => name === "iqn.2026-11.x:disks",
    chapFor: () => policy,
    wishes: {
      InitialR2T: false,
      ImmediateData: true,
      MaxRecvDataSegmentLength: 262144,
      HeaderDigest: ["None", "CRC32C"],
      DataDigest: ["None", "CRC32C"],
    },
    portalGroupTag: 1,
    random: randomFrom(8),
  });
  const options = (more: Partial<LoginOptions> = {}): LoginOptions => ({
    peer: "the target",
    initiatorName: "iqn.2026-11.x:agent",
    targetName: "iqn.2026-11.x:disks",
    chap: undefined,
    chapTarget: undefined,
    wishes: {
      InitialR2T: false,
      MaxBurstLength: 131072,
      MaxRecvDataSegmentLength: 65536,
      HeaderDigest: ["CRC32C", "None"],
    },
    isid: Buffer.from("80aabbccddee", "hex"),
    random: randomFrom(9),
    ...more,
  });

  /** Both sides to the end: what each of them agreed to. */
  function run(asked: LoginOptions, at: LoginHost) {
    const initiator = new Login(asked);
    const target = new TargetLogin(at);
    let request = initiator.begin();
    for (;;) {
      const step = target.step(request.header, request.data);
      const reply = "reply" in step ? step.reply : target.accept(7, 1, 32);
      const taken = initiator.step(reply.header, reply.data);
      if ("result" in taken)
        return { initiator: taken.result, target: "agreement" in step ? step.agreement : undefined };
      request = taken.next;
    }
  }

  test.each([
    ["plain", {}, undefined],
    ["discovery", { targetName: undefined }, undefined],
    ["CHAP", { chap: own }, { initiator: own, target: undefined }],
    ["mutual CHAP", { chap: own, chapTarget: theirs }, { initiator: own, target: theirs }],
  ] as const)("%s", (_what, more, policy) => {
    const { initiator, target } = run(options(more), host(policy));
    expect(shared(initiator.parameters)).toEqual(shared(target!.parameters));
    expect(initiator.parameters).toMatchObject({
      HeaderDigest: "CRC32C",
      InitialR2T: false,
      MaxBurstLength: 131072,
      MaxRecvDataSegmentLength: 262144,
    });
    expect(target!.parameters.MaxRecvDataSegmentLength).toBe(65536);
    expect([initiator.tsih, target!.targetName]).toEqual([
      7,
      more && "targetName" in more ? undefined : "iqn.2026-11.x:disks",
    ]);
  });

  test.each([
    ["another target", { targetName: "iqn.2026-11.x:none" }, undefined],
    ["no CHAP where it is required", {}, { initiator: own, target: undefined }],
    ["CHAP where there is none", { chap: own }, undefined],
    [
      "a wrong secret",
      { chap: { ...own, secret: "wrong one, wrong" } },
      { initiator: own, target: undefined },
    ],
    [
      "a target that can't prove itself",
      { chap: own, chapTarget: theirs },
      { initiator: own, target: undefined },
    ],
    [
      "a target with a wrong secret",
      { chap: own, chapTarget: theirs },
      { initiator: own, target: { ...theirs, secret: "wrong one" } },
    ],
  ] as const)("%s is refused", (_what, more, policy) => {
    let code = "";
    try {
      run(options(more), host(policy));
    } catch (error) {
      code = (error as AgentError).code;
      expect((error as AgentError).message).not.toMatch(/horse|staple/);
    }
    expect(code).toBe("login_refused");
  });

  test("whatever is sent, without the secret nobody gets in, and nothing is thrown", () => {
    const key = fc.constantFrom(
      "InitiatorName",
      "TargetName",
      "SessionType",
      "AuthMethod",
      "CHAP_A",
      "CHAP_N",
      "CHAP_R",
      "CHAP_I",
      "CHAP_C",
      "MaxBurstLength",
    );
    const value = fc.constantFrom(
      "iqn.2026-11.x:agent",
      "iqn.2026-11.x:disks",
      "Normal",
      "Discovery",
      "None",
      "CHAP",
      "CHAP,None",
      "5",
      "agent",
      "0x00",
      `0x${"00".repeat(16)}`,
      "65536",
      "",
    );
    const request = fc.record({
      pairs: fc.uniqueArray(fc.tuple(key, value), { selector: ([name]) => name, maxLength: 6 }),
      stages: fc.constantFrom(0x00, 0x81, 0x87, 0x04, 0x83, 0x40),
      damage: fc.array(fc.tuple(fc.nat(47), fc.nat(255)), { maxLength: 2 }),
    });
    fc.assert(
      fc.property(fc.array(request, { minLength: 1, maxLength: 6 }), (requests) => {
        const target = new TargetLogin(host({ initiator: own, target: theirs }));
        for (const { pairs, stages, damage } of requests) {
          const { header } = new Login(options()).begin();
          header[1] = stages;
          for (const [at, byte] of damage) header[at] = byte;
          const step = target.step(header, encodeText(pairs));
          expect("reply" in step).toBe(true);
          if ("reply" in step && step.reply.failure !== undefined) {
            expect(loginResponsePdu.decode(step.reply.header).statusClass).toBe(
              loginStatus.initiatorError >> 8,
            );
            return;
          }
        }
      }),
      { numRuns: 3000 },
    );
  });
});
