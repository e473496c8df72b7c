// CRC-32C bit by bit, so that it is nobody's kernel. Its own vectors are checked in test/iscsi/pdu.test.ts.

/** Castagnoli, reflected; to go on, pass the result for what came before. */
export function crc32c(data: Uint8Array, previous = 0): number {
  let crc = ~previous;
  for (const byte of data) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
  }
  return ~crc >>> 0;
}
