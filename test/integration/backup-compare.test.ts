import { join } from 'node:path';
import { ApplicationFailure } from '@temporalio/activity';
import type { ActivityInterceptorsFactory } from '@temporalio/worker';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { runOrThrow } from '../../src/process/run.js';
import { expectSameContent } from '../support/content.js';
import { expectNothingLeftBehind } from '../support/left-behind.js';
import { createWorld, type World } from '../support/world.js';

const MiB = 1024 * 1024;

let world: World;
/** By VM: how many of its copies are still to be changed between the copy and its comparison, as a storage that lies would. */
const lies = new Map<string, number>();
/** VMs whose last attempt is the one of the last lie: the real last one comes after minutes. */
const impatient = new Set<string>();

const lyingStorage: ActivityInterceptorsFactory = ({ info }) => {
  const vm = info.workflowExecution?.workflowId.replace('backup-vm/', '') ?? '';
  const left = lies.get(vm) ?? 0;
  if (info.activityType !== 'compareCopy' || left === 0) return {};
  lies.set(vm, left - 1);
  return {
    inbound: {
      async execute(input, next) {
        await overwriteCopy(input.args[0] as { diskId: string });
        return next(input).catch((error: unknown) => {
          if (left > 1 || !impatient.has(vm) || !(error instanceof ApplicationFailure)) throw error;
          const { type, message } = error;
          throw ApplicationFailure.nonRetryable(message, type);
        });
      },
    },
  };
};

async function overwriteCopy({ diskId }: { diskId: string }): Promise<void> {
  const { rows } = await world.database.pool.query<{ path: string }>(
    `select attempt_path as path from backup_disks where id = $1`,
    [diskId],
  );
  const file = join(world.repository.path, rows[0]?.path ?? '');
  await runOrThrow('qemu-io', ['-f', 'qcow2', '-c', 'write -q -P 0x99 0 64k', file], { timeoutMs: 30_000 });
}

beforeAll(async () => {
  world = await createWorld('backup-compare', { activityInterceptors: [lyingStorage] });
});
afterAll(() => world.close());

/** The steps of a run on the host, in the order in which they were begun. */
async function stepsOf(workflowId: string): Promise<string[]> {
  const { events } = await world.client.workflow.getHandle(workflowId).fetchHistory();
  return (events ?? []).flatMap(
    ({ activityTaskScheduledEventAttributes: scheduled }) => scheduled?.activityType?.name ?? [],
  );
}

test('a backup that is to compare reads each copy against the open snapshot, and one that is not does no such thing', async () => {
  const vm = await world.startVM('web01', [{ key: 'root', sizeBytes: 4 * MiB }]);
  await vm.write('root', 0, MiB, 0x11);
  const full = await world.backUp({ vm: 'web01', compare: true });
  const steps = await stepsOf('backup-vm/web01');
  expect(steps.slice(steps.indexOf('transferDisk'))).toEqual([
    ...['transferDisk', 'stopExport', 'compareCopy', 'closeSnapshot', 'sealRestorePoint', 'cleanUp'],
  ]);
  await expectSameContent(world, vm, full);

  await vm.write('root', 2 * MiB, MiB, 0x22);
  await vm.zero('root', 0, 64 * 1024);
  const incremental = await world.backUp({ vm: 'web01', compare: true });
  expect(incremental.disks.map(({ type }) => type)).toEqual(['incremental']);
  await expectSameContent(world, vm, incremental);
  await world.backUp({ vm: 'web01' });
  expect(await stepsOf('backup-vm/web01')).not.toContain('compareCopy');
  await expectNothingLeftBehind(world);
});

const copies = async (vm: string) => {
  const steps = await stepsOf(`backup-vm/${vm}`);
  return steps.filter((step) => ['transferDisk', 'compareCopy', 'sealRestorePoint'].includes(step));
};

test('a copy that turns out different is made anew, from a clean file', async () => {
  const vm = await world.startVM('web02', [{ key: 'root', sizeBytes: 4 * MiB }]);
  await vm.write('root', 0, MiB, 0x11);
  lies.set('web02', 1);
  const point = await world.backUp({ vm: 'web02', compare: true });
  expect(await copies('web02')).toEqual([
    ...['transferDisk', 'compareCopy', 'transferDisk', 'compareCopy', 'sealRestorePoint'],
  ]);
  await expectSameContent(world, vm, point);
  await expectNothingLeftBehind(world);
});

test('a copy that stays different fails the backup: nothing of it is sealed, and the points before it stay', async () => {
  const vm = await world.startVM('web03', [{ key: 'root', sizeBytes: 4 * MiB }]);
  await vm.write('root', 0, MiB, 0x11);
  const before = await world.backUp({ vm: 'web03', compare: true });
  await expectSameContent(world, vm, before);
  await vm.write('root', MiB, MiB, 0x22);
  lies.set('web03', 2);
  impatient.add('web03');
  await expect(world.backUp({ vm: 'web03', compare: true })).rejects.toMatchObject({
    cause: { type: 'ContentDiffers' },
  });
  expect(await copies('web03')).toEqual(['transferDisk', 'compareCopy', 'transferDisk', 'compareCopy']);
  const { rows } = await world.database.pool.query<{ status: string }>(
    `select j.status from backup_jobs j join vm_backup_contexts c on c.id = j.context_id
     where c.vm_name = 'web03' order by j.started_at`,
  );
  expect(rows.map(({ status }) => status)).toEqual(['complete', 'failed']);
  await expectNothingLeftBehind(world);

  const after = await world.backUp({ vm: 'web03', compare: true });
  expect(after.disks.map(({ type }) => type)).toEqual(['incremental']);
  await expectSameContent(world, vm, after);
});
