import type { WorkflowHandle } from '@temporalio/client';
import { describe, expect, test } from 'vitest';
import type { BackupVMResult } from '../../src/domain/result.js';
import { mainQueue } from '../../src/workflows/messages.js';
import { expectSameContent } from '../support/content.js';
import type { Lab } from '../support/lab.js';
import type { StorageDaemon } from '../support/storage-daemon.js';
import type { KillPoint } from './kill-point.js';
import { fastReconcile, faultyId, withStory, type Story } from './story.js';

// Verifications, deletions and prunes; restores: restore.test.ts.

const KiB = 1024;
const start = ({ lab }: Story, type: string, input: object, workflowId = faultyId): Promise<WorkflowHandle> =>
  lab.client.workflow.start(type, { taskQueue: mainQueue, workflowId, args: [input] });

type WorkflowType = 'VerifyBackup' | 'DeleteBackup' | 'PruneBackups';
type Run = KillPoint & { type: WorkflowType };

/** A run for each phase of a step. One death meets all runs of a row: worker processes are what such rows cost. */
function runs(type: WorkflowType, activity: string, phases: readonly KillPoint['phase'][]): Run[] {
  return phases.map((phase) => ({ type, workflowId: `${type}-${phase}-${activity}`, activity, phase }));
}

const eachPhase = ['before', 'during', 'after'] as const;
const onlyAfter = ['after'] as const; // of a step in the database: done, and nobody has heard of that

/** Their moments can be seen, so that a row which missed its moment fails. */
const visible = ['verifyChain', 'finishDeletion'];

/** The worker dies when each run is at its point, and another one takes over. */
async function surviveDeath({ firstWorker, startWorker }: Story): Promise<void> {
  const { activity, inTime } = await firstWorker.death();
  if (visible.includes(activity)) expect(inTime).toBe(true);
  await startWorker();
}

/** A VM whose full is to go, and whose incremental gets its data. */
interface Subject {
  vm: StorageDaemon;
  full: BackupVMResult;
  incremental: BackupVMResult;
}

async function addSubject({ lab }: Story, name: string): Promise<Subject> {
  const vm = await lab.startVM(name, [{ key: 'root', sizeBytes: 1024 * KiB }]);
  await vm.write('root', 0, 256 * KiB, 0x11);
  const full = await lab.backUp({ vm: name });
  await vm.write('root', 128 * KiB, 256 * KiB, 0x22);
  return { vm, full, incremental: await lab.backUp({ vm: name }) };
}

async function expectMerged(lab: Lab, { vm, full, incremental }: Subject): Promise<void> {
  const { rows } = await lab.database.pool.query<{ id: string; type: string }>(
    `select j.id, d.type from backup_jobs j join backup_disks d on d.job_id = j.id where j.id in ($1, $2)`,
    [full.jobId, incremental.jobId],
  );
  expect(rows).toEqual([{ id: incremental.jobId, type: 'full' }]);
  await expectSameContent(lab, vm, incremental);
}

describe.concurrent('the worker is killed (SIGKILL) before, during and after', () => {
  test.for([
    ['probeVerification', 'lookUpVerification'],
    ['verifyChain', 'acquireChainLease'],
    ['cleanUpLease', 'planVerification'],
  ] as const)(
    '%s, and after %s, of VerifyBackup: the next worker completes it, and no damage is found',
    ([hostStep, databaseStep]) => {
      const killPoint = [
        ...runs('VerifyBackup', hostStep, eachPhase),
        ...runs('VerifyBackup', databaseStep, onlyAfter),
      ];
      return withStory(
        `verification, killed at ${hostStep}`,
        async (story) => {
          const input = { vm: 'vm', level: 'content', maxParallelDisks: 1 }; // all runs at once get a copy slot
          const handles = await Promise.all(
            killPoint.map(({ type, workflowId }) => start(story, type, input, workflowId)),
          );
          await surviveDeath(story);
          for (const handle of handles) expect(await handle.result()).toMatchObject({ damaged: false });
          await story.expectRecovered({ outcome: 'none' });
        },
        { killPoint },
      );
    },
  );

  test.for<[string, Run[]]>([
    [
      'probeDeletion of DeleteBackup, and steps of PruneBackups up to there',
      [
        ...runs('DeleteBackup', 'probeDeletion', eachPhase),
        ...runs('DeleteBackup', 'lookUpDeletion', onlyAfter),
        ...runs('PruneBackups', 'lookUpPruneTargets', onlyAfter),
        ...runs('PruneBackups', 'probeDeletion', onlyAfter),
      ],
    ],
    [
      'beginDeletion of PruneBackups, and steps of DeleteBackup up to there',
      [
        ...runs('PruneBackups', 'beginDeletion', eachPhase),
        ...runs('PruneBackups', 'decidePrune', onlyAfter),
        ...runs('DeleteBackup', 'acquireChainLease', onlyAfter),
        ...runs('DeleteBackup', 'beginDeletion', onlyAfter),
      ],
    ],
    ['finishDeletion of DeleteBackup', runs('DeleteBackup', 'finishDeletion', eachPhase)],
    ['finishDeletion of PruneBackups', runs('PruneBackups', 'finishDeletion', eachPhase)],
  ])('%s: the next worker completes it, and what stays reads as before', ([what, killPoint]) =>
    withStory(
      `killed at ${what}`,
      async (story) => {
        const subjects = await Promise.all(killPoint.map(({ workflowId }) => addSubject(story, workflowId)));
        const handles = await Promise.all(
          killPoint.map(({ type, workflowId }, index) => {
            const input =
              type === 'DeleteBackup'
                ? { point: subjects[index]?.full.jobId, descendants: 'merge' }
                : { vm: workflowId, policy: { keepLast: 1 } };
            return start(story, type, input, workflowId);
          }),
        );
        await surviveDeath(story);
        for (const handle of handles) await handle.result();
        for (const subject of subjects) await expectMerged(story.lab, subject);
        await story.expectRecovered({ outcome: 'none' });
      },
      { killPoint },
    ),
  );
});

describe.concurrent('the worker is killed (SIGKILL) twice in a row', () => {
  test('before cleanUpLease of VerifyBackup: the third worker gives the lease back', () => {
    const killPoint: KillPoint = { workflowId: faultyId, activity: 'cleanUpLease', phase: 'before' };
    return withStory(
      'verification, killed twice',
      async (story) => {
        const handle = await start(story, 'VerifyBackup', { vm: 'vm' });
        await story.firstWorker.death();
        await (await story.startWorker(killPoint)).death();
        await story.startWorker();
        expect(await handle.result()).toMatchObject({ damaged: false });
        await story.expectRecovered({ outcome: 'none' });
      },
      { killPoint },
    );
  });

  test('during finishDeletion of DeleteBackup that merges: the third worker completes it', () => {
    const killPoint: KillPoint = { workflowId: faultyId, activity: 'finishDeletion', phase: 'during' };
    return withStory(
      'deletion, killed twice',
      async (story) => {
        const deleted = [await story.addPoint()];
        await story.addPoint();
        const handle = await start(story, 'DeleteBackup', { point: deleted[0], descendants: 'merge' });
        expect(await story.firstWorker.death()).toMatchObject({ inTime: true });
        expect(await (await story.startWorker(killPoint)).death()).toMatchObject({ inTime: true });
        await story.startWorker();
        await handle.result();
        await story.expectRecovered({ outcome: 'none', deleted });
      },
      { killPoint },
    );
  });
});

describe.concurrent('while the worker is dead, the workflow is terminated', () => {
  test.for(['DeleteBackup', 'PruneBackups'] as const)('%s, with tombstones given: the host has it finished', (type) =>
    withStory(
      `${type} terminated`,
      async (story) => {
        const { client, database } = story.lab;
        const { rows } = await database.pool.query<{ id: string; contextId: string }>(
          `select id, context_id as "contextId" from backup_jobs`,
        );
        const [first] = rows;
        if (!first) throw new Error('Expected a restore point');
        await story.addPoint();
        await (type === 'DeleteBackup'
          ? start(story, type, { point: first.id, descendants: 'merge' })
          : start(story, type, { policy: { keepLast: 1 } }));
        await story.firstWorker.death();
        await client.workflow.getHandle(faultyId).terminate('by the test');
        // A prune works in a child of its own, which is asked to end; here nobody can ask it any more.
        if (type === 'PruneBackups')
          await client.workflow.getHandle(`${faultyId}/${first.contextId}`).terminate('by the test');
        await story.startWorker();
        await story.untilCleanedUp();
        await story.expectRecovered({ outcome: 'none', deleted: [first.id] });
      },
      { ...fastReconcile, killPoint: { workflowId: faultyId, activity: 'finishDeletion', phase: 'before' } },
    ),
  );
});
