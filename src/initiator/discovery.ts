// Which targets a portal has: a discovery session that asks SendTargets and leaves.
//
// Guarantees: it ends within its time limit, and takes no more text than textBytesMax. What it returns is what the
// portal says, and nothing is connected to.
//
// Source: RFC 7143, 4.3 (discovery) and appendix C (SendTargets).
import { AgentError } from "../base/errors.ts";
import { noTag, opcode } from "../iscsi/codes.ts";
import type { Pdu } from "../iscsi/framing.ts";
import { logoutRequestPdu, nopInPdu, textRequestPdu, textResponsePdu } from "../iscsi/pdu.ts";
import { serialAdd } from "../iscsi/serial.ts";
import { decodeTextList, encodeText, TextError, type TextPairs, textBytesMax } from "../iscsi/text.ts";
import { Connection, type ConnectionOptions } from "./connection.ts";

export interface DiscoveredTarget {
  readonly name: string;
  /** `host:port,tag`, as the portal gives them. */
  readonly addresses: readonly string[];
}

const answerMs = 10_000;

/** @throws AgentError `connection_refused`, `login_refused`, `protocol_error`, `timeout` */
export async function discoverTargets(
  options: Omit<ConnectionOptions, "targetName">,
): Promise<DiscoveredTarget[]> {
  const connection = await Connection.open({ ...options, targetName: undefined });
  const { clock, peer } = options;
  const { promise, resolve, reject } = Promise.withResolvers<TextPairs>();
  const timer = clock.after(answerMs, () =>
    reject(
      new AgentError("timeout", `Cannot discover the targets of ${peer}: no answer in ${answerMs / 1000} s`),
    ),
  );
  const { login } = connection;
  let expStatSN = serialAdd(login.statSN, 1);
  let cmdSN = login.expCmdSN;
  const text: Buffer[] = [];
  const ask = (targetTransferTag: number, pairs: TextPairs) => {
    const header = textRequestPdu.encode({
      final: true,
      initiatorTaskTag: 1,
      targetTransferTag,
      cmdSN: cmdSN++,
      expStatSN,
    });
    connection.send(header, pairs.length > 0 ? [encodeText(pairs)] : undefined);
  };
  const take = (pdu: Pdu) => {
    switch (pdu.header[0]! & 0x3f) {
      case opcode.textResponse: {
        const response = textResponsePdu.decode(pdu.header);
        expStatSN = serialAdd(response.statSN, 1);
        text.push(pdu.data);
        if (text.reduce((sum, piece) => sum + piece.length, 0) > textBytesMax)
          throw new TextError("too much text");
        if (response.targetTransferTag === noTag) resolve(decodeTextList(Buffer.concat(text)));
        else ask(response.targetTransferTag, []);
        return;
      }
      case opcode.nopIn:
        nopInPdu.decode(pdu.header);
        return; // it is answered by leaving
      case opcode.logoutResponse:
        return;
      default:
        throw new TextError(`a PDU with the unexpected opcode ${pdu.header[0]! & 0x3f}`);
    }
  };
  connection.start({
    pdu(pdu) {
      try {
        take(pdu);
      } catch (error) {
        reject(
          new AgentError(
            "protocol_error",
            `Cannot discover the targets of ${peer}: ${(error as Error).message}`,
          ),
        );
      }
    },
    closed: reject,
  });
  try {
    ask(noTag, [["SendTargets", "All"]]);
    return targetsOf(await promise);
  } finally {
    timer.cancel();
    connection.send(logoutRequestPdu.encode({ immediate: true, initiatorTaskTag: 2, cmdSN, expStatSN }));
    connection.finish();
  }
}

/** TargetName begins a target; the addresses that follow are its own. */
function targetsOf(pairs: TextPairs): DiscoveredTarget[] {
  const targets: { name: string; addresses: string[] }[] = [];
  for (const [key, value] of pairs) {
    if (key === "TargetName") targets.push({ name: value, addresses: [] });
    else if (key === "TargetAddress") targets.at(-1)?.addresses.push(value);
  }
  return targets;
}
