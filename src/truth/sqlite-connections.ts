// The SQLite file, open: one connection that writes and one that reads, in the thread that calls.
//
// Guarantees: a statement of a transaction that SQLite has ended by itself (a full disk) is refused, not carried out alone.
import { DatabaseSync, type SQLInputValue, type StatementSync } from "node:sqlite";

export type Side = "write" | "read";

export type Work =
  | { readonly does: "open" | "rollback"; readonly side: Side }
  | { readonly does: "script"; readonly side: Side; readonly text: string }
  | {
      readonly does: "query";
      readonly side: Side;
      readonly text: string;
      readonly parameters: readonly SQLInputValue[];
      readonly within: boolean;
    }
  | { readonly does: "close" };

/** `code` is SQLite's extended result code; 0: Node's own error. */
export interface Failed {
  readonly code: number;
  readonly message: string;
}

export interface Answer {
  readonly rows: readonly Readonly<Record<string, unknown>>[];
  readonly failed?: Failed;
}

/** What was thrown, in words that cross threads. */
export function failureOf(error: unknown): Failed {
  const { message, errcode = 0 } = error as Error & { errcode?: number };
  return { code: errcode, message };
}

const statementsMax = 32;

class Connection {
  readonly #database: DatabaseSync;
  readonly #statements = new Map<string, StatementSync>();

  constructor(path: string, busyMs: number) {
    this.#database = new DatabaseSync(path, {
      timeout: busyMs,
      enableForeignKeyConstraints: true,
      enableDoubleQuotedStringLiterals: false,
      defensive: true,
    });
  }

  query(text: string, parameters: readonly SQLInputValue[], within: boolean): Answer["rows"] {
    if (within && !this.#database.isTransaction) throw new Error("SQLite has ended the transaction");
    let statement = this.#statements.get(text);
    if (statement) this.#statements.delete(text);
    else {
      statement = this.#database.prepare(text);
      const [oldest] = this.#statements.keys();
      if (this.#statements.size >= statementsMax) this.#statements.delete(oldest!);
    }
    this.#statements.set(text, statement);
    return statement.all(Object.fromEntries(parameters.map((value, i) => [`$${i + 1}`, value])));
  }

  script(text: string): void {
    this.#database.exec(text);
  }

  rollback(): void {
    if (this.#database.isTransaction) this.#database.exec("rollback");
  }

  close(): void {
    this.#statements.clear();
    this.#database.close();
  }
}

export class SqliteConnections {
  readonly #path: string;
  /** How long SQLite itself waits for another process. */
  readonly #busyMs: number;
  readonly #open = new Map<Side, Connection>();

  constructor(path: string, busyMs: number) {
    this.#path = path;
    this.#busyMs = busyMs;
  }

  /** @throws what SQLite throws, with its `errcode` */
  carryOut(request: Work): Answer["rows"] {
    if (request.does === "close") {
      for (const [side, connection] of this.#open) {
        this.#open.delete(side);
        connection.close();
      }
      return [];
    }
    if (request.does === "open") {
      this.#open.set(request.side, new Connection(this.#path, this.#busyMs));
      return [];
    }
    const connection = this.#open.get(request.side);
    if (!connection) throw new Error("the database is closed");
    if (request.does === "query") return connection.query(request.text, request.parameters, request.within);
    if (request.does === "script") connection.script(request.text);
    else connection.rollback();
    return [];
  }
}
