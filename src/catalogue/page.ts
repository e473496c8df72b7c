// One page of a catalogue: the identifiers of up to 64 neighbours, and two bits for each.
//
// Guarantees: bytes that are not what encode() made for this place – torn, stale from another place, rotten, never
// written – decode to a page in which nothing is valid.
//
// Format (docs/formats/catalogue.md): CRC-32C of all that follows, level, number, valid bits, suspect bits, identifiers.
import { crc32c, isZero } from "../platform/native-digest.ts";
import { fanOut, pageHeaderBytes, type TreeShape } from "./shape.ts";

export class Page {
  readonly level: number;
  readonly number: number;
  /** The bytes of the file, but for the checksum, which encode() sets. */
  readonly #bytes: Buffer;
  readonly #identifierBytes: number;
  /** It is on the medium, in this or an older form. */
  stored: boolean;
  /** Its identifiers are those of which its parent is the digest. */
  verified = false;

  private constructor(
    bytes: Buffer,
    level: number,
    number: number,
    identifierBytes: number,
    stored: boolean,
  ) {
    this.#bytes = bytes;
    this.level = level;
    this.number = number;
    this.#identifierBytes = identifierBytes;
    this.stored = stored;
  }

  static blank(shape: TreeShape, level: number, number: number): Page {
    const bytes = Buffer.alloc(shape.pageBytes);
    bytes[4] = level;
    bytes.writeUIntBE(number, 8, 6);
    return new Page(bytes, level, number, shape.identifierBytes, false);
  }

  /** Takes `bytes` over. */
  static decode(shape: TreeShape, level: number, number: number, bytes: Buffer): Page {
    const right =
      bytes[4] === level &&
      bytes.readUIntBE(8, 6) === number &&
      bytes.readUInt32BE(0) === crc32c(bytes.subarray(4));
    return right
      ? new Page(bytes, level, number, shape.identifierBytes, true)
      : Page.blank(shape, level, number);
  }

  /**
   * Likewise for a page of a set of changes: what was never written has none, and in what is damaged everything has changed.
   */
  static decodeChanges(shape: TreeShape, level: number, number: number, bytes: Buffer): Page {
    const page = Page.decode(shape, level, number, bytes);
    if (page.stored || isZero(bytes)) return page;
    for (let index = 0; index < fanOut; index++) page.setValid(index, true);
    return page;
  }

  /** The bytes for the file: a copy. */
  encode(): Buffer {
    const bytes = Buffer.from(this.#bytes);
    bytes.writeUInt32BE(crc32c(bytes.subarray(4)), 0);
    return bytes;
  }

  isValid(index: number): boolean {
    return (this.#bytes[16 + (index >> 3)]! & (0x80 >> (index & 7))) !== 0;
  }

  setValid(index: number, valid: boolean): void {
    this.#setBit(16, index, valid);
  }

  /** The medium was found to differ from what was written. */
  isSuspect(index: number): boolean {
    return (this.#bytes[24 + (index >> 3)]! & (0x80 >> (index & 7))) !== 0;
  }

  setSuspect(index: number, suspect: boolean): void {
    this.#setBit(24, index, suspect);
  }

  /** True if all of its first `count` nodes are valid. */
  allValid(count: number): boolean {
    for (let i = 0; i < count; i++) if (!this.isValid(i)) return false;
    return true;
  }

  /** A view, not a copy. */
  identifier(index: number): Buffer {
    const at = pageHeaderBytes + index * this.#identifierBytes;
    return this.#bytes.subarray(at, at + this.#identifierBytes);
  }

  setIdentifier(index: number, identifier: Uint8Array): void {
    this.#bytes.set(identifier, pageHeaderBytes + index * this.#identifierBytes);
  }

  /** The identifiers of its first `count` nodes, one after another: a view. */
  identifiers(count = fanOut): Buffer {
    return this.#bytes.subarray(pageHeaderBytes, pageHeaderBytes + count * this.#identifierBytes);
  }

  /** True if the medium of one of its first `count` nodes differs from what was written. */
  anySuspect(count: number): boolean {
    for (let i = 0; i < count; i++) if (this.isSuspect(i)) return true;
    return false;
  }

  #setBit(byte: number, index: number, value: boolean): void {
    const mask = 0x80 >> (index & 7);
    const at = byte + (index >> 3);
    this.#bytes[at] = value ? this.#bytes[at]! | mask : this.#bytes[at]! & ~mask;
  }
}
