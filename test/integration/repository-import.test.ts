import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import type { BackupVMResult } from '../../src/domain/result.js';
import { epochName } from '../../src/repository/epoch.js';
import { mainQueue } from '../../src/workflows/messages.js';
import { expectSameContent } from '../support/content.js';
import { expectNothingLeftBehind } from '../support/left-behind.js';
import type { StorageDaemon } from '../support/storage-daemon.js';
import { createWorld, type World } from '../support/world.js';
import { documentOf, runCommand } from '../unit/cli/run-command.js';

const MiB = 2 ** 20;
const KiB = 1024;
let world: World;
let vm: StorageDaemon;
const points: BackupVMResult[] = [];

/** A chain whose second point has been merged into the third, and a disk that came later. */
beforeAll(async () => {
  world = await createWorld('import', { withSearchAttributes: false });
  vm = await world.startVM('web01', [
    { key: 'root', sizeBytes: 2 * MiB },
    { key: 'data', sizeBytes: MiB },
  ]);
  for (const [index, disks] of [['root'], ['root'], ['root', 'data'], ['root', 'data']].entries()) {
    await vm.write('root', index * 128 * KiB, 192 * KiB, index + 1);
    points.push(await world.backUp({ vm: 'web01', disks }));
  }
  await run('PruneBackups', { vm: 'web01', policy: { keepLast: 2 } });
});
afterEach(() => expectNothingLeftBehind(world));
afterAll(() => world.close());

const run = (type: string, input: object): Promise<unknown> =>
  world.client.workflow.execute(type, { taskQueue: mainQueue, workflowId: type, args: [input] });
const backupvm = (...argv: string[]) =>
  runCommand(argv, { DATABASE_URL: world.database.url, BACKUPVM_HOST: world.config.host });

/** All that a repository can tell of its restore points. */
async function recorded(): Promise<unknown[]> {
  const { rows } = await world.database.pool.query<object>(`
    select r.id as repository, r.path as root, h.name as hypervisor, h.kind, h.uri, h.host, c.id as context, c.vm_id, c.vm_name,
      c.directory, j.id as job, j.status, j.point_time, j.consistency, j.vm_config, d.id as disk, d.disk_key, d.target, d.identity, d.status,
      d.type, d.reason, d.parent_id, d.size_bytes, d.path, d.file_bytes, d.checksum, d.hashes_checksum, d.is_head,
      case when d.is_head then d.change_id end as change_id
    from backup_disks d join backup_jobs j on j.id = d.job_id join vm_backup_contexts c on c.id = j.context_id
      join repositories r on r.id = c.repository_id join hypervisors h on h.id = c.hypervisor_id
    order by j.point_time, d.disk_key`);
  return rows;
}

async function loseDatabase(): Promise<void> {
  await world.database.pool.query('truncate hypervisors, repositories cascade');
}

test('a lost database: all that the repository can tell is recorded as it was, and the next backup goes on from there', async () => {
  const before = await recorded();
  expect(before).toHaveLength(4);
  await loseDatabase();
  const { exitCode, stdout, stderr } = await backupvm('repository', 'import', world.repository.path);
  expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' });
  expect(stdout).toContain('2 restore point(s) imported, 0 known before, 0 left out');
  expect(await recorded()).toEqual(before);
  expect((await backupvm('point', 'list', '--vm', 'web01')).stdout).toContain(points[3]?.jobId.slice(0, 8));

  await vm.write('root', MiB, 64 * KiB, 9);
  const next = await world.backUp({ vm: 'web01' });
  expect(next.disks).toMatchObject([
    { key: 'data', type: 'incremental', reason: 'parent_good' },
    { key: 'root', type: 'incremental', reason: 'parent_good' },
  ]);
  await expectSameContent(world, vm, next);
});

test('imported again, nothing changes', async () => {
  const before = await recorded();
  const again = await backupvm('repository', 'import', world.repository.path, '--json');
  expect(documentOf(again)).toMatchObject({ imported: [], known: 3, problems: [] });
  expect(await recorded()).toEqual(before);
});

test('every imported point verifies by its content', async () => {
  expect(await run('VerifyBackup', { vm: 'web01', all: true, level: 'content' })).toMatchObject({ damaged: false });
});

test('a tampered manifest is left out, with the points that need it, and the rest is imported', async () => {
  const { rows } = await world.database.pool.query<{ path: string }>(
    `select directory || '/backup-' || directory || '-' || to_char(point_time at time zone 'UTC', 'YYYYMMDD-HH24MISS') || '.json' as path
     from backup_jobs j join vm_backup_contexts c on c.id = j.context_id order by point_time`,
  );
  const manifest = join(world.repository.path, rows[2]?.path ?? 'none');
  const content = await readFile(manifest, 'utf8');
  const before = await recorded();
  await loseDatabase();
  await writeFile(manifest, content.replace(/"path": "web01/, '"path": "../web01'));
  const bad = await backupvm('repository', 'import', world.repository.path, '--name', 'again');
  expect(bad.exitCode).toBe(6);
  expect(bad.stdout).toContain('2 restore point(s) imported, 0 known before, 1 left out');
  expect(bad.stdout).toContain(`Left out: ${rows[2]?.path}: disk data: `);
  expect(bad.stderr).toContain("1 manifest(s) of repository 'again' could not be imported");

  await writeFile(manifest, content);
  expect((await backupvm('repository', 'import', world.repository.path)).stdout).toContain(
    '1 restore point(s) imported, 2 known before, 0 left out',
  );
  expect(await recorded()).toEqual(before);
});

test('a directory that another database has written to is not registered without its restore points', async () => {
  await loseDatabase();
  const { exitCode, stderr } = await backupvm('repository', 'add', 'store', '--path', world.repository.path);
  expect(exitCode).toBe(5);
  expect(stderr).toContain(`run 'backupvm repository import ${world.repository.path}'`);
  expect((await backupvm('repository', 'import', world.repository.path)).exitCode).toBe(0);
});

test('a VM that was backed up again before the import keeps what is recorded, and the command says so', async () => {
  await loseDatabase();
  await rm(join(world.repository.path, epochName)); // or the directory would not be registered
  await backupvm('repository', 'add', 'store', '--path', world.repository.path);
  await backupvm('hypervisor', 'add', 'lab', '--kind', 'qmp', '--uri', `qmp://${join(world.directory, 'machines')}`);
  const { disks } = await world.backUp({ vm: 'web01', type: 'full' });
  expect(disks).toHaveLength(2);
  const { exitCode, stdout } = await backupvm('repository', 'import', world.repository.path);
  expect(exitCode).toBe(6);
  expect(stdout).toContain('0 restore point(s) imported, 1 known before, 3 left out');
  expect(stdout).toContain('it was backed up again before the import');
  await run('DeleteBackup', { vm: 'web01', all: true });
  expect((await backupvm('repository', 'import', world.repository.path)).stdout).toContain(
    '3 restore point(s) imported',
  );
});

test('a directory that was never a repository is refused', async () => {
  const { exitCode, stderr } = await backupvm('repository', 'import', join(world.directory, 'machines'));
  expect(exitCode).toBe(5);
  expect(stderr).toContain('found no marker file');
});
