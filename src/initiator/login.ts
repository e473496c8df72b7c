// The initiator's side of a login, without a socket: responses in, requests out.
//
// Guarantees: it ends after at most `stepsMax` exchanges, in a result or in an AgentError that says what the target
// refused. With mutual CHAP wanted, no login succeeds whose target did not prove itself. Secrets appear in no message.
//
// Source: RFC 7143, 6.3 (login phase) and 11.12, 11.13.
import { AgentError } from "../base/errors.ts";
import { LayoutError } from "../base/layout.ts";
import { type ChapCredentials, ChapError, ChapResponder } from "../iscsi/chap.ts";
import { describeLoginStatus, loginStage, loginStatus } from "../iscsi/codes.ts";
import { Negotiation, NegotiationError, type Parameters, type Wishes } from "../iscsi/negotiation.ts";
import { loginRequestPdu, loginResponsePdu } from "../iscsi/pdu.ts";
import { decodeText, encodeText, TextError, type TextPairs, textBytesMax } from "../iscsi/text.ts";
import type { Random } from "../platform/random.ts";

export interface LoginOptions {
  /** For messages: the portal and the target, without secrets. */
  readonly peer: string;
  readonly initiatorName: string;
  /** Absent for a discovery session. */
  readonly targetName: string | undefined;
  readonly chap: ChapCredentials | undefined;
  readonly chapTarget: ChapCredentials | undefined;
  readonly wishes: Wishes;
  /** 6 bytes. */
  readonly isid: Buffer;
  readonly random: Random;
}

export interface LoginRequest {
  readonly header: Buffer;
  readonly data: Buffer;
}

export interface LoginResult {
  readonly parameters: Parameters;
  readonly tsih: number;
  readonly statSN: number;
  readonly expCmdSN: number;
  readonly maxCmdSN: number;
  readonly targetPortalGroupTag: string | undefined;
}

const stepsMax = 20;
const taskTag = 0;

/** `TargetAddress` of a redirection. */
export class LoginRedirect extends Error {
  override readonly name = "LoginRedirect";
  readonly address: string;

  constructor(address: string) {
    super(`the target moved to ${address}`);
    this.address = address;
  }
}

export class Login {
  readonly #options: LoginOptions;
  readonly #negotiation: Negotiation;
  readonly #chap: ChapResponder | undefined;
  #stage: number;
  #tsih = 0;
  #expStatSN = 0;
  #steps = 0;
  #statSNKnown = false;
  #text: Buffer[] = [];
  #portalGroupTag: string | undefined;
  #offered = false;

  constructor(options: LoginOptions) {
    this.#options = options;
    this.#negotiation = new Negotiation(options.wishes);
    this.#stage = loginStage.security;
    this.#chap = options.chap && new ChapResponder(options.chap, options.chapTarget, options.random);
  }

  /** The first request. */
  begin(): LoginRequest {
    const { initiatorName, targetName } = this.#options;
    const pairs: TextPairs = [["InitiatorName", initiatorName]];
    if (targetName === undefined) pairs.push(["SessionType", "Discovery"]);
    else pairs.push(["SessionType", "Normal"], ["TargetName", targetName]);
    pairs.push(["AuthMethod", this.#chap ? "CHAP" : "None"]);
    // Without authentication the target may go straight on.
    return this.#request(pairs, this.#chap === undefined, loginStage.operational);
  }

  /**
   * Takes a response. Returns the next request, or the result of a login that succeeded.
   * @throws AgentError `login_refused` or `protocol_error`; LoginRedirect
   */
  step(header: Buffer, data: Buffer): { next: LoginRequest } | { result: LoginResult } {
    try {
      return this.#step(header, data);
    } catch (error) {
      if (error instanceof ChapError) {
        throw this.#refused(`authentication failed: ${error.message}`, error);
      }
      if (error instanceof NegotiationError || error instanceof TextError || error instanceof LayoutError) {
        throw this.#protocolError(error.message, error);
      }
      throw error;
    }
  }

  #refused(what: string, cause?: unknown): AgentError {
    return new AgentError("login_refused", `Cannot log in to ${this.#options.peer}: ${what}`, { cause });
  }

  #protocolError(what: string, cause?: unknown): AgentError {
    return new AgentError("protocol_error", `Cannot log in to ${this.#options.peer}: ${what}`, { cause });
  }

  #step(header: Buffer, data: Buffer): { next: LoginRequest } | { result: LoginResult } {
    if (++this.#steps > stepsMax) throw this.#protocolError(`no end after ${stepsMax} exchanges`);
    const response = loginResponsePdu.decode(header);
    const status = (response.statusClass << 8) | response.statusDetail;
    if (response.statusClass === 1) {
      const address = decodeText(data).find(([key]) => key === "TargetAddress")?.[1];
      if (address === undefined) throw this.#protocolError("a redirection without a TargetAddress");
      throw new LoginRedirect(address);
    }
    if (response.statusClass === 3) {
      throw new AgentError(
        "connection_refused",
        `Cannot log in to ${this.#options.peer}: ${describeLoginStatus(status)}; try again later`,
        { retry: "after_backoff" },
      );
    }
    if (status === loginStatus.authenticationFailure && !this.#chap) {
      throw this.#refused(
        "the target wants authentication; give user and secret as iscsi://user%secret@host/…",
      );
    }
    if (status !== 0) throw this.#refused(describeLoginStatus(status));
    if (response.initiatorTaskTag !== taskTag) throw this.#protocolError("the answer has another task tag");
    if (response.currentStage !== this.#stage) {
      throw this.#protocolError(`the target answered for stage ${response.currentStage}, not ${this.#stage}`);
    }
    if (this.#statSNKnown && response.statSN !== this.#expStatSN) {
      throw this.#protocolError("StatSN is out of order");
    }
    this.#statSNKnown = true;
    this.#expStatSN = (response.statSN + 1) >>> 0;
    this.#tsih = response.tsih;

    this.#text.push(data);
    if (this.#text.reduce((sum, piece) => sum + piece.length, 0) > textBytesMax) {
      throw this.#protocolError(`more than ${textBytesMax} bytes of text`);
    }
    if (response.continue) {
      if (response.transit) throw this.#protocolError("C and T are set at once");
      return { next: this.#request([], false, 0) };
    }
    const pairs = decodeText(Buffer.concat(this.#text));
    this.#text = [];
    const security: TextPairs = [];
    const operational: TextPairs = [];
    for (const pair of pairs) {
      if (/^(AuthMethod|CHAP_.)$/.test(pair[0])) security.push(pair);
      else if (pair[0] === "TargetPortalGroupTag") this.#portalGroupTag = pair[1];
      else if (pair[0] !== "TargetAlias" && pair[0] !== "TargetAddress") operational.push(pair);
    }

    if (this.#stage === loginStage.security) return this.#security(response, security, operational);
    const answers = this.#negotiation.receive(operational);
    if (response.transit) {
      if (response.nextStage !== loginStage.fullFeature)
        throw this.#protocolError("the next stage is not allowed");
      return this.#finish(response);
    }
    return { next: this.#request(answers, answers.length === 0, loginStage.fullFeature) };
  }

  #security(
    response: ReturnType<typeof loginResponsePdu.decode>,
    pairs: TextPairs,
    operational: TextPairs,
  ): { next: LoginRequest } | { result: LoginResult } {
    const method = pairs.find(([key]) => key === "AuthMethod")?.[1];
    if (method === "Reject" || (this.#chap && method === "None")) {
      throw this.#refused(
        this.#chap
          ? "the target does not authenticate by CHAP, which was asked for; leave user and secret out"
          : "the target wants CHAP; give user and secret as iscsi://user%secret@host/…",
      );
    }
    if (method !== undefined && method !== "None" && method !== "CHAP") {
      throw this.#protocolError(`the target chose the authentication method "${method.slice(0, 40)}"`);
    }
    if (!this.#chap && method === "CHAP") {
      throw this.#refused("the target wants CHAP; give user and secret as iscsi://user%secret@host/…");
    }
    if (operational.length > 0) this.#negotiation.receive(operational);
    const chapKeys = pairs.filter(([key]) => key !== "AuthMethod");

    if (response.transit) {
      if (this.#chap && chapKeys.length > 0) this.#chap.step(chapKeys);
      if (this.#chap && !this.#chap.done)
        throw this.#refused("the target did not prove itself (mutual CHAP)");
      if (response.nextStage === loginStage.fullFeature) return this.#finish(response);
      if (response.nextStage !== loginStage.operational)
        throw this.#protocolError("the next stage is not allowed");
      this.#stage = loginStage.operational;
      this.#offered = true;
      return { next: this.#request(this.#negotiation.offers(), true, loginStage.fullFeature) };
    }
    if (!this.#chap) return { next: this.#request([], true, loginStage.operational) };
    const answer = chapKeys.length > 0 ? this.#chap.step(chapKeys) : this.#chap.offer();
    const last = chapKeys.length > 0;
    return { next: this.#request(answer, last, loginStage.operational) };
  }

  #finish(response: ReturnType<typeof loginResponsePdu.decode>): { result: LoginResult } {
    if (this.#chap && !this.#chap.done) throw this.#refused("the target let us in without authentication");
    if (!this.#offered) this.#negotiation.offers(); // a target that skipped the stage keeps the defaults
    return {
      result: {
        parameters: this.#negotiation.finish(),
        tsih: this.#tsih,
        statSN: response.statSN,
        expCmdSN: response.expCmdSN,
        maxCmdSN: response.maxCmdSN,
        targetPortalGroupTag: this.#portalGroupTag,
      },
    };
  }

  #request(pairs: TextPairs, transit: boolean, nextStage: number): LoginRequest {
    const header = loginRequestPdu.encode({
      immediate: true,
      transit,
      currentStage: this.#stage,
      nextStage: transit ? nextStage : 0,
      isid: this.#options.isid,
      tsih: this.#tsih,
      initiatorTaskTag: taskTag,
      cid: 0,
      cmdSN: 1,
      expStatSN: this.#expStatSN,
    });
    return { header, data: encodeText(pairs) };
  }
}
