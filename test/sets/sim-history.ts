// What a host remembers of its volume's changes, by generations, as a catalogue's histories do it when nothing is wrong with them:
// test/catalogue/simulation.test.ts has those. Here it is known on the medium before anything is written.
import { AgentError } from "../../src/base/errors.ts";
import { append, type Range } from "../../src/base/ranges.ts";
import type { GenerationChanges } from "../../src/volume/volume.ts";

interface Since {
  readonly generation: Buffer;
  readonly changed: Set<number>;
}

interface Pair {
  common: Since | undefined;
  begun: Since | undefined;
}

export class SimHistories {
  #pairs = new Map<string, Pair>();

  /** These extents are going to change, or may have lost what was written to them. */
  note(extents: readonly number[]): void {
    for (const { common, begun } of this.#pairs.values())
      for (const extent of extents) {
        common?.changed.add(extent);
        begun?.changed.add(extent);
      }
  }

  begin(name: Buffer, generation: Buffer): void {
    const pair = this.#pair(name);
    pair.begun = { generation, changed: new Set() };
  }

  changes(name: Buffer): GenerationChanges | undefined {
    const { common } = this.#pair(name);
    if (!common) return undefined;
    const ranges: Range[] = [];
    for (const extent of [...common.changed].sort((a, b) => a - b)) append(ranges, extent, 1);
    return { generation: common.generation, names: "changed", ranges };
  }

  /** @throws AgentError `not_known` */
  commit(name: Buffer, generation: Buffer): void {
    const pair = this.#pair(name);
    if (!pair.begun?.generation.equals(generation))
      throw new AgentError("not_known", "another generation was begun since");
    pair.common = pair.begun;
    pair.begun = undefined;
  }

  /** They are lost. */
  forget(): void {
    this.#pairs.clear();
  }

  #pair(name: Buffer): Pair {
    const key = name.toString("hex");
    const pair = this.#pairs.get(key) ?? { common: undefined, begun: undefined };
    this.#pairs.set(key, pair);
    return pair;
  }
}
