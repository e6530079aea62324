import { isDeepStrictEqual } from 'node:util';
import {
  ScheduleAlreadyRunning,
  ScheduleOverlapPolicy,
  type Client,
  type ScheduleDescription,
  type ScheduleOptions,
} from '@temporalio/client';
import { mainQueue } from './workflows/messages.js';

const catchupWindowMs = 60_000; // once is enough for what was missed
const executionTimeoutMs = 3_600_000; // a run holds nothing itself: the next one starts over

/**
 * Makes the schedule by which a host cleans up after runs that could not, or brings it up to date. A pause stays as it is. Safe
 * to repeat, at any time. @returns its id
 */
export async function ensureReconcileSchedule(
  client: Client,
  { host, intervalMs }: { host: string; intervalMs: number },
): Promise<string> {
  const schedule = reconcileSchedule(host, intervalMs);
  const { scheduleId, spec, policies, action } = schedule;
  try {
    await client.schedule.create(schedule);
  } catch (error) {
    if (!(error instanceof ScheduleAlreadyRunning)) throw error;
    const handle = client.schedule.getHandle(scheduleId);
    // Only when something differs: an update writes the whole schedule, and would undo a pause that comes at this moment.
    if (!isUpToDate(await handle.describe(), schedule))
      await handle.update((previous) => ({ ...previous, spec, policies, action }));
  }
  return scheduleId;
}

function reconcileSchedule(host: string, intervalMs: number) {
  const scheduleId = `reconcile/${host}`;
  return {
    scheduleId,
    spec: { intervals: [{ every: intervalMs }] },
    // A host that is away must not gather a queue of runs.
    policies: { overlap: ScheduleOverlapPolicy.SKIP, catchupWindow: catchupWindowMs, pauseOnFailure: false },
    action: {
      type: 'startWorkflow',
      workflowType: 'ReconcileHost',
      workflowId: scheduleId,
      taskQueue: mainQueue,
      args: [{ host }],
      workflowExecutionTimeout: executionTimeoutMs,
    },
  } satisfies ScheduleOptions;
}

function isUpToDate(
  { spec, policies, action }: ScheduleDescription,
  wanted: ReturnType<typeof reconcileSchedule>,
): boolean {
  const found = {
    times: [spec.intervals?.map(({ every }) => every) ?? [], spec.calendars ?? []],
    policies: [policies.overlap, policies.catchupWindow, policies.pauseOnFailure],
    action: [action.type, action.workflowType, action.workflowId, action.taskQueue, action.args],
    timeout: action.workflowExecutionTimeout,
  };
  const expected: typeof found = {
    times: [wanted.spec.intervals.map(({ every }) => every), []],
    policies: [wanted.policies.overlap, catchupWindowMs, wanted.policies.pauseOnFailure],
    action: [
      wanted.action.type,
      wanted.action.workflowType,
      wanted.action.workflowId,
      wanted.action.taskQueue,
      wanted.action.args,
    ],
    timeout: executionTimeoutMs,
  };
  return isDeepStrictEqual(found, expected);
}
