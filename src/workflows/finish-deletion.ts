import { startStepReport } from './report.js';
import { closingFailure } from './failures.js';
import { finishDeletionSteps } from './steps.js';

export interface FinishDeletionInput {
  host: string;
  leaseId: string;
}

/** Brings to its end what a deletion or a prune left half done whose run had ended. `ReconcileHost` starts it: merging may take hours. */
export async function FinishDeletion({ host, leaseId }: FinishDeletionInput): Promise<{ warnings: string[] }> {
  const summary = 'delete what an ended run had begun to delete';
  startStepReport(`Deletion ${leaseId}`)(summary);
  try {
    return await finishDeletionSteps(host, summary).finishDeletion({ leaseId });
  } catch (error) {
    throw closingFailure(error, host);
  }
}
