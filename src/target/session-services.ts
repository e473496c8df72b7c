// What an initiator may ask of a session besides SCSI: is it alive, which targets are there, may it leave.
//
// Guarantees: text is taken up to textBytesMax, all continuation PDUs together; a logout is answered before the
// connection is closed.
//
// Source: RFC 7143, 11.10 and 11.11 (text), 11.14 and 11.15 (logout), 11.18 and 11.19 (NOP).
import { noTag, rejectReason as reason } from "../iscsi/codes.ts";
import type { Pdu } from "../iscsi/framing.ts";
import * as wire from "../iscsi/pdu.ts";
import { decodeText, encodeText, type TextPairs, textBytesMax } from "../iscsi/text.ts";
import type { TargetSession } from "./session.ts";
import { PduViolation } from "./target-task.ts";

export function nopOut(session: TargetSession, pdu: Pdu): void {
  const nop = wire.nopOutPdu.decode(pdu.header);
  if (nop.initiatorTaskTag === noTag) return; // the answer to a NOP-In of ours
  const bytes = Math.min(pdu.data.length, session.start.parameters.MaxRecvDataSegmentLength);
  session.send(
    wire.nopInPdu.encode({
      lun: nop.lun,
      initiatorTaskTag: nop.initiatorTaskTag,
      targetTransferTag: noTag,
      statSN: session.numbers.nextStatSN(),
      expCmdSN: session.numbers.expCmdSN,
      maxCmdSN: session.numbers.maxCmdSN,
    }),
    bytes === 0 ? undefined : [pdu.data.subarray(0, bytes)],
  );
}

export function textRequest(session: TargetSession, pdu: Pdu): void {
  const request = wire.textRequestPdu.decode(pdu.header);
  if (request.final && request.continue)
    throw new PduViolation(reason.protocolError, "F and C are set at once");
  session.textBytes += pdu.data.length;
  if (session.textBytes > textBytesMax) throw new PduViolation(reason.protocolError, "too much text");
  if (pdu.data.length > 0) session.text.push(pdu.data);
  const pairs: TextPairs = [];
  if (!request.continue) {
    for (const [key, value] of decodeText(Buffer.concat(session.text))) {
      const found = key === "SendTargets" ? session.host.sendTargets(value, session) : undefined;
      pairs.push(
        ...(found ?? [[key, key === "SendTargets" ? "Reject" : "NotUnderstood"] as [string, string]]),
      );
    }
    session.text = [];
    session.textBytes = 0;
  }
  const text = encodeText(pairs);
  if (text.length > session.start.parameters.MaxRecvDataSegmentLength) {
    throw new PduViolation(reason.longOperationReject, "the initiator takes too little text");
  }
  const more = !request.final;
  session.send(
    wire.textResponsePdu.encode({
      final: !more,
      lun: request.lun,
      initiatorTaskTag: request.initiatorTaskTag,
      targetTransferTag: more ? session.transferTag() : noTag,
      statSN: session.numbers.nextStatSN(),
      expCmdSN: session.numbers.expCmdSN,
      maxCmdSN: session.numbers.maxCmdSN,
    }),
    text.length === 0 ? undefined : [text],
  );
}

export function logout(session: TargetSession, pdu: Pdu): void {
  const request = wire.logoutRequestPdu.decode(pdu.header);
  const closesSession = request.reasonCode === 0;
  const closesConnection = request.reasonCode === 1 && request.cid === session.start.cid;
  const response = closesSession || closesConnection ? 0 : request.reasonCode === 2 ? 2 : 1;
  session.send(
    wire.logoutResponsePdu.encode({
      response,
      initiatorTaskTag: request.initiatorTaskTag,
      statSN: session.numbers.nextStatSN(),
      expCmdSN: session.numbers.expCmdSN,
      maxCmdSN: session.numbers.maxCmdSN,
    }),
  );
  if (response === 0) session.link.finish("it logged out");
}
