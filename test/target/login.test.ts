// Logins of every kind, in memory: who gets in, what is agreed on, and that nothing else ever happens.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Login } from "../../src/initiator/login.ts";
import { loginStatus } from "../../src/iscsi/codes.ts";
import type { Parameters, Wishes } from "../../src/iscsi/negotiation.ts";
import { loginResponsePdu } from "../../src/iscsi/pdu.ts";
import { decodeText, encodeText, type TextPairs, textBytesMax } from "../../src/iscsi/text.ts";
import { TargetLogin } from "../../src/target/login.ts";
import {
  Asked,
  agent,
  disks,
  type Exchanged,
  type RequestFields as Fields,
  hostOf,
  initiatorName,
  optionsOf,
  randomFrom,
  runLogin,
  secretWords,
  targetName,
} from "../support/logins.ts";

const security = { currentStage: 0 };
const operational = { currentStage: 1 };
const last = { currentStage: 1, transit: true, nextStage: 3 };
const names: TextPairs = [
  ["InitiatorName", initiatorName],
  ["TargetName", targetName],
];

describe("what is said once is not said again (RFC 7143, 6.3)", () => {
  const key: [string, string] = ["MaxBurstLength", "65536"];

  test("a key that was negotiated", () => {
    const asked = new Asked();
    expect(asked.answer(operational, [...names, key])).toContainEqual(key);
    expect(asked.status(operational, [key])).toBe(loginStatus.initiatorError);
  });

  test("a key that was declared", () => {
    const asked = new Asked();
    asked.answer(operational, [...names, ["MaxRecvDataSegmentLength", "4096"]]);
    expect(asked.status(last, [["MaxRecvDataSegmentLength", "8192"]])).toBe(loginStatus.initiatorError);
  });

  test("a key of the security stage, in the operational one", () => {
    const asked = new Asked();
    asked.answer({ ...security, transit: true, nextStage: 1 }, [...names, ["AuthMethod", "None"], key]);
    expect(asked.status(last, [key])).toBe(loginStatus.initiatorError);
  });

  test("the method of authentication", () => {
    const asked = new Asked(hostOf({ policy: { initiator: agent, target: undefined } }));
    expect(asked.answer(security, [...names, ["AuthMethod", "CHAP"]])).toContainEqual(["AuthMethod", "CHAP"]);
    expect(asked.status(security, [["AuthMethod", "CHAP"]])).toBe(loginStatus.initiatorError);
  });

  test.each(["InitiatorName", "TargetName", "SessionType"])("%s", (name) => {
    const value = { InitiatorName: "iqn.2026-11.x:other", TargetName: targetName, SessionType: "Normal" }[
      name
    ]!;
    const asked = new Asked();
    asked.answer(operational, [...names, ["SessionType", "Normal"]]);
    expect(asked.status(last, [[name, value]])).toBe(loginStatus.initiatorError);
  });

  test("at the initiator: an answer that comes twice", () => {
    const initiator = new Login(optionsOf());
    const respond = (fields: Fields & { statSN: number }, pairs: TextPairs) => {
      const { isid = optionsOf().isid } = fields;
      return initiator.step(loginResponsePdu.encode({ ...fields, isid }), encodeText(pairs));
    };
    initiator.begin();
    respond({ ...security, transit: true, nextStage: 1, statSN: 5 }, [["AuthMethod", "None"]]);
    respond({ ...operational, statSN: 6 }, [["MaxBurstLength", "65536"]]);
    expect(() => respond({ ...last, statSN: 7 }, [["MaxBurstLength", "4096"]])).toThrow(
      expect.objectContaining({ code: "protocol_error" }),
    );
  });
});

describe("a discovery session stays one", () => {
  // Discovery is open, targets want CHAP: whoever is let in for the one must not come out at the other.
  const host = hostOf({
    chapFor: (name) => (name === undefined ? undefined : { initiator: agent, target: undefined }),
  });
  const first: TextPairs = [
    ["InitiatorName", initiatorName],
    ["SessionType", "Discovery"],
  ];

  test("without a target name, whatever name came with it", () => {
    expect(
      new Asked(host).agreement(last, [...first, ["TargetName", targetName]]).targetName,
    ).toBeUndefined();
  });

  test.each<[string, TextPairs]>([
    ["a target name", [["TargetName", targetName]]],
    ["another session type", [["SessionType", "Normal"]]],
    [
      "both",
      [
        ["SessionType", "Normal"],
        ["TargetName", targetName],
      ],
    ],
  ])("%s that comes later is refused", (_what, later) => {
    const asked = new Asked(host);
    asked.answer(operational, first);
    expect(asked.status(last, later)).toBe(loginStatus.initiatorError);
  });
});

describe("names", () => {
  test("are told apart whatever their case", () => {
    const pairs: TextPairs = [
      ["InitiatorName", "IQN.2026-11.X:Agent"],
      ["TargetName", targetName.toUpperCase()],
    ];
    expect(new Asked().agreement(last, pairs)).toMatchObject({ initiatorName, targetName });
  });

  test.each([
    ["no bytes", ""],
    ["224 bytes", `iqn.${"x".repeat(220)}`],
    ["another form", "disks"],
    ["a space", "iqn.2026-11.x:a b"],
    ["a line feed, which would forge a line of the log", "iqn.2026-11.x:a\nerror: all is lost"],
    ["an escape sequence", "iqn.2026-11.x:\u001b[2J"],
    ["a C1 control", "iqn.2026-11.x:\u009b2J"],
    ["a character that turns the line around", "iqn.2026-11.x:\u202ea"],
  ])("an InitiatorName of %s is refused, and stands in no message", (_what, name) => {
    const asked = new Asked();
    expect(asked.status(last, [["InitiatorName", name], names[1]!])).toBe(loginStatus.initiatorError);
    expect(asked.target.initiatorName).toBeUndefined();
  });

  test("223 bytes are a name", () => {
    const name = `iqn.${"x".repeat(219)}`;
    expect(new Asked().agreement(last, [["InitiatorName", name], names[1]!]).initiatorName).toBe(name);
  });
});

test("no failure of a login brings control characters into the log", () => {
  const text = fc.string({ unit: "binary", maxLength: 30 });
  const key = fc.constantFrom(
    "InitiatorName",
    "TargetName",
    "SessionType",
    "AuthMethod",
    "MaxBurstLength",
    "CHAP_A",
    "",
  );
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.oneof(key, text), text), { maxLength: 4 }),
      fc.boolean(),
      (pairs, named) => {
        const asked = new Asked(hostOf({ policy: { initiator: agent, target: disks } }));
        const step = asked.step(security, encodeText(named ? [...names, ...pairs] : pairs));
        const shown = `${"reply" in step ? step.reply.failure : ""}${asked.target.initiatorName}`;
        expect(shown).not.toMatch(/[\p{Cc}\p{Zl}\p{Zp}]/u);
      },
    ),
    { numRuns: 1000 },
  );
});

describe("the bounds of one login", () => {
  test("text in pieces is put together; one byte more than there may be is refused", () => {
    const asked = new Asked();
    const whole = encodeText([...names, ["X-filler", "y".repeat(200)]]);
    for (let at = 0; at < whole.length - 50; at += 50) {
      expect(asked.status({ ...operational, continue: true }, whole.subarray(at, at + 50))).toBe(0);
    }
    const rest = whole.subarray(Math.floor((whole.length - 1) / 50) * 50);
    const step = asked.step(operational, rest);
    expect("reply" in step && decodeText(step.reply.data)).toEqual([
      ["X-filler", "NotUnderstood"],
      ["MaxRecvDataSegmentLength", "262144"],
      ["TargetPortalGroupTag", "1"],
    ]);
    const large = new Asked();
    const piece = Buffer.alloc(textBytesMax / 8, 0x41);
    for (let i = 0; i < 8; i++) expect(large.status({ ...operational, continue: true }, piece)).toBe(0);
    expect(large.status({ ...operational, continue: true }, Buffer.from("A"))).toBe(
      loginStatus.initiatorError,
    );
  });

  test("sequence numbers go on from what the initiator expects, over the wrap", () => {
    const asked = new Asked();
    const seen: number[] = [];
    for (let i = 0; i < 3; i++) {
      const step = asked.step({ ...operational, expStatSN: (0xfffffffe + i) >>> 0 }, i === 0 ? names : []);
      if ("reply" in step) seen.push(loginResponsePdu.decode(step.reply.header).statSN);
    }
    expect(seen).toEqual([0xfffffffe, 0xffffffff, 0]);
  });

  test.each<[string, Fields]>([
    ["the ISID", { isid: Buffer.from("800000000001", "hex") }],
    ["the TSIH", { tsih: 1 }],
    ["the CID", { cid: 1 }],
    ["the task tag", { initiatorTaskTag: 10 }],
  ])("%s may not change", (_what, change) => {
    const asked = new Asked();
    asked.answer(operational, names);
    expect(asked.status({ ...operational, ...change }, [])).toBe(loginStatus.invalidDuringLogin);
  });

  test("every failure has the status that RFC 7143, 11.13.5 gives it", () => {
    const chap = () => new Asked(hostOf({ policy: { initiator: agent, target: undefined } }));
    expect(new Asked().status({ ...last, versionMin: 1 }, names)).toBe(loginStatus.unsupportedVersion);
    expect(new Asked().status(last, names.slice(1))).toBe(loginStatus.missingParameter);
    expect(new Asked().status(last, names.slice(0, 1))).toBe(loginStatus.missingParameter);
    expect(new Asked().status(last, [names[0]!, ["TargetName", "iqn.2026-11.x:no"]])).toBe(
      loginStatus.notFound,
    );
    expect(new Asked().status(last, [...names, ["SessionType", "Cosy"]])).toBe(
      loginStatus.sessionTypeNotSupported,
    );
    expect(chap().status(last, names)).toBe(loginStatus.authenticationFailure);
    expect(
      chap().status({ ...security, transit: true, nextStage: 3 }, [...names, ["AuthMethod", "None"]]),
    ).toBe(loginStatus.authenticationFailure);
    expect(new Asked().status({ ...last, currentStage: 3 }, names)).toBe(loginStatus.initiatorError);
    expect(new Asked().status({ ...last, currentStage: 2 }, names)).toBe(loginStatus.initiatorError);
  });
});

const shared = ({ MaxRecvDataSegmentLength: _, ...rest }: Parameters) => rest;
const numberUpTo = (min: number, max: number) =>
  fc.oneof(fc.integer({ min, max }), fc.constantFrom(min, max));
const wishes: fc.Arbitrary<Wishes> = fc.record(
  {
    HeaderDigest: fc.constantFrom(["None"], ["CRC32C", "None"], ["None", "CRC32C"]),
    DataDigest: fc.constantFrom(["None"], ["CRC32C", "None"], ["None", "CRC32C"]),
    MaxRecvDataSegmentLength: numberUpTo(512, 0xffffff),
    MaxConnections: numberUpTo(1, 65535),
    InitialR2T: fc.boolean(),
    ImmediateData: fc.boolean(),
    MaxBurstLength: numberUpTo(512, 0xffffff),
    FirstBurstLength: numberUpTo(512, 0xffffff),
    MaxOutstandingR2T: numberUpTo(1, 65535),
    DefaultTime2Wait: numberUpTo(0, 3600),
    DefaultTime2Retain: numberUpTo(0, 3600),
    DataPDUInOrder: fc.boolean(),
    DataSequenceInOrder: fc.boolean(),
    ErrorRecoveryLevel: numberUpTo(0, 2),
  },
  { requiredKeys: [] },
);

test("whatever both wish, whoever must prove himself: both end with the same parameters", () => {
  const who = fc.constantFrom("nobody", "initiator", "both");
  fc.assert(
    fc.property(
      wishes,
      wishes,
      who,
      fc.boolean(),
      fc.integer({ min: 100 }),
      (ours, theirs, proves, discovery, seed) => {
        const policy = { initiator: agent, target: proves === "both" ? disks : undefined };
        const { initiator, target } = runLogin(
          optionsOf({
            wishes: ours,
            targetName: discovery ? undefined : targetName,
            chap: proves === "nobody" ? undefined : agent,
            chapTarget: proves === "both" ? disks : undefined,
            random: randomFrom(seed),
          }),
          hostOf({ wishes: theirs, policy: proves === "nobody" ? undefined : policy }),
        );
        expect(shared(initiator.parameters)).toEqual(shared(target.parameters));
        expect(initiator.parameters.FirstBurstLength).toBeLessThanOrEqual(
          initiator.parameters.MaxBurstLength,
        );
        // Each side's declaration bounds what the other sends.
        expect(target.parameters.MaxRecvDataSegmentLength).toBe(ours.MaxRecvDataSegmentLength ?? 8192);
        const declared = Object.keys(ours).length > 0 ? theirs.MaxRecvDataSegmentLength : undefined;
        if (declared !== undefined) expect(initiator.parameters.MaxRecvDataSegmentLength).toBe(declared);
        expect([target.targetName, initiator.tsih]).toEqual([discovery ? undefined : targetName, 7]);
      },
    ),
    { numRuns: 500 },
  );
});

describe("nobody gets in without the secret", () => {
  const policy = { initiator: agent, target: disks };
  const genuine: Exchanged[] = [];
  runLogin(optionsOf({ chap: agent, chapTarget: disks }), hostOf({ policy }), genuine);

  /** One step of an attack: a request of the genuine login, damaged; or one of the attacker's own. */
  const damage = fc.record({
    from: fc.nat(genuine.length - 1),
    header: fc.array(fc.tuple(fc.constantFrom(0, 1, 1, 1, 2, 3, 4, 8, 14, 16, 20, 24, 47), fc.nat(255)), {
      maxLength: 2,
    }),
    stages: fc.option(fc.constantFrom(0x00, 0x81, 0x83, 0x87, 0x04, 0x40, 0x44, 0xc7), { nil: undefined }),
    without: fc.constantFrom("", "CHAP_R", "CHAP_N", "AuthMethod", "TargetName", "SessionType", "CHAP_A"),
    more: fc.array(
      fc.constantFrom<[string, string]>(
        ["AuthMethod", "None"],
        ["AuthMethod", "CHAP"],
        ["SessionType", "Discovery"],
        ["TargetName", targetName],
        ["CHAP_A", "7,5"],
        ["CHAP_I", "1"],
        ["CHAP_C", "0x00"],
        ["CHAP_R", `0x${"00".repeat(32)}`],
        ["MaxBurstLength", "512"],
      ),
      { maxLength: 2 },
    ),
    bytes: fc.array(fc.tuple(fc.nat(300), fc.nat(255)), { maxLength: 2 }),
  });

  test("requests of a genuine login, damaged and in any order, at targets that ask other challenges", () => {
    fc.assert(
      fc.property(
        fc.array(damage, { minLength: 1, maxLength: 8 }),
        fc.integer({ min: 100 }),
        (steps, seed) => {
          const target = new TargetLogin(hostOf({ policy, random: randomFrom(seed) }));
          for (const { from, header: changes, stages, without, more, bytes } of steps) {
            const header = Buffer.from(genuine[from]!.header);
            for (const [at, byte] of changes) header[at] = byte;
            if (stages !== undefined) header[1] = stages;
            const kept = decodeText(genuine[from]!.data).filter(([key]) => key !== without);
            const data = encodeText([
              ...kept,
              ...more.filter(([key]) => !kept.some(([other]) => other === key)),
            ]);
            for (const [at, byte] of bytes) if (at < data.length) data[at] = byte;
            const step = target.step(header, data); // also after a failure
            expect("agreement" in step).toBe(false);
            if ("reply" in step) expect(`${step.reply.failure}${step.reply.data}`).not.toMatch(secretWords);
          }
        },
      ),
      { numRuns: 3000 },
    );
  });

  test("the same attack without damage does get in where the challenges are those that were answered", () => {
    const target = new TargetLogin(hostOf({ policy }));
    const steps = genuine.map(({ header, data }) => target.step(header, data));
    expect("agreement" in steps.at(-1)!).toBe(true);
  });

  test("any bytes as header and text: a reply, never an agreement, never an exception", () => {
    const header = fc
      .uint8Array({ minLength: 48, maxLength: 48 })
      .chain((bytes) =>
        fc.constantFrom(0x43, 0x03, bytes[0]!).map((first) => Buffer.from(bytes).fill(first, 0, 1)),
      );
    fc.assert(
      fc.property(
        fc.array(fc.tuple(header, fc.uint8Array({ maxLength: 200 })), { maxLength: 5 }),
        (steps) => {
          const target = new TargetLogin(hostOf({ policy }));
          for (const [bytes, data] of steps) {
            const step = target.step(bytes, Buffer.from(data));
            expect("reply" in step && loginResponsePdu.decode(step.reply.header)).toBeTruthy();
          }
        },
      ),
      { numRuns: 2000 },
    );
  });
});
