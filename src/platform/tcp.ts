// TCP sockets that read into one buffer of their own, again and again.
//
// Node makes a new buffer for every read of a socket; at GiB a second the garbage collector then does more than the
// program. Its `onread` option avoids that for sockets that connect; for those that a server accepted, the connection's
// handle is put into a socket with that option. Where Node has no such handle, ordinary reads do.
//
// Sending likewise: a small reply costs less than the streams that it would pass on its way to the kernel.
import { connect, Socket } from "node:net";
import { native } from "./native.ts";

const addon = native as unknown as { sendNow(fd: number, pieces: readonly Uint8Array[]): number };

const readBytes = 256 * 1024;

/** Called with what came; the bytes are valid during the call only. */
export type OnBytes = (bytes: Buffer) => void;

function onread(onBytes: OnBytes) {
  const buffer = Buffer.allocUnsafeSlow(readBytes);
  return {
    buffer,
    callback(count: number): boolean {
      onBytes(buffer.subarray(0, count));
      return true;
    },
  };
}

export function connectTcp(host: string, port: number, onBytes: OnBytes): Socket {
  return connect({ host, port, noDelay: true, onread: onread(onBytes) });
}

/** A connection that a server accepted with `pauseOnConnect`; the socket to use from here on. */
export function acceptTcp(accepted: Socket, onBytes: OnBytes): Socket {
  const inner = accepted as unknown as { _handle: object | null };
  const handle = inner._handle;
  if (handle === undefined || handle === null) {
    accepted.on("data", onBytes);
    accepted.resume();
    return accepted;
  }
  inner._handle = null;
  const options = { handle, onread: onread(onBytes), readable: true, writable: true };
  const socket = new Socket(options as ConstructorParameters<typeof Socket>[0]);
  socket.setNoDelay(true);
  socket.resume();
  return socket;
}

/**
 * How many bytes of `pieces` the kernel took at once; the rest is to be written to the socket. Takes nothing while the
 * socket still has something to send.
 */
export function sendNow(socket: Socket, pieces: readonly Buffer[]): number {
  if (socket.writableLength > 0 || socket.connecting || !socket.writable) return 0;
  const fd = (socket as unknown as { _handle?: { fd?: number } | null })._handle?.fd;
  return fd === undefined || fd < 0 ? 0 : addon.sendNow(fd, pieces);
}
