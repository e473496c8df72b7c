// The address of a logical unit: iscsi://[user[%secret]@]host[:port]/iqn/lun[?option&option…], with the options
// target_user=… and target_password=… (mutual CHAP), header_digest=crc32c and data_digest=crc32c.
//
// The form is libiscsi's, so that a URL works in both. Secrets can come from the environment instead, where `ps` does
// not show them: LUNSYNC_CHAP_SECRET, LUNSYNC_CHAP_TARGET_USER, LUNSYNC_CHAP_TARGET_SECRET.
import { AgentError } from "../base/errors.ts";
import type { ChapCredentials } from "../iscsi/chap.ts";

export const defaultPort = 3260;

export interface IscsiAddress {
  readonly host: string;
  readonly port: number;
  readonly targetName: string;
  readonly lun: number;
  readonly chap: ChapCredentials | undefined;
  /** What the target has to prove: mutual CHAP. */
  readonly chapTarget: ChapCredentials | undefined;
  /** CRC-32C digests on the wire are asked for. */
  readonly headerDigest: boolean;
  readonly dataDigest: boolean;
}

export const isIscsiUrl = (text: string): boolean => /^iscsi:\/\//i.test(text);

const lunMax = 16383;

/** The URL without any secret, for messages and reports. */
export function formatAddress(address: Pick<IscsiAddress, "host" | "port" | "targetName" | "lun">): string {
  const host = address.host.includes(":") ? `[${address.host}]` : address.host;
  return `iscsi://${host}:${address.port}/${address.targetName}/${address.lun}`;
}

export interface ChapEnvironment {
  readonly secret?: string | undefined;
  readonly targetUser?: string | undefined;
  readonly targetSecret?: string | undefined;
}

/** The portal of an address without a target: `iscsi://[user[%secret]@]host[:port]`; undefined for any other. */
export function parsePortalUrl(
  text: string,
  environment: ChapEnvironment = {},
): Pick<IscsiAddress, "host" | "port" | "chap" | "chapTarget"> | undefined {
  const portal = /^(iscsi:\/\/(?:[^@/]*@)?(?:\[[^\]]+\]|[^:/@?]+)(?::\d+)?)\/?(\?.*)?$/i.exec(text);
  return portal ? parseIscsiUrl(`${portal[1]}/iqn.discovery/0${portal[2] ?? ""}`, environment) : undefined;
}

/**
 * What may be shown of a text that was meant to be an address. It may have any form, and a secret any characters: what
 * could be one is left out, rather too much than too little.
 */
function withoutSecrets(text: string): string {
  const shown = text.replace(/(password=).*$/is, "$1***");
  const at = shown.lastIndexOf("@");
  const scheme = /^iscsi:\/\//i.exec(shown)?.[0].length ?? 0;
  const rest = shown.slice(scheme);
  const separator = rest.search(/[%:]/);
  if (separator >= 0 && scheme + separator < at)
    return `${shown.slice(0, scheme + separator + 1)}***${shown.slice(at)}`;
  // "@" and what follows may have been forgotten; a percent sign behind a slash belongs to the target's name.
  return shown.replace(/^(iscsi:\/\/[^/?%]*%).*$/is, "$1***");
}

/** @throws AgentError `usage` */
export function parseIscsiUrl(text: string, environment: ChapEnvironment = {}): IscsiAddress {
  const fail = (what: string) =>
    new AgentError(
      "usage",
      `"${withoutSecrets(text)}" is no iSCSI address: ${what}; the form is iscsi://[user%secret@]host[:port]/target-name/lun`,
    );
  const match =
    /^iscsi:\/\/(?:([^@/]*)@)?(\[[^\]]+\]|[^:/@?]+)(?::(\d+))?\/([^/?]+)\/(\d+)(?:\?(.*))?$/i.exec(text);
  if (!match) throw fail("it has another form");
  const [, login, host, portText, target, lunText, query] = match;
  const port = portText === undefined ? defaultPort : Number(portText);
  if (port < 1 || port > 65535) throw fail(`${portText} is no port`);
  const lun = Number(lunText);
  if (lun > lunMax) throw fail(`${lunText} is no LUN from 0 to ${lunMax}`);
  const targetName = decode(target!, fail);
  if (!/^(iqn\.|eui\.|naa\.)[\x21-\x7e]+$/i.test(targetName) || targetName.length > 223) {
    throw fail("the target's name is none (iqn., eui. or naa., at most 223 characters)");
  }

  let chap: ChapCredentials | undefined;
  if (login !== undefined && login !== "") {
    const percent = login.indexOf("%");
    const name = percent < 0 ? login : login.slice(0, percent);
    const secret = percent < 0 ? environment.secret : login.slice(percent + 1);
    if (secret === undefined)
      throw fail("it has a user and no secret (in the URL or in LUNSYNC_CHAP_SECRET)");
    chap = { name, secret };
  }
  const options = new URLSearchParams(query ?? "");
  const targetUser = options.get("target_user") ?? environment.targetUser;
  const targetSecret = options.get("target_password") ?? environment.targetSecret;
  let chapTarget: ChapCredentials | undefined;
  if ((targetUser === undefined) !== (targetSecret === undefined)) {
    throw fail("mutual CHAP needs the target's user and its secret, both");
  }
  if (targetUser !== undefined && targetSecret !== undefined) {
    if (!chap) throw fail("mutual CHAP needs a user and a secret of its own");
    if (targetSecret === chap.secret) throw fail("the target's secret must differ from the initiator's");
    chapTarget = { name: targetUser, secret: targetSecret };
  }
  const digest = (key: string): boolean => {
    const value = options.get(key)?.toLowerCase() ?? "none";
    if (value !== "none" && value !== "crc32c") throw fail(`${key} is crc32c or none`);
    return value === "crc32c";
  };
  const [headerDigest, dataDigest] = [digest("header_digest"), digest("data_digest")];
  return {
    host: host!.replace(/^\[|\]$/g, ""),
    port,
    targetName,
    lun,
    chap,
    chapTarget,
    headerDigest,
    dataDigest,
  };
}

function decode(text: string, fail: (what: string) => AgentError): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw fail("the target's name is not percent-encoded properly");
  }
}
