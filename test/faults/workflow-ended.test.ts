import { describe, expect, test } from 'vitest';
import { ownProcesses } from '../support/end-state.js';
import { until } from '../support/until.js';
import { faultyId, withStory, type Story } from './story.js';

// No workflow code runs after the end of a run, so that only the copy itself and ReconcileHost are left to clean up.

/** The copies notice at a heartbeat that their run is gone, and end although their source hangs; nbdkit with them. */
const untilCopiesEnded = ({ lab }: Story) =>
  until('the copies to end by themselves', async () =>
    (await ownProcesses(lab)).every(({ program }) => program === 'qemu-nbd'),
  );

describe.concurrent('in the middle of a copy, the workflow is', () => {
  test('cancelled: it cleans up by itself', () =>
    withStory('cancelled', async (story) => {
      const handle = await story.startFaulty();
      await story.holdCopies();
      await handle.cancel();
      await untilCopiesEnded(story);
      story.vm.resume();
      await expect(handle.result()).rejects.toMatchObject({ cause: { name: 'CancelledFailure' } });
      await story.expectRecovered({ outcome: 'cancelled' });
    }));

  test('terminated: ReconcileHost cleans up', () =>
    withStory('terminated', async (story) => {
      const handle = await story.startFaulty();
      await story.holdCopies();
      await handle.terminate('by the test');
      await untilCopiesEnded(story);
      story.vm.resume();
      expect(await story.reconcile()).toMatchObject({ orphans: [{ runState: 'terminated', outcome: 'cleaned up' }] });
      await story.expectRecovered({ outcome: 'failed' });
    }));

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

  test('timed out (execution timeout): ReconcileHost cleans up', () =>
    withStory('timed out', async (story) => {
      const handle = await story.startFaulty({ workflowExecutionTimeout: '10s' });
      await story.holdCopies();
      await expect(handle.result()).rejects.toMatchObject({ cause: { name: 'TimeoutFailure' } });
      await untilCopiesEnded(story);
      story.vm.resume();
      expect(await story.reconcile()).toMatchObject({ orphans: [{ runState: 'timed out', outcome: 'cleaned up' }] });
      await story.expectRecovered({ outcome: 'failed' });
    }));

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
