import { randomUUID } from 'node:crypto';
import { link, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { draftPath, replaceFile } from '../../../src/repository/durable.js';
import {
  fileFacts,
  insideRepository,
  makeFolder,
  moveIntoPlace,
  removeEmptyFolders,
  removeFile,
} from '../../../src/repository/files.js';
import {
  draftManifest,
  publishManifest,
  removeManifest,
  rewriteManifest,
  type Manifest,
} from '../../../src/repository/manifest.js';

let root: string;

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'backupvm-repository-'));
});

afterEach(() => rm(root, { recursive: true, force: true }));

const read = (path: string) => readFile(join(root, path), 'utf8');

describe('insideRepository', () => {
  test.each(['a', 'web01/vda/backup.qcow2', '%2E./..a/b..', 'a b/ß', '.web01.partial'])(
    'finds %j below the root',
    (path) => {
      expect(insideRepository('/srv/backups', path)).toBe(`/srv/backups/${path}`);
    },
  );

  test.each(['', '.', '..', '../a', 'a/..', 'a/../b', 'a/../../b', './a', 'a//b', 'a/./b', '/', '/etc/passwd', '//a'])(
    'refuses %j',
    (path) => {
      expect(() => insideRepository('/srv/backups', path)).toThrow(
        expect.objectContaining({
          code: 'RepositoryUnusable',
          message: `Expected a path within the repository /srv/backups, found '${path}'; the row has been tampered with`,
        }) as Error,
      );
    },
  );
});

describe('makeFolder', () => {
  test('makes the folders of a file, however often, and not the file', async () => {
    await makeFolder(root, 'web01/vda/disk.qcow2');
    await makeFolder(root, 'web01/vda/disk.qcow2');
    await makeFolder(root, 'web01/vdb/disk.qcow2');
    expect((await readdir(join(root, 'web01'))).sort()).toEqual(['vda', 'vdb']);
    expect(await readdir(join(root, 'web01/vda'))).toEqual([]);
  });

  test('makes no root: it may be a file system that is not mounted', async () => {
    const unmounted = join(root, 'mnt');
    await expect(makeFolder(unmounted, 'web01/disk.qcow2')).rejects.toMatchObject({ code: 'ENOENT' });
    await makeFolder(unmounted, 'disk.qcow2');
    expect(await readdir(root)).toEqual([]);
  });
});

describe('fileFacts', () => {
  test('tells size and time of a file in whole numbers, and of no file nothing', async () => {
    await writeFile(join(root, 'disk'), '12345');
    const facts = await fileFacts(join(root, 'disk'));
    expect(facts?.fileBytes).toBe(5);
    expect(facts?.fileModifiedMs).toBe(Math.floor((await stat(join(root, 'disk'))).mtimeMs));
    expect(await fileFacts(join(root, 'none'))).toBeUndefined();
    await expect(fileFacts(join(root, 'disk/none'))).rejects.toMatchObject({ code: 'ENOTDIR' });
  });
});

describe('moveIntoPlace', () => {
  test('gives an attempt its name, and finds it done when it is run again', async () => {
    const [attempt, final] = [join(root, '.disk.partial'), join(root, 'disk')];
    await writeFile(attempt, 'new');
    await moveIntoPlace(attempt, final);
    await moveIntoPlace(attempt, final);
    await moveIntoPlace(final, final);
    expect(await readdir(root)).toEqual(['disk']);
    expect(await read('disk')).toBe('new');
  });

  test('never replaces a file that has the name, and finds its own there after a crash between the two names', async () => {
    const [attempt, final] = [join(root, '.disk.partial'), join(root, 'disk')];
    await writeFile(attempt, 'new');
    await writeFile(final, 'sealed');
    await expect(moveIntoPlace(attempt, final)).rejects.toMatchObject({ code: 'AlreadyExists' });
    expect(await read('disk')).toBe('sealed');
    expect(await read('.disk.partial')).toBe('new');
    await rm(final);
    await link(attempt, final);
    await moveIntoPlace(attempt, final);
    expect(await readdir(root)).toEqual(['disk']);
    expect(await read('disk')).toBe('new');
  });

  test('says that neither file is there', async () => {
    const [attempt, final] = [join(root, '.disk.partial'), join(root, 'disk')];
    await expect(moveIntoPlace(attempt, final)).rejects.toThrow(
      new TypeError(`Expected the finished file ${attempt}, or ${final}, found neither`),
    );
  });
});

describe('removal', () => {
  test('of a file that is gone, or whose folder is, succeeds', async () => {
    await writeFile(join(root, 'disk'), '');
    await removeFile(join(root, 'disk'));
    await removeFile(join(root, 'disk'));
    await removeFile(join(root, 'none/disk'));
    expect(await readdir(root)).toEqual([]);
  });

  test('of folders goes up to the root, which stays', async () => {
    await mkdir(join(root, 'a/b/c'), { recursive: true });
    await removeEmptyFolders(root, 'a/b/c/disk');
    await removeEmptyFolders(root, 'a/b/c/disk');
    expect(await readdir(root)).toEqual([]);
    await removeEmptyFolders(root, 'disk');
    expect((await stat(root)).isDirectory()).toBe(true);
  });

  test('of folders stops at the first that holds something', async () => {
    await mkdir(join(root, 'a/b/c'), { recursive: true });
    await writeFile(join(root, 'a/disk'), '');
    await removeEmptyFolders(root, 'a/b/c/disk');
    expect(await readdir(join(root, 'a'))).toEqual(['disk']);
  });

  test('of folders goes on above one that is gone already', async () => {
    await mkdir(join(root, 'a'));
    await removeEmptyFolders(root, 'a/b/c/disk');
    expect(await readdir(root)).toEqual([]);
  });
});

describe('replaceFile', () => {
  test('writes the whole file, over what was there and over the draft of an attempt that died', async () => {
    const path = join(root, 'points.json');
    await writeFile(path, 'the old one');
    await writeFile(draftPath(path), 'a draft that is longer than what comes');
    await replaceFile(path, 'new');
    expect(await readdir(root)).toEqual(['points.json']);
    expect(await read('points.json')).toBe('new');
  });
});

const sha = `sha256:${'0'.repeat(64)}`;
const manifestOf = (jobId: string): Manifest => ({
  ...{ format: 1, jobId, contextId: randomUUID(), repositoryId: randomUUID() },
  hypervisor: { name: 'local', kind: 'qmp', uri: 'qmp:///run/vms', host: 'kvm1' },
  vm: { id: 'vm', name: 'vm' },
  ...{ pointTime: '2026-11-23T01:45:00.000Z', consistency: 'crash', vmConfig: null },
  disks: [
    {
      ...{ id: randomUUID(), key: 'root', target: 'vda', identity: 'a', type: 'full', reason: 'first_backup' },
      ...{
        parent: null,
        path: 'a',
        sizeBytes: 1,
        wasEncrypted: false,
        fileBytes: 1,
        checksum: sha,
        hashesChecksum: sha,
        changeId: null,
      },
    },
  ],
});

test('a manifest of another point is never replaced, and one of the same point only when its files have changed', async () => {
  const path = join(root, 'backup.json');
  const theirs = manifestOf(randomUUID());
  await publishManifest(path, theirs);
  const ours = manifestOf(randomUUID());
  await expect(publishManifest(path, ours)).rejects.toMatchObject({ code: 'AlreadyExists' });
  await expect(rewriteManifest(path, ours)).rejects.toMatchObject({ code: 'AlreadyExists' });
  await publishManifest(path, { ...theirs, vmConfig: 'late' });
  expect(JSON.parse(await read('backup.json'))).toEqual(theirs);
  await rewriteManifest(path, { ...theirs, vmConfig: 'merged' });
  expect(JSON.parse(await read('backup.json'))).toEqual({ ...theirs, vmConfig: 'merged' });
});

test('a manifest is JSON that people can read, written and removed as often as it takes', async () => {
  const manifest: Manifest = {
    format: 1,
    jobId: 'job',
    contextId: 'context',
    repositoryId: 'repository',
    hypervisor: { name: 'local', kind: 'qmp', uri: 'qmp:///run/vms', host: 'kvm1' },
    vm: { id: 'vm', name: 'grün' },
    pointTime: '2026-11-23T01:45:00.000Z',
    consistency: 'crash',
    vmConfig: null,
    disks: [],
  };
  const path = join(root, 'backup.json');
  await draftManifest(path, manifest);
  expect(await readdir(root)).toEqual(['.backup.json.draft']);
  await publishManifest(path, manifest);
  await publishManifest(path, manifest);
  expect(await read('backup.json')).toBe(`${JSON.stringify(manifest, null, 2)}\n`);
  await writeFile(draftPath(path), 'half of a');
  await removeManifest(path);
  await removeManifest(path);
  expect(await readdir(root)).toEqual([]);
});
