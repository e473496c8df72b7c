// The target under fuzzing: initiators that keep the rules, initiators that don't, and logins of every kind.
//
// What must hold, whatever they do: nobody sees or changes a byte of a LUN that is not there for him, the session of
// somebody else goes on undisturbed, rules that are kept are answered by the rules, no fault is logged, memory is
// bounded, and nobody gets in without the secret.
import { readFile } from "node:fs/promises";
import { AgentError } from "../../src/base/errors.ts";
import { Catalogue } from "../../src/catalogue/catalogue.ts";
import { CataloguedVolume } from "../../src/catalogue/catalogued-volume.ts";
import { TreeShape } from "../../src/catalogue/shape.ts";
import { parseDigestSpec } from "../../src/digest/spec.ts";
import * as codes from "../../src/iscsi/codes.ts";
import type { Pdu } from "../../src/iscsi/framing.ts";
import * as wire from "../../src/iscsi/pdu.ts";
import { encodeText, type TextPairs } from "../../src/iscsi/text.ts";
import { systemClock } from "../../src/platform/clock.ts";
import { systemRandom } from "../../src/platform/random.ts";
import { read10 } from "../../src/scsi/sbc-commands.ts";
import { AccessPolicy, parseInitiatorRule } from "../../src/target/access.ts";
import type { Volume } from "../../src/volume/volume.ts";
import { below, bytesOf, oneOf, randomOf } from "../support/data.ts";
import { memoryWhole } from "../support/memory-journal.ts";
import { memoryHistories, memoryStorage } from "../support/memory-storage.ts";
import { RawInitiator } from "../support/raw-initiator.ts";
import { TestTarget, targetName } from "../support/target.ts";
import { CheckedSession, demand, type SessionLimits } from "./checked-session.ts";
import { commandOf, type Surroundings } from "./commands.ts";
import { chance, damage, damaged, type Random, reshaped } from "./mutate.ts";

const MiB = 1024 * 1024;
const blockBytes = 512;
const blocks = 1024;
const lun = (number: number) => BigInt(number) << 48n;

/** LUN 1 is the canaries'; nobody else has it. */
const names = {
  canary: "iqn.2026-11.com.example:canary",
  orderly: "iqn.2026-11.com.example:orderly",
  wild: "iqn.2026-11.com.example:wild",
};
const luns = { canary: [1], orderly: [2, 3], wild: [0, 4] };

/** Catalogues of extents of eight blocks, and histories, in memory. */
async function catalogued(volume: Volume): Promise<Volume> {
  const extentBlocks = 8;
  const extents = blocks / extentBlocks;
  const digest = parseDigestSpec("sha256");
  const storage = memoryStorage(new TreeShape(extents, digest.identifierBytes).fileBytes);
  const catalogue = new Catalogue(storage, extents, extentBlocks * blockBytes, digest, systemClock);
  const made = new CataloguedVolume(volume, catalogue, {
    extentBlocks,
    random: systemRandom,
    histories: await memoryHistories(extents),
    discard: async () => {},
    grow: async () => {},
    log: () => {},
  });
  await made.digest(0, extents);
  await catalogue.believe(catalogue.ready(0).whole, () => made.flush());
  return made;
}

/** The volume, which the disk has no room for beyond `most` blocks: what else grows would fill the machine's. */
function bounded(volume: Volume, most: number): Volume {
  return new Proxy(volume, {
    get(target, property) {
      if (property === "grow") {
        return async (wanted: number) => {
          if (wanted > most) throw new AgentError("no_space", "the disk is full");
          await target.grow!(wanted);
        };
      }
      const value: unknown = Reflect.get(target, property, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

export class FuzzedTarget implements AsyncDisposable {
  readonly target: TestTarget;
  /** Another one, which asks for a secret. */
  readonly guarded: TestTarget;
  /** What LUN 1 is full of, and nobody may see. */
  readonly secret: Buffer;
  readonly #canaries: Buffer;
  readonly #healthy: RawInitiator;

  private constructor(target: TestTarget, guarded: TestTarget, canaries: Buffer, healthy: RawInitiator) {
    this.target = target;
    this.guarded = guarded;
    this.#canaries = canaries;
    this.secret = canaries.subarray(0, 16);
    this.#healthy = healthy;
  }

  static async start(): Promise<FuzzedTarget> {
    const random = randomOf(1);
    const secret = bytesOf(random, 16);
    const canaries = Buffer.alloc(blocks * blockBytes, secret);
    const plain = () => Buffer.alloc(blocks * blockBytes, below(random, 256));
    const rules = Object.entries(luns).map(
      ([who, list]) =>
        parseInitiatorRule(
          `${names[who as keyof typeof names]}${list.map((each) => `,lun=${each}`).join("")}`,
        )!,
    );
    const target = await TestTarget.serving([plain(), canaries, plain(), plain(), plain()], {
      access: new AccessPolicy(rules),
      wrap: async (volume, lun) => {
        const small = bounded(volume, 2 * blocks);
        const kept = lun >= 3 ? await memoryWhole(small, () => systemClock.nowMs()) : small;
        return lun === 2 || lun === 4 ? catalogued(kept) : kept;
      },
    });
    const guarded = await TestTarget.serving([canaries], {
      chap: {
        initiator: { name: "agent", secret: "correct horse battery" },
        target: { name: "disks", secret: "staple the other way" },
      },
    });
    const isid = Buffer.from("80cccccccccc", "hex");
    const healthy = await RawInitiator.login(target.port, targetName, [], isid, names.canary);
    await healthy.settle(lun(1));
    return new FuzzedTarget(target, guarded, canaries, healthy);
  }

  surroundings(who: "orderly" | "wild"): Surroundings {
    // Also the hidden one's name is known to attackers.
    const designators = [...luns[who], 1].map((each) => this.target.units[each]!.naa);
    const ports = [`${names[who]},i,0x800102030405`, `${names.canary},i,0x80cccccccccc`, names.wild];
    const uuids = [...luns[who], 1].map((each) => this.target.units[each]!.uuid);
    return { blockBytes, blocks, designators, uuids, ports };
  }

  /** What must hold after every case. */
  async check(): Promise<void> {
    const read = read10.encode({ logicalBlockAddress: 7, transferLength: 3 });
    const { status, dataIn, sense } = await this.#healthy.command(read, 3 * blockBytes, undefined, lun(1));
    demand(status === 0, () => `the session of somebody else was disturbed: ${JSON.stringify(sense)}`);
    demand(
      dataIn.equals(this.#canaries.subarray(7 * blockBytes, 10 * blockBytes)),
      () => "another's data is wrong",
    );
    for (const { log } of [this.target, this.guarded]) {
      const faults = log.splice(0).filter((line) => line.startsWith("error"));
      demand(faults.length === 0, () => faults.join("\n"));
    }
  }

  /** What must hold in the end, and takes longer to look at. */
  async checkAll(): Promise<void> {
    await this.check();
    const file = await readFile(this.target.files[1]!);
    demand(file.equals(this.#canaries), () => "a LUN that is not there for anybody was written");
    globalThis.gc?.();
    const { arrayBuffers } = process.memoryUsage();
    demand(arrayBuffers < 256 * MiB, () => `${Math.round(arrayBuffers / MiB)} MiB are held in buffers`);
  }

  /** Nothing that came may hold anything of the canaries. */
  leaksNothing({ data }: Pdu): void {
    demand(!data.includes(this.secret), () => "data of a hidden LUN was sent");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#healthy[Symbol.asyncDispose]();
    await this.target[Symbol.asyncDispose]();
    await this.guarded[Symbol.asyncDispose]();
  }
}

const yesNo = (random: Random) => (chance(random, 0.5) ? "Yes" : "No");

/** An initiator that keeps the rules, with any keys and commands. */
export async function orderlyCase(fuzzed: FuzzedTarget, random: Random): Promise<void> {
  const digests = () => (chance(random, 0.3) ? "CRC32C" : "None");
  const proposal = {
    HeaderDigest: digests(),
    DataDigest: digests(),
    InitialR2T: yesNo(random),
    ImmediateData: yesNo(random),
    MaxBurstLength: 512 * 2 ** below(random, 10),
    FirstBurstLength: 512,
    MaxRecvDataSegmentLength: 512 * 2 ** below(random, 8),
  };
  proposal.FirstBurstLength = 512 * (1 + below(random, Math.min(256, proposal.MaxBurstLength / 512)));
  const isid = Buffer.from(`8001020304${chance(random, 0.8) ? "05" : "06"}`, "hex");
  const pairs = Object.entries(proposal).map(([key, value]): [string, string] => [key, `${value}`]);
  await using raw = await RawInitiator.login(fuzzed.target.port, targetName, pairs, isid, names.orderly);
  raw.useDigests({
    headerDigest: proposal.HeaderDigest === "CRC32C",
    dataDigest: proposal.DataDigest === "CRC32C",
  });
  const limits: SessionLimits = {
    firstBurstBytes: proposal.FirstBurstLength,
    maxBurstBytes: proposal.MaxBurstLength,
    immediateData: proposal.ImmediateData === "Yes",
    initialR2t: proposal.InitialR2T === "Yes",
    segmentBytes: proposal.MaxRecvDataSegmentLength,
  };
  const session = new CheckedSession(random, raw, limits);
  const around = fuzzed.surroundings("orderly");
  const take = () => {
    for (const pdu of raw.pdus) fuzzed.leaksNothing(pdu);
    session.takeAll();
  };
  const anyLun = () => lun(oneOf(random, [2, 2, 2, 3, 3, 1, 0, 9]));
  const { taskFunction: func } = codes;
  for (let step = 1 + below(random, 30); step > 0; step--) {
    const kind = random();
    if (kind < 0.06) {
      const what = oneOf(random, [
        func.abortTask,
        func.abortTaskSet,
        func.clearTaskSet,
        func.logicalUnitReset,
      ]);
      const one = session.someTag();
      // Its CmdSN is not looked at where the task is there; another's is never before the one that is due.
      session.manage({ function: what, lun: anyLun(), referencedTaskTag: one ?? 0, refCmdSN: raw.cmdSN });
    } else if (kind < 0.1) session.ping(bytesOf(random, below(random, limits.segmentBytes)));
    else if (kind < 0.2) await raw.silent(below(random, 5));
    else if (session.room) {
      const pdus = session.begin(commandOf(random, around), anyLun(), chance(random, 0.05));
      for (const pdu of pdus) raw.sendBytes(pdu);
    }
    take();
  }
  if (chance(random, 0.2)) return; // cut off in the middle
  // What waits for something (RECEIVE without SUBMIT) is ended by hand.
  await raw.silent(10);
  take();
  for (const each of [0, 1, 2, 3, 9]) session.manage({ function: func.abortTaskSet, lun: lun(each) });
  session.ping(Buffer.from("still here"));
  await session.settled(10_000);
  raw.send(
    wire.logoutRequestPdu.encode({ immediate: true, initiatorTaskTag: 0x7000_0000, cmdSN: raw.cmdSN }),
  );
  await raw.ended();
}

/** The PDUs of a session, for damaging. */
function wildPdus(fuzzed: FuzzedTarget, random: Random, raw: RawInitiator, agreed: TextPairs): Buffer[] {
  const may = (key: string, value: string) => agreed.some((pair) => pair[0] === key && pair[1] === value);
  const around = fuzzed.surroundings("wild");
  const pdus: Buffer[] = [];
  // Few violations each, or the session is over before anything comes of them.
  const clash = chance(random, 0.3);
  let nextTag = 1;
  const tag = () => (clash ? 1 + below(random, 6) : nextTag++);
  for (let i = 1 + below(random, 10); i > 0; i--) {
    const at = lun(oneOf(random, [0, 0, 0, 4, 1, 2]));
    const immediate = chance(random, 0.2);
    const common = { immediate, lun: at, initiatorTaskTag: tag(), cmdSN: raw.cmdSN };
    if (!immediate) raw.cmdSN++;
    switch (below(random, clash ? 10 : 40)) {
      case 0:
        pdus.push(raw.frame(wire.nopOutPdu.encode({ ...common, targetTransferTag: codes.noTag })));
        break;
      case 1:
        pdus.push(
          raw.frame(
            wire.taskManagementRequestPdu.encode({
              ...common,
              function: 1 + below(random, 9),
              referencedTaskTag: tag(),
              refCmdSN: Math.max(0, raw.cmdSN - below(random, 4)),
            }),
          ),
        );
        break;
      case 2: {
        const text = oneOf(random, [
          "SendTargets=All\0",
          "SendTargets=\0",
          "X-a=b\0",
          "MaxBurstLength=512\0",
        ]);
        const last = chance(random, 0.7);
        const request = { ...common, final: last, continue: !last, targetTransferTag: codes.noTag };
        pdus.push(raw.frame(wire.textRequestPdu.encode(request), Buffer.from(text)));
        break;
      }
      case 3: {
        const out = { final: chance(random, 0.5), lun: at, initiatorTaskTag: tag() };
        const where = {
          targetTransferTag: oneOf(random, [codes.noTag, 1, 2, 3]),
          bufferOffset: 512 * below(random, 4),
        };
        pdus.push(
          raw.frame(wire.dataOutPdu.encode({ ...out, ...where }), bytesOf(random, 512 * below(random, 4))),
        );
        break;
      }
      default: {
        const { cdb, dataOut, dataInBytes } = commandOf(random, around);
        const write = dataOut.length > 0;
        const header = wire.scsiCommandPdu.encode({
          ...common,
          final: !(write && may("InitialR2T", "No")) || chance(random, 0.9),
          read: !write && dataInBytes > 0,
          write,
          expectedDataTransferLength: write ? dataOut.length : dataInBytes,
          cdb: Buffer.concat([cdb, Buffer.alloc(16)]).subarray(0, 16),
        });
        const ahs =
          cdb.length > 16 && chance(random, 0.9)
            ? Buffer.concat([Buffer.from([0, 17, 1, 0]), cdb.subarray(16)])
            : undefined;
        const along =
          may("ImmediateData", "Yes") && chance(random, 0.6) ? dataOut.subarray(0, 65_536) : undefined;
        pdus.push(raw.frame(header, along, ahs));
      }
    }
  }
  if (chance(random, 0.1))
    pdus.push(raw.frame(wire.logoutRequestPdu.encode({ immediate: true, initiatorTaskTag: 7 })));
  return pdus;
}

/** Damage to a stream of PDUs: their headers most of all, their order, their lengths. */
function wildStream(random: Random, pdus: readonly Buffer[]): Buffer {
  const intact = oneOf(random, [0.5, 0.9, 0.97, 1]);
  const list = pdus.map((pdu) => {
    if (chance(random, intact)) return pdu;
    const copy = Buffer.from(pdu);
    for (let places = 1 + below(random, 3); places > 0; places--) {
      if (chance(random, 0.7)) damage(random, copy.subarray(0, 48));
      else damage(random, copy);
    }
    return chance(random, 0.1) ? reshaped(random, copy) : copy;
  });
  if (chance(random, 0.2)) list.splice(below(random, list.length), 0, bytesOf(random, below(random, 200)));
  if (chance(random, 0.2)) list.splice(below(random, list.length), 1);
  if (chance(random, 0.2)) list.push(oneOf(random, pdus));
  const stream = Buffer.concat(list);
  return chance(random, 0.1) ? stream.subarray(0, below(random, stream.length)) : stream;
}

async function sendInPieces(random: Random, raw: RawInitiator, stream: Buffer): Promise<void> {
  const most = oneOf(random, [3, 48, 1000, 1e6]);
  for (let at = 0; at < stream.length && !raw.closed; ) {
    const end = Math.min(stream.length, at + 1 + below(random, Math.max(most, stream.length / 20)));
    raw.sendBytes(stream.subarray(at, end));
    at = end;
    if (chance(random, 0.3)) await new Promise((resolve) => setImmediate(resolve));
  }
}

/** An initiator that logs in and sends whatever it likes. */
export async function wildCase(fuzzed: FuzzedTarget, random: Random): Promise<void> {
  const pairs: TextPairs = [
    ["InitialR2T", yesNo(random)],
    ["ImmediateData", yesNo(random)],
  ];
  const discovery = chance(random, 0.03) ? undefined : targetName;
  const isid = Buffer.from(`8000000000${chance(random, 0.8) ? "05" : "06"}`, "hex");
  await using raw = await RawInitiator.login(fuzzed.target.port, discovery, pairs, isid, names.wild);
  if (discovery !== undefined) for (const each of luns.wild) await raw.settle(lun(each));
  await sendInPieces(random, raw, wildStream(random, wildPdus(fuzzed, random, raw, pairs)));
  // Never one after the other: the socket would not be told closed (Node 24).
  const end = random();
  if (end < 0.15) raw.socket.resetAndDestroy();
  else if (end < 0.3) raw.socket.end();
  // All that comes, unless it is cut off.
  const cutOff = chance(random, 0.3);
  for (let quiet = false; !quiet && !raw.closed && !cutOff; ) {
    quiet = await raw.silent(4);
    for (const pdu of raw.pdus.splice(0)) fuzzed.leaksNothing(pdu);
  }
}

const keysOfLogin: readonly TextPairs[number][] = [
  ["AuthMethod", "CHAP,None"],
  ["AuthMethod", "None"],
  ["SessionType", "Discovery"],
  ["SessionType", "Normal"],
  ["CHAP_A", "8,7,6,5"],
  ["CHAP_N", "agent"],
  ["CHAP_R", `0x${"5a".repeat(16)}`],
  ["CHAP_R", `0b${Buffer.alloc(32, 7).toString("base64")}`],
  ["CHAP_I", "255"],
  ["CHAP_C", `0x${"a5".repeat(32)}`],
  ["HeaderDigest", "CRC32C,None"],
  ["MaxConnections", "8"],
  ["InitialR2T", "No"],
  ["MaxRecvDataSegmentLength", "512"],
  ["MaxBurstLength", "16777215"],
  ["FirstBurstLength", "65536"],
  ["ErrorRecoveryLevel", "2"],
  ["OFMarker", "Yes"],
  ["X-com.example.key", "a,b,c"],
];

/** A login in any order of steps, at the target that asks for a secret which it does not have. */
export async function loginCase(fuzzed: FuzzedTarget, random: Random): Promise<void> {
  await using raw = await RawInitiator.connect(fuzzed.guarded.port);
  for (let step = 1 + below(random, 6); step > 0 && !raw.closed; step--) {
    const pairs: [string, string][] = [];
    if (chance(random, 0.9)) pairs.push(["InitiatorName", names.wild]);
    if (chance(random, 0.8)) pairs.push(["TargetName", targetName]);
    for (let more = below(random, 5); more > 0; more--)
      pairs.push([...oneOf(random, keysOfLogin)] as [string, string]);
    let text = encodeText(pairs);
    if (chance(random, 0.3)) text = damaged(random, text);
    if (chance(random, 0.1)) text = Buffer.from(reshaped(random, text));
    const [currentStage, nextStage] = oneOf(random, [
      [0, 1],
      [0, 3],
      [1, 3],
      [1, 1],
      [3, 3],
      [0, 0],
    ] as const);
    const transit = chance(random, 0.6);
    const header = wire.loginRequestPdu.encode({
      immediate: true,
      transit,
      continue: !transit && chance(random, 0.2),
      currentStage,
      nextStage: transit ? nextStage : 0,
      isid: raw.isid,
      tsih: chance(random, 0.9) ? 0 : below(random, 4),
      initiatorTaskTag: 1,
      cmdSN: 1,
    });
    if (chance(random, 0.2)) damage(random, header.subarray(0, 4));
    if (chance(random, 0.2)) damage(random, header);
    const pdu = raw.frame(header, text);
    await sendInPieces(random, raw, chance(random, 0.1) ? Buffer.from(reshaped(random, pdu)) : pdu);
    await raw.next(chance(random, 0.9) ? 100 : 1).then(
      (answer) => {
        demand(
          (answer.header[0]! & 0x3f) === codes.opcode.loginResponse,
          () => "no login response to a login",
        );
        const response = wire.loginResponsePdu.decode(answer.header);
        const inside = response.statusClass === 0 && response.transit && response.nextStage === 3;
        demand(
          !inside,
          () => `logged in without the secret: ${pairs.map((pair) => pair.join("=")).join(" ")}`,
        );
        demand(!/horse|staple/.test(answer.data.toString("latin1")), () => "a secret was sent");
      },
      () => {},
    );
  }
}
