// Digest specifications: what identifies an extent.
//
//   spec := term { "+" term }        both values together (mission row D3)
//   term := name | name "(" spec ")"  a digest of a digest (D4)
//
// `sha256`, `crc32c+md5`, `crc32c(md5)`, `sha256(crc64+md5)`. Names are lower case; blanks are not significant.
// The compiled form is the postfix program that the addon runs.
import { AgentError } from "../base/errors.ts";
import { compileDigest, type DigestProgram } from "../platform/block-file.ts";
import { digestMessages } from "../platform/native-digest.ts";

/** In the order of the addon's Algorithm numbers; bytes of one digest. */
export const algorithms = [
  { name: "md5", bytes: 16 },
  { name: "sha1", bytes: 20 },
  { name: "sha256", bytes: 32 },
  { name: "sha512", bytes: 64 },
  { name: "crc32c", bytes: 4 },
  { name: "crc64", bytes: 8 },
] as const;

export type AlgorithmName = (typeof algorithms)[number]["name"];

export type DigestTree =
  | { readonly kind: "digest"; readonly algorithm: AlgorithmName; readonly of: DigestTree | undefined }
  | { readonly kind: "combined"; readonly parts: readonly DigestTree[] };

const opConcat = 0x10;
const opHash = 0x20;
const depthMax = 8;
const textMax = 200;

export const defaultDigest = "sha256";

class Parser {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text.replace(/\s+/g, "").toLowerCase();
  }

  parse(): DigestTree {
    if (this.#text.length > textMax) throw this.#error("is too long");
    const tree = this.#spec(0);
    if (this.#at < this.#text.length) throw this.#error(`has something unexpected at "${this.#rest()}"`);
    return tree;
  }

  #rest(): string {
    return this.#text.slice(this.#at);
  }

  #error(what: string): AgentError {
    const names = algorithms.map((algorithm) => algorithm.name).join(", ");
    return new AgentError(
      "digest_unknown",
      `The digest specification "${this.#text}" ${what}; digests are ${names}, ` +
        "combined as crc32c+md5 or composed as crc32c(md5)",
    );
  }

  #spec(depth: number): DigestTree {
    const parts = [this.#term(depth)];
    while (this.#text[this.#at] === "+") {
      this.#at++;
      parts.push(this.#term(depth));
    }
    return parts.length === 1 ? parts[0]! : { kind: "combined", parts };
  }

  #term(depth: number): DigestTree {
    if (depth > depthMax) throw this.#error("is nested too deeply");
    const name = /^[a-z0-9]*/.exec(this.#rest())![0];
    const algorithm = algorithms.find((candidate) => candidate.name === name);
    if (!algorithm) throw this.#error(name === "" ? "lacks a name" : `names an unknown digest "${name}"`);
    this.#at += name.length;
    if (this.#text[this.#at] !== "(") return { kind: "digest", algorithm: algorithm.name, of: undefined };
    this.#at++;
    const of = this.#spec(depth + 1);
    if (this.#text[this.#at] !== ")") throw this.#error('lacks a ")"');
    this.#at++;
    return { kind: "digest", algorithm: algorithm.name, of };
  }
}

function textOf(tree: DigestTree): string {
  if (tree.kind === "combined") return tree.parts.map(textOf).join("+");
  return tree.of === undefined ? tree.algorithm : `${tree.algorithm}(${textOf(tree.of)})`;
}

function operationsOf(tree: DigestTree): number[] {
  if (tree.kind === "combined") {
    return tree.parts.flatMap((part, i) => [...operationsOf(part), ...(i === 0 ? [] : [opConcat])]);
  }
  const number = algorithms.findIndex((algorithm) => algorithm.name === tree.algorithm);
  return tree.of === undefined ? [number] : [...operationsOf(tree.of), opHash | number];
}

function bytesOf(tree: DigestTree): number {
  if (tree.kind === "combined") return tree.parts.reduce((sum, part) => sum + bytesOf(part), 0);
  return algorithms.find((algorithm) => algorithm.name === tree.algorithm)!.bytes;
}

/** A parsed specification. Two specifications with the same canonical text identify extents the same way. */
export interface DigestSpec {
  /** Canonical text. */
  readonly text: string;
  readonly tree: DigestTree;
  /** Bytes of one identifier. */
  readonly identifierBytes: number;
}

/** @throws AgentError `digest_unknown` */
export function parseDigestSpec(text: string): DigestSpec {
  const tree = new Parser(text).parse();
  const identifierBytes = bytesOf(tree);
  const spec = { text: textOf(tree), tree, identifierBytes };
  if (identifierBytes > 1024 || operationsOf(tree).length > 64) {
    throw new AgentError(
      "digest_unknown",
      `The digest specification "${spec.text}" combines too many digests`,
    );
  }
  return spec;
}

const programs = new Map<string, DigestProgram>();

/** The addon's program for a specification; compiled once for each canonical text. */
export function programOf(spec: DigestSpec): DigestProgram {
  let program = programs.get(spec.text);
  if (!program) {
    program = compileDigest(Uint8Array.from(operationsOf(spec.tree)));
    programs.set(spec.text, program);
  }
  return program;
}

/** The identifier of a message in memory, at once: for short ones. */
export function identifierOf(spec: DigestSpec, message: Uint8Array): Buffer {
  return evaluated(spec.tree, message);
}

function evaluated(tree: DigestTree, message: Uint8Array): Buffer {
  if (tree.kind === "combined") return Buffer.concat(tree.parts.map((part) => evaluated(part, message)));
  const input = tree.of === undefined ? message : evaluated(tree.of, message);
  const number = algorithms.findIndex((algorithm) => algorithm.name === tree.algorithm);
  return digestMessages(number, null, [input], sliceBytes);
}

/** How much of a message the kernel is fed at once; a multiple of 128. */
const sliceBytes = 65_536;

/**
 * The specifications that a target of ours offers, in the order of their DIGEST numbers: every digest alone,
 * every pair combined (in either order), every digest of a digest.
 */
export const offeredDigests: readonly DigestSpec[] = (() => {
  const names = algorithms.map((algorithm) => algorithm.name);
  const pairs = names.flatMap((first) =>
    names.filter((second) => second !== first).map((s) => `${first}+${s}`),
  );
  const composed = names.flatMap((outer) => names.map((inner) => `${outer}(${inner})`));
  return [...names, ...pairs, ...composed].map(parseDigestSpec);
})();
