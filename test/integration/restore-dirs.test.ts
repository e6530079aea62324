import { randomUUID } from 'node:crypto';
import { mkdir, readdir, rename, symlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { execa } from 'execa';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { RestoreVMRequest } from '../../src/domain/restore-input.js';
import { expectNoRestoreLeft, refusalOf, restoreVM, targetDirectory } from '../support/restores.js';
import { createWorld, type World } from '../support/world.js';

const MiB = 1024 * 1024;

let world: World;
/** What happens just before a step of this name. */
let before: { step: string; act: () => Promise<void> } | undefined;
let elsewhere: string;
beforeAll(async () => {
  world = await createWorld('restore-dirs', {
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
  const vm = await world.startVM('web01', [{ key: 'root', sizeBytes: MiB }]);
  await vm.write('root', 0, 64 * 1024, 0x11);
  await world.backUp({ vm: 'web01' });
});
afterEach(() => (before = undefined));
afterAll(() => world.close());

const files = (directory: string): RestoreVMRequest => ({ vm: 'web01', target: { kind: 'files', directory } });

/** An own, empty directory where restores are not allowed. */
async function forbidden(): Promise<string> {
  elsewhere = join(world.directory, `elsewhere-${randomUUID()}`);
  await mkdir(elsewhere);
  return elsewhere;
}

/** Does something while the host allows restores to these directories. The workers read the same list. */
async function whileAllowing(directories: string[], act: () => Promise<void>): Promise<void> {
  const { restoreDirs } = world.config;
  const kept = restoreDirs.splice(0, restoreDirs.length, ...directories);
  try {
    await act();
  } finally {
    restoreDirs.splice(0, restoreDirs.length, ...kept);
  }
}

describe('RestoreVM refuses', () => {
  test('a directory that is not below one that the host allows, by the name of the variable', async () => {
    const directory = await forbidden();
    const allowed = join(world.directory, 'restores');
    for (const path of [directory, `${allowed}/../${directory.split('/').at(-1)}`, `${allowed}-2`]) {
      expect(await refusalOf(world, files(path))).toEqual(
        expect.objectContaining({
          type: 'TargetNotAllowed',
          message: `cannot restore to ${path}: it is not below a directory of BACKUPVM_RESTORE_DIRS ('${allowed}' on host 'test-host'); choose a directory there, or add this one in the worker's environment`,
        }),
      );
    }
    await expectNoRestoreLeft(world, directory);
  });

  test('every directory where the host allows none', async () => {
    const directory = await targetDirectory(world, 'none-allowed');
    await whileAllowing([], async () => {
      expect(await refusalOf(world, { ...files(directory), overwrite: true, allowDamaged: true })).toMatchObject({
        type: 'TargetNotAllowed',
        message: `cannot restore to ${directory}: it is not below a directory of BACKUPVM_RESTORE_DIRS (unset on host 'test-host'); set it in the worker's environment`,
      });
    });
    await expectNoRestoreLeft(world, directory);
  });

  test('a link that leads out of a directory that is allowed', async () => {
    const directory = await forbidden();
    const link = join(await targetDirectory(world, 'links'), 'out');
    await symlink(directory, link);
    expect(await refusalOf(world, files(link))).toMatchObject({
      type: 'TargetNotAllowed',
      message: expect.stringContaining(`cannot restore to ${link} (${directory}): it is not below`) as string,
    });
    await expectNoRestoreLeft(world, directory);
  });

  test.each(['restoreDisk', 'placeRestore'])(
    'a directory that has become a link before %s, and leaves nothing where it leads',
    async (step) => {
      const directory = await targetDirectory(world, `swapped-${step}`);
      const target = await forbidden();
      before = {
        step,
        act: async () => {
          if ((await readdir(dirname(directory))).includes(`aside-${step}`)) return;
          await rename(directory, join(dirname(directory), `aside-${step}`));
          await symlink(target, directory);
        },
      };
      expect(await refusalOf(world, files(directory))).toMatchObject({ type: 'TargetNotAllowed' });
      await expectNoRestoreLeft(world, target);
    },
  );

  test('a directory of a repository, of scratch space or of a run, and one that holds such a directory', async () => {
    const { scratchDir, runDir } = world.config;
    const inRepository = join(world.repository.path, 'web01');
    for (const [allowed, directory, what] of [
      [world.repository.path, inRepository, `repository 'store' (${world.repository.path})`],
      [inRepository, inRepository, `repository 'store' (${world.repository.path})`],
      [world.directory, join(world.directory, 'restores'), `repository 'store' (${world.repository.path})`],
      [scratchDir, scratchDir, `BACKUPVM_SCRATCH_DIR (${scratchDir})`],
      [runDir, runDir, `BACKUPVM_RUN_DIR (${runDir})`],
    ] as const) {
      await mkdir(directory, { recursive: true });
      await whileAllowing([allowed], async () => {
        expect(await refusalOf(world, files(directory))).toMatchObject({
          type: 'InvalidConfiguration',
          message: `cannot restore to ${directory}: ${allowed} of BACKUPVM_RESTORE_DIRS and ${what} lie in one another; name a directory of its own`,
        });
      });
    }
  });

  test('the file system of a container, which goes with the container', async () => {
    const directory = await targetDirectory(world, 'overlay');
    const parts = ['lower', 'upper', 'work'].map((name) => join(world.directory, name));
    for (const part of parts) await mkdir(part);
    const [lower, upper, work] = parts;
    await execa('mount', [
      '-t',
      'overlay',
      'overlay',
      '-o',
      `lowerdir=${lower},upperdir=${upper},workdir=${work}`,
      directory,
    ]);
    try {
      expect(await refusalOf(world, files(directory))).toMatchObject({
        type: 'TargetUnusable',
        message: expect.stringContaining(
          `${directory}: it lies in an overlay, a container's own file system`,
        ) as string,
      });
      await expectNoRestoreLeft(world, directory);
    } finally {
      await execa('umount', [directory]);
    }
  });
});

test('a restore goes to any directory below one that is allowed, and to that one itself', async () => {
  const allowed = await targetDirectory(world, 'itself');
  const below = await targetDirectory(world, 'itself/deep/below');
  await whileAllowing([allowed], async () => {
    for (const directory of [allowed, below]) await restoreVM(world, files(directory));
  });
  await expectNoRestoreLeft(world, allowed, ['deep', 'web01-root.qcow2']);
  await expectNoRestoreLeft(world, below, ['web01-root.qcow2']);
});
