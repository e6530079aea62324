import { mkdir, readdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { WorkflowFailedError } from '@temporalio/client';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { addRepository } from '../../src/db/repositories.js';
import { createMarker, markerName } from '../../src/repository/marker.js';
import { expectSameContent } from '../support/content.js';
import { expectNothingLeftBehind } from '../support/left-behind.js';
import { makeSmallFileSystem, type SmallFileSystem } from '../support/small-file-system.js';
import type { StorageDaemon } from '../support/storage-daemon.js';
import { createWorld, type World } from '../support/world.js';

const MiB = 1024 * 1024;

let world: World;
let vm: StorageDaemon;
let small: SmallFileSystem;
beforeAll(async () => {
  world = await createWorld('backup-refusals');
  vm = await world.startVM('web01', [
    { key: 'root', sizeBytes: 200 * MiB },
    { key: 'data', sizeBytes: 2 * MiB },
  ]);
  await vm.write('root', 0, 100 * MiB, 0x11);
  small = await makeSmallFileSystem(world.directory, 'small', 256 * MiB);
  const { id } = await createMarker(small.path, 'small');
  await addRepository(world.database.db, { id, name: 'small', host: world.config.host, path: small.path });
});
afterEach(() => expectNothingLeftBehind(world));
afterAll(async () => {
  await small.remove();
  await world.close();
});

/** The type and message of the failure that a backup with this input ends in. */
async function failureOf(input: unknown): Promise<{ type: string; message: string }> {
  try {
    await world.backUp(input as { vm: string }, 'backup-vm/refused');
  } catch (error) {
    if (error instanceof WorkflowFailedError) return error.cause as unknown as { type: string; message: string };
    throw error;
  }
  throw new Error('Expected the backup to be refused, found it complete');
}

const store = { vm: 'web01', repository: 'store' };

test.each(['web01', 'web01/root'])(
  'a folder of the repository that is a link, %s, is not written through',
  async (name) => {
    const folder = join(world.repository.path, name);
    const outside = join(world.directory, 'outside');
    await mkdir(outside);
    await mkdir(dirname(folder), { recursive: true });
    await symlink(outside, folder);
    const { type, message } = await failureOf({ ...store, disks: ['root'] });
    expect([type, message]).toEqual(['RepositoryUnusable', expect.stringContaining(`${folder}: it is a link`)]);
    expect(await readdir(outside)).toEqual([]);
    await rm(join(world.repository.path, 'web01'), { recursive: true });
    await rm(outside, { recursive: true });
  },
);

describe('BackupVM refuses, with one clear error and nothing half made,', () => {
  test.each([
    ['an unknown VM', { ...store, vm: 'web02' }, 'VMNotFound', /'web02'/],
    ['a VM name that is a path', { ...store, vm: '../machines/web01' }, 'VMNotFound', /\.\.\/machines\/web01/],
    ['a VM name of 200 characters that nobody has', { ...store, vm: 'x'.repeat(200) }, 'VMNotFound', /x{200}/],
    ['a VM name with quotes and other scripts', { ...store, vm: `o'hära "日本"` }, 'VMNotFound', /日本/],
    ['a VM name of 201 characters', { ...store, vm: 'x'.repeat(201) }, 'InvalidInput', /at most 200 characters/],
    ['an empty VM name', { ...store, vm: '' }, 'InvalidInput', /vm: .*empty string/],
    ['no VM', { repository: 'store' }, 'InvalidInput', /vm: .*found nothing/],
    ['an unknown field', { ...store, compress: true }, 'InvalidInput', /unknown field 'compress' \(known: vm, /],
    ['several problems, all at once', { vm: 7, type: 'diff', x: 1 }, 'InvalidInput', /vm: .*type: .*'x'/],
    [
      'a wrong type',
      { ...store, type: 'differential' },
      'InvalidInput',
      /'auto', 'full', 'incremental'.*"differential"/,
    ],
    ['something that is no object', 'web01', 'InvalidInput', /\{"vm":"web01"\}/],
    ['disks that name none', { ...store, disks: [] }, 'InvalidInput', /at least one disk/],
    [
      'disks that nobody has',
      { ...store, disks: ['vdz', '../root'] },
      'DiskNotFound',
      /'vdz', '\.\.\/root'.*'data', 'root'|'root', 'data'/,
    ],
    [
      'an unknown repository',
      { vm: 'web01', repository: 'tape' },
      'RepositoryNotFound',
      /'tape'; registered: 'small', 'store'/,
    ],
    ['two repositories, and none named', { vm: 'web01' }, 'RepositoryNotFound', /2 repositories/],
    ['an unknown hypervisor', { ...store, hypervisor: 'esx' }, 'HypervisorNotFound', /'esx'; registered: 'lab'/],
    ['an incremental without parent', { ...store, type: 'incremental' }, 'NoParent', /'root': the first backup/],
    [
      'a freeze that is required where there is no guest agent',
      { ...store, quiesce: 'require' },
      'FreezeFailed',
      /web01/,
    ],
  ])('%s', async (_what, input, type, message) => {
    const failure = await failureOf(input);
    expect(failure.type).toBe(type);
    expect(failure.message).toMatch(message);
  });

  test('a VM that is shut off', async () => {
    const off = await world.startVM('off', [{ key: 'root', sizeBytes: MiB }]);
    await off.kill();
    const failure = await failureOf({ ...store, vm: 'off' });
    expect(failure).toMatchObject({
      type: 'VMNotRunning',
      message: expect.stringMatching(/'off'.*shut off/) as string,
    });
  });

  test('a repository whose marker file is missing, as when it is not mounted', async () => {
    await small.unmount();
    const failure = await failureOf({ vm: 'web01', repository: 'small' });
    expect(failure).toMatchObject({
      type: 'RepositoryUnusable',
      message: expect.stringMatching(/no marker file.*mounted/) as string,
    });
    await small.mount();
  });

  test('a repository whose path is missing', async () => {
    await rename(world.repository.path, `${world.repository.path}.away`);
    const failure = await failureOf(store);
    await rename(`${world.repository.path}.away`, world.repository.path);
    expect(failure).toMatchObject({
      type: 'RepositoryUnusable',
      message: expect.stringMatching(/does not exist/) as string,
    });
  });

  test('a directory with the marker file of another repository, and one whose marker is damaged', async () => {
    const own = join(world.repository.path, markerName);
    await rename(own, `${own}.away`);
    await createMarker(world.repository.path, 'another');
    const other = await failureOf(store);
    await writeFile(own, '{"format":1');
    const damaged = await failureOf(store);
    await rm(own);
    await rename(`${own}.away`, own);
    expect(other).toMatchObject({
      type: 'RepositoryUnusable',
      message: expect.stringMatching(/'another'.*right file system/) as string,
    });
    expect(damaged).toMatchObject({ type: 'RepositoryUnusable', message: expect.stringMatching(/damaged/) as string });
  });

  test('a repository that cannot be written', async () => {
    await small.remount('ro');
    const failure = await failureOf({ vm: 'web01', repository: 'small' });
    await small.remount('rw');
    expect(failure).toMatchObject({
      type: 'RepositoryUnusable',
      message: expect.stringMatching(/read-only/) as string,
    });
  });

  test('a repository without enough space, before it copies anything', async () => {
    await small.fill(50 * MiB);
    const failure = await failureOf({ vm: 'web01', repository: 'small' });
    await rm(join(small.path, 'filler'));
    expect(failure).toMatchObject({
      type: 'RepositoryFull',
      message: expect.stringMatching(/Expected 100\.0 MiB free.*found/) as string,
    });
  });

  test('a file that stands where the new one should, and leaves it alone', async () => {
    const folder = join(world.repository.path, 'web01');
    await writeFile(folder, 'not a folder');
    const failure = await failureOf(store);
    expect(failure).toMatchObject({
      type: 'RepositoryUnusable',
      message: expect.stringMatching(/stands in the way.*web01/) as string,
    });
    expect(await readFile(folder, 'utf8')).toBe('not a folder');
    await rm(join(world.repository.path, 'web01'), { recursive: true });
  });

  test('and after all these refusals, a backup of the same VM is complete', async () => {
    await expectSameContent(world, vm, await world.backUp(store));
  });
});

describe('a name with anything in it', () => {
  test('is backed up in a folder of its own, inside the repository', async () => {
    const odd = await world.startVM(`..we b'"%2F🎈`, [{ key: 'a.b', sizeBytes: MiB }]);
    await odd.write('a.b', 0, 4096, 0x22);
    const result = await world.backUp({ ...store, vm: `..we b'"%2F🎈` });
    expect(result.disks[0]?.path).toMatch(/^[A-Za-z0-9%._~/-]+$/);
    await expectSameContent(world, odd, result);
    await expectSameContent(world, odd, await world.backUp({ ...store, vm: `..we b'"%2F🎈` }));
  });
});
