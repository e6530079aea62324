import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { WorkflowHandle } from '@temporalio/client';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { BackupVMResult } from '../../src/domain/result.js';
import type { RestoreVMRequest } from '../../src/domain/restore-input.js';
import { holdClaims, pendingSteps } from '../support/hold-claims.js';
import { startRestore, targetDirectory } from '../support/restores.js';
import { until } from '../support/until.js';
import { createWorld, type World } from '../support/world.js';
import { keepHistory } from './keep-history.js';

// Restores in the ways that a stored history must cover. Not a test of the suite: see record.config.ts.

const MiB = 1024 * 1024;

let world: World;
let point: BackupVMResult;
beforeAll(async () => {
  world = await createWorld('record-restores');
  const vm = await world.startVM('web01', [
    { key: 'root', sizeBytes: 4 * MiB },
    { key: 'data', sizeBytes: 2 * MiB },
  ]);
  await vm.write('root', 0, 2 * MiB, 0x11);
  point = await world.backUp({ vm: 'web01' });
});
afterAll(() => world.close());

async function record(handle: WorkflowHandle, caseName: string): Promise<void> {
  const { workflowId, runId } = await handle.describe();
  await keepHistory(world.client, { workflowId, runId }, caseName);
}

const input = async (name: string): Promise<RestoreVMRequest> => ({
  vm: 'web01',
  target: { kind: 'files', directory: await targetDirectory(world, name) },
});

test('to files; and refused, because they are there', async () => {
  const handle = await startRestore(world, await input('out'));
  await handle.result();
  await record(handle, 'files');
  const again = await startRestore(world, await input('out'));
  await expect(again.result()).rejects.toMatchObject({ cause: { type: 'AlreadyExists' } });
  await record(again, 'refused-file-exists');
});

test('waited for a prune', async () => {
  const { pool } = world.database;
  await pool.query(
    `insert into chain_leases (namespace_id, id, context_id, mode, purpose, workflow_id, run_id)
     select (select namespace_id from installations), gen_random_uuid(), context_id, 'exclusive', 'prune', 'prune/web01', 'run' from backup_jobs limit 1`,
  );
  const handle = await startRestore(world, await input('waited'));
  await until('a timer', async () => {
    const { events } = await handle.fetchHistory();
    return (events ?? []).some(({ timerStartedEventAttributes }) => timerStartedEventAttributes);
  });
  await pool.query(`delete from chain_leases where purpose = 'prune'`);
  await handle.result();
  await record(handle, 'waited-for-a-prune');
});

test('cancelled while both disks are written', async () => {
  const claims = await holdClaims(world);
  const handle = await startRestore(world, await input('cancelled'));
  await until('the disks to begin', async () => (await pendingSteps(handle, 'restoreDisk')) === 2);
  await handle.cancel();
  await claims.release();
  await expect(handle.result()).rejects.toMatchObject({ cause: { name: 'CancelledFailure' } });
  await record(handle, 'cancelled-in-write');
});

test('failed, because one disk differs from what was backed up: the other one is stopped', async () => {
  const { path } = point.disks.find(({ key }) => key === 'root') ?? expect.fail('no disk');
  const hashes = join(world.repository.path, path.replace(/\.qcow2$/, '.hashes'));
  await writeFile(hashes, (await readFile(hashes)).subarray(0, 40));
  const handle = await startRestore(world, await input('damaged'));
  await expect(handle.result()).rejects.toMatchObject({ cause: { type: 'PointDamaged' } });
  await record(handle, 'failed-point-damaged');
});
