// URLs of logical units: what they mean, and that no message shows a secret.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { AgentError, messageOf } from "../../src/base/errors.ts";
import {
  type ChapEnvironment,
  formatAddress,
  isIscsiUrl,
  parseIscsiUrl,
  parsePortalUrl,
} from "../../src/initiator/address.ts";

const iqn = "iqn.2026-11.com.example:disks";
const plain = {
  host: "host",
  port: 3260,
  targetName: iqn,
  lun: 0,
  chap: undefined,
  chapTarget: undefined,
  headerDigest: false,
  dataDigest: false,
};

test.each<[string, Partial<ReturnType<typeof parseIscsiUrl>>]>([
  [`iscsi://host/${iqn}/0`, {}],
  [`ISCSI://host/${iqn}/0`, {}],
  [`iscsi://192.0.2.7:860/${iqn}/16383`, { host: "192.0.2.7", port: 860, lun: 16383 }],
  [`iscsi://[2001:db8::1]:3261/${iqn}/3`, { host: "2001:db8::1", port: 3261, lun: 3 }],
  [`iscsi://[::1]/${iqn}/1`, { host: "::1", lun: 1 }],
  [`iscsi://me%secret@host/${iqn}/0`, { chap: { name: "me", secret: "secret" } }],
  [`iscsi://me%a%b%c@host/${iqn}/0`, { chap: { name: "me", secret: "a%b%c" } }],
  [`iscsi://@host/${iqn}/0`, {}],
  [`iscsi://host/iqn.2026-11.com.example%3Adisks/0`, {}],
  ["iscsi://host/eui.02004567A425678D/0", { targetName: "eui.02004567A425678D" }],
  ["iscsi://host/naa.52004567BA64678D/0", { targetName: "naa.52004567BA64678D" }],
  [`iscsi://host/${iqn}/0?header_digest=CRC32C`, { headerDigest: true }],
  [`iscsi://host/${iqn}/0?data_digest=crc32c&header_digest=none`, { dataDigest: true }],
  [
    `iscsi://me%one@host/${iqn}/0?target_user=them&target_password=two`,
    { chap: { name: "me", secret: "one" }, chapTarget: { name: "them", secret: "two" } },
  ],
])("%s", (url, more) => expect(parseIscsiUrl(url)).toEqual({ ...plain, ...more }));

test.each<[string, RegExp]>([
  ["iscsi://", /another form/],
  [`iscsi:///${iqn}/0`, /another form/],
  [`iscsi://host/${iqn}`, /another form/],
  [`iscsi://host/${iqn}/`, /another form/],
  [`iscsi://host/${iqn}/x`, /another form/],
  [`iscsi://host/${iqn}/0/1`, /another form/],
  [`iscsi://host:/${iqn}/0`, /another form/],
  [`iscsi://host:0/${iqn}/0`, /no port/],
  [`iscsi://host:65536/${iqn}/0`, /no port/],
  [`iscsi://host/${iqn}/16384`, /no LUN/],
  ["iscsi://host/disks/0", /target's name is none/],
  [`iscsi://host/iqn.${"x".repeat(220)}/0`, /target's name is none/],
  ["iscsi://host/iqn.2026%0A/0", /target's name is none/],
  ["iscsi://host/iqn.%zz/0", /percent-encoded/],
  [`iscsi://me@host/${iqn}/0`, /LUNSYNC_CHAP_SECRET/],
  [`iscsi://me%one@host/${iqn}/0?target_user=them`, /both/],
  [`iscsi://me%one@host/${iqn}/0?target_password=two`, /both/],
  [`iscsi://host/${iqn}/0?target_user=them&target_password=two`, /of its own/],
  [`iscsi://me%one@host/${iqn}/0?target_user=them&target_password=one`, /must differ/],
  [`iscsi://host/${iqn}/0?header_digest=md5`, /crc32c or none/],
])("%s is refused", (url, words) => {
  expect(() => parseIscsiUrl(url)).toThrow(
    expect.objectContaining({ code: "usage", message: expect.stringMatching(words) }),
  );
});

test("secrets of the environment stand in for those of the URL, and the URL's go first", () => {
  const environment: ChapEnvironment = { secret: "from afar", targetUser: "them", targetSecret: "theirs" };
  expect(parseIscsiUrl(`iscsi://me@host/${iqn}/0`, environment)).toMatchObject({
    chap: { name: "me", secret: "from afar" },
    chapTarget: { name: "them", secret: "theirs" },
  });
  const url = `iscsi://me%here@host/${iqn}/0?target_user=x&target_password=y`;
  expect(parseIscsiUrl(url, environment)).toMatchObject({
    chap: { name: "me", secret: "here" },
    chapTarget: { name: "x", secret: "y" },
  });
});

test("portals: an address without a target", () => {
  expect(parsePortalUrl("iscsi://host")).toMatchObject({ host: "host", port: 3260, chap: undefined });
  expect(parsePortalUrl("iscsi://me%one@[::1]:860/")).toMatchObject({
    host: "::1",
    port: 860,
    chap: { name: "me", secret: "one" },
  });
  expect(parsePortalUrl("iscsi://me%one@host?target_user=a&target_password=b")).toMatchObject({
    chapTarget: { name: "a", secret: "b" },
  });
  expect(parsePortalUrl(`iscsi://host/${iqn}/0`)).toBeUndefined();
  expect(isIscsiUrl("/dev/sda") || isIscsiUrl("iscsi")).toBe(false);
});

test("what is formatted is parsed again, without the secrets", () => {
  const host = fc.oneof(fc.constantFrom("host", "192.0.2.7", "2001:db8::1", "a-b.example.com"));
  const shape = fc.record({
    host,
    port: fc.integer({ min: 1, max: 65535 }),
    targetName: fc.stringMatching(/^iqn\.[a-z0-9.:-]{1,40}$/),
    lun: fc.integer({ min: 0, max: 16383 }),
  });
  fc.assert(
    fc.property(shape, (address) => {
      const chap = { name: "me", secret: "verysecretword" };
      const text = formatAddress({ ...address, chap } as typeof address);
      expect(text).not.toContain("verysecretword");
      expect(parseIscsiUrl(text)).toEqual({ ...plain, ...address });
    }),
  );
});

describe("secrets are in no message", () => {
  const messages = (url: string, environment: ChapEnvironment = {}) =>
    [parseIscsiUrl, parsePortalUrl].map((parse) => {
      try {
        parse(url, environment);
        return "";
      } catch (error) {
        expect(error).toBeInstanceOf(AgentError);
        return messageOf(error);
      }
    });
  // Characters that mean something in a URL, and some that do not.
  const part = fc.string({ unit: fc.constantFrom(..."ab0:/@%?&=#[]+ .~"), maxLength: 4 });
  const secret = fc
    .tuple(part, part)
    .map(([before, after]) => ({ before, after, text: `${before}SECRETWORD${after}` }));

  test("whatever characters they have, however wrong the rest is", () => {
    const form = fc.constantFrom(
      (s: string) => `iscsi://me%${s}@host/${iqn}/0`,
      (s: string) => `iscsi://me%${s}@host/${iqn}/99999`,
      (s: string) => `iscsi://me%${s}@host`,
      (s: string) => `iscsi://me%${s}@host/disks/0`,
      // Where the host is missing, what follows an "@" looks like one.
      (s: string) => `iscsi://me%${s.replaceAll("@", "")}`,
      (s: string) => `iscsi://me:${s}@host/${iqn}/0`,
      (s: string) => `ISCSI://me%${s}@:/`,
      (s: string) => `iscsi://me%${s}@host/${iqn}/0?target_user=them&target_password=${s}`,
      (s: string) => `iscsi://me%x@host/${iqn}/0?target_password=${s}`,
      (s: string) => `iscsi://me%x@host/${iqn}/0?TARGET_PASSWORD=${s}&target_user=y`,
      (s: string) => `iscsi://me%x@host/${iqn}/?target_password=${s}`,
    );
    let refused = 0;
    fc.assert(
      fc.property(form, secret, (url, { text }) => {
        for (const message of messages(url(text))) {
          expect(message).not.toContain("SECRETWORD");
          if (message !== "") refused++;
        }
      }),
      { numRuns: 3000 },
    );
    expect(refused).toBeGreaterThan(1000);
  });

  test("those of the environment neither", () => {
    const environment = { secret: "SECRETWORD", targetSecret: "SECRETWORD" };
    for (const url of [`iscsi://me@host/${iqn}/0`, `iscsi://host/${iqn}/0`, "iscsi://me@host/x/0"]) {
      for (const message of messages(url, environment)) expect(message).not.toContain("SECRETWORD");
    }
  });

  test("a message still shows the rest of the URL", () => {
    const [message] = messages(
      `iscsi://me%a/b@portal.example.com/${iqn}/99999?target_user=them&target_password=x@y`,
    );
    expect(message).toContain(
      `"iscsi://me%***@portal.example.com/${iqn}/99999?target_user=them&target_password=***"`,
    );
  });
});
