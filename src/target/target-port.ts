// The target's one SCSI port, and the group it makes up.
//
// All portals have one portal group tag, and iSCSI's target port is the target's name with that tag: whatever portal a
// session came through, it reaches the units by the same port, and by none better than by another.
//
// Source: RFC 7143, 4.4.2; SPC-4, 5.15.
import { association, type Designator, designatorType } from "../scsi/inquiry-data.ts";

/** Names that every page of this target shows. */
export interface TargetNames {
  readonly targetName: string;
  readonly portalGroupTag: number;
  readonly revision: string;
}

export const relativeTargetPort = 1;
export const targetPortGroup = 1;
const iscsi = 5;

/** UTF-8, ended by NUL and padded with it to a multiple of four (SPC-4, 7.8.6.11). */
function nameString(text: string): Buffer {
  const bytes = Buffer.from(`${text}\0`, "utf8");
  return Buffer.concat([bytes, Buffer.alloc((4 - (bytes.length % 4)) % 4)]);
}

function portName({ targetName, portalGroupTag }: TargetNames): Designator {
  return {
    association: association.targetPort,
    type: designatorType.scsiNameString,
    codeSet: 3,
    protocol: iscsi,
    designator: nameString(`${targetName},t,0x${portalGroupTag.toString(16).padStart(4, "0")}`),
  };
}

/** What page 88h shows of the port. */
export const portNames = (names: TargetNames): Designator[] => [portName(names)];

/** What page 83h shows of the port and of the target behind it. */
export function portDesignators(names: TargetNames): Designator[] {
  const ofPort = { association: association.targetPort, codeSet: 1, protocol: iscsi };
  return [
    {
      ...ofPort,
      type: designatorType.relativeTargetPort,
      designator: Buffer.from([0, 0, 0, relativeTargetPort]),
    },
    { ...ofPort, type: designatorType.targetPortGroup, designator: Buffer.from([0, 0, 0, targetPortGroup]) },
    portName(names),
    {
      association: association.targetDevice,
      type: designatorType.scsiNameString,
      codeSet: 3,
      protocol: iscsi,
      designator: nameString(names.targetName),
    },
  ];
}
