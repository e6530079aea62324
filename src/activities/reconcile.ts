import { closeJob, listOpenJobs } from '../db/jobs.js';
import { orphanError } from '../domain/orphaned-run.js';
import { cleanUpJob } from './clean-up.js';
import type { HostDependencies } from './dependencies.js';

/** How a workflow run stands: open, or how it ended. */
export interface RunState {
  isOpen: boolean;
  /** `running`, `terminated`, `timed out`, `not found`, … */
  state: string;
}

/** A job whose run has ended without cleaning up after itself: no workflow code runs after a termination or a timeout. */
export interface OrphanedJob {
  jobId: string;
  vm: string;
  workflowId: string;
  /** What its run came to, for people. */
  runState: string;
  ports: number[];
}

export interface ReconcileDependencies extends HostDependencies {
  /** Asks Temporal for one very run: a reset or a retry keeps the workflow id, and is another run. */
  describeRun: (workflowId: string, runId: string) => Promise<RunState>;
}

export function createReconcileActivities(dependencies: ReconcileDependencies) {
  return {
    /** `findOrphanedJobs`, for the host whose worker takes it. */
    async findOrphanedJobs(): Promise<OrphanedJob[]> {
      return findOrphanedJobs(dependencies);
    },
  };
}

/** The jobs of this host whose run is no longer open. A job that starts is never among them: its run is open before its row is there. */
export async function findOrphanedJobs({ db, host, describeRun }: ReconcileDependencies): Promise<OrphanedJob[]> {
  const orphans: OrphanedJob[] = [];
  for (const { id, vm, workflowId, runId, ports } of await listOpenJobs(db, host)) {
    const { isOpen, state } = await describeRun(workflowId, runId);
    if (!isOpen) orphans.push({ jobId: id, vm, workflowId, runState: state, ports });
  }
  return orphans;
}

/**
 * The work of `ReconcileHost` without Temporal's help, for a worker that has not begun to poll. One job's trouble does not keep
 * the others waiting: `report` hears of each.
 */
export async function reconcileBeforeStart(
  dependencies: ReconcileDependencies,
  signal: AbortSignal,
  report: (orphan: OrphanedJob, error: unknown) => void,
): Promise<void> {
  for (const orphan of await findOrphanedJobs(dependencies)) {
    try {
      await cleanUpJob(dependencies, orphan.jobId, signal);
      await closeJob(dependencies.db, orphan.jobId, 'failed', orphanError(orphan.runState));
      report(orphan, undefined);
    } catch (error) {
      report(orphan, error);
    }
  }
}

export type ReconcileActivities = ReturnType<typeof createReconcileActivities>;
