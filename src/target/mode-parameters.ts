// Mode parameters of a logical unit: the pages, which bits of them MODE SELECT may change, and their values.
//
// Guarantees: a parameter list is applied whole or not at all; bits that can't be changed are refused when they
// differ, never ignored. Nothing is saved: a reset brings the defaults back.
//
// Source: SPC-4, 7.5 (control, informational exceptions); SBC-3, 6.5 (caching, read-write error recovery).

interface Page {
  readonly current: Buffer;
  /** Bits that can be changed. */
  readonly mask: Buffer;
  readonly initial: Buffer;
}

const code = { recovery: 0x01, caching: 0x08, control: 0x0a, exceptions: 0x1c } as const;
const writeCacheEnable = 0x04;
const descriptorSense = 0x04;
const softwareWriteProtect = 0x08;

function page(
  pageCode: number,
  bytes: number,
  values: Record<number, number>,
  changeable: Record<number, number>,
): Page {
  const initial = Buffer.alloc(bytes);
  const mask = Buffer.alloc(bytes);
  initial[0] = mask[0] = pageCode;
  initial[1] = mask[1] = bytes - 2;
  for (const [at, value] of Object.entries(values)) initial[Number(at)] = value;
  for (const [at, value] of Object.entries(changeable)) mask[Number(at)] = value;
  return { current: Buffer.from(initial), mask, initial };
}

export type PageControl = "current" | "changeable" | "default";

export class ModeParameters {
  readonly #writeCacheSet: (enabled: boolean) => void;
  readonly #pages: ReadonlyMap<number, Page>;

  /** `writeCacheSet` is told whenever WCE may have changed. */
  constructor(writeCacheSet: (enabled: boolean) => void) {
    this.#writeCacheSet = writeCacheSet;
    this.#pages = new Map(
      [
        page(code.recovery, 12, { 2: 0xc0 }, {}), // AWRE, ARRE: the device below sees to it
        // WCE: what is written may be in a page cache until SYNCHRONIZE CACHE or FUA.
        page(code.caching, 20, { 2: writeCacheEnable }, { 2: writeCacheEnable }),
        // QUEUE ALGORITHM MODIFIER 1: unrestricted reordering; BUSY TIMEOUT PERIOD: unlimited.
        page(
          code.control,
          12,
          { 3: 0x10, 8: 0xff, 9: 0xff },
          { 2: descriptorSense, 4: softwareWriteProtect },
        ),
        page(code.exceptions, 12, { 2: 0x08 }, {}), // DEXCPT: none are reported of the unit's own accord
      ].map((each) => [each.initial[0]!, each]),
    );
  }

  get pageCodes(): readonly number[] {
    return [...this.#pages.keys()];
  }

  /** D_SENSE: sense data comes in descriptor format. */
  get descriptorSense(): boolean {
    return this.#bit(code.control, 2, descriptorSense);
  }

  /** SWP: no command may write. */
  get softwareWriteProtect(): boolean {
    return this.#bit(code.control, 4, softwareWriteProtect);
  }

  #bit(pageCode: number, at: number, bit: number): boolean {
    return (this.#pages.get(pageCode)!.current[at]! & bit) !== 0;
  }

  /** A copy of a page with its head; undefined for one that is not here. */
  page(pageCode: number, control: PageControl): Buffer | undefined {
    const found = this.#pages.get(pageCode);
    if (!found) return undefined;
    const { current, mask, initial } = found;
    return Buffer.from(control === "current" ? current : control === "changeable" ? mask : initial);
  }

  /**
   * Takes pages one after another. Undefined if they were applied, or the offset of what can't be taken; then nothing
   * was changed. `changed` tells whether any value is another now.
   */
  select(list: Buffer): { wrongAt: number } | { changed: boolean } {
    const next = new Map<Page, Buffer>();
    for (let at = 0; at < list.length; ) {
      const found = this.#pages.get(list[at]! & 0x3f);
      // SPF: no subpages here. PS is reserved in MODE SELECT.
      if (!found || (list[at]! & 0xc0) !== 0) return { wrongAt: at };
      const { current, mask } = found;
      if (list[at + 1] !== current.length - 2 || at + current.length > list.length)
        return { wrongAt: at + 1 };
      const taken = Buffer.from(list.subarray(at, at + current.length));
      for (let i = 2; i < taken.length; i++) {
        if (((taken[i]! ^ current[i]!) & ~mask[i]!) !== 0) return { wrongAt: at + i };
      }
      next.set(found, taken);
      at += current.length;
    }
    let changed = false;
    for (const [{ current }, taken] of next) {
      changed ||= !current.equals(taken);
      taken.copy(current);
    }
    this.#apply();
    return { changed };
  }

  /** The defaults are in force again. */
  reset(): void {
    for (const { current, initial } of this.#pages.values()) initial.copy(current);
    this.#apply();
  }

  #apply(): void {
    this.#writeCacheSet(this.#bit(code.caching, 2, writeCacheEnable));
  }
}
