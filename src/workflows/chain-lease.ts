import { CancellationScope, sleep, workflowInfo } from '@temporalio/workflow';
import type { ChainHolder, NewChainLease } from '../db/chain-leases.js';
import { closingFailure, messageOf } from './failures.js';
import { cleanUpSteps, firstCleanUpSteps, jobSteps } from './steps.js';

const firstWaitMs = 1_000;
const longestWaitMs = 60_000; // a merge can take hours: few events, and no long wait after its end

/** Waits a while for those that work on the same restore points, longer each time, and says for whom. */
export type Pause = (holders: readonly ChainHolder[], say: (step: string) => void) => Promise<void>;

export function createPause(): Pause {
  let waitMs = firstWaitMs;
  return async (holders, say) => {
    const names = holders.map(({ purpose, workflowId }) => `the ${purpose} of workflow '${workflowId}'`);
    const summary = `waiting for ${names.join(' and ')}`;
    say(summary);
    await sleep(waitMs, { summary });
    waitMs = Math.min(waitMs * 2, longestWaitMs);
  };
}

/**
 * Leases the restore points of a context, and waits as long as others work on them. The caller gives the lease back, by
 * `endChainLease`, also when this throws.
 */
export async function takeChainLease(
  lease: Pick<NewChainLease, 'id' | 'contextId' | 'mode' | 'purpose'>,
  say: (step: string) => void,
): Promise<void> {
  const { workflowId, runId } = workflowInfo();
  for (const pause = createPause(); ;) {
    const { holders } = await jobSteps.acquireChainLease({ ...lease, workflowId, runId });
    if (holders.length === 0) return;
    await pause(holders, say);
  }
}

/**
 * Ends what was begun under a lease, and gives it back, also in a run that is cancelled. What cannot be done now is shown as pending,
 * and done when the host is back: never given up.
 */
export async function endChainLease(
  host: string,
  leaseId: string,
  summary: string,
  say: (step: string) => void,
): Promise<void> {
  await CancellationScope.nonCancellable(async () => {
    try {
      await firstCleanUpSteps(host, summary).cleanUpLease({ leaseId });
    } catch (error) {
      say(`clean-up is pending: ${messageOf(closingFailure(error, host))}`);
      await cleanUpSteps(host, summary).cleanUpLease({ leaseId });
    }
  });
}
