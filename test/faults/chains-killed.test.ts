import type { WorkflowHandle } from '@temporalio/client';
import { describe, expect, test } from 'vitest';
import { mainQueue } from '../../src/workflows/messages.js';
import { until } from '../support/until.js';
import type { KillPoint } from './kill-point.js';
import { faultyId, withStory, type Story } from './story.js';

// Verifications and deletions; restores: restore.test.ts.

type Phase = KillPoint['phase'];
const at = (activity: string, phase: Phase): KillPoint => ({ workflowId: faultyId, activity, phase });

const start = ({ lab }: Story, type: string, input: object): Promise<WorkflowHandle> =>
  lab.client.workflow.start(type, { taskQueue: mainQueue, workflowId: faultyId, args: [input] });

/** The worker dies at the point, and another one takes over. */
async function surviveDeath({ firstWorker, startWorker }: Story): Promise<void> {
  await firstWorker.death();
  await startWorker();
}

describe.concurrent('the worker is killed (SIGKILL)', () => {
  test.for<[Phase, string]>([
    ['during', 'verifyChain'],
    ['before', 'cleanUpLease'],
  ])('%s %s of VerifyBackup: the next worker completes it, and no damage is found', ([phase, activity]) =>
    withStory(
      `verification, killed ${phase} ${activity}`,
      async (story) => {
        const handle = await start(story, 'VerifyBackup', { vm: 'vm', level: 'content' });
        await surviveDeath(story);
        expect(await handle.result()).toMatchObject({ damaged: false });
        await story.expectRecovered({ outcome: 'none' });
      },
      { killPoint: at(activity, phase) },
    ),
  );

  test.for<[Phase, string]>([
    ['after', 'beginDeletion'],
    ['during', 'finishDeletion'],
    ['after', 'finishDeletion'],
  ])(
    '%s %s of DeleteBackup that merges: the next worker completes it, and what stays reads as before',
    ([phase, activity]) =>
      withStory(
        `deletion, killed ${phase} ${activity}`,
        async (story) => {
          const deleted = [await story.addPoint()];
          await story.addPoint();
          const handle = await start(story, 'DeleteBackup', { point: deleted[0], descendants: 'merge' });
          await surviveDeath(story);
          await handle.result();
          await story.expectRecovered({ outcome: 'none', deleted });
        },
        { killPoint: at(activity, phase) },
      ),
  );
});

describe.concurrent('while the worker is dead, the workflow is terminated', () => {
  test('DeleteBackup, with tombstones given: ReconcileHost has it finished', () =>
    withStory(
      'deletion terminated',
      async (story) => {
        const deleted = [await story.addPoint()];
        await story.addPoint();
        const handle = await start(story, 'DeleteBackup', { point: deleted[0], descendants: 'merge' });
        await story.firstWorker.death();
        await handle.terminate('by the test');
        await story.startWorker();
        expect(await story.reconcile()).toMatchObject({
          orphanedLeases: [{ purpose: 'delete', runState: 'terminated', outcome: 'being finished' }],
        });
        await until('the deletion to be finished', async () => {
          const { rowCount } = await story.lab.database.pool.query(`select 1 from chain_leases`);
          return rowCount === 0;
        });
        await story.expectRecovered({ outcome: 'none', deleted });
      },
      { killPoint: at('finishDeletion', 'before') },
    ));
});
