// Both sides of a login in memory, without sockets: for tests of what they agree on, and of what they refuse.
import { expect } from "vitest";
import { Login, type LoginOptions, type LoginResult } from "../../src/initiator/login.ts";
import type { Wishes } from "../../src/iscsi/negotiation.ts";
import { loginRequestPdu, loginResponsePdu } from "../../src/iscsi/pdu.ts";
import { decodeText, encodeText, type TextPairs } from "../../src/iscsi/text.ts";
import type { Random } from "../../src/platform/random.ts";
import { type ChapPolicy, type LoginAgreement, type LoginHost, TargetLogin } from "../../src/target/login.ts";
import { bytesOf, randomOf } from "./data.ts";

export const initiatorName = "iqn.2026-11.x:agent";
export const targetName = "iqn.2026-11.x:disks";
export const agent = { name: "agent", secret: "correct horse battery" };
export const disks = { name: "disks", secret: "staple the other way" };
/** What no message may hold. */
export const secretWords = /horse|staple/;

export const randomFrom = (seed: number): Random => {
  const random = randomOf(seed);
  return { bytes: (count) => bytesOf(random, count) };
};

export const hostOf = (more: Partial<LoginHost> & { policy?: ChapPolicy | undefined } = {}): LoginHost => ({
  hasTarget: (name) => name === targetName,
  chapFor: () => more.policy,
  wishes: { InitialR2T: false, ImmediateData: true, MaxRecvDataSegmentLength: 262144 },
  portalGroupTag: 1,
  random: randomFrom(1),
  ...more,
});

export const optionsOf = (more: Partial<LoginOptions> = {}): LoginOptions => ({
  peer: "the target",
  initiatorName,
  targetName,
  chap: undefined,
  chapTarget: undefined,
  wishes: { InitialR2T: false, MaxBurstLength: 131072, MaxRecvDataSegmentLength: 65536 } satisfies Wishes,
  isid: Buffer.from("80aabbccddee", "hex"),
  random: randomFrom(2),
  ...more,
});

export interface Exchanged {
  readonly header: Buffer;
  readonly data: Buffer;
}

/** Both sides to the end. `requests` gathers what the initiator sent. */
export function runLogin(
  options: LoginOptions,
  host: LoginHost,
  requests: Exchanged[] = [],
): { initiator: LoginResult; target: LoginAgreement } {
  const initiator = new Login(options);
  const target = new TargetLogin(host);
  let agreement: LoginAgreement | undefined;
  for (let request = initiator.begin(); ; ) {
    requests.push({ header: Buffer.from(request.header), data: request.data });
    const step = target.step(request.header, request.data);
    if ("agreement" in step) agreement = step.agreement;
    const reply = "reply" in step ? step.reply : target.accept(7, 1, 32);
    const taken = initiator.step(reply.header, reply.data);
    if ("result" in taken) {
      if (!agreement) throw new Error("the initiator is through, and the target is not");
      return { initiator: taken.result, target: agreement };
    }
    request = taken.next;
  }
}

export type RequestFields = Partial<ReturnType<typeof loginRequestPdu.decode>>;

/** A target that is asked step by step. */
export class Asked {
  readonly target: TargetLogin;

  constructor(host: LoginHost = hostOf()) {
    this.target = new TargetLogin(host);
  }

  step(fields: RequestFields, pairs: TextPairs | Buffer) {
    const header = loginRequestPdu.encode({ immediate: true, cmdSN: 1, initiatorTaskTag: 9, ...fields });
    return this.target.step(header, Buffer.isBuffer(pairs) ? pairs : encodeText(pairs));
  }

  /** The answer's pairs, of a step that is not the last. */
  answer(fields: RequestFields, pairs: TextPairs): TextPairs {
    const step = this.step(fields, pairs);
    if (!("reply" in step) || step.reply.failure !== undefined) throw new Error(JSON.stringify(step));
    return decodeText(step.reply.data);
  }

  /** The status of a step that is refused. */
  status(fields: RequestFields, pairs: TextPairs | Buffer): number | undefined {
    const step = this.step(fields, pairs);
    if (!("reply" in step)) return undefined;
    const { statusClass, statusDetail } = loginResponsePdu.decode(step.reply.header);
    const status = (statusClass << 8) | statusDetail;
    expect(step.reply.failure !== undefined).toBe(status !== 0);
    return status;
  }

  agreement(fields: RequestFields, pairs: TextPairs) {
    const step = this.step(fields, pairs);
    if (!("agreement" in step)) throw new Error(`refused: ${step.reply.failure}`);
    return step.agreement;
  }
}
