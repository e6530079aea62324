import { listChainLeases, type ChainLease } from '../db/chain-leases.js';
import { closeJob, listOpenJobs } from '../db/jobs.js';
import { orphanError } from '../domain/orphaned-run.js';
import { cleanUpLease } from './clean-up-lease.js';
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

/** A lease on restore points whose run has ended without giving it back. */
export interface OrphanedLease {
  leaseId: string;
  vm: string;
  purpose: ChainLease['purpose'];
  workflowId: string;
  runState: string;
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

    /** `findOrphanedLeases`, for the host whose worker takes it. */
    async findOrphanedLeases(): Promise<OrphanedLease[]> {
      return findOrphanedLeases(dependencies);
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

/** The leases on restore points of this host whose run is no longer open: restores, verifications, deletions and prunes. */
export async function findOrphanedLeases({ db, host, describeRun }: ReconcileDependencies): Promise<OrphanedLease[]> {
  const orphans: OrphanedLease[] = [];
  for (const { id, vm, purpose, workflowId, runId } of await listChainLeases(db, host)) {
    const { isOpen, state } = await describeRun(workflowId, runId);
    if (!isOpen) orphans.push({ leaseId: id, vm, purpose, workflowId, runState: state });
  }
  return orphans;
}

/**
 * The work of `ReconcileHost` without Temporal's help, for a worker that has not begun to poll. One run's trouble does not keep
 * the others waiting: `report` hears of each. A deletion that was left half done may take hours: it is left to the schedule.
 */
export async function reconcileBeforeStart(
  dependencies: ReconcileDependencies,
  signal: AbortSignal,
  report: (orphan: OrphanedJob | OrphanedLease, error: unknown) => void,
): Promise<void> {
  const tryTo = async (orphan: OrphanedJob | OrphanedLease, cleanUp: () => Promise<void>) => {
    try {
      await cleanUp();
      report(orphan, undefined);
    } catch (error) {
      report(orphan, error);
    }
  };
  for (const orphan of await findOrphanedJobs(dependencies)) {
    await tryTo(orphan, async () => {
      await cleanUpJob(dependencies, orphan.jobId, signal);
      await closeJob(dependencies.db, orphan.jobId, 'failed', orphanError(orphan.runState));
    });
  }
  for (const orphan of await findOrphanedLeases(dependencies)) {
    if (orphan.purpose === 'delete' || orphan.purpose === 'prune') continue;
    await tryTo(orphan, () => cleanUpLease(dependencies, orphan.leaseId, signal));
  }
}

export type ReconcileActivities = ReturnType<typeof createReconcileActivities>;
