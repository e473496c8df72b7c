// Runs of bytes that lie in several buffers; bytes that are nothing.

/** True of zeros, by which a format says that there is no name here. */
export const isBlank = (bytes: Uint8Array): boolean => bytes.every((byte) => byte === 0);

export function lengthOf(pieces: readonly Buffer[]): number {
  let length = 0;
  for (const piece of pieces) length += piece.length;
  return length;
}

/** The bytes from `offset`, as slices of the pieces; nothing is copied. */
export function slicesOf(pieces: readonly Buffer[], offset: number, length: number): Buffer[] {
  const slices: Buffer[] = [];
  const end = offset + length;
  let at = 0;
  for (const piece of pieces) {
    if (at >= end) break;
    const from = Math.max(offset, at);
    const to = Math.min(end, at + piece.length);
    if (from < to)
      slices.push(from === at && to === at + piece.length ? piece : piece.subarray(from - at, to - at));
    at += piece.length;
  }
  return slices;
}
