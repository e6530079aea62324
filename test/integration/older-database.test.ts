import { readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { cleanUpJob } from '../../src/activities/clean-up.js';
import { findOlderRecords, requireCurrent } from '../../src/activities/repository-epoch.js';
import { findContextByName } from '../../src/db/contexts.js';
import { getJob } from '../../src/db/jobs.js';
import { moveEpoch } from '../../src/db/repositories.js';
import type { BackupVMResult } from '../../src/domain/result.js';
import { readMachineId } from '../../src/process/machine-id.js';
import { runOrThrow } from '../../src/process/run.js';
import { draftPath } from '../../src/repository/durable.js';
import { epochName, readEpoch, writeEpoch } from '../../src/repository/epoch.js';
import { createSource } from '../../src/sources/connect.js';
import { mainQueue } from '../../src/workflows/messages.js';
import { expectSameContent } from '../support/content.js';
import { createTestDatabase } from '../support/database.js';
import { filesBelow } from '../support/end-state.js';
import type { StorageDaemon } from '../support/storage-daemon.js';
import { createWorld, type World } from '../support/world.js';
import { runCommand } from '../unit/cli/run-command.js';

// What a repository says is believed more than a row, also where its epoch does not tell that the database is older.

const KiB = 1024;
let world: World;
/** Done before the next seal. */
let beforeSeal: (() => Promise<void>) | undefined;

beforeAll(async () => {
  world = await createWorld('older-database', {
    activityInterceptors: [
      ({ info }) => ({
        inbound: {
          async execute(input, next) {
            if (info.activityType === 'sealRestorePoint') await beforeSeal?.();
            return next(input);
          },
        },
      }),
    ],
  });
});
beforeEach(() => {
  beforeSeal = undefined;
});
afterAll(() => world.close());

const pool = () => world.database.pool;
const signal = AbortSignal.timeout(100_000);
const backupvm = (databaseUrl: string, ...argv: string[]) =>
  runCommand(argv, { DATABASE_URL: databaseUrl, BACKUPVM_HOST: world.config.host });
const importRepository = (databaseUrl = world.database.url) =>
  backupvm(databaseUrl, 'repository', 'import', world.repository.path);
const refusal = async (running: Promise<unknown>): Promise<{ type: string; message: string }> =>
  running.then(
    () => expect.fail('expected a refusal, found success'),
    (error: unknown) => (error as { cause: { type: string; message: string } }).cause,
  );

function cleanUp(jobId: string): Promise<void> {
  const { config, database } = world;
  const dependencies = {
    ...config,
    ...{ db: database.db, machineId: readMachineId() },
    createSource: (hypervisor: { kind: 'libvirt' | 'qmp'; uri: string }) => createSource(hypervisor, config.scratchDir),
  };
  return cleanUpJob(dependencies, jobId, signal);
}

interface Backups {
  vm: StorageDaemon;
  add: () => Promise<BackupVMResult>;
}

/** A VM of this name, and points of it. */
async function startVM(name: string): Promise<Backups> {
  const vm = await world.startVM(name, [{ key: 'root', sizeBytes: 1024 * KiB }]);
  let count = 0;
  return {
    vm,
    async add() {
      await vm.write('root', count * 128 * KiB, 192 * KiB, (count += 1));
      return world.backUp({ vm: name });
    },
  };
}

/** The row of a sealed job as it was before the seal, and none of the jobs after it. */
async function forgetSeal({ jobId }: BackupVMResult, after: readonly BackupVMResult[] = []): Promise<void> {
  for (const { jobId } of after) await pool().query('delete from backup_jobs where id = $1', [jobId]);
  await pool().query(
    `update backup_jobs set status = 'running', finished_at = null, clean_up = 'pending' where id = $1`,
    [jobId],
  );
  await pool().query(
    `update backup_disks set status = 'copied', is_head = false, checksum = null, hashes_checksum = null,
       file_bytes = null, file_modified_ms = null, attempt_path = path || '.partial' where job_id = $1`,
    [jobId],
  );
  await pool().query(
    `update backup_disks set is_head = true where id = (select parent_id from backup_disks where job_id = $1)`,
    [jobId],
  );
}

const filesOf = async (name: string) =>
  (await filesBelow(world.repository.path)).filter((path) => path.startsWith(`${name}/`));
const loseEpoch = () => rm(join(world.repository.path, epochName), { force: true });
const manifestOf = async (name: string) => {
  const paths = (await filesOf(name)).filter((path) => path.endsWith('.json'));
  return join(world.repository.path, paths.at(-1) ?? 'none');
};

describe('clean-up of a job that was sealed, with a row that says that it was not', () => {
  test('leaves all files, closes the job, and import adopts it: the next backup is an incremental', async () => {
    const { vm, add } = await startVM('manifest');
    await add();
    const sealed = await add();
    const before = await filesOf('manifest');
    await loseEpoch();
    await forgetSeal(sealed);
    await cleanUp(sealed.jobId);
    expect(await filesOf('manifest')).toEqual(before);
    const job = await getJob(world.database.db, sealed.jobId);
    expect(job).toMatchObject({ status: 'failed', cleanUp: 'done' });
    expect(job.error).toContain(`run 'backupvm repository import ${world.repository.path}'`);

    expect((await importRepository()).stdout).toContain('1 restore point(s) imported');
    expect(await getJob(world.database.db, sealed.jobId)).toMatchObject({ status: 'complete', error: null });
    const next = await add();
    expect(next.disks).toMatchObject([{ type: 'incremental', reason: 'parent_good' }]);
    await expectSameContent(world, vm, next);
  });

  test('leaves a file that a later one was built upon, although its manifest is gone', async () => {
    const { add } = await startVM('descendant');
    const [, sealed, above] = [await add(), await add(), await add()];
    const manifests = (await filesOf('descendant')).filter((path) => path.endsWith('.json'));
    await rm(join(world.repository.path, manifests[1] ?? 'none'));
    const before = await filesOf('descendant');
    await loseEpoch();
    await forgetSeal(sealed, [above]);
    await cleanUp(sealed.jobId);
    expect(await filesOf('descendant')).toEqual(before);
    expect((await getJob(world.database.db, sealed.jobId)).error).toContain(
      `has ${sealed.disks[0]?.path} as its backing file`,
    );
  });

  test('waits for the import where the epoch tells that the database is older, and then finds it sealed', async () => {
    const { add } = await startVM('ahead');
    const sealed = await add();
    const before = await filesOf('ahead');
    await forgetSeal(sealed);
    await pool().query('update repositories set epoch = epoch - 1');
    await expect(cleanUp(sealed.jobId)).rejects.toMatchObject({
      code: 'CleanUpFailed',
      message: expect.stringContaining('the database is older than the repository') as string,
    });
    expect(await filesOf('ahead')).toEqual(before);
    const { stdout } = await backupvm(world.database.url, 'repository', 'list');
    expect(stdout).toContain('Warning: cannot change repository');
    expect(await findOlderRecords(world.database.db, world.config.host)).toMatchObject([{ code: 'RepositoryAhead' }]);
    expect((await importRepository()).exitCode).toBe(6); // the manifest that a test above took away
    await cleanUp(sealed.jobId);
    expect(await getJob(world.database.db, sealed.jobId)).toMatchObject({ status: 'complete', cleanUp: 'done' });
    expect((await add()).disks).toMatchObject([{ type: 'incremental' }]);
  });
});

test('a crash between the seal and the final name of the manifest: clean-up gives it that name', async () => {
  const { add } = await startVM('crash');
  const { jobId } = await add();
  const manifest = await manifestOf('crash');
  const content = await readFile(manifest, 'utf8');
  await rename(manifest, draftPath(manifest));
  await pool().query(`update backup_jobs set clean_up = 'pending' where id = $1`, [jobId]);
  await cleanUp(jobId);
  expect(await readFile(manifest, 'utf8')).toBe(content);
  expect((await filesOf('crash')).filter((path) => path.endsWith('.draft'))).toEqual([]);
});

test('a file that somebody put under the final name is not replaced by the seal, nor removed by clean-up', async () => {
  const { add } = await startVM('taken');
  let theirs = '';
  beforeSeal = async () => {
    const { rows } = await pool().query<{ path: string }>(
      `select d.path from backup_disks d join backup_jobs j on j.id = d.job_id where j.status = 'running'`,
    );
    theirs = join(world.repository.path, rows[0]?.path ?? 'none');
    await writeFile(theirs, 'theirs');
  };
  expect(await refusal(add())).toMatchObject({ type: 'AlreadyExists' });
  expect(await readFile(theirs, 'utf8')).toBe('theirs');
  expect((await filesOf('taken')).map((path) => join(world.repository.path, path))).toEqual([theirs]);
  await rm(theirs);
});

test('a restore point is not deleted while a file that no row knows has it as its backing file', async () => {
  const { add } = await startVM('unknown');
  const { jobId, disks } = await add();
  const file = join(world.repository.path, disks[0]?.path ?? 'none');
  const other = join(file, '..', 'of-another-database.qcow2');
  await runOrThrow('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', file, other], {
    signal,
    timeoutMs: 60_000,
  });
  const remove = (workflowId: string) =>
    world.client.workflow.execute('DeleteBackup', {
      ...{ taskQueue: mainQueue, workflowId },
      args: [{ point: jobId }],
    });
  const refused = await refusal(remove('delete-refused'));
  expect(refused).toMatchObject({ type: 'RepositoryAhead' });
  expect(refused.message).toContain('of-another-database.qcow2 has ');
  expect(await filesOf('unknown')).toHaveLength(4);
  await rm(other);
  await remove('delete');
  expect(await filesOf('unknown')).toEqual([]);
});

describe('the epoch of a repository', () => {
  test('that lags behind the database is brought up, and never goes back, whoever writes it', async () => {
    const { db } = world.database;
    const { add } = await startVM('lag');
    await add();
    const { id: contextId } = await findContextByName(db, { vm: 'lag' });
    const epochOf = async () => (await readEpoch(world.repository.path)) ?? expect.fail('no epoch');
    const { epoch, registration } = await epochOf();
    await writeEpoch(world.repository.path, { epoch: 0, registration });
    await requireCurrent(db, world.repository);
    expect(await epochOf()).toEqual({ epoch, registration });

    const seen = [epoch];
    const moves = Array.from({ length: 20 }, async () => {
      await db.transaction((tx) => moveEpoch(tx, contextId));
      await requireCurrent(db, world.repository);
      seen.push((await epochOf()).epoch);
    });
    await Promise.all(moves);
    expect(seen).toEqual([...seen].sort((a, b) => a - b));
    expect((await epochOf()).epoch).toBe(epoch + 20);
  });

  test('tells of another database that writes to the same directory: the first one stops until it imports', async () => {
    const { add } = await startVM('two');
    await add();
    const second = await createTestDatabase('second installation');
    try {
      const { exitCode, stderr } = await backupvm(
        second.url,
        'repository',
        'add',
        'mine',
        '--path',
        world.repository.path,
      );
      expect({ exitCode, stderr }).toMatchObject({ exitCode: 5, stderr: expect.stringContaining('import') as string });
      await importRepository(second.url);
      const before = await filesBelow(world.repository.path);
      const refused = await refusal(add());
      expect(refused).toMatchObject({ type: 'RepositoryAhead' });
      expect(refused.message).toContain('another database wrote to it');
      expect(await filesBelow(world.repository.path)).toEqual(before);
      await importRepository();
      expect((await add()).disks).toMatchObject([{ type: 'incremental' }]);
    } finally {
      await second.drop();
    }
  });
});
