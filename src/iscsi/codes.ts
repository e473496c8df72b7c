// The codes that PDUs carry, by their names: opcodes, reasons, task management functions, login stages and statuses.
//
// Source: RFC 7143, section 11. Reserved and vendor-specific numbers are left out.

/** Opcodes (RFC 7143, 11.2.1.2). */
export const opcode = {
  nopOut: 0x00,
  scsiCommand: 0x01,
  taskManagementRequest: 0x02,
  loginRequest: 0x03,
  textRequest: 0x04,
  dataOut: 0x05,
  logoutRequest: 0x06,
  snackRequest: 0x10,
  nopIn: 0x20,
  scsiResponse: 0x21,
  taskManagementResponse: 0x22,
  loginResponse: 0x23,
  textResponse: 0x24,
  dataIn: 0x25,
  logoutResponse: 0x26,
  r2t: 0x31,
  asyncMessage: 0x32,
  reject: 0x3f,
} as const;

/** "No tag": TTT or ITT of a PDU that belongs to no task. */
export const noTag = 0xffffffff;

/** Reasons of a Reject PDU (RFC 7143, 11.17.1). */
export const rejectReason = {
  dataDigestError: 0x02,
  snackReject: 0x03,
  protocolError: 0x04,
  commandNotSupported: 0x05,
  immediateCommandReject: 0x06,
  taskInProgress: 0x07,
  invalidPduField: 0x09,
  longOperationReject: 0x0a,
  waitingForLogout: 0x0c,
} as const;

/** Task management functions (RFC 7143, 11.5.1). */
export const taskFunction = {
  abortTask: 1,
  abortTaskSet: 2,
  clearAca: 3,
  clearTaskSet: 4,
  logicalUnitReset: 5,
  targetWarmReset: 6,
  targetColdReset: 7,
  taskReassign: 8,
} as const;

/** Answers to them (11.6.1). */
export const taskResponse = {
  functionComplete: 0,
  taskDoesNotExist: 1,
  lunDoesNotExist: 2,
  taskStillAllegiant: 3,
  reassignNotSupported: 4,
  notSupported: 5,
  authorizationFailed: 6,
  rejected: 255,
} as const;

/** Login stages (11.12.3). */
export const loginStage = { security: 0, operational: 1, fullFeature: 3 } as const;

/** Login status: class ‖ detail (11.13.5). */
export const loginStatus = {
  success: 0x0000,
  targetMovedTemporarily: 0x0101,
  targetMovedPermanently: 0x0102,
  initiatorError: 0x0200,
  authenticationFailure: 0x0201,
  authorizationFailure: 0x0202,
  notFound: 0x0203,
  targetRemoved: 0x0204,
  unsupportedVersion: 0x0205,
  tooManyConnections: 0x0206,
  missingParameter: 0x0207,
  cannotIncludeInSession: 0x0208,
  sessionTypeNotSupported: 0x0209,
  sessionDoesNotExist: 0x020a,
  invalidDuringLogin: 0x020b,
  targetError: 0x0300,
  serviceUnavailable: 0x0301,
  outOfResources: 0x0302,
} as const;

const loginStatusWords: Record<number, string> = {
  [loginStatus.initiatorError]: "initiator error",
  [loginStatus.authenticationFailure]: "authentication failure (wrong name or secret)",
  [loginStatus.authorizationFailure]: "this initiator is not allowed at the target",
  [loginStatus.notFound]: "the portal has no such target",
  [loginStatus.targetRemoved]: "the target was removed",
  [loginStatus.unsupportedVersion]: "unsupported version",
  [loginStatus.tooManyConnections]: "too many connections",
  [loginStatus.missingParameter]: "missing parameter",
  [loginStatus.cannotIncludeInSession]: "cannot include this connection in the session",
  [loginStatus.sessionTypeNotSupported]: "session type not supported",
  [loginStatus.sessionDoesNotExist]: "session does not exist",
  [loginStatus.invalidDuringLogin]: "invalid request during login",
  [loginStatus.targetError]: "target error",
  [loginStatus.serviceUnavailable]: "service unavailable",
  [loginStatus.outOfResources]: "target out of resources",
};

/** `authentication failure (wrong name or secret) (0201h)`. */
export function describeLoginStatus(status: number): string {
  return `${loginStatusWords[status] ?? "login status"} (${status.toString(16).padStart(4, "0")}h)`;
}
