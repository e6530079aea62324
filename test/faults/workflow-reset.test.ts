import { randomUUID } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import type { BackupVMResult } from '../../src/domain/result.js';
import { fastReconcile, faultyId, withStory, type Story } from './story.js';

// A reset ends the run, and begins another one with what happened before a point of its history. The steps of the old run that
// are under way hear of it at their next heartbeat only, so that for a while two runs work on one backup.

/** Resets the faulty run to the decision that first scheduled a step. @returns the result of the new run */
async function resetTo({ lab }: Story, runId: string, activity: string): Promise<() => Promise<BackupVMResult>> {
  const { events } = await lab.client.workflow.getHandle(faultyId, runId).fetchHistory();
  const scheduled = (events ?? [])
    .map(({ activityTaskScheduledEventAttributes: attributes }) => attributes)
    .find((attributes) => attributes?.activityType?.name === activity);
  const workflowTaskFinishEventId = scheduled?.workflowTaskCompletedEventId;
  if (!workflowTaskFinishEventId) throw new Error(`Expected ${activity} in the history of ${runId}`);
  const { runId: newRunId } = await lab.client.workflowService.resetWorkflowExecution({
    namespace: lab.namespace,
    workflowExecution: { workflowId: faultyId, runId },
    workflowTaskFinishEventId,
    reason: 'by the test',
    requestId: randomUUID(),
  });
  const handle = lab.client.workflow.getHandle<() => Promise<BackupVMResult>>(faultyId, newRunId ?? '');
  return () => handle.result();
}

describe.concurrent('in the middle of a copy, the workflow is reset', () => {
  test.for(['openSnapshot', 'startExport', 'transferDisk'])(
    'to %s: the host leaves the backup to the new run, and that completes it',
    (activity) =>
      withStory(
        `reset to ${activity}`,
        async (story) => {
          const { firstExecutionRunId: runId } = await story.startFaulty();
          await story.holdCopies();
          const result = await resetTo(story, runId, activity);
          expect(await story.nextReconcile()).toMatchObject({ orphans: [], leftAlone: [] });
          story.vm.resume();
          await result();
          await story.expectRecovered({ outcome: 'complete' });
        },
        fastReconcile,
      ),
  );

  test('to before its ids were drawn: the new run cleans up after the old one, and takes a backup of its own', () =>
    withStory('reset to the start', async (story) => {
      const { firstExecutionRunId: runId } = await story.startFaulty();
      await story.holdCopies();
      const result = await resetTo(story, runId, 'probeHost');
      story.vm.resume();
      await result();
      await story.expectRecovered({ outcome: 'complete' });
    }));
});

describe.concurrent('while the worker is dead, the workflow is reset', () => {
  test.for(['closeSnapshot', 'sealRestorePoint', 'cleanUp'])(
    'to %s, which was to begin: the next worker leaves the backup to the new run, and that completes it',
    (activity) =>
      withStory(
        `reset to ${activity}`,
        async (story) => {
          const { firstExecutionRunId: runId } = await story.startFaulty();
          await story.firstWorker.death();
          const result = await resetTo(story, runId, activity);
          await story.startWorker();
          await result();
          await story.expectRecovered({ outcome: 'complete' });
        },
        { killPoint: { workflowId: faultyId, activity, phase: 'before' } },
      ),
  );
});

describe.concurrent('in the middle of its seal, with one file under its final name, the workflow is reset', () => {
  test('to openSnapshot: the files of the old run are of another moment, and never sealed; the backup fails, and leaves nothing', () =>
    withStory(
      'reset in the seal',
      async (story) => {
        const { firstExecutionRunId: runId } = await story.startFaulty();
        expect(await story.firstWorker.frozen()).toMatchObject({ inTime: true });
        const result = await resetTo(story, runId, 'openSnapshot');
        await story.startWorker();
        await expect(result()).rejects.toMatchObject({ cause: { type: 'AlreadyExists' } });
        await story.firstWorker.wake();
        await story.expectRecovered({ outcome: 'failed' });
      },
      { killPoint: { workflowId: faultyId, activity: 'sealRestorePoint', phase: 'during', freezes: true } },
    ));
});
