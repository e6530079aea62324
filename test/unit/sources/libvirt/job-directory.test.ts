import { chmod, mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { jobDirectory, makeJobDirectory, removeJobDirectory } from '../../../../src/sources/libvirt/job-directory.js';

let scratchDir: string;

beforeEach(async () => {
  scratchDir = await mkdtemp(join(tmpdir(), 'backupvm-job-'));
});

afterEach(() => rm(scratchDir, { recursive: true, force: true }));

test('only QEMU may enter the directory of its files, and making it twice changes nothing', async () => {
  await chmod(scratchDir, 0o711);
  const directory = jobDirectory(scratchDir, 'a-1');
  for (let time = 1; time <= 2; time++) {
    await makeJobDirectory(directory, null);
    expect((await stat(directory.io)).mode & 0o777).toBe(0o700);
    expect((await stat(directory.root)).mode & 0o777).toBe(0o711);
  }
  await removeJobDirectory(directory);
  await removeJobDirectory(directory);
  await expect(stat(directory.root)).rejects.toMatchObject({ code: 'ENOENT' });
});

test('a directory that QEMU’s user cannot pass is named', async () => {
  await chmod(scratchDir, 0o700);
  await expect(makeJobDirectory(jobDirectory(scratchDir, 'a-1'), { uid: 64_055, gid: 64_055 })).rejects.toMatchObject({
    code: 'InvalidConfiguration',
    message: expect.stringContaining(`Directory ${scratchDir} `) as string,
  });
});

test('a socket path that the kernel would cut off is refused', () => {
  expect(() => jobDirectory(`/${'x'.repeat(100)}`, 'a-1')).toThrow('longer than 107 bytes');
});

test.each(['..', 'a/b', ''])('the snapshot id %j is no directory name', (snapshotId) => {
  expect(() => jobDirectory(scratchDir, snapshotId)).toThrow(TypeError);
});
