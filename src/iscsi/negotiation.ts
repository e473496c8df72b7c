// Operational parameters: how each key is negotiated, for both roles, as one table and a pure class over it.
//
// Source: RFC 7143, 6.2 (negotiation) and 13 (keys); RFC 7144 for iSCSIProtocolLevel and TaskReporting. The
// responder computes the result; the offering side checks that the answer is one that the rules allow.
import { parseNumber, type TextPairs } from "./text.ts";

/** The peer negotiated what the rules do not allow. */
export class NegotiationError extends Error {
  override readonly name = "NegotiationError";
}

type Rule =
  /** The sender tells, nobody answers. Each direction has its own value. */
  | { readonly kind: "declare"; readonly min: number; readonly max: number; readonly initial: number }
  | { readonly kind: "min" | "max"; readonly min: number; readonly max: number; readonly initial: number }
  | { readonly kind: "and" | "or"; readonly initial: boolean }
  | { readonly kind: "list"; readonly values: readonly string[]; readonly initial: string };

const segmentMax = 0xffffff;

/** Keys of the operational stage. `sessionWide` keys may not change once a session has begun. */
const rules = {
  HeaderDigest: { kind: "list", values: ["CRC32C", "None"], initial: "None" },
  DataDigest: { kind: "list", values: ["CRC32C", "None"], initial: "None" },
  MaxRecvDataSegmentLength: { kind: "declare", min: 512, max: segmentMax, initial: 8192 },
  MaxConnections: { kind: "min", min: 1, max: 65535, initial: 1 },
  InitialR2T: { kind: "or", initial: true },
  ImmediateData: { kind: "and", initial: true },
  MaxBurstLength: { kind: "min", min: 512, max: segmentMax, initial: 262144 },
  FirstBurstLength: { kind: "min", min: 512, max: segmentMax, initial: 65536 },
  MaxOutstandingR2T: { kind: "min", min: 1, max: 65535, initial: 1 },
  DefaultTime2Wait: { kind: "max", min: 0, max: 3600, initial: 2 },
  DefaultTime2Retain: { kind: "min", min: 0, max: 3600, initial: 20 },
  DataPDUInOrder: { kind: "or", initial: true },
  DataSequenceInOrder: { kind: "or", initial: true },
  ErrorRecoveryLevel: { kind: "min", min: 0, max: 2, initial: 0 },
  iSCSIProtocolLevel: { kind: "min", min: 0, max: 31, initial: 1 },
  TaskReporting: { kind: "list", values: ["RFC3720"], initial: "RFC3720" },
  IFMarker: { kind: "and", initial: false },
  OFMarker: { kind: "and", initial: false },
} as const satisfies Record<string, Rule>;

export type OperationalKey = keyof typeof rules;

type ValueOf<R> = R extends { kind: "and" | "or" } ? boolean : R extends { kind: "list" } ? string : number;

/** The outcome; MaxRecvDataSegmentLength is what the *peer* declared, the bound of what may be sent to it. */
export type Parameters = { -readonly [K in OperationalKey]: ValueOf<(typeof rules)[K]> };

/** What one side wants: values for numbers and booleans, a list in order of preference for lists. */
export type Wishes = {
  readonly [K in OperationalKey]?: (typeof rules)[K] extends { kind: "list" }
    ? readonly string[]
    : Parameters[K];
};

/** True for the keys that the operational stage negotiates. */
export const isOperationalKey = (key: string): key is OperationalKey => Object.hasOwn(rules, key);

export const defaultParameters = (): Parameters =>
  Object.fromEntries(Object.entries(rules).map(([key, rule]) => [key, rule.initial])) as Parameters;

const yesNo = (value: boolean) => (value ? "Yes" : "No");

function parseYesNo(key: string, text: string): boolean {
  if (text === "Yes") return true;
  if (text === "No") return false;
  throw new NegotiationError(`${key}=${text.slice(0, 40)} is neither Yes nor No`);
}

function parseInRange(key: string, text: string, rule: { min: number; max: number }): number {
  const value = parseNumber(text);
  if (value === undefined || value < rule.min || value > rule.max) {
    throw new NegotiationError(`${key}=${text.slice(0, 40)} is no number from ${rule.min} to ${rule.max}`);
  }
  return value;
}

/** One connection's negotiation, in either role. Feed it what the peer sends; it gives what to send. */
export class Negotiation {
  readonly parameters: Parameters = defaultParameters();
  readonly #wishes: Wishes;
  readonly #offered = new Map<string, string>();
  /** Keys that the peer has sent: none may come again (6.3). */
  readonly #received = new Set<string>();
  #declared = false;

  constructor(wishes: Wishes) {
    this.#wishes = wishes;
  }

  /** What this side offers of its own accord: every key that it has a wish for. */
  offers(): TextPairs {
    const pairs: TextPairs = [];
    for (const [key, wish] of Object.entries(this.#wishes)) {
      const text = Array.isArray(wish)
        ? wish.join(",")
        : typeof wish === "boolean"
          ? yesNo(wish)
          : String(wish);
      pairs.push([key, text]);
      this.#offered.set(key, text);
      if (key === "MaxRecvDataSegmentLength") this.#declared = true;
    }
    return pairs;
  }

  /**
   * Takes the peer's keys. Returns the answers that are due: nothing for answers to our offers and declarations.
   * Unknown keys are answered NotUnderstood, as the RFC wants; a key that comes a second time is refused.
   * @throws NegotiationError
   */
  receive(pairs: TextPairs): TextPairs {
    const answers: TextPairs = [];
    for (const [key, text] of pairs) {
      if (!isOperationalKey(key)) {
        if (text === "NotUnderstood") continue;
        answers.push([key, "NotUnderstood"]);
        continue;
      }
      if (this.#received.has(key)) throw new NegotiationError(`${key} comes a second time`);
      this.#received.add(key);
      const answer = this.#offered.has(key) ? this.#takeAnswer(key, text) : this.#answer(key, text);
      if (answer !== undefined) answers.push([key, answer]);
    }
    if (answers.length > 0 || pairs.length > 0) {
      const own = this.#wishes.MaxRecvDataSegmentLength;
      if (!this.#declared && own !== undefined) {
        answers.push(["MaxRecvDataSegmentLength", String(own)]);
        this.#declared = true;
      }
    }
    return answers;
  }

  /** Called when the stage ends: what belongs together is made to fit. */
  finish(): Parameters {
    const all = this.parameters;
    if (all.FirstBurstLength > all.MaxBurstLength) all.FirstBurstLength = all.MaxBurstLength;
    return all;
  }

  #set(key: OperationalKey, value: string | number | boolean): void {
    (this.parameters as Record<string, string | number | boolean>)[key] = value;
  }

  #answer(key: OperationalKey, text: string): string | undefined {
    const rule: Rule = rules[key];
    switch (rule.kind) {
      case "declare":
        this.#set(key, parseInRange(key, text, rule));
        return undefined;
      case "min":
      case "max": {
        const theirs = parseInRange(key, text, rule);
        const ours = (this.#wishes[key] as number | undefined) ?? rule.initial;
        const result = rule.kind === "min" ? Math.min(theirs, ours) : Math.max(theirs, ours);
        this.#set(key, result);
        return String(result);
      }
      case "and":
      case "or": {
        const theirs = parseYesNo(key, text);
        const ours = (this.#wishes[key] as boolean | undefined) ?? rule.initial;
        const result = rule.kind === "and" ? theirs && ours : theirs || ours;
        this.#set(key, result);
        return yesNo(result);
      }
      case "list": {
        const ours = (this.#wishes[key] as readonly string[] | undefined) ?? [rule.initial];
        const chosen = text.split(",").find((value) => ours.includes(value));
        if (chosen === undefined) return "Reject";
        this.#set(key, chosen);
        return chosen;
      }
    }
  }

  #takeAnswer(key: OperationalKey, text: string): string | undefined {
    const rule: Rule = rules[key];
    const offered = this.#offered.get(key)!;
    const improper = () =>
      new NegotiationError(`the peer answered ${key}=${text.slice(0, 40)} to the offer ${key}=${offered}`);
    if (rule.kind === "declare") {
      // Declarations go in both directions; the peer's is no answer to ours.
      this.#set(key, parseInRange(key, text, rule));
      return undefined;
    }
    if (text === "NotUnderstood" || text === "Irrelevant" || text === "Reject") {
      // What was not agreed upon stays at its default (6.2.2).
      if (text === "Reject" && rule.kind === "list" && !offered.split(",").includes(rule.initial))
        throw improper();
      return undefined;
    }
    switch (rule.kind) {
      case "min":
      case "max": {
        const value = parseInRange(key, text, rule);
        if (rule.kind === "min" ? value > Number(offered) : value < Number(offered)) throw improper();
        this.#set(key, value);
        break;
      }
      case "and":
      case "or": {
        const value = parseYesNo(key, text);
        const ours = offered === "Yes";
        if (rule.kind === "and" ? value && !ours : !value && ours) throw improper();
        this.#set(key, value);
        break;
      }
      case "list":
        if (!offered.split(",").includes(text)) throw improper();
        this.#set(key, text);
        break;
    }
    return undefined;
  }
}
