import { describe, expect, test } from 'vitest';
import type { KillPoint } from './kill-point.js';
import { faultyId, withStory, type FaultyOptions, type Recovery } from './story.js';

const phases = ['before', 'during', 'after'] as const;
const steps = [
  'lookUpTargets',
  'probeHost',
  'lookUpContext',
  'insertJob',
  'openSnapshot',
  'allocatePort',
  'startExport',
  'transferDisk',
  'stopExport',
  'recordChangeId',
  'closeSnapshot',
  'sealRestorePoint',
  'cleanUp',
];
/** Their moments can be seen, so that a row which missed its moment fails. */
const visible = ['openSnapshot', 'startExport', 'transferDisk', 'sealRestorePoint'];

const at = (activity: string, phase: KillPoint['phase']): KillPoint => ({ workflowId: faultyId, activity, phase });

/** The worker dies at the point; the next one brings the same workflow to its end. */
async function tellOfDeath(
  point: KillPoint,
  recovery: Recovery,
  options: { faulty?: FaultyOptions; times?: number } = {},
): Promise<void> {
  await withStory(
    `worker killed ${point.phase} ${point.activity}`,
    async ({ startFaulty, startWorker, expectRecovered, firstWorker }) => {
      const handle = await startFaulty(options.faulty);
      let worker = firstWorker;
      for (let time = 1; ; time += 1) {
        const { inTime } = await worker.death();
        if (visible.includes(point.activity)) expect(inTime).toBe(true);
        worker = await startWorker(time < (options.times ?? 1) ? point : undefined);
        if (time >= (options.times ?? 1)) break;
      }
      await handle.result().catch(() => undefined); // how it ended is for the rows to say
      await expectRecovered(recovery);
    },
    { killPoint: point },
  );
}

describe.concurrent('the worker is killed (SIGKILL)', () => {
  test.for(steps.flatMap((step) => phases.map((phase) => [phase, step] as const)))(
    '%s %s: the next worker completes the same backup',
    ([phase, step]) => tellOfDeath(at(step, phase), { outcome: 'complete' }),
  );

  test.for(phases)('%s compareCopy, of a backup that is compared: the next worker completes the same backup', (phase) =>
    tellOfDeath(at('compareCopy', phase), { outcome: 'complete' }, { faulty: { compare: true } }),
  );

  test.for(phases)('%s closeJob, of a backup that fails: it is closed all the same', (phase) =>
    tellOfDeath(at('closeJob', phase), { outcome: 'failed' }, { faulty: { quiesce: 'require' } }),
  );

  test.for(phases)('twice in a row, %s cleanUp', (phase) =>
    tellOfDeath(at('cleanUp', phase), { outcome: 'complete' }, { times: 2 }),
  );
});
