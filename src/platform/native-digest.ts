// The addon's digest kernels and encoding as functions: checksums of PDUs, and what tests and benchmarks
// need.
//
// Digests of volumes don't come from here but from block-file.ts, which reads and digests in threads. All of
// this runs synchronously on the event loop.
import { native } from "./native.ts";

export interface DigestKernels {
  readonly algorithm: string;
  readonly digestBytes: number;
  /** The kernel in use. */
  readonly chosen: string;
  /** Messages at once that keep it busy. */
  readonly lanes: number;
  /** What this CPU can run within LUNSYNC_CPU (portable, sse, avx2, avx512), the best first. */
  readonly available: readonly string[];
}

interface DigestAddon {
  /** CRC-32C (Castagnoli); to go on, pass the result for what came before as `seed`. */
  crc32c(data: Uint8Array, seed?: number): number;

  isZero(data: Uint8Array): boolean;

  /** In the order of the algorithms' numbers. */
  digestKernels(): DigestKernels[];

  /**
   * Digests of messages of one length, one behind the other, fed to the kernel in slices of `sliceBytes`, which is
   * a multiple of 128. `kernel` null: the chosen one.
   */
  digestMessages(
    algorithm: number,
    kernel: string | null,
    messages: readonly Uint8Array[],
    sliceBytes: number,
  ): Buffer;

  /** AES-128 (or its inverse) of each 16-byte block with the key derived of its identifier. */
  encodeIdentifiers(
    identifiers: Uint8Array,
    identifierBytes: number,
    blocks: Uint8Array,
    decode: boolean,
    portable?: boolean,
  ): Buffer;

  /** AES-128 (or its inverse) of each 16-byte block with its own 16-byte key. */
  aesBlocks(keys: Uint8Array, blocks: Uint8Array, decode: boolean, portable?: boolean): Buffer;

  /** GB/s of one thread over extents in `totalBytes` of memory, as block-file.ts has them digested. */
  digestBenchmark(
    algorithm: number,
    kernel: string | null,
    extentBytes: number,
    totalBytes: number,
    milliseconds: number,
  ): number;

  /** GB/s at which one thread can read memory. */
  memoryReadBenchmark(totalBytes: number, milliseconds: number): number;
}

export const {
  crc32c,
  isZero,
  digestKernels,
  digestMessages,
  encodeIdentifiers,
  aesBlocks,
  digestBenchmark,
  memoryReadBenchmark,
} = native as unknown as DigestAddon;
