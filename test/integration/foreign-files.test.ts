import { createHash, randomUUID } from 'node:crypto';
import {
  cp,
  lstat,
  mkdir,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  symlink,
  truncate,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { hashesFilePath } from '../../src/domain/names.js';
import type { RestoreVMRequest } from '../../src/domain/restore-input.js';
import type { BackupVMResult } from '../../src/domain/result.js';
import type { VerifyBackupResult } from '../../src/domain/verify-result.js';
import { runOrThrow } from '../../src/process/run.js';
import { mainQueue } from '../../src/workflows/messages.js';
import { firstDifference } from '../support/content.js';
import { flip, keepTimes } from '../support/harm.js';
import { expectNoRestoreLeft, refusalOf, restoreVM, targetDirectory } from '../support/restores.js';
import type { StorageDaemon } from '../support/storage-daemon.js';
import { createWorld, type World } from '../support/world.js';

const MiB = 1024 * 1024;

// What somebody can do who can write to a repository, and wants to read or to change files of its host.

let world: World;
let vm: StorageDaemon;
/** A file that only root may read. */
let secret: string;
let held: string;
let full: BackupVMResult;
let incremental: BackupVMResult;
let before: { step: string; act: () => Promise<void> } | undefined;

beforeAll(async () => {
  world = await createWorld('foreign-files', {
    activityInterceptors: [
      ({ info }) => ({
        inbound: {
          async execute(input, next) {
            if (before?.step === info.activityType) await before.act();
            return next(input);
          },
        },
      }),
    ],
  });
  secret = join(world.directory, 'secret-of-the-host');
  await writeFile(secret, 'THE-HOSTS-SECRET'.repeat((2 * MiB) / 16), { mode: 0o600 });
  vm = await world.startVM('web01', [{ key: 'root', sizeBytes: 2 * MiB }]);
  await vm.write('root', MiB, MiB / 2, 0x11);
  full = await world.backUp({ vm: 'web01' });
  await vm.write('root', MiB, 64 * 1024, 0x22);
  await vm.zero('root', MiB + 128 * 1024, 64 * 1024);
  incremental = await world.backUp({ vm: 'web01' });
  held = join(world.directory, 'held');
  await vm.read('root', held);
});
afterAll(() => world.close());

const fileOf = (point: BackupVMResult) => join(world.repository.path, point.disks[0]?.path ?? '');

// Every test begins with the repository as it was, its times too.
let kept: string;
beforeEach(async () => {
  kept = join(world.directory, `kept-${randomUUID()}`);
  await cp(world.repository.path, kept, { recursive: true, preserveTimestamps: true });
});
afterEach(async () => {
  before = undefined;
  await rm(world.repository.path, { recursive: true });
  await rename(kept, world.repository.path);
  await forgetMarks();
});

async function forgetMarks(): Promise<void> {
  await world.database.pool.query('update backup_disks set damage = null');
}

/** Changes a file, and then gives it the size and the time that it had. */
async function unnoticed(file: string, change: (file: string) => Promise<void>): Promise<void> {
  const { size } = await stat(file);
  await keepTimes(file, async () => {
    await change(file);
    await truncate(file, size);
  });
}

const rebase = (backing: string, format: string) => async (file: string) => {
  await runOrThrow('qemu-img', ['rebase', '-u', '-f', 'qcow2', '-b', backing, '-F', format, file], {
    timeoutMs: 30_000,
  });
};

/** The image that `qemu-img` makes for data in another file, which it then reads as the disk. */
async function keepDataIn(dataFile: string, file: string): Promise<void> {
  const other = join(world.directory, 'data-of-another');
  const options = `data_file=${other},data_file_raw=on`;
  await rm(file);
  await runOrThrow('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', options, file, String(2 * MiB)], {
    timeoutMs: 30_000,
  });
  await runOrThrow('qemu-img', ['amend', '-f', 'qcow2', '-o', `data_file=${dataFile}`, file], { timeoutMs: 30_000 });
}

/** Gives a point the block hashes of what its file reads now. */
async function hashAgain(point: BackupVMResult): Promise<void> {
  const file = fileOf(point);
  const raw = join(world.directory, 'read-by-the-stranger');
  await runOrThrow('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', file, raw], { timeoutMs: 30_000 });
  await unnoticed(hashesFilePath(file), async (hashes) => {
    const [table, disk] = [await readFile(hashes), await readFile(raw)];
    for (let block = 0; block * 256 * 1024 < disk.length; block += 1) {
      const bytes = disk.subarray(block * 256 * 1024, (block + 1) * 256 * 1024);
      const hash = bytes.every((byte) => byte === 0) ? Buffer.alloc(32) : createHash('sha256').update(bytes).digest();
      hash.copy(table, 32 + block * 32);
    }
    await writeFile(hashes, table);
  });
}

const files = (directory: string, point = incremental): RestoreVMRequest => ({
  point: point.jobId,
  target: { kind: 'files', directory, format: 'raw' },
});

async function verify(point: BackupVMResult): Promise<VerifyBackupResult> {
  const request = {
    taskQueue: mainQueue,
    workflowId: `verify/${randomUUID()}`,
    args: [{ point: point.jobId, level: 'structure' }],
  };
  return (await world.client.workflow.execute('VerifyBackup', request)) as VerifyBackupResult;
}

/** Neither with nor without damage allowed does a restore give anything; verification says the same of the file. */
async function expectRefused(point: BackupVMResult, words: string): Promise<void> {
  const directory = await targetDirectory(world, randomUUID());
  await forgetMarks();
  for (const allowDamaged of [false, true]) {
    const refusal = await refusalOf(world, { ...files(directory, point), allowDamaged });
    expect(refusal).toMatchObject({ type: 'PointDamaged', message: expect.stringContaining(words) as string });
    await expectNoRestoreLeft(world, directory);
  }
  expect((await verify(point)).files.map(({ damage }) => damage).join()).toContain(words);
}

describe('a restore refuses, also where damage is allowed, and verification names', () => {
  test('a full with a file of the host as its backing file, whose block hashes were made again', async () => {
    await unnoticed(fileOf(full), rebase(secret, 'raw'));
    await hashAgain(full);
    await expectRefused(full, `it builds on '${secret}', not on nothing`);
  });

  test.each([
    ['a file of the host', () => secret, 'raw'],
    ['an image of another folder', () => `../root/${basename(fileOf(full))}`, 'qcow2'],
    ['a URI', () => 'nbd://127.0.0.1:1/disk', 'raw'],
    ['a description', () => `json:{"driver":"raw","file":{"driver":"file","filename":"${secret}"}}`, 'raw'],
  ])('an incremental on %s, whose block hashes were made again', async (_what, backing, format) => {
    await unnoticed(fileOf(incremental), rebase(backing(), format));
    if (backing() === secret) await hashAgain(incremental);
    await expectRefused(incremental, `it builds on '${backing()}', not on '${basename(fileOf(full))}'`);
  });

  test('an incremental that reads its own parent in another format', async () => {
    await unnoticed(fileOf(incremental), rebase(basename(fileOf(full)), 'raw'));
    await expectRefused(incremental, `it reads '${basename(fileOf(full))}' as raw, not as qcow2`);
  });

  test('a file whose data lie in another one', async () => {
    await unnoticed(fileOf(full), (file) => keepDataIn(secret, file));
    await hashAgain(full);
    await expectRefused(full, 'its header names another file for its data');
    await expectRefused(incremental, 'its header names another file for its data');
  });

  test('a file, and a folder, that is a link', async () => {
    const elsewhere = join(world.directory, `elsewhere-${randomUUID()}`);
    const folder = dirname(fileOf(full));
    await rename(folder, elsewhere);
    await symlink(elsewhere, folder);
    await expectRefused(full, `a folder of it is a link, which leads to ${join(elsewhere, basename(fileOf(full)))}`);
    await rm(folder);
    await mkdir(folder);
    for (const name of await readdir(elsewhere)) await symlink(join(elsewhere, name), join(folder, name));
    await expectRefused(full, 'it is a link');
  });
});

describe('a restore refuses, before it writes anything,', () => {
  test('block hashes that are not those that were sealed', async () => {
    const directory = await targetDirectory(world, randomUUID());
    const hashes = hashesFilePath(fileOf(incremental));
    await unnoticed(hashes, (file) => flip(file, 32));
    before = { step: 'restoreDisk', act: () => Promise.reject(new Error('it was about to write')) };
    const refusal = await refusalOf(world, files(directory));
    expect(refusal).toMatchObject({ type: 'PointDamaged' });
    expect(refusal.message).toContain(`${basename(hashes)} is not as it was sealed`);
    await expectNoRestoreLeft(world, directory);
  });

  test.each([
    ['a full', () => fileOf(full)],
    ['an incremental', () => fileOf(incremental)],
  ])('%s that has another time, and another content', async (_what, file) => {
    const directory = await targetDirectory(world, randomUUID());
    await flip(file(), (await lstat(file())).size - 1);
    before = { step: 'restoreDisk', act: () => Promise.reject(new Error('it was about to write')) };
    const refusal = await refusalOf(world, files(directory));
    expect(refusal).toMatchObject({ type: 'PointDamaged' });
    expect(refusal.message).toContain(`${basename(file())} is not as it was sealed`);
    await expectNoRestoreLeft(world, directory);
  });
});

test('block hashes that are replaced after the first look are not believed, and the disk does not get its name', async () => {
  const directory = await targetDirectory(world, randomUUID());
  before = {
    step: 'restoreDisk',
    act: async () => {
      await unnoticed(fileOf(full), async (file) => {
        await runOrThrow('qemu-io', ['-f', 'qcow2', '-c', `write -P 0x99 ${MiB + 256 * 1024} 64k`, file], {
          timeoutMs: 30_000,
        });
      });
      await hashAgain(incremental);
    },
  };
  const refusal = await refusalOf(world, files(directory));
  expect(refusal).toMatchObject({ type: 'PointDamaged' });
  expect(refusal.message).toContain('.hashes is not as it was sealed');
  await expectNoRestoreLeft(world, directory);
});

test('a file that is exchanged after the first look is not read', async () => {
  const directory = await targetDirectory(world, randomUUID());
  before = { step: 'restoreDisk', act: () => unnoticed(fileOf(full), (file) => keepDataIn(secret, file)) };
  expect(await refusalOf(world, { ...files(directory), allowDamaged: true })).toMatchObject({ type: 'PointDamaged' });
  await expectNoRestoreLeft(world, directory);
});

test('files that have other times, and are as they were sealed, are restored', async () => {
  const directory = await targetDirectory(world, randomUUID());
  for (const point of [full, incremental]) await utimes(fileOf(point), new Date(), new Date());
  const { disks } = await restoreVM(world, files(directory));
  expect(await firstDifference(disks[0]?.path ?? '', held)).toBeUndefined();
});

describe('nothing is read through a header that leads elsewhere', () => {
  test('when a backup seals: the job fails, and the chain stays as it was', async () => {
    before = { step: 'sealRestorePoint', act: () => unnoticed(fileOf(full), rebase(secret, 'raw')) };
    await vm.write('root', 0, 64 * 1024, 0x33);
    await expect(world.backUp({ vm: 'web01' })).rejects.toMatchObject({ cause: { type: 'PointDamaged' } });
    const { rowCount } = await world.database.pool.query(`select 1 from backup_jobs where status = 'complete'`);
    expect(rowCount).toBe(2);
  });

  test('when a merge is asked for: it is refused, and nothing is removed', async () => {
    await unnoticed(fileOf(full), (file) => keepDataIn(secret, file));
    const names = await readdir(dirname(fileOf(full)));
    const input = { point: full.jobId, descendants: 'merge' };
    const request = { taskQueue: mainQueue, workflowId: `delete/${randomUUID()}`, args: [input] };
    await expect(world.client.workflow.execute('DeleteBackup', request)).rejects.toMatchObject({
      cause: { type: 'PointDamaged' },
    });
    expect(await readdir(dirname(fileOf(full)))).toEqual(names);
    expect(await readFile(secret, 'latin1')).toMatch(/^(THE-HOSTS-SECRET)+$/);
  });

  test('when a backup starts: a parent that leads elsewhere makes a full', async () => {
    await unnoticed(fileOf(full), rebase(secret, 'raw'));
    const { disks } = await world.backUp({ vm: 'web01' });
    expect(disks).toMatchObject([{ type: 'full', reason: 'parent_changed' }]);
  });
});
