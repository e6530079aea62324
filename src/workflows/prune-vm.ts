import type { PrunedPoint, PruneVMResult } from '../domain/prune-result.js';
import type { RetentionPolicy } from '../domain/retention.js';
import { deletePoints } from './delete-points.js';
import { closingFailure } from './failures.js';
import { startStepReport } from './report.js';
import { jobSteps, probeDeletionSteps } from './steps.js';

/** The input of PruneVM, which PruneBackups starts for each VM. */
export interface PruneVMInput {
  contextId: string;
  vm: string;
  /** Of the repository. */
  host: string;
  policy: RetentionPolicy;
  dryRun: boolean;
}

/**
 * Removes the restore points of one VM in one repository that no rule of the policy keeps. What others need is merged into them.
 * Whatever happens, restore points that stay read as before.
 */
export async function PruneVM({ contextId, vm, host, policy, dryRun }: PruneVMInput): Promise<PruneVMResult> {
  try {
    const say = startStepReport(`Prune ${vm}`);
    let points = await jobSteps.decidePrune({ contextId, policy });
    if (dryRun || expired(points).length === 0) return { points, warnings: [] };
    say(`asking host ${host} about the repository`);
    await probeDeletionSteps(host).probeDeletion({ contextId });
    const { warnings } = await deletePoints({ contextId, host, purpose: 'prune' }, say, async () => {
      points = await jobSteps.decidePrune({ contextId, policy }); // others may have worked on them until now
      return { jobIds: expired(points), descendants: 'merge' };
    });
    return { points, warnings };
  } catch (error) {
    throw closingFailure(error, host);
  }
}

function expired(points: readonly PrunedPoint[]): string[] {
  return points.flatMap(({ id, decision }) => (decision === 'remove' ? [id] : []));
}
