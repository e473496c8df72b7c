// The outbox on real sockets: everything arrives, in order, and every lent buffer is given back once, whether the
// kernel takes all of it at once, a part, or nothing.
import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import fc from "fast-check";
import { expect, test } from "vitest";
import { Outbox } from "../../src/platform/outbox.ts";

async function connected(): Promise<{ near: Socket; far: Socket; close(): void }> {
  const server = createServer({ pauseOnConnect: true }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  const accepted = once(server, "connection");
  const near = connect(port, "127.0.0.1");
  const [far] = (await accepted) as [Socket];
  await once(near, "ready");
  const close = () => {
    near.destroy();
    far.destroy();
    server.close();
  };
  return { near, far, close };
}

/** Bytes that differ everywhere, so that nothing can change places unseen. */
function stream(length: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let i = 0; i + 4 <= length; i += 4) bytes.writeUInt32LE(i, i);
  return bytes;
}

/** Takes everything up to `length` bytes. */
async function received(far: Socket, length: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let has = 0;
  far.resume();
  while (has < length) {
    const [chunk] = (await once(far, "data")) as [Buffer];
    chunks.push(chunk);
    has += chunk.length;
  }
  return Buffer.concat(chunks);
}

const settled = () => new Promise((resolve) => setImmediate(resolve));

test("pieces of all sizes arrive in order, however they are grouped, also at a peer that takes nothing for a while", async () => {
  const piece = fc.oneof(fc.integer({ min: 4, max: 200 }), fc.integer({ min: 1000, max: 300_000 }));
  const group = fc.record({
    pieces: fc.array(piece, { minLength: 1, maxLength: 12 }),
    batched: fc.boolean(),
    wait: fc.boolean(),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(group, { minLength: 1, maxLength: 8 }), async (groups) => {
      const { near, far, close } = await connected();
      try {
        const total = groups.flatMap(({ pieces }) => pieces).reduce((sum, each) => sum + each, 0);
        const bytes = stream(total);
        const outbox = new Outbox(near);
        const given: number[] = [];
        let at = 0;
        let lent = 0;
        for (const { pieces, batched, wait } of groups) {
          const write = () => {
            for (const length of pieces) {
              const number = lent++;
              outbox.write([bytes.subarray(at, at + length)], () => given.push(number));
              at += length;
            }
          };
          if (batched) {
            outbox.batch(write);
            expect(outbox.bytesSent).toBe(at);
          } else write();
          if (wait) await settled();
        }
        const arrived = await received(far, total);
        expect(arrived.equals(bytes)).toBe(true);
        while (outbox.queuedBytes > 0) await settled();
        await settled();
        expect(given).toEqual(Array.from({ length: lent }, (_, i) => i));
        expect(outbox.bytesSent).toBe(total);
        expect(outbox.takenBytes).toBe(total);
      } finally {
        close();
      }
    }),
    { numRuns: 60 },
  );
});

test("small pieces behind what waits keep their bytes and their place, also when the kernel has room again", async () => {
  const { near, far, close } = await connected();
  try {
    const outbox = new Outbox(near);
    const expected: Buffer[] = [];
    let next = 0;
    const write = (length: number) => {
      const piece = Buffer.alloc(length);
      for (let i = 0; i < length; i += 4) piece.writeUInt32LE(next++, i);
      expected.push(piece);
      outbox.batch(() => outbox.write([piece]));
    };
    while (outbox.queuedBytes < 1024 * 1024) write(256 * 1024);
    for (let i = 0; i < 500; i++) write(400);
    const chunks: Buffer[] = [];
    let missing = -1;
    far.on("data", (chunk) => {
      chunks.push(chunk);
      // The peer has just made room, and nobody has told the socket yet.
      if (expected.length < 2000) for (let i = 0; i < 20; i++) write(400);
    });
    far.resume();
    while (missing !== 0) {
      await settled();
      missing = outbox.bytesSent - chunks.reduce((sum, { length }) => sum + length, 0);
    }
    expect(expected.length).toBeGreaterThanOrEqual(2000);
    expect(Buffer.concat(chunks).equals(Buffer.concat(expected))).toBe(true);
  } finally {
    close();
  }
});

test("what a peer does not take stays counted, and is given back once when the socket dies", async () => {
  const { near, close } = await connected();
  const outbox = new Outbox(near);
  near.on("error", () => {});
  const buffer = Buffer.alloc(1024 * 1024);
  let given = 0;
  for (let i = 0; i < 64; i++) {
    outbox.write([buffer], () => given++);
    await settled();
  }
  expect(outbox.queuedBytes).toBeGreaterThan(16 * 1024 * 1024);
  expect(outbox.takenBytes + outbox.queuedBytes).toBe(64 * buffer.length);
  expect(given).toBeLessThan(64);
  const closed = once(near, "close");
  close();
  outbox.write([buffer], () => given++);
  outbox.flush();
  await closed;
  await settled();
  expect(given).toBe(65);
});

test("nothing leaves behind the end of the stream", async () => {
  const { near, far, close } = await connected();
  const outbox = new Outbox(near);
  outbox.batch(() => outbox.write([Buffer.from("last")]));
  near.end();
  let given = 0;
  outbox.batch(() => outbox.write([Buffer.from("too late")], () => given++));
  expect(given).toBe(1);
  const chunks: Buffer[] = [];
  far.on("data", (chunk) => chunks.push(chunk));
  far.resume();
  await once(far, "end");
  expect(Buffer.concat(chunks).toString()).toBe("last");
  close();
});
