// Extents by their content: where a catalogue knows of data with a given identifier.
//
// Guarantees: what is found is believed at that moment; whoever uses it later proves it. Zeros are not looked for.
import type { Catalogue } from "./catalogue.ts";

/** An extent for each of the identifiers in `wanted`, if one that is believed has it. The whole catalogue is looked through. */
export async function findExtents(catalogue: Catalogue, wanted: Buffer): Promise<(number | undefined)[]> {
  const { identifierBytes } = catalogue.shape;
  const count = wanted.length / identifierBytes;
  const places = new Array<number | undefined>(count).fill(undefined);
  const headOf = (identifier: Buffer) => identifier.readUIntBE(0, Math.min(6, identifierBytes));
  const wantedBy = new Map<number, number[]>();
  for (let i = 0; i < count; i++) {
    const head = headOf(wanted.subarray(i * identifierBytes, (i + 1) * identifierBytes));
    const same = wantedBy.get(head);
    if (same) same.push(i);
    else wantedBy.set(head, [i]);
  }
  let missing = count;
  if (missing === 0) return places;
  for await (const { first, extents, page } of catalogue.believed()) {
    for (let i = 0; i < extents; i++) {
      const identifier = page.identifier(i);
      for (const which of wantedBy.get(headOf(identifier)) ?? []) {
        if (places[which] !== undefined) continue;
        const at = which * identifierBytes;
        if (wanted.compare(identifier, 0, identifierBytes, at, at + identifierBytes) !== 0) continue;
        places[which] = first + i;
        missing--;
      }
    }
    if (missing === 0) break;
  }
  return places;
}
