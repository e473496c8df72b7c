// What has changed of a volume since the generation that it has in common with a peer.
//
// Guarantees: every extent that a write has touched between the generation's beginning and the call is named.
import { append, complement, type Range, union } from "../base/ranges.ts";
import type { GenerationChanges } from "../volume/volume.ts";
import type { Catalogue } from "./catalogue.ts";
import type { Histories } from "./history.ts";
import { fanOut } from "./shape.ts";

/** More than so many ranges are not worth naming. */
const rangesMax = 65_536;

/** Named by what changed or by what did not, whichever is shorter; undefined if nothing is known, or too much. */
export async function changesSince(
  catalogue: Catalogue,
  histories: Histories,
  pair: string,
): Promise<GenerationChanges | undefined> {
  const generation = histories.generation(pair);
  if (generation === undefined || catalogue.lost) return undefined;
  // What is in doubt first: it is in the history by the time at which it is believed again. The other way round, a region
  // might be believed between the two looks, and named by neither.
  const doubtful: Range[] = [];
  for await (const region of catalogue.doubtful()) {
    append(doubtful, region * fanOut, catalogue.shape.nodesIn(0, region));
    if (doubtful.length > rangesMax) return undefined;
  }
  const recorded: Range[] = [];
  for await (const { region, indexes } of histories.since(pair)) {
    for (const index of indexes) append(recorded, region * fanOut + index, 1);
    if (recorded.length > rangesMax) return undefined;
  }
  // A generation that was committed meanwhile, or a catalogue that was thrown away, is another story.
  if (histories.generation(pair) !== generation || catalogue.lost) return undefined;
  const changed = union(doubtful, recorded);
  const unchanged = complement(changed, catalogue.shape.nodes[0]!);
  return {
    generation: Buffer.from(generation, "hex"),
    ...(unchanged.length < changed.length
      ? { names: "unchanged", ranges: unchanged }
      : { names: "changed", ranges: changed }),
  };
}
