// The thread that has the SQLite file open. SQLite waits for the medium in the middle of its calls; here nobody else has to
// wait with it.
//
// Guarantees: one answer for each request, in order.
import { parentPort, workerData } from "node:worker_threads";
import { type Answer, failureOf, SqliteConnections, type Work } from "./sqlite-connections.ts";

export type Request = Work & { readonly id: number };
export type Reply = Answer & { readonly id: number };

const busyMs = 100;
const { path } = workerData as { path: string };
const connections = new SqliteConnections(path, busyMs);

parentPort?.on("message", (request: Request) => {
  let answer: Answer;
  try {
    answer = { rows: connections.carryOut(request) };
  } catch (error) {
    answer = { rows: [], failed: failureOf(error) };
  }
  parentPort!.postMessage({ ...answer, id: request.id } satisfies Reply);
});
