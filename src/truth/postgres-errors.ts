// What a PostgreSQL server, or the way to it, says: as this project's errors.
import { AgentError, type ErrorCode, printable, type Retry } from "../base/errors.ts";

/** A statement failed, or the connection under it. */
export class PostgresFailure extends Error {
  override readonly name = "PostgresFailure";
  /** The server's SQLSTATE; undefined: it was not the server that said so. */
  readonly state: string | undefined;

  constructor(cause: unknown) {
    super(cause instanceof Error ? cause.message : String(cause), { cause });
    const { code, severity } = cause as { code?: unknown; severity?: unknown };
    this.state = severity !== undefined && typeof code === "string" ? code : undefined;
  }

  /** The session is over, whatever it was doing. */
  get lost(): boolean {
    return this.state === undefined || /^(08|57P0)/.test(this.state);
  }

  /** Whoever does the same again may have more luck. */
  get contended(): boolean {
    return this.state !== undefined && /^40(001|P01)$/.test(this.state);
  }
}

/** The first that the SQLSTATE begins with counts. */
const kinds: readonly (readonly [string, ErrorCode, Retry, string])[] = [
  [
    "08",
    "connection_lost",
    "after_reconnect",
    "the connection was lost; see whether the server is up, and run again",
  ],
  ["25006", "io_error", "after_backoff", "the server takes no writes; give the address of the primary one"],
  ["28", "login_refused", "never", "the server refused the login; see user and password"],
  ["3D000", "connection_refused", "never", "there is no such database; make it with createdb"],
  ["40", "timeout", "after_backoff", "others write the same; run again"],
  ["42501", "login_refused", "never", 'the user lacks rights; let it own the schema "lunsync", or create it'],
  ["53100", "no_space", "after_backoff", "the server's disk is full; make room there and run again"],
  [
    "53300",
    "connection_refused",
    "after_backoff",
    "the server has too many connections; see max_connections",
  ],
  ["53", "io_error", "after_backoff", "the server lacks memory or the like; see its log"],
  [
    "55P03",
    "timeout",
    "after_backoff",
    "another one is writing the same for too long; run again when that has ended",
  ],
  ["57014", "timeout", "after_backoff", "the server took too long; see its log"],
  ["57P", "connection_lost", "after_reconnect", "the server is going down or coming up; run again"],
  ["58", "io_error", "after_backoff", "the server's medium failed; see its log"],
  ["XX001", "state_damaged", "never", "the server found its data damaged; restore them from a backup"],
  ["XX002", "state_damaged", "never", "the server found an index damaged; see REINDEX in its manual"],
  ["", "internal", "never", "the server refused a statement; this is an error of lunsync"],
];

const unreachable = [
  "ECONNREFUSED",
  "ENOENT",
  "ENOTFOUND",
  "EAI_AGAIN",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "EACCES",
];

/** What was thrown, as an AgentError that says what was attempted. `kept` says what became of the transaction. */
export function agentError(what: string, name: string, error: unknown, kept = "nothing was kept"): unknown {
  if (!(error instanceof PostgresFailure)) return error;
  const state = error.state ?? "08";
  let [, code, retry, found] = kinds.find(([start]) => state.startsWith(start))!;
  if (unreachable.includes((error.cause as { code?: string })?.code ?? "")) {
    code = "connection_refused";
    found = "it can't be reached; see address and port, and whether the server is up";
  }
  const said = `${printable(error.message)}${error.state === undefined ? "" : `, ${error.state}`}`;
  return new AgentError(code, `Cannot ${what}: the truth database ${name}: ${found} (${said}); ${kept}`, {
    cause: error,
    retry,
  });
}
