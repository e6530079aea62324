import { chmod, chown, lstat, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { requirePrivateDirectory } from '../../../src/process/private-directory.js';

let directory: string;
let path: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'backupvm-private-'));
  path = join(directory, 'run');
});
afterEach(() => rm(directory, { recursive: true }));

test('it is made so that no other user can enter it, and found good a second time', async () => {
  await requirePrivateDirectory(path);
  expect((await lstat(path)).mode & 0o777).toBe(0o700);
  await requirePrivateDirectory(path);
});

test.each<[string, () => Promise<unknown>, string]>([
  ['that other users can enter', () => mkdir(path, { mode: 0o755 }), `it has mode 755.*run 'chmod 700 `],
  ['that a group can enter', () => mkdir(path, { mode: 0o710 }), 'it has mode 710'],
  ['that is a link to a private one', () => linkToPrivate(), 'it is a symbolic link'],
  ['that is a file', () => writeFile(path, ''), 'it is not a directory'],
  ['of another user', () => mkdir(path, { mode: 0o700 }).then(() => chown(path, 65_534, 65_534)), 'user 65534'],
])('one %s is refused, and left as it is', async (_name, make, problem) => {
  await make();
  const before = await lstat(path);
  await expect(requirePrivateDirectory(path)).rejects.toMatchObject({
    code: 'InvalidConfiguration',
    message: expect.stringMatching(new RegExp(`^cannot use the run directory ${path}: .*${problem}`)) as string,
  });
  const after = await lstat(path);
  expect([after.mode, after.uid, after.ino]).toEqual([before.mode, before.uid, before.ino]);
});

async function linkToPrivate(): Promise<void> {
  await mkdir(join(directory, 'elsewhere'));
  await chmod(join(directory, 'elsewhere'), 0o700);
  await symlink('elsewhere', path);
}
