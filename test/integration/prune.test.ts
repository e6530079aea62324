import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, inject, test, vi } from 'vitest';
import { changeHold } from '../../src/db/protection.js';
import type { BackupVMResult } from '../../src/domain/result.js';
import type { PruneBackupsRequest } from '../../src/domain/prune-input.js';
import type { PruneBackupsResult } from '../../src/domain/prune-result.js';
import { mainQueue, progressQuery } from '../../src/workflows/messages.js';
import { expectSameContent, firstDifference, restore } from '../support/content.js';
import { expectNothingLeftBehind } from '../support/left-behind.js';
import type { StorageDaemon } from '../support/storage-daemon.js';
import { until } from '../support/until.js';
import { createWorld, type World } from '../support/world.js';
import { documentOf, runCommand } from '../unit/cli/run-command.js';

const MiB = 2 ** 20;
const KiB = 1024;
let world: World;

beforeAll(async () => {
  world = await createWorld('prune', { withSearchAttributes: false });
});
beforeEach(() => {
  vi.stubEnv('TEMPORAL_ADDRESS', inject('temporalAddress'));
  vi.stubEnv('TEMPORAL_NAMESPACE', world.namespace);
  vi.stubEnv('TEMPORAL_CONFIG_FILE', `${world.directory}/none.toml`);
  return () => vi.unstubAllEnvs();
});
afterEach(() => expectNothingLeftBehind(world));
afterAll(() => world.close());

let runs = 0;
const prune = (request: PruneBackupsRequest | undefined) =>
  world.client.workflow.execute<(request?: PruneBackupsRequest) => Promise<PruneBackupsResult>>('PruneBackups', {
    taskQueue: mainQueue,
    workflowId: `prune-${(runs += 1)}`,
    args: request === undefined ? [] : [request],
  });
const backupvm = (...argv: string[]) =>
  runCommand(argv, { DATABASE_URL: world.database.url, BACKUPVM_HOST: world.config.host });

/** A VM with a full and so many incrementals. */
async function startChain(name: string, length: number): Promise<{ vm: StorageDaemon; points: BackupVMResult[] }> {
  const vm = await world.startVM(name, [{ key: 'root', sizeBytes: 2 * MiB }]);
  const points: BackupVMResult[] = [];
  for (let index = 0; index < length; index += 1) {
    await vm.write('root', index * 128 * KiB, 192 * KiB, index + 1);
    points.push(await world.backUp({ vm: name }));
  }
  return { vm, points };
}

const ids = (points: readonly BackupVMResult[]) => points.map(({ jobId }) => jobId);
const decisions = (result: PruneBackupsResult) =>
  result.vms.flatMap(({ points }) => (points ?? []).map(({ id, decision, rule }) => `${id} ${decision} ${rule}`));
const leases = async () => (await world.database.pool.query('select 1 from chain_leases')).rowCount;

describe('a chain of five points', () => {
  let vm: StorageDaemon;
  let points: BackupVMResult[];
  beforeAll(async () => {
    ({ vm, points } = await startChain('web01', 5));
  });
  const expected = () =>
    [...ids(points)].reverse().map((id, index) => `${id} ${index < 2 ? 'keep keep-last' : 'remove none'}`);

  test('dry run: each point with its rule, and nothing is removed', async () => {
    const result = await prune({ vm: 'web01', policy: { keepLast: 2 }, dryRun: true });
    expect(result).toMatchObject({
      repository: 'store',
      dryRun: true,
      vms: [{ vm: 'web01', kept: 2, removed: 3, error: null }],
    });
    expect(decisions(result)).toEqual(expected());
    expect(await world.database.pool.query(`select 1 from backup_jobs where status = 'complete'`)).toMatchObject({
      rowCount: 5,
    });
  });

  test('no policy, or an empty one, is refused', async () => {
    const failure = { cause: { type: 'NoPolicy' } };
    await expect(prune({ vm: 'web01' })).rejects.toMatchObject(failure);
    await expect(prune({ vm: 'web01', policy: {} })).rejects.toMatchObject(failure);
    await expect(prune({})).rejects.toMatchObject(failure);
    await expect(prune(undefined)).rejects.toMatchObject(failure);
  });

  test.each<[unknown, string, string]>([
    [{ vm: 'nobody', policy: { keepLast: 1 } }, 'ContextNotFound', `backups of VM 'nobody' in repository 'store'`],
    [
      { policy: { keepLast: 0, keepDayly: 1, timeZone: 'Mars/Base' } },
      'InvalidInput',
      'policy.keepLast: expected 1 to 100000',
    ],
    [{ repository: 'none' }, 'RepositoryNotFound', `found no 'none'`],
    ['web01', 'InvalidInput', 'expected an object'],
  ])('%j is refused with %s', async (request, type, message) => {
    const failure = { type, message: expect.stringContaining(message) as string };
    await expect(prune(request as PruneBackupsRequest)).rejects.toMatchObject({ cause: failure });
  });

  test('by the stored policy: what is expired goes, what stays reads as before', async () => {
    const set = await backupvm('policy', 'set', 'web01', '--keep-last', '2', '--time-zone', 'Europe/Berlin');
    expect(set).toMatchObject({ exitCode: 0, stderr: '' });
    expect(set.stdout).toBe(`Policy of VM 'web01' in repository 'store': keep-last 2, time zone Europe/Berlin\n`);
    const [before, after] = ['before.raw', 'after.raw'].map((name) => join(world.directory, name)) as [string, string];
    const older = join(world.repository.path, points[3]?.disks[0]?.path ?? 'none');
    await restore(older, before);
    const result = await prune({});
    expect(decisions(result)).toEqual(expected());
    await restore(older, after);
    expect(await firstDifference(before, after)).toBeUndefined();
    expect(result.vms).toMatchObject([{ kept: 2, removed: 3, policy: { keepLast: 2, timeZone: 'Europe/Berlin' } }]);
    const left = await world.database.pool.query<{ id: string }>('select id from backup_jobs order by point_time');
    expect(left.rows.map(({ id }) => id)).toEqual(ids(points.slice(3)));
    await expectSameContent(world, vm, points[4] as BackupVMResult);
    expect(await leases()).toBe(0);
  });

  test('pruned again, there is nothing to do', async () => {
    expect(await prune({ vm: 'web01' })).toMatchObject({ vms: [{ kept: 2, removed: 0 }] });
  });

  test('the next backup is an incremental upon what is left', async () => {
    await vm.write('root', MiB, 64 * KiB, 9);
    const next = await world.backUp({ vm: 'web01' });
    expect(next.disks).toMatchObject([{ type: 'incremental', reason: 'parent_good' }]);
    await expectSameContent(world, vm, next);
  });

  test('one that waits says for whom; terminated, it gives up, and nothing is removed', async () => {
    const { pool } = world.database;
    const { rows } = await pool.query<{ id: string }>(`select id from vm_backup_contexts where vm_name = 'web01'`);
    await pool.query(
      `insert into chain_leases (namespace_id, id, context_id, mode, purpose, workflow_id, run_id)
       values ((select namespace_id from installations), gen_random_uuid(), $1, 'shared', 'restore', 'restore/web01', 'run')`,
      [rows[0]?.id],
    );
    const args = [{ vm: 'web01', policy: { keepLast: 1 } }];
    const options = { taskQueue: mainQueue, workflowId: 'prune-waits', args };
    const parent = await world.client.workflow.start('PruneBackups', options);
    const child = world.client.workflow.getHandle(`prune-waits/${rows[0]?.id}`);
    await until('the prune to wait', async () => {
      const progress = await child.query(progressQuery).catch(() => undefined);
      return progress?.step === "waiting for the restore of workflow 'restore/web01'";
    });
    await parent.terminate();
    await expect(child.result()).rejects.toMatchObject({ cause: { name: 'CancelledFailure' } });
    await pool.query('delete from chain_leases');
    expect(await prune({ vm: 'web01', policy: { keepLast: 9 } })).toMatchObject({ vms: [{ kept: 3, removed: 0 }] });
  });
});

test('a point that is held stays, with what it needs, and says why', async () => {
  const { points } = await startChain('held', 3);
  const [first, second] = ids(points);
  const author = { changedBy: 'me@here', reason: null };
  await changeHold(world.database.db, second ?? '', 'trial', author);
  const result = await prune({ vm: 'held', policy: { keepLast: 1 } });
  expect(result.vms[0]?.points).toMatchObject([
    { decision: 'keep', rule: 'keep-last' },
    { decision: 'keep', rule: 'protected', reason: 'it is held: trial' },
    {
      id: first,
      decision: 'keep',
      rule: 'protected',
      reason: `restore point ${second}, which needs it, is held: trial`,
    },
  ]);
});

test('of all VMs: one without a policy and one in trouble do not keep the others waiting', async () => {
  const [broken] = await Promise.all(['broken', 'fine', 'unruled'].map((name) => startChain(name, 2)));
  await rm(join(world.repository.path, broken?.points[0]?.disks[0]?.path ?? 'none'));
  for (const vm of ['fine', 'broken']) await backupvm('policy', 'set', vm, '--keep-last', '1');

  const { exitCode, stdout, stderr } = await backupvm('prune');
  expect(exitCode).toBe(6);
  expect(stderr).toMatch(/^3 of 5 VM\(s\) could not be pruned; VM 'broken': .*is not as it was sealed/);
  expect(stdout).toContain('VM fine in store: 1 removed, 1 kept; policy: keep-last 1, time zone UTC\nPOINT');
  expect(stdout).toMatch(/VM unruled in store: Expected a retention policy for VM 'unruled', found none/);
  const left = await world.database.pool.query<{ id: string }>(
    `select j.id from backup_jobs j join vm_backup_contexts c on c.id = j.context_id where c.vm_name = 'broken'`,
  );
  expect(left.rowCount).toBe(2);
  expect(await leases()).toBe(0);
  await world.database.pool.query(`delete from vm_backup_contexts where vm_name = 'broken'`);
  await rm(join(world.repository.path, 'broken'), { recursive: true });
});

describe('the command line', () => {
  test('shows, replaces and removes policies', async () => {
    expect((await backupvm('policy', 'set', 'fine', '--keep-daily', '7', '--keep-weekly', '4')).exitCode).toBe(0);
    const { stdout } = await backupvm('policy', 'show');
    expect(stdout).toMatch(/fine +store +lab +keep-daily 7, keep-weekly 4, time zone UTC/);
    expect(stdout).toMatch(/unruled +store +lab +none: nothing is removed/);
    expect(documentOf(await backupvm('policy', 'show', 'fine', '--json'))).toMatchObject({
      policies: [{ vm: 'fine', policy: { keepDaily: 7, keepWeekly: 4, timeZone: 'UTC' } }],
    });
    expect((await backupvm('policy', 'remove', 'fine')).stdout).toBe("Policy of VM 'fine' removed\n");
    expect(await backupvm('policy', 'remove', 'fine')).toMatchObject({ exitCode: 2 });
    expect((await backupvm('policy', 'set', 'fine')).stderr).toContain('at least one of keepLast');
    expect(await backupvm('policy', 'set', 'nobody', '--keep-last', '1')).toMatchObject({ exitCode: 3 });
    expect(await backupvm('policy', 'set', 'fine', '--keep-last', '1', '--time-zone', 'Nowhere')).toMatchObject({
      exitCode: 2,
    });
  });

  test('prune --dry-run prints each point with decision and rule', async () => {
    const { exitCode, stdout } = await backupvm('prune', 'unruled', '--keep-last', '1', '--dry-run');
    expect(exitCode).toBe(0);
    expect(stdout).toContain('VM unruled in store: 1 would be removed, 1 kept; policy: keep-last 1, time zone UTC');
    expect(stdout).toMatch(
      /POINT +TIME +DECISION +RULE +WHY\n.* keep +keep-last +1 of 1\n.* remove +no rule keeps it\n$/,
    );
    expect(await backupvm('prune', 'unruled')).toMatchObject({ exitCode: 2 });
  });
});

test('with the Temporal CLI, from a schedule', async () => {
  const temporal = async (...args: string[]) =>
    execa(inject('temporalCLIPath'), args, {
      env: { TEMPORAL_ADDRESS: inject('temporalAddress'), TEMPORAL_NAMESPACE: world.namespace },
    });
  await temporal(
    ...['schedule', 'create', '--schedule-id', 'prune', '--cron', '0 4 * * *', '--time-zone', 'Europe/Berlin'],
    ...['--overlap-policy', 'Skip', '--type', 'PruneBackups', '--task-queue', 'backupvm'],
    ...['--workflow-id', 'prune-backups', '--input', '{"vm":"unruled","policy":{"keepLast":1}}'],
  );
  await temporal('schedule', 'trigger', '--schedule-id', 'prune');
  const { workflowId } = await until('the schedule to start a prune', async () => {
    const { info } = await world.client.schedule.getHandle('prune').describe();
    return info.recentActions[0]?.action.workflow;
  });
  const result = (await world.client.workflow.getHandle(workflowId).result()) as PruneBackupsResult;
  expect(result.vms).toMatchObject([{ vm: 'unruled', kept: 1, removed: 1 }]);
  await temporal('schedule', 'delete', '--schedule-id', 'prune');
});
