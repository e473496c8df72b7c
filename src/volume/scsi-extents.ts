// Runs of blocks written and copied by our vendor commands: split, compressed, identified, and put into lists that the
// unit takes.
//
// Guarantees: no list is longer than the unit and its transport take; lists go one after another, so that runs that
// overlap are written in their order. What arrived damaged is sent again, a list `attemptsMax` times in all. What the unit says
// that it did is believed only as far as it was asked to do it; anything else is a `protocol_error`.
import { assert } from "../base/assert.ts";
import { orderedPipeline } from "../base/async.ts";
import { lengthOf } from "../base/bytes.ts";
import { AgentError } from "../base/errors.ts";
import { MiB } from "../base/units.ts";
import { type DigestSpec, programOf } from "../digest/spec.ts";
import { identifyMemory } from "../platform/block-file.ts";
import { compress } from "../platform/zstd.ts";
import { type ScsiCommand, type ScsiOutcome, status } from "../scsi/command.ts";
import * as extents from "../scsi/extent-commands.ts";
import type { VendorPage } from "../scsi/inquiry-data.ts";
import { isCondition, type Sense } from "../scsi/sense.ts";
import { vendorFunction } from "../scsi/vendor-commands.ts";
import { digestIndex } from "./scsi-digests.ts";
import type { ExtentCopy, ExtentRun, WriteExtentsOptions } from "./volume.ts";

/** Gives the outcome of a command that ended well, or with a sense that is `expected`. */
export type ExecuteExpecting = (
  command: ScsiCommand,
  expected: (sense: Sense) => boolean,
  signal?: AbortSignal,
) => Promise<ScsiOutcome>;

/** Lists are no longer than this, whatever the unit would take. */
const listBytesWanted = 8 * MiB;
/** Room in a command beside the data of one run. */
const headRoomBytes = 4096;
const attemptsMax = 3;
/** Copies that may fail before the rest of them is left to be shipped. */
const copyFailuresMax = 16;
/** Pieces that are compressed and identified at once. */
const preparedAhead = 4;

const header = extents.extentListHeader;

/** What goes into a list for one run. */
interface Prepared {
  readonly lba: number;
  /** Of the unit. */
  readonly bytes: number;
  readonly descriptor: Buffer;
  /** Identifier and data. */
  readonly content: readonly Buffer[];
}

/** A list that is being filled. */
class PendingList<R extends Prepared> {
  runs: R[] = [];
  /** Of the unit, and of the command. */
  #bytes = 0;
  #sendBytes = header.bytes;
  readonly #runsMax: number;
  readonly #bytesMax: number;
  readonly #sendBytesMax: number;

  constructor(runsMax: number, bytesMax: number, sendBytesMax: number) {
    this.#runsMax = runsMax;
    this.#bytesMax = bytesMax;
    this.#sendBytesMax = sendBytesMax;
  }

  static #sendBytesOf({ descriptor, content }: Prepared): number {
    return descriptor.length + lengthOf(content);
  }

  hasRoomFor(run: R): boolean {
    return (
      this.runs.length < this.#runsMax &&
      this.#bytes + run.bytes <= this.#bytesMax &&
      this.#sendBytes + PendingList.#sendBytesOf(run) <= this.#sendBytesMax
    );
  }

  add(run: R): void {
    this.runs.push(run);
    this.#bytes += run.bytes;
    this.#sendBytes += PendingList.#sendBytesOf(run);
  }

  /** What is in it, which is empty then. */
  takeAll(): R[] {
    const { runs } = this;
    this.runs = [];
    this.#bytes = 0;
    this.#sendBytes = header.bytes;
    return runs;
  }
}

/** What is compressed to little less is sent as it is, so that the other end need not expand it. */
const isWorthwhile = (compressed: number, bytes: number) => compressed <= bytes - bytes / 16;

export class ScsiExtents {
  readonly writes: boolean;
  readonly copies: boolean;
  readonly #name: string;
  readonly #page: VendorPage;
  readonly #wide: boolean;
  readonly #blockBytes: number;
  readonly #commandBytesMax: number;
  readonly #listBytesMax: number;
  /** Bytes of one piece of a run. */
  readonly #pieceBytesMax: number;
  readonly #execute: ExecuteExpecting;

  /** `wide`: the transport takes CDBs of 32 bytes; `commandBytesMax` is what one command should transfer. */
  constructor(
    name: string,
    page: VendorPage,
    { wide, blockBytes, commandBytesMax }: { wide: boolean; blockBytes: number; commandBytesMax: number },
    execute: ExecuteExpecting,
  ) {
    this.#name = name;
    this.#page = page;
    this.#wide = wide;
    this.#blockBytes = blockBytes;
    this.#commandBytesMax = commandBytesMax;
    this.#listBytesMax = Math.min(page.mostListBytes, listBytesWanted);
    const room = Math.min(this.#listBytesMax, commandBytesMax - headRoomBytes);
    this.#pieceBytesMax = room < blockBytes ? 0 : 2 ** Math.floor(Math.log2(room));
    this.#execute = execute;
    const takesLists = page.mostRuns > 0 && this.#pieceBytesMax > 0;
    this.writes = page.writeExtents && takesLists;
    this.copies = page.copyExtents && takesLists;
  }

  /** Writes the runs in their order. Resolves with the bytes of the lists. @throws AgentError */
  async write(
    runs: readonly ExtentRun[],
    options: WriteExtentsOptions,
    signal?: AbortSignal,
  ): Promise<number> {
    let sent = 0;
    const list = this.#emptyList();
    const send = async () => {
      sent += await this.#writeList(list.takeAll(), options.digest, signal);
    };
    const prepared = orderedPipeline(this.#pieces(runs), preparedAhead, (run) => this.#prepare(run, options));
    for await (const next of prepared) {
      if (!list.hasRoomFor(next)) await send();
      list.add(next);
    }
    await send();
    return sent;
  }

  /**
   * Has runs copied by the unit, in their order: one flag for each, true where the unit had what the identifier says,
   * and wrote it. What could not be read or written there is not copied either. @throws AgentError
   */
  async copy(copies: readonly ExtentCopy[], digest: DigestSpec, signal?: AbortSignal): Promise<boolean[]> {
    const copied = new Array<boolean>(copies.length).fill(false);
    const list = this.#emptyList<Prepared & { readonly index: number }>();
    let failures = 0;
    const send = async () => {
      let left = list.takeAll();
      while (left.length > 0 && failures < copyFailuresMax) {
        const done = await this.#copyList(left, digest, signal);
        for (const { index } of left.slice(0, done)) copied[index] = true;
        if (done < left.length) failures++;
        left = left.slice(done + 1);
      }
    };
    for (const [index, copy] of copies.entries()) {
      const next = { index, ...this.#prepareCopy(copy, digest) };
      // An identifier is of the whole run, which can't be split: what is too large is shipped.
      if (next.bytes > this.#listBytesMax) continue;
      if (!list.hasRoomFor(next)) await send();
      list.add(next);
    }
    await send();
    return copied;
  }

  #emptyList<R extends Prepared>(): PendingList<R> {
    return new PendingList(this.#page.mostRuns, this.#listBytesMax, this.#commandBytesMax);
  }

  *#pieces(runs: readonly ExtentRun[]): Generator<ExtentRun> {
    for (const { lba, blocks, data } of runs) {
      assert(!data || data.length === blocks * this.#blockBytes, "a run has as much data as blocks");
      const most = (data ? this.#pieceBytesMax : this.#listBytesMax) / this.#blockBytes;
      const step = Math.floor(most);
      for (let done = 0; done < blocks; done += step) {
        const count = Math.min(step, blocks - done);
        const piece = data?.subarray(done * this.#blockBytes, (done + count) * this.#blockBytes);
        yield { lba: lba + done, blocks: count, ...(piece && { data: piece }) };
      }
    }
  }

  async #prepare({ lba, blocks, data }: ExtentRun, options: WriteExtentsOptions): Promise<Prepared> {
    const bytes = blocks * this.#blockBytes;
    const describe = (form: number, dataLength: number) =>
      extents.writeRun.encode({
        logicalBlockAddress: BigInt(lba),
        numberOfLogicalBlocks: blocks,
        form,
        dataLength,
      });
    if (!data) return { lba, bytes, descriptor: describe(extents.runForm.zeros, 0), content: [] };
    const [identifier, compressed] = await Promise.all([
      this.#identify(data, options.digest),
      options.level > 0 ? compress(data, options.level) : undefined,
    ]);
    if (compressed && isWorthwhile(compressed.length, bytes)) {
      const descriptor = describe(extents.runForm.zstd, compressed.length);
      return { lba, bytes, descriptor, content: [identifier, compressed] };
    }
    return { lba, bytes, descriptor: describe(extents.runForm.stored, bytes), content: [identifier, data] };
  }

  async #identify(data: Buffer, digest: DigestSpec): Promise<Buffer> {
    const { values } = await identifyMemory(data, {
      program: programOf(digest),
      offset: 0,
      bytes: data.length,
      extentBytes: data.length,
      blockBytes: this.#blockBytes,
      output: "identifiers",
      width: digest.identifierBytes,
    });
    return values;
  }

  #prepareCopy({ from, to, blocks, identifier }: ExtentCopy, digest: DigestSpec): Prepared {
    if (identifier.length !== digest.identifierBytes) {
      const { text, identifierBytes } = digest;
      throw new AgentError(
        "internal",
        `An identifier of ${identifier.length} bytes, where ${text} has ${identifierBytes}`,
      );
    }
    const descriptor = extents.copyRun.encode({
      sourceLogicalBlockAddress: BigInt(from),
      destinationLogicalBlockAddress: BigInt(to),
      numberOfLogicalBlocks: blocks,
    });
    return { lba: from, bytes: blocks * this.#blockBytes, descriptor, content: [identifier] };
  }

  #listOf(runs: readonly Prepared[], func: number, digest: DigestSpec): Buffer[] {
    const body = [...runs.map(({ descriptor }) => descriptor), ...runs.flatMap(({ content }) => content)];
    const head = header.encode({
      function: func,
      digest: digestIndex(this.#name, this.#page, digest),
      numberOfRuns: runs.length,
      dataLength: lengthOf(body),
    });
    return [head, ...body];
  }

  /** Resolves with the bytes that were sent. */
  async #writeList(list: readonly Prepared[], digest: DigestSpec, signal?: AbortSignal): Promise<number> {
    let sent = 0;
    let left = list;
    for (let attempt = 1; left.length > 0; attempt++) {
      const dataOut = this.#listOf(left, vendorFunction.writeExtents, digest);
      const parameterListLength = lengthOf(dataOut);
      const layout = this.#wide ? extents.writeExtents32 : extents.writeExtents16;
      const damaged = (sense: Sense) => isCondition(sense, "miscompare");
      const cdb = layout.encode({ parameterListLength });
      const done = this.#done(await this.#execute({ cdb, dataOut }, damaged, signal), left.length);
      sent += parameterListLength;
      left = left.slice(done);
      if (left.length > 0 && attempt === attemptsMax) {
        throw new AgentError(
          "io_error",
          `What arrived at ${this.#name} for LBA ${left[0]!.lba} was not what was sent, also when it was sent again; ` +
            "it was not written",
          { lba: left[0]!.lba, retry: "after_backoff" },
        );
      }
    }
    return sent;
  }

  /** How many of the list were copied, from the first on. */
  async #copyList(list: readonly Prepared[], digest: DigestSpec, signal?: AbortSignal): Promise<number> {
    const dataOut = this.#listOf(list, vendorFunction.copyExtents, digest);
    const layout = this.#wide ? extents.copyExtents32 : extents.copyExtents16;
    const cdb = layout.encode({ parameterListLength: lengthOf(dataOut) });
    // Blocks that can't be read or written concern one run, which is shipped then; anything else concerns all.
    const ofOneRun = (sense: Sense) => isCondition(sense, "miscompare") || sense.key === 0x3;
    return this.#done(await this.#execute({ cdb, dataOut }, ofOneRun, signal), list.length);
  }

  /** How many runs of a list were done. */
  #done({ status: code, sense }: ScsiOutcome, runs: number): number {
    if (code === status.good || !sense) return runs;
    const done = sense.commandSpecific ?? 0;
    if (done < runs) return done;
    throw new AgentError("protocol_error", `${this.#name} failed at run ${done} of a list of ${runs} runs`);
  }
}
