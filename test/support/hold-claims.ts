import type { WorkflowHandle } from '@temporalio/client';
import type { Lab } from './lab.js';

/** Keeps disks from being copied or restored, until it is released: each looks first whether its host is still its own. */
export async function holdClaims({ database }: Pick<Lab, 'database'>): Promise<{ release: () => Promise<void> }> {
  const connection = await database.pool.connect();
  await connection.query('begin');
  await connection.query('lock table hosts in access exclusive mode');
  return {
    async release() {
      await connection.query('rollback');
      connection.release();
    },
  };
}

/** How many steps of this kind a workflow waits for. */
export async function pendingSteps(handle: WorkflowHandle, activity: string): Promise<number> {
  const { raw } = await handle.describe();
  return (raw.pendingActivities ?? []).filter(({ activityType }) => activityType?.name === activity).length;
}
