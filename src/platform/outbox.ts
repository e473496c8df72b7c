// What waits to be sent on one socket.
//
// Pieces that are written within one turn of the event loop leave in one writev: small ones are copied together, big
// ones are sent from where they lie. A lent buffer is free again when its `onSent` is called, which happens once in
// every case, also when the socket dies first.
import type { Socket } from "node:net";
import { slicesOf } from "../base/bytes.ts";
import { sendNow } from "./tcp.ts";

const copyBelow = 2048;
const slabBytes = 64 * 1024;
/** With more than this the kernel gets to work while the rest is made. */
const heldBytesMax = 1024 * 1024;

export class Outbox {
  readonly #socket: Socket;
  #chunks: Buffer[] = [];
  #slab = Buffer.allocUnsafeSlow(slabBytes);
  #slabStart = 0;
  #slabEnd = 0;
  #callbacks: (() => void)[] = [];
  #scheduled = false;
  #held = false;
  #queuedBytes = 0;
  /** Bytes given to the socket so far. */
  bytesSent = 0;

  constructor(socket: Socket) {
    this.#socket = socket;
  }

  /** Bytes that are not with the kernel yet. */
  get queuedBytes(): number {
    return this.#queuedBytes + this.#socket.writableLength;
  }

  /** Bytes that the kernel has taken so far. */
  get takenBytes(): number {
    return this.bytesSent - this.#socket.writableLength;
  }

  /** Queues the pieces of one PDU. */
  write(pieces: readonly Buffer[], onSent?: () => void): void {
    for (const piece of pieces) {
      this.#queuedBytes += piece.length;
      if (piece.length >= copyBelow) {
        this.#closeRun();
        this.#chunks.push(piece);
        continue;
      }
      if (this.#slabEnd + piece.length > slabBytes) {
        this.#closeRun();
        this.#slab = Buffer.allocUnsafeSlow(slabBytes);
        this.#slabStart = this.#slabEnd = 0;
      }
      this.#slab.set(piece, this.#slabEnd);
      this.#slabEnd += piece.length;
    }
    if (onSent) this.#callbacks.push(onSent);
    if (this.#held) {
      if (this.#queuedBytes >= heldBytesMax) this.flush();
      return;
    }
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => this.flush());
  }

  /** Everything that `action` writes has been given to the socket when this returns. */
  batch(action: () => void): void {
    this.#held = true;
    try {
      action();
    } finally {
      this.#held = false;
      this.flush();
    }
  }

  /** Gives everything to the socket now. */
  flush(): void {
    this.#scheduled = false;
    this.#closeRun();
    const chunks = this.#chunks;
    const callbacks = this.#callbacks;
    if (chunks.length === 0) return;
    const bytes = this.#queuedBytes;
    this.#chunks = [];
    this.#callbacks = [];
    this.bytesSent += bytes;
    this.#queuedBytes = 0;
    const sent = () => {
      for (const callback of callbacks) callback();
    };
    if (!this.#socket.writable) {
      sent();
      return;
    }
    const taken = sendNow(this.#socket, chunks);
    if (taken === bytes) {
      this.#slabStart = this.#slabEnd = 0;
      sent();
      return;
    }
    const rest = taken === 0 ? chunks : slicesOf(chunks, taken, bytes - taken);
    this.#socket.cork();
    for (let i = 0; i < rest.length - 1; i++) this.#socket.write(rest[i]!);
    this.#socket.write(rest[rest.length - 1]!, callbacks.length > 0 ? sent : undefined);
    this.#socket.uncork();
  }

  #closeRun(): void {
    if (this.#slabEnd === this.#slabStart) return;
    this.#chunks.push(this.#slab.subarray(this.#slabStart, this.#slabEnd));
    this.#slabStart = this.#slabEnd;
  }
}
