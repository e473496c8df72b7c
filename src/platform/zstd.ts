// Zstandard (RFC 8878) for data on its way: compressed and expanded by Node's threads, beside the event loop.
//
// Guarantees: expand() gives exactly as many bytes as were asked for or nothing, and takes no more memory than that and
// one window, whatever the frame says. The input is lent until the promise settles.
import { constants, zstdCompress, zstdDecompress } from "node:zlib";

/** Frames that need a larger window are not expanded. Levels up to 3 make windows of at most 2 MiB. */
const windowLogMax = 23;
/** With a little more room than the output takes, Node makes one buffer for it, and not a second one to see the end. */
const slackBytes = 1024;

const options = (level: number, bytes: number) => ({
  params: { [constants.ZSTD_c_compressionLevel]: level },
  pledgedSrcSize: bytes,
  chunkSize: bytes + slackBytes,
});

/** One frame. */
export function compress(data: Buffer, level: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    zstdCompress(data, options(level, data.length), (error, result) => {
      if (error) reject(error);
      else resolve(result);
    });
  });
}

/** What is no fault of the data. */
const outOfMemory = "ZSTD_error_memory_allocation";

/**
 * The `bytes` bytes that the frame at the beginning of the data expands to; undefined if it is not whole, or expands to
 * more or fewer bytes. What stands behind it may be looked at or not.
 */
export function expand(data: Buffer, bytes: number): Promise<Buffer | undefined> {
  const limits = {
    params: { [constants.ZSTD_d_windowLogMax]: windowLogMax },
    maxOutputLength: bytes,
    chunkSize: bytes + slackBytes,
  };
  return new Promise((resolve, reject) => {
    zstdDecompress(data, limits, (error, result) => {
      if (!error) resolve(result.length === bytes ? result : undefined);
      else if ((error as NodeJS.ErrnoException).code === outOfMemory) reject(error);
      else resolve(undefined);
    });
  });
}
