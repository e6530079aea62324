import { afterAll, beforeAll, expect, test } from 'vitest';
import type { DeleteBackupRequest } from '../../src/domain/delete-input.js';
import { mainQueue } from '../../src/workflows/messages.js';
import { until } from '../support/until.js';
import { createWorld, type World } from '../support/world.js';
import { keepHistory } from './keep-history.js';

// Deletes in all the ways that a stored history must cover, and records each. Not a test of the suite: see record.config.ts.

const MiB = 1024 * 1024;

let world: World;
const jobIds: string[] = [];
beforeAll(async () => {
  world = await createWorld('record-deletions');
  const vm = await world.startVM('web01', [{ key: 'root', sizeBytes: 4 * MiB }]);
  for (const pattern of [1, 2, 3, 4]) {
    await vm.write('root', 0, pattern * 65_536, pattern);
    jobIds.push((await world.backUp({ vm: 'web01' })).jobId);
  }
});
afterAll(() => world.close());

const start = (caseName: string, input: DeleteBackupRequest) =>
  world.client.workflow.start('DeleteBackup', {
    ...{ taskQueue: mainQueue, workflowId: `delete-backup/${caseName}`, args: [input] },
  });

async function record(workflowId: string, caseName: string): Promise<void> {
  await keepHistory(world.client, { workflowId }, caseName);
}

test.each<[string, () => DeleteBackupRequest, string?]>([
  ['refused-has-descendants', () => ({ point: jobIds[0] }), 'HasDescendants'],
  ['refused-bad-input', () => ({ vm: 'web01' }), 'InvalidInput'],
  ['dry-run', () => ({ point: jobIds[0], descendants: 'merge', dryRun: true })],
  ['merged', () => ({ point: jobIds[0], descendants: 'merge' })],
  ['newest', () => ({ point: jobIds[3] })],
])('%s', async (caseName, input, type) => {
  const handle = await start(caseName, input());
  if (type === undefined) await handle.result();
  else await expect(handle.result()).rejects.toMatchObject({ cause: { type } });
  await record(handle.workflowId, caseName);
});

test('waited for a restore, and cancelled while it waited', async () => {
  const lease = (verb: string) => world.database.pool.query(verb);
  await lease(
    `insert into chain_leases (namespace_id, id, context_id, mode, purpose, workflow_id, run_id)
     select (select namespace_id from installations), gen_random_uuid(), id, 'shared', 'restore', 'restore/a', 'r' from vm_backup_contexts`,
  );
  const waiting = await start('cancelled-while-it-waited', { point: jobIds[2] });
  const step = async (handle: typeof waiting) => (await handle.query<{ step: string }>('progress')).step;
  await until('it to wait', async () => (await step(waiting)).startsWith('waiting for the restore'));
  await waiting.cancel();
  await expect(waiting.result()).rejects.toMatchObject({ cause: { name: 'CancelledFailure' } });
  await record(waiting.workflowId, 'cancelled-while-it-waited');
  const patient = await start('waited-for-a-restore', { vm: 'web01', all: true });
  await until('it to wait', async () => (await step(patient)).startsWith('waiting for the restore'));
  await lease(`delete from chain_leases where workflow_id = 'restore/a'`);
  await patient.result();
  await record(patient.workflowId, 'waited-for-a-restore');
});
