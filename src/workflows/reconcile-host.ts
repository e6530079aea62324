import { WorkflowExecutionAlreadyStartedError } from '@temporalio/common';
import {
  ApplicationFailure,
  isCancellation,
  patched,
  proxyActivities,
  setCurrentDetails,
  startChild,
} from '@temporalio/workflow';
import type { CleanUpLeaseActivities } from '../activities/clean-up-lease.js';
import type { OrphanedJob, OrphanedLease, ReconcileActivities } from '../activities/reconcile.js';
import type { CleanUpActivities } from '../activities/clean-up.js';
import type { KeptDiskActivities, KeptDiskReport } from '../activities/kept-disks.js';
import type { FileSurvey, Found, SurveyActivities, UnknownExport } from '../activities/survey.js';
import { orphanError } from '../domain/orphaned-run.js';
import { messageOf } from './failures.js';
import { FinishDeletion } from './finish-deletion.js';
import { inLanes, takeTurns, type InTurn } from './lanes.js';
import { controlQueue } from './messages.js';
import { jobSteps } from './steps.js';

export interface ReconcileHostInput {
  host: string;
  /** Only says what it would do. */
  dryRun?: boolean;
  /** Also compares the repositories' files with the rows. Reads every folder: nothing for each minute. */
  survey?: boolean;
}

export interface ReconcileHostResult {
  host: string;
  dryRun: boolean;
  /** Jobs whose run had ended without clean-up, and what became of each. */
  orphans: (OrphanedJob & { outcome: Outcome })[];
  /** Restores, verifications, deletions and prunes that left a lease on restore points, and what became of each. */
  orphanedLeases: (OrphanedLease & { outcome: Outcome })[];
  /** Of both kinds what nobody may touch yet: a person has to look. `leftBecause` says why. */
  leftAlone: (OrphanedJob | OrphanedLease)[];
  /** What is there, is not ours to touch, and was left alone. Null where it was not looked for, or `problems` says why not. */
  unknownExports: Found<UnknownExport> | null;
  unknownFiles: FileSurvey['unknownFiles'] | null;
  changedFiles: FileSurvey['changedFiles'] | null;
  /** Disks that restores replaced, and what became of those whose time is up. Null where they could not be looked at. */
  keptDisks: KeptDiskReport[] | null;
  problems: string[];
}

type Done = Pick<ReconcileHostResult, 'orphans' | 'orphanedLeases' | 'leftAlone'>;
type Outcome = 'cleaned up' | 'being finished' | 'left' | `clean-up failed: ${string}`;

/** Clean-ups at a time: one that hangs must not keep the others waiting. Fewer than a host's worker takes short steps. */
const lanes = 8;

/**
 * Cleans up after the runs of a host that could not do so themselves: terminated, timed out or reset ones, whose workflow code no
 * longer runs. Then says what else it found, and leaves that alone. Safe at any time, and next to any backup.
 */
export async function ReconcileHost(input: ReconcileHostInput): Promise<ReconcileHostResult> {
  const { host, dryRun = false, survey = false } = input ?? {};
  if (typeof host !== 'string' || host === '') {
    throw ApplicationFailure.nonRetryable(
      `Bad input of ReconcileHost: expected {"host":"NAME"}, found ${JSON.stringify(input)}`,
      'InvalidInput',
    );
  }
  const options = {
    taskQueue: controlQueue(host),
    startToCloseTimeout: '10 minutes', // every export of a job gets its time to end by itself
    scheduleToCloseTimeout: '30 minutes', // the schedule runs again: what cannot be done now is done then
    retry: { maximumAttempts: 3 },
  } as const;
  const { findOrphanedJobs, findOrphanedLeases } = proxyActivities<ReconcileActivities>({
    ...options,
    startToCloseTimeout: '1 minute', // a query, and a question to Temporal per open job; a worker that dies is noticed then
  });
  const { cleanUp, cleanUpLease } = proxyActivities<CleanUpActivities & CleanUpLeaseActivities>({
    ...options,
    heartbeatTimeout: '30 seconds',
  });
  const done: Done = { orphans: [], orphanedLeases: [], leftAlone: [] };
  const say = () => setCurrentDetails(describe(done));
  const inTurn = takeTurns();
  await eachOf(await findOrphanedJobs(), done, async (orphan) => {
    done.orphans.push({ ...orphan, outcome: dryRun ? 'left' : await tryToCleanUp(cleanUp, orphan, inTurn) });
    say();
  });
  await eachOf(await findOrphanedLeases(), done, async (orphan) => {
    const outcome = dryRun ? 'left' : await tryToEnd(cleanUpLease, host, orphan);
    done.orphanedLeases.push({ ...orphan, outcome });
    say();
  });
  const found = await surveyHost(host, survey);
  const kept = await settleKeptDisks(host, dryRun);
  const problems = [...found.problems, ...kept.problems];
  setCurrentDetails([describe(done), ...problems.map((problem) => `- ${problem}`)].join('\n'));
  return { host, dryRun, ...done, ...found, keptDisks: kept.keptDisks, problems };
}

/** Cleans up what may be cleaned up, several at a time, and notes the rest. */
async function eachOf<Orphan extends OrphanedJob | OrphanedLease>(
  orphans: readonly Orphan[],
  { leftAlone }: Done,
  cleanUp: (orphan: Orphan) => Promise<void>,
): Promise<void> {
  leftAlone.push(...orphans.filter(({ leftBecause }) => leftBecause !== undefined));
  const ours = orphans.filter(({ leftBecause }) => leftBecause === undefined);
  await inLanes(ours, lanes, cleanUp, () => undefined);
}

function describe({ orphans, orphanedLeases, leftAlone }: Done): string {
  const jobs = orphans.map(({ vm, jobId, runState, outcome }) => `- ${vm}, job ${jobId}: ${runState}; ${outcome}`);
  const leases = orphanedLeases.map(
    ({ vm, purpose, leaseId, runState, outcome }) => `- ${vm}, ${purpose} ${leaseId}: ${runState}; ${outcome}`,
  );
  const left = leftAlone.map(
    ({ vm, workflowId, leftBecause }) => `- ${vm}, workflow ${workflowId}: left alone, ${leftBecause}`,
  );
  return [...jobs, ...leases, ...left].join('\n');
}

/** Removes the disks that restores replaced when their time is up. What cannot be removed now is said. */
async function settleKeptDisks(
  host: string,
  dryRun: boolean,
): Promise<Pick<ReconcileHostResult, 'keptDisks' | 'problems'>> {
  if (!patched('removes-kept-disks')) return { keptDisks: null, problems: [] };
  const { removeKeptDisks } = proxyActivities<KeptDiskActivities>({
    taskQueue: controlQueue(host),
    startToCloseTimeout: '30 minutes', // asks for the definition of each VM before each file that goes
    scheduleToCloseTimeout: '1 hour', // the schedule runs again: what cannot be removed now is removed then
    heartbeatTimeout: '30 seconds',
    retry: { maximumAttempts: 3 },
  });
  try {
    const keptDisks = await removeKeptDisks({ dryRun });
    const left = keptDisks.filter(({ outcome }) => outcome.startsWith('left'));
    return { keptDisks, problems: left.map(({ keptPath, outcome }) => `kept disk ${keptPath}: ${outcome}`) };
  } catch (error) {
    if (isCancellation(error)) throw error;
    return { keptDisks: null, problems: [`cannot remove kept disks of host '${host}': ${messageOf(error)}`] };
  }
}

/** What cannot be looked at now is said, and does not make a failure of the clean-up that is done. */
async function surveyHost(
  host: string,
  withFiles: boolean,
): Promise<Pick<ReconcileHostResult, 'unknownExports' | 'unknownFiles' | 'changedFiles' | 'problems'>> {
  const options = { taskQueue: controlQueue(host), retry: { maximumAttempts: 3 } } as const;
  const { surveyExports } = proxyActivities<SurveyActivities>({
    ...options,
    startToCloseTimeout: '1 minute', // reads /proc once
    scheduleToCloseTimeout: '10 minutes', // an absent host has kept the steps before this one waiting already
  });
  const { surveyFiles } = proxyActivities<SurveyActivities>({
    ...options,
    startToCloseTimeout: '1 hour', // a look at each of a million files on a network file system
    scheduleToCloseTimeout: '2 hours',
    heartbeatTimeout: '30 seconds',
  });
  const problems: string[] = [];
  const lookAt = async <T>(what: string, look: () => Promise<T>): Promise<T | null> => {
    try {
      return await look();
    } catch (error) {
      if (isCancellation(error)) throw error;
      problems.push(`${what} of host '${host}' could not be looked at: ${messageOf(error)}`);
      return null;
    }
  };
  const unknownExports = await lookAt('The processes', surveyExports);
  const files = withFiles ? await lookAt('The files', surveyFiles) : null;
  return {
    unknownExports,
    unknownFiles: files?.unknownFiles ?? null,
    changedFiles: files?.changedFiles ?? null,
    problems: [...problems, ...(files?.problems ?? [])],
  };
}

function tryToCleanUp(
  cleanUp: CleanUpActivities['cleanUp'],
  { jobId, runState }: OrphanedJob,
  inTurn: InTurn,
): Promise<Outcome> {
  return unlessItFails(async () => {
    await cleanUp({ jobId });
    await inTurn(() => jobSteps.closeJob({ jobId, status: 'failed', error: orphanError(runState) }));
  });
}

async function tryToEnd(
  cleanUpLease: CleanUpLeaseActivities['cleanUpLease'],
  host: string,
  { leaseId, purpose }: OrphanedLease,
): Promise<Outcome> {
  if (purpose !== 'delete' && purpose !== 'prune') return unlessItFails(() => cleanUpLease({ leaseId }));
  try {
    await startChild(FinishDeletion, {
      workflowId: `finish-deletion/${leaseId}`,
      args: [{ host, leaseId }],
      parentClosePolicy: 'ABANDON', // merging may take hours, and other runs must not wait for it
    });
  } catch (error) {
    if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw error;
  }
  return 'being finished';
}

/** One failure does not keep the others waiting. */
async function unlessItFails(cleanUp: () => Promise<void>): Promise<Outcome> {
  try {
    await cleanUp();
    return 'cleaned up';
  } catch (error) {
    return `clean-up failed: ${messageOf(error)}`;
  }
}
