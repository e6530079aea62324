import { CancellationScope, uuid4 } from '@temporalio/workflow';
import type { DeletedPoint } from '../activities/deletion-plan.js';
import type { DeletionEnd } from '../activities/deletions.js';
import type { Descendants } from '../domain/deletion.js';
import { takeChainLease } from './chain-lease.js';
import { beginDeletionSteps, finishDeletionSteps } from './steps.js';

/** The restore points to delete: some, or all of them together with their context (`jobIds` null). */
export interface DeletionSelection {
  jobIds: string[] | null;
  descendants: Descendants;
}

export interface Deletion extends DeletionEnd {
  points: DeletedPoint[];
}

/**
 * Deletes restore points of one context under an exclusive lease, which it takes and gives back; `select` is asked under the
 * lease. Cancelled before the points have their tombstones, nothing has happened; after that it is too late, and they are deleted.
 */
export async function deletePoints(
  { contextId, host, purpose }: { contextId: string; host: string; purpose: 'delete' | 'prune' },
  say: (step: string) => void,
  select: () => Promise<DeletionSelection>,
): Promise<Deletion> {
  const leaseId = uuid4();
  let points: DeletedPoint[] = [];
  let end: DeletionEnd;
  try {
    await takeChainLease({ id: leaseId, contextId, mode: 'exclusive', purpose }, say);
    const selection = await select();
    if (selection.jobIds?.length !== 0) {
      say('looking at the files');
      points = await beginDeletionSteps(host).beginDeletion({ leaseId, ...selection });
    }
  } finally {
    // Always. After a crash of the worker, Temporal brings the workflow back to this line.
    end = await CancellationScope.nonCancellable(() => finish(host, leaseId, points, say));
  }
  return { points, ...end };
}

/** Tried until it is done: what is half deleted is not given up. */
async function finish(
  host: string,
  leaseId: string,
  points: readonly DeletedPoint[],
  say: (step: string) => void,
): Promise<DeletionEnd> {
  const mergeCount = points.filter(({ mergedInto }) => mergedInto.length > 0).length;
  const summary =
    points.length === 0
      ? 'give the lease back'
      : `delete ${points.length} restore point(s), ${mergeCount} of them by merging`;
  say(summary);
  return finishDeletionSteps(host, summary).finishDeletion({ leaseId });
}
