// The target's side of a login, without a socket: requests in, responses out.
//
// Guarantees: full-feature phase is reached only by an initiator that authenticated as configured, named itself and,
// for a normal session, an existing target; any other input gives a response with a failure status, after which the
// connection is closed. It ends after at most `stepsMax` requests and never holds more text than textBytesMax.
//
// Source: RFC 7143, 6.3 (login phase), 11.12 and 11.13.
import { LayoutError } from "../base/layout.ts";
import { ChapAuthenticator, type ChapCredentials, ChapError } from "../iscsi/chap.ts";
import { loginStage, loginStatus } from "../iscsi/codes.ts";
import { Negotiation, NegotiationError, type Parameters, type Wishes } from "../iscsi/negotiation.ts";
import { loginRequestPdu, loginResponsePdu } from "../iscsi/pdu.ts";
import { decodeText, encodeText, TextError, type TextPairs, textBytesMax } from "../iscsi/text.ts";
import type { Random } from "../platform/random.ts";

export interface ChapPolicy {
  /** What an initiator has to prove. */
  readonly initiator: ChapCredentials;
  /** With what the target proves itself, if an initiator asks. */
  readonly target: ChapCredentials | undefined;
}

/** What a login needs to know of the rest of the target. */
export interface LoginHost {
  /** True if a target of that name is here and this initiator may know it. */
  hasTarget(targetName: string, initiatorName: string): boolean;
  /** CHAP for this target; for discovery (undefined) likewise. */
  chapFor(targetName: string | undefined, initiatorName: string): ChapPolicy | undefined;
  readonly wishes: Wishes;
  readonly portalGroupTag: number;
  readonly random: Random;
}

export interface LoginReply {
  readonly header: Buffer;
  readonly data: Buffer;
  /** The connection is closed behind it. */
  readonly failure: string | undefined;
}

/** What was agreed upon. The last response is still to be completed and sent: see {@link TargetLogin.accept}. */
export interface LoginAgreement {
  readonly initiatorName: string;
  /** Undefined for a discovery session. */
  readonly targetName: string | undefined;
  readonly isid: Buffer;
  /** What the initiator sent: 0, or the session that it means. */
  readonly tsih: number;
  readonly cid: number;
  readonly cmdSN: number;
  readonly parameters: Parameters;
}

const stepsMax = 30;
const nameBytesMax = 223;
/** The forms of RFC 7143, 4.2.7; white space and controls are in none of them. */
const nameForm = /^(?:iqn\.|eui\.|naa\.)[^\s\p{C}]+$/iu;

class LoginFailure extends Error {
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

type Request = ReturnType<typeof loginRequestPdu.decode>;

export class TargetLogin {
  readonly #host: LoginHost;
  readonly #negotiation: Negotiation;
  #steps = 0;
  #text: Buffer[] = [];
  #textBytes = 0;
  #first: Request | undefined;
  #stage = -1;
  #statSN = 0;
  #initiatorName: string | undefined;
  #targetName: string | undefined;
  #discovery = false;
  #method: string | undefined;
  #policy: ChapPolicy | undefined;
  #chap: ChapAuthenticator | undefined;
  #authenticated = false;
  #named = false;
  /** The next answer is the first: it carries the portal group tag. */
  #greeting = false;
  #pending: { request: Request; answers: TextPairs } | undefined;

  constructor(host: LoginHost) {
    this.#host = host;
    this.#negotiation = new Negotiation(host.wishes);
  }

  /** The initiator's name, once it is known: for the log. */
  get initiatorName(): string | undefined {
    return this.#initiatorName;
  }

  /** Takes a login request: gives the reply to send, or the agreement of a login that is complete. */
  step(header: Buffer, data: Buffer): { reply: LoginReply } | { agreement: LoginAgreement } {
    let request: Request | undefined;
    try {
      request = loginRequestPdu.decode(header);
      return this.#step(request, data);
    } catch (error) {
      const failure =
        error instanceof LoginFailure
          ? error
          : error instanceof ChapError
            ? new LoginFailure(loginStatus.authenticationFailure, error.message)
            : error instanceof NegotiationError || error instanceof TextError || error instanceof LayoutError
              ? new LoginFailure(loginStatus.initiatorError, error.message)
              : undefined;
      if (!failure) throw error;
      return { reply: this.refuse(failure.status, failure.message, request) };
    }
  }

  /** The response that completes the login; `statSN` is the session's first. */
  accept(tsih: number, expCmdSN: number, maxCmdSN: number): LoginReply & { statSN: number } {
    const { request, answers } = this.#pending!;
    const reply = this.#reply(request, answers, {
      transit: true,
      nextStage: loginStage.fullFeature,
      tsih,
      expCmdSN,
      maxCmdSN,
    });
    return { ...reply, statSN: this.#statSN };
  }

  /** A response with a failure status. */
  refuse(status: number, failure: string, request: Request | undefined = this.#pending?.request): LoginReply {
    const header = loginResponsePdu.encode({
      versionMax: 0,
      versionActive: 0,
      currentStage: request?.currentStage ?? 0,
      isid: request?.isid ?? Buffer.alloc(6),
      initiatorTaskTag: request?.initiatorTaskTag ?? 0,
      statSN: this.#statSN++ >>> 0,
      expCmdSN: request?.cmdSN ?? 0,
      maxCmdSN: request?.cmdSN ?? 0,
      statusClass: status >> 8,
      statusDetail: status & 0xff,
    });
    return { header, data: Buffer.alloc(0), failure };
  }

  #step(request: Request, data: Buffer): { reply: LoginReply } | { agreement: LoginAgreement } {
    if (++this.#steps > stepsMax)
      throw new LoginFailure(loginStatus.initiatorError, `no end after ${stepsMax} requests`);
    if (this.#first === undefined) this.#begin(request);
    else this.#checkContinuity(request);
    if (request.continue && request.transit)
      throw new LoginFailure(loginStatus.initiatorError, "C and T are set at once");

    this.#textBytes += data.length;
    if (this.#textBytes > textBytesMax) throw new LoginFailure(loginStatus.initiatorError, "too much text");
    this.#text.push(data);
    if (request.continue) return { reply: this.#reply(request, [], {}) };
    const pairs = decodeText(Buffer.concat(this.#text));
    this.#text = [];
    this.#textBytes = 0;

    const rest = this.#takeNames(pairs);
    if (request.currentStage === loginStage.security) return this.#security(request, rest);
    return this.#operational(request, rest);
  }

  #begin(request: Request): void {
    if (request.versionMin > 0) throw new LoginFailure(loginStatus.unsupportedVersion, "no common version");
    if (request.currentStage !== loginStage.security && request.currentStage !== loginStage.operational) {
      throw new LoginFailure(loginStatus.initiatorError, `it begins in stage ${request.currentStage}`);
    }
    this.#first = { ...request, isid: Buffer.from(request.isid) };
    this.#stage = request.currentStage;
    this.#statSN = request.expStatSN;
  }

  #checkContinuity(request: Request): void {
    const first = this.#first!;
    const same = request.isid.equals(first.isid) && request.cid === first.cid && request.tsih === first.tsih;
    if (!same || request.initiatorTaskTag !== first.initiatorTaskTag) {
      throw new LoginFailure(
        loginStatus.invalidDuringLogin,
        "ISID, TSIH, CID or task tag changed during the login",
      );
    }
    if (request.currentStage !== this.#stage) {
      throw new LoginFailure(
        loginStatus.initiatorError,
        `stage ${request.currentStage} where ${this.#stage} was agreed`,
      );
    }
  }

  /**
   * Names and session type come in the first request and in no other: the policy was chosen by them. Whatever is left
   * over is returned.
   */
  #takeNames(pairs: TextPairs): TextPairs {
    const rest: TextPairs = [];
    for (const [key, value] of pairs) {
      if (this.#named && /^(InitiatorName|TargetName|SessionType)$/.test(key))
        throw new LoginFailure(loginStatus.initiatorError, `${key} behind the first request`);
      switch (key) {
        case "InitiatorName":
          if (!nameForm.test(value) || Buffer.byteLength(value) > nameBytesMax)
            throw new LoginFailure(loginStatus.initiatorError, "InitiatorName is no name");
          this.#initiatorName = value.toLowerCase();
          break;
        case "TargetName":
          this.#targetName = value.toLowerCase();
          break;
        case "SessionType":
          if (value !== "Discovery" && value !== "Normal") {
            throw new LoginFailure(loginStatus.sessionTypeNotSupported, `SessionType=${value.slice(0, 40)}`);
          }
          this.#discovery = value === "Discovery";
          break;
        case "InitiatorAlias":
          break;
        default:
          rest.push([key, value]);
      }
    }
    if (!this.#named) this.#checkNames();
    return rest;
  }

  #checkNames(): void {
    this.#named = true;
    this.#greeting = true;
    if (this.#initiatorName === undefined)
      throw new LoginFailure(loginStatus.missingParameter, "InitiatorName is missing");
    if (this.#discovery) this.#targetName = undefined;
    else {
      if (this.#targetName === undefined)
        throw new LoginFailure(loginStatus.missingParameter, "TargetName is missing");
      if (!this.#host.hasTarget(this.#targetName, this.#initiatorName)) {
        throw new LoginFailure(
          loginStatus.notFound,
          `there is no target "${this.#targetName.slice(0, nameBytesMax)}"`,
        );
      }
    }
    this.#policy = this.#host.chapFor(this.#targetName, this.#initiatorName);
    if (this.#policy === undefined) this.#authenticated = true;
  }

  #security(request: Request, pairs: TextPairs): { reply: LoginReply } | { agreement: LoginAgreement } {
    const answers: TextPairs = [];
    const operational: TextPairs = [];
    const chapKeys: TextPairs = [];
    for (const pair of pairs) {
      if (pair[0] === "AuthMethod") answers.push(["AuthMethod", this.#chooseMethod(pair[1])]);
      else if (/^CHAP_.$/.test(pair[0])) chapKeys.push(pair);
      else operational.push(pair);
    }
    if (operational.length > 0) answers.push(...this.#negotiation.receive(operational));
    if (chapKeys.length > 0) {
      if (!this.#chap)
        throw new LoginFailure(loginStatus.initiatorError, "CHAP keys without AuthMethod=CHAP");
      answers.push(...this.#chap.step(chapKeys));
      this.#authenticated = this.#chap.authenticated;
    }
    this.#greet(answers);
    if (!request.transit) return { reply: this.#reply(request, answers, {}) };
    if (!this.#authenticated) {
      // It may go on only once it has proved itself; asking for more is an ordinary answer without T.
      if (answers.length > 0) return { reply: this.#reply(request, answers, {}) };
      throw new LoginFailure(loginStatus.authenticationFailure, "it did not authenticate");
    }
    return this.#transit(request, answers);
  }

  #chooseMethod(offered: string): string {
    if (this.#method !== undefined)
      throw new LoginFailure(loginStatus.initiatorError, "AuthMethod comes a second time");
    this.#method = this.#commonMethod(offered.split(","));
    return this.#method;
  }

  #commonMethod(methods: readonly string[]): string {
    if (this.#policy === undefined) {
      if (methods.includes("None")) return "None";
      throw new LoginFailure(
        loginStatus.authenticationFailure,
        "it wants authentication, and none is configured here",
      );
    }
    if (!methods.includes("CHAP")) {
      throw new LoginFailure(
        loginStatus.authenticationFailure,
        "it does not offer CHAP, which is required here",
      );
    }
    this.#chap = new ChapAuthenticator(this.#policy.initiator, this.#policy.target, this.#host.random);
    return "CHAP";
  }

  #operational(request: Request, pairs: TextPairs): { reply: LoginReply } | { agreement: LoginAgreement } {
    if (!this.#authenticated) {
      throw new LoginFailure(
        loginStatus.authenticationFailure,
        "it skipped the authentication that is required here",
      );
    }
    const answers: TextPairs = [];
    for (const pair of pairs) {
      if (pair[0] === "AuthMethod" || /^CHAP_.$/.test(pair[0])) {
        throw new LoginFailure(loginStatus.initiatorError, "security keys in the operational stage");
      }
    }
    answers.push(...this.#negotiation.receive(pairs));
    this.#greet(answers);
    if (!request.transit) return { reply: this.#reply(request, answers, {}) };
    return this.#transit(request, answers);
  }

  #greet(answers: TextPairs): void {
    if (this.#greeting && !this.#discovery)
      answers.push(["TargetPortalGroupTag", String(this.#host.portalGroupTag)]);
    this.#greeting = false;
  }

  #transit(request: Request, answers: TextPairs): { reply: LoginReply } | { agreement: LoginAgreement } {
    if (request.nextStage <= request.currentStage || request.nextStage === 2) {
      throw new LoginFailure(
        loginStatus.initiatorError,
        `a transition from stage ${request.currentStage} to ${request.nextStage}`,
      );
    }
    this.#stage = request.nextStage;
    if (request.nextStage !== loginStage.fullFeature) {
      return { reply: this.#reply(request, answers, { transit: true, nextStage: request.nextStage }) };
    }
    const first = this.#first!;
    this.#pending = { request, answers };
    return {
      agreement: {
        initiatorName: this.#initiatorName!,
        targetName: this.#targetName,
        isid: first.isid,
        tsih: first.tsih,
        cid: first.cid,
        cmdSN: first.cmdSN,
        parameters: this.#negotiation.finish(),
      },
    };
  }

  #reply(
    request: Request,
    pairs: TextPairs,
    more: { transit?: boolean; nextStage?: number; tsih?: number; expCmdSN?: number; maxCmdSN?: number },
  ): LoginReply {
    const header = loginResponsePdu.encode({
      transit: more.transit ?? false,
      currentStage: request.currentStage,
      nextStage: more.nextStage ?? 0,
      versionMax: 0,
      versionActive: 0,
      isid: request.isid,
      tsih: more.tsih ?? request.tsih,
      initiatorTaskTag: request.initiatorTaskTag,
      statSN: this.#statSN,
      expCmdSN: more.expCmdSN ?? request.cmdSN,
      maxCmdSN: more.maxCmdSN ?? request.cmdSN,
    });
    this.#statSN = (this.#statSN + 1) >>> 0;
    return { header, data: encodeText(pairs), failure: undefined };
  }
}
