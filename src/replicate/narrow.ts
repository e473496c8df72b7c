// Extents that differ, narrowed to the smaller pieces that do: for links on which a comparison costs less than shipping.
//
// Guarantees: a piece is left out only if it was compared and found equal; extents that could not be read go through as
// they are.
import { compareWindow, extentState, type WindowVerdict } from "./compare-window.ts";
import type { BadExtent, JobOptions } from "./job.ts";

/**
 * The verdict in pieces of `pieceBlocks`, of which `ratio` make an extent. The last extent of a volume may be shorter.
 * At most `piecesMax` are compared at once.
 */
export async function narrowed(
  job: JobOptions,
  verdict: WindowVerdict,
  extentBlocks: number,
  pieceBlocks: number,
  piecesMax: number,
  onBad: (bad: BadExtent) => void,
): Promise<WindowVerdict> {
  const ratio = extentBlocks / pieceBlocks;
  const { blocks } = job.source.geometry;
  const end = Math.min(blocks, verdict.lba + verdict.extents * extentBlocks);
  const pieces = Math.ceil((end - verdict.lba) / pieceBlocks);
  const states = new Uint8Array(pieces);
  for (let extent = 0; extent < verdict.extents; ) {
    const state = verdict.states[extent]!;
    let to = extent + 1;
    while (to < verdict.extents && verdict.states[to] === state) to++;
    const first = extent * ratio;
    const count = Math.min(pieces, to * ratio) - first;
    if (state !== extentState.differs) states.fill(state, first, first + count);
    else {
      for (let done = 0; done < count; done += piecesMax) {
        const planned = {
          lba: verdict.lba + (first + done) * pieceBlocks,
          extents: Math.min(piecesMax, count - done),
        };
        const found = await compareWindow(job, pieceBlocks, planned);
        states.set(found.states, first + done);
        for (const bad of found.bad) if (bad.side === "source") onBad(bad);
      }
    }
    extent = to;
  }
  return { lba: verdict.lba, extents: pieces, states, bad: verdict.bad };
}
