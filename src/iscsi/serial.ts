// 32-bit sequence numbers that wrap: CmdSN, StatSN, DataSN.
//
// Source: RFC 1982 serial number arithmetic, as RFC 7143, 4.2.2.1 prescribes.

/** a + n, modulo 2^32. */
export const serialAdd = (a: number, n: number): number => (a + n) >>> 0;

/** True if a comes before b. */
export const serialBefore = (a: number, b: number): boolean => a !== b && (b - a) >>> 0 < 0x80000000;

/** How far b is ahead of a: −2^31 … 2^31 − 1. */
export const serialDistance = (a: number, b: number): number => (b - a) | 0;
