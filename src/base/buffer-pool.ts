// Buffers that are used again: a fresh one of a MiB costs more in page faults than the read that fills it.
//
// Guarantees: a buffer is out to one borrower at a time; what lies idle never exceeds `idleBytesMax`. The contents are
// those of the last use: whoever borrows fills what he shows to others.

const smallestBytes = 4096;

export class BufferPool {
  readonly #idleBytesMax: number;
  readonly #idle = new Map<number, Buffer[]>();
  #idleBytes = 0;

  constructor(idleBytesMax: number) {
    this.#idleBytesMax = idleBytesMax;
  }

  /** A buffer of exactly `bytes`, and the call that gives it back (only the first counts). */
  borrow(bytes: number): { buffer: Buffer; giveBack: () => void } {
    const size = Math.max(smallestBytes, 2 ** Math.ceil(Math.log2(bytes)));
    const whole = this.#idle.get(size)?.pop();
    if (whole) this.#idleBytes -= size;
    const buffer = whole ?? Buffer.allocUnsafeSlow(size);
    let lent: Buffer | undefined = buffer;
    const giveBack = () => {
      const given = lent;
      lent = undefined;
      if (given === undefined || this.#idleBytes + size > this.#idleBytesMax) return;
      const list = this.#idle.get(size);
      if (list) list.push(given);
      else this.#idle.set(size, [given]);
      this.#idleBytes += size;
    };
    return { buffer: buffer.subarray(0, bytes), giveBack };
  }
}
