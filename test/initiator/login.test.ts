// The initiator's side of a login against targets that answer wrongly: an AgentError, and never a result that was not
// earned.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { AgentError } from "../../src/base/errors.ts";
import { Login, type LoginOptions, LoginRedirect } from "../../src/initiator/login.ts";
import { loginRequestPdu, loginResponsePdu } from "../../src/iscsi/pdu.ts";
import { decodeText, encodeText, type TextPairs } from "../../src/iscsi/text.ts";
import { agent, disks, optionsOf, secretWords } from "../support/logins.ts";

type Response = Partial<ReturnType<typeof loginResponsePdu.decode>>;

/** A login that has sent its first request, and the answers that a test makes up. */
function begun(more: Partial<LoginOptions> = {}) {
  const login = new Login(optionsOf(more));
  login.begin();
  let statSN = 100;
  const respond = (fields: Response, pairs: TextPairs = []) =>
    login.step(
      loginResponsePdu.encode({ isid: optionsOf().isid, statSN: statSN++, ...fields }),
      encodeText(pairs),
    );
  return { login, respond };
}
const failure = (code: string, words: RegExp) =>
  expect.objectContaining({ code, message: expect.stringMatching(words) });
const toOperational = { transit: true, nextStage: 1 };
const toFull = { transit: true, currentStage: 1, nextStage: 3 };

describe("answers that are refused", () => {
  test("another stage, a StatSN out of order, C and T at once, a stage that does not follow", () => {
    expect(() => begun().respond({ currentStage: 1 })).toThrow(failure("protocol_error", /stage 1, not 0/));
    const { respond } = begun();
    respond(toOperational, [["AuthMethod", "None"]]);
    expect(() => respond({ ...toFull, statSN: 7 })).toThrow(failure("protocol_error", /StatSN/));
    expect(() => begun().respond({ continue: true, transit: true })).toThrow(
      failure("protocol_error", /C and T/),
    );
    expect(() => begun().respond({ transit: true, nextStage: 2 })).toThrow(
      failure("protocol_error", /next stage/),
    );
    expect(() => begun().respond({ transit: true, nextStage: 0 })).toThrow(
      failure("protocol_error", /next stage/),
    );
  });

  test("for a task that is not the login's", () => {
    expect(() => begun().respond({ ...toOperational, initiatorTaskTag: 5 })).toThrow(
      failure("protocol_error", /task tag/),
    );
  });

  test("a method that was not offered", () => {
    const method =
      (name: string, more = {}) =>
      () =>
        begun(more).respond({}, [["AuthMethod", name]]);
    expect(method("CHAP")).toThrow(failure("login_refused", /wants CHAP/));
    expect(method("KRB5")).toThrow(failure("protocol_error", /KRB5/));
    expect(method("None", { chap: agent })).toThrow(
      failure("login_refused", /does not authenticate by CHAP/),
    );
    expect(method("Reject", { chap: agent })).toThrow(failure("login_refused", /CHAP/));
  });

  test("parameters past what was offered", () => {
    const { respond } = begun({ wishes: { MaxBurstLength: 65536 } });
    respond(toOperational, [["AuthMethod", "None"]]);
    expect(() => respond(toFull, [["MaxBurstLength", "65537"]])).toThrow(
      failure("protocol_error", /MaxBurstLength/),
    );
  });

  test("text without end", () => {
    const { login, respond } = begun();
    const piece = Buffer.alloc(8192, 0x41);
    const feed = () => {
      for (let i = 0; i < 30; i++) {
        const header = loginResponsePdu.encode({ continue: true, statSN: i });
        const step = login.step(header, piece);
        expect("next" in step && decodeText(step.next.data)).toEqual([]);
      }
    };
    expect(feed).toThrow(failure("protocol_error", /more than 65536 bytes/));
    const forever = () => {
      for (let i = 0; i < 30; i++) respond({});
    };
    expect(forever).toThrow(AgentError);
  });
});

test("status classes: try again later, refused, moved", () => {
  const status = (statusClass: number, statusDetail: number, pairs: TextPairs = []) => {
    try {
      begun().respond({ statusClass, statusDetail }, pairs);
    } catch (error) {
      return error;
    }
    return undefined;
  };
  expect(status(3, 2)).toMatchObject({ code: "connection_refused", retry: "after_backoff" });
  expect(status(2, 1)).toMatchObject({
    code: "login_refused",
    retry: "never",
    message: expect.stringMatching(/wants authentication/),
  });
  expect(status(2, 3)).toMatchObject({
    code: "login_refused",
    message: expect.stringMatching(/no such target \(0203h\)/),
  });
  expect(status(7, 9)).toMatchObject({ code: "login_refused" });
  expect(status(1, 1, [["TargetAddress", "192.0.2.1:3260,1"]])).toEqual(
    new LoginRedirect("192.0.2.1:3260,1"),
  );
  expect(status(1, 1)).toMatchObject({ code: "protocol_error" });
});

describe("a target that does not prove itself", () => {
  const mutual = { chap: agent, chapTarget: disks };

  test.each<[string, Response, TextPairs]>([
    ["lets us in at once", { transit: true, nextStage: 3 }, []],
    ["goes on without a challenge", toOperational, [["AuthMethod", "CHAP"]]],
  ])("%s", (_what, fields, pairs) => {
    for (const more of [{ chap: agent }, mutual]) {
      expect(() => begun(more).respond(fields, pairs)).toThrow(failure("login_refused", /prove/));
    }
  });

  test.each<[string, TextPairs]>([
    ["nothing", []],
    [
      "a guess",
      [
        ["CHAP_N", disks.name],
        ["CHAP_R", `0x${"00".repeat(16)}`],
      ],
    ],
    ["only a name", [["CHAP_N", disks.name]]],
  ])("answers our challenge with %s", (_what, pairs) => {
    const { respond } = begun(mutual);
    respond({}, [["AuthMethod", "CHAP"]]);
    respond({}, [
      ["CHAP_A", "5"],
      ["CHAP_I", "1"],
      ["CHAP_C", "0x0102030405060708"],
    ]);
    expect(() => respond(toOperational, pairs)).toThrow(expect.objectContaining({ code: "login_refused" }));
  });
});

const rarely = <T>(arbitrary: fc.Arbitrary<T>) =>
  fc.oneof({ arbitrary: fc.constant(undefined), weight: 9 }, { arbitrary, weight: 1 });

test("whatever a target answers: an AgentError or a redirection; no result without the proof that was wanted", () => {
  const pair = fc.tuple(
    fc.constantFrom(
      "AuthMethod",
      "CHAP_A",
      "CHAP_I",
      "CHAP_C",
      "CHAP_N",
      "CHAP_R",
      "TargetPortalGroupTag",
      "TargetAddress",
      "MaxBurstLength",
      "HeaderDigest",
      "X-a",
    ),
    fc.constantFrom(
      "None",
      "CHAP",
      "5",
      "7",
      "1",
      "0x01",
      disks.name,
      `0x${"00".repeat(16)}`,
      `0x${"00".repeat(32)}`,
      "65536",
      "Reject",
      "CRC32C",
      "",
    ),
  );
  const response = fc.record({
    fields: fc.record({
      currentStage: fc.constantFrom(0, 0, 0, 0, 0, 0, 1, 3),
      nextStage: fc.nat(3),
      transit: fc.constantFrom(false, false, false, true),
      continue: fc.constantFrom(false, false, true),
      statusClass: fc.constantFrom(...Array<number>(20).fill(0), 1, 2, 3),
    }),
    pairs: fc.uniqueArray(pair, { selector: ([key]) => key, maxLength: 5 }),
    damage: rarely(fc.tuple(fc.nat(47), fc.nat(255))),
    bytes: rarely(fc.uint8Array({ maxLength: 40 })),
  });
  let most = 0;
  fc.assert(
    fc.property(fc.array(response, { maxLength: 25 }), (responses) => {
      const login = new Login(optionsOf({ chap: agent, chapTarget: disks }));
      login.begin();
      try {
        responses.forEach(({ fields, pairs, damage, bytes }, i) => {
          const header = loginResponsePdu.encode({ ...fields, statSN: i });
          if (damage) header[damage[0]] = damage[1];
          const step = login.step(header, bytes ? Buffer.from(bytes) : encodeText(pairs));
          expect("next" in step).toBe(true);
          if ("next" in step) {
            expect(step.next.data.toString()).not.toMatch(secretWords);
            expect(loginRequestPdu.decode(step.next.header).isid).toEqual(optionsOf().isid);
          }
          most = Math.max(most, i + 1);
        });
      } catch (error) {
        if (error instanceof LoginRedirect) return;
        expect(error).toBeInstanceOf(AgentError);
        expect((error as AgentError).message).not.toMatch(secretWords);
      }
    }),
    { numRuns: 3000 },
  );
  expect(most).toBeGreaterThan(2); // some went on for a while
});
