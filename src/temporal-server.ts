import { setTimeout as delay } from 'node:timers/promises';
import type { NativeConnection } from '@temporalio/worker';
import type { Database } from './db/database.js';
import type { Namespace } from './domain/namespace.js';
import { completed, type RunState } from './domain/orphaned-run.js';
import { isGrpcNotFound, requireSameNamespace } from './temporal-namespace.js';
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
 * one is. One that its namespace no longer knows has ended; any other namespace knows none of our runs.
 * @throws BackupError WrongNamespace, NamespaceNotFound when the server behind the connection has been replaced
 */
export async function describeRun(
  connection: NativeConnection,
  { db, namespace: ours }: { db: Database; namespace: Namespace },
  workflowId: string,
  runId: string,
): Promise<RunState> {
  const namespace = ours.name;
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
    if (!isGrpcNotFound(error)) throw error;
    // Looked at after the answer: a server that was replaced in between is noticed.
    await requireSameNamespace(db, connection, ours);
    return { isOpen: false, state: 'no longer known to the Temporal server' };
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

/** Long enough to be sure: a worker's poll that brings nothing ends and is renewed after 60 s. */
const watchPollersMs = 75_000;
const lookAtPollersEveryMs = 3_000;

/**
 * Watches who takes activities from a queue, and returns the first one that is seen to ask for work, by the identity that the
 * server shows; undefined when none does for longer than a poll lasts. Compares the server's answers with each other: this
 * machine's clock may be wrong.
 */
export async function findActivePoller(
  connection: NativeConnection,
  namespace: string,
  queue: string,
  signal: AbortSignal,
): Promise<string | undefined> {
  const first = await listPollers(connection, namespace, queue);
  for (let watchedMs = 0; watchedMs < watchPollersMs; watchedMs += lookAtPollersEveryMs) {
    await delay(lookAtPollersEveryMs, undefined, { signal });
    const latest = await listPollers(connection, namespace, queue);
    for (const [identity, lastAccess] of latest) if (first.get(identity) !== lastAccess) return identity;
  }
  return undefined;
}

/** The workers that asked for activities of a queue in the last minutes, each with the server's time of its last poll. */
async function listPollers(
  connection: NativeConnection,
  namespace: string,
  queue: string,
): Promise<Map<string, string>> {
  const { pollers } = await connection.workflowService.describeTaskQueue({
    namespace,
    taskQueue: { name: queue },
    taskQueueType: 2, // ACTIVITY of TaskQueueType, whose enum is not part of the SDK's own packages
  });
  const timeOf = ({ lastAccessTime: at }: NonNullable<typeof pollers>[number]) => `${String(at?.seconds)} ${at?.nanos}`;
  return new Map((pollers ?? []).map((poller) => [poller.identity ?? 'unnamed', timeOf(poller)]));
}

/** Of WorkflowExecutionStatus, whose enum is not part of the SDK's own packages. Any other is open: running, or paused. */
const closedStates: Record<number, string> = {
  2: completed,
  3: 'failed',
  4: 'cancelled',
  5: 'terminated',
  6: 'continued as new',
  7: 'timed out',
};
