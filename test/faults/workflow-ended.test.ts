import { describe, expect, test } from 'vitest';
import { fastReconcile, faultyId, untilCopiesEnded, withStory, type Story } from './story.js';

// No workflow code runs after the end of a run, so that only the copy itself and the host are left to clean up.

/** What the row of the faulty backup says of its end. */
async function errorOf({ lab }: Story): Promise<string | null | undefined> {
  const { rows } = await lab.database.pool.query<{ error: string | null }>(
    `select error from backup_jobs where workflow_id = $1`,
    [faultyId],
  );
  return rows[0]?.error;
}

describe.concurrent('in the middle of a copy, the workflow is', () => {
  test('cancelled: it cleans up by itself', () =>
    withStory('cancelled', async (story) => {
      const handle = await story.startFaulty();
      await story.holdCopies();
      await handle.cancel();
      await untilCopiesEnded(story.lab);
      story.vm.resume();
      await expect(handle.result()).rejects.toMatchObject({ cause: { name: 'CancelledFailure' } });
      await story.expectRecovered({ outcome: 'cancelled' });
    }));

  test('terminated: the host cleans up by itself', () =>
    withStory(
      'terminated',
      async (story) => {
        const handle = await story.startFaulty();
        await story.holdCopies();
        await handle.terminate('by the test');
        await untilCopiesEnded(story.lab);
        story.vm.resume();
        await story.untilCleanedUp();
        expect(await errorOf(story)).toBe('its workflow run ended without clean-up: terminated');
        await story.expectRecovered({ outcome: 'failed' });
      },
      fastReconcile,
    ));

  test('terminated while the worker is dead: the next one cleans up before it polls', () =>
    withStory('terminated without worker', async (story) => {
      const handle = await story.startFaulty();
      await story.holdCopies();
      await story.firstWorker.kill();
      await handle.terminate('by the test');
      story.vm.resume();
      await story.startWorker();
      await story.expectRecovered({ outcome: 'failed' });
    }));

  test('timed out (execution timeout): the host cleans up by itself', () =>
    withStory(
      'timed out',
      async (story) => {
        const handle = await story.startFaulty({ workflowExecutionTimeout: '20s' });
        await story.holdCopies();
        await expect(handle.result()).rejects.toMatchObject({ cause: { name: 'TimeoutFailure' } });
        await untilCopiesEnded(story.lab);
        story.vm.resume();
        await story.untilCleanedUp();
        expect(await errorOf(story)).toBe('its workflow run ended without clean-up: timed out');
        await story.expectRecovered({ outcome: 'failed' });
      },
      fastReconcile,
    ));

  test('terminated in its very clean-up, with its point sealed: the next worker cleans up, and the point stays', () =>
    withStory(
      'terminated in clean-up',
      async ({ startFaulty, startWorker, firstWorker, expectRecovered }) => {
        const handle = await startFaulty();
        await firstWorker.death();
        await handle.terminate('by the test');
        await startWorker();
        await expectRecovered({ outcome: 'complete' });
      },
      { killPoint: { workflowId: faultyId, activity: 'cleanUp', phase: 'before' } },
    ));
});
