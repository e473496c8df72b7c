// What a session stands between: the connection that it came over, and the target around it.
import type { Semaphore } from "../base/async.ts";
import type { Parameters } from "../iscsi/negotiation.ts";
import type { TextPairs } from "../iscsi/text.ts";
import type { DeviceServer } from "./device-server.ts";
import type { Nexus } from "./nexus.ts";
import type { TargetSession } from "./session.ts";
import type { TargetTask } from "./target-task.ts";

/** The connection, as the session sees it. */
export interface SessionLink {
  send(header: Buffer, data?: readonly Buffer[], onSent?: () => void): void;
  /** Sends what is queued, then closes. */
  finish(why: string): void;
}

/** The target around the session. */
export interface SessionHost {
  readonly deviceServer: DeviceServer;
  /** Memory for data in flight, of all sessions. */
  readonly memory: Semaphore;
  /** Aborts the tasks of all sessions for which `which` is true; resolves when none of them executes any more. */
  abortTasks(which: (session: TargetSession, task: TargetTask) => boolean): Promise<void>;
  /**
   * Closes the connections of these nexuses at once: what they have sent and was not received is gone with them. Resolves when
   * none of their tasks executes any more.
   */
  endNexuses(keys: readonly string[]): Promise<void>;
  /** Closes every connection, after the reply that is queued. */
  dropAll(why: string): void;
  sendTargets(asked: string, session: TargetSession): TextPairs | undefined;
  log(level: "info" | "warning" | "error", message: string): void;
}

export interface SessionStart {
  readonly nexus: Nexus;
  /** Undefined for a discovery session. */
  readonly targetName: string | undefined;
  readonly tsih: number;
  readonly cid: number;
  readonly parameters: Parameters;
  readonly cmdSN: number;
  readonly window: number;
  /** Memory for this connection's data in flight. */
  readonly memory: Semaphore;
}
