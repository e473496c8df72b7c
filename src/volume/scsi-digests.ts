// Digests asked of a replica by our vendor commands, in whichever CDB form its transport takes.
//
// Guarantees: what the replica answers is believed only as far as it fits the question: right place, right width, no
// more values than asked, no fewer unless it names the block that it could not read. Anything else is a
// `protocol_error`, and no extent of the window counts as compared.
import { lengthOf } from "../base/bytes.ts";
import { AgentError } from "../base/errors.ts";
import { checkedNumber } from "../base/units.ts";
import type { DigestSpec } from "../digest/spec.ts";
import { type ScsiCommand, type ScsiOutcome, status } from "../scsi/command.ts";
import { parseUuid, type VendorPage } from "../scsi/inquiry-data.ts";
import { isCondition, type Sense } from "../scsi/sense.ts";
import {
  answerHeader,
  changedRange,
  changesHeader,
  encodeDigests32,
  growList,
  identifierSource,
  parameterListHeader,
  receive16,
  receive32,
  submit16,
  submit32,
  vendorFunction,
} from "../scsi/vendor-commands.ts";
import type { CompareAnswer, DigestAnswer, DigestWindow, GenerationChanges, Unreadable } from "./volume.ts";

/** A command that must end well, or with a sense that is `expected`. */
export type Execute = (
  command: ScsiCommand,
  signal?: AbortSignal,
  expected?: (sense: Sense) => boolean,
) => Promise<ScsiOutcome>;

/** An answer's head, checked against the window. */
interface CheckedAnswer {
  readonly extents: number;
  readonly unreadable: Unreadable | undefined;
  /** What follows the head. */
  readonly data: Buffer;
}

/** As long as a target's answer about changes may be. */
const changesBytesMax = 1024 * 1024 + 64;

const blank = (digest: DigestSpec): DigestWindow => ({
  lba: 0,
  extentBlocks: 1,
  extents: 0,
  digest,
  initialValue: Buffer.alloc(16),
  width: 8,
  fresh: false,
});

function sourceOf({ fresh, catalogueOnly }: DigestWindow): number {
  if (fresh) return identifierSource.fresh;
  return catalogueOnly ? identifierSource.catalogueOnly : identifierSource.catalogueAllowed;
}

/** The number by which the unit of a page knows a digest. @throws AgentError `digest_unknown` */
export function digestIndex(name: string, page: VendorPage, digest: DigestSpec): number {
  const entry = page.digests.find((candidate) => candidate.text === digest.text);
  if (entry && entry.identifierBytes === digest.identifierBytes) return entry.index;
  throw new AgentError(
    "digest_unknown",
    `${name} does not offer the digest ${digest.text}; "lunsync inquiry" lists what it offers`,
  );
}

export class ScsiDigests {
  readonly #name: string;
  readonly #page: VendorPage;
  readonly #wide: boolean;
  readonly #execute: Execute;
  #nextList = 1;

  /** `wide`: the transport takes CDBs of 32 bytes. */
  constructor(name: string, page: VendorPage, wide: boolean, execute: Execute) {
    this.#name = name;
    this.#page = page;
    this.#wide = wide;
    this.#execute = execute;
  }

  async encode(window: DigestWindow, signal?: AbortSignal): Promise<DigestAnswer> {
    const bytes = answerHeader.bytes + window.extents * window.width;
    // The CDB has room for the low half of the initial value.
    const fits = this.#wide && window.initialValue.readBigUInt64BE(0) === 0n;
    const reply = fits
      ? await this.#encode32(window, bytes, signal)
      : await this.#exchange(window, vendorFunction.encodeDigests, [], bytes, signal);
    return this.#values(window, this.#check(window, reply, window.width));
  }

  async decode(window: DigestWindow, values: Buffer, signal?: AbortSignal): Promise<DigestAnswer> {
    const bytes = answerHeader.bytes + window.extents * window.width;
    const data = values.subarray(0, window.extents * 16);
    const reply = await this.#exchange(window, vendorFunction.decodeDigests, [data], bytes, signal);
    return this.#values(window, this.#check(window, reply, window.width));
  }

  async compare(window: DigestWindow, values: Buffer, signal?: AbortSignal): Promise<CompareAnswer> {
    const bytes = answerHeader.bytes + Math.ceil(window.extents / 8);
    const data = values.subarray(0, window.extents * window.width);
    const reply = await this.#exchange(window, vendorFunction.compareDigests, [data], bytes, signal);
    const answer = this.#check(window, reply, 1 / 8);
    // One bit an extent, the most significant first; 1 says different.
    const different = Array.from(
      { length: answer.extents },
      (_, i) => (answer.data[i >> 3]! & (0x80 >> (i & 7))) !== 0,
    );
    return { different, extents: answer.extents, unreadable: answer.unreadable };
  }

  /** What both forms of a question say of its window, but for the initial value, of which a CDB holds half. */
  #question(window: DigestWindow) {
    return {
      digest: digestIndex(this.#name, this.#page, window.digest),
      source: sourceOf(window),
      width: window.width === 16,
      extentSize: Math.log2(window.extentBlocks),
      level: window.level ?? 0,
      numberOfExtents: window.extents,
      logicalBlockAddress: BigInt(window.lba),
    };
  }

  async #encode32(window: DigestWindow, allocationLength: number, signal?: AbortSignal): Promise<Buffer> {
    const outcome = await this.#execute(
      {
        cdb: encodeDigests32.encode({
          ...this.#question(window),
          initialValue: window.initialValue.readBigUInt64BE(8),
          allocationLength,
        }),
        dataInBytes: allocationLength,
      },
      signal,
    );
    return outcome.dataIn;
  }

  /** The Data-In that answers a question about a window. */
  async #exchange(
    window: DigestWindow,
    func: number,
    data: readonly Buffer[],
    allocationLength: number,
    signal?: AbortSignal,
  ): Promise<Buffer> {
    const { initialValue } = window;
    const asked = { ...this.#question(window), function: func, initialValue };
    return (await this.submit(asked, data, allocationLength, signal)).dataIn;
  }

  /** SUBMIT and RECEIVE, sent back to back: RECEIVE waits for its SUBMIT. */
  async submit(
    asked: Parameters<typeof parameterListHeader.encode>[0],
    data: readonly Buffer[],
    allocationLength: number,
    signal?: AbortSignal,
    expected?: (sense: Sense) => boolean,
  ): Promise<ScsiOutcome> {
    const listIdentifier = this.#nextList;
    this.#nextList = listIdentifier === 0xffffffff ? 1 : listIdentifier + 1;
    const dataLength = lengthOf(data);
    const header = parameterListHeader.encode({ ...asked, dataLength });
    const parameterListLength = header.length + dataLength;
    const [submit, receive] = this.#wide ? [submit32, receive32] : [submit16, receive16];
    const submitted = this.#execute(
      { cdb: submit.encode({ listIdentifier, parameterListLength }), dataOut: [header, ...data] },
      signal,
    );
    const received = this.#execute(
      { cdb: receive.encode({ listIdentifier, allocationLength }), dataInBytes: allocationLength },
      signal,
      expected,
    );
    // A SUBMIT that failed explains more than the RECEIVE that then finds nothing.
    const [submitOutcome, receiveOutcome] = await Promise.allSettled([submitted, received]);
    if (submitOutcome.status === "rejected") throw submitOutcome.reason;
    if (receiveOutcome.status === "rejected") throw receiveOutcome.reason;
    return receiveOutcome.value;
  }

  /** FIND EXTENTS, of what the catalogue is of: `wanted` holds `count` identifiers. */
  async find(
    window: Pick<DigestWindow, "extentBlocks" | "digest">,
    wanted: Buffer,
    signal?: AbortSignal,
  ): Promise<(number | undefined)[]> {
    const count = wanted.length / window.digest.identifierBytes;
    const asked: DigestWindow = {
      ...window,
      lba: 0,
      extents: count,
      initialValue: Buffer.alloc(16),
      width: 8,
      fresh: false,
    };
    const bytes = answerHeader.bytes + 8 * count;
    const reply = await this.#exchange(asked, vendorFunction.findExtents, [wanted], bytes, signal);
    const { extents, data } = this.#check(asked, reply, 8);
    return Array.from({ length: extents }, (_, i) => checkedNumber(data.readBigUInt64BE(8 * i)));
  }

  /** BEGIN GENERATION or COMMIT GENERATION. */
  async setGeneration(
    step: "begin" | "commit",
    digest: DigestSpec,
    pair: Buffer,
    generation: Buffer,
    signal?: AbortSignal,
  ): Promise<void> {
    const { beginGeneration, commitGeneration } = vendorFunction;
    const func = step === "begin" ? beginGeneration : commitGeneration;
    await this.#exchange(blank(digest), func, [pair, generation], answerHeader.bytes, signal);
  }

  /** CHANGES SINCE GENERATION, of a unit of `extents` extents. */
  async changes(
    digest: DigestSpec,
    pair: Buffer,
    extents: number,
    signal?: AbortSignal,
  ): Promise<GenerationChanges | undefined> {
    const reply = await this.#exchange(
      blank(digest),
      vendorFunction.changesSince,
      [pair],
      changesBytesMax,
      signal,
    );
    try {
      const head = changesHeader.decode(reply, answerHeader.bytes);
      if (!head.known) return undefined;
      const start = answerHeader.bytes + changesHeader.bytes;
      const ranges: { first: number; count: number }[] = [];
      let end = 0;
      for (let i = 0; i < head.numberOfRanges; i++) {
        const range = changedRange.decode(reply, start + i * changedRange.bytes);
        const first = checkedNumber(range.first) ?? extents;
        if (first < end || range.count === 0 || first + range.count > extents) throw new Error(`range ${i}`);
        end = first + range.count;
        ranges.push({ first, count: range.count });
      }
      const names = head.unchanged ? "unchanged" : "changed";
      return { generation: Buffer.from(head.generation), names, ranges };
    } catch (error) {
      throw this.#violation(`changes since a generation: ${(error as Error).message}`);
    }
  }

  /** GROW: true once the unit has so many blocks; false if what lies behind it has to be extended by somebody else first. */
  async grow(blocks: number, signal?: AbortSignal): Promise<boolean> {
    const volumeUuid = parseUuid(this.#page.volumeUuid);
    const list = growList.encode({ volumeUuid, numberOfBlocks: BigInt(blocks) });
    const refused = (sense: Sense) => isCondition(sense, "commandSequenceError");
    const asked = { function: vendorFunction.grow };
    const outcome = await this.submit(asked, [list], answerHeader.bytes, signal, refused);
    return outcome.status === status.good;
  }

  #violation(what: string): AgentError {
    return new AgentError("protocol_error", `${this.#name} answered a digest command wrongly: ${what}`);
  }

  #check(window: DigestWindow, reply: Buffer, bytesEach: number): CheckedAnswer {
    if (reply.length < answerHeader.bytes) throw this.#violation(`${reply.length} bytes`);
    let head: ReturnType<typeof answerHeader.decode>;
    try {
      head = answerHeader.decode(reply);
    } catch (error) {
      throw this.#violation((error as Error).message);
    }
    const { numberOfExtents: extents, partial } = head;
    if (head.logicalBlockAddress !== BigInt(window.lba)) {
      throw this.#violation(`for LBA ${head.logicalBlockAddress}, asked was ${window.lba}`);
    }
    if (head.width !== (window.width === 16)) throw this.#violation("values of another width than asked for");
    const data = reply.subarray(answerHeader.bytes);
    const bytes = Math.ceil(extents * bytesEach);
    if (
      extents > window.extents ||
      (extents < window.extents && !partial) ||
      (extents === window.extents && partial)
    ) {
      throw this.#violation(
        `${extents} values${partial ? " and an unreadable block" : ""}, asked were ${window.extents}`,
      );
    }
    if (head.availableLength + 4 !== answerHeader.bytes + bytes || data.length !== bytes) {
      throw this.#violation(`${data.length} bytes for ${extents} values`);
    }
    let unreadable: Unreadable | undefined;
    if (partial) {
      const lba = checkedNumber(head.unreadableLogicalBlockAddress) ?? -1;
      const first = window.lba + extents * window.extentBlocks;
      if (lba < first || lba >= first + window.extentBlocks)
        throw this.#violation(`unreadable is LBA ${lba}`);
      unreadable = { lba, reason: `unrecovered read error at LBA ${lba}` };
    }
    return { extents, unreadable, data };
  }

  #values(window: DigestWindow, answer: CheckedAnswer): DigestAnswer {
    const values = answer.data.subarray(0, answer.extents * window.width);
    return { values, extents: answer.extents, unreadable: answer.unreadable };
  }
}
