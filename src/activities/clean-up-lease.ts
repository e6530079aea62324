import { findChainLease, recordLeaseTrouble, releaseChainLease } from '../db/chain-leases.js';
import { getContext } from '../db/contexts.js';
import { getRepository } from '../db/repositories.js';
import { BackupError } from '../domain/errors.js';
import { messageOf } from '../domain/message-of.js';
import { cleanUpRestore } from './clean-up-restore.js';
import { finishDeletion } from './deletions.js';
import type { HostDependencies } from './dependencies.js';
import { heartbeating } from './heartbeat.js';
import { requireHost } from './job-rows.js';

export function createCleanUpLeaseActivities(dependencies: HostDependencies) {
  return {
    /** The compensation of a restore, a verification or a deletion: `cleanUpLease`, with heartbeats. */
    async cleanUpLease(input: { leaseId: string }): Promise<void> {
      await heartbeating((signal) => cleanUpLease(dependencies, input.leaseId, signal));
    },
  };
}

/**
 * Ends what a run began under its lease on restore points, and gives the lease back. Keyed by rows. Safe to repeat.
 * @throws BackupError CleanUpFailed: the lease stays, so that nobody builds upon what is half done
 */
export async function cleanUpLease(
  dependencies: HostDependencies,
  leaseId: string,
  signal: AbortSignal,
): Promise<void> {
  const { db, host } = dependencies;
  const lease = await findChainLease(db, leaseId);
  if (!lease) return;
  if (lease.purpose === 'delete' || lease.purpose === 'prune') {
    await finishDeletion(dependencies, leaseId, signal); // what has a tombstone cannot be brought back
    return;
  }
  const { repositoryId } = await getContext(db, lease.contextId);
  requireHost(host, await getRepository(db, repositoryId));
  try {
    signal.throwIfAborted();
    await cleanUpRestore(dependencies, leaseId, signal);
    await releaseChainLease(db, leaseId);
  } catch (error) {
    await recordLeaseTrouble(db, leaseId, messageOf(error));
    throw new BackupError(
      'CleanUpFailed',
      `Clean-up of ${lease.purpose} ${leaseId} is not done yet: ${messageOf(error)}`,
    );
  }
}

export type CleanUpLeaseActivities = ReturnType<typeof createCleanUpLeaseActivities>;
