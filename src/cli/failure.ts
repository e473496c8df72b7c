// How a command ends: the message on standard error (or in the JSON on standard output) and the exit status.
import { AgentError, exitStatus, messageOf, printable } from "../base/errors.ts";

export interface Failure {
  readonly code: string;
  readonly message: string;
  readonly exitStatus: number;
  readonly lba?: number;
}

export function failureOf(error: unknown): Failure {
  if (error instanceof AgentError) {
    return {
      code: error.code,
      message: error.message,
      exitStatus: error.exitStatus,
      ...(error.lba !== undefined && { lba: error.lba }),
      ...error.details,
    };
  }
  return { code: "internal", message: messageOf(error), exitStatus: exitStatus.internal };
}

/** Reports a failure; where `json` is asked for, as an object with `error` alone. Returns the exit status. */
export function reportFailure(error: unknown, json: boolean): number {
  const { exitStatus: code, ...shown } = failureOf(error);
  if (json) process.stdout.write(`${JSON.stringify({ error: shown })}\n`);
  process.stderr.write(`lunsync: ${printable(shown.message)}\n`);
  // A fault of this program: whoever reports it needs to know where.
  if (code === exitStatus.internal && error instanceof Error) process.stderr.write(`${error.stack}\n`);
  return code;
}
