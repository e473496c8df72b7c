// Task management functions: which tasks end, what other initiators are told, and when the function is complete.
//
// Guarantees: the response is given only when none of the tasks concerned executes any more, so that an initiator that
// repeats a write elsewhere is never overtaken by the old one; nothing of units that are not there for the initiator
// ends.
//
// Source: RFC 7143, 11.5, 11.6; SAM-5, 7.
import { taskFunction, taskResponse } from "../iscsi/codes.ts";
import type { taskManagementRequestPdu } from "../iscsi/pdu.ts";
import type { LogicalUnit } from "./logical-unit.ts";
import type { TargetSession } from "./session.ts";

type Request = ReturnType<typeof taskManagementRequestPdu.decode>;

async function abortOne(session: TargetSession, request: Request): Promise<number> {
  const task = session.tasks.get(request.referencedTaskTag);
  if (!task) {
    // A command that waits for its turn or has not come yet, or one that has been answered (RFC 7143, 11.5.1).
    const forgone = session.forgo(request.refCmdSN, request.cmdSN);
    return forgone ? taskResponse.functionComplete : taskResponse.taskDoesNotExist;
  }
  if (task.start.lun !== request.lun) return taskResponse.taskDoesNotExist;
  session.tasks.abort(task);
  await task.settled;
  return taskResponse.functionComplete;
}

async function resetUnit(session: TargetSession, unit: LogicalUnit, cmdSN: number): Promise<void> {
  const { host } = session;
  session.abortEarly(cmdSN, (lun) => session.unitAt(lun) === unit);
  await host.abortTasks((owner, task) => owner.unitAt(task.start.lun) === unit);
  unit.reset();
}

/** Carries a function out; the response code. */
export async function manageTasks(session: TargetSession, request: Request): Promise<number> {
  const { host } = session;
  const unit = session.unitAt(request.lun);
  switch (request.function) {
    case taskFunction.abortTask:
      return abortOne(session, request);
    case taskFunction.abortTaskSet:
      if (!unit) return taskResponse.lunDoesNotExist;
      session.abortEarly(request.cmdSN, (lun) => session.unitAt(lun) === unit);
      await host.abortTasks((owner, task) => owner === session && session.unitAt(task.start.lun) === unit);
      return taskResponse.functionComplete;
    case taskFunction.clearTaskSet:
      if (!unit) return taskResponse.lunDoesNotExist;
      session.abortEarly(request.cmdSN, (lun) => session.unitAt(lun) === unit);
      await host.abortTasks((owner, task) => owner.unitAt(task.start.lun) === unit);
      unit.raiseAttention("commandsCleared", session.nexus);
      return taskResponse.functionComplete;
    case taskFunction.logicalUnitReset:
      if (!unit) return taskResponse.lunDoesNotExist;
      await resetUnit(session, unit, request.cmdSN);
      return taskResponse.functionComplete;
    case taskFunction.targetWarmReset:
    case taskFunction.targetColdReset:
      if (!host.deviceServer.seesAll(session.nexus)) return taskResponse.authorizationFailed;
      for (const each of host.deviceServer.units(session.nexus))
        await resetUnit(session, each, request.cmdSN);
      if (request.function === taskFunction.targetColdReset)
        setImmediate(() => host.dropAll("the target was reset"));
      return taskResponse.functionComplete;
    case taskFunction.taskReassign:
      return taskResponse.reassignNotSupported;
    default:
      return taskResponse.notSupported;
  }
}
