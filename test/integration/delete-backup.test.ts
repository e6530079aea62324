import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { WorkflowHandle } from '@temporalio/client';
import { execa } from 'execa';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, inject, test, vi } from 'vitest';
import type { DeleteBackupRequest } from '../../src/domain/delete-input.js';
import type { BackupVMResult } from '../../src/domain/result.js';
import type { DeleteBackupResult } from '../../src/workflows/delete-backup.js';
import { mainQueue } from '../../src/workflows/messages.js';
import { firstDifference, restore } from '../support/content.js';
import { findDamage, findLeftovers } from '../support/end-state.js';
import type { StorageDaemon } from '../support/storage-daemon.js';
import { until } from '../support/until.js';
import { createWorld, type World } from '../support/world.js';
import { documentOf, runCommand } from '../unit/cli/run-command.js';

const MiB = 1024 * 1024;
const disks = [
  { key: 'root', sizeBytes: 4 * MiB },
  { key: 'data', sizeBytes: 2 * MiB },
];

let world: World;
let bin: string;
const realPath = process.env.PATH ?? '';
beforeAll(async () => {
  world = await createWorld('delete-backup');
  bin = await mkdtemp(join(tmpdir(), 'backupvm-bin-'));
});
afterAll(async () => {
  await world.close();
  await rm(bin, { recursive: true });
});
beforeEach(() => {
  vi.stubEnv('TEMPORAL_ADDRESS', inject('temporalAddress'));
  vi.stubEnv('TEMPORAL_NAMESPACE', world.namespace);
  vi.stubEnv('TEMPORAL_CONFIG_FILE', `${world.directory}/none.toml`);
});
afterEach(async () => {
  vi.unstubAllEnvs();
  const leftovers = await findLeftovers(world);
  expect(Object.entries(leftovers).filter(([, found]) => (found as unknown[]).length > 0)).toEqual([]);
  expect(await findDamage(world)).toEqual({ missingFiles: [], changedFiles: [] });
});

const backupvm = (...argv: string[]) =>
  runCommand(argv, { DATABASE_URL: world.database.url, BACKUPVM_HOST: world.config.host });

let count = 0;
const startDelete = (input: DeleteBackupRequest) =>
  world.client.workflow.start<(input: DeleteBackupRequest) => Promise<DeleteBackupResult>>('DeleteBackup', {
    taskQueue: mainQueue,
    workflowId: `delete-backup/${(count += 1)}`,
    args: [input],
  });
const runDelete = async (input: DeleteBackupRequest) => (await startDelete(input)).result();

/** A VM that was backed up this often, with what its disks held each time. */
interface BackedUp {
  vm: StorageDaemon;
  points: BackupVMResult[];
  backUp: () => Promise<BackupVMResult>;
  /** Whether the restore points that are left read as their disks did. */
  expectSame: () => Promise<void>;
}

async function backedUp(name: string, times: number): Promise<BackedUp> {
  const vm = await world.startVM(name, disks);
  const points: BackupVMResult[] = [];
  const witnessOf = (index: number, key: string) => join(world.directory, `${name}-${index}-${key}`);
  const backUp = async () => {
    const index = points.length;
    await vm.write('root', (index % 4) * MiB, MiB / 2, index + 1);
    await vm.write('data', MiB / 4, 64 * 1024, index + 1);
    for (const { key } of disks) await vm.read(key, witnessOf(index, key));
    const point = await world.backUp({ vm: name });
    points.push(point);
    return point;
  };
  for (let index = 0; index < times; index += 1) await backUp();
  return {
    vm,
    points,
    backUp,
    async expectSame() {
      const { rows } = await world.database.pool.query<{ jobId: string; key: string; path: string }>(
        `select d.job_id as "jobId", d.disk_key as key, d.path from backup_disks d join backup_jobs j on j.id = d.job_id
         join vm_backup_contexts c on c.id = j.context_id where j.status = 'complete' and c.vm_name = $1`,
        [name],
      );
      for (const { jobId, key, path } of rows) {
        const index = points.findIndex((point) => point.jobId === jobId);
        const restored = join(world.directory, 'restored');
        await restore(join(world.repository.path, path), restored);
        expect(await firstDifference(witnessOf(index, key), restored), `${path}`).toBeUndefined();
      }
    },
  };
}

const listPoints = async (vm: string) => {
  const listed = await backupvm('point', 'list', '--vm', vm, '--json');
  return documentOf<{ points: { id: string }[] }>(listed)
    .points.map(({ id }) => id)
    .reverse();
};
const plans = ({ disks }: BackupVMResult) => [...new Set(disks.map(({ type, reason }) => `${type}: ${reason}`))];

/** Lets a merge wait in its commit until it is let go. */
async function holdingCommits<T>(use: (letGo: () => Promise<void>) => Promise<T>): Promise<T> {
  const hold = join(bin, 'hold');
  await writeFile(hold, '');
  const script = ['#!/bin/sh', `[ "$1" != commit ] || while [ -e ${hold} ]; do sleep 0.02; done`];
  await writeFile(join(bin, 'qemu-img'), [...script, `PATH='${realPath}' exec qemu-img "$@"`, ''].join('\n'));
  await chmod(join(bin, 'qemu-img'), 0o755);
  process.env.PATH = `${bin}:${realPath}`;
  try {
    return await use(() => rm(hold, { force: true }));
  } finally {
    await rm(hold, { force: true });
    process.env.PATH = realPath;
  }
}

const isMerging = () =>
  until(
    'a merge',
    async () => (await world.database.pool.query(`select 1 from merges where pid is not null`)).rows.length > 0,
  );

describe('DeleteBackup', () => {
  test('merges, deletes what needs it, and the newest: what is left reads the same, and the next backup is right', async () => {
    const { points, backUp, expectSame } = await backedUp('web01', 4);
    const [full, second, third, fourth] = points.map(({ jobId }) => jobId);
    const refused = runDelete({ point: full ?? '' });
    await expect(refused).rejects.toMatchObject({ cause: { type: 'HasDescendants' } });

    const merged = await runDelete({ point: full ?? '', descendants: 'merge' });
    expect(merged).toMatchObject({ vm: 'web01', points: [{ jobId: full, mergedInto: [second] }], warnings: [] });
    expect(await listPoints('web01')).toEqual([second, third, fourth]);
    await expectSame();
    const next = await backUp();
    expect(plans(next)).toEqual(['incremental: parent_good']);
    await expectSame();

    await runDelete({ point: next.jobId });
    expect(await listPoints('web01')).toEqual([second, third, fourth]);
    expect(plans(await backUp())).toEqual(['full: change_id_lost']); // the hypervisor recorded from the deleted one on only
    expect(plans(await backUp())).toEqual(['incremental: parent_good']);
    await expectSame();

    await runDelete({ point: second ?? '', descendants: 'delete' });
    expect(await listPoints('web01')).toHaveLength(2);
    await expectSame();
    const { orphans, changedFiles, unknownFiles } = (await world.client.workflow.execute('ReconcileHost', {
      taskQueue: mainQueue,
      workflowId: 'delete-backup/survey',
      args: [{ host: world.config.host, survey: true, dryRun: true }],
    })) as Record<string, unknown>;
    expect({ orphans, changedFiles, unknownFiles }).toEqual({
      ...{ orphans: [], changedFiles: { count: 0, first: [] }, unknownFiles: { count: 0, first: [] } },
    });
  });

  test('deletes everything of a VM that is gone, and only of that one', async () => {
    const { vm } = await backedUp('gone', 2);
    await backedUp('stays', 1);
    await vm.stop();
    await rm(join(world.directory, 'machines', 'gone.qmp'), { force: true });
    const { points } = await runDelete({ vm: 'gone', all: true });
    expect(points).toHaveLength(2);
    expect(await listPoints('gone')).toEqual([]);
    expect(await listPoints('stays')).toHaveLength(1);
    const { rows } = await world.database.pool.query(`select 1 from vm_backup_contexts where vm_name = 'gone'`);
    expect(rows).toEqual([]);
    await expect(runDelete({ vm: 'gone', all: true })).rejects.toMatchObject({ cause: { type: 'ContextNotFound' } });
  });

  test('is started by the Temporal CLI alone', async () => {
    const { points } = await backedUp('plain', 1);
    const env = { TEMPORAL_ADDRESS: inject('temporalAddress'), TEMPORAL_NAMESPACE: world.namespace };
    const start = ['workflow', 'execute', '--type', 'DeleteBackup', '--task-queue', 'backupvm', '--output', 'json'];
    const input = JSON.stringify({ point: points[0]?.jobId });
    const { stdout } = await execa(
      inject('temporalCLIPath'),
      [...start, '--workflow-id', 'delete-backup/plain', '--input', input],
      { env: { ...env, PATH: realPath, HOME: world.directory }, extendEnv: false },
    );
    expect(JSON.parse(stdout)).toMatchObject({
      status: 'COMPLETED',
      result: { points: [{ jobId: points[0]?.jobId }] },
    });
    expect(await listPoints('plain')).toEqual([]);
  });

  test('waits for those that read, says for whom, and cancelled then has done nothing', async () => {
    const { points, expectSame } = await backedUp('read', 2);
    await world.database.pool.query(
      `insert into chain_leases (namespace_id, id, context_id, mode, purpose, workflow_id, run_id)
       select (select namespace_id from installations), gen_random_uuid(), context_id, 'shared', 'verify', 'verify/read', 'r' from backup_jobs where id = $1`,
      [points[0]?.jobId],
    );
    const handle = await startDelete({ point: points[0]?.jobId ?? '', descendants: 'merge' });
    const step = async () => (await handle.query<{ step: string }>('progress')).step;
    await until('it to wait', async () => (await step()) === "waiting for the verify of workflow 'verify/read'");
    await handle.cancel();
    await expect(handle.result()).rejects.toMatchObject({ cause: { name: 'CancelledFailure' } });
    await world.database.pool.query(`delete from chain_leases where workflow_id = 'verify/read'`);
    expect(await listPoints('read')).toHaveLength(2);
    await expectSame();
  });

  test('that is cancelled after the points are marked deletes them all the same; a backup waits meanwhile', async () => {
    const { points, backUp, expectSame } = await backedUp('late', 2);
    await holdingCommits(async (letGo) => {
      const handle = await startDelete({ point: points[0]?.jobId ?? '', descendants: 'merge' });
      await isMerging();
      await handle.cancel();
      const backup = backUp();
      const waits = world.client.workflow.getHandle('backup-vm/late');
      await until('the backup to wait', () => isWaiting(waits, handle.workflowId));
      expect((await backupvm('job', 'list', '--vm', 'late', '--status', 'deleting')).stdout).toContain('deleting');
      await letGo();
      expect(await handle.result()).toMatchObject({ points: [{ jobId: points[0]?.jobId }] });
      expect(plans(await backup)).toEqual(['incremental: parent_good']);
    });
    expect(await listPoints('late')).toHaveLength(2);
    await expectSame();
  });

  test('that is terminated in a merge is brought to its end by ReconcileHost', async () => {
    const { points, expectSame } = await backedUp('ended', 3);
    await holdingCommits(async (letGo) => {
      const handle = await startDelete({ point: points[1]?.jobId ?? '', descendants: 'merge' });
      await isMerging();
      await handle.terminate('a test');
      await letGo();
    });
    await until('the deletion to be finished', async () => {
      await backupvm('reconcile');
      return (await world.database.pool.query(`select 1 from chain_leases`)).rows.length === 0;
    });
    expect(await listPoints('ended')).toEqual([points[0]?.jobId, points[2]?.jobId]);
    await expectSame();
  });
});

const isWaiting = async (backup: WorkflowHandle, deletion: string): Promise<boolean> => {
  const { step } = await backup.query<{ step: string }>('progress').catch(() => ({ step: '' }));
  return step === `waiting for the delete of workflow '${deletion}'`;
};

describe('on the command line', () => {
  test('nothing is deleted without --yes, and it says what would go', async () => {
    const { points } = await backedUp('cli01', 2);
    const [full, second] = points.map(({ jobId }) => jobId.slice(0, 8));
    const merge = ['delete', '--point', full ?? '', '--descendants', 'merge'];
    expect(await backupvm(...merge)).toMatchObject({
      exitCode: 2,
      stderr: expect.stringContaining(`Nothing was deleted. It would take 1 restore point(s) of VM 'cli01'`) as string,
    });
    expect((await backupvm(...merge, '--dry-run')).stdout).toMatch(
      new RegExp(
        `Would delete 1 restore point.*\\n\\nPOINT +TIME +FILES +WOULD BE\\n${full} .*merged into ${second}\\n`,
      ),
    );
    expect(await backupvm('delete', '--point', full ?? '', '--yes', '--json')).toMatchObject({
      exitCode: 4,
      stderr: expect.stringContaining('HasDescendants') as string,
    });
    expect(await listPoints('cli01')).toHaveLength(2);
    const { exitCode, stdout } = await backupvm(...merge, '--yes');
    expect({ exitCode, stdout }).toMatchObject({ exitCode: 0, stdout: expect.stringContaining('Deleted 1') as string });
    expect(await listPoints('cli01')).toHaveLength(1);
  });

  test('a hold, and immutability, refuse; both are shown with their history', async () => {
    const { points } = await backedUp('cli02', 1);
    const id = points[0]?.jobId.slice(0, 8) ?? '';
    expect((await backupvm('point', 'hold', id, '--reason', 'audit')).stdout).toContain(`${id} is held`);
    expect(await backupvm('delete', '--point', id, '--yes')).toMatchObject({
      exitCode: 4,
      stderr: expect.stringContaining('it is held: audit') as string,
    });
    expect((await backupvm('point', 'list', '--vm', 'cli02')).stdout).toMatch(/ KEPT.*\n.* held\n/);
    expect(await backupvm('point', 'release', id, '--reason', 'done')).toMatchObject({ exitCode: 0 });
    expect(await backupvm('point', 'immutable', id, '--until', '2001-01-01')).toMatchObject({ exitCode: 2 });
    expect(await backupvm('point', 'immutable', id, '--until', 'soon')).toMatchObject({ exitCode: 2 });
    expect(await backupvm('point', 'immutable', id, '--until', '2999-01-01')).toMatchObject({ exitCode: 0 });
    expect(await backupvm('point', 'immutable', id, '--until', '2998-01-01')).toMatchObject({ exitCode: 4 });
    expect(await backupvm('delete', 'cli02', '--all', '--yes')).toMatchObject({ exitCode: 4 });
    const { stdout } = await backupvm('point', 'show', id);
    expect(stdout).toMatch(/held: audit; by \S+@\S+\n/);
    expect(stdout).toMatch(/released; it was held: audit; by \S+@\S+: done\n/);
    expect(stdout).toMatch(/immutable until 2999-01-01T00:00:00.000Z; by/);
    expect(await backupvm('repository', 'immutable', 'nope', '--until', '2999-01-01')).toMatchObject({ exitCode: 3 });
  });
});
