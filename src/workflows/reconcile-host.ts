import { ApplicationFailure, proxyActivities, setCurrentDetails } from '@temporalio/workflow';
import type { OrphanedJob, ReconcileActivities } from '../activities/reconcile.js';
import type { CleanUpActivities } from '../activities/clean-up.js';
import { messageOf } from './failures.js';
import { controlQueue } from './messages.js';
import { jobSteps } from './steps.js';

export interface ReconcileHostInput {
  host: string;
  /** Only says what it would do. */
  dryRun?: boolean;
}

export interface ReconcileHostResult {
  host: string;
  dryRun: boolean;
  /** Jobs whose run had ended without clean-up, and what became of each. */
  orphans: (OrphanedJob & { outcome: 'cleaned up' | 'left' | `clean-up failed: ${string}` })[];
}

/**
 * Cleans up after the runs of a host that could not do so themselves: terminated, timed out or reset ones, whose workflow code
 * does not run any more. Safe at any time, and beside any backup.
 */
export async function ReconcileHost(input: ReconcileHostInput): Promise<ReconcileHostResult> {
  const { host, dryRun = false } = input ?? {};
  if (typeof host !== 'string' || host === '') {
    throw ApplicationFailure.nonRetryable(
      `Bad input of ReconcileHost: expected {"host":"NAME"}, found ${JSON.stringify(input)}`,
      'InvalidInput',
    );
  }
  const options = {
    taskQueue: controlQueue(host),
    startToCloseTimeout: '10 minutes', // every export of a job gets its time to end by itself
    scheduleToCloseTimeout: '30 minutes', // the schedule comes again: what cannot be done now is done then
    retry: { maximumAttempts: 3 },
  } as const;
  const { findOrphanedJobs } = proxyActivities<ReconcileActivities>(options);
  const { cleanUp } = proxyActivities<CleanUpActivities>({ ...options, heartbeatTimeout: '30 seconds' });
  const orphans: ReconcileHostResult['orphans'] = [];
  for (const orphan of await findOrphanedJobs()) {
    orphans.push({ ...orphan, outcome: dryRun ? 'left' : await tryToCleanUp(cleanUp, orphan) });
    setCurrentDetails(
      orphans.map(({ vm, jobId, runState, outcome }) => `- ${vm}, job ${jobId}: ${runState}; ${outcome}`).join('\n'),
    );
  }
  return { host, dryRun, orphans };
}

/** One job's trouble does not keep the others waiting. */
async function tryToCleanUp(
  cleanUp: CleanUpActivities['cleanUp'],
  { jobId, runState }: OrphanedJob,
): Promise<ReconcileHostResult['orphans'][number]['outcome']> {
  try {
    await cleanUp({ jobId });
    await jobSteps.closeJob({ jobId, status: 'failed', error: `its workflow run ended without clean-up: ${runState}` });
    return 'cleaned up';
  } catch (error) {
    return `clean-up failed: ${messageOf(error)}`;
  }
}
