// CHAP, one-way and mutual: the exchange of both sides as pure classes over key=value pairs.
//
// Guarantees: responses are compared in constant time; a challenge of ours that comes back as the peer's is refused
// (reflection), and so is a peer that uses our own secret; secrets appear in no message. Any input ends in an answer
// or a ChapError.
//
// Source: RFC 7143, 12.1.3; RFC 1994; algorithm numbers from IANA's "PPP Authentication Algorithms".
import { createHash, timingSafeEqual } from "node:crypto";
import type { Random } from "../platform/random.ts";
import { formatBinary, parseBinary, parseNumber, type TextPairs } from "./text.ts";

/** The exchange failed; the login ends with an authentication failure. The message names no secret. */
export class ChapError extends Error {
  override readonly name = "ChapError";
}

export interface ChapCredentials {
  readonly name: string;
  readonly secret: string;
}

/** CHAP_A numbers, the strongest first. */
const algorithmHash: Record<number, string> = { 8: "sha3-256", 7: "sha256", 6: "sha1", 5: "md5" };
export const chapAlgorithms = [8, 7, 6, 5] as const;
const challengeBytes = 32;
const challengeBytesMax = 1024;

const responseBytes = (algorithm: number) => createHash(algorithmHash[algorithm]!).digest().length;

function response(algorithm: number, id: number, secret: string, challenge: Buffer): Buffer {
  return createHash(algorithmHash[algorithm]!)
    .update(Buffer.from([id]))
    .update(secret, "utf8")
    .update(challenge)
    .digest();
}

/** The value of a key that must be there. */
function need(pairs: TextPairs, key: string): string {
  const found = pairs.find(([name]) => name === key);
  if (!found) throw new ChapError(`${key} is missing`);
  return found[1];
}

function needChallenge(pairs: TextPairs): { id: number; challenge: Buffer } {
  const id = parseNumber(need(pairs, "CHAP_I"));
  const challenge = parseBinary(need(pairs, "CHAP_C"));
  if (id === undefined || id > 255) throw new ChapError("CHAP_I is no number from 0 to 255");
  if (challenge === undefined || challenge.length < 1 || challenge.length > challengeBytesMax) {
    throw new ChapError(`CHAP_C is no challenge of 1 to ${challengeBytesMax} bytes`);
  }
  return { id, challenge };
}

function checkResponse(
  pairs: TextPairs,
  expected: { algorithm: number; id: number; challenge: Buffer },
  credentials: ChapCredentials,
  own: ChapCredentials | undefined,
): void {
  const name = need(pairs, "CHAP_N");
  const given = parseBinary(need(pairs, "CHAP_R"));
  if (given === undefined || given.length !== responseBytes(expected.algorithm)) {
    throw new ChapError("CHAP_R has the wrong length");
  }
  const answer = (secret: string) => response(expected.algorithm, expected.id, secret, expected.challenge);
  // Both are looked at whatever the name says, so that time tells nothing about names.
  const proved = timingSafeEqual(given, answer(credentials.secret));
  if (own !== undefined && timingSafeEqual(given, answer(own.secret)))
    throw new ChapError("the peer answered with the secret of this side; each direction needs its own");
  if (name !== credentials.name || !proved)
    throw new ChapError(`"${name.slice(0, 64)}" did not prove its secret`);
}

/** The authenticating side's part: the target's; it may have to prove itself as well. */
export class ChapAuthenticator {
  readonly #expected: ChapCredentials;
  readonly #own: ChapCredentials | undefined;
  readonly #random: Random;
  #sent: { algorithm: number; id: number; challenge: Buffer } | undefined;
  #authenticated = false;

  /** `expected`: what the peer must prove; `own`: with what this side answers a challenge, if it can. */
  constructor(expected: ChapCredentials, own: ChapCredentials | undefined, random: Random) {
    this.#expected = expected;
    this.#own = own;
    this.#random = random;
  }

  get authenticated(): boolean {
    return this.#authenticated;
  }

  /** One step: the peer's pairs in, the answer out. @throws ChapError */
  step(pairs: TextPairs): TextPairs {
    if (this.#sent === undefined) {
      const offered = need(pairs, "CHAP_A").split(",").map(parseNumber);
      const algorithm = offered.find((number) => number !== undefined && algorithmHash[number] !== undefined);
      if (algorithm === undefined) throw new ChapError("CHAP_A offers no algorithm that is known here");
      const [id, ...challenge] = this.#random.bytes(1 + challengeBytes);
      this.#sent = { algorithm, id: id!, challenge: Buffer.from(challenge) };
      return [
        ["CHAP_A", String(algorithm)],
        ["CHAP_I", String(id)],
        ["CHAP_C", formatBinary(this.#sent.challenge)],
      ];
    }
    if (this.#authenticated) throw new ChapError("CHAP keys after the exchange was over");
    checkResponse(pairs, this.#sent, this.#expected, this.#own);
    const answers = this.#proveItself(pairs, this.#sent);
    this.#authenticated = true;
    return answers;
  }

  /** The answer to the peer's challenge, if there is one. */
  #proveItself(pairs: TextPairs, sent: { algorithm: number; challenge: Buffer }): TextPairs {
    if (!pairs.some(([key]) => key === "CHAP_I" || key === "CHAP_C")) return [];
    const { id, challenge } = needChallenge(pairs);
    if (challenge.equals(sent.challenge)) throw new ChapError("the challenge was reflected");
    if (this.#own === undefined) throw new ChapError("mutual CHAP is not configured here");
    return [
      ["CHAP_N", this.#own.name],
      ["CHAP_R", formatBinary(response(sent.algorithm, id, this.#own.secret, challenge))],
    ];
  }
}

/** The initiator's part. With `expected` it demands that the target prove itself too. */
export class ChapResponder {
  readonly #own: ChapCredentials;
  readonly #expected: ChapCredentials | undefined;
  readonly #random: Random;
  #sent: { algorithm: number; id: number; challenge: Buffer } | undefined;
  #state: "offered" | "answered" | "done" = "offered";

  constructor(own: ChapCredentials, expected: ChapCredentials | undefined, random: Random) {
    this.#own = own;
    this.#expected = expected;
    this.#random = random;
  }

  /** The first keys to send. */
  offer(): TextPairs {
    return [["CHAP_A", chapAlgorithms.join(",")]];
  }

  /** True once both sides have proved what was wanted. */
  get done(): boolean {
    return this.#state === "done";
  }

  /** One step: the target's pairs in, the answer out. @throws ChapError */
  step(pairs: TextPairs): TextPairs {
    if (this.#state === "offered") {
      const algorithm = parseNumber(need(pairs, "CHAP_A"));
      if (algorithm === undefined || algorithmHash[algorithm] === undefined) {
        throw new ChapError("the target chose a CHAP algorithm that was not offered");
      }
      const { id, challenge } = needChallenge(pairs);
      const answer: TextPairs = [
        ["CHAP_N", this.#own.name],
        ["CHAP_R", formatBinary(response(algorithm, id, this.#own.secret, challenge))],
      ];
      this.#state = "answered";
      if (this.#expected === undefined) {
        this.#state = "done";
        return answer;
      }
      const bytes = this.#random.bytes(1 + challengeBytes);
      this.#sent = { algorithm, id: bytes[0]!, challenge: bytes.subarray(1) };
      answer.push(["CHAP_I", String(this.#sent.id)], ["CHAP_C", formatBinary(this.#sent.challenge)]);
      return answer;
    }
    if (this.#state === "done") throw new ChapError("CHAP keys after the exchange was over");
    checkResponse(pairs, this.#sent!, this.#expected!, this.#own);
    this.#state = "done";
    return [];
  }
}
