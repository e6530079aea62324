import { randomUUID } from 'node:crypto';
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

/** Resets the run to the workflow task after which `eventType` is scheduled or recorded next. */
async function reset({ lab }: Story, runId: string, taskFinishEventId: number): Promise<string> {
  const { runId: newRunId } = await lab.client.workflowService.resetWorkflowExecution({
    namespace: lab.namespace,
    workflowExecution: { workflowId: faultyId, runId },
    workflowTaskFinishEventId: taskFinishEventId as unknown as Long,
    reason: 'by the test',
    requestId: randomUUID(),
  });
  return newRunId ?? '';
}

type Long = NonNullable<
  Parameters<Story['lab']['client']['workflowService']['resetWorkflowExecution']>[0]['workflowTaskFinishEventId']
>;

const workflowTaskCompleted = 7; // EventType

async function completedTasks({ lab }: Story, runId: string): Promise<number[]> {
  const { events } = await lab.client.workflow.getHandle(faultyId, runId).fetchHistory();
  return (events ?? []).flatMap(({ eventId, eventType }) =>
    Number(eventType) === workflowTaskCompleted ? [Number(eventId)] : [],
  );
}

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

  test('reset to its first step: the new run is refused while the old one is not cleaned up, and nothing is sealed twice', () =>
    withStory('reset to the start', async (story) => {
      const handle = await story.startFaulty();
      await story.holdCopies();
      const runId = handle.firstExecutionRunId;
      const [first] = await completedTasks(story, runId);
      const newRunId = await reset(story, runId, first ?? 0);
      await untilCopiesEnded(story);
      story.vm.resume();
      const refused = story.lab.client.workflow.getHandle(faultyId, newRunId).result();
      await expect(refused).rejects.toMatchObject({ cause: { type: 'BackupAlreadyRunning' } });
      await story.reconcile();
      await story.expectRecovered({ outcome: 'failed' });
    }));

  test('reset to its last step, and reconciled: what the new run says of its end is true, and nothing is left', () =>
    withStory('reset to the last step', async (story) => {
      const { firstExecutionRunId: runId } = await story.startFaulty();
      await story.holdCopies();
      const newRunId = await reset(story, runId, (await completedTasks(story, runId)).at(-1) ?? 0);
      story.vm.resume();
      await story.reconcile(); // may find the job before the new run has sealed it: the job's row names the old run
      const ended = story.lab.client.workflow.getHandle(faultyId, newRunId).result();
      const outcome = await ended.then(
        () => 'complete' as const,
        () => 'failed' as const,
      );
      await story.expectRecovered({ outcome });
    }));
});
