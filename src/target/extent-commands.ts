// WRITE EXTENTS and COPY EXTENTS: runs of blocks that are written if they are what their identifiers say.
//
// Guarantees: nothing of a run is written before all of its data was proved by its identifier; runs are carried out in
// the order of the list, and the first that can't be ends the command: those before it are done, those from it on are
// not, and the sense data counts the ones that are. Expanded and copied data is bounded by `memoryBytes` for all
// initiators together. docs/protocol.md is the reference.
import { orderedPipeline, Semaphore } from "../base/async.ts";
import type { BufferPool } from "../base/buffer-pool.ts";
import { MiB } from "../base/units.ts";
import { type DigestSpec, programOf } from "../digest/spec.ts";
import { identifyMemory } from "../platform/block-file.ts";
import { expand } from "../platform/zstd.ts";
import * as extents from "../scsi/extent-commands.ts";
import { type Call, type Command, command } from "./command-table.ts";
import {
  type ExtentList,
  listToCopy,
  listToWrite,
  parameterBytesMax,
  type RunToCopy,
  type RunToWrite,
} from "./extent-list.ts";
import type { LogicalUnit } from "./logical-unit.ts";
import { checkCondition, good, joined, type ScsiResult } from "./scsi-task.ts";
import { failedResult } from "./volume-errors.ts";

const memoryBytes = 32 * MiB;
/** What a list counts at least: expanding takes some memory for itself, however small the runs are. */
const listMemoryMin = MiB;
/** Runs that are expanded and proved while an earlier one is written. */
const provedAhead = 4;

type ListCall = Call<{ parameterListLength: number }>;

async function isProved(
  digest: DigestSpec,
  data: Buffer,
  blockBytes: number,
  identifier: Buffer,
): Promise<boolean> {
  const program = programOf(digest);
  const { values } = await identifyMemory(data, {
    program,
    offset: 0,
    bytes: data.length,
    extentBytes: data.length,
    blockBytes,
    output: "identifiers",
    width: program.identifierBytes,
  });
  return values.equals(identifier);
}

const unproved = (lba: number): ScsiResult => checkCondition("miscompare", { information: lba });

/** The result of a list whose run `done` failed: the runs before it are done. */
function endedAfter(done: number, result: ScsiResult): ScsiResult {
  return result.sense ? { ...result, sense: { ...result.sense, commandSpecific: done } } : result;
}

/** What is to be written for a run: its data once it is proved, zeros, or nothing because it is not what it should be. */
async function provedData(
  run: RunToWrite,
  digest: DigestSpec,
  blockBytes: number,
): Promise<Buffer | "zeros" | undefined> {
  if (run.form === extents.runForm.zeros) return "zeros";
  const sent = joined(run.data);
  const data = run.form === extents.runForm.zstd ? await expand(sent, run.blocks * blockBytes) : sent;
  return data && (await isProved(digest, data, blockBytes, run.identifier)) ? data : undefined;
}

async function writeRuns(
  { unit, request }: ListCall,
  { digest, runs }: ExtentList<RunToWrite>,
): Promise<ScsiResult> {
  const { blockBytes } = unit.volume.geometry;
  let done = 0;
  const proved = orderedPipeline(runs, provedAhead, (run) => provedData(run, digest, blockBytes));
  for await (const data of proved) {
    const { lba, blocks } = runs[done]!;
    if (request.signal.aborted) return endedAfter(done, checkCondition("commandAborted"));
    if (data === undefined) return endedAfter(done, unproved(lba));
    try {
      if (data === "zeros") await unit.volume.zero(lba, blocks, { unmap: true });
      else await unit.volume.write(lba, [data]);
    } catch (error) {
      return endedAfter(done, failedResult(error, "write"));
    }
    done++;
  }
  return good;
}

async function writeExtents(call: ListCall, memory: Semaphore): Promise<ScsiResult> {
  const { unit, request, fields } = call;
  const list = listToWrite(unit, request.dataOut, fields.parameterListLength);
  if ("status" in list) return list;
  if (unit.writeProtection) return checkCondition(unit.writeProtection);
  const blocks = list.runs.reduce(
    (sum, run) => sum + (run.form === extents.runForm.zeros ? 0 : run.blocks),
    0,
  );
  const release = await memory.acquire(Math.max(listMemoryMin, blocks * unit.volume.geometry.blockBytes));
  try {
    return await writeRuns(call, list);
  } finally {
    release();
  }
}

/** Undefined if the run was copied, else why it was not. */
async function copyRun(
  unit: LogicalUnit,
  digest: DigestSpec,
  { from, to, identifier }: RunToCopy,
  data: Buffer,
): Promise<ScsiResult | undefined> {
  try {
    await unit.volume.read(from, data);
  } catch (error) {
    return failedResult(error, "read");
  }
  if (!(await isProved(digest, data, unit.volume.geometry.blockBytes, identifier))) return unproved(from);
  try {
    await unit.volume.write(to, [data]);
  } catch (error) {
    return failedResult(error, "write");
  }
  return undefined;
}

async function copyExtents(call: ListCall, memory: Semaphore, pool: BufferPool): Promise<ScsiResult> {
  const { unit, request, fields } = call;
  const list = listToCopy(unit, request.dataOut, fields.parameterListLength);
  if ("status" in list) return list;
  if (unit.writeProtection) return checkCondition(unit.writeProtection);
  if (list.runs.length === 0) return good;
  const { blockBytes } = unit.volume.geometry;
  const largest = Math.max(...list.runs.map(({ blocks }) => blocks * blockBytes));
  const release = await memory.acquire(Math.max(listMemoryMin, largest));
  const { buffer, giveBack } = pool.borrow(largest);
  try {
    for (const [done, run] of list.runs.entries()) {
      if (request.signal.aborted) return endedAfter(done, checkCondition("commandAborted"));
      const failed = await copyRun(unit, list.digest, run, buffer.subarray(0, run.blocks * blockBytes));
      if (failed) return endedAfter(done, failed);
    }
    return good;
  } finally {
    giveBack();
    release();
  }
}

/** The entries; copies borrow their buffers from `pool`. */
export function extentCommands(pool: BufferPool): Command[] {
  const memory = new Semaphore(memoryBytes);
  const options = {
    dataOutBytes: ({ parameterListLength }: { parameterListLength: number }) =>
      Math.min(parameterListLength, parameterBytesMax),
    strict: true,
    vendor: true,
  };
  const write = (call: ListCall) => writeExtents(call, memory);
  const copy = (call: ListCall) => copyExtents(call, memory, pool);
  return [
    command(extents.writeExtents32, "write", write, options),
    command(extents.copyExtents32, "write", copy, options),
    command(extents.writeExtents16, "write", write, options),
    command(extents.copyExtents16, "write", copy, options),
  ];
}
