import { ScheduleAlreadyRunning, ScheduleOverlapPolicy, type Client, type ScheduleOptions } from '@temporalio/client';
import { mainQueue } from '../workflows/messages.js';

/** Makes, or brings up to date, the schedule by which a host cleans up after runs that could not. Safe to repeat. @returns its id */
export async function ensureReconcileSchedule(client: Client, host: string): Promise<string> {
  const scheduleId = `reconcile/${host}`;
  const schedule = {
    scheduleId,
    spec: { intervals: [{ every: '1 minute' }] },
    // Once is enough for what was missed; and a host that is away must not gather a queue of them.
    policies: { overlap: ScheduleOverlapPolicy.SKIP, catchupWindow: '1 minute', pauseOnFailure: false },
    action: {
      type: 'startWorkflow',
      workflowType: 'ReconcileHost',
      workflowId: scheduleId,
      taskQueue: mainQueue,
      args: [{ host }],
      workflowExecutionTimeout: '1 hour', // holds nothing itself: the next one starts over
    },
  } satisfies ScheduleOptions;
  try {
    await client.schedule.create(schedule);
  } catch (error) {
    if (!(error instanceof ScheduleAlreadyRunning)) throw error;
    const { spec, policies, action } = schedule;
    await client.schedule.getHandle(scheduleId).update((previous) => ({ ...previous, spec, policies, action }));
  }
  return scheduleId;
}
