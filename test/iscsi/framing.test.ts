// PDUs out of a stream: whatever the chunks, the same PDUs; whatever the bytes, PDUs or a FramingError.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  additionalHeaders,
  extendedCdbAhs,
  FramingError,
  framePdu,
  type Pdu,
  PduDecoder,
} from "../../src/iscsi/framing.ts";
import { crc32c } from "../support/crc32c.ts";

const segmentMax = 4096;

const pduShape = fc.record({
  header: fc.uint8Array({ minLength: 48, maxLength: 48 }),
  ahsWords: fc.uint8Array({ maxLength: 12 }),
  data: fc.uint8Array({ maxLength: 300 }),
});
const switches = fc.record({ headerDigest: fc.boolean(), dataDigest: fc.boolean() });

/** Cuts bytes into chunks; the buffer of a chunk is overwritten afterwards, as a socket's is. */
function feed(decoder: PduDecoder, stream: Buffer, cuts: readonly number[]): Pdu[] {
  const pdus: Pdu[] = [];
  const shared = Buffer.alloc(stream.length);
  let at = 0;
  for (const cut of [...cuts, stream.length]) {
    const bytes = Math.min(stream.length - at, cut === stream.length ? stream.length : 1 + cut);
    if (bytes <= 0) break;
    const chunk = shared.subarray(0, bytes);
    stream.copy(chunk, 0, at, at + bytes);
    decoder.push(chunk, { pdu: (pdu) => pdus.push(pdu) });
    chunk.fill(0xee);
    at += bytes;
  }
  return pdus;
}

test("any chunks give the same PDUs, with and without digests", () => {
  fc.assert(
    fc.property(
      fc.array(pduShape, { minLength: 1, maxLength: 6 }),
      switches,
      fc.array(fc.nat(120), { maxLength: 60 }),
      (shapes, digests, cuts) => {
        const sent = shapes.map(({ header, ahsWords, data }) => ({
          header: Buffer.from(header),
          ahs: Buffer.from(ahsWords.subarray(0, ahsWords.length & ~3)),
          data: Buffer.from(data),
        }));
        const stream = Buffer.concat(
          sent.flatMap(({ header, ahs, data }) =>
            framePdu(
              crc32c,
              digests,
              header,
              data.length > 0 ? [data.subarray(0, 7), data.subarray(7)] : [],
              ahs,
            ),
          ),
        );
        expect(stream.length % 4).toBe(0);
        const decoder = new PduDecoder(crc32c, segmentMax);
        Object.assign(decoder.digests, digests);
        const pdus = feed(decoder, stream, cuts);
        expect(
          pdus.map((pdu) => ({
            header: pdu.header.toString("hex"),
            ahs: pdu.ahs.toString("hex"),
            data: pdu.data.toString("hex"),
            intact: pdu.dataIntact,
          })),
        ).toEqual(
          sent.map(({ header, ahs, data }) => ({
            header: header.toString("hex"),
            ahs: ahs.toString("hex"),
            data: data.toString("hex"),
            intact: true,
          })),
        );
        expect(decoder.partial).toBe(false);
      },
    ),
    { numRuns: 400 },
  );
});

test("one wrong bit: the header digest throws, the data digest tells, padding is covered", () => {
  const digests = { headerDigest: true, dataDigest: true };
  const data = Buffer.from("five!");
  const stream = Buffer.concat(framePdu(crc32c, digests, Buffer.alloc(48, 1), [data]));
  for (let bit = 0; bit < stream.length * 8; bit++) {
    const byte = bit >> 3;
    if (byte >= 4 && byte < 8) continue; // lengths: another PDU altogether
    const damaged = Buffer.from(stream);
    damaged[byte]! ^= 1 << (bit & 7);
    const decoder = new PduDecoder(crc32c, segmentMax);
    Object.assign(decoder.digests, digests);
    const pdus: Pdu[] = [];
    const push = () => decoder.push(damaged, { pdu: (pdu) => pdus.push(pdu) });
    if (byte < 52) expect(push).toThrow(FramingError);
    else {
      push();
      expect(pdus.map((pdu) => pdu.dataIntact)).toEqual([false]);
    }
  }
});

test("a segment that is too long is refused by its first eight bytes; a cut stream is known as such", () => {
  const decoder = new PduDecoder(crc32c, segmentMax);
  const header = Buffer.alloc(8);
  header.writeUIntBE(segmentMax + 1, 5, 3);
  expect(() => decoder.push(header, { pdu: () => {} })).toThrow(/4097 bytes where at most 4096/);
  const whole = Buffer.concat(
    framePdu(crc32c, { headerDigest: false, dataDigest: false }, Buffer.alloc(48), [Buffer.alloc(10)]),
  );
  for (let bytes = 1; bytes < whole.length; bytes++) {
    const cut = new PduDecoder(crc32c, segmentMax);
    cut.push(whole.subarray(0, bytes), { pdu: () => expect.unreachable() });
    expect(cut.partial).toBe(true);
  }
});

test("data goes where the sink says", () => {
  const place = Buffer.alloc(16);
  const decoder = new PduDecoder(crc32c, segmentMax);
  const stream = Buffer.concat(
    framePdu(crc32c, { headerDigest: false, dataDigest: false }, Buffer.alloc(48, 3), [Buffer.from("here")]),
  );
  const pdus: Pdu[] = [];
  decoder.push(stream, {
    place: (_header, length) => place.subarray(8, 8 + length),
    pdu: (pdu) => pdus.push(pdu),
  });
  expect(place.toString("latin1", 8, 12)).toBe("here");
  expect(pdus[0]!.data.toString()).toBe("here");
});

describe("any bytes", () => {
  test("give PDUs or a FramingError", () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 2000 }),
        switches,
        fc.array(fc.nat(200), { maxLength: 20 }),
        (bytes, digests, cuts) => {
          const decoder = new PduDecoder(crc32c, segmentMax);
          Object.assign(decoder.digests, digests);
          try {
            for (const pdu of feed(decoder, Buffer.from(bytes), cuts)) expect(pdu.header.length).toBe(48);
          } catch (error) {
            expect(error).toBeInstanceOf(FramingError);
          }
        },
      ),
      { numRuns: 1000 },
    );
  });

  test("are additional headers or a FramingError, and never read outside", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => {
        const ahs = Buffer.from(bytes);
        try {
          for (const { specific } of additionalHeaders(ahs)) expect(specific.length).toBeLessThan(ahs.length);
        } catch (error) {
          expect(error).toBeInstanceOf(FramingError);
        }
      }),
      { numRuns: 2000 },
    );
  });
});

test("an extended CDB as RFC 7143, 11.2.2.3 draws it", () => {
  // AHSLength 17 (a reserved byte and 16 of the CDB), type 1, reserved, the bytes; no padding is needed.
  const rest = Buffer.from("000102030405060708090a0b0c0d0e0f", "hex");
  expect(extendedCdbAhs(rest).toString("hex")).toBe(`00110100${rest.toString("hex")}`);
  const [only] = additionalHeaders(extendedCdbAhs(rest));
  expect([only!.type, only!.specific.subarray(1).equals(rest)]).toEqual([1, true]);
});
