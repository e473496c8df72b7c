// The addon's digests of what lies in memory, made at once instead of in its threads: those answer in an order that no
// seed decides. Importing this is enough.
import { hash } from "node:crypto";
import { native } from "../../src/platform/native.ts";

interface Request {
  readonly tag: number;
  readonly program: number;
  readonly bytes: number;
  readonly extentBytes: number;
  readonly output: number;
  readonly values: Uint8Array;
  readonly memory: Uint8Array | undefined;
}

type Deliver = (completions: Float64Array) => void;

const { startIo, identify, compileDigest } = native as unknown as {
  startIo: (deliver: Deliver, threads: number) => void;
  identify: (request: Request) => void;
  compileDigest: (operations: Uint8Array) => { id: number; identifierBytes: number };
};
const [identifiers, sha256Bytes] = [0, 32];
const sha256Programs = new Set<number>();
let deliver: Deliver = () => {};

native.startIo = (answer: Deliver, threads: number) => {
  deliver = answer;
  startIo(answer, threads);
};
native.compileDigest = (operations: Uint8Array) => {
  const program = compileDigest(operations);
  if (operations.length === 1 && program.identifierBytes === sha256Bytes) sha256Programs.add(program.id);
  return program;
};
native.identify = (request: Request) => {
  const { tag, program, bytes, extentBytes, output, values, memory } = request;
  if (!memory || output !== identifiers || !sha256Programs.has(program)) return identify(request);
  let count = 0;
  for (let at = 0; at < bytes; at += extentBytes) {
    const digest = hash("sha256", memory.subarray(at, Math.min(bytes, at + extentBytes)), "buffer");
    values.set(digest, sha256Bytes * count++);
  }
  queueMicrotask(() => deliver(Float64Array.of(tag, count, 0, 0)));
};
