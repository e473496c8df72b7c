// An iSCSI target: its portals, its sessions, and the device server behind them.
//
// Guarantees: a session of the same initiator port replaces the older one only after the older one's tasks have ended
// (session reinstatement, RFC 7143, 6.3.5); connections and memory are bounded; stop() leaves no command executing.
import { createServer, type Server, type Socket } from "node:net";
import { Semaphore } from "../base/async.ts";
import { AgentError } from "../base/errors.ts";
import { MiB } from "../base/units.ts";
import { loginStatus } from "../iscsi/codes.ts";
import type { Crc32c } from "../iscsi/framing.ts";
import type { Wishes } from "../iscsi/negotiation.ts";
import type { TextPairs } from "../iscsi/text.ts";
import type { Clock } from "../platform/clock.ts";
import type { Random } from "../platform/random.ts";
import { AccessPolicy, type Rights } from "./access.ts";
import { type ConnectionHost, receiveSegmentBytes, TargetConnection } from "./connection.ts";
import type { DeviceServer } from "./device-server.ts";
import type { ChapPolicy, LoginAgreement } from "./login.ts";
import { nexusKey } from "./nexus.ts";
import { RefusalLog } from "./refusal-log.ts";
import { TargetSession } from "./session.ts";
import type { SessionHost } from "./session-host.ts";
import type { TargetTask } from "./target-task.ts";

export interface TargetOptions {
  readonly deviceServer: DeviceServer;
  /** What initiators have to prove; nothing if absent. */
  readonly chap?: ChapPolicy | undefined;
  /** Who may log in, from where, and what he may do; everybody everything if absent. */
  readonly access?: AccessPolicy | undefined;
  readonly clock: Clock;
  readonly random: Random;
  readonly crc32c: Crc32c;
  readonly log: (level: "info" | "warning" | "error", message: string) => void;
}

const noRights: Rights = { writes: false, digests: false };
const memoryBytes = 64 * MiB;
const connectionMemoryBytes = 16 * MiB;
const sessionsMax = 256;
/** Connections that have not logged in. When there are more, the oldest of them has to go. */
const strangersMax = 128;
const commandsMax = 512;
const windowMin = 4;
const windowMax = 64;

const wishes: Wishes = {
  HeaderDigest: ["None", "CRC32C"],
  DataDigest: ["None", "CRC32C"],
  MaxRecvDataSegmentLength: receiveSegmentBytes,
  MaxConnections: 1,
  InitialR2T: false,
  ImmediateData: true,
  MaxBurstLength: MiB,
  FirstBurstLength: 128 * 1024,
  MaxOutstandingR2T: 1,
  DefaultTime2Wait: 0,
  DefaultTime2Retain: 0,
  DataPDUInOrder: true,
  DataSequenceInOrder: true,
  ErrorRecoveryLevel: 0,
};

export class IscsiTarget {
  readonly #options: TargetOptions;
  readonly #servers: Server[] = [];
  readonly #connections = new Set<TargetConnection>();
  /** Those of them that have not logged in, the oldest first. */
  readonly #strangers = new Set<TargetConnection>();
  readonly #access: AccessPolicy;
  readonly #refusals: RefusalLog;
  readonly #sessions = new Map<TargetSession, TargetConnection>();
  /** Sessions whose connection is gone while commands of theirs still execute. */
  readonly #ending = new Set<TargetSession>();
  readonly #connectionHost: ConnectionHost;
  readonly #sessionHost: SessionHost;
  /** Logins of one initiator port, one after another. */
  readonly #begins = new Map<string, Promise<unknown>>();
  #nextTsih = 1;
  #stopping = false;

  constructor(options: TargetOptions) {
    this.#options = options;
    const { deviceServer, chap, clock, random, crc32c, log } = options;
    const { targetName, portalGroupTag } = deviceServer.names;
    this.#access = options.access ?? new AccessPolicy();
    this.#refusals = new RefusalLog(clock, log);
    this.#connectionHost = {
      login: {
        hasTarget: (name, initiatorName) =>
          name === targetName.toLowerCase() && this.#access.rightsOf(initiatorName) !== undefined,
        chapFor: () => chap,
        wishes,
        portalGroupTag,
        random,
      },
      clock,
      crc32c,
      begin: (agreement, link) => this.#begin(agreement, link),
      ended: (connection, session) => this.#ended(connection, session),
      refused: (message) => this.#refusals.add("warning", message),
      log,
    };
    this.#sessionHost = {
      deviceServer,
      memory: new Semaphore(memoryBytes),
      abortTasks: (which) => this.#abortTasks(which),
      endNexuses: (keys) => this.#endNexuses(keys, "it was preempted, and its commands aborted"),
      dropAll: (why) => {
        for (const connection of [...this.#connections]) connection.finish(why);
      },
      sendTargets: (asked, session) => this.#sendTargets(asked, session),
      log,
    };
  }

  /** Begins to listen. Returns the port, which the system chooses for 0. @throws AgentError `connection_refused` */
  async listen(host: string, port: number): Promise<number> {
    const server = createServer({ pauseOnConnect: true }, (socket) => this.#accept(socket));
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen({ host, port }, resolve);
    }).catch((cause: Error) => {
      throw new AgentError("connection_refused", `Cannot listen on ${host}:${port}: ${cause.message}`, {
        cause,
      });
    });
    this.#servers.push(server);
    return (server.address() as { port: number }).port;
  }

  /** Takes no more connections, closes those there are, and waits until nothing executes. */
  async stop(): Promise<void> {
    this.#stopping = true;
    for (const server of this.#servers) server.close();
    for (const connection of [...this.#connections]) connection.close("the target is stopping");
    await Promise.all([...this.#ending].map((session) => session.ended()));
    await this.#options.deviceServer.stop();
  }

  #accept(socket: Socket): void {
    if (this.#stopping || !this.#access.admits(socket.remoteAddress)) {
      if (!this.#stopping)
        this.#refusals.add("warning", `refused ${socket.remoteAddress}: its address is not allowed`);
      socket.destroy();
      return;
    }
    const connection = new TargetConnection(socket, this.#connectionHost);
    this.#connections.add(connection);
    this.#strangers.add(connection);
    if (this.#strangers.size > strangersMax) {
      const [oldest] = this.#strangers;
      oldest!.close(`more than ${strangersMax} connections have not logged in`);
    }
  }

  async #begin(
    agreement: LoginAgreement,
    link: TargetConnection,
  ): Promise<TargetSession | { status: number; why: string }> {
    const { initiatorName, targetName, isid, parameters } = agreement;
    // A discovery session is no nexus with the target, so it replaces none (RFC 7143, 6.3.5).
    const key = `${nexusKey(initiatorName, isid)}${targetName === undefined ? ",discovery" : ""}`;
    // An initiator without rights may ask for targets; it is told of none.
    const rights = this.#access.rightsOf(initiatorName) ?? noRights;
    const nexus = { key, initiatorName, rights, from: link.peer };
    if (
      this.#sessions.size >= sessionsMax &&
      ![...this.#sessions.keys()].some((each) => each.nexus.key === key)
    ) {
      return { status: loginStatus.outOfResources, why: `there are ${sessionsMax} sessions already` };
    }
    if (agreement.tsih !== 0) {
      const known = [...this.#sessions.keys()].some(
        (session) => session.start.tsih === agreement.tsih && session.nexus.key === nexus.key,
      );
      return known
        ? { status: loginStatus.tooManyConnections, why: "a session has one connection here" }
        : { status: loginStatus.sessionDoesNotExist, why: `there is no session with TSIH ${agreement.tsih}` };
    }
    // Two logins of one port at the same time take their turns: the later one replaces the earlier.
    const before = this.#begins.get(nexus.key);
    const turn = (async () => {
      await before;
      await this.#endNexuses([nexus.key], "its initiator logged in again");
    })();
    this.#begins.set(nexus.key, turn);
    await turn;
    if (this.#begins.get(nexus.key) === turn) this.#begins.delete(nexus.key);
    const window = Math.floor(commandsMax / (this.#sessions.size + 1));
    const session = new TargetSession(
      {
        nexus,
        targetName,
        tsih: this.#tsih(),
        cid: agreement.cid,
        parameters,
        cmdSN: agreement.cmdSN,
        window: Math.max(windowMin, Math.min(windowMax, window)),
        memory: new Semaphore(connectionMemoryBytes),
      },
      this.#sessionHost,
      link,
    );
    this.#sessions.set(session, link);
    this.#strangers.delete(link);
    if (targetName !== undefined) this.#options.deviceServer.nexusBegan(nexus);
    return session;
  }

  async #endNexuses(keys: readonly string[], why: string): Promise<void> {
    for (const [session, connection] of [...this.#sessions]) {
      if (keys.includes(session.nexus.key)) connection.close(why);
    }
    // Also one whose connection was gone before: what it still writes must not overtake what comes now.
    const old = [...this.#ending].filter((session) => keys.includes(session.nexus.key));
    await Promise.all(old.map((session) => session.ended()));
  }

  #tsih(): number {
    const tsih = this.#nextTsih;
    this.#nextTsih = tsih === 0xffff ? 1 : tsih + 1;
    return tsih;
  }

  #ended(connection: TargetConnection, session: TargetSession | undefined): void {
    this.#connections.delete(connection);
    this.#strangers.delete(connection);
    if (!session || !this.#sessions.delete(session)) return;
    if (session.start.targetName !== undefined) this.#options.deviceServer.nexusEnded(session.nexus);
    this.#ending.add(session);
    void session.ended().then(() => this.#ending.delete(session));
  }

  async #abortTasks(which: (session: TargetSession, task: TargetTask) => boolean): Promise<void> {
    const settled: Promise<void>[] = [];
    for (const session of [...this.#sessions.keys(), ...this.#ending]) {
      for (const task of session.tasks.all()) {
        if (!which(session, task)) continue;
        settled.push(task.settled);
        session.tasks.abort(task);
      }
    }
    await Promise.all(settled);
  }

  #sendTargets(asked: string, session: TargetSession): TextPairs | undefined {
    const { targetName, portalGroupTag } = this.#options.deviceServer.names;
    const discovery = session.start.targetName === undefined;
    const wanted =
      asked === "" ? (discovery ? undefined : targetName) : asked === "All" && discovery ? targetName : asked;
    if (wanted === undefined || asked === "All") {
      if (!discovery) return undefined;
    }
    if (wanted?.toLowerCase() !== targetName.toLowerCase()) return [];
    if (!this.#access.rightsOf(session.nexus.initiatorName)) return [];
    const { localAddress, localPort } = this.#sessions.get(session)!.socket;
    const host = localAddress!.includes(":") ? `[${localAddress}]` : localAddress;
    return [
      ["TargetName", targetName],
      ["TargetAddress", `${host}:${localPort},${portalGroupTag}`],
    ];
  }
}
