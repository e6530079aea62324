import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { WorkflowHandle } from '@temporalio/client';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { BackupVMRequest } from '../../src/domain/backup-input.js';
import { mainQueue } from '../../src/workflows/messages.js';
import { until } from '../support/until.js';
import { createWorld, type World } from '../support/world.js';
import { keepHistory } from './keep-history.js';

// Takes backups in all the ways that a stored history must cover, and records each. Not a test of the suite: see record.config.ts.

const MiB = 1024 * 1024;
const twoDisks = [
  { key: 'root', sizeBytes: 8 * MiB },
  { key: 'data', sizeBytes: 4 * MiB },
];

let world: World;
let onePort: World;
beforeAll(async () => {
  [world, onePort] = await Promise.all([createWorld('record'), createWorld('record-one-port', { ports: 1 })]);
});
afterAll(async () => {
  await world.close();
  await onePort.close();
});

async function record(handle: WorkflowHandle, caseName: string, { client } = world): Promise<void> {
  const { workflowId, runId } = await handle.describe();
  await keepHistory(client, { workflowId, runId }, caseName);
}

/** A VM with data on its disks. */
async function startVM(name: string, { startVM } = world) {
  const vm = await startVM(name, twoDisks);
  await vm.write('root', 0, 4 * MiB, 0x11);
  await vm.write('data', 0, 1 * MiB, 0x22);
  return vm;
}

async function recordComplete(input: BackupVMRequest, caseName: string, where = world): Promise<void> {
  const handle = await where.start(input);
  await handle.result();
  await record(handle, caseName, where);
}

async function recordFailed(input: BackupVMRequest, type: string, caseName: string): Promise<void> {
  const handle = await world.start(input, `backup-vm/${input.vm}/again`);
  await expect(handle.result()).rejects.toMatchObject({ cause: { type } });
  await record(handle, caseName);
}

/** The moment when a disk's copy hangs, because its source was halted as soon as its file had a row. */
async function untilCopyHangs(vm: { name: string; pause: () => void }, handle: WorkflowHandle): Promise<string> {
  const diskId = await until(`a copy of ${vm.name}`, async () => {
    const { rows } = await world.database.pool.query<{ id: string }>(
      `select d.id from backup_disks d join vm_backup_contexts c on c.id = d.context_id
       join backup_jobs j on j.id = d.job_id where c.vm_name = $1 and d.status = 'copying' and j.status = 'running'`,
      [vm.name],
    );
    return rows[0]?.id;
  });
  vm.pause();
  await until('the copy to hang', async () => isCopying(handle));
  return diskId;
}

async function isCopying(handle: WorkflowHandle): Promise<boolean> {
  const { raw } = await handle.describe();
  const started = 2; // PendingActivityState
  return (raw.pendingActivities ?? []).some(
    ({ activityType, state }) => activityType?.name === 'transferDisk' && Number(state) === started,
  );
}

test('full, incremental, nothing changed', async () => {
  const vm = await startVM('web01');
  await recordComplete({ vm: 'web01' }, 'full');
  await vm.write('root', 2 * MiB, 256 * 1024, 0x33);
  await vm.zero('data', 0, 128 * 1024);
  await recordComplete({ vm: 'web01' }, 'incremental');
  await recordComplete({ vm: 'web01' }, 'nothing-changed');
});

test('a change id that is lost, and an incremental that fails because of it', async () => {
  const vm = await startVM('web02');
  await world.backUp({ vm: 'web02' });
  await vm.kill(); // bitmaps that QEMU had not stored are gone
  await vm.restart();
  await recordFailed({ vm: 'web02', onLostChangeId: 'fail' }, 'ChangeIdLost', 'failed-change-id-lost');
  await recordComplete({ vm: 'web02' }, 'full-change-id-lost');
});

test('a parent that is missing, at the first disk of two', async () => {
  await startVM('web03');
  const { disks } = await world.backUp({ vm: 'web03' });
  await rm(join(world.repository.path, disks.find(({ key }) => key === 'root')?.path ?? 'none'));
  await recordFailed({ vm: 'web03', onLostChangeId: 'fail' }, 'ParentUnusable', 'failed-parent-unusable');
});

test('cancelled in the middle of the copies', async () => {
  const vm = await startVM('web04');
  const handle = await world.start({ vm: 'web04' });
  await untilCopyHangs({ name: 'web04', pause: vm.pause }, handle);
  await handle.cancel();
  await until('the copies to be stopped', async () => !(await isCopying(handle)));
  vm.resume();
  await expect(handle.result()).rejects.toMatchObject({ cause: { name: 'CancelledFailure' } });
  await record(handle, 'cancelled-in-copy');
});

test('copied anew, after qemu-nbd was killed', async () => {
  const vm = await startVM('web05');
  const handle = await world.start({ vm: 'web05' });
  const diskId = await untilCopyHangs({ name: 'web05', pause: vm.pause }, handle);
  const { rows } = await world.database.pool.query<{ pid: number }>(`select pid from nbd_exports where disk_id = $1`, [
    diskId,
  ]);
  process.kill(rows[0]?.pid ?? 0, 'SIGKILL');
  vm.resume();
  await handle.result();
  await record(handle, 'copied-anew');
});

test('waited for a port: there is one, and two disks', async () => {
  await startVM('web06', onePort);
  await recordComplete({ vm: 'web06' }, 'waited-for-a-port', onePort);
});

test('refused: bad input, an unknown VM, a backup that is running already', async () => {
  await recordFailed({ vm: '' }, 'InvalidInput', 'refused-bad-input');
  await recordFailed({ vm: 'nobody' }, 'VMNotFound', 'refused-unknown-vm');
  const vm = await startVM('web07');
  const first = await world.start({ vm: 'web07' });
  await untilCopyHangs({ name: 'web07', pause: vm.pause }, first);
  vm.resume();
  await recordFailed({ vm: 'web07' }, 'BackupAlreadyRunning', 'refused-already-running');
  await first.result();
});

test('ReconcileHost: nothing to do, a terminated backup, leases of ended runs', async () => {
  const { host } = world.config;
  const reconcile = async (caseName: string, input: object = {}) => {
    const args = [{ host, ...input }];
    const options = { taskQueue: mainQueue, workflowId: `reconcile/${host}`, args };
    const handle = await world.client.workflow.start('ReconcileHost', options);
    await handle.result();
    await record(handle, caseName);
  };
  await reconcile('nothing-to-do');
  const vm = await startVM('web08');
  await world.backUp({ vm: 'web08' });
  const handle = await world.start({ vm: 'web08', type: 'full' });
  await untilCopyHangs({ name: 'web08', pause: vm.pause }, handle);
  await handle.terminate('by the recording');
  vm.resume();
  await reconcile('dry-run-with-survey', { dryRun: true, survey: true });
  await reconcile('cleaned-up');
  await world.database.pool.query(
    `insert into chain_leases (namespace_id, id, context_id, mode, purpose, workflow_id, run_id)
     select (select namespace_id from installations), gen_random_uuid(), c.id, 'exclusive', 'delete', 'delete/web08', gen_random_uuid()::text
     from vm_backup_contexts c where c.vm_name = 'web08'`,
  );
  await reconcile('deletion-being-finished');
  const leases = async () => (await world.database.pool.query(`select 1 from chain_leases`)).rowCount;
  await until('the deletion to be finished', async () => (await leases()) === 0);
});
