import { sleep, workflowInfo } from '@temporalio/workflow';
import type { ChainHolder, NewChainLease } from '../db/chain-leases.js';
import { jobSteps } from './steps.js';

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
 * Leases the restore points of a context, and waits as long as others work on them. The caller gives the lease back, by the
 * step `cleanUpLease`, also when this throws.
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
