// The one error class that crosses floors, its codes, and the exit status that each code ends a command with.
//
// A message says what was attempted, on what, what was found and what to do next.

/** Whether repeating the failed action can help, and after what. */
export type Retry = "never" | "after_reconnect" | "after_backoff";

/**
 * Exit statuses of every command; the man page lunsync(1) prints this table.
 * 0 and 1 are results, 2 and up are trouble.
 */
export const exitStatus = {
  equal: 0,
  different: 1,
  usage: 2,
  cannotOpen: 3,
  refused: 4,
  incomplete: 5,
  connection: 6,
  noSpace: 7,
  sourceChanged: 8,
  internal: 70,
  interrupted: 130,
  terminated: 143,
} as const;

/** Stable codes; scripts may rely on them (`--json` prints `error.code`). */
export const errorCodes = {
  usage: exitStatus.usage,
  digest_unknown: exitStatus.usage,
  volume_missing: exitStatus.cannotOpen,
  volume_unreadable: exitStatus.cannotOpen,
  volume_unsuitable: exitStatus.cannotOpen,
  connection_refused: exitStatus.cannotOpen,
  login_refused: exitStatus.cannotOpen,
  volume_in_use: exitStatus.refused,
  volume_mounted: exitStatus.refused,
  volume_same: exitStatus.refused,
  volume_readonly: exitStatus.refused,
  size_mismatch: exitStatus.refused,
  block_size_mismatch: exitStatus.refused,
  identity_mismatch: exitStatus.refused,
  change_too_large: exitStatus.refused,
  not_whole: exitStatus.refused,
  replica_newer: exitStatus.refused,
  split_brain: exitStatus.refused,
  backup_mismatch: exitStatus.refused,
  backup_damaged: exitStatus.cannotOpen,
  state_damaged: exitStatus.cannotOpen,
  medium_error: exitStatus.incomplete,
  io_error: exitStatus.incomplete,
  not_proved: exitStatus.incomplete,
  not_known: exitStatus.incomplete,
  connection_lost: exitStatus.connection,
  protocol_error: exitStatus.connection,
  timeout: exitStatus.connection,
  command_failed: exitStatus.connection,
  no_space: exitStatus.noSpace,
  interrupted: exitStatus.interrupted,
  internal: exitStatus.internal,
} as const;

export type ErrorCode = keyof typeof errorCodes;

export interface AgentErrorOptions {
  retry?: Retry;
  cause?: unknown;
  /** The logical block at which it happened, where one is known. */
  lba?: number;
  /** What else `--json` prints of it. */
  details?: Readonly<Record<string, unknown>>;
}

export class AgentError extends Error {
  override readonly name = "AgentError";
  readonly code: ErrorCode;
  readonly retry: Retry;
  readonly lba: number | undefined;
  readonly details: Readonly<Record<string, unknown>> | undefined;

  constructor(code: ErrorCode, message: string, options: AgentErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.retry = options.retry ?? "never";
    this.lba = options.lba;
    this.details = options.details;
  }

  get exitStatus(): number {
    return errorCodes[this.code];
  }
}

/** Text that a stranger had a part in, as one line that no terminal obeys. */
export const printable = (text: string): string => text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, "\ufffd");

/** The message of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
