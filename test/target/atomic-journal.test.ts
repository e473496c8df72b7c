// WRITE ATOMIC's journal against power cuts at every write, failing media and strangers who write in between.
import { readFile, writeFile } from "node:fs/promises";
import fc from "fast-check";
import { expect, test } from "vitest";
import { AtomicJournal } from "../../src/target/atomic-journal.ts";
import { WorkFolder } from "../support/lunsync.ts";

const sector = 512;
const uuid = Buffer.alloc(16, 7);

class Medium {
  readonly bytes: Buffer;
  failing = false;

  constructor(blocks: number) {
    this.bytes = Buffer.alloc(blocks * sector, "old ");
  }

  async read(lba: number, buffer: Buffer): Promise<void> {
    this.bytes.copy(buffer, 0, lba * sector, lba * sector + buffer.length);
  }

  async write(lba: number, pieces: readonly Buffer[]): Promise<void> {
    Buffer.concat(pieces).copy(this.bytes, lba * sector);
    if (this.failing) throw new Error("EIO");
  }
}

const journalOf = (folder: WorkFolder) => new AtomicJournal(folder.file("journal"), uuid, sector);

test("what an interrupted write left is undone by the next start, from the note alone", async () => {
  await using folder = await WorkFolder.make();
  await fc.assert(
    fc.asyncProperty(
      fc.nat(40),
      fc.integer({ min: 1, max: 24 }),
      fc.nat(2 ** 24 - 1),
      async (lba, blocks, written) => {
        const medium = new Medium(64);
        const before = Buffer.from(medium.bytes);
        const data = Buffer.alloc(blocks * sector, "new!");
        // The journal's file as it is at the moment of the cut: between note and erasure.
        let atCut: Buffer | undefined;
        const cut = {
          read: medium.read.bind(medium),
          write: async (at: number, pieces: readonly Buffer[]) => {
            atCut ??= await readFile(folder.file("journal"));
            return medium.write(at, pieces);
          },
        };
        await using journal = journalOf(folder);
        await journal.write(cut, lba, [data]);
        before.copy(medium.bytes);
        // Any of its sectors may have been written.
        for (let i = 0; i < blocks; i++) {
          if ((written >> i) & 1) data.copy(medium.bytes, (lba + i) * sector, i * sector, (i + 1) * sector);
        }
        await writeFile(folder.file("journal"), atCut!);
        expect(await journal.recover(medium)).toBe("restored");
        expect(medium.bytes.equals(before)).toBe(true);
        expect(await journal.recover(medium)).toBe("nothing");
      },
    ),
    { numRuns: 100 },
  );
});

test("a note is left alone where somebody else has written since, for another volume, and when damaged", async () => {
  await using folder = await WorkFolder.make();
  const medium = new Medium(64);
  let atCut = Buffer.alloc(0);
  const cut = {
    read: medium.read.bind(medium),
    write: async (at: number, pieces: readonly Buffer[]) => {
      atCut = await readFile(folder.file("journal"));
      return medium.write(at, pieces);
    },
  };
  await using journal = journalOf(folder);
  await journal.write(cut, 3, [Buffer.alloc(4 * sector, "new!")]);
  const after = Buffer.from(medium.bytes);

  medium.bytes.write("stranger", 4 * sector);
  await writeFile(folder.file("journal"), atCut);
  expect(await journal.recover(medium)).toBe("foreign");
  after.copy(medium.bytes);

  for (const at of [0, 9, 30, 41, 4096, 12288, 12288 + 4 * sector - 1]) {
    const damaged = Buffer.from(atCut);
    damaged[at]! ^= 1;
    await writeFile(folder.file("journal"), damaged);
    expect([at, await journal.recover(medium)]).toEqual([at, "nothing"]);
  }
  await journal[Symbol.asyncDispose]();
  await writeFile(folder.file("journal"), atCut);
  await using other = new AtomicJournal(folder.file("journal"), Buffer.alloc(16, 8), sector);
  expect(await other.recover(medium)).toBe("nothing");
  expect(medium.bytes.equals(after)).toBe(true);
});

test("a medium that refuses the new data gets the old back, and the error is the medium's", async () => {
  await using folder = await WorkFolder.make();
  const medium = new Medium(64);
  const before = Buffer.from(medium.bytes);
  let writes = 0;
  const once = {
    read: medium.read.bind(medium),
    write: async (at: number, pieces: readonly Buffer[]) => {
      medium.failing = writes++ === 0;
      return medium.write(at, pieces);
    },
  };
  await using journal = journalOf(folder);
  await expect(journal.write(once, 0, [Buffer.alloc(sector * 9, "new!")])).rejects.toThrow("EIO");
  expect(medium.bytes.equals(before)).toBe(true);
  expect(await journal.recover(medium)).toBe("nothing");
});
