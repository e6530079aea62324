import type { Client } from '@temporalio/client';
import { recordHistory } from '../../scripts/record-history.js';

/** Stores the history of a run, unless one of this name is there: what is stored stays. */
export async function keepHistory(
  client: Client,
  run: { workflowId: string; runId?: string | undefined },
  caseName: string,
): Promise<void> {
  await recordHistory(client, run, caseName).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EEXIST') throw error;
  });
}
