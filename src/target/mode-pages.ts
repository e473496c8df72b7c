// MODE SENSE: how the logical unit behaves. Nothing can be changed by MODE SELECT, which is not offered.
//
// Source: SPC-4, 6.13 and 7.5; SBC-3, 6.5 (caching mode page).
import type { LogicalUnit } from "./logical-unit.ts";
import { checkCondition, dataInResult, invalidCdbField, type ScsiResult } from "./scsi-task.ts";

interface ModeSense {
  readonly dbd: boolean;
  readonly llbaa: boolean;
  readonly pageControl: number;
  readonly pageCode: number;
  readonly subpageCode: number;
  readonly allocationLength: number;
}

const changeable = 1;
const saved = 3;
const allPages = 0x3f;
const allSubpages = 0xff;

/** Caching: WCE is 1 (data may be in a page cache until SYNCHRONIZE CACHE or FUA). */
function cachingPage(): Buffer {
  const page = Buffer.alloc(20);
  page[0] = 0x08;
  page[1] = 18;
  page[2] = 0x04;
  return page;
}

/** Control: commands may be reordered (SIMPLE), aborted tasks are not reported to other initiators. */
function controlPage(): Buffer {
  const page = Buffer.alloc(12);
  page[0] = 0x0a;
  page[1] = 10;
  page[3] = 0x10; // QUEUE ALGORITHM MODIFIER: unrestricted reordering
  page.writeUInt16BE(0xffff, 8); // BUSY TIMEOUT PERIOD: unlimited
  return page;
}

/** Informational exceptions: none are reported of the unit's own accord. */
function exceptionsPage(): Buffer {
  const page = Buffer.alloc(12);
  page[0] = 0x1c;
  page[1] = 10;
  page[2] = 0x08; // DEXCPT
  return page;
}

const pages: Readonly<Record<number, () => Buffer>> = { 8: cachingPage, 10: controlPage, 28: exceptionsPage };

/** Without values that can be changed, the changeable page is zeros behind its head. */
function shown(page: Buffer, pageControl: number): Buffer {
  if (pageControl === changeable) page.fill(0, 2);
  return page;
}

/** `short`: MODE SENSE (6). */
export function modeSense(unit: LogicalUnit, fields: ModeSense, short: boolean): ScsiResult {
  if (fields.pageControl === saved) return checkCondition("savingParametersNotSupported");
  if (fields.subpageCode !== 0 && fields.subpageCode !== allSubpages) return invalidCdbField(3);
  const codes = fields.pageCode === allPages ? Object.keys(pages).map(Number) : [fields.pageCode];
  const bodies: Buffer[] = [];
  for (const code of codes) {
    const page = pages[code];
    if (!page) return invalidCdbField(2, 5);
    bodies.push(shown(page(), fields.pageControl));
  }
  const { blocks, blockBytes } = unit.volume.geometry;
  let descriptor = Buffer.alloc(0);
  if (!fields.dbd) {
    if (!short && fields.llbaa) {
      descriptor = Buffer.alloc(16);
      descriptor.writeBigUInt64BE(BigInt(blocks), 0);
      descriptor.writeUInt32BE(blockBytes, 12);
    } else {
      descriptor = Buffer.alloc(8);
      descriptor.writeUInt32BE(Math.min(blocks, 0xffffffff), 0);
      descriptor.writeUIntBE(blockBytes, 5, 3);
    }
  }
  const deviceSpecific = (unit.readonly ? 0x80 : 0) | 0x10; // WP, DPOFUA
  const rest = Buffer.concat([descriptor, ...bodies]);
  let head: Buffer;
  if (short) {
    head = Buffer.from([Math.min(255, 3 + rest.length), 0, deviceSpecific, descriptor.length]);
  } else {
    head = Buffer.alloc(8);
    head.writeUInt16BE(6 + rest.length, 0);
    head[3] = deviceSpecific;
    head[4] = descriptor.length === 16 ? 1 : 0; // LONGLBA
    head.writeUInt16BE(descriptor.length, 6);
  }
  return dataInResult(Buffer.concat([head, rest]), fields.allocationLength);
}
