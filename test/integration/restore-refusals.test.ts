import { randomUUID } from 'node:crypto';
import { copyFile, link, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { RestoreVMRequest } from '../../src/domain/restore-input.js';
import type { BackupVMResult } from '../../src/domain/result.js';
import { dataOf, flip, keepTimes } from '../support/harm.js';
import { expectNoRestoreLeft, refusalOf, restoreVM, startRestore, targetDirectory } from '../support/restores.js';
import { makeSmallFileSystem } from '../support/small-file-system.js';
import { startStorageDaemon } from '../support/storage-daemon.js';
import { until } from '../support/until.js';
import { createWorld, type World } from '../support/world.js';

const MiB = 1024 * 1024;

let world: World;
let point: BackupVMResult;
let out: string;
beforeAll(async () => {
  world = await createWorld('restore-refusals');
  const vm = await world.startVM('web01', [
    { key: 'root', sizeBytes: 2 * MiB },
    { key: 'data', sizeBytes: 1 * MiB },
  ]);
  await vm.write('root', 0, 1 * MiB, 0x11);
  await world.backUp({ vm: 'web01' });
  await vm.write('root', 1 * MiB, 64 * 1024, 0x22);
  point = await world.backUp({ vm: 'web01' });
});
afterAll(() => world.close());

/** An own, empty directory for each test. */
async function fresh(): Promise<string> {
  out = await targetDirectory(world, `out-${randomUUID()}`);
  return out;
}
const names = (format: string) => [`web01-data.${format}`, `web01-root.${format}`];

describe('RestoreVM refuses', () => {
  const files = (directory: string): RestoreVMRequest => ({ vm: 'web01', target: { kind: 'files', directory } });

  test.each<[what: string, input: unknown, type: string, words: string]>([
    ['an input that is none', 'web01', 'InvalidInput', 'expected an object such as'],
    [
      'a point and a VM',
      { vm: 'web01', point: 'ab', target: { kind: 'in-place' } },
      'InvalidInput',
      `either 'point' or 'vm'`,
    ],
    ['no target', { vm: 'web01' }, 'InvalidInput', 'target'],
    [
      'a relative directory, and a field that is unknown, at once',
      { vm: 'web01', target: { kind: 'files', directory: 'here', mode: 1 } },
      'InvalidInput',
      'target.directory',
    ],
    ['a time that is none', { ...files('/tmp'), at: 'yesterday' }, 'InvalidInput', 'at: expected a time'],
    ['a VM without backups', { ...files('/tmp'), vm: 'nobody' }, 'PointNotFound', 'nobody'],
    ['a disk that the point has not', { ...files('/tmp'), disks: ['vdz'] }, 'DiskNotFound', `'vdz'`],
    [
      'a directory that the host does not allow',
      files('/etc/cron.d'),
      'TargetNotAllowed',
      'cannot restore to /etc/cron.d: it is not below a directory of BACKUPVM_RESTORE_DIRS (',
    ],
    [
      'to define a VM where none can be defined',
      { vm: 'web01', target: { kind: 'vm', name: 'web02', directory: '/tmp' } },
      'TargetUnusable',
      'cannot define VMs',
    ],
    [
      'to replace disks of a VM whose images are not known',
      { vm: 'web01', target: { kind: 'in-place' } },
      'TargetUnusable',
      'cannot define VMs',
    ],
  ])('%s', async (_what, input, type, words) => {
    await fresh();
    const refusal = await refusalOf(world, input as RestoreVMRequest);
    expect(refusal.type).toBe(type);
    expect(refusal.message).toContain(words);
    await expectNoRestoreLeft(world, out);
  });

  test('a directory that is not there, one that is a file, and one that cannot be written to', async () => {
    const directory = await fresh();
    const file = join(directory, 'file');
    await writeFile(file, '');
    const readOnly = await makeSmallFileSystem(directory, 'read-only', 4 * MiB);
    try {
      await readOnly.remount('ro');
      for (const [path, words] of [
        [join(directory, 'nowhere'), 'does not exist'],
        [file, 'no directory'],
        [readOnly.path, 'cannot be written to'],
      ] as const) {
        const refusal = await refusalOf(world, files(path));
        expect(refusal.type).toBe('TargetUnusable');
        expect(refusal.message).toContain(words);
      }
    } finally {
      await readOnly.remove();
    }
  });

  test('a file that is there, and leaves it as it is', async () => {
    const directory = await fresh();
    await writeFile(join(directory, 'web01-root.qcow2'), 'mine');
    expect(await refusalOf(world, files(directory))).toMatchObject({ type: 'AlreadyExists' });
    expect(await readFile(join(directory, 'web01-root.qcow2'), 'utf8')).toBe('mine');
    await expectNoRestoreLeft(world, directory, ['web01-root.qcow2']);
  });

  test.each(['qcow2', 'raw'] as const)('a %s file that a VM has open, whatever it is told', async (format) => {
    const directory = await fresh();
    const disks = [{ key: 'root', sizeBytes: MiB, format }];
    const running = await startStorageDaemon({ directory, name: 'web01', disks });
    const target = { kind: 'files' as const, directory, format };
    try {
      const path = join(directory, `web01-root.${format}`);
      await link(running.imageOf('root'), path);
      expect(await refusalOf(world, { vm: 'web01', target, overwrite: true })).toMatchObject({ type: 'VMRunning' });
      await rm(path);
      await symlink(running.imageOf('root'), path); // a link would be replaced, and the file that it leads to kept as it is
      expect(await refusalOf(world, { vm: 'web01', target, overwrite: true })).toMatchObject({
        type: 'TargetUnusable',
        message: expect.stringContaining('it is a link') as string,
      });
    } finally {
      await running.stop();
    }
  });

  test('a point that is damaged, unless it is told to give back what is left', async () => {
    const directory = await fresh();
    const damage = (text: string | null) =>
      world.database.pool.query(`update backup_disks set damage = $1 where job_id = $2 and disk_key = 'root'`, [
        text,
        point.jobId,
      ]);
    await damage('block 3 differs');
    try {
      const refusal = await refusalOf(world, files(directory));
      expect(refusal).toMatchObject({ type: 'PointDamaged' });
      expect(refusal.message).toContain('block 3 differs');
      await restoreVM(world, { ...files(directory), allowDamaged: true });
      await expectNoRestoreLeft(world, directory, names('qcow2'));
    } finally {
      await damage(null);
    }
  });

  test('a point with a file missing', async () => {
    const directory = await fresh();
    const { rows } = await world.database.pool.query<{ path: string }>(
      `select path from backup_disks where disk_key = 'root' and type = 'full'`,
    );
    const full = join(world.repository.path, rows[0]?.path ?? '');
    await copyFile(full, `${full}.aside`);
    await rm(full);
    try {
      expect(await refusalOf(world, files(directory))).toMatchObject({ type: 'PointDamaged' });
    } finally {
      await copyFile(`${full}.aside`, full);
      await rm(`${full}.aside`);
    }
    await expectNoRestoreLeft(world, directory);
  });

  test('to call a disk restored that is not as it was backed up', async () => {
    const directory = await fresh();
    const { path } = point.disks.find(({ key }) => key === 'root') ?? expect.fail('no disk');
    const file = join(world.repository.path, path);
    // As where a disk forgets what it stored: nobody has written to the file.
    const turnBit = () => keepTimes(file, async () => flip(file, await dataOf(MiB + 512)(file)));
    await turnBit();
    const handle = await startRestore(world, files(directory));
    await until('a second attempt', async () => {
      const { raw } = await handle.describe();
      return (raw.pendingActivities ?? []).some(({ attempt, lastFailure }) => Number(attempt) > 1 && lastFailure);
    });
    expect(await readdir(directory)).not.toContain('web01-root.qcow2');
    await turnBit();
    await handle.result();
    await expectNoRestoreLeft(world, directory, names('qcow2'));

    await turnBit();
    try {
      const again = { ...files(directory), overwrite: true, allowDamaged: true };
      const { disks } = await restoreVM(world, again);
      expect(disks.map(({ key, differentBlocks }) => `${key}: ${differentBlocks}`)).toEqual(['data: 0', 'root: 1']);
    } finally {
      await turnBit();
    }
  });
});
