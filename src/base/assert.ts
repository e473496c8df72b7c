// Assertions: a broken invariant stops the program, in production too. Bad bytes from a disk or a peer are
// never a broken invariant; they are decoded into values or typed errors.

/** Thrown when the program's own reasoning is wrong. Never caught to go on; restart recovers. */
export class InvariantError extends Error {
  override readonly name = "InvariantError";
}

/** Throws {@link InvariantError} with `message` unless `condition` holds. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new InvariantError(message);
}

/** For the branch that the types exclude. */
export function unreachable(value: never): never {
  throw new InvariantError(`unexpected value ${String(value)}`);
}
