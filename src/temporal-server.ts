import type { NativeConnection } from '@temporalio/worker';
import type { RunState } from './activities/reconcile.js';
import { searchAttributes } from './workflows/messages.js';

// What a worker asks the Temporal server itself.

/** Whether the server would accept our search attributes. In doubt it would not: then backups run without. */
export async function knowsSearchAttributes(connection: NativeConnection, namespace: string): Promise<boolean> {
  try {
    const { customAttributes } = await connection.operatorService.listSearchAttributes({ namespace });
    return Object.values(searchAttributes).every(({ name }) => name in customAttributes);
  } catch {
    return false; // no right to ask (Temporal Cloud), or the operator service is switched off
  }
}

/**
 * How one run of a workflow stands. One that was reset goes on as another run, with the same ids, and is open as long as that
 * one is. One that the server does not know any more has ended.
 */
export async function describeRun(
  connection: NativeConnection,
  namespace: string,
  workflowId: string,
  runId: string,
): Promise<RunState> {
  const describe = async (execution: Execution) => {
    const request = { namespace, execution };
    const { workflowExecutionInfo: info } = await connection.workflowService.describeWorkflowExecution(request);
    return { closed: closedStates[Number(info?.status)], runId: info?.execution?.runId ?? '' };
  };
  try {
    const { closed } = await describe({ workflowId, runId });
    if (closed === undefined) return { isOpen: true, state: 'open' };
    const latest = await describe({ workflowId });
    const mayGoOn = latest.closed === undefined && latest.runId !== runId;
    const runs = [
      { workflowId, runId },
      { workflowId, runId: latest.runId },
    ] as const;
    const isReset = mayGoOn && (await haveSameBeginning(connection, namespace, ...runs));
    return isReset ? { isOpen: true, state: `reset, goes on as ${latest.runId}` } : { isOpen: false, state: closed };
  } catch (error) {
    if (isGrpcNotFound(error)) return { isOpen: false, state: 'not known to the Temporal server any more' };
    throw error;
  }
}

interface Execution {
  workflowId: string;
  runId?: string;
}

/**
 * Whether one run has the first decision of the other: a reset copies the events before its point. In that decision the ids are
 * drawn that rows have, so that a run which was reset to before it is another one, with rows of its own.
 */
async function haveSameBeginning(
  connection: NativeConnection,
  namespace: string,
  one: Execution,
  other: Execution,
): Promise<boolean> {
  const firstDecision = async (execution: Execution) => {
    const { history } = await connection.workflowService.getWorkflowExecutionHistory({ namespace, execution });
    const completed = history?.events?.find(({ eventType }) => Number(eventType) === 7); // EVENT_TYPE_WORKFLOW_TASK_COMPLETED
    return (
      completed && `${String(completed.eventId)} ${String(completed.eventTime?.seconds)} ${completed.eventTime?.nanos}`
    );
  };
  const [first, second] = [await firstDecision(one), await firstDecision(other)];
  return first !== undefined && first === second;
}

/** A poll that brings nothing is renewed after 60 s: whoever has not asked for this long does not run any more. */
const pollerAbsentAfterMs = 90_000;

/** The workers that take activities from a queue now, or did a moment ago, by the identity that the server shows. */
export async function listPollers(connection: NativeConnection, namespace: string, name: string): Promise<string[]> {
  const activities = 2; // TaskQueueType, whose enum is not part of the SDK's own packages
  const { pollers } = await connection.workflowService.describeTaskQueue({
    namespace,
    taskQueue: { name },
    taskQueueType: activities,
  });
  const since = Date.now() - pollerAbsentAfterMs;
  const recent = (pollers ?? []).filter(({ lastAccessTime: at }) => (at?.seconds?.toNumber() ?? 0) * 1000 >= since);
  return recent.map(({ identity }) => identity ?? 'unnamed');
}

/** Of WorkflowExecutionStatus, whose enum is not part of the SDK's own packages. Any other is open: running, or paused. */
const closedStates: Record<number, string> = {
  2: 'completed',
  3: 'failed',
  4: 'cancelled',
  5: 'terminated',
  6: 'continued as new',
  7: 'timed out',
};

function isGrpcNotFound(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 5;
}
