import { describe, expect, test } from 'vitest';
import { until } from '../support/until.js';
import type { BackupHandle } from '../support/lab.js';
import { faultyId, withStory } from './story.js';

/** A step that is tried a second time, by another worker. */
async function secondAttempt(handle: BackupHandle, activity: string): Promise<void> {
  await until(
    `the second attempt at ${activity}`,
    async () => {
      const { raw } = await handle.describe();
      return raw.pendingActivities?.some(
        ({ activityType, attempt, lastHeartbeatTime }) =>
          activityType?.name === activity && Number(attempt) > 1 && lastHeartbeatTime,
      );
    },
    180_000,
  );
}

/** As a machine that was suspended, or swaps for a minute: nobody hears of it, its steps go to another worker, and then it wakes. */
describe.concurrent('the worker is frozen (SIGSTOP), another one takes over, and it wakes up', () => {
  test.for([
    ['before', 'openSnapshot'],
    ['during', 'startExport'],
    ['during', 'transferDisk'],
    ['during', 'sealRestorePoint'],
    ['before', 'cleanUp'],
  ] as const)('%s %s, when the backup is complete: its late attempt changes nothing', ([phase, activity]) =>
    withStory(
      `worker frozen ${phase} ${activity}`,
      async ({ startFaulty, startWorker, firstWorker, expectRecovered }) => {
        const handle = await startFaulty();
        const { inTime } = await firstWorker.frozen();
        if (phase === 'during') expect(inTime).toBe(true);
        await startWorker();
        await handle.result();
        await firstWorker.wake();
        await expectRecovered({ outcome: 'complete' });
      },
      { killPoint: { workflowId: faultyId, activity, phase, freezes: true } },
    ),
  );

  test('during openSnapshot, with the monitor of the VM in its hands: the next attempt waits for it, and only one counts', () =>
    withStory(
      'worker frozen during openSnapshot',
      async ({ startFaulty, startWorker, firstWorker, expectRecovered }) => {
        const handle = await startFaulty();
        expect(await firstWorker.frozen()).toMatchObject({ inTime: true });
        await startWorker();
        await secondAttempt(handle, 'openSnapshot');
        await firstWorker.wake();
        await handle.result();
        await expectRecovered({ outcome: 'complete' });
      },
      { killPoint: { workflowId: faultyId, activity: 'openSnapshot', phase: 'during', freezes: true } },
    ));
});
