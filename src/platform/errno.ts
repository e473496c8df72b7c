// Errors of the operating system, by their names.
import { constants } from "node:os";

/** Where a number has two names (EAGAIN is EWOULDBLOCK), the first one counts. */
const names = new Map(
  Object.entries(constants.errno)
    .reverse()
    .map(([name, number]) => [number, name]),
);

const words: Record<string, string> = {
  EIO: "input/output error",
  ENOSPC: "no space left on device",
  EDQUOT: "disk quota exceeded",
  EFBIG: "file too large",
  EACCES: "permission denied",
  EPERM: "operation not permitted",
  ENOENT: "no such file or directory",
  EBUSY: "device or resource busy",
  EAGAIN: "locked by another process",
  EISDIR: "is a directory",
  EINVAL: "invalid argument",
  EROFS: "read-only file system",
  ENXIO: "it has become shorter, or the device is gone",
  ENOMEDIUM: "no medium found",
  ENODEV: "no such device",
  EBADF: "it was closed",
  EMSGSIZE: "message too long",
};

/** A system call failed. `code` is the errno's name; `offsetBytes` is where, if that is known. */
export class SystemError extends Error {
  override readonly name = "SystemError";
  readonly code: string;
  readonly offsetBytes: number | undefined;

  constructor(errno: number, offsetBytes?: number) {
    const code = names.get(errno) ?? `errno ${errno}`;
    super(words[code] === undefined ? code : `${words[code]} (${code})`);
    this.code = code;
    this.offsetBytes = offsetBytes;
  }
}
