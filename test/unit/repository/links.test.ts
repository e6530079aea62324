import { lstat, mkdir, mkdtemp, readdir, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { usableDirectory } from '../../../src/activities/restore-paths.js';
import { settleFile } from '../../../src/repository/file-system.js';
import { makeFolder, removeEmptyFolders, requirePlainFolders } from '../../../src/repository/files.js';
import { createMarker, markerName, probeRepository } from '../../../src/repository/marker.js';

/** Links that somebody who may write to a directory has put there, for a worker that runs as root. */
let outside: string;
let root: string;
beforeEach(async () => {
  const directory = await mkdtemp(join(tmpdir(), 'backupvm-links-'));
  [outside, root] = [join(directory, 'outside'), join(directory, 'root')];
  await mkdir(outside);
  await mkdir(root);
  return () => rm(directory, { recursive: true });
});

describe('a look whether a directory can be written to makes nothing outside of it', () => {
  beforeEach(() => symlink(join(outside, 'made-by-root'), join(root, '.backupvm-probe')));
  afterEach(async () => {
    expect(await readdir(outside)).toEqual([]);
    expect((await lstat(join(root, '.backupvm-probe'))).isSymbolicLink()).toBe(true);
  });

  test('for a repository', async () => {
    const { id } = await createMarker(root, 'main');
    expect((await probeRepository(root, id)).freeBytes).toBeGreaterThan(0);
    expect((await readdir(root)).sort()).toEqual(['.backupvm-probe', markerName]);
  });

  test('for a directory to restore to', async () => {
    expect(await usableDirectory(root)).toBe(root);
    expect(await readdir(root)).toEqual(['.backupvm-probe']);
  });
});

describe('a folder that is a link is refused by those who write', () => {
  test.each(['vm', 'vm/disk'])('when it is %s', async (folder) => {
    await mkdir(join(root, 'vm'));
    if (folder === 'vm') await rm(join(root, 'vm'), { recursive: true });
    await symlink(outside, join(root, folder));
    const refusal = {
      code: 'RepositoryUnusable',
      message: expect.stringContaining(`${join(root, folder)}: it is a link`) as string,
    };
    await expect(makeFolder(root, 'vm/disk/backup.qcow2')).rejects.toMatchObject(refusal);
    await expect(requirePlainFolders(root, 'vm/disk/backup.qcow2')).rejects.toMatchObject(refusal);
    expect(await readdir(outside)).toEqual([]);
  });

  test('and left alone by those who remove what is empty', async () => {
    await symlink(outside, join(root, 'vm'));
    await mkdir(join(outside, 'disk'));
    await removeEmptyFolders(root, 'vm/disk/backup.qcow2');
    expect([await readdir(root), await readdir(outside)]).toEqual([['vm'], ['disk']]);
  });

  test('but not the repository itself', async () => {
    await symlink(outside, join(root, 'store'));
    await makeFolder(join(root, 'store'), 'vm/disk/backup.qcow2');
    await requirePlainFolders(join(root, 'store'), 'vm/disk/backup.qcow2');
    expect(await readdir(join(outside, 'vm'))).toEqual(['disk']);
  });
});

test('a restored file that was replaced by a link gives nothing of its target away', async () => {
  const [secret, restored] = [join(outside, 'secret'), join(root, 'disk.partial')];
  await writeFile(secret, 'x', { mode: 0o600 });
  await symlink(secret, restored);
  const before = await stat(secret);
  await expect(settleFile(restored, { uid: 65_534, gid: 65_534, mode: 0o666 })).rejects.toMatchObject({
    code: 'ELOOP',
  });
  const after = await stat(secret);
  expect([after.uid, after.gid, after.mode]).toEqual([before.uid, before.gid, before.mode]);
});

test('a restored file gets the owner and the mode of the one that it replaces', async () => {
  const restored = join(root, 'disk.partial');
  await writeFile(restored, 'x', { mode: 0o600 });
  await settleFile(restored, { uid: 65_534, gid: 65_534, mode: 0o640 });
  const { uid, gid, mode } = await stat(restored);
  expect([uid, gid, mode & 0o7777]).toEqual([65_534, 65_534, 0o640]);
});
