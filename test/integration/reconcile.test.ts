import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { mainQueue } from '../../src/workflows/messages.js';
import type { ReconcileHostResult } from '../../src/workflows/reconcile-host.js';
import { expectSameContent } from '../support/content.js';
import { expectNothingLeftBehind, ownProcesses } from '../support/left-behind.js';
import type { StorageDaemon } from '../support/storage-daemon.js';
import { until } from '../support/until.js';
import { createWorld, type World } from '../support/world.js';

const MiB = 1024 * 1024;

let world: World;
beforeAll(async () => {
  world = await createWorld('reconcile');
});
afterEach(() => expectNothingLeftBehind(world));
afterAll(() => world.close());

let count = 0;
const reconcile = async (dryRun = false): Promise<ReconcileHostResult> => {
  const workflowId = `reconcile/${(count += 1)}`;
  const args = [{ host: world.config.host, dryRun }];
  return (await world.client.workflow.execute('ReconcileHost', {
    taskQueue: mainQueue,
    workflowId,
    args,
  })) as ReconcileHostResult;
};

/** A VM with a sealed full, and a second backup that hangs in the middle of its copy. */
async function hangingBackup(name: string): Promise<{ vm: StorageDaemon; workflowId: string }> {
  const vm = await world.startVM(name, [
    { key: 'root', sizeBytes: 4 * MiB },
    { key: 'data', sizeBytes: 4 * MiB },
  ]);
  await vm.write('root', 0, 2 * MiB, 0x11);
  await world.backUp({ vm: name });
  await vm.write('root', MiB, MiB, 0x22);
  const { workflowId } = await world.start({ vm: name });
  await until('both exports', async () => {
    const { rows } = await world.database.pool.query(
      `select 1 from nbd_exports e join backup_disks d on d.id = e.disk_id join vm_backup_contexts c on c.id = d.context_id
       where c.vm_name = $1 and e.pid is not null`,
      [name],
    );
    if (rows.length > 0) vm.pause();
    return rows.length > 0;
  });
  return { vm, workflowId };
}

describe('ReconcileHost', () => {
  test('cleans up after a terminated backup, and the next one is an incremental from where it was', async () => {
    const { vm, workflowId } = await hangingBackup('terminated');
    await world.client.workflow.getHandle(workflowId).terminate('by the test');
    vm.resume();
    const planned = await reconcile(true);
    expect(planned.orphans).toMatchObject([{ vm: 'terminated', runState: 'terminated', outcome: 'left' }]);
    expect(await ownProcesses(world)).not.toEqual([]); // a dry run touches nothing

    const { orphans } = await reconcile();
    expect(orphans).toMatchObject([{ vm: 'terminated', outcome: 'cleaned up' }]);
    await expectNothingLeftBehind(world);
    const { rows } = await world.database.pool.query(`select error from backup_jobs where status = 'failed'`);
    expect(rows).toEqual([{ error: 'its workflow run ended without clean-up: terminated' }]);
    const next = await world.backUp({ vm: 'terminated' });
    expect(next.disks.map(({ type }) => type)).toEqual(['incremental', 'incremental']);
    await expectSameContent(world, vm, next);
    expect(await reconcile()).toMatchObject({ orphans: [] });
  });

  test('gives back the leases of ended runs: a restore at once, a deletion by a workflow of its own', async () => {
    await world.startVM('leased', [{ key: 'root', sizeBytes: MiB }]);
    await world.backUp({ vm: 'leased' });
    const lease = (purpose: string, mode: string) =>
      world.database.pool.query(
        `insert into chain_leases (namespace_id, id, context_id, mode, purpose, workflow_id, run_id)
         select (select namespace_id from installations), gen_random_uuid(), id, $2, $1, $1 || '/leased', gen_random_uuid()::text from vm_backup_contexts where vm_name = 'leased'`,
        [purpose, mode],
      );
    const leases = async () => (await world.database.pool.query(`select id from chain_leases`)).rowCount;
    await lease('restore', 'shared');
    expect(await reconcile(true)).toMatchObject({ orphanedLeases: [{ purpose: 'restore', outcome: 'left' }] });
    expect(await leases()).toBe(1);
    const [vm, runState] = ['leased', 'no longer known to the Temporal server'];
    const restored = [{ vm, purpose: 'restore', workflowId: 'restore/leased', runState, outcome: 'cleaned up' }];
    expect(await reconcile()).toMatchObject({ orphanedLeases: restored });
    expect(await leases()).toBe(0);

    await lease('delete', 'exclusive');
    expect(await reconcile()).toMatchObject({ orphanedLeases: [{ vm, purpose: 'delete', outcome: 'being finished' }] });
    await until('the deletion to be finished', async () => (await leases()) === 0);
    expect(await reconcile()).toMatchObject({ orphanedLeases: [] });
    expect((await world.backUp({ vm: 'leased' })).disks.map(({ type }) => type)).toEqual(['incremental']);
  });

  test('leaves a backup alone that runs', async () => {
    const { vm, workflowId } = await hangingBackup('running');
    expect(await reconcile()).toMatchObject({ orphans: [] });
    vm.resume();
    await world.client.workflow.getHandle(workflowId).result();
  });

  test('says what it expected when it is started without a host', async () => {
    const start = world.client.workflow.execute('ReconcileHost', {
      taskQueue: mainQueue,
      workflowId: 'reconcile/bad',
      args: [{}],
    });
    await expect(start).rejects.toMatchObject({
      cause: { type: 'InvalidInput', message: expect.stringMatching(/"host":"NAME"/) as string },
    });
  });
});
