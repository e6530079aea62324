import { join } from 'node:path';
import type { WorkflowHandle } from '@temporalio/client';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { BackupVMResult } from '../../src/domain/result.js';
import type { VerifyBackupRequest } from '../../src/domain/verify-input.js';
import { mainQueue } from '../../src/workflows/messages.js';
import { ownProcesses } from '../support/end-state.js';
import { flip, whileHarmed } from '../support/harm.js';
import { until } from '../support/until.js';
import { createWorld, type World } from '../support/world.js';
import { keepHistory } from './keep-history.js';

// Verifications in the ways that a stored history must cover. Not a test of the suite: see record.config.ts.

const MiB = 1024 * 1024;

let world: World;
let point: BackupVMResult;
beforeAll(async () => {
  world = await createWorld('record-verifications');
  const vm = await world.startVM('web01', [
    { key: 'root', sizeBytes: 64 * MiB },
    { key: 'data', sizeBytes: 2 * MiB },
  ]);
  await vm.write('root', 0, 64 * MiB, 0x11);
  const compared = await world.start({ vm: 'web01', compare: true });
  point = await compared.result();
  await record(compared, 'compared');
});
afterAll(() => world.close());

async function record(handle: WorkflowHandle, caseName: string): Promise<void> {
  const { workflowId, runId } = await handle.describe();
  await keepHistory(world.client, { workflowId, runId }, caseName);
}

const start = (input: VerifyBackupRequest) =>
  world.client.workflow.start('VerifyBackup', { taskQueue: mainQueue, workflowId: 'verify', args: [input] });

test('nothing found, and damage found', async () => {
  const good = await start({ vm: 'web01' });
  expect(await good.result()).toMatchObject({ damaged: false });
  await record(good, 'good');
  await whileHarmed(
    join(world.repository.path, point.disks[0]?.path ?? ''),
    (file) => flip(file, 0),
    async () => {
      const damaged = await start({ vm: 'web01', all: true, level: 'content', maxParallelDisks: 1 });
      expect(await damaged.result()).toMatchObject({ damaged: true });
      await record(damaged, 'damaged');
    },
  );
});

test('waited for a prune', async () => {
  const { pool } = world.database;
  await pool.query(
    `insert into chain_leases (namespace_id, id, context_id, mode, purpose, workflow_id, run_id)
     select (select namespace_id from installations), gen_random_uuid(), context_id, 'exclusive', 'prune', 'prune/web01', 'run' from backup_jobs limit 1`,
  );
  const handle = await start({ vm: 'web01' });
  await until('a timer', async () => {
    const { events } = await handle.fetchHistory();
    return (events ?? []).some(({ timerStartedEventAttributes }) => timerStartedEventAttributes);
  });
  await pool.query(`delete from chain_leases where purpose = 'prune'`);
  await handle.result();
  await record(handle, 'waited-for-a-prune');
});

test('cancelled while it reads', async () => {
  const handle = await start({ vm: 'web01', level: 'content' });
  const pid = await until('a hasher', async () => {
    const [hasher] = (await ownProcesses(world)).filter(({ program }) => program === 'hasher');
    if (hasher) process.kill(hasher.pid, 'SIGSTOP');
    return hasher?.pid;
  });
  await handle.cancel();
  await until('the cancellation to be asked of the step', async () => {
    const { events } = await handle.fetchHistory();
    return (events ?? []).some(({ activityTaskCancelRequestedEventAttributes: asked }) => asked);
  });
  process.kill(pid, 'SIGCONT');
  await expect(handle.result()).rejects.toMatchObject({ cause: { name: 'CancelledFailure' } });
  await record(handle, 'cancelled-in-read');
});

test('refused: bad input, and a VM without restore points', async () => {
  const bad = await start({ vm: '' });
  await expect(bad.result()).rejects.toMatchObject({ cause: { type: 'InvalidInput' } });
  await record(bad, 'refused-bad-input');
  const none = await start({ vm: 'nobody' });
  await expect(none.result()).rejects.toMatchObject({ cause: { type: 'PointNotFound' } });
  await record(none, 'refused-no-point');
});
