// The thread that has the SQLite file open: one connection that writes and one that reads. SQLite waits for the medium in the
// middle of its calls; here nobody else has to wait with it.
//
// Guarantees: one answer for each request, in order. A statement of a transaction that SQLite has ended by itself (a full
// disk) is refused, not carried out alone.
import { DatabaseSync, type SQLInputValue, type StatementSync } from "node:sqlite";
import { parentPort, workerData } from "node:worker_threads";

export type Side = "write" | "read";

export type Request = { readonly id: number } & (
  | { readonly does: "open" | "rollback"; readonly side: Side }
  | { readonly does: "script"; readonly side: Side; readonly text: string }
  | {
      readonly does: "query";
      readonly side: Side;
      readonly text: string;
      readonly parameters: readonly SQLInputValue[];
      readonly within: boolean;
    }
  | { readonly does: "close" }
);

export interface Answer {
  readonly id: number;
  readonly rows: readonly Readonly<Record<string, unknown>>[];
  /** `code` is SQLite's extended result code; 0: Node's own error. */
  readonly failed?: { readonly code: number; readonly message: string };
}

const statementsMax = 32;
const busyMs = 100;

class Connection {
  readonly #database: DatabaseSync;
  readonly #statements = new Map<string, StatementSync>();

  constructor(path: string) {
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

const connections = new Map<Side, Connection>();
const { path } = workerData as { path: string };

function carryOut(request: Request): Answer["rows"] {
  if (request.does === "close") {
    for (const [side, connection] of connections) {
      connections.delete(side);
      connection.close();
    }
    return [];
  }
  if (request.does === "open") {
    connections.set(request.side, new Connection(path));
    return [];
  }
  const connection = connections.get(request.side);
  if (!connection) throw new Error("the database is closed");
  if (request.does === "query") return connection.query(request.text, request.parameters, request.within);
  if (request.does === "script") connection.script(request.text);
  else connection.rollback();
  return [];
}

parentPort?.on("message", (request: Request) => {
  let answer: Answer;
  try {
    answer = { id: request.id, rows: carryOut(request) };
  } catch (error) {
    const { message, errcode = 0 } = error as Error & { errcode?: number };
    answer = { id: request.id, rows: [], failed: { code: errcode, message } };
  }
  parentPort!.postMessage(answer);
});
