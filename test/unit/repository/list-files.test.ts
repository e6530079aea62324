import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';
import { attemptFilePath, diskFilePath, hashesFilePath, manifestPath } from '../../../src/domain/names.js';
import { draftPath } from '../../../src/repository/durable.js';
import { listBackupFiles } from '../../../src/repository/list-files.js';
import { markerName } from '../../../src/repository/marker.js';

test('lists every kind of file that we write, and nothing that is somebody else’s', async () => {
  const root = await mkdtemp(join(tmpdir(), 'backupvm-list-'));
  const disk = diskFilePath('web01', 'vda', new Date(0));
  const manifest = manifestPath('web01', new Date(0));
  const hashes = hashesFilePath(disk);
  const ours = [
    hashes,
    draftPath(hashes),
    disk,
    attemptFilePath(disk, 'job', 'a1'),
    manifest,
    draftPath(manifest),
    'loose.qcow2',
  ];
  for (const path of [...ours, markerName, 'notes.txt', 'web01/vda/photo.json', 'web01/backup.tar']) {
    await mkdir(dirname(join(root, path)), { recursive: true });
    await writeFile(join(root, path), '');
  }
  await symlink(root, join(root, 'web01', 'loop')); // is not followed
  expect(await listBackupFiles(root, new AbortController().signal)).toEqual(ours.sort());
  await expect(listBackupFiles(root, AbortSignal.abort(new Error('stopped')))).rejects.toThrow('stopped');
  await rm(root, { recursive: true });
});
