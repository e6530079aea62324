import { listChainLeases, type ChainLease } from '../db/chain-leases.js';
import { requireInstallation } from '../db/installations.js';
import { closeJob } from '../db/jobs.js';
import { listOpenJobs } from '../db/open-jobs.js';
import type { Namespace } from '../domain/namespace.js';
import {
  judgeOwner,
  judgeRun,
  orphanError,
  type RunRow,
  type RunState,
  type Standing,
} from '../domain/orphaned-run.js';
import { cleanUpLease } from './clean-up-lease.js';
import { cleanUpJob } from './clean-up.js';
import type { HostDependencies } from './dependencies.js';

/** A job whose run has ended without cleaning up after itself: no workflow code runs after a termination or a timeout. */
export interface OrphanedJob {
  jobId: string;
  vm: string;
  workflowId: string;
  /** How its run ended, for people. */
  runState: string;
  ports: number[];
  /** Why it is left alone although its run is not known to be open. Without: it is to be cleaned up. */
  leftBecause?: string;
}

/** A lease on restore points whose run has ended without releasing it. */
export interface OrphanedLease {
  leaseId: string;
  vm: string;
  purpose: ChainLease['purpose'];
  workflowId: string;
  runState: string;
  /** As of a job. */
  leftBecause?: string;
}

export interface ReconcileDependencies extends HostDependencies {
  /** The one whose runs this worker takes, and that is asked for them. */
  namespace: Namespace;
  /**
   * Asks Temporal for one very run: a reset or a retry keeps the workflow id, and is another run.
   * @throws BackupError WrongNamespace when another namespace than ours answers
   */
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

/**
 * The jobs of this host whose run is no longer open, and those that cannot be judged, with why. A job that starts is never among
 * them: its run is open before its row is there.
 */
export async function findOrphanedJobs(dependencies: ReconcileDependencies): Promise<OrphanedJob[]> {
  const orphans: OrphanedJob[] = [];
  const { db, host, namespace } = dependencies;
  await requireInstallation(db, namespace);
  for (const row of await listOpenJobs(db, host)) {
    const { id, vm, workflowId, ports } = row;
    const standing = await judge(dependencies, row);
    if (standing.kind !== 'open') orphans.push({ jobId: id, vm, workflowId, ports, ...describeStanding(standing) });
  }
  return orphans;
}

/** The same of leases on restore points of this host: restores, verifications, deletions and prunes. */
export async function findOrphanedLeases(dependencies: ReconcileDependencies): Promise<OrphanedLease[]> {
  const orphans: OrphanedLease[] = [];
  const { db, host, namespace } = dependencies;
  await requireInstallation(db, namespace);
  for (const row of await listChainLeases(db, host)) {
    const { id, vm, purpose, workflowId } = row;
    const standing = await judge(dependencies, row);
    if (standing.kind !== 'open') orphans.push({ leaseId: id, vm, purpose, workflowId, ...describeStanding(standing) });
  }
  return orphans;
}

async function judge(
  { namespace, describeRun }: ReconcileDependencies,
  row: RunRow & { workflowId: string; runId: string },
): Promise<Standing> {
  return judgeOwner(row, namespace.id) ?? judgeRun(row, await describeRun(row.workflowId, row.runId));
}

function describeStanding(standing: Exclude<Standing, { kind: 'open' }>): { runState: string; leftBecause?: string } {
  const { runState } = standing;
  return standing.kind === 'left' ? { runState, leftBecause: standing.because } : { runState };
}

/**
 * The work of `ReconcileHost` without Temporal's help, for a worker that does not poll yet. One failure does not keep the others
 * waiting: `report` hears of each. A deletion that was left half done may take hours: it is left to the schedule.
 */
export async function reconcileBeforeStart(
  dependencies: ReconcileDependencies,
  signal: AbortSignal,
  report: (orphan: OrphanedJob | OrphanedLease, error: unknown) => void,
): Promise<void> {
  const tryTo = async (orphan: OrphanedJob | OrphanedLease, cleanUp: () => Promise<void>) => {
    if (orphan.leftBecause !== undefined) return report(orphan, undefined);
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
