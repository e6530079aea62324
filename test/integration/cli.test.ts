import { chmod, mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { randomUUID } from 'node:crypto';
import { execa } from 'execa';
import { describe, expect } from 'vitest';
import type { Database } from '../../src/db/database.js';
import { findOrCreateContext } from '../../src/db/contexts.js';
import { planDisks, recordAttempt, recordCopied } from '../../src/db/disks.js';
import { addHypervisor } from '../../src/db/hypervisors.js';
import { closeJob, getJob, sealJob } from '../../src/db/jobs.js';
import { addRepository } from '../../src/db/repositories.js';
import { beginSnapshot, recordSnapshot } from '../../src/db/snapshots.js';
import { startJob as insertJob } from '../support/job.js';
import { createTestDatabase, test as base } from '../support/database.js';
import { type CommandOutcome, documentOf, runCommand } from '../unit/cli/run-command.js';

interface Fixtures {
  directory: string;
  backupvm: (...argv: string[]) => Promise<CommandOutcome>;
}

const test = base.extend<Fixtures>({
  directory: async ({ task }, use) => {
    const path = await mkdtemp(join(tmpdir(), `backupvm-cli-${task.id}-`));
    await chmod(path, 0o755);
    await use(path);
    await rm(path, { recursive: true });
  },
  backupvm: async ({ database }, use) =>
    use((...argv) => runCommand(argv, { DATABASE_URL: database.url, BACKUPVM_HOST: 'kvm1' })),
});

const ok = (stdout: unknown) => ({ exitCode: 0, stderr: '', stdout });

describe('hypervisor', () => {
  test('add registers one on another host unseen; list shows it; remove forgets it', async ({ backupvm }) => {
    const add = ['hypervisor', 'add', 'far', '--kind', 'libvirt', '--uri', 'qemu:///system', '--host', 'kvm2'];
    expect(await backupvm(...add)).toEqual(
      ok(expect.stringContaining("not checked from here: it is read on host 'kvm2'")),
    );
    expect(await backupvm('hypervisor', 'list')).toEqual(
      ok('NAME  KIND     URI             HOST\nfar   libvirt  qemu:///system  kvm2\n'),
    );
    expect(documentOf(await backupvm('hypervisor', 'list', '--json'))).toMatchObject({
      hypervisors: [{ name: 'far', kind: 'libvirt', uri: 'qemu:///system', host: 'kvm2' }],
    });
    expect(await backupvm('vm', 'list')).toMatchObject({
      exitCode: 7,
      stderr: "Hypervisor 'far' is read on host 'kvm2', this is 'kvm1'; run 'backupvm vm list' there\n",
    });
    expect(await backupvm(...add)).toMatchObject({ exitCode: 4, stdout: '' });
    expect(await backupvm('hypervisor', 'remove', 'far')).toMatchObject({ exitCode: 0 });
    expect(await backupvm('hypervisor', 'list')).toEqual(ok(expect.stringContaining('No hypervisor is registered')));
  });

  test('add registers none that does not answer', async ({ backupvm, directory }) => {
    const uri = `qmp://${directory}/nothing.qmp`;
    const { exitCode, stderr } = await backupvm('hypervisor', 'add', 'lab', '--kind', 'qmp', '--uri', uri);
    expect(stderr).toContain(directory);
    expect(exitCode).toBeGreaterThan(1);
    expect(documentOf(await backupvm('hypervisor', 'list', '--json'))).toEqual({ hypervisors: [] });
  });

  test('a password in a URI is refused and not repeated', async ({ backupvm }) => {
    const uri = 'qemu+ssh://me:secret@kvm1/system';
    const { exitCode, stderr } = await backupvm('hypervisor', 'add', 'lab', '--kind', 'libvirt', '--uri', uri);
    expect(exitCode).toBe(2);
    expect(stderr).toContain("hypervisor 'lab' without a password");
    expect(stderr).not.toContain('secret');
  });

  test('remove names the unknown, and refuses one with backups', async ({ backupvm, db }) => {
    expect(await backupvm('hypervisor', 'remove', 'nope')).toMatchObject({
      exitCode: 3,
      stderr: expect.stringContaining('No hypervisor is registered') as string,
    });
    await insertPoints(db);
    expect(await backupvm('hypervisor', 'remove', 'local', '--json')).toMatchObject({
      exitCode: 4,
      stdout: '',
      stderr: expect.stringContaining('"code":"InUse"') as string,
    });
  });
});

describe('repository', () => {
  test('add makes a marker file, list shows free space, a removed row is adopted again', async ({
    backupvm,
    directory,
    db,
  }) => {
    const add = ['repository', 'add', 'main', '--path', directory];
    const first = documentOf(await backupvm(...add, '--json'));
    expect(first).toMatchObject({ adopted: false, repository: { name: 'main', host: 'kvm1', path: directory } });
    expect((await stat(join(directory, '.backupvm-repository.json'))).isFile()).toBe(true);
    expect((await backupvm('repository', 'list')).stdout).toMatch(/main +kvm1 +\S+ +\d+\.\d .iB\n$/);

    expect(await backupvm(...add)).toMatchObject({ exitCode: 4 });
    const other = await backupvm('repository', 'add', 'other', '--path', directory);
    expect(other).toMatchObject({ exitCode: 4, stderr: expect.stringContaining('registered already') as string });

    await db.execute('delete from repositories');
    const again = documentOf(await backupvm(...add, '--json'));
    expect(again).toMatchObject({ adopted: true });
    expect(again['repository']).toMatchObject({ id: (first['repository'] as { id: string }).id });
  });

  test('a name that is taken leaves no marker file behind', async ({ backupvm, directory, db }) => {
    await addRepository(db, { id: randomUUID(), name: 'main', host: 'kvm2', path: '/srv/x' });
    expect(await backupvm('repository', 'add', 'main', '--path', directory)).toMatchObject({ exitCode: 4 });
    await expect(stat(join(directory, '.backupvm-repository.json'))).rejects.toThrow('ENOENT');
  });

  test('a path that is missing, or on another host, is refused', async ({ backupvm, directory }) => {
    const missing = join(directory, 'missing');
    expect(await backupvm('repository', 'add', 'main', '--path', missing)).toMatchObject({
      exitCode: 5,
      stderr: expect.stringContaining(`${missing} cannot be used: it does not exist`) as string,
    });
    expect(await backupvm('repository', 'add', 'main', '--path', directory, '--host', 'kvm2')).toMatchObject({
      exitCode: 7,
      stderr: expect.stringContaining("is on host 'kvm2', this is 'kvm1'") as string,
    });
  });

  test('list says what is wrong with one that is not mounted', async ({ backupvm, directory, db }) => {
    await addRepository(db, { id: randomUUID(), name: 'main', host: 'kvm1', path: directory });
    const { exitCode, stdout } = await backupvm('repository', 'list');
    expect(exitCode).toBe(0);
    expect(stdout).toContain('unusable');
    expect(stdout).toContain(`Warning: The repository at ${directory} cannot be used: it has no marker file`);
  });
});

describe('job and point', () => {
  test('list jobs newest first, filtered, and points only where sealed', async ({ backupvm, db }) => {
    const { failed, full, incremental } = await insertPoints(db);
    const ids = async (...argv: string[]) => {
      const found = documentOf<Record<string, { id: string }[]>>(await backupvm(...argv, '--json'));
      return Object.values(found)[0]?.map(({ id }) => id);
    };
    expect(await ids('job', 'list')).toEqual([failed, incremental, full]);
    expect(await ids('job', 'list', '--limit', '1')).toEqual([failed]);
    expect(await ids('job', 'list', '--status', 'failed')).toEqual([failed]);
    expect(await ids('job', 'list', '--vm', 'none')).toEqual([]);
    expect(await ids('job', 'list', '--repository', 'main')).toHaveLength(3);
    expect(await ids('point', 'list', '--vm', '日本語')).toEqual([incremental, full]);

    const { stdout } = await backupvm('point', 'list');
    const [headings = '', ...lines] = stdout.trimEnd().split('\n');
    expect(headings).toMatch(/^POINT +VM +REPOSITORY +TIME +TYPE +CONSISTENCY +DISKS +SIZE +FILES +KEPT +FOUND$/);
    expect(lines[0]).toContain(incremental.slice(0, 8));
    expect(lines[0]).toMatch(
      /日本語 {2}main +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d {2}incremental {2}filesystem +1 +1\.0 GiB +64\.0 KiB$/,
    );
    expect(lines).toHaveLength(2);
  });

  test('show has disks, files, checksums, parents, change ids, warnings and the error', async ({ backupvm, db }) => {
    const { failed, full, incremental } = await insertPoints(db);
    expect(documentOf(await backupvm('point', 'show', incremental, '--json'))['point']).toMatchObject({
      ...{ id: incremental, vm: '日本語', status: 'complete', warnings: ['the guest agent was slow'], error: null },
      disks: [
        {
          ...{ key: 'SER1', type: 'incremental', checksum: `sha256:${'b'.repeat(64)}`, changeId: 'change-2' },
          parent: { pointId: full, path: 'vm/full.qcow2' },
        },
      ],
    });
    const { stdout } = await backupvm('point', 'show', incremental.slice(0, 12));
    for (const text of [incremental, '/srv/main/vm/inc.qcow2', `restore point ${full}`, 'the guest agent was slow']) {
      expect(stdout).toContain(text);
    }
    expect((await backupvm('job', 'show', failed)).stdout).toMatch(/Error: +no space left/);
  });

  test('an id that names nothing, several, or no restore point is refused', async ({ backupvm, db }) => {
    const { failed } = await insertPoints(db);
    expect(await backupvm('job', 'show', 'zz')).toMatchObject({
      exitCode: 3,
      stderr: "Expected one job with the id 'zz', found none; see 'backupvm job list'\n",
    });
    expect((await backupvm('job', 'show', '')).stderr).toContain('several begin with it');
    expect(await backupvm('point', 'show', failed)).toMatchObject({
      exitCode: 3,
      stderr: `Expected one restore point with the id '${failed}', found a job that is failed; see 'backupvm point list'\n`,
    });
    expect(JSON.parse((await backupvm('point', 'show', 'zz', '--json')).stderr)).toMatchObject({
      error: { code: 'PointNotFound', exitCode: 3 },
    });
  });
});

describe('the database', () => {
  test('that is not reachable is named, without its password', async () => {
    const env = { DATABASE_URL: 'postgres://me:secret@127.0.0.1:1/backups', BACKUPVM_HOST: 'kvm1' };
    for (const argv of [['job', 'list'], ['setup']]) {
      const { exitCode, stderr } = await runCommand(argv, env);
      expect(exitCode).toBe(8);
      expect(stderr).toContain('Expected Postgres at 127.0.0.1:1/backups');
      expect(stderr).not.toContain('secret');
    }
  });

  test('that is not migrated is refused with the next step', async ({ database, backupvm }) => {
    await database.pool.query('drop schema drizzle cascade');
    const { exitCode, stderr } = await backupvm('hypervisor', 'list');
    expect(exitCode).toBe(8);
    expect(stderr).toContain("found 0; run 'backupvm setup'");
  });
});

test('the program itself passes on exit code and messages', async () => {
  const database = await createTestDatabase('cli, as a program');
  const run = (...argv: string[]) =>
    execa(process.execPath, ['--import', 'tsx', 'src/cli/main.ts', ...argv], {
      reject: false,
      env: { DATABASE_URL: database.url, BACKUPVM_HOST: 'kvm1' },
    });
  const [list, bad] = await Promise.all([run('job', 'list', '--json'), run('job', 'show', 'zz')]);
  expect(list).toMatchObject({ exitCode: 0, stdout: '{\n  "jobs": []\n}', stderr: '' });
  expect(bad).toMatchObject({ exitCode: 3, stdout: '' });
  await database.drop();
});

/** A full, an incremental on it, and a failed job of one VM. */
async function insertPoints(db: Database): Promise<{ full: string; incremental: string; failed: string }> {
  const hypervisor = await addHypervisor(db, { name: 'local', kind: 'libvirt', uri: 'qemu:///system', host: 'kvm1' });
  const repository = await addRepository(db, { id: randomUUID(), name: 'main', host: 'kvm1', path: '/srv/main' });
  const context = await findOrCreateContext(db, {
    ...{ hypervisorId: hypervisor.id, repositoryId: repository.id },
    ...{ vmId: 'uuid-1', vmName: '日本語' },
  });
  const plan = { key: 'SER1', target: 'vda', identity: 'a', sizeBytes: 2 ** 30, baseChangeId: null };

  const full = await startJob(db, context.id);
  const [fullDisk] = await planDisks(db, { id: full, contextId: context.id }, [
    { ...plan, type: 'full', reason: 'first_backup', parentId: null, path: 'vm/full.qcow2' },
  ]);
  await complete(db, full, fullDisk?.id ?? '', 'a');

  const incremental = await startJob(db, context.id);
  const [incrementalDisk] = await planDisks(db, { id: incremental, contextId: context.id }, [
    { ...plan, type: 'incremental', reason: 'parent_good', parentId: fullDisk?.id ?? '', path: 'vm/inc.qcow2' },
  ]);
  await db.execute(`update backup_disks set change_id = 'change-2' where job_id = '${incremental}'`);
  await complete(db, incremental, incrementalDisk?.id ?? '', 'b');

  const failed = await startJob(db, context.id);
  await closeJob(db, failed, 'failed', 'no space left');
  return { full, incremental, failed };
}

async function startJob(db: Database, contextId: string): Promise<string> {
  const id = randomUUID();
  await insertJob(db, { id, contextId, workflowId: 'backup-vm/web01', runId: randomUUID() });
  return id;
}

async function complete(db: Database, jobId: string, diskId: string, digit: string): Promise<void> {
  const warnings = ['the guest agent was slow'];
  const { contextId } = await getJob(db, jobId);
  const snapshotId = randomUUID();
  await beginSnapshot(db, { id: jobId, contextId }, snapshotId, []);
  await recordSnapshot(db, { jobId, snapshotId }, { consistency: 'filesystem', vmConfig: null, warnings }, []);
  await recordAttempt(db, diskId, { attemptPath: 'vm/attempt', nbdPort: 10_809 });
  await recordCopied(db, diskId, { changedBytes: 65_536, writtenBytes: 65_536 });
  const checksum = `sha256:${digit.repeat(64)}`;
  await sealJob(db, { id: jobId, snapshotId }, [
    { diskId, checksum, hashesChecksum: checksum, fileBytes: 65_536, fileModifiedMs: 1_700_000_000_000 },
  ]);
}
